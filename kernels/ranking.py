"""UCCH's cross-modal ranking loss (CRL): every negative of the batch counts, false ones less.

    S_ij = M_ij if M_ii - M_ij <= m, else M_ij - ξ
    loss_i = m + κ log Σ_j exp(S_ij / κ) - M_ii

(Hu et al., TPAMI 2023, Eq. 8 and 14.) M_ij = <h_i^x, h_j^y>; the sum has j = i in it. Rows are one
direction, columns, with M_jj for M_ii, the other; both are made from one pass over M, forward and
backward. The choice of ξ has no gradient.

M itself is a product of matrices and is left to its library: at UCCH's batch of 256 it is 256 KiB,
which never leaves the cache.

The Triton kernels are in ranking_triton.py, the byte count in kernels/README.md. Check it, time it:
pytest tests/kernels/test_ranking.py && pytest benchmarks/bench_ranking.py
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from coophash.kernels._bank_arguments import check_floating
from coophash.kernels._library import once_differentiable, register


def ranking_loss_reference(
    similarity: Tensor, margin: float, shift: float, kappa: float = 1.0
) -> Tensor:
    """Both directions in plain PyTorch, differentiable, (B, B) -> (2, B): the tests' truth."""
    losses, _ = _forward(similarity, margin, shift, kappa)
    return losses


def _shifted(m: Tensor, own: Tensor, margin: float, shift: float) -> Tensor:
    return torch.where(m >= own - margin, m, m - shift)


def _forward(
    similarity: Tensor, margin: float, shift: float, kappa: float
) -> tuple[Tensor, Tensor]:
    compute = torch.float64 if similarity.dtype == torch.float64 else torch.float32
    m = similarity.to(compute)
    own = m.diagonal()
    log_sums = []
    for dim, limit in ((1, own[:, None]), (0, own[None, :])):
        s = _shifted(m, limit, margin, shift)
        log_sums.append((s if kappa == 1.0 else s / kappa).logsumexp(dim))
    log_sum = torch.stack(log_sums)
    return margin + kappa * log_sum - own, log_sum


def _backward_reference(
    upstream: Tensor,
    similarity: Tensor,
    log_sum: Tensor,
    margin: float,
    shift: float,
    kappa: float,
) -> Tensor:
    compute = log_sum.dtype
    m, upstream = similarity.to(compute), upstream.to(compute)
    own = m.diagonal()
    total = m.new_zeros(m.shape)  # row-major, as `_fake_backward` promises
    for dim, limit in ((1, own[:, None]), (0, own[None, :])):
        s = _shifted(m, limit, margin, shift)
        s = s if kappa == 1.0 else s.div_(kappa)
        direction = 1 - dim
        share = s.sub_(log_sum[direction].unsqueeze(dim)).exp_()
        total.addcmul_(share, upstream[direction].unsqueeze(dim))
    total.diagonal().sub_(upstream.sum(0))
    return total.to(similarity.dtype)


def _mean_with_slope(
    similarity: Tensor, margin: float, shift: float, kappa: float
) -> tuple[Tensor, Tensor]:
    """The sum of both means and its gradient, from the same exponentials."""
    compute = torch.float64 if similarity.dtype == torch.float64 else torch.float32
    m = similarity.to(compute)
    own = m.diagonal()
    loss = 2.0 * (margin - own.mean())
    slope = m.new_zeros(m.shape)  # row-major, as `_fake_mean` promises
    for dim, limit in ((1, own[:, None]), (0, own[None, :])):
        s = _shifted(m, limit, margin, shift)
        s = s if kappa == 1.0 else s.div_(kappa)
        largest = s.amax(dim, keepdim=True)
        share = s.sub_(largest).exp_()
        total = share.sum(dim, keepdim=True)
        loss = loss + kappa * (total.log() + largest).mean()
        slope.addcdiv_(share, total, value=1.0 / len(m))
    slope.diagonal().sub_(2.0 / len(m))
    return loss, slope.to(similarity.dtype)


def _fake(similarity: Tensor, margin: float, shift: float, kappa: float) -> tuple[Tensor, Tensor]:
    compute = torch.float64 if similarity.dtype == torch.float64 else torch.float32
    both = similarity.new_empty((2, similarity.shape[0]), dtype=compute)
    return both, torch.empty_like(both)


def _fake_backward(upstream: Tensor, similarity: Tensor, *rest: Any) -> Tensor:
    return torch.empty(similarity.shape, dtype=similarity.dtype, device=similarity.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    similarity, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(similarity, output[1])


def _backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    similarity, log_sum = ctx.saved_tensors
    slope = _ranking_loss_backward(upstream.detach(), similarity.detach(), log_sum, *ctx.options)
    if torch.is_grad_enabled():  # create_graph=True: the slope is not a constant
        slope = once_differentiable(slope, "ranking_loss")
    return slope, None, None, None


def _fake_mean(
    similarity: Tensor, margin: float, shift: float, kappa: float
) -> tuple[Tensor, Tensor]:
    compute = torch.float64 if similarity.dtype == torch.float64 else torch.float32
    return similarity.new_empty((), dtype=compute), _fake_backward(similarity, similarity)


def _keep_slope(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward_mean(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    (slope,) = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: the slope is not a constant
        slope = once_differentiable(slope, "ranking_loss")
    return slope * upstream.to(slope.dtype), None, None, None


_ranking_loss_backward = register(
    "ranking_loss_backward(Tensor upstream, Tensor similarity, Tensor log_sum, float margin, "
    "float shift, float kappa) -> Tensor",
    reference=_backward_reference,
    triton="coophash.kernels.ranking_triton:ranking_loss_backward",
    fake=_fake_backward,
)
_ranking_loss = register(
    "ranking_loss(Tensor similarity, float margin, float shift, float kappa) -> (Tensor, Tensor)",
    reference=_forward,
    triton="coophash.kernels.ranking_triton:ranking_loss",
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
# On the CPU exponentials are dear: this way each is taken once. On a GPU it would move 5 matrices
# through memory instead of 3.
_ranking_loss_mean = register(
    "ranking_loss_mean(Tensor similarity, float margin, float shift, float kappa) "
    "-> (Tensor, Tensor)",
    reference=_mean_with_slope,
    triton="coophash.kernels.ranking_triton:ranking_loss_mean",
    fake=_fake_mean,
    setup_context=_keep_slope,
    backward=_backward_mean,
)


def ranking_loss(
    similarity: Tensor,
    *,
    margin: float,
    shift: float,
    kappa: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-modal ranking loss of UCCH (L_r, Eq. 14), both directions.

    Args:
        similarity: (B, B) floating point, any strides: M_ij = <h_i^x, h_j^y>, pair i with itself on
            the diagonal. Computed in float32 (float64 for float64).
        margin: m >= 0.
        shift: ξ >= 0, taken off the similarities that lie more than m below their own pair's; no
            gradient enters that choice. 0 leaves all as they are.
        kappa: κ > 0, the temperature; 1 in the authors' code.
        reduction: "mean", the sum of the two directions' means over the batch, as in the paper; or
            "none".

    Returns:
        A scalar, or for "none" (2, B): the losses of the rows, then those of the columns; float32
        (float64 for float64), differentiable once.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype or range.
    """
    if not isinstance(similarity, Tensor):
        raise TypeError(f"similarity must be a torch.Tensor, got {type(similarity).__name__}")
    check_floating("similarity", similarity)
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be (B, B), got {tuple(similarity.shape)}")
    if similarity.shape[0] == 0:
        raise ValueError("similarity must have at least one pair, got (0, 0)")
    for name, value, least in (("margin", margin, 0), ("shift", shift, 0), ("kappa", kappa, None)):
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        number = float(value)
        if not math.isfinite(number) or number < 0 or (least is None and number == 0):
            bound = "> 0" if least is None else ">= 0"
            raise ValueError(f"{name} must be a finite number {bound}, got {value!r}")
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    options = float(margin), float(shift), float(kappa)
    if reduction == "none":
        return _ranking_loss(similarity, *options)[0]  # type: ignore[no-any-return]
    learning = torch.is_grad_enabled() and similarity.requires_grad
    if similarity.device.type == "cpu" and learning:
        return _ranking_loss_mean(similarity, *options)[0]  # type: ignore[no-any-return]
    return _ranking_loss(similarity, *options)[0].mean(1).sum()  # type: ignore[no-any-return]
