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
from torch.nn import functional as F

from coophash import _descriptor_gradient, losses
from coophash._chain_energy import StepArguments, by_autograd
from coophash.coop_config import CoopHashConfig
from coophash.coop_terms import (
    other_classes,
    random_source,
    real_hash_loss,
    synthetic_category_loss,
    synthetic_hash_loss,
    variational_loss,
)
from coophash.hasher import ImageHasher, check_class_names, check_options
from coophash.kernels.energy import energy_head
from coophash.networks import ConvBase, ConvGenerator
from coophash.sampling import langevin

__all__ = [
    "ContrastivePair",
    "CoopHash",
    "CoopHashConfig",
    "CooperativeOptimizers",
    "Descriptor",
    "cooperative_step",
]

REPLAY = 100  # images of a class that chains go on from without a generator


class ContrastivePair(NamedTuple):
    """Two synthetic images that differ in the class and share z (Eq. 1), for each of B queries."""

    positive: Tensor  # x+ = g(c, z): (B, C, H, W)
    negative: Tensor  # x- = g(c-, z): (B, C, H, W)
    labels: Tensor  # c: (B,)
    negative_labels: Tensor  # c-: (B,), c- != c
    latent: Tensor  # z: (B, d)


class Descriptor(nn.Module):
    """One shared base f0 and four light heads: energy, inference, category and hash (Sec. 3.3)."""

    def __init__(self, config: CoopHashConfig) -> None:
        super().__init__()
        self.base = ConvBase(config.image_shape, config.base_channels, config.features)
        self.energy_head = nn.Linear(config.features, config.classes)  # one output per class
        self.inference_head = nn.Linear(config.features, 2 * config.latent_dim)
        self.category_head = nn.Linear(config.features, config.classes)
        self.hash_head = nn.Linear(config.features, config.bits)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """f_E(x, c), Eq. 3: (B, C, H, W), (B,) -> (B,)."""
        return self.energy(self.base(images), labels)

    def energy_and_grad(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) and df_E/dx, without a graph and without gradients of the weights.

        By hand (`_descriptor_gradient.py`) while the layers are as made here, else by autograd.
        """
        if _descriptor_gradient.applies(self.base, self.energy_head, images):
            with torch.no_grad():
                return _descriptor_gradient.energy_and_grad(
                    self.base, self.energy_head, images, labels
                )
        return by_autograd(lambda x: self(x, labels), images)

    def energy_and_update(self, images: Tensor, labels: Tensor, step: StepArguments) -> Any:
        """Energies (B,) and the images after one Langevin step, fused; or NotImplemented."""
        if not (
            _descriptor_gradient.fuses(images)
            and _descriptor_gradient.applies(self.base, self.energy_head, images)
        ):
            return NotImplemented
        with torch.no_grad():
            return _descriptor_gradient.energy_and_update(
                self.base, self.energy_head, images, labels, step
            )

    def energy(self, features: Tensor, labels: Tensor) -> Tensor:
        """h_E(c, f0(x)): (B, features), (B,) -> (B,); lower is likelier (Eq. 3)."""
        head = self.energy_head
        energies: Tensor = energy_head(features, head.weight, head.bias, labels)
        return energies

    def infer(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z | x): (B, features) -> two of (B, d)."""
        mean, log_std = self.inference_head(features).chunk(2, dim=1)
        return mean, log_std


class CoopHash(ImageHasher):
    """Supervised image hashing by cooperative learning.

    Args:
        bits, classes, image_shape, options: see `CoopHashConfig`.
        class_names: names in the order of the labels.
        seed: of the initial weights.

    Attributes:
        config: the settings.
        descriptor: base and heads; retrieval uses its base and hash head alone.
        generator: g(c, z).
        class_names: names in the order of the labels; None when not known.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.
    """

    def __init__(
        self,
        bits: int,
        classes: int,
        image_shape: tuple[int, int, int],
        class_names: tuple[str, ...] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_options(options, CoopHashConfig, "CoopHash")
        super().__init__()
        self.config = CoopHashConfig(bits, classes, image_shape, **options)
        self.class_names = check_class_names(class_names, classes)
        c = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.descriptor = Descriptor(c)
            self.generator = ConvGenerator(
                c.image_shape, c.classes, c.latent_dim, c.generator_channels
            )
        if c.without == "generator":  # where its chains stopped last, from uniform noise on
            noise = torch.Generator().manual_seed(seed)
            shape = (c.classes, REPLAY, *c.image_shape)
            self.register_buffer("replay", 2 * torch.rand(shape, generator=noise) - 1)

    def energy(self, images: Tensor, labels: Tensor) -> Tensor:
        """f_E(x, c), Eq. 3: (B, C, H, W), (B,) -> (B,). Lower is likelier."""
        energies: Tensor = self.descriptor(images, labels)
        return energies

    def contrastive_pair(
        self,
        labels: Tensor,
        negative_labels: Tensor | None = None,
        latent: Tensor | None = None,
        seed: int = 0,
    ) -> ContrastivePair:
        """x+ = g(c, z) and x- = g(c-, z) from one z (Eq. 1), without gradient.

        Args:
            labels: c, (B,) integer classes.
            negative_labels: c-, (B,); drawn uniformly from the other classes by default.
            latent: z, (B, latent_dim); drawn from N(0, I) by default.
            seed: of the draws.

        Raises:
            ValueError: labels out of range, shapes that do not fit, or a model without a generator.
        """
        if self.config.without == "generator":
            raise ValueError("this model is without its generator: there is none to make pairs")
        labels = self._check_labels("labels", labels)
        source = random_source(labels.device, seed, 0)
        if negative_labels is None:
            negative_labels = other_classes(labels, self.config.classes, source)
        negative_labels = self._check_labels("negative_labels", negative_labels, len(labels))
        size = (len(labels), self.config.latent_dim)
        if latent is None:
            latent = torch.randn(size, generator=source, device=labels.device)
        elif tuple(latent.shape) != size:
            raise ValueError(f"latent must be {size}, got {tuple(latent.shape)}")
        if (negative_labels == labels).any():
            raise ValueError("negative_labels must differ from labels in every place")
        return self._pair(labels, negative_labels, latent)

    def _pair(self, labels: Tensor, negative_labels: Tensor, latent: Tensor) -> ContrastivePair:
        with torch.no_grad():
            both = self.generator(torch.cat([labels, negative_labels]), latent.repeat(2, 1))
        positive, negative = both.chunk(2)
        return ContrastivePair(positive, negative, labels, negative_labels, latent)

    def revise(
        self, images: Tensor, labels: Tensor, seed: int = 0, first_step: int = 0,
        return_energies: bool = False,
    ) -> Any:  # fmt: skip
        """x~: the images after the model's Langevin chain under their labels (Eq. 6), detached.

        Args:
            images: (B, C, H, W) in [-1, 1]; labels: (B,).
            seed, first_step: of the noise; `first_step` counts steps already drawn with `seed`.
            return_energies: also return the energies before each step and after the last.

        Returns:
            (B, C, H, W), or with `return_energies` that and (langevin_steps + 1, B).
        """
        c = self.config
        return langevin(
            self.descriptor, images, labels, steps=c.langevin_steps, step_size=c.langevin_step_size,
            noise=c.langevin_noise, clamp=(-1.0, 1.0), seed=seed, first_step=first_step,
            return_energies=return_energies,
        )  # fmt: skip

    def recover(self, images: Any, mask: Any = None, labels: Any = None, **options: Any) -> Any:
        """Corrupted images, mended by generator, inference head and chain: `coophash.recovery`.

        Args:
            images: (N, C, H, W) float in [-1, 1] or uint8, NumPy or torch; or an `ImageSet`. What
                stands in hidden pixels does not matter.
            mask: bool, True where a pixel is observed: (N, 1, H, W), (N, C, H, W), or (H, W) for
                all images. None: every pixel is observed, and noisy.
            labels: c, (N,); inferred by default.
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
        """Most likely class by the category head: (N,) int64. Arguments as `encode`."""
        heads = [
            self.descriptor.category_head(f).argmax(1) for f in self._features(images, batch_size)
        ]
        return torch.cat(heads) if heads else torch.empty(0, dtype=torch.int64)


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
) -> dict[str, Tensor]:
    """One update of both networks on a mini-batch; with `cooperative=False`, of hash and category.

    All randomness is a function of (seed, update), so a resumed run repeats an uninterrupted one.

    Args:
        images: (B, C, H, W) float in [-1, 1]; labels: (B,) int64; both on the model's device.
        update: number of this update, from 0.

    Returns:
        What to watch, as 0-d tensors: the losses; mean energies of real and revised images; KL in
        nats; how far the chain moved a pixel on average; norms of the gradients of descriptor
        (before it is clipped) and generator, where it has one. Energies and moves are missing where
        `cooperate_every` leaves the chain out.
    """
    loss, watched = _loss_function(model.config, update)(model, images, labels, seed, update)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    watched["gradient_norm"] = nn.utils.clip_grad_norm_(
        model.descriptor.parameters(), model.config.gradient_clip
    )
    grads = [p.grad for p in model.generator.parameters() if p.grad is not None]
    if grads:
        watched["generator_gradient_norm"] = nn.utils.get_total_norm(grads)
    for optimizer in optimizers:
        optimizer.step()
    return watched


def _loss_function(
    c: CoopHashConfig, update: int
) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    if not c.cooperative or update % c.cooperate_every:
        return _observed_loss
    if c.without:
        from coophash.ablation import ablated_loss  # it is made of the parts defined here

        return ablated_loss
    return _cooperative_loss


def _observed_loss(
    model: CoopHash, x: Tensor, labels: Tensor, seed: int, update: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """What real images alone teach: hash and category head, and the variational part if it may."""
    c, descriptor = model.config, model.descriptor
    features = descriptor.base(x)
    loss = real_hash_loss(c, torch.tanh(descriptor.hash_head(features)), labels)
    watched = {"hash": loss}
    if c.without != "category":
        category = F.cross_entropy(descriptor.category_head(features), labels)
        watched["category"] = c.category_weight * category
        loss = loss + watched["category"]
    from_data = c.observed_share > 0 or c.without in ("energy", "langevin")
    if c.cooperative and from_data and c.without not in ("generator", "inference"):
        source = random_source(x.device, seed, update)
        taught, terms = variational_loss(model, [(x, features, 1.0)], labels, source)
        loss, watched = loss + taught, watched | terms
    return loss, {name: value.detach() for name, value in watched.items()}


def _cooperative_loss(
    model: CoopHash, x: Tensor, labels: Tensor, seed: int, update: int
) -> tuple[Tensor, dict[str, Tensor]]:
    c, descriptor, batch = model.config, model.descriptor, len(x)
    source = random_source(x.device, seed, update)

    # Eq. 1, 5: the pair shares z; its first image also starts the chain.
    latent = torch.randn(batch, c.latent_dim, generator=source, device=x.device)
    pair = model._pair(labels, other_classes(labels, c.classes, source), latent)
    # Eq. 6. The chain is detached: no gradient reaches the generator through it.
    revised = model.revise(pair.positive, labels, seed, first_step=update * c.langevin_steps)

    # One pass of the shared base serves every head.
    images = [x, revised, pair.negative] + [pair.positive] * (c.pairs == "generated")
    features = descriptor.base(torch.cat(images)).split(batch)
    real_f, revised_f, negative_f = features[:3]
    near_f = revised_f if c.pairs == "revised" else features[3]

    # Eq. 4: energies of observed images go down, of the chain's samples up.
    real_energy = descriptor.energy(real_f, labels)
    revised_energy = descriptor.energy(revised_f, labels)
    energy_loss = losses.energy_loss(real_energy, revised_energy)
    energy_loss = energy_loss * losses.energy_damping(real_energy, revised_energy, c.energy_gap)
    energy_loss = energy_loss + c.energy_penalty * losses.energy_penalty(
        real_energy, revised_energy
    )

    # Eq. 2 and the variational loss, on the chain's samples and, for a share, on observed images.
    taught, terms = variational_loss(
        model,
        [(revised, revised_f, 1 - c.observed_share), (x, real_f, c.observed_share)],
        labels,
        source,
    )

    # Hash head: triplets of real images, and triplets that contain the synthetic pair.
    real_h = torch.tanh(descriptor.hash_head(real_f))
    hash_loss = real_hash_loss(c, real_h, labels)
    category_loss = c.category_weight * F.cross_entropy(descriptor.category_head(real_f), labels)
    if update >= c.synthetic_from:
        others = pair.negative_labels
        hash_loss = hash_loss + synthetic_hash_loss(
            model, real_h, near_f, negative_f, labels, others
        )
        category_loss = category_loss + synthetic_category_loss(
            model, revised_f, negative_f, labels, others
        )

    watched = {
        "energy_real": real_energy.mean(),
        "energy_revised": revised_energy.mean(),
        "chain_move": (revised - pair.positive).abs().mean(),
        **terms,
        "hash": hash_loss,
        "category": category_loss,
    }
    loss = c.energy_weight * energy_loss + hash_loss + category_loss + taught
    return loss, {name: value.detach() for name, value in watched.items()}
