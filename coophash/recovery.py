"""Recovery of corrupted images by a trained CoopHash: generator, inference head and Langevin chain.

The paper says that the inference head serves it (Sec. 1) and its published pages stop before they
say how; what follows is our reading. Of each image y, of which some pixels are observed:

    prior      x_i = g(c_i, z_i), z_i ~ N(0, I), of every class: the same samples for all images
    fill       mean of the x_i, weighted by (their squared distance to y on observed pixels)^(-d/2):
               the likelihood of N(x_i, sigma^2 I) with sigma unknown, cut to d degrees of freedom,
               those of z. It replaces what was hidden, so the heads see a whole image.
    class      likeliest by category head and weights together
    inference  z~ from the inference head, and g(c, z~) replaces what was hidden
    chain      Eq. 6 from there under c, the observed pixels held

Rounds after the first start from what the one before it gave, in place of the fill.

With several labels an image the samples are of one label each, the labels are those that the
category head gives at least 1/2, and the likeliest, or those that are given; g and the energy have
the set of them (`coophash.label_sets`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from coophash._options import check_integer, check_number
from coophash.data import ImageSet
from coophash.data.checks import check_images
from coophash.descriptor import draw_latent
from coophash.hasher import evaluating
from coophash.label_sets import likeliest
from coophash.sampling import langevin

if TYPE_CHECKING:
    from coophash.coop import CoopHash, Descriptor

CENTRE = 32  # synthetic images of a class that the mean of its latents is taken from
NOISY_TRUST = 0.7  # where no mask says which pixels are right


class _Prior(NamedTuple):
    """Samples of the generator: what it knows of images before it sees one."""

    images: Tensor  # (S, C H W)
    classes: Tensor  # (S, classes), one-hot
    latent_means: Tensor  # (classes, d): mean of q(z | x) over each class; 0 where not centred


class HeldEnergy:
    """The descriptor's energy of x with some pixels held: an energy of the others alone.

    Args:
        descriptor: f_E.
        anchor: (B, C, H, W), what the held pixels are.
        held: bool, broadcasts to it.
        pull: None holds exactly: the chain sees the anchor there, and no gradient moves it. A
            number adds pull/2 |x - anchor|^2 over the held pixels instead.
    """

    def __init__(
        self, descriptor: Descriptor, anchor: Tensor, held: Tensor, pull: float | None = None
    ) -> None:
        self.descriptor, self.anchor, self.held, self.pull = descriptor, anchor, held, pull

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        """Energies (B,)."""
        return self.energy_and_grad(x, labels)[0]

    def energy_and_grad(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) and their gradient with respect to x."""
        if self.pull is None:
            whole = torch.where(self.held, self.anchor, x)
            energies, grad = self.descriptor.energy_and_grad(whole, labels)
            return energies, grad.masked_fill(self.held, 0.0)
        energies, grad = self.descriptor.energy_and_grad(x, labels)
        off = (x - self.anchor) * self.held
        return (
            energies + 0.5 * self.pull * off.square().flatten(1).sum(1),
            grad + self.pull * off,
        )


def recover(
    model: CoopHash, images: Any, mask: Any = None, labels: Any = None, *,
    rounds: int = 1, steps: int | None = None, starts: int = 1, samples: int = 100,
    trust: float | None = None, seed: int = 0, batch_size: int = 256,
) -> Any:  # fmt: skip
    """Mend images: `CoopHash.recover`, which has the arguments.

    Raises:
        TypeError, ValueError: as there.
    """
    c = model.config
    if c.generator_shape != c.image_shape:
        raise ValueError(
            f"this model makes images of {c.generator_shape[1]} x {c.generator_shape[2]} and takes "
            f"{c.image_shape[1]} x {c.image_shape[2]}: it cannot recover pixels that it does not "
            "make; give generator_size the images' own size, or reduce the images"
        )
    if not can_recover(model):
        lacks = c.without or "cooperative part"
        raise ValueError(f"this model is without its {lacks}: it cannot recover images")
    chainless = c.without in ("energy", "langevin")
    if steps is None:
        steps = 0 if chainless else c.langevin_steps
    for name, value, low in (
        ("rounds", rounds, 1), ("steps", steps, 0), ("starts", starts, 1),
        ("samples", samples, 1), ("seed", seed, 0), ("batch_size", batch_size, 1),
    ):  # fmt: skip
        check_integer(name, value, low)
    if (steps or starts > 1) and chainless:
        raise ValueError(f"steps must be 0 and starts 1 without {c.without}: no chain was learned")
    if trust is None:
        trust = NOISY_TRUST if mask is None else 1.0
    check_number("trust", trust, "above 0 and at most 1")
    if not 0 < trust <= 1:
        raise ValueError(f"trust must be above 0 and at most 1, got {trust!r}")

    device = next(model.parameters()).device
    pixels = images.float() if isinstance(images, ImageSet) else images
    observed = torch.ones((), dtype=torch.bool)
    if tuple(getattr(pixels, "shape", ()))[1:] == c.image_shape:  # else the images are at fault
        observed = _check_mask(mask, tuple(pixels.shape))
        pixels = pixels if mask is None else _grey_where_hidden(pixels, observed)
    pixels = check_images(pixels, c.image_shape, "images")
    given = torch.as_tensor(pixels, device=device)
    observed = observed.to(device)
    classes = None
    if labels is not None:
        classes = model._check_labels("labels", labels, len(given)).to(device)
    with torch.no_grad(), evaluating(model):
        prior = _draw_prior(model, samples, seed, steps > 0)
        parts = []
        for number, start in enumerate(range(0, len(given), batch_size)):
            rows = slice(start, start + batch_size)
            known = None if classes is None else classes[rows]
            parts.append(
                _recover(model, prior, given[rows], observed[rows], known, rounds, steps, starts,
                         trust, seed, number)
            )  # fmt: skip
    out = torch.cat(parts) if parts else given
    return out if isinstance(pixels, Tensor) else out.cpu().numpy()


def can_recover(model: Any) -> bool:
    """Whether a model has what recovery needs: a `CoopHash` with generator and inference head.

    Its generator makes images of the size that the model takes.
    """
    c = getattr(model, "config", None)
    if c is None or not getattr(c, "cooperative", False) or not hasattr(model, "generator"):
        return False
    if c.generator_shape != c.image_shape:
        return False
    return c.without not in ("generator", "inference")


def _recover(
    model: CoopHash, prior: _Prior, y: Tensor, observed: Tensor, classes: Tensor | None,
    rounds: int, steps: int, starts: int, trust: float, seed: int, batch: int,
) -> Tensor:  # fmt: skip
    """One batch; y: (B, C, H, W), observed: bool of the same shape."""
    c, descriptor, several = model.config, model.descriptor, model.multi_label
    if classes is not None and classes.dim() == 2:
        several = True
    weights = _weights(prior, y, observed, c.latent_dim, classes)
    whole = _blend(y, (weights @ prior.images).view_as(y), observed, trust)
    evidence = weights @ prior.classes
    source = torch.Generator(y.device).manual_seed(seed + 1)
    for number in range(rounds):
        features = descriptor.base(whole)
        if classes is None:
            if several and c.without != "category":
                chosen = likeliest(descriptor.category_head(features)).to(y.dtype)
            else:
                if c.without != "category":
                    evidence = evidence + descriptor.category_head(features).softmax(1)
                chosen = evidence.argmax(1)
            evidence = torch.zeros_like(evidence)  # later images are made under a class already
            if c.without == "category":
                classes = chosen
        else:
            chosen = classes
        mean, log_std = descriptor.infer(features)
        if chosen.dim() == 1:
            mean = mean - prior.latent_means[chosen]
        else:
            mean = mean - (chosen / chosen.sum(1, keepdim=True)) @ prior.latent_means
        best = torch.full((len(y),), torch.inf, device=y.device)
        made = whole
        for start in range(starts):
            latent = mean
            if start:  # the first is the mean of q(z | x), the others are drawn from it
                noise = torch.randn(mean.shape, generator=source, device=y.device)
                latent = draw_latent(mean, log_std, noise)
            anchor = _blend(y, model.generator(chosen, latent), observed, trust)
            found, energies = anchor, best - 1
            if steps:
                chain = (batch * rounds + number) * starts + start
                found, energies = _chain(model, anchor, observed, chosen, steps, trust, seed, chain)
            better = (energies < best) if start else torch.ones_like(best, dtype=torch.bool)
            made = torch.where(better[:, None, None, None], found, made)
            best = torch.where(better, energies, best)
        whole = made
    return whole


def _chain(
    model: CoopHash, anchor: Tensor, observed: Tensor, labels: Tensor, steps: int, trust: float,
    seed: int, chain: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The chain from the anchor, and the energies (B,) where it stops."""
    c = model.config
    # A pull of trust / (delta^2 / 2) takes x the share `trust` of its way to the anchor each step.
    pull = None if trust == 1 else trust / (0.5 * c.langevin_step_size**2)
    energy: Any = HeldEnergy(model.descriptor, anchor, observed, pull)
    moved, energies = langevin(
        energy, anchor, labels, steps=steps, step_size=c.langevin_step_size,
        noise=c.langevin_noise, clamp=(-1.0, 1.0), seed=seed, chain=chain, return_energies=True,
        graph=False,  # the energy is of these images alone: a captured graph would never be reused
    )  # fmt: skip
    return (torch.where(observed, anchor, moved) if pull is None else moved), energies[-1]


def _draw_prior(model: CoopHash, samples: int, seed: int, revise: bool) -> _Prior:
    c = model.config
    device = next(model.parameters()).device
    source = torch.Generator(device).manual_seed(seed)
    labels = torch.arange(c.classes, device=device).repeat_interleave(samples)
    latent = torch.randn(len(labels), c.latent_dim, generator=source, device=device)
    blocks = [slice(start, start + 512) for start in range(0, len(labels), 512)]
    images = torch.cat([model.generator(labels[rows], latent[rows]) for rows in blocks])
    means = latent.new_zeros(c.classes, c.latent_dim)
    if c.centre_latent:  # training took each class's mean away from the inferred latents
        few = (torch.arange(len(labels), device=device) % samples) < CENTRE
        seen, of = images[few], labels[few]
        if revise:  # the inference head has learned from revised images
            seen = model.revise(seen, of, seed=seed)
        inferred = model.descriptor.infer(model.descriptor.base(seen))[0]
        means.index_add_(0, of, inferred)
        means /= min(CENTRE, samples)
    return _Prior(images.flatten(1), F.one_hot(labels, c.classes).to(images.dtype), means)


def _weights(
    prior: _Prior, y: Tensor, observed: Tensor, freedom: int, classes: Tensor | None
) -> Tensor:
    """(B, S): how likely each sample is behind each image; sums to 1."""
    seen, samples = observed.flatten(1).to(y.dtype), prior.images
    known = y.flatten(1) * seen
    # |y - x|^2 over observed pixels, without a (B, S, C H W) tensor.
    distance = (
        known.square().sum(1, keepdim=True) - 2 * known @ samples.T + seen @ samples.square().T
    )
    logs = -0.5 * freedom * distance.clamp_min(1e-3).log()
    if classes is not None:
        of = prior.classes.T[classes] if classes.dim() == 1 else classes @ prior.classes.T
        logs = logs.masked_fill(of == 0, -torch.inf)
    return logs.softmax(1)


def _blend(y: Tensor, made: Tensor, observed: Tensor, trust: float) -> Tensor:
    """What was made, with the observed pixels put back as far as they are trusted."""
    back = y if trust == 1 else trust * y + (1 - trust) * made
    return torch.where(observed, back, made)


def _grey_where_hidden(pixels: Any, observed: Tensor) -> Any:
    """Floating images with 0 in hidden pixels: NaN or 99 may mark them, and 0 * NaN is NaN."""
    if isinstance(pixels, Tensor) and pixels.is_floating_point():
        return pixels.masked_fill(~observed.to(pixels.device), 0)
    if isinstance(pixels, np.ndarray) and pixels.dtype.kind == "f":
        return np.where(observed.cpu().numpy(), pixels, pixels.dtype.type(0))
    return pixels  # uint8 has no value that is none


def _check_mask(mask: Any, shape: tuple[int, ...]) -> Tensor:
    """bool, broadcast to the shape of the images, on the mask's device."""
    if mask is None:
        return torch.ones((), dtype=torch.bool).expand(shape)
    allowed = (shape, (shape[0], 1, *shape[2:]), shape[2:])
    if not isinstance(mask, (Tensor, np.ndarray)) or str(mask.dtype) not in ("bool", "torch.bool"):
        got = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(f"mask must be a bool array, True where a pixel is observed, got {got}")
    if tuple(mask.shape) not in allowed:
        raise ValueError(
            f"mask must be {allowed[1]}, {shape} or {shape[2:]} for these images, got "
            f"{tuple(mask.shape)}"
        )
    if isinstance(mask, np.ndarray):
        mask = np.array(mask)  # torch warns of arrays that it could not write to
    return torch.as_tensor(mask).broadcast_to(shape)
