"""The Triton kernels of the class-conditional energy head. The ops are in energy_class.py.

One kernel reads f and the rows W[y], each once, and writes whatever of E and s W[y] ⊙ a'(f) is
asked for: a program owns some samples and walks along their features. The other sums the samples of
a class: a program owns a class and some features and walks along the labels, reading the features
of its own samples only. No atomics: the order of every sum is fixed.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels._backend import interpreting
from coophash.kernels.cubins import Variant
from coophash.kernels.energy_class import (
    class_energy_and_grad_reference,
    class_energy_reference,
    compute_dtype,
    run_dfeatures_reference,
    run_dweight_reference,
)


@triton.jit
def energy_class_kernel(
    features_ptr, weight_ptr, bias_ptr, labels_ptr, scale_ptr,
    energy_ptr, grad_ptr,  # either may be None; features_ptr if grad needs none of it
    batch, width, classes,
    feature_row, feature_column, weight_row, label_stride, scale_stride,
    slope,  # number or None
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < batch
    label = tl.load(labels_ptr + row * label_stride, inside, 0).to(tl.int64)
    known = inside & (label >= 0) & (label < classes)
    wrong = inside & ~known
    scale = tl.full([ROWS], 1.0, tl.float32)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + row * scale_stride, inside, 0.0).to(tl.float32)
    scale = tl.where(wrong, float("nan"), scale)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        here = (column < width)[None, :]
        weight_offset = label[:, None] * weight_row + column[None, :]
        w = tl.load(weight_ptr + weight_offset, known[:, None] & here, 0.0).to(tl.float32)
        if features_ptr is not None:
            offset = row[:, None] * feature_row + column[None, :].to(tl.int64) * feature_column
            f = tl.load(features_ptr + offset, inside[:, None] & here, 0.0).to(tl.float32)
            if slope is not None:
                # A NaN is neither above 0 nor lost: slope * NaN.
                factor = tl.where(f > 0, 1.0, slope)
                f *= factor
                if energy_ptr is not None:
                    total += f * w
                w *= factor
            else:
                total += f * w
        if grad_ptr is not None:
            grad = w * scale[:, None]
            grad_offset = row[:, None] * width + column[None, :]
            tl.store(
                grad_ptr + grad_offset, grad.to(grad_ptr.dtype.element_ty), inside[:, None] & here
            )
    if energy_ptr is not None:
        energy = tl.sum(total, axis=1)
        if bias_ptr is not None:
            energy += tl.load(bias_ptr + label, known, 0.0).to(tl.float32)
        tl.store(energy_ptr + row, tl.where(wrong, float("nan"), energy), inside)


@triton.jit
def energy_class_dweight_kernel(
    scale_ptr, features_ptr, labels_ptr, by_class_ptr, sums_ptr,
    batch, width, part,  # part: samples that a program walks along
    feature_row, feature_column, label_stride, scale_stride,
    slope,  # number or None
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    own = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(2) * part
    last = tl.minimum(first + part, batch)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    total_scale = tl.zeros([ROWS], tl.float32)
    for start in range(first, last, ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        label = tl.load(labels_ptr + row * label_stride, row < last, -1)
        mine = label == own
        if tl.max(mine.to(tl.int32), axis=0) > 0:
            scale = tl.load(scale_ptr + row * scale_stride, mine, 0.0).to(tl.float32)
            offset = row[:, None] * feature_row + column[None, :].to(tl.int64) * feature_column
            reading = mine[:, None] & (column < width)[None, :]
            f = tl.load(features_ptr + offset, reading, 0.0).to(tl.float32)
            if slope is not None:
                f *= tl.where(f > 0, 1.0, slope)
            total += scale[:, None] * f
            total_scale += scale
    cell = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + own
    by_class = tl.sum(total, axis=0).to(by_class_ptr.dtype.element_ty)
    tl.store(by_class_ptr + cell * width + column, by_class, column < width)
    if tl.program_id(1) == 0:
        tl.store(sums_ptr + cell, tl.sum(total_scale, axis=0))


def launch_shape(batch: int, width: int, strided: bool) -> tuple[int, int, int]:
    """(ROWS, BLOCK, warps): a program is a warp, which takes up to 512 features of a row at a time.

    So a sum stays within a warp. Where neighbouring features lie apart, neighbouring samples may
    lie together: more rows. Chosen by instruction and register counts, not yet by a measurement.
    """
    if interpreting():  # its time goes by programs
        block = max(1, min(triton.next_power_of_2(width), 512))
        return min(triton.next_power_of_2(batch), 64), block, 1
    if strided:
        return 32, 32, 4
    return 1, max(32, min(triton.next_power_of_2(width), 512)), 1


def _launch(
    features: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    scale: Tensor | None,
    energies: Tensor | None,
    grad: Tensor | None,
    slope: float | None,
) -> None:
    batch, width, device = len(labels), weight.shape[1], weight.device
    if batch == 0:
        return
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    feature_row, feature_column = (0, 1) if features is None else features.stride()
    rows, block, warps = launch_shape(batch, width, feature_column != 1)
    with torch.cuda.device(device) if weight.is_cuda else contextlib.nullcontext():
        energy_class_kernel[(triton.cdiv(batch, rows),)](
            features, weight, None if bias is None else bias.contiguous(), labels, scale,
            energies, grad, batch, width, len(weight),
            feature_row, feature_column, weight.stride(0), labels.stride(0),
            0 if scale is None else scale.stride(0), slope,
            ROWS=rows, BLOCK=block, num_warps=warps,
        )  # fmt: skip


def energies(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, slope: float | None
) -> Tensor:
    """Op `energy_head_class` on a device."""
    if compute_dtype(features, weight) == torch.float64:  # for checks; the kernel is float32
        return class_energy_reference(features, weight, bias, labels, slope)
    out = features.new_empty(len(features), dtype=torch.float32)
    _launch(features, weight, bias, labels, None, out, None, slope)
    return out


def energies_and_grad(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, slope: float | None
) -> tuple[Tensor, Tensor]:
    """Op `energy_head_class_both` on a device."""
    if compute_dtype(features, weight) == torch.float64:
        return class_energy_and_grad_reference(features, weight, bias, labels, slope)
    out = features.new_empty(len(features), dtype=torch.float32)
    grad = features.new_empty(features.shape)
    _launch(features, weight, bias, labels, None, out, grad, slope)
    return out, grad


def dfeatures(
    scale: Tensor,
    weight: Tensor,
    labels: Tensor,
    features: Tensor | None,
    slope: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """Op `energy_head_class_dfeatures` on a device."""
    if compute_dtype(scale, weight) == torch.float64:
        return run_dfeatures_reference(scale, weight, labels, features, slope, dtype)
    grad = weight.new_empty((len(labels), weight.shape[1]), dtype=dtype)
    if slope is None:
        features = None
    _launch(features, weight, None, labels, scale, None, grad, slope)
    return grad


def dweight_shape(batch: int, width: int, classes: int) -> tuple[int, int, int, int]:
    """(ROWS, BLOCK, warps, parts): a second stage sums the parts, where one would be long."""
    parts = max(1, min(batch // 512, 16))
    if interpreting():
        rows = min(triton.next_power_of_2(triton.cdiv(batch, parts)), 512)
        return rows, max(1, min(triton.next_power_of_2(width), 512)), 1, parts
    return 64, 64, 4, parts


def dweight(
    scale: Tensor,
    features: Tensor,
    labels: Tensor,
    classes: int,
    slope: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Op `energy_head_class_dweight` on a device."""
    if compute_dtype(scale, features) == torch.float64:
        return run_dweight_reference(scale, features, labels, classes, slope, dtype)
    batch, width = features.shape
    if batch == 0 or classes == 0:
        return features.new_zeros((classes, width), dtype=dtype), scale.new_zeros(classes)
    rows, block, warps, parts = dweight_shape(batch, width, classes)
    by_class = features.new_empty(
        (parts, classes, width), dtype=dtype if parts == 1 else torch.float32
    )
    sums = features.new_empty((parts, classes), dtype=torch.float32)
    grid = (classes, triton.cdiv(max(width, 1), block), parts)
    with torch.cuda.device(features.device) if features.is_cuda else contextlib.nullcontext():
        energy_class_dweight_kernel[grid](
            scale, features, labels, by_class, sums, batch, width, triton.cdiv(batch, parts),
            *features.stride(), labels.stride(0), scale.stride(0), slope,
            ROWS=rows, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    if parts == 1:
        return by_class[0], sums[0]
    return by_class.sum(0).to(dtype), sums.sum(0)


def cubin_variants() -> list[Variant]:
    """Of both kernels, as launched on row-major features of a width divisible by 16."""

    def variant(name: str, dtype: str, width: int = 256) -> Variant:
        rows, block, warps = launch_shape(256, width, False)
        types: dict[str, Any] = {"weight_ptr": f"*{dtype}", "labels_ptr": "*i64"}
        types |= dict.fromkeys(("batch", "width", "classes", "feature_row", "weight_row"), "i32")
        if name != "dfeatures":
            types |= {"features_ptr": f"*{dtype}", "bias_ptr": f"*{dtype}", "energy_ptr": "*fp32"}
        if name != "energies":
            types["grad_ptr"] = f"*{dtype}"
        if name == "dfeatures":
            types["scale_ptr"] = "*fp32"
        if name == "both slope":
            types["slope"] = "fp32"
        ones = dict.fromkeys(("feature_column", "label_stride", "scale_stride"), 1)
        return Variant(
            f"energy_class {name} {dtype} {width}",
            energy_class_kernel,
            types,
            ones | {"ROWS": rows, "BLOCK": block},
            warps,
            rows * block // (32 * warps),
            ("width", "feature_row", "weight_row"),
        )

    def dweight_variant(dtype: str) -> Variant:
        rows, block, warps, _ = dweight_shape(256, 256, 10)
        types = {"scale_ptr": "*fp32", "features_ptr": f"*{dtype}", "labels_ptr": "*i64"}
        types |= {"by_class_ptr": f"*{dtype}", "sums_ptr": "*fp32"}
        types |= dict.fromkeys(("batch", "width", "part", "feature_row"), "i32")
        ones = dict.fromkeys(("feature_column", "label_stride", "scale_stride"), 1)
        return Variant(
            f"energy_class dweight {dtype}",
            energy_class_dweight_kernel,
            types,
            ones | {"ROWS": rows, "BLOCK": block},
            warps,
            rows * block // (32 * warps),
            ("width", "feature_row"),
        )

    return [
        variant("both", "fp32"),
        variant("both", "bf16"),
        variant("both slope", "fp32"),
        variant("both slope", "bf16", 1024),
        variant("energies", "fp32"),
        variant("dfeatures", "fp32"),
        dweight_variant("fp32"),
        dweight_variant("bf16"),
    ]
