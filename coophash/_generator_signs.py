"""Signs of health, of the codes and of a generator, cheap enough to log while training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coophash.coop_terms import centre_by_class

if TYPE_CHECKING:
    from coophash.coop import CoopHash
    from coophash.hasher import ImageHasher

LOOKED_AT = 64  # images


def rows_to_look_at(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The first rows of each class, at least 2 and about LOOKED_AT together.

    Of several labels an image, (N, classes), the first LOOKED_AT rows.
    """
    if labels.ndim == 2:
        return np.arange(min(LOOKED_AT, len(labels)))
    each = max(2, LOOKED_AT // classes)
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    starts = np.searchsorted(labels[order], np.arange(classes))
    rank[order] = np.arange(len(labels)) - starts[labels[order]]
    rows: NDArray[np.int64] = np.flatnonzero(rank < each)[: max(LOOKED_AT, 2 * classes)]
    return rows


@torch.no_grad()
def code_distance(model: ImageHasher, images: Tensor) -> float:
    """Mean share of the bits in which the codes of two images differ: 0 if all have one code.

    images: real, (B, C, H, W) in [-1, 1], at least 2. The model is in evaluation mode.
    """
    signs = model.hash_outputs(model.base_features(images)) >= 0  # (B, bits)
    share = signs.double().mean(0)  # of ones, of each bit: n^2 2p(1-p) of n (n-1) ordered pairs
    return float((2 * share * (1 - share)).mean()) * len(images) / (len(images) - 1)


@torch.no_grad()
def generator_signs(model: CoopHash, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Each from one contrastive pair an image, with the same latents at every call.

    images: real, (B, C, H, W) in [-1, 1]; labels: (B,), several of each class. The model is in
    evaluation mode.

    Returns:
        diversity: mean distance of two x+ of a class, over that of two real images of a class: 0
            for a generator that ignores z.
        pair_distance: mean distance of x+ and x-, which share z, over that of two real images of
            different classes: 0 for a generator that ignores the label.
        latent_spread: standard deviation over the images of the means of q(z | x), root mean square
            over the latent's dimensions: with a prior of N(0, I) below 1, 0 for a head that does
            not look. Missing without an inference head.
        energy_generated: mean energy of x+; chain_drop: how far the chain from x+ lowers it.
            Missing without energy or chain.
        Empty for a model without a generator.
    """
    c = model.config
    if not c.cooperative or c.without == "generator":
        return {}
    pair, images = model.contrastive_pair(labels), model.reduced(images)
    same = labels[:, None] == labels[None, :]
    within = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    real, generated = (torch.cdist(i.flatten(1), i.flatten(1)) for i in (images, pair.positive))
    apart = (pair.positive - pair.negative).flatten(1).norm(dim=1).mean()
    signs = {
        "diversity": generated[within].mean() / real[within].mean(),
        "pair_distance": apart / real[~same].mean(),
    }
    if c.without != "inference":
        means, _ = model.descriptor.infer(model.descriptor.base(images))
        if c.centre_latent:
            means = centre_by_class(means, labels, c.classes)
        signs["latent_spread"] = means.var(0, correction=0).mean().sqrt()
    if c.without not in ("energy", "langevin"):
        _, energies = model.revise(pair.positive, labels, return_energies=True)
        signs["energy_generated"] = energies[0].mean()
        signs["chain_drop"] = (energies[0] - energies[-1]).mean()
    found = {name: float(value) for name, value in signs.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}
