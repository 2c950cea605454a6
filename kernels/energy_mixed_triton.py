"""The Triton kernel of energies over several classes with their gradient. The op is in
energy_mixed.py.

A program owns 16 samples and every class. Marginal: a first walk along the features makes the
(16, C) outputs, their softmax stays in registers, a second walk makes the gradient; it reads the
features again only where their signs are needed, from the cache. Labels: one walk makes both. The
products run on tensor cores in three TF32 passes, which keep the precision of float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels.cubins import Variant
from coophash.kernels.energy_class import compute_dtype
from coophash.kernels.energy_mixed import mixed_energy_and_grad_reference

# Beyond them the matrices are worth a library's products, and the reference runs.
MAX_CLASSES, MAX_WIDTH = 128, 4096


@triton.jit
def _load_features(features_ptr, row, column, reading, feature_row, feature_column):
    offset = row[:, None] * feature_row + column[None, :].to(tl.int64) * feature_column
    return tl.load(features_ptr + offset, reading, 0.0).to(tl.float32)


@triton.jit
def energy_mixed_kernel(
    features_ptr, weight_ptr, bias_ptr,
    labels_ptr,  # or None for the marginal energy
    energy_ptr, grad_ptr,
    batch, width, classes,
    feature_row, feature_column, weight_row, label_row, label_column,
    slope,  # number or None
    temperature, coldness,  # -T and -1 / T
    ROWS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < batch
    label = tl.arange(0, CLASSES)
    named = label < classes
    bias = tl.zeros([CLASSES], tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + label, named, 0.0).to(tl.float32)
    if labels_ptr is None:
        outputs = tl.zeros([ROWS, CLASSES], tl.float32)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            here = column < width
            reading = inside[:, None] & here[None, :]
            f = _load_features(features_ptr, row, column, reading, feature_row, feature_column)
            if slope is not None:
                f *= tl.where(f > 0, 1.0, slope)
            offset = label[None, :].to(tl.int64) * weight_row + column[:, None]
            w = tl.load(weight_ptr + offset, here[:, None] & named[None, :], 0.0).to(tl.float32)
            outputs = tl.dot(f, w, outputs, input_precision="tf32x3")
        low = tl.where(named[None, :], (outputs + bias[None, :]) * coldness, -float("inf"))
        top = tl.max(low, axis=1)
        p = tl.exp(low - top[:, None])
        p = p * (1.0 / tl.sum(p, axis=1))[:, None]
        # Of infinite outputs the energy is infinite and the gradient NaN, as PyTorch has it.
        top = tl.where(tl.abs(top) == float("inf"), 0.0, top)
        energy = (top + tl.log(tl.sum(tl.exp(low - top[:, None]), axis=1))) * temperature
    else:
        label_offset = row[:, None] * label_row + label[None, :] * label_column
        p = tl.load(labels_ptr + label_offset, inside[:, None] & named[None, :], 0).to(tl.float32)
        p = p * (1.0 / tl.sum(p, axis=1))[:, None]
        energy = tl.sum(p * bias[None, :], axis=1)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        here = column < width
        offset = label[:, None].to(tl.int64) * weight_row + column[None, :]
        w = tl.load(weight_ptr + offset, named[:, None] & here[None, :], 0.0).to(tl.float32)
        grad = tl.dot(p, w, input_precision="tf32x3")
        writing = inside[:, None] & here[None, :]
        if slope is not None or labels_ptr is not None:
            f = _load_features(features_ptr, row, column, writing, feature_row, feature_column)
            if slope is not None:
                grad *= tl.where(f > 0, 1.0, slope)
            if labels_ptr is not None:
                total += f * grad  # a(f) = f a'(f)
        grad_offset = row[:, None] * width + column[None, :]
        tl.store(grad_ptr + grad_offset, grad.to(grad_ptr.dtype.element_ty), writing)
    if labels_ptr is not None:
        energy += tl.sum(total, axis=1)
    tl.store(energy_ptr + row, energy, inside)


def launch_shape(classes: int) -> tuple[int, int, int]:
    """(ROWS, CLASSES, BLOCK): chosen by register counts, not yet by a measurement."""
    padded = max(16, triton.next_power_of_2(classes))
    return 16, padded, 32


def energies_and_grad(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    slope: float | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Op `energy_head_mixed` on a device."""
    classes, width = weight.shape
    wide = compute_dtype(features, weight) == torch.float64  # for checks; the kernel is float32
    if wide or classes > MAX_CLASSES or width > MAX_WIDTH:
        return mixed_energy_and_grad_reference(
            features, weight, bias, labels, slope, temperature
        )  # fmt: skip
    batch = len(features)
    energies = features.new_empty(batch, dtype=torch.float32)
    grad = features.new_empty(features.shape)
    if batch == 0:
        return energies, grad
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    label_row, label_column = (0, 0) if labels is None else labels.stride()
    if labels is not None:
        labels = labels.view(torch.uint8) if labels.dtype == torch.bool else labels.detach()
    rows, padded, block = launch_shape(classes)
    with torch.cuda.device(features.device) if features.is_cuda else contextlib.nullcontext():
        energy_mixed_kernel[(triton.cdiv(batch, rows),)](
            features, weight, None if bias is None else bias.contiguous(), labels, energies, grad,
            batch, width, classes, *features.stride(), weight.stride(0), label_row, label_column,
            slope, -float(temperature), -1.0 / temperature,
            ROWS=rows, CLASSES=padded, BLOCK=block, num_warps=4, num_stages=2,
        )  # fmt: skip
    return energies, grad


def cubin_variants() -> list[Variant]:
    """As launched on row-major features of a width divisible by 16."""

    def variant(name: str, dtype: str, classes: int, slope: bool = False) -> Variant:
        rows, padded, block = launch_shape(classes)
        types: dict[str, Any] = dict.fromkeys(
            ("features_ptr", "weight_ptr", "bias_ptr", "grad_ptr"), f"*{dtype}"
        )
        types |= {"energy_ptr": "*fp32", "temperature": "fp32", "coldness": "fp32"}
        types |= dict.fromkeys(("batch", "width", "classes", "feature_row", "weight_row"), "i32")
        if name == "labels":
            types |= {"labels_ptr": "*u8", "label_row": "i32"}
        if slope:
            types["slope"] = "fp32"
        return Variant(
            f"energy_mixed {name}{' slope' if slope else ''} {dtype} {classes}",
            energy_mixed_kernel,
            types,
            {"feature_column": 1, "label_column": 1, "label_row": 0}
            | {"ROWS": rows, "CLASSES": padded, "BLOCK": block},
            4,
            rows * block // 128,
            ("width", "feature_row", "weight_row"),
        )

    return [
        variant("marginal", "fp32", 10),
        variant("marginal", "bf16", 10),
        variant("marginal", "fp32", 128, slope=True),
        variant("labels", "fp32", 21, slope=True),
        variant("labels", "bf16", 80),
    ]
