"""CoopHash (arXiv 2210.04288v4): a contrastive pair generator and a four-headed descriptor,
trained together by variational MCMC teaching. One cooperative step is `cooperative_step`, below.

    generator    z ~ N(0, I),  x+ = g(c, z),  x- = g(c-, z)                      Eq. 1
    chain        x~ <- x~ - delta^2/2 dE(x~, c)/dx~ + delta N(0, I), from x+     Eq. 5, 6
    descriptor   energy loss (Eq. 4) + hash loss on (x, x+, x-) + cross-entropy
                 + variational loss on x~ and x
    generator    ||x~ - g(c, z~)||^2,  z~ ~ q(z | x~) from the inference head    Eq. 2

The published pages stop at Eq. 6. Whatever they leave open is an option of `CoopHashConfig` whose
default is our reading, not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coophash import label_sets, replay, spectral
from coophash.backbone import reduce
from coophash.coop_config import CoopHashConfig
from coophash.coop_terms import (
    Augment,
    UpdateLoss,
    category_loss,
    energy_terms,
    other_classes,
    random_source,
    real_hash_loss,
    scale_gradient,
    shared_features,
    synthetic_category_loss,
    synthetic_hash_loss,
    teach,
    with_pair_noise,
)
from coophash.data.checks import check_images, check_shape
from coophash.descriptor import Descriptor
from coophash.hasher import (
    ImageHasher,
    check_class_names,
    check_options,
    evaluating,
    seeded_weights,
)
from coophash.losses import hash_centers
from coophash.networks import ConvGenerator
from coophash.sampling import langevin

__all__ = [
    "ContrastivePair",
    "CoopHash",
    "CoopHashConfig",
    "CooperativeOptimizers",
    "Descriptor",
    "cooperative_step",
]


class ContrastivePair(NamedTuple):
    """Two synthetic images that differ in the class and share z (Eq. 1), for each of B queries."""

    positive: Tensor  # x+ = g(c, z): (B, *generator_shape)
    negative: Tensor  # x- = g(c-, z): (B, *generator_shape)
    labels: Tensor  # c: (B,) or multi-hot (B, classes)
    negative_labels: Tensor  # c-, of the same shape, c- != c
    latent: Tensor  # z: (B, d)


class CoopHash(ImageHasher):
    """Supervised image hashing by cooperative learning.

    Every method takes labels as classes (B,), or as multi-hot (B, classes) of 0 and 1 where an
    image has several: `coophash.label_sets`.

    Args:
        bits, classes, image_shape, options: see `CoopHashConfig`.
        class_names: names in the order of the labels.
        seed: of the initial weights.
        multi_label: whether the category head is for several labels an image; `fit` sees it from
            the labels and sets it.

    Attributes:
        config: the settings.
        descriptor: base and heads; retrieval uses its base and hash head alone.
        generator: g(c, z).
        class_names: names in the order of the labels; None when not known.
        multi_label: whether `classify` and `recover` expect several labels an image.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.
        ImportError: a backbone without timm.
        FileNotFoundError: no file at `backbone_weights`.
    """

    def __init__(
        self,
        bits: int,
        classes: int,
        image_shape: tuple[int, int, int],
        class_names: tuple[str, ...] | None = None,
        seed: int = 0,
        multi_label: bool = False,
        **options: Any,
    ) -> None:
        check_options(options, CoopHashConfig, "CoopHash")
        super().__init__()
        self.config = CoopHashConfig(bits, classes, image_shape, **options)
        self.class_names = check_class_names(class_names, classes)
        self.multi_label = bool(multi_label)
        c = self.config
        with seeded_weights(seed):
            self.descriptor = Descriptor(c)
            self.generator = ConvGenerator(
                c.generator_shape, c.classes, c.latent_dim, c.generator_channels
            )
            if c.spectral_norm:
                self.descriptor.normalize(c.spectral_norm)
        if c.ranking == "central":
            far = hash_centers(c.classes, c.bits, method="distinct", seed=seed)
            self.register_buffer("centers", far)
        if c.without == "generator" or c.replay:
            images, filled = replay.new_memory(c.classes, c.generator_shape, seed)
            self.register_buffer("replay", images)
            if c.replay:
                self.register_buffer("replay_filled", filled)

    def energy(self, images: Any, labels: Any) -> Tensor:
        """f_E(x, c), Eq. 3: (B, C, H, W), (B,) or (B, classes) -> (B,). Lower is likelier.

        With a backbone, of the images reduced to the generator's resolution (`coophash.backbone`).

        Args:
            images: float in [-1, 1] or uint8, at the model's or the generator's resolution, torch
                or NumPy. Gradients pass. Values outside the range are taken as they are, since
                chains may go through them.
            labels: c.

        Raises:
            TypeError, ValueError: arguments that are not as described, or a model without its
                energy, whose energy head has learned nothing.
        """
        self._need("energy", "tell how likely images are")
        images, labels = self._to_judge(images, labels)
        energies: Tensor = self.descriptor(self.reduced(images), labels)
        return energies

    def _to_judge(self, images: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """Images of the model's or the generator's shape, as floats, and their labels, checked."""
        if not isinstance(images, Tensor):
            images = torch.as_tensor(images, device=next(self.parameters()).device)
        of_generator = tuple(images.shape[1:]) == self.config.generator_shape
        check_shape(
            tuple(images.shape),
            self.config.generator_shape if of_generator else self.config.image_shape, "images",
        )  # fmt: skip
        if images.dtype == torch.uint8:
            images = images.float() / 127.5 - 1
        elif not images.is_floating_point():
            raise TypeError(
                f"images must be floating in [-1, 1], or uint8 from 0 to 255, got {images.dtype}"
            )
        # The values of labels on a GPU are not looked at: each look would wait for it.
        if not (isinstance(labels, Tensor) and labels.is_cuda):
            labels = self._check_labels("labels", labels, len(images)).to(images.device)
        return images, labels

    def reduced(self, images: Tensor) -> Tensor:
        """Images at the resolution of the generator, where energies are learned; mostly as is."""
        return reduce(images, self.config.generator_shape[1:])

    def contrastive_pair(
        self,
        labels: Tensor,
        negative_labels: Tensor | None = None,
        latent: Tensor | None = None,
        seed: int = 0,
    ) -> ContrastivePair:
        """x+ = g(c, z) and x- = g(c-, z) from one z (Eq. 1), without gradient.

        Args:
            labels: c, (B,) integer classes or (B, classes) multi-hot.
            negative_labels: c-, of the same kind; by default drawn uniformly from the other
                classes, of several labels an image from the other rows (`label_sets.apart`).
            latent: z, (B, latent_dim); drawn from N(0, I) by default.
            seed: of the draws.

        Raises:
            ValueError: labels out of range, shapes that do not fit, or a model without a generator.
        """
        self._need("generator", "make pairs")
        labels = self._check_labels("labels", labels)
        if not len(labels):
            raise ValueError("labels must have at least one row, got none")
        source = random_source(labels.device, seed, 0)
        if negative_labels is None:
            negative_labels = other_classes(labels, self.config.classes, source)
        negative_labels = self._check_labels("negative_labels", negative_labels, len(labels))
        size = (len(labels), self.config.latent_dim)
        if latent is None:
            latent = torch.randn(size, generator=source, device=labels.device)
        latent = torch.as_tensor(latent, dtype=torch.float32, device=labels.device)
        if tuple(latent.shape) != size:
            raise ValueError(f"latent must be {size}, got {tuple(latent.shape)}")
        if not torch.isfinite(latent).all():
            raise ValueError("latent must be finite, got NaN or infinity: draw it from N(0, I)")
        if negative_labels.ndim != labels.ndim:
            raise ValueError("negative_labels must be classes or multi-hot as labels are")
        same = negative_labels == labels
        if (same.all(1) if same.ndim == 2 else same).any():
            raise ValueError("negative_labels must differ from labels in every place")
        with evaluating(self):  # an image depends on its label and z alone, not on the batch
            return self._pair(labels, negative_labels, latent)

    def _pair(
        self, labels: Tensor, negative_labels: Tensor, latent: Tensor, gradient: float = 0.0
    ) -> ContrastivePair:
        """The pair, through which the generator has `gradient` times the gradient."""
        with torch.set_grad_enabled(gradient > 0):
            both = self.generator(torch.cat([labels, negative_labels]), latent.repeat(2, 1))
        if gradient:
            both = scale_gradient(both, gradient)
        positive, negative = both.chunk(2)
        return ContrastivePair(positive, negative, labels, negative_labels, latent)

    def revise(
        self, images: Tensor, labels: Tensor, seed: int = 0, first_step: int = 0,
        return_energies: bool = False,
    ) -> Any:  # fmt: skip
        """x~: the images after the model's Langevin chain under their labels (Eq. 6), detached.

        Args:
            images: (B, C, H, W) float in [-1, 1] or uint8, torch or NumPy, at the generator's
                resolution if they are its own.
            labels: (B,) or multi-hot (B, classes).
            seed, first_step: of the noise; `first_step` counts steps already drawn with `seed`.
            return_energies: also return the energies before each step and after the last.

        Returns:
            (B, C, H, W), or with `return_energies` that and (langevin_steps + 1, B).

        Raises:
            TypeError, ValueError: arguments that are not as described, or a model without its
                energy.
        """
        self._need("energy", "revise images")
        images, labels = self._to_judge(images, labels)
        images = check_images(images)
        return self._revise(images, labels, seed, first_step, return_energies)

    def _revise(
        self, images: Tensor, labels: Tensor, seed: int = 0, first_step: int = 0,
        return_energies: bool = False,
    ) -> Any:  # fmt: skip
        """`revise` of what is known to be right."""
        c = self.config
        return langevin(
            self.descriptor, images, labels, steps=c.langevin_steps, step_size=c.langevin_step_size,
            noise=c.langevin_noise, clamp=(-1.0, 1.0), seed=seed, first_step=first_step,
            return_energies=return_energies,
        )  # fmt: skip

    def _chain(
        self, positive: Tensor, labels: Tensor, source: torch.Generator, seed: int, update: int
    ) -> tuple[Tensor, Tensor]:
        """x~ of an update's chains, and how far they moved a pixel on average.

        They start from x+ (Eq. 5), and `replay` of them where others stopped: that is written to.
        """
        share, first_step = self.config.replay, update * self.config.langevin_steps
        if not share:
            revised: Tensor = self._revise(positive, labels, seed, first_step)
            return revised, (revised - positive).abs().mean()
        memory = replay.Memory(self.get_buffer("replay"), self.get_buffer("replay_filled"))
        start, places = memory.starts(positive, labels, share, source)
        revised = self._revise(start, labels, seed, first_step)
        memory.write(places, revised)
        return revised, (revised - start).abs().mean()

    def recover(self, images: Any, mask: Any = None, labels: Any = None, **options: Any) -> Any:
        """Corrupted images, mended by generator, inference head and chain: `coophash.recovery`.

        Args:
            images: (N, C, H, W) float in [-1, 1] or uint8, NumPy or torch; or an `ImageSet`. What
                stands in hidden pixels does not matter.
            mask: bool, True where a pixel is observed: (N, 1, H, W), (N, C, H, W), or (H, W) for
                all images. None: every pixel is observed, and noisy.
            labels: c, (N,) or multi-hot (N, classes); inferred by default.
            rounds (1): of inference and chain, each from what the one before it gave.
            steps (langevin_steps): of the chain, 0 for none.
            starts (1): chains of each image, from z~ drawn anew; the lowest energy is taken.
            samples (100): of the generator for each class, that hidden pixels are first filled by.
            trust (1; 0.7 without a mask): 1 holds observed pixels as they are; below it they are
                mixed with what the generator makes of them, and pull on the chain.
            seed (0): of every draw. batch_size (256): images at a time; the chain's noise is drawn
                by batch.

        Returns:
            float32, (N, C, H, W) in [-1, 1]; torch for torch input, else NumPy.

        Raises:
            TypeError, ValueError: an argument that is not as described, or a model without its
                generator or inference head.
        """
        from coophash.recovery import recover  # it is made of the parts defined here

        return recover(self, images, mask, labels, **options)

    @property
    def method(self) -> str:
        """What the model is called in progress bars and tables."""
        if not self.config.cooperative:
            return "plain"
        return f"CoopHash without {self.config.without}" if self.config.without else "CoopHash"

    def base_features(self, images: Tensor) -> Tensor:
        """f0(x): (B, C, H, W) -> (B, features)."""
        features: Tensor = self.descriptor.base(images)
        return features

    def hash_outputs(self, features: Tensor) -> Tensor:
        """h_H(f0(x)): (B, features) -> (B, bits) real; the code is their signs."""
        outputs: Tensor = self.descriptor.hash_head(features)
        return outputs

    @torch.no_grad()
    def classify(self, images: Any, batch_size: int = 512) -> Tensor:
        """Most likely class by the category head: (N,) int64. Arguments as `encode`.

        With `multi_label`: the labels of probability 1/2 or more, at least one: bool (N, classes).

        Raises:
            TypeError, ValueError: images as `encode` raises them, or a model without its category
                head.
        """
        self._need("category", "classify images")
        choose = label_sets.likeliest if self.multi_label else (lambda logits: logits.argmax(1))
        heads = [
            choose(self.descriptor.category_head(f)) for f in self._features(images, batch_size)
        ]
        if heads:
            return torch.cat(heads)
        none = torch.empty(0, dtype=torch.int64)
        return none.bool().view(0, self.config.classes) if self.multi_label else none

    def _need(self, part: str, purpose: str) -> None:
        """Raise ValueError if the model was trained without a part, which is then noise."""
        lacks = part if self.config.without == part else ""
        if not self.config.cooperative and part != "category":  # that one real images teach
            lacks = "cooperative part"
        if lacks:
            raise ValueError(f"this model is without its {lacks}: it cannot {purpose}")

    def _check_labels(self, name: str, labels: Tensor, count: int | None = None) -> Tensor:
        checked = super()._check_labels(name, labels, count)
        if checked.ndim == 2 and (none := (checked.sum(1) == 0).nonzero()).numel():
            raise ValueError(
                f"{name} must have at least one label in each row, row {int(none[0])} has none: an "
                "image without a label has no energy; leave such images out"
            )
        return checked


class CooperativeOptimizers(NamedTuple):
    """One optimiser per network, as in the paper's two alternating objectives."""

    descriptor: torch.optim.Optimizer
    generator: torch.optim.Optimizer


def cooperative_step(
    model: CoopHash,
    images: Tensor,
    labels: Tensor,
    optimizers: CooperativeOptimizers,
    seed: int,
    update: int,
    augment: Augment | None = None,
) -> dict[str, Tensor]:
    """One update of both networks on a mini-batch; with `cooperative=False`, of hash and category.

    All randomness is a function of (seed, update), so a resumed run repeats an uninterrupted one.

    Args:
        images: (B, C, H, W) float in [-1, 1], on the model's device.
        labels: (B,) int64, or multi-hot (B, classes) float; there too.
        update: number of this update, from 0.
        augment: moves or mirrors a batch, (images, number of the draw) -> images; draw 0 is of the
            batch itself, others of synthetic images. Hash and category head see images so changed;
            generator, energy and inference head see them as they are.

    Returns:
        What to watch, as 0-d tensors: the losses; mean energies of real and revised images; KL in
        nats; how far the chain moved a pixel on average; norms of the gradients of descriptor
        (before it is clipped) and generator, where it has one. Energies and moves are missing where
        `cooperate_every` leaves the chain out.
    """
    if model.config.spectral_norm:
        spectral.advance(model.descriptor)
    loss_function = _loss_function(model.config, update)
    loss, watched, reteach = loss_function(model, images, labels, seed, update, augment)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    watched["gradient_norm"] = nn.utils.clip_grad_norm_(
        model.descriptor.parameters(), model.config.gradient_clip
    )
    if reteach is not None:
        optimizers.descriptor.step()
        taught = [p for p in model.generator.parameters() if p.grad is not None]
        optimizers.generator.zero_grad(set_to_none=True)
        reteach().backward(inputs=taught)  # type: ignore[no-untyped-call]
    grads = [p.grad for p in model.generator.parameters() if p.grad is not None]
    if grads:
        watched["generator_gradient_norm"] = nn.utils.get_total_norm(grads)
    if reteach is None:
        optimizers.descriptor.step()
    optimizers.generator.step()
    return watched


def _loss_function(c: CoopHashConfig, update: int) -> Callable[..., UpdateLoss]:
    from coophash import ablation  # it is made of the parts defined here

    if not c.cooperative or update % c.cooperate_every:
        return ablation.observed_loss
    return ablation.ablated_loss if c.without else _cooperative_loss


def _cooperative_loss(
    model: CoopHash, x: Tensor, labels: Tensor, seed: int, update: int,
    augment: Augment | None = None,
) -> UpdateLoss:  # fmt: skip
    c, descriptor, batch = model.config, model.descriptor, len(x)
    source = random_source(x.device, seed, update)

    # Eq. 1, 5: the pair shares z; its first image also starts the chain.
    latent = torch.randn(batch, c.latent_dim, generator=source, device=x.device)
    others = other_classes(labels, c.classes, source)
    pair = model._pair(labels, others, latent, c.pair_gradient)
    # Eq. 6. The chain is detached: no gradient reaches the generator through it.
    revised, moved = model._chain(pair.positive.detach(), labels, source, seed, update)
    positive, negative = with_pair_noise(model, pair.positive, pair.negative, source)

    # One pass of the shared base serves every head.
    f = shared_features(model, x, positive, revised, negative, augment)

    # Eq. 4: energies of observed images go down, of the chain's samples up.
    energy = energy_terms(model, f.low, revised, f.real, f.revised, labels, source)

    # Eq. 2 and the variational loss, on the chain's samples and, for a share, on observed images.
    taught, terms, reteach = teach(
        model,
        [(revised, f.revised, 1 - c.observed_share), (f.low, f.real, c.observed_share)],
        labels,
        source,
    )

    # Hash head: triplets of real images, and triplets that contain the synthetic pair.
    real_h = torch.tanh(descriptor.hash_head(f.hashed))
    hash_loss = real_hash_loss(model, real_h, labels)
    category = c.category_weight * category_loss(descriptor.category_head(f.hashed), labels)
    if update >= c.synthetic_from:
        hash_loss = hash_loss + synthetic_hash_loss(
            model, real_h, f.near, f.negative, labels, others
        )
        category = category + synthetic_category_loss(model, f.named, f.negative, labels, others)

    watched = {
        **energy.watched,
        "chain_move": moved,
        **terms,
        "hash": hash_loss,
        "category": category,
    }
    loss = energy.loss + hash_loss + category + taught
    return UpdateLoss(loss, {name: value.detach() for name, value in watched.items()}, reteach)
