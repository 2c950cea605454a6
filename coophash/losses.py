"""Losses as plain functions, usable in anyone's training loop: CoopHash's and its baselines'.

Shapes: B batch, K bits, d latent dimension, D pixels of an image, C classes. Every loss is a
scalar, a mean over the batch, differentiable in its first argument (and in others where the text
says so). Below are those of CoopHash; equation numbers are the paper's (arXiv 2210.04288v4) and
"our reading" marks what it leaves open. The baselines take outputs before any activation, and one
label an image (B,) or several (B, C):

    dpsh_loss, dtsh_loss, hashnet_loss     compare images with each other
    greedyhash_loss, csq_loss, orthohash_loss    compare an image with its classes
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from coophash._losses_pairs import (
    check_batch,
    check_factor,
    check_outputs,
    check_same_shape,
    dpsh_loss,
    dtsh_loss,
    hashnet_beta,
    hashnet_loss,
    similar,
)
from coophash._losses_points import (
    check_centers,
    csq_loss,
    greedyhash_loss,
    hash_centers,
    label_centers,
    orthohash_loss,
    straight_through_sign,
)

__all__ = [
    "batch_all_triplet_loss",
    "central_contrastive_loss",
    "csq_loss",
    "dpsh_loss",
    "dtsh_loss",
    "energy_damping",
    "energy_loss",
    "energy_penalty",
    "gaussian_kl",
    "gradient_penalty",
    "greedyhash_loss",
    "hash_centers",
    "hashnet_beta",
    "hashnet_loss",
    "label_centers",
    "orthohash_loss",
    "quantization_loss",
    "reconstruction_loss",
    "straight_through_sign",
    "supervised_contrastive_loss",
    "triplet_loss",
]

LOG_STD_LIMIT = 10.0  # of q(z | x); healthy trainings peak at 3 to 7 in their first updates


def _active_mean(hinge: Tensor) -> Tensor:
    """Mean over the positive entries: satisfied triplets would otherwise dilute the rest."""
    return hinge.sum() / (hinge > 0).sum().clamp_min(1)


def _contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """-log softmax of each row's positives, their mean; the mean over the rows that have one."""
    log_share = torch.log_softmax(logits, 1).masked_fill(~positive, 0)
    count = positive.sum(1)
    loss: Tensor = -(log_share.sum(1) / count.clamp_min(1)).sum() / (count > 0).sum().clamp_min(1)
    return loss


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """max(0, margin + ||h - h+||^2 - ||h - h-||^2), mean over the active triplets.

    anchor, positive, negative: (B, K) real outputs, tanh range. margin: in squared distance; on
    tanh outputs one differing bit costs up to 4. In CoopHash the anchor is a real image, positive
    and negative its contrastive pair (Eq. 1); the form and the margin are our reading. A batch of
    none gives 0.

    Raises:
        TypeError, ValueError: tensors that are not real (B, K) of one shape, or a margin that is
            not finite and at least 0.
    """
    check_factor("margin", margin, zero=True)
    check_outputs("anchor", anchor)
    check_same_shape("anchor", anchor, "positive", positive)
    check_same_shape("anchor", anchor, "negative", negative)
    near = (anchor - positive).square().sum(1)
    far = (anchor - negative).square().sum(1)
    return _active_mean(F.relu(margin + near - far))


def batch_all_triplet_loss(outputs: Tensor, labels: Tensor, margin: float) -> Tensor:
    """`triplet_loss` over every (anchor, same class, other class) triple of a batch.

    outputs: (B, K) real; labels: (B,) integer classes, or (B, C) multi-hot, where "same" is to
    share a label and "other" to share none. A batch without any such triple gives 0.
    Memory B^2, time B^2 (K + log B): the loss is linear in the distances wherever the set of active
    triples does not change, and how often each distance takes part is counted by sorting.

    Raises:
        TypeError, ValueError: shapes or dtypes that do not fit, or a margin that is not finite and
            at least 0.
    """
    check_factor("margin", margin, zero=True)
    check_batch(outputs, labels)
    squared = outputs.square().sum(1)
    distance = squared[:, None] + squared[None, :] - 2 * outputs @ outputs.T  # (B, B)
    same = similar(labels)
    other = same.logical_not()
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    with torch.no_grad():  # a triple is active where far < limit
        limit = (distance + margin).masked_fill(~positive, -torch.inf)
        far = distance.masked_fill(~other, torch.inf)
        above = torch.searchsorted(far.sort(1).values, limit)  # as positive: +1 each
        below = len(labels) - torch.searchsorted(limit.sort(1).values, far, right=True)
        active = above.sum()
        times = (above - below).to(distance.dtype)
    return ((times * distance).sum() + margin * active) / active.clamp_min(1)


def supervised_contrastive_loss(outputs: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """-log softmax of the similar images among all others of the batch (Khosla et al. 2020, L_out).

    The soft form of `batch_all_triplet_loss`: each image is an anchor, every image that shares a
    label a positive, and all others are ranked below it at once.

    Args:
        outputs: (B, K) real; compared by their cosine.
        labels: (B,) integer classes or (B, C) multi-hot.
        temperature: of the softmax, above 0.

    Returns:
        Mean over the anchors that have a positive; 0 without any.

    Raises:
        TypeError, ValueError: shapes or dtypes that do not fit, or a temperature that is not finite
            and above 0.
    """
    check_factor("temperature", temperature)
    check_batch(outputs, labels)
    unit = F.normalize(outputs, dim=1)
    itself = torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
    positive = similar(labels) & ~itself
    logits = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    return _contrast(logits, positive)


def central_contrastive_loss(
    outputs: Tensor, labels: Tensor, centers: Tensor, temperature: float
) -> Tensor:
    """`supervised_contrastive_loss` on soft Hamming distances, with each class's centre in it.

    The similarity is the mean over the bits of h_k h'_k, which is 1 - 2 d / K for codes at Hamming
    distance d; an output near 0 says that its bit is unsure and has no part in it. The centres
    (those of CSQ, `hash_centers`) stand beside the images of the batch as one positive more of
    their class and as negatives of the others, so that no two classes can drift to one code: with
    cosines of images alone two of CIFAR-10's came 1 bit apart. Our reading.

    Args:
        outputs: h, (B, K) real, tanh range.
        labels: (B,) integer classes or (B, C) multi-hot.
        centers: (C, K) of -1 and +1.
        temperature: of the softmax, above 0.

    Returns:
        Mean over the images that have a label; 0 without any.

    Raises:
        TypeError, ValueError: shapes or dtypes that do not fit, centres that are not (C, K) with K
            that of the outputs, or a temperature that is not finite and above 0.
    """
    check_factor("temperature", temperature)
    check_centers(outputs, centers)
    check_batch(outputs, labels, len(centers))
    classes, bits = centers.shape
    everything = torch.cat([outputs, centers.to(outputs.dtype)])
    itself = torch.eye(len(outputs), len(everything), dtype=torch.bool, device=outputs.device)
    own = F.one_hot(labels.long(), classes) if labels.dim() == 1 else labels
    positive = torch.cat([similar(labels), own > 0], 1) & ~itself
    logits = (outputs @ everything.T / (bits * temperature)).masked_fill(itself, -torch.inf)
    return _contrast(logits, positive)


def quantization_loss(outputs: Tensor) -> Tensor:
    """K * mean((|h| - 1)^2): pulls tanh outputs to the corners that their signs stand for.

    outputs: (B, K) real, else ValueError. Our reading.
    """
    check_outputs("outputs", outputs)
    return outputs.shape[1] * (outputs.abs() - 1).square().mean()


def energy_loss(real: Tensor, revised: Tensor) -> Tensor:
    """Surrogate of the negative log-likelihood: mean E(x) - mean E(x~)  (Eq. 4).

    real, revised: (B,) energies of data and of Langevin samples; the samples must be detached from
    the chain, so the gradient is that of Eq. 4 with the expectation replaced by the mean over
    samples. The value is an energy gap, not a likelihood: it hovers about 0 in healthy training.
    """
    return real.mean() - revised.mean()


def energy_penalty(real: Tensor, revised: Tensor) -> Tensor:
    """E(x)^2 + E(x~)^2, mean over the batch: keeps the energy's free constant from drifting.

    real, revised: (B,) energies. Added to `energy_loss` with weight w, it also bounds the energies:
    neither can pass 1 / (2 w). Our reading.
    """
    return real.square().mean() + revised.square().mean()


def energy_damping(real: Tensor, revised: Tensor, gap: float | None) -> Tensor:
    """2 sigmoid(-max(0, mean E(x~) - mean E(x)) / gap), a factor in (0, 1] without gradient.

    real, revised: (B,) energies. gap: the width of the gap at which the factor is 0.54; None
    gives 1. For the energy loss, which otherwise runs off once the other losses of a shared base
    are small: Adam does not see that a gradient is small, only that it is the only one. Ours.
    """
    if gap is None:
        return torch.ones((), device=real.device)
    wide = (revised.detach().mean() - real.detach().mean()).clamp_min(0)
    return 2 * torch.sigmoid(-wide / gap)


def gradient_penalty(
    energy: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> Tensor:
    """Mean over the batch of ||dE(x, c)/dx||^2, summed over pixels: how steep the energy is.

    energy: (images (B, ...), labels (B,)) -> (B,), in operations that can be differentiated twice.
    The result has a graph to the weights of the energy. At real images it is the R1 penalty of
    Mescheder et al. (ICML 2018) without its factor 1/2.
    """
    leaf = images.detach().requires_grad_()
    (grad,) = torch.autograd.grad(energy(leaf, labels).sum(), leaf, create_graph=True)
    return grad.square().flatten(1).sum(1).mean()


def reconstruction_loss(samples: Tensor, reconstructions: Tensor) -> Tensor:
    """||x~ - g(c, z~)||^2, summed over pixels, mean over the batch  (Eq. 2).

    samples, reconstructions: (B, ...) of one shape, else ValueError. It teaches the generator, and
    through z~ the inference head.
    """
    check_same_shape("samples", samples, "reconstructions", reconstructions)
    return (samples - reconstructions).square().flatten(1).sum(1).mean()


def gaussian_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, exp(log_std)^2) || N(0, I)) in nats, summed over d, mean over the batch.

    Above a log_std of LOG_STD_LIMIT it goes on along the tangent, where exp(2 log_std) would soon
    overflow: the first updates of a cold Adam can throw it there, and must find the way back.

    mean, log_std: (B, d), else ValueError.
    """
    check_outputs("mean", mean)
    check_same_shape("mean", mean, "log_std", log_std)
    twice = 2 * log_std
    above = (twice - 2 * LOG_STD_LIMIT).clamp(min=0)
    variance = twice.clamp(max=2 * LOG_STD_LIMIT).exp() * (1 + above)
    return 0.5 * (mean.square() + variance - 1 - twice).sum(1).mean()
