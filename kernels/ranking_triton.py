"""The Triton kernels of the cross-modal ranking loss. The op is in ranking.py.

Forward: a program takes a strip of rows, whose sums it finishes, and leaves its share of every
column's to a second kernel, which adds the strips up in a fixed order. Backward: one pass over
tiles. The matrix is read once in each.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels import ranking
from coophash.kernels.cubins import Variant

LOWEST = tl.constexpr(-3.0e38)  # below every similarity; -inf - -inf would be NaN
LOG2_E, LN_2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2.0))
# Rows of a program, its columns at a time, the columns of a program in the backward, and strips
# and columns that the second kernel takes at a time. By counts, not yet by a measurement.
STRIP, COLUMNS, TILE, MERGED = 16, 128, 64, 32
_COPIED_FROM = 2048  # from so many pairs on the diagonal is copied: it lies in as many sectors

NUMBERS = ["margin", "shift", "scale2", "kappa", "own_stride"]


@triton.jit
def _base2(m, own, margin, shift, scale2):
    """S / κ, to base 2."""
    return tl.where(m >= own - margin, m, m - shift) * scale2


@triton.jit(do_not_specialize=NUMBERS)
def ranking_rows_kernel(
    similarity_ptr, own_ptr, losses_ptr, log_sum_ptr,
    parts_ptr,  # (2, strips, batch) float32: largest and total of each column in a strip
    batch, row_stride, column_stride, own_stride,
    margin, shift, scale2, kappa,  # scale2 = log2(e) / kappa
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    strip = tl.program_id(0)
    row = strip * ROWS + tl.arange(0, ROWS)
    row_here = row < batch
    own_row = tl.load(own_ptr + row.to(tl.int64) * own_stride, row_here, 0.0).to(tl.float32)
    largest = tl.full((ROWS,), LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    parts = parts_ptr + strip.to(tl.int64) * batch
    totals = parts + tl.num_programs(0).to(tl.int64) * batch
    for start in range(0, batch, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        column_here = column < batch
        here = row_here[:, None] & column_here[None, :]
        own_column = tl.load(own_ptr + column.to(tl.int64) * own_stride, column_here, 0.0)
        own_column = own_column.to(tl.float32)
        cell = row.to(tl.int64)[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride
        m = tl.load(similarity_ptr + cell, here, 0.0).to(tl.float32)
        s = tl.where(here, _base2(m, own_row[:, None], margin, shift, scale2), float("-inf"))
        new = tl.maximum(largest, tl.max(s, axis=1))
        total = total * tl.exp2(largest - new) + tl.sum(tl.exp2(s - new[:, None]), axis=1)
        largest = new
        s = tl.where(here, _base2(m, own_column[None, :], margin, shift, scale2), float("-inf"))
        most = tl.maximum(tl.max(s, axis=0), LOWEST)
        tl.store(parts + column, most, column_here)
        tl.store(totals + column, tl.sum(tl.exp2(s - most[None, :]), axis=0), column_here)
    log_sum = (tl.log2(total) + largest) * LN_2
    tl.store(log_sum_ptr + row, log_sum, row_here)
    tl.store(losses_ptr + row, margin + kappa * log_sum - own_row, row_here)


@triton.jit(do_not_specialize=["strips", "margin", "kappa", "own_stride"])
def ranking_columns_kernel(
    own_ptr, losses_ptr, log_sum_ptr, parts_ptr, batch, strips, own_stride, margin, kappa,
    STRIPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Columns from the shares of the strips."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    column_here = column < batch
    largest = tl.full((COLUMNS,), LOWEST, tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, strips, STRIPS):
        strip = start + tl.arange(0, STRIPS)
        here = (strip < strips)[:, None] & column_here[None, :]
        cell = strip.to(tl.int64)[:, None] * batch + column[None, :]
        most = tl.load(parts_ptr + cell, here, LOWEST)
        share = tl.load(parts_ptr + strips.to(tl.int64) * batch + cell, here, 0.0)
        new = tl.maximum(largest, tl.max(most, axis=0))
        share *= tl.exp2(most - new[None, :])
        total = total * tl.exp2(largest - new) + tl.sum(share, axis=0)
        largest = new
    own = tl.load(own_ptr + column.to(tl.int64) * own_stride, column_here, 0.0).to(tl.float32)
    log_sum = (tl.log2(total) + largest) * LN_2
    tl.store(log_sum_ptr + batch + column, log_sum, column_here)
    tl.store(losses_ptr + batch + column, margin + kappa * log_sum - own, column_here)


@triton.jit(do_not_specialize=NUMBERS)
def ranking_backward_kernel(
    upstream_ptr, similarity_ptr, own_ptr, log_sum_ptr,
    slope_ptr,  # (batch, batch), row-major
    batch, row_stride, column_stride, own_stride, upstream_set_stride, upstream_stride,
    margin, shift, scale2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row_here, column_here = row < batch, column < batch
    here = row_here[:, None] & column_here[None, :]
    wide_row, wide_column = row.to(tl.int64), column.to(tl.int64)
    own_row = tl.load(own_ptr + wide_row * own_stride, row_here, 0.0).to(tl.float32)
    own_column = tl.load(own_ptr + wide_column * own_stride, column_here, 0.0).to(tl.float32)
    sum_row = tl.load(log_sum_ptr + row, row_here, 0.0) * LOG2_E
    sum_column = tl.load(log_sum_ptr + batch + column, column_here, 0.0) * LOG2_E
    up_row = tl.load(upstream_ptr + wide_row * upstream_stride, row_here, 0.0)
    up_column = tl.load(
        upstream_ptr + upstream_set_stride + wide_column * upstream_stride, column_here, 0.0
    )
    cell = wide_row[:, None] * row_stride + wide_column[None, :] * column_stride
    m = tl.load(similarity_ptr + cell, here, 0.0).to(tl.float32)
    s = _base2(m, own_row[:, None], margin, shift, scale2)
    slope = up_row[:, None] * tl.exp2(s - sum_row[:, None])
    s = _base2(m, own_column[None, :], margin, shift, scale2)
    slope += up_column[None, :] * tl.exp2(s - sum_column[None, :])
    # On the diagonal row and column are one pair.
    own = row[:, None] == column[None, :]
    slope -= tl.where(own, up_row[:, None] + up_column[None, :], 0.0)
    out = slope_ptr + wide_row[:, None] * batch + wide_column[None, :]
    tl.store(out, slope.to(slope_ptr.dtype.element_ty), here)


def _own(similarity: Tensor) -> Tensor:
    own = similarity.diagonal()
    return own.contiguous() if len(own) >= _COPIED_FROM else own


def ranking_loss(
    similarity: Tensor, margin: float, shift: float, kappa: float
) -> tuple[Tensor, Tensor]:
    """Op `ranking_loss` on a device."""
    if similarity.dtype == torch.float64:  # for checks alone; the kernel computes in float32
        return ranking._forward(similarity, margin, shift, kappa)
    batch = len(similarity)
    losses = torch.empty((2, batch), dtype=torch.float32, device=similarity.device)
    log_sum = torch.empty_like(losses)
    own = _own(similarity)
    strips = triton.cdiv(batch, STRIP)
    parts = losses.new_empty((2, strips, batch))
    with torch.cuda.device(similarity.device) if similarity.is_cuda else contextlib.nullcontext():
        ranking_rows_kernel[(strips,)](
            similarity, own, losses, log_sum, parts, batch, *similarity.stride(), own.stride(0),
            margin, shift, LOG2_E.value / kappa, kappa,
            ROWS=STRIP, COLUMNS=COLUMNS, num_warps=4,
        )  # fmt: skip
        ranking_columns_kernel[(triton.cdiv(batch, MERGED),)](
            own, losses, log_sum, parts, batch, strips, own.stride(0), margin, kappa,
            STRIPS=MERGED, COLUMNS=MERGED, num_warps=4,
        )  # fmt: skip
    return losses, log_sum


def ranking_loss_backward(
    upstream: Tensor,
    similarity: Tensor,
    log_sum: Tensor,
    margin: float,
    shift: float,
    kappa: float,
) -> Tensor:
    """Op `ranking_loss_backward` on a device."""
    if similarity.dtype == torch.float64:
        return ranking._backward_reference(upstream, similarity, log_sum, margin, shift, kappa)
    batch = len(similarity)
    slope = torch.empty(similarity.shape, dtype=similarity.dtype, device=similarity.device)
    own = _own(similarity)
    with torch.cuda.device(similarity.device) if similarity.is_cuda else contextlib.nullcontext():
        grid = (triton.cdiv(batch, TILE), triton.cdiv(batch, STRIP))
        ranking_backward_kernel[grid](
            upstream, similarity, own, log_sum, slope, batch, *similarity.stride(),
            own.stride(0), *upstream.stride(), margin, shift, LOG2_E.value / kappa,
            ROWS=STRIP, COLUMNS=TILE, num_warps=4,
        )  # fmt: skip
    return slope


def ranking_loss_mean(
    similarity: Tensor, margin: float, shift: float, kappa: float
) -> tuple[Tensor, Tensor]:
    """Op `ranking_loss_mean` on a device, where nothing calls it but who wants this op."""
    losses, log_sum = ranking_loss(similarity, margin, shift, kappa)
    upstream = losses.new_tensor(1.0 / len(similarity)).expand(losses.shape)
    slope = ranking_loss_backward(upstream, similarity, log_sum, margin, shift, kappa)
    return losses.mean(1).sum(), slope


def cubin_variants() -> list[Variant]:
    """Of the kernels, for a row-major matrix of a batch that 16 divides."""
    shared = dict.fromkeys(("margin", "shift", "scale2", "kappa"), "fp32")
    shared |= dict.fromkeys(("batch", "row_stride", "own_stride", "strips"), "i32")
    pointers = ("own_ptr", "losses_ptr", "log_sum_ptr", "parts_ptr", "upstream_ptr")
    shared |= dict.fromkeys(pointers, "*fp32")

    def variant(name: str, kernel, dtype: str, elements: int, **constants: int) -> Variant:  # type: ignore[no-untyped-def]
        types = shared | {"similarity_ptr": f"*{dtype}", "slope_ptr": f"*{dtype}"}
        types |= {"own_ptr": f"*{dtype}", "upstream_set_stride": "i32"}
        own = {name: kind for name, kind in types.items() if name in kernel.arg_names}
        ones = {"column_stride": 1, "upstream_stride": 1}
        return Variant(f"ranking_loss {name} {dtype}", kernel, own, constants | ones, 4,
                       elements // 128, ("batch", "row_stride"))  # fmt: skip

    return [
        variant(
            "rows", ranking_rows_kernel, "fp32", STRIP * COLUMNS, ROWS=STRIP, COLUMNS=COLUMNS
        ),
        variant("columns", ranking_columns_kernel, "fp32", MERGED**2, STRIPS=MERGED,
                COLUMNS=MERGED),
        *(
            variant("backward", ranking_backward_kernel, dtype, STRIP * TILE, ROWS=STRIP,
                    COLUMNS=TILE)
            for dtype in ("fp32", "bf16")
        ),
    ]  # fmt: skip
