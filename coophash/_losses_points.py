"""Losses of baselines that look at one image at a time: GreedyHash, CSQ, OrthoHash.

Each compares an image with its classes, by a classifier on the signs or by a fixed code for every
class. All take the real outputs of the hash layer, before any activation. The public functions are
those of `coophash.losses`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from coophash._losses_pairs import check_batch, check_labels, check_outputs, signs

_DRAWS = 256  # codes that each Bernoulli centre is chosen from
_CENTERS = ("auto", "hadamard", "bernoulli", "distinct")


class _StraightThroughSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return signs(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def straight_through_sign(outputs: Tensor) -> Tensor:
    """sgn(u) forward, +1 for 0; the gradient passes unchanged (GreedyHash, Sec. 3).

    outputs: real, any shape. torch.sign, which others use here, makes 0 of 0: no code.
    """
    result: Tensor = _StraightThroughSign.apply(outputs)  # type: ignore[no-untyped-call]
    return result


def greedyhash_loss(
    outputs: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    penalty_weight: float = 0.1,
    power: float = 3.0,
) -> Tensor:
    """GreedyHash (Su et al., NeurIPS 2018, Sec. 3): a classifier on the codes themselves.

        CE(logits, labels) + weight mean(|u - sgn u|^p),   logits = W sgn(u)

    where the classifier's gradient reaches u through `straight_through_sign`. The paper's penalty
    is ||u - sgn u||_p^p with p = 3; the mean over images and bits is that of the authors' code
    (ssppp/GreedyHash @ e5089b2), and of DeepHash-pytorch. The paper has one label an image; for
    several, binary cross-entropy of each class takes the place of CE (our reading).

        bits = straight_through_sign(u)
        loss = greedyhash_loss(u, classifier(bits), labels)

    Args:
        outputs: u, (B, K) real.
        logits: (B, C), of a linear layer without bias on `straight_through_sign(outputs)`.
        labels: classes (B,) or multi-hot (B, C).
        penalty_weight: the paper's alpha, 0.1 on CIFAR-10, 1 on ImageNet in the authors' code.
        power: p, at least 1.

    Raises:
        ValueError: shapes or dtypes that do not fit, or power below 1.
    """
    if power < 1:
        raise ValueError(f"power must be at least 1, got {power}")
    if logits.dim() != 2 or len(logits) != len(outputs):
        raise ValueError(f"logits must be ({len(outputs)}, C), got {tuple(logits.shape)}")
    check_batch(outputs, labels, logits.shape[1])
    penalty = (outputs - signs(outputs)).abs().pow(power).mean()
    return _classification(logits, labels) + penalty_weight * penalty


def csq_loss(
    outputs: Tensor, labels: Tensor, centers: Tensor, *, quantization_weight: float = 0.05
) -> Tensor:
    """CSQ, central similarity (Yuan et al., CVPR 2020; arXiv 1908.00347, Sec. 3).

        -mean_ik [c_ik log q_ik + (1 - c_ik) log(1 - q_ik)] + lambda mean_ik log cosh(|h_ik| - 1),
        h = tanh u,  q = (h + 1) / 2

    where c_i is the hash centre of the image's class in {0, 1}^K, or `label_centers` of several.
    The first term is computed from 2u as a logit, which is the same number without overflow.

    The authors' code (yuanli2333/Hadamard-Matrix-for-hashing @ 55cab00) and DeepHash-pytorch have
    mean((|h| - 1)^2) instead of log cosh, which the paper gives as its smooth form, with weight
    0.05 and 0.0001; the former has a pairwise term beside it.

    Args:
        outputs: u, (B, K) real, before tanh.
        labels: classes (B,) or multi-hot (B, C).
        centers: (C, K) of -1 and +1, e.g. of `hash_centers`.
        quantization_weight: lambda.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    check_centers(outputs, centers)
    check_batch(outputs, labels)
    target = label_centers(labels, centers).to(outputs.dtype)
    central = F.binary_cross_entropy_with_logits(2 * outputs, (target + 1) / 2)
    quantization = torch.log(torch.cosh(torch.tanh(outputs).abs() - 1)).mean()
    return central + quantization_weight * quantization


def orthohash_loss(
    outputs: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    margin: float = 0.2,
    scale: float = 8.0,
) -> Tensor:
    """OrthoHash, one cosine loss (Hoe et al., NeurIPS 2021; arXiv 2109.14449, Sec. 3.2).

        CE(scale (cos(u_i, o_c) - margin [c is a label of i]), y_i),  y_i = labels of i / their sum

    where o_c is a fixed binary code for each class, any two nearly orthogonal. Several labels share
    the probability (the paper's label smoothing). The method takes u from a batch normalisation of
    the hash layer, which balances the bits; this function takes u as it comes.

    margin and scale are the defaults of the authors' code (kamwoh/orthohash @ 94c4a03), which
    subtracts the margin from the cosine, as here, or adds it to the angle.

    Args:
        outputs: u, (B, K) real, after batch normalisation.
        labels: classes (B,) or multi-hot (B, C); a row without a label adds nothing.
        centers: (C, K) of -1 and +1, e.g. of `hash_centers`.
        margin: subtracted from the cosine with an image's own classes.
        scale: above 0.

    Raises:
        ValueError: shapes or dtypes that do not fit, or scale not above 0.
    """
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}")
    check_centers(outputs, centers)
    check_batch(outputs, labels, len(centers))
    cosine = F.normalize(outputs, dim=1) @ centers.to(outputs.dtype).T / math.sqrt(centers.shape[1])
    hot = F.one_hot(labels.long(), len(centers)) if labels.dim() == 1 else labels
    hot = hot.to(outputs.dtype)
    share = hot / hot.sum(1, keepdim=True).clamp_min(1)
    log_likelihood = F.log_softmax(scale * (cosine - margin * hot), dim=1)
    return -(share * log_likelihood).sum(1).mean()


def label_centers(labels: Tensor, centers: Tensor) -> Tensor:
    """The code that each image is to have: its class's centre, or the majority of several (CSQ).

    Where as many centres say +1 as -1, and for an image without a label, the bit is +1 at even
    places and -1 at odd ones. The paper draws such bits; DeepHash-pytorch takes them from one code
    drawn at the start.

    Args:
        labels: classes (B,) or multi-hot (B, C).
        centers: (C, K) of -1 and +1.

    Returns:
        (B, K) of -1 and +1, in the dtype of `centers`.

    Raises:
        ValueError: labels that are not of these classes.
    """
    check_labels(labels, len(centers))
    if labels.dim() == 1:
        return centers[labels.long()]
    votes = labels.to(centers.dtype) @ centers
    tied = torch.ones(centers.shape[1], dtype=centers.dtype, device=centers.device)
    tied[1::2] = -1
    return torch.where(votes == 0, tied, votes.sign())


def hash_centers(classes: int, bits: int, *, method: str = "auto", seed: int = 0) -> Tensor:
    """A code for each class, far from the others: CSQ's hash centres, OrthoHash's targets.

    "hadamard" takes the rows of Sylvester's matrix of order K and then those of its negative: any
    two differ in K / 2 bits or in all. It needs K to be a power of 2 and at most 2 K classes.
    "bernoulli" draws bits by fair coins. CSQ (Algorithm 1) draws each centre once; here each is the
    one of 256 draws that is farthest from those before it, so that short codes do not collide.
    "auto" is "hadamard" where it exists and else "bernoulli", as in CSQ. "distinct" is "hadamard"
    only where no bit repeats another in all classes, K / 2 < C <= 2 K: of order 32, ten rows have
    16 different bits.

    Args:
        classes: C, at least 1.
        bits: K, at least 1.
        method: "auto", "hadamard", "bernoulli" or "distinct".
        seed: of the draws.

    Returns:
        float32, (C, K), of -1 and +1, no two rows equal.

    Raises:
        ValueError: no such codes: more classes than codes, or no Hadamard matrix of that order.
    """
    if classes < 1 or bits < 1:
        raise ValueError(f"classes and bits must be at least 1, got {classes} and {bits}")
    if method not in _CENTERS:
        raise ValueError(f"method must be one of {', '.join(_CENTERS)}, got {method!r}")
    if bits < 63 and classes > 1 << bits:
        raise ValueError(
            f"{classes} classes need more than {bits} bits: there are {1 << bits} codes"
        )
    exists = bits & (bits - 1) == 0 and classes <= 2 * bits
    if method == "hadamard" and not exists:
        raise ValueError(
            f"no Hadamard centres for {classes} classes at {bits} bits: bits must be a power of 2 "
            "and classes at most twice as many; use method='bernoulli'"
        )
    rows = exists and (
        method in ("auto", "hadamard") or (method == "distinct" and 2 * classes > bits)
    )
    codes = _hadamard(classes, bits) if rows else _bernoulli(classes, bits, seed)
    return torch.from_numpy(codes.astype(np.float32))


def _hadamard(classes: int, bits: int) -> NDArray[np.int8]:
    matrix = np.ones((1, 1), np.int8)
    while len(matrix) < bits:  # Sylvester's doubling
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.concatenate([matrix, -matrix])[:classes]


def _bernoulli(classes: int, bits: int, seed: int) -> NDArray[np.int8]:
    source = np.random.RandomState(seed)
    few = bits <= 12  # every code is a candidate: no draw can run out of new ones
    all_codes = ((np.arange(1 << bits)[:, None] >> np.arange(bits)) & 1) if few else None
    chosen = np.empty((classes, bits), np.int8)
    for row in range(classes):
        drawn = source.randint(0, 2, (_DRAWS, bits)) if all_codes is None else all_codes
        candidates = (2 * drawn - 1).astype(np.int8)
        if few:  # in another order each time: equally far ones are chosen by chance
            candidates = candidates[source.permutation(len(candidates))]
        products = candidates.astype(np.float32) @ chosen[:row].T.astype(np.float32)
        # Nearest first; then the mean, so that equally near ones spread out.
        nearest = products.max(1, initial=-bits - 1)
        best = np.lexsort((products.sum(1), nearest))[0]
        if nearest[best] == bits:
            raise ValueError(f"no {classes} different codes of {bits} bits were found")
        chosen[row] = candidates[best]
    return chosen


def check_centers(outputs: Tensor, centers: Tensor) -> None:
    """Raise ValueError unless centres are floating and (C, K), with K that of the outputs."""
    check_outputs("outputs", outputs)
    if (
        not isinstance(centers, Tensor)
        or centers.dim() != 2
        or centers.shape[1] != outputs.shape[1]
    ):
        got = tuple(centers.shape) if isinstance(centers, Tensor) else type(centers).__name__
        raise ValueError(
            f"centers must be (C, K) with K that of outputs {tuple(outputs.shape)}, got {got}: "
            "hash_centers makes them"
        )
    if not centers.is_floating_point():
        raise ValueError(f"centers must be floating, -1 and +1, got {centers.dtype}")


def _classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of one label an image, binary cross-entropy of each class for several."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels.long())
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
