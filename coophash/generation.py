"""What a CoopHash generator makes, looked at and measured.

The method has two traps that retrieval scores hide: a generator that ignores z (one image per
class) and one that ignores the label. Pictures with a shared z show both; so do two numbers, the
accuracy of an independent classifier on synthetic images and their diversity within a class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from coophash.backbone import enlarge
from coophash.data import ImageSet

if TYPE_CHECKING:
    from coophash.coop import CoopHash


@dataclass(frozen=True)
class GeneratorCheck:
    """Measures of a generator, over synthetic images of every class in equal numbers.

    Attributes:
        images_per_class: synthetic images, and at most as many real ones, of each class.
        accuracy: share of generated images x+ that the classifier puts into their own class.
        accuracy_revised: the same after the Langevin chain.
        accuracy_real: the same of the real images, for comparison.
        distance_synthetic, distance_revised, distance_real: mean Euclidean distance between two
            images of a class, pixels in [-1, 1], mean over the classes: of x+, of x+ after the
            chain, of real images. Near 0 for a generator that ignores z.
        distance_by_class: the same three for each class.
        chain_move: mean absolute change of a pixel by the chain.
        energies: mean energy before each step of the chain and after the last.
    """

    images_per_class: int
    accuracy: float
    accuracy_revised: float
    accuracy_real: float
    distance_synthetic: float
    distance_revised: float
    distance_real: float
    distance_by_class: tuple[tuple[float, float, float], ...]
    chain_move: float
    energies: tuple[float, ...]

    @property
    def diversity(self) -> float:
        """Distance within a class, synthetic over real: 1 as varied as the data, 0 one image."""
        return self.distance_synthetic / self.distance_real

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "diversity": self.diversity}


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


def check_generator(
    model: CoopHash, classifier: CoopHash, real: ImageSet, *, images_per_class: int = 50,
    seed: int = 0,
) -> GeneratorCheck:  # fmt: skip
    """Measure a generator.

    Args:
        model: whose generator and chain are measured.
        classifier: a network that has seen no synthetic image; its category head is used.
        real: real images of the same classes, none of them trained on.
        images_per_class: synthetic images of each class, at least 2.
        seed: of z and of the chain's noise.

    Raises:
        ValueError: fewer than 2 images per class asked for or there, or several labels an image.
    """
    if model.multi_label or classifier.multi_label:
        raise ValueError("check_generator is for models of one label an image")
    if images_per_class < 2:
        raise ValueError(f"images_per_class must be at least 2, got {images_per_class}")
    if real.classes != model.config.classes or int(real.class_counts.min()) < 2:
        raise ValueError(
            f"real must hold at least 2 images of each of the {model.config.classes} classes, got "
            f"{real.class_counts.tolist()}"
        )
    device = next(model.parameters()).device
    labels = torch.arange(model.config.classes, device=device).repeat_interleave(images_per_class)
    generated = model.contrastive_pair(labels, seed=seed).positive
    revised, energies = model.revise(generated, labels, seed=seed, return_energies=True)

    distances = []
    for label in range(model.config.classes):
        rows = np.flatnonzero(real.labels == label)[:images_per_class]
        distances.append(
            (
                _mean_distance(generated[labels == label].flatten(1)),
                _mean_distance(revised[labels == label].flatten(1)),
                _mean_distance(model.reduced(torch.from_numpy(real.float(rows))).flatten(1)),
            )
        )
    synthetic, after_chain, actual = np.mean(distances, axis=0).tolist()
    return GeneratorCheck(
        images_per_class=images_per_class,
        accuracy=_accuracy(classifier, generated, labels),
        accuracy_revised=_accuracy(classifier, revised, labels),
        accuracy_real=_accuracy(classifier, real, torch.from_numpy(real.labels)),
        distance_synthetic=synthetic,
        distance_revised=after_chain,
        distance_real=actual,
        distance_by_class=tuple(distances),
        chain_move=float((revised - generated).abs().mean()),
        energies=tuple(energies.mean(1).tolist()),
    )


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


def _mean_distance(vectors: torch.Tensor) -> float:
    """Mean Euclidean distance over all pairs of two different rows; vectors: (N, D)."""
    return float(torch.pdist(vectors.double().cpu()).mean())


def _accuracy(classifier: CoopHash, images: Any, labels: torch.Tensor) -> float:
    """Share of images whose likeliest class is their label."""
    if isinstance(images, torch.Tensor):
        images = enlarge(images, classifier.config.image_shape[1:])
    return float((classifier.classify(images).cpu() == labels.cpu()).double().mean())


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
