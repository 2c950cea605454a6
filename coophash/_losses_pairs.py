"""Losses of baselines that compare images with each other: DPSH, DTSH, HashNet.

All take the real outputs of the hash layer, before any activation, and their labels; similar means
that two images share a label. The public functions are those of `coophash.losses`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from coophash._options import check_number

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def check_batch(outputs: Tensor, labels: Tensor, classes: int | None = None) -> None:
    """Raise unless outputs are (B, K) real and labels their classes (B,) or multi-hot (B, C)."""
    check_outputs("outputs", outputs)
    check_labels(labels, classes)
    if len(labels) != len(outputs):
        raise ValueError(
            f"outputs and labels must be of one batch, got {len(outputs)} and {len(labels)} rows"
        )


def check_outputs(name: str, outputs: Tensor) -> None:
    """Raise unless outputs are real (B, K)."""
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.dim() != 2:
        raise ValueError(f"{name} must be real (B, K), got {_described(outputs)}")


def check_same_shape(first_name: str, first: Tensor, name: str, other: Tensor) -> None:
    """Raise unless two tensors have one shape: else one would be broadcast to the other."""
    if not isinstance(first, Tensor) or not isinstance(other, Tensor) or first.shape != other.shape:
        raise ValueError(
            f"{first_name} and {name} must be of one shape, got {_described(first)} and "
            f"{_described(other)}"
        )


def check_factor(name: str, value: float, zero: bool = False) -> None:
    """Raise unless a margin or a temperature is finite and above 0, or with `zero` at least 0.

    A 0-d tensor, such as a temperature that is learned, is taken as it is: a look at its value
    would wait for the device.
    """
    if isinstance(value, Tensor) and value.dim() == 0:
        return
    expected = "at least 0" if zero else "above 0"
    check_number(name, value, expected)
    if not 0 <= value < math.inf or (value == 0 and not zero):
        raise ValueError(f"{name} must be finite and {expected}, got {value}")


def check_labels(labels: Tensor, classes: int | None = None) -> None:
    """Raise unless labels are classes (B,) or multi-hot (B, C), B at least 1.

    Their values are looked at on the CPU alone: elsewhere each look waits for the device, and while
    a graph is traced there are none.
    """
    if not isinstance(labels, Tensor) or labels.dim() not in (1, 2) or not len(labels):
        raise ValueError(
            f"labels must be classes (B,) or multi-hot (B, C), got {_described(labels)}"
        )
    if labels.dim() == 1 and labels.dtype not in INTEGERS:
        raise ValueError(
            f"labels must be integer classes (B,), got {_described(labels)}: give multi-hot labels "
            "as (B, C)"
        )
    if labels.dim() == 2 and classes is not None and labels.shape[1] != classes:
        raise ValueError(f"labels must have {classes} columns, got {tuple(labels.shape)}")
    if labels.dim() == 2 and labels.shape[1] == 1:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} could be classes or one label of many: give "
            "classes as labels[:, 0], or multi-hot labels with a column for each class"
        )
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if labels.dim() == 2 and not ((labels == 0) | (labels == 1)).all():
        raise ValueError("multi-hot labels must hold 0 and 1 alone")
    low, high = int(labels.min()), int(labels.max())
    if labels.dim() == 1 and (low < 0 or (classes is not None and high >= classes)):
        last = "" if classes is None else f" to {classes - 1}"
        raise ValueError(f"labels must be classes from 0{last}, got {low} to {high}")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def signs(outputs: Tensor) -> Tensor:
    """-1 and +1, without gradient; +1 for 0, as everywhere in coophash."""
    return torch.where(outputs.detach() >= 0, 1.0, -1.0).to(outputs.dtype)


def to_signs(outputs: Tensor) -> Tensor:
    """mean((u - sgn u)^2): the quantisation error of DPSH and DTSH, per bit."""
    return (outputs - signs(outputs)).square().mean()


def similar(labels: Tensor, others: Tensor | None = None) -> Tensor:
    """Whether two images share a label: (B,) or (B, C) -> bool (B, B), or (B, M) with others."""
    others = labels if others is None else others
    if labels.dim() == 1:
        return labels[:, None] == others[None, :]
    return (labels.float() @ others.float().T) > 0


def dpsh_loss(
    outputs: Tensor,
    labels: Tensor,
    *,
    quantization_weight: float = 0.1,
    memory: Tensor | None = None,
    memory_labels: Tensor | None = None,
) -> Tensor:
    """DPSH, the pairwise likelihood (Li, Wang and Kang, IJCAI 2016; arXiv 1511.03855, Sec. 3).

        -sum_ij [s_ij T_ij - log(1 + exp T_ij)] + eta sum_i ||u_i - sgn u_i||^2,  T_ij = u_i.u_j / 2

    The sums are taken as means here: over pairs, and over images and bits. So the weight does not
    depend on the size of the batch. `memory` gives the original's pairs, those of the batch with
    all training images, whose outputs it keeps; by default the pairs are those of the batch, each
    image with every other.

    DeepHash-pytorch has the same means and weight 0.1, always with a memory, where each image is
    paired with its own outputs as well.

    Args:
        outputs: u, (B, K) real.
        labels: classes (B,) or multi-hot (B, C).
        quantization_weight: eta, of mean((u - sgn u)^2).
        memory, memory_labels: outputs of other images, (M, K), without gradient, and their labels.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    check_batch(outputs, labels)
    if memory is None:
        related, theta = similar(labels), 0.5 * outputs @ outputs.T
        pairs = ~torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
    else:
        if memory_labels is None:
            raise ValueError("memory needs memory_labels: the labels of its rows")
        check_batch(memory, memory_labels)
        if memory.shape[1] != outputs.shape[1] or memory_labels.dim() != labels.dim():
            raise ValueError(
                f"memory must be (M, {outputs.shape[1]}) with labels of the same kind, got "
                f"{tuple(memory.shape)} and {tuple(memory_labels.shape)}"
            )
        related, theta = similar(labels, memory_labels), 0.5 * outputs @ memory.detach().T
        pairs = torch.ones_like(related)
    likelihood = F.softplus(theta) - related * theta
    likelihood = (likelihood * pairs).sum() / pairs.sum().clamp_min(1)
    return likelihood + quantization_weight * to_signs(outputs)


def dtsh_loss(
    outputs: Tensor,
    labels: Tensor,
    *,
    margin: float | None = None,
    quantization_weight: float = 1.0,
) -> Tensor:
    """DTSH, the triplet likelihood (Wang, Shi and Kitani, ACCV 2016; arXiv 1612.03900, Sec. 3).

        -sum_qpn [D - log(1 + exp D)] + lambda sum_i ||u_i - sgn u_i||^2,
        D = T_qp - T_qn - alpha,  T_ij = u_i.u_j / 2

    over every anchor q, image p similar to it and image n that is not. The sums are taken as means
    here. Memory: B^3 floats (1 MiB at B = 64).

    DeepHash-pytorch leaves out the 1/2 of T, has alpha 5 at every length, takes the anchor as one
    of its own positives, and averages over the triplets of an anchor before the anchors.

    Args:
        outputs: u, (B, K) real.
        labels: classes (B,) or multi-hot (B, C).
        margin: alpha; None is K / 2, the paper's: half of T's range on signs, -K / 2 to K / 2.
        quantization_weight: lambda, of mean((u - sgn u)^2).

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    check_batch(outputs, labels)
    alpha = outputs.shape[1] / 2 if margin is None else margin
    theta = 0.5 * outputs @ outputs.T
    same = similar(labels)
    positive = same & ~torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
    triplets = positive[:, :, None] & ~same[:, None, :]  # (anchor, positive, negative)
    likelihood = F.softplus(alpha - (theta[:, :, None] - theta[:, None, :]))
    likelihood = (likelihood * triplets).sum() / triplets.sum().clamp_min(1)
    return likelihood + quantization_weight * to_signs(outputs)


def hashnet_loss(
    outputs: Tensor, labels: Tensor, *, beta: float = 1.0, alpha: float | None = None
) -> Tensor:
    """HashNet, the weighted pairwise likelihood (Cao et al., ICCV 2017; arXiv 1702.00758, Eq. 4).

        sum_ij w_ij [log(1 + exp(alpha h_i.h_j)) - alpha s_ij h_i.h_j] / sum_ij 1,
        h = tanh(beta u),  w_ij = c_ij S / S_1 if s_ij = 1, S / S_0 if s_ij = 0               (2, 4)

    over the S pairs of the batch, each image with every other, S_1 of them similar and S_0 not.
    c_ij is the share of common labels, |y_i & y_j| / |y_i | y_j|, 1 for single labels. Eq. 2 read
    to the letter gives c_ij to dissimilar pairs too, which would then weigh nothing; here it weighs
    similar pairs alone.

    The method learns by continuation: beta starts at 1 and grows without bound, so that h ends as
    sgn u (Eq. 5); `hashnet_beta` is the authors' schedule. Their code divides by the sum of the
    weights, sets the weight of similar pairs by hand and leaves c out; DeepHash-pytorch weighs by
    S / S_1 and S / S_0 without c, has alpha 0.1, and pairs each image with itself.

    Args:
        outputs: u, (B, K) real, before tanh.
        labels: classes (B,) or multi-hot (B, C).
        beta: of the continuation, above 0.
        alpha: of the adaptive sigmoid; None is 10 / K, as in the authors' code: alpha h_i.h_j then
            lies in [-10, 10] whatever the length.

    Raises:
        ValueError: shapes or dtypes that do not fit, or beta not above 0.
    """
    check_batch(outputs, labels)
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    scale = 10 / outputs.shape[1] if alpha is None else alpha
    h = torch.tanh(beta * outputs)
    product = scale * h @ h.T
    pairs = ~torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
    related = similar(labels)
    near, far = pairs & related, pairs & ~related
    total = pairs.sum().to(outputs.dtype)
    weights = near * (total / near.sum().clamp_min(1)) + far * (total / far.sum().clamp_min(1))
    if labels.dim() == 2:
        hot = labels.to(outputs.dtype)
        common, counts = hot @ hot.T, hot.sum(1)
        overlap = common / (counts[:, None] + counts[None, :] - common).clamp_min(1)
        weights = torch.where(near, weights * overlap, weights)
    likelihood = F.softplus(product) - related * product
    return (weights * likelihood).sum() / total.clamp_min(1)


def hashnet_beta(update: int, rate: float = 0.005, power: float = 0.5, stage: int = 200) -> float:
    """beta of HashNet's continuation before an update: (1 + rate n)^power, in steps.

    n is the update, from 0, rounded down to a multiple of `stage`. The defaults are those of the
    authors' code, thuml/HashNet @ 85387b8; the paper says that beta grows and not how.
    """
    if update < 0 or rate < 0 or stage < 1:
        raise ValueError(
            "update and rate must be at least 0 and stage at least 1, got "
            f"{update}, {rate} and {stage}"
        )
    return float((1 + rate * (update // stage * stage)) ** power)
