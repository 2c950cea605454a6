"""The terms of CoopHash's loss that the whole method and its ablation share, and their draws.

Labels are classes (B,), or multi-hot (B, classes) where an image has several; what the latter mean
in each term is in `coophash.label_sets`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from coophash import label_sets, losses
from coophash.backbone import enlarge
from coophash.descriptor import draw_latent

if TYPE_CHECKING:
    from coophash.coop import CoopHash


# Moves or mirrors a batch: (images (B, C, H, W), number of the draw) -> (B, C, H, W).
Augment = Callable[[Tensor, int], Tensor]


class Features(NamedTuple):
    """What each head looks at in one update: f0 of images, (B, features) each."""

    low: Tensor  # x at the generator's resolution, (B, *generator_shape): x without a backbone
    real: Tensor  # f0(low): energy and inference head
    revised: Tensor  # f0(x~): energy and inference head
    hashed: Tensor  # f0(x), augmented: hash and category head
    near: Tensor  # f0 of x+ or x~, augmented: hash head
    negative: Tensor  # f0(x-), augmented: hash and category head
    named: Tensor  # f0(x~): category head; augmented where it is `near`


def shared_features(
    model: CoopHash, x: Tensor, positive: Tensor, revised: Tensor, negative: Tensor,
    augment: Augment | None,
) -> Features:  # fmt: skip
    """Features of everything in an update, in one pass of the shared base where sizes allow it.

    What is augmented is what the codes must not depend on. Generator, energy and inference head
    model the images as they come: when they saw shifted digits, the generator spent its latents on
    the shifts (84 % of the digits right, against 98 %).

    Args:
        x: (B, C, H, W), real images.
        positive, revised, negative: x+, x~ and x-, (B, *generator_shape) each.
        augment: None for images as they are.
    """
    base, low = model.descriptor.base, model.reduced(x)
    from_revised = model.config.pairs == "revised"
    near = revised if from_revised else positive
    images = [low, revised]
    if augment is None:
        images += [negative] + [near] * (near is not revised)
    else:
        large = x.shape[2:]  # shifts are in pixels of x
        images += [augment(enlarge(i, large), draw) for draw, i in ((1, near), (2, negative))]
        images += [augment(x, 0)]
    if augment is None or low is x:
        found = list(base(torch.cat(images)).split(len(x)))
    else:
        found = list(base(torch.cat(images[:2])).split(len(x)))
        found += base(torch.cat(images[2:])).split(len(x))
    if augment is not None:
        real_f, revised_f, near_f, negative_f, hashed_f = found
        named_f = near_f if from_revised else revised_f
    else:
        real_f, named_f, negative_f = found[:3]
        revised_f = named_f
        near_f = found[3] if len(found) == 4 else revised_f
        hashed_f = real_f if low is x else base(x)
    return Features(low, real_f, revised_f, hashed_f, near_f, negative_f, named_f)


def with_pair_noise(
    model: CoopHash, positive: Tensor, negative: Tensor, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """x+ and x- with the eps of Eq. 1 added, `pair_noise` N(0, I), the same for both."""
    sigma = model.config.pair_noise
    if not sigma:
        return positive, negative
    eps = sigma * torch.randn(positive.shape, generator=source, device=positive.device)
    return positive + eps, negative + eps


def ranking_loss(model: CoopHash, h: Tensor, labels: Tensor) -> Tensor:
    """The hash head's ranking loss over a batch: h (B, bits) tanh outputs."""
    c = model.config
    if c.ranking == "central":
        centers = model.get_buffer("centers")
        return losses.central_contrastive_loss(h, labels, centers, c.temperature)
    if c.ranking == "contrastive":
        return losses.supervised_contrastive_loss(h, labels, c.temperature)
    return losses.batch_all_triplet_loss(h, labels, c.margin * c.bits)


def real_hash_loss(model: CoopHash, h: Tensor, labels: Tensor) -> Tensor:
    """Ranking of real images and their quantisation; h: (B, bits), tanh outputs."""
    c = model.config
    loss: Tensor = c.hash_weight * ranking_loss(model, h, labels)
    if labels.dim() == 2:  # or all images go to one code: `label_sets`
        h = h - h.mean(0)
    loss = loss + c.quantization_weight * losses.quantization_loss(h)
    return loss


class UpdateLoss(NamedTuple):
    """What one update learns from."""

    loss: Tensor  # a scalar
    watched: dict[str, Tensor]  # 0-d, detached
    reteach: Callable[[], Tensor] | None  # the generator's loss with the descriptor as it then is


def teach(
    model: CoopHash,
    parts: list[tuple[Tensor, Tensor, float]],
    labels: Tensor,
    source: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor], Callable[[], Tensor] | None]:
    """`variational_loss`, and itself again with the same draws where `update_order` wants it."""
    state = None if model.config.update_order == "together" else source.get_state()
    loss, terms = variational_loss(model, parts, labels, source)
    if state is None:
        return loss, terms, None

    def reteach() -> Tensor:
        repeated = torch.Generator(source.device)
        repeated.set_state(state)
        with torch.no_grad():
            anew = [(images, model.descriptor.base(images), w) for images, _, w in parts]
        return variational_loss(model, anew, labels, repeated)[0]

    return loss, terms, reteach


def variational_loss(
    model: CoopHash,
    parts: list[tuple[Tensor, Tensor, float]],
    labels: Tensor,
    source: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Reconstruction (Eq. 2) and KL, which share one decoding, and both for the record.

    z~ comes from the inference head, not from the z that started the chain. The generator learns
    from the reconstruction with weight 1, the descriptor with `variational_weight`:
    `scale_gradient` keeps them apart in one backward pass.

    parts: (images (B, C, H, W), their features (B, features), weight) each, all under `labels`.
    """
    c = model.config
    parts = [part for part in parts if part[2]]
    moments = [model.descriptor.infer(features) for _, features, _ in parts]
    means = [m for m, _ in moments]
    if c.centre_latent:
        means = [centre_by_class(mean, labels, c.classes) for mean in means]
    mean, log_std = torch.cat(means), torch.cat([s for _, s in moments])
    noise = torch.randn(mean.shape, generator=source, device=mean.device)
    inferred = scale_gradient(draw_latent(mean, log_std, noise), c.variational_weight)
    decoded = model.generator(torch.cat([labels] * len(parts)), inferred).split(len(labels))
    reconstruction, kl = mean.new_zeros(()), mean.new_zeros(())
    for (images, _, weight), image, part_mean, (_, part_log_std) in zip(
        parts, decoded, means, moments, strict=True
    ):
        reconstruction = reconstruction + weight * losses.reconstruction_loss(images, image)
        kl = kl + weight * losses.gaussian_kl(part_mean, part_log_std)
    loss = reconstruction + c.variational_weight * c.kl_weight * kl
    return loss, {"kl": kl, "reconstruction": reconstruction}


class EnergyTerms(NamedTuple):
    """What the energy head learns from in an update."""

    loss: Tensor  # a scalar, energy_weight and gradient_penalty in it
    watched: dict[str, Tensor]


def energy_terms(
    model: CoopHash, x: Tensor, revised: Tensor, real_f: Tensor, revised_f: Tensor, labels: Tensor,
    source: torch.Generator,
) -> EnergyTerms:  # fmt: skip
    """Eq. 4: energies of observed images x go down, of the chain's samples x~ up; and its brakes.

    x, revised: (B, C, H, W) under labels (B,); real_f, revised_f: their features (B, features).
    """
    c, descriptor = model.config, model.descriptor
    real, synthetic = descriptor.energy(real_f, labels), descriptor.energy(revised_f, labels)
    loss = losses.energy_loss(real, synthetic)
    loss = loss * losses.energy_damping(real, synthetic, c.energy_gap)
    loss = loss + c.energy_penalty * losses.energy_penalty(real, synthetic)
    loss = c.energy_weight * loss
    watched = {"energy_real": real.mean(), "energy_revised": synthetic.mean()}
    if c.gradient_penalty:
        where = x
        if c.gradient_penalty_at == "interpolates":
            share = torch.rand((len(x), 1, 1, 1), generator=source, device=x.device)
            where = torch.lerp(x, revised, share)
        penalty = losses.gradient_penalty(descriptor.plain_energy, where, labels)
        watched["gradient_penalty"] = penalty
        loss = loss + c.gradient_penalty * penalty
    return EnergyTerms(loss, watched)


def synthetic_hash_loss(
    model: CoopHash, real_h: Tensor, near_f: Tensor, negative_f: Tensor, labels: Tensor,
    others: Tensor,
) -> Tensor:  # fmt: skip
    """`synthetic_weight` times the ranking with x+ or x~ (features near_f) and x- in it."""
    c = model.config
    if not c.synthetic_weight:
        return real_h.new_zeros(())
    near_h, negative_h = torch.tanh(
        model.descriptor.hash_head(torch.cat([near_f, negative_f]))
    ).chunk(2)
    if c.synthetic_triplets == "pair":
        if labels.dim() == 2:  # x- of an image that has every label is no negative of it
            apart = ~label_sets.share(labels, others)
            real_h, near_h, negative_h = real_h[apart], near_h[apart], negative_h[apart]
        ranking = losses.triplet_loss(real_h, near_h, negative_h, c.margin * c.bits)
    else:
        ranking = ranking_loss(
            model, torch.cat([real_h, near_h, negative_h]), torch.cat([labels, labels, others])
        )
    weighted: Tensor = c.synthetic_weight * ranking
    return weighted


def synthetic_category_loss(
    model: CoopHash, revised_f: Tensor, negative_f: Tensor, labels: Tensor, others: Tensor
) -> Tensor:
    """`synthetic_category_weight` times the cross-entropy of x~ under c and of x- under c-."""
    c, head = model.config, model.descriptor.category_head
    if not c.synthetic_category_weight:
        return revised_f.new_zeros(())
    near, far = (
        category_loss(head(features), classes)
        for features, classes in ((revised_f, labels), (negative_f, others))
    )
    weighted: Tensor = c.synthetic_category_weight * (near + far)
    return weighted


def category_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(c | x) in nats, mean over the batch: cross-entropy, or of several labels binary ones.

    logits: (B, classes). With several labels the classes are independent, each with a logistic
    probability, and their negative log-likelihoods add up.
    """
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(labels)


class _ScaleGradient(torch.autograd.Function):
    """Identity forward; the gradient times a constant backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x, whose gradient is multiplied by `scale` on its way back."""
    result: Tensor = _ScaleGradient.apply(x, scale)  # type: ignore[no-untyped-call]
    return result


def random_source(device: torch.device, seed: int, update: int) -> torch.Generator:
    """A generator whose stream is a function of (seed, update) alone."""
    words = np.random.SeedSequence([seed, update]).generate_state(2, np.uint32)
    mixed = int(words[0]) | int(words[1]) << 32
    return torch.Generator(device).manual_seed(mixed & (2**63 - 1))


def centre_by_class(latent: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Take each class's mean over the batch away from its latents.

    The pair is made with z ~ N(0, I) whatever the class, so the latents inferred from each class
    must have that distribution too. Left alone they do not: the base's features hold the class, z~
    carries it, and the generator learns to read it there and to ignore its label.

    latent: (B, d); labels: (B,) or (B, classes). The mean of n images is shrunk by 1 - 1/n, so that
    a class with one image in the batch keeps its latent. Our reading.
    """
    if labels.dim() == 2:
        return label_sets.centre(latent, labels)
    one_hot = F.one_hot(labels, classes).to(latent.dtype)
    count = one_hot.sum(0).clamp_min(1)
    means = (one_hot.T @ latent) / count[:, None]
    return latent - (means * (1 - 1 / count)[:, None])[labels]


def other_classes(labels: Tensor, classes: int, source: torch.Generator) -> Tensor:
    """c-: for each label one of the other classes, uniformly. labels: (B,) -> (B,).

    Multi-hot labels (B, classes) -> (B, classes): `label_sets.apart`.
    """
    if labels.dim() == 2:
        return label_sets.apart(labels, source)
    shift = torch.randint(1, classes, labels.shape, generator=source, device=labels.device)
    return (labels + shift) % classes
