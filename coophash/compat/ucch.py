"""UCCH's parts (penghu-cs/UCCH), same names, arguments and results, on any device.

    from coophash.compat.ucch import ContrastiveLoss, NCEAverage, NCESoftmaxLoss
    from coophash.compat.ucch import fx_calc_map_multilabel_k

The authors' script runs on them by changing its imports. `NCEAverage` makes the logits
(B, K + 1) without the keys (B, K + 1, bits), which is where the original's memory and time go;
`coophash.UCCH` does without the logits too. Quirks are kept and named below.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coophash.codes import pack
from coophash.compat._in_order import in_order
from coophash.compat._shared import SharedLabels
from coophash.errors import require
from coophash.search import hamming_distances

require("torch", "train", "coophash.compat.ucch")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ContrastiveLoss", "NCEAverage", "NCESoftmaxLoss", "fx_calc_map_multilabel_k"]

# All rows at once cost less than gathered ones while there are fewer than so many rows to a draw.
_ALL_ROWS_PER_DRAW = 8
_GATHERED = 1 << 22  # signs at a time, where rows are gathered
_DISTANCES = 1 << 22  # at a time


class _Uniform:
    """Draws as the original's alias table of equal weights does, number for number."""

    def __init__(self, items: int, memory: NCEAverage) -> None:
        self._items, self._memory = items, memory

    def draw(self, count: int) -> Tensor:
        """(count,) int64, uniform from 0 to items - 1."""
        device = self._memory.memory.device
        rows = torch.zeros(count, dtype=torch.int64, device=device).random_(0, self._items)
        torch.bernoulli(torch.ones(count, device=device))  # the table's coin, which always says yes
        return rows


class NCEAverage(nn.Module):
    """Logits of image and text outputs against a memory of one row a pair, which it then updates.

    Quirks of the original that are kept: sign(0) is 0, here and in the keys of a batch; the memory
    is drawn from a Gaussian of mean -1 / sqrt(inputSize / 3), so that only 31 % of its signs start
    as +1; the positive and the batch may be among the negatives; the memory changes in every call,
    in evaluation as well; with `use_softmax=False` the constants Z are set by the first batch.

    Args:
        inputSize: bits.
        outputSize: n, training pairs.
        K: negatives for each pair.
        T: temperature; logits are divided by T sqrt(inputSize).
        momentum: share that a memory row keeps of itself; 0 or less uses the batch as keys.
        use_softmax: False returns exp(logit) / Z, for noise-contrastive estimation.

    Attributes:
        memory: (outputSize, inputSize), rows of length 1, a buffer as in the original.
        params: (5,): K, T sqrt(inputSize), Z_l, Z_ab and momentum, a buffer as in the original.
    """

    memory: Tensor
    params: Tensor
    multinomial: _Uniform

    def __init__(
        self,
        inputSize: int,
        outputSize: int,
        K: int,
        T: float = 0.07,
        momentum: float = 0.5,
        use_softmax: bool = True,
    ) -> None:
        super().__init__()
        self.nLem, self.K, self.use_softmax = outputSize, K, use_softmax
        self.unigrams = torch.ones(outputSize)
        # Not a module of its own: it looks up where the memory is.
        object.__setattr__(self, "multinomial", _Uniform(outputSize, self))
        self.register_buffer(
            "params", torch.tensor([K, T * math.sqrt(inputSize), -1, -1, momentum])
        )
        spread = 1.0 / math.sqrt(inputSize / 3)
        drawn = torch.randn(outputSize, inputSize) * (2 * spread) - spread
        self.register_buffer("memory", nn.functional.normalize(drawn.sign(), dim=1))

    def update_memory(self, data: Sequence[Tensor]) -> None:
        """Set the whole memory to the sum of some (n, bits), brought to length 1."""
        total: Any = 0
        for part in data:
            total = total + part
        self.memory.copy_(total / total.norm(dim=1, keepdim=True))

    def forward(
        self,
        l: Tensor,  # noqa: E741  # the authors' name
        ab: Tensor,
        y: Tensor,
        idx: Tensor | None = None,
        epoch: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of both modalities, the positive's in column 0.

        Args:
            l, ab: image and text outputs, (B, bits), of length 1.
            y: (B,) int64, the memory row of each pair.
            idx: (B, K + 1) memory rows, the positive first; drawn if None.
            epoch: below 0 the signs of the batch are the keys (warm-up).

        Returns:
            Two (B, K + 1, 1); in the warm-up (B, B, 1).
        """
        K, T = int(self.params[0].item()), self.params[1].item()
        momentum = self.params[4].item()
        if epoch is not None and epoch < 0:
            momentum = 0
        batch = len(l)
        if idx is None:
            idx = self.multinomial.draw(batch * (self.K + 1)).view(batch, -1)
            idx.select(1, 0).copy_(y.data)
        if momentum <= 0:
            keys = ((l + ab) / 2.0).detach().sign()
            rows = _own_first(batch, l.device)
        else:
            keys, rows = self.memory, idx.view(batch, K + 1)
        out_l, out_ab = _logits(l, keys, rows) / T, _logits(ab, keys, rows) / T
        if not self.use_softmax:
            out_l, out_ab = out_l.exp(), out_ab.exp()
            for place, (name, out) in enumerate((("l", out_l), ("ab", out_ab)), start=2):
                if self.params[place] < 0:
                    self.params[place] = out.mean() * len(self.memory)
                    told = self.params[place].item()
                    print(f"normalization constant Z_{name} is set to {told:.1f}")
            out_l = out_l / self.params[2].item()
            out_ab = out_ab / self.params[3].item()
        self._remember(l, ab, y, momentum)
        return out_l[:, :, None], out_ab[:, :, None]

    @torch.no_grad()
    def _remember(self, image: Tensor, text: Tensor, y: Tensor, momentum: float) -> None:
        rows = y.view(-1)
        centre = (image + text) / 2.0
        centre = centre / centre.norm(dim=1, keepdim=True)
        kept = self.memory.index_select(0, rows) * momentum + centre * (1 - momentum)
        self.memory.index_copy_(0, y, kept / kept.norm(dim=1, keepdim=True))


def _own_first(batch: int, device: torch.device) -> Tensor:
    """(B, B): i, then all others in order."""
    every = torch.arange(batch, device=device)
    others = every.repeat(batch, 1)[~torch.eye(batch, dtype=torch.bool, device=device)]
    return torch.cat([every[:, None], others.view(batch, batch - 1)], 1)


def _logits(outputs: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """<h_i, sign(key r)> for the rows (B, R) of each i."""
    if len(keys) <= _ALL_ROWS_PER_DRAW * rows.shape[1]:
        return (outputs @ keys.sign().T.to(outputs.dtype)).gather(1, rows)
    return _GatheredLogits.apply(outputs, keys, rows)  # type: ignore[no-any-return,no-untyped-call]


class _GatheredLogits(torch.autograd.Function):
    """The same with the keys of a few pairs at a time; they are gathered again for the gradient."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        # The memory changes before the gradient is asked for: what is kept is bits, a 32nd of it.
        ctx.save_for_backward(rows, _ternary(keys))
        ctx.bits = keys.shape[1]
        out = outputs.new_empty(rows.shape)
        for part in _parts(rows, keys.shape[1]):
            signs = keys[rows[part]].sign().to(outputs.dtype)
            out[part] = torch.bmm(signs, outputs[part, :, None])[:, :, 0]
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        rows, signs = ctx.saved_tensors
        gradient = upstream.new_empty(len(rows), ctx.bits)
        for part in _parts(rows, ctx.bits):
            gathered = signs[rows[part]].to(upstream.dtype)
            gradient[part] = torch.bmm(upstream[part, None], gathered)[:, 0]
        return gradient, None, None


def _ternary(keys: Tensor) -> Tensor:
    """Signs, 0 among them, a byte each."""
    return keys.sign().to(torch.int8)


def _parts(rows: Tensor, bits: int) -> Iterator[slice]:
    step = max(1, _GATHERED // (rows.shape[1] * bits))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


class NCESoftmaxLoss(nn.Module):
    """-log softmax of column 0, mean over the batch.

    Kept: the logarithm is taken of the softmax, so a positive that is hopeless gives infinity.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, K + 1) or (B, K + 1, 1) logits -> scalar."""
        return -x.softmax(1)[:, 0].log().mean()


class ContrastiveLoss(nn.Module):
    """The cross-modal ranking loss, or a hinge.

    Args:
        margin: m. shift: xi.
        measure: "order" is refused: the original names a function there that it does not have.
        max_violation: the hinge takes the largest violation of each row alone.

    Attributes:
        count: one more than the calls with two arguments.
    """

    def __init__(
        self,
        margin: float = 0,
        shift: float = 2.0,
        measure: str | bool = False,
        max_violation: bool = False,
    ) -> None:
        super().__init__()
        if measure == "order":
            raise ValueError("measure='order' is not there: the original calls an undefined name")
        self.margin, self.shift, self.max_violation, self.count = margin, shift, max_violation, 1

    def sim(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner products, (B, B)."""
        return x.mm(y.t())

    def set_margin(self, margin: float) -> None:
        """Change m."""
        self.margin = margin

    def loss_func(self, cost: Tensor, tau: Any) -> Tensor:
        """Mean of exp(c_ij - c_ii) over i != j. Kept: tau is not used."""
        relative = (cost - cost.diag().reshape([-1, 1])).exp()
        other = relative.diag().diag() == 0
        return relative[other].sum() / (len(cost) * (len(cost) - 1))

    def forward(
        self, im: Tensor, s: Tensor | None = None, tau: float = 1.0, lab: Any = None
    ) -> Tensor:
        """Loss of outputs, or of scores.

        Args:
            im: image outputs (B, bits); without `s` scores (B, K + 1), the positive's in column 0.
            s: text outputs (B, bits).
            tau: temperature of the log-sum-exp (kappa in the paper).
            lab: not used.

        Returns:
            A scalar: with `s` the sum of both directions' means; without it a sum of hinges, in
            which, as in the original, the positive itself counts with the margin.
        """
        if s is None:
            hinge = (self.margin + im - im[:, :1]).clamp(min=0)
            return (hinge.max(1)[0] if self.max_violation else hinge).sum()
        scores = self.sim(im, s)
        self.count += 1
        own = scores.diag()
        loss = scores.new_zeros(())
        for dim, limit in ((1, own[:, None]), (0, own[None, :])):
            inside = scores >= limit - self.margin
            cost = torch.where(inside, scores, scores - self.shift)
            loss = loss + (self.margin + tau * (cost / tau).logsumexp(dim) - cost.diag()).mean()
        return loss


def fx_calc_map_multilabel_k(
    retrieval: Any,
    retrieval_labels: Any,
    query: Any,
    query_label: Any,
    k: int = 0,
    metric: str = "cosine",
) -> float:
    """mAP as UCCH computes it, to the last digit.

    Kept: ties stand in the order of NumPy's unstable sort; AP is divided by the hits among the
    first k; queries without a hit are left out of the mean (NaN if all are); labels of class
    numbers (N,) are multiplied, so that class 0 is relevant to nothing.

    Args:
        retrieval, query: (N, L) and (Q, L).
        retrieval_labels, query_label: (N, C) and (Q, C).
        k: how many ranks count; 0 for all.
        metric: of `scipy.spatial.distance.cdist`; UCCH uses "hamming" on signs.
    """
    database, queries = np.asarray(retrieval), np.asarray(query)
    labels, asked = np.asarray(retrieval_labels), np.asarray(query_label)
    shared = SharedLabels(labels, asked) if labels.ndim == 2 and asked.ndim == 2 else None
    ranks = None if k == 0 else k
    distances = _Distances(database, queries, metric)

    def precisions(rows: slice) -> list[float]:
        found = []
        orders = distances.of(rows).argsort()
        for number, order in enumerate(orders, start=rows.start):
            items = order[0:ranks]
            if shared is not None:
                hits = shared.of(number, items)
            else:
                hits = np.dot(labels[items], asked[number]) > 0
            total = float(hits.sum())
            if total > 0:
                precision = hits.cumsum() / np.arange(1.0, 1 + hits.shape[0])
                found.append(np.dot(hits, precision) / total)
        return found

    step = max(1, _DISTANCES // max(1, len(database)))
    blocks = (slice(i, min(i + step, len(queries))) for i in range(0, len(queries), step))
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    values = [value for part in in_order(precisions, blocks, threads) for value in part]
    return np.mean(values)  # type: ignore[return-value]


class _Distances:
    """Distances as cdist gives them; those of signs from packed codes."""

    def __init__(self, database: NDArray[Any], queries: NDArray[Any], metric: str) -> None:
        self.database, self.queries, self.metric = database, queries, metric
        self.packed = None
        if metric == "hamming" and database.size and _signs(database) and _signs(queries):
            self.packed = pack(queries > 0), pack(database > 0)

    def of(self, rows: slice) -> NDArray[np.float64]:
        """float64 (B, N) of some queries."""
        if self.packed is None:
            spatial = require("scipy.spatial.distance", "train", "fx_calc_map_multilabel_k")
            return np.asarray(spatial.cdist(self.queries[rows], self.database, self.metric))
        differing = hamming_distances(self.packed[0][rows], self.packed[1], threads=1)
        return np.asarray(differing / np.float64(self.database.shape[1]))


def _signs(values: NDArray[Any]) -> bool:
    return values.ndim == 2 and bool((np.abs(values) == 1).all())
