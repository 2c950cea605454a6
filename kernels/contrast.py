"""UCCH's contrastive hashing loss against a memory bank of packed signs, fused.

    loss_i = log( exp(l_i+) + Σ_k exp(l_ik) ) - l_i+,      l = <h_i, s_r> / (τ √L)

(Hu et al., TPAMI 2023, Eq. 3 and 4: l2-normalised keys and temperature τ.) h_i are real queries of
L bits, s_r = ±1 the sign code of row r of the bank: the positive's, and those of K rows, which are
drawn in the kernel (`draws.py`), given, or all others. The gradient is a softmax-weighted sum
of signs,

    ∂loss_i/∂h_i = ( Σ_k p_ik s_k + (p_i+ - 1) s_+ ) / (τ √L),

which the same pass over the keys gathers, as flash attention does: the forward keeps it (B, L), and
the backward is one multiplication. Neither the keys (B, K + 1, L) nor the logits (B, K + 1) exist.

The Triton kernel is in contrast_triton.py, the byte count in kernels/README.md. Check it, time
it: pytest tests/kernels/test_contrast.py && pytest benchmarks/bench_bank.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from coophash.codes import unpack
from coophash.kernels._bank_arguments import (
    check_outputs,
    check_packed,
    check_range,
    check_rows,
    check_tensors,
)
from coophash.kernels._langevin_arguments import Integer, counter
from coophash.kernels._library import once_differentiable, register
from coophash.kernels.draws import bank_draws, stream_words

# What the `negatives` of the op means where it is not a number of draws.
ALL_ROWS, GIVEN_ROWS = -1, -2

# Of the reference, by measurement on one core. All rows cost less than the drawn ones while there
# are fewer than so many rows to a draw: a product of two matrices against gathered rows.
_DENSE_ROWS_PER_DRAW = 6
_BLOCK = 1 << 17  # signs at a time: they and their logits stay in the cache
_COUNTS = 1 << 22  # of (sample, row) at a time


def bank_contrast_reference(
    queries: Tensor,
    codes: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Loss and gradient in plain PyTorch: the truth of the tests, the CPU path.

    Args:
        queries: (S, B, L), computed in float32 (float64 for float64).
        codes: (n, ceil(L / 8)) uint8.
        positives: (B,) rows; negatives: (B, K) rows, or None for all but the positive.

    Returns:
        (S, B) losses and (S, B, L) their gradients with respect to the queries.
    """
    drawn = None if negatives is None else (lambda start, stop: negatives[start:stop].long())
    count = len(codes) - 1 if negatives is None else negatives.shape[1]
    return _contrast(queries, codes, positives.long(), count, drawn, temperature, True)


class _Softmax:
    """What an online softmax over keys keeps: M queries by L bits."""

    def __init__(self, queries: Tensor, logits: Tensor, signs: Tensor, with_slope: bool) -> None:
        """Of one key each: its logits (M, 1) and signs (M, L), which are changed."""
        self.queries, self.largest, self.signs = queries, logits, signs
        self.total = torch.ones_like(logits)
        self.with_slope = with_slope

    def add(self, signs: Tensor, log_counts: Tensor | None = None) -> None:
        """Keys (R, L) for all queries; each as often as log_counts (B, R) says, for S B = M."""
        weights = self.queries @ signs.T
        if log_counts is not None:
            weights.view(-1, *log_counts.shape).add_(log_counts)
        largest = torch.maximum(self.largest, weights.amax(1, keepdim=True))
        shrink = (self.largest - largest).exp_()
        weights.sub_(largest).exp_()
        self.total = self.total.mul_(shrink).add_(weights.sum(1, keepdim=True))
        if self.with_slope:
            self.signs.mul_(shrink).addmm_(weights, signs)
        self.largest = largest


def _contrast(
    queries: Tensor,
    codes: Tensor,
    positives: Tensor,
    count: int,
    drawn: Callable[[int, int], Tensor] | None,
    temperature: float,
    with_slope: bool,
) -> tuple[Tensor, Tensor]:
    """`drawn(start, stop)`: the (stop - start, count) negatives of some samples; None: all rows."""
    compute = torch.float64 if queries.dtype == torch.float64 else torch.float32
    sets, batch, bits = queries.shape
    scale = 1.0 / (temperature * math.sqrt(bits))
    scaled = queries.to(compute) * scale
    own = _signs(codes, positives, bits, compute)  # (B, L)
    own_logits = (scaled * own).sum(2)  # (S, B)
    loss = torch.empty((sets, batch), dtype=compute, device=queries.device)
    slope = scaled.new_empty(scaled.shape if with_slope else (0,))

    def write(part: slice, softmax: _Softmax) -> None:
        log_sum = softmax.total.log().add_(softmax.largest).view(sets, -1)
        loss[:, part] = log_sum - own_logits[:, part]
        if with_slope:
            mean = softmax.signs.div_(softmax.total).view(sets, -1, bits)
            slope[:, part] = mean.sub_(own[part]).mul_(scale)

    dense = drawn is None or len(codes) <= _DENSE_ROWS_PER_DRAW * count
    at_once = max(1, _COUNTS // (max(len(codes), 2 * count) if dense else 4 * count))
    for start in range(0, batch, at_once):
        stop = min(start + at_once, batch)
        part = slice(start, stop)
        rows = None if drawn is None else drawn(start, stop)
        if dense:
            softmax = _over_all_rows(
                scaled[:, part], own_logits[:, part], own[part], codes, positives[part], rows,
                with_slope,
            )  # fmt: skip
            write(part, softmax)
            continue
        assert rows is not None
        for i, negatives in zip(range(start, stop), rows, strict=True):
            # Written at once: what is kept of each sample would lie between the large tensors of
            # the next, and the allocator would ask for ever more memory.
            softmax = _over_drawn_rows(
                scaled[:, i], own_logits[:, i], own[i], codes, negatives, with_slope
            )
            write(slice(i, i + 1), softmax)
    return loss, slope


def _over_all_rows(
    scaled: Tensor,
    own_logits: Tensor,
    own: Tensor,
    codes: Tensor,
    positives: Tensor,
    drawn: Tensor | None,
    with_slope: bool,
) -> _Softmax:
    """Every row of the bank for (S, B) queries at once, weighted by how often it was drawn."""
    sets, batch, bits = scaled.shape
    # Instead of 0 the least positive number, whose logarithm takes a tenth of the time.
    counts = scaled.new_full((batch, len(codes)), torch.finfo(scaled.dtype).tiny)
    if drawn is None:
        counts.fill_(1.0).scatter_(1, positives[:, None], torch.finfo(scaled.dtype).tiny)
    else:
        counts.scatter_add_(1, drawn, counts.new_ones((1, 1)).expand(drawn.shape))
    log_counts = torch.threshold_(counts.log_(), -1.0, -math.inf)
    softmax = _Softmax(
        scaled.reshape(-1, bits), own_logits.reshape(-1, 1), own.repeat(sets, 1), with_slope
    )
    step = max(1, _BLOCK // bits)
    for start in range(0, len(codes), step):
        signs = unpack(codes[start : start + step], bits).to(scaled.dtype)
        softmax.add(signs, log_counts[:, start : start + step])
    return softmax


def _over_drawn_rows(
    scaled: Tensor,
    own_logits: Tensor,
    own: Tensor,
    codes: Tensor,
    drawn: Tensor,
    with_slope: bool,
) -> _Softmax:
    """The rows drawn for one sample, for its (S,) queries."""
    sets, bits = scaled.shape
    softmax = _Softmax(scaled, own_logits[:, None], own.repeat(sets, 1), with_slope)
    for rows in torch.split(drawn, max(1, 2 * _BLOCK // bits)):
        softmax.add(_signs(codes, rows, bits, scaled.dtype))
    return softmax


def _signs(codes: Tensor, rows: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    return unpack(codes.index_select(0, rows), bits).to(dtype)  # type: ignore[no-any-return]


def run_reference(
    queries: Tensor,
    codes: Tensor,
    positives: Tensor,
    drawn: Tensor | None,
    rng: Tensor | None,
    negatives: int,
    temperature: float,
    exclude_positive: bool,
    with_slope: bool,
    *integers: int,
) -> tuple[Tensor, Tensor]:
    rows = len(codes)
    check_range("positives", positives, "codes", rows)
    draw: Callable[[int, int], Tensor] | None
    if negatives == ALL_ROWS:
        draw, count = None, rows - 1
    elif drawn is not None:
        check_range("negatives", drawn, "codes", rows)
        given = drawn
        draw, count = (lambda start, stop: given[start:stop].long()), drawn.shape[1]
    else:
        stream = stream_words(integers, rng)  # type: ignore[arg-type]
        own = positives.cpu().numpy() if exclude_positive else None

        def draw(start: int, stop: int) -> Tensor:
            excluded = None if own is None else own[start:stop]
            table = bank_draws(
                stop - start, negatives, rows, positives=excluded, first=start, **stream
            )
            return torch.from_numpy(table).to(queries.device)

        count = negatives
    return _contrast(queries, codes, positives.long(), count, draw, temperature, with_slope)


def _fake(
    queries: Tensor, codes: Tensor, positives: Tensor, drawn: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    compute = torch.float64 if queries.dtype == torch.float64 else torch.float32
    with_slope = rest[4]
    loss = queries.new_empty(queries.shape[:2], dtype=compute)
    return loss, queries.new_empty(queries.shape if with_slope else (0,), dtype=compute)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    (slope,) = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: the slope is not a constant
        slope = once_differentiable(slope, "bank_contrast")
    return (upstream[..., None] * slope).to(ctx.dtype), *[None] * 11


_bank_contrast = register(
    "bank_contrast(Tensor queries, Tensor codes, Tensor positives, Tensor? drawn, Tensor? rng, "
    "SymInt negatives, float temperature, bool exclude_positive, bool with_slope, SymInt seed, "
    "SymInt step, SymInt chain) -> (Tensor, Tensor)",
    reference=run_reference,
    triton="coophash.kernels.contrast_triton:bank_contrast",
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)


def bank_contrast(
    queries: Tensor,
    codes: Tensor,
    positives: Tensor,
    negatives: int | Tensor | None = None,
    *,
    temperature: float,
    exclude_positive: bool = False,
    seed: Integer = 0,
    step: Integer = 0,
    chain: Integer = 0,
) -> Tensor:
    """-log of the positive's share in a softmax over binary keys (UCCH Eq. 3 and 4, per sample).

    The logit of query h and key s is <h, s> / (temperature · sqrt(L)): the keys l2-normalised. The
    queries are taken as they come; UCCH's are l2-normalised. No gradient enters the bank.

    Args:
        queries: (B, L) real outputs, or (S, B, L): S sets of queries, such as UCCH's two
            modalities, that share positives and negatives. Any floating-point dtype and strides;
            computed in float32 (float64 for float64).
        codes: (n, ceil(L / 8)) uint8, the bank: packed as by `coophash.pack`.
        positives: (B,) int32 or int64, the row of each sample's own key.
        negatives: K, to draw K rows for each sample, uniformly with replacement, from (seed, step,
            chain): see `bank_draws`; or (B, K) int32 or int64 rows; or None, every row but the
            positive, once. UCCH warms up with None on the packed codes of the batch itself,
            (h^x + h^y) / 2, and positives = arange(B).
        temperature: τ > 0.
        exclude_positive: draw among the other n - 1 rows; UCCH draws among all n.
        seed: 64-bit integer; step, chain: 32-bit integers. Each can be a one-element integer tensor
            on the device of the queries: a captured CUDA graph then draws anew at each replay. A
            sample's draws depend on its number in the batch and on these three alone.

    Returns:
        (B,) or (S, B) losses, float32 (float64 for float64), differentiable once with respect to
        the queries. UCCH's L_c is the sum of the means over B of its two sets.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range. Rows
            outside the bank are found on the CPU alone; a CUDA kernel, which cannot raise without
            waiting, makes NaN of the losses that they enter.
    """
    _check(queries, codes, positives, temperature)
    count, drawn = _check_negatives(queries, codes, negatives, exclude_positive)
    integers, rng = counter(queries, seed, step, chain)
    with_slope = torch.is_grad_enabled() and queries.requires_grad
    sets = queries if queries.dim() == 3 else queries[None]
    loss, _ = _bank_contrast(
        sets, codes, positives, drawn, rng, count, float(temperature), bool(exclude_positive),
        with_slope, *integers,
    )  # fmt: skip
    return loss if queries.dim() == 3 else loss[0]  # type: ignore[no-any-return]


def _check(queries: Any, codes: Any, positives: Any, temperature: Any) -> None:
    check_tensors("queries", queries=queries, codes=codes, positives=positives)
    batch, bits = check_outputs("queries", queries)
    check_packed(codes, bits)
    check_rows("positives", positives, (batch,))
    if not isinstance(temperature, Real):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}")
    if not 0.0 < float(temperature) < math.inf:
        raise ValueError(f"temperature must be a finite number > 0, got {temperature!r}")


def _check_negatives(
    queries: Tensor, codes: Tensor, negatives: Any, exclude_positive: bool
) -> tuple[int, Tensor | None]:
    """The op's `negatives` and `drawn`."""
    if isinstance(negatives, int) and not isinstance(negatives, bool):
        if not 1 <= negatives < 1 << 31:
            raise ValueError(f"negatives must be 1 to 2**31 - 1 draws, got {negatives}")
        if exclude_positive and codes.shape[0] < 2:
            raise ValueError("exclude_positive needs a bank of at least 2 rows, got 1")
        return negatives, None
    if exclude_positive:
        raise ValueError("exclude_positive is for draws: give a number as negatives")
    if negatives is None:
        return ALL_ROWS, None
    if not isinstance(negatives, Tensor):
        raise TypeError(
            "negatives must be a number of draws, a tensor of rows or None, "
            f"got {type(negatives).__name__}"
        )
    check_tensors("queries", queries=queries, negatives=negatives)
    if negatives.dim() != 2 or negatives.shape[1] < 1:
        raise ValueError(f"negatives must be (B, K) rows with K >= 1, got {tuple(negatives.shape)}")
    check_rows("negatives", negatives, (queries.shape[-2], negatives.shape[1]))
    return GIVEN_ROWS, negatives
