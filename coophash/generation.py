"""What a CoopHash generator makes, looked at; `coophash.diagnostics` measures it.

Pictures with a shared z show both of the traps that retrieval scores hide: a generator that ignores
z (one image per class) and one that ignores the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from coophash.data import ImageSet

if TYPE_CHECKING:
    from coophash.coop import CoopHash


@dataclass(frozen=True)
class Triplets:
    """One real image of each class beside its contrastive pair; images float32, (classes, C, H, W).

    With a backbone all are at the generator's resolution.

    Attributes:
        real: x.
        positive: x+ = g(c, z), as generated.
        revised: x~, x+ after the Langevin chain.
        negative: x- = g(c-, z).
        labels, negative_labels: c and c-, (classes,).
    """

    real: NDArray[np.float32]
    positive: NDArray[np.float32]
    revised: NDArray[np.float32]
    negative: NDArray[np.float32]
    labels: NDArray[np.int64]
    negative_labels: NDArray[np.int64]


def triplets(model: CoopHash, real: ImageSet, seed: int = 0) -> Triplets:
    """For each class its first image in `real` and a contrastive pair, each with a z of its own."""
    device = next(model.parameters()).device
    labels = torch.arange(model.config.classes, device=device)
    pair = model.contrastive_pair(labels, seed=seed)
    rows = np.array([np.flatnonzero(real.labels == label)[0] for label in labels.tolist()])
    return Triplets(
        _numpy(model.reduced(torch.from_numpy(real.float(rows)))),
        _numpy(pair.positive),
        _numpy(model.revise(pair.positive, labels, seed=seed)),
        _numpy(pair.negative),
        _numpy(labels),
        _numpy(pair.negative_labels),
    )


def latent_grid(
    model: CoopHash, rows: int = 8, seed: int = 0, revised: bool = False
) -> NDArray[np.float32]:
    """Generated images, (rows, classes, *generator_shape): a row shares z, a column the class.

    revised: after the Langevin chain instead of as generated.
    """
    classes = model.config.classes
    device = next(model.parameters()).device
    source = torch.Generator(device=device).manual_seed(seed)
    latent = torch.randn(
        (rows, model.config.latent_dim), generator=source, device=device
    ).repeat_interleave(classes, 0)
    labels = torch.arange(classes, device=device).repeat(rows)
    images = model.contrastive_pair(labels, latent=latent, seed=seed).positive
    if revised:
        images = model.revise(images, labels, seed=seed)
    return _numpy(images).reshape(rows, classes, *model.config.generator_shape)


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
