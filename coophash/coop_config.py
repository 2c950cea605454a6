"""Every setting of CoopHash, checked. Where the paper leaves one open, our reading of it."""

from __future__ import annotations

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import Any

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "bool": (bool,), "str": (str,),
    "float | None": (int, float, type(None)), "str | None": (str, type(None)),
    "int | None": (int, type(None)),
}  # fmt: skip


def later(default: Any) -> Any:
    """A field that came after records were made: `coophash.hasher.settings_of`."""
    return dataclasses.field(default=default, metadata={"later": True})


PARTS = ("", "generator", "energy", "langevin", "inference", "category")


@dataclass(frozen=True)
class CoopHashConfig:
    """Every setting of the model. Defaults are our reading where the paper is silent.

    Attributes:
        bits: K, length of the code, 1 to 4096.
        classes: number of classes, at least 2.
        image_shape: (C, H, W); C 1 or 3, H and W from 8 to 64, or to 1024 with a backbone.
        cooperative: False trains the same base, hash and category heads on real images alone: the
            baseline that the cooperative part is measured against.
        without: leave one part out, to see what it brings: "generator", "energy", "langevin",
            "inference" or "category"; "" leaves out nothing. What stands in for each is said in
            `coophash.ablation`.
        cooperate_every: n; generator, chain, energy and synthetic images take part in every n-th
            update. The others learn from real images alone, at a quarter of the cost.
        latent_dim: d, dimension of z.
        base_channels, features: width of the base's first convolution and of its output.
        backbone: name of a model of timm that is the base in place of a small convolutional net,
            with a dense layer of `features` behind it; `base_channels` is then not used. See
            `coophash.backbone`.
        backbone_weights: `.safetensors` or `.pth` file of the backbone's state dict, read where the
            model is made; None starts from random weights. A saved model has its own weights.
        backbone_rate: learning rate of the backbone, relative to the descriptor's.
        generator_size: longest side in pixels of the images that the generator makes and the chain
            moves, where there is a backbone; None is 32. They are enlarged in front of it.
        generator_channels: width of the generator at the size of its images.
        langevin_steps: T, length of the chain; 0 leaves x+ as it is.
        langevin_step_size: delta of Eq. 6; half its square multiplies the gradient.
        langevin_noise: multiplies delta N(0, I); 1 is Eq. 6. The default is a cold chain: the
            energy is used at a temperature of langevin_noise^2.
        energy_weight: weight of the energy loss. 3, with a variational_weight of 0.03, where labels
            are very scarce (CIFAR-10, 500 labels, 48 bits: mAP 0.296 against 0.274 with the
            defaults). With 500 digits 1.5 and 0.01 brought nothing, with 1,000
            labels of CIFAR-10 neither pair more than noise.
        energy_rate: learning rate of the energy head, relative to the descriptor's.
        energy_gap: g; the energy loss is multiplied by 2 sigmoid(-max(0, gap) / g), where gap is
            mean E(x~) - mean E(x) of the batch. A wide gap says that the chain cannot follow the
            energy: the damping lets the generator catch up. The direction stays that of Eq. 4.
            None does not damp.
        energy_penalty: weight, inside the energy loss, of E(x)^2 + E(x~)^2.
        spectral_norm: divide weights by their largest singular value, so that energies of nearby
            images stay near: "base" of every layer of the base, "energy_head" of that head, "both";
            "" of none. The other heads are left free.
        gradient_penalty: weight of the mean squared norm of dE/dx, summed over an image's pixels.
        gradient_penalty_at: where it is taken: at "real" images, or at "interpolates" between a
            real image and x~.
        replay: share of the chains that go on from where earlier ones of their class stopped, in a
            memory of 100 images a class, instead of from x+: longer chains at the same cost. Their
            x~ shares no latent with x-.
        ranking: form of the hash head's ranking loss. "triplet": the hinge over all triplets of a
            batch. "contrastive": its soft form, `losses.supervised_contrastive_loss`, where every
            negative counts at once; better where labels are scarce (CIFAR-10, 1,000 labels, plain
            supervision: mAP 0.29 against 0.27). "central": that on soft Hamming distances, with a
            hash centre of each class in it, `losses.central_contrastive_loss`; needs as many codes
            as classes (on another split 0.328 against 0.318, with 5,000 labels 0.481 against
            0.461).
        hash_weight: weight of the ranking loss on real images.
        synthetic_weight: weight of the ranking loss that has synthetic images in it.
        synthetic_triplets: "all" puts x, x+ and x- into one batch of the ranking loss; "pair" is
            the bare hinge on (x, x+, x-) of the paper, whose x-, in x+'s style, is a hard negative
            from the first: with shifted digits it held the hash head back (mAP 0.90 against 0.93).
        synthetic_from: first update at which synthetic images count in the hash and the category
            loss: earlier ones are noise.
        pairs: "generated" (x+ and x- as the generator made them, which the paper's figure hints at)
            or "revised" (x~ in place of x+: more varied).
        pair_noise: sigma of the noise of Eq. 1, one draw for both images of a generated pair, as
            hash and category head see them; the chain starts without it, as in Eq. 5.
        pair_gradient: weight with which hash and category loss teach the generator too, through x-
            and, with generated pairs, x+. The paper's figure and Eq. 2 suggest 0.
        margin: of the triplets, in squared distance per bit.
        temperature: of the contrastive forms, on similarities from -1 to 1.
        quantization_weight: weight of K mean((|h| - 1)^2) on real images. Small: at a learning rate
            of 3e-3 a weight of 0.01 fixes the bits before they are learned (CIFAR-10, 1,000 labels,
            plain supervision: mAP 0.309 with 0.01, 0.320 with 0.003, 0.324 without).
        category_weight: cross-entropy on real images.
        synthetic_category_weight: cross-entropy on revised images under c, and on x- under c-.
        variational_weight: weight of reconstruction + kl_weight KL in the descriptor's loss; the
            generator always sees the reconstruction alone, with weight 1. With 0.01 the base is
            busy with it: after 1,200 updates on CIFAR-10 the category head knew 80 % of its own
            training images, at a third of that beside the other terms 98 % (mAP 0.298; 0.319 with
            0.003, at the quantisation weight of then).
        observed_share: of real images in the variational loss; the rest are the chain's. 0 is
            variational MCMC teaching as its authors released it. With real images the generator is
            varied within a few hundred updates, and the inference head knows the images that it is
            asked about when they are recovered.
        kl_weight: of the KL term in it; smaller gives more varied images, of the wrong class more
            often. The reconstruction is a sum over pixels: fewer pixels want a smaller one.
        centre_latent: take each class's mean away from the inferred latents, so that z~ cannot
            carry the class and the generator has to use its label.
        update_order: "together": both networks learn from one pass, at the weights before it.
            "descriptor first": Eq. 2 is computed again with the descriptor just updated, of the
            same x~ and draws, as in the released cooperative networks: one more pass of the base,
            and of the generator, whose running batch statistics move by both.
        gradient_clip: largest norm of the descriptor's gradient.
    """

    bits: int
    classes: int
    image_shape: tuple[int, int, int]
    cooperative: bool = True
    without: str = ""
    cooperate_every: int = 2
    latent_dim: int = 32
    base_channels: int = 32
    features: int = 256
    backbone: str | None = later(None)
    backbone_weights: str | None = later(None)
    backbone_rate: float = later(0.1)
    generator_size: int | None = later(None)
    generator_channels: int = 16
    langevin_steps: int = 5
    langevin_step_size: float = 2.5
    langevin_noise: float = 0.0022
    energy_weight: float = 0.5
    energy_rate: float = 0.07
    energy_gap: float | None = 0.5
    energy_penalty: float = 0.02
    spectral_norm: str = later("")
    gradient_penalty: float = later(0.0)
    gradient_penalty_at: str = later("real")
    replay: float = later(0.0)
    ranking: str = "central"
    hash_weight: float = 1.0
    synthetic_weight: float = 1.0
    synthetic_triplets: str = "all"
    synthetic_from: int = 100
    pairs: str = "revised"
    pair_noise: float = later(0.0)
    pair_gradient: float = later(0.0)
    margin: float = 0.5
    temperature: float = 0.25
    quantization_weight: float = 0.001
    category_weight: float = 1.0
    synthetic_category_weight: float = 1.0
    variational_weight: float = 0.003
    observed_share: float = 0.5
    kl_weight: float = 2.0
    centre_latent: bool = True
    update_order: str = later("together")
    gradient_clip: float = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", shape_of(self.image_shape))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kinds = _KINDS.get(str(field.type), ())
            wrong = bool(kinds) and not isinstance(value, kinds)
            if wrong or (isinstance(value, bool) and field.type != "bool"):
                raise TypeError(f"{field.name} must be {field.type}, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field.name} must be finite, got {value}")
        check_range("bits", self.bits, 1, 4096)
        check_range("classes", self.classes, 2, None)
        check_backbone(self)
        if self.generator_size is not None:
            check_range("generator_size", self.generator_size, 8, max(self.image_shape[1:]))
        for name in ("observed_share", "replay"):
            check_range(name, getattr(self, name), 0, 1)
        if self.replay and self.without not in ("", "category"):
            raise ValueError(
                f"replay must be 0 without {self.without}, got {self.replay}: there is no chain "
                "from x+ whose latent is inferred"
            )
        if self.backbone is not None and self.spectral_norm in ("base", "both"):
            raise ValueError(
                f'spectral_norm must be "energy_head" or "" with a backbone, got '
                f"{self.spectral_norm!r}: its weights were trained as they are"
            )
        for name in (
            "cooperate_every",
            "latent_dim",
            "base_channels",
            "features",
            "generator_channels",
        ):
            check_range(name, getattr(self, name), 1, None)
        if self.pair_noise and self.pairs != "generated":
            raise ValueError(
                f'pairs must be "generated" with a pair_noise, got {self.pairs!r}: x~ has that '
                "of its chain, and x- alone would have this one, which tells negatives apart"
            )
        if self.pair_gradient and self.without == "generator":
            raise ValueError(
                f"pair_gradient must be 0 without the generator, got {self.pair_gradient}: it has "
                "nothing to teach"
            )
        if self.pair_gradient and self.update_order != "together":
            raise ValueError(
                f'update_order must be "together" with a pair_gradient, got {self.update_order!r}: '
                "what hash and category loss teach the generator is of the pass before its update"
            )
        for name in (
            "langevin_steps",
            "langevin_noise",
            "pair_noise",
            "pair_gradient",
            "synthetic_from",
            "margin",
            "energy_rate",
            "backbone_rate",
        ):
            check_range(name, getattr(self, name), 0, None)
        for name in (f.name for f in dataclasses.fields(self)):
            if name.endswith(("_weight", "_penalty")):
                check_range(name, getattr(self, name), 0, None)
        for name in ("langevin_step_size", "gradient_clip", "energy_gap", "temperature"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name, choices in (("pairs", ("generated", "revised")),
                              ("update_order", ("together", "descriptor first")),
                              ("ranking", ("triplet", "contrastive", "central")),
                              ("synthetic_triplets", ("all", "pair")),
                              ("spectral_norm", ("", "base", "energy_head", "both")),
                              ("gradient_penalty_at", ("real", "interpolates")),
                              ("without", PARTS)):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.ranking == "central" and self.bits < 63 and self.classes > 1 << self.bits:
            raise ValueError(
                f'ranking must be "contrastive" or "triplet" for {self.classes} classes at '
                f"{self.bits} bits, got 'central': there are only {1 << self.bits} codes for its "
                "centres; or take more bits"
            )

    @property
    def generator_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the images that the generator makes: `image_shape`, or smaller."""
        channels, height, width = self.image_shape
        if self.backbone is None:
            return self.image_shape
        longest = max(height, width)
        side = min(self.generator_size or 32, longest)
        return channels, *(max(8, round(s * side / longest)) for s in (height, width))  # type: ignore[return-value]


def shape_of(value: Any) -> tuple[int, ...]:
    """image_shape as a tuple of int; TypeError unless it is three whole numbers."""
    try:
        return tuple(operator.index(side) for side in value)
    except TypeError:
        raise TypeError(
            f"image_shape must be three integers (C, H, W), got {value!r}: e.g. (3, 32, 32)"
        ) from None


def check_backbone(config: Any) -> None:
    """Raise unless the base that a config asks for takes images of its shape."""
    shape, backbone = config.image_shape, config.backbone
    for name in ("backbone", "backbone_weights", "generator_size"):
        value = getattr(config, name, None)
        if name != "generator_size" and not isinstance(value, str | None):
            raise TypeError(f"{name} must be str or None, got {value!r}")
        if backbone is None and value is not None:
            raise ValueError(f"{name} is for a backbone: give the name of one, or leave it out")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"image_shape must be (1 or 3, H, W), got {shape}")
    for side in shape[1:]:
        if backbone is None and 64 < side <= 1024:
            raise ValueError(
                f"height and width in image_shape must be from 8 to 64, got {side}: give the name "
                'of a model of timm as backbone, e.g. backbone="resnet18", for larger images'
            )
        sides = "height and width in image_shape"
        check_range(sides, side, 8, 64 if backbone is None else 1024)


def check_range(name: str, value: float, low: float, high: float | None) -> None:
    """Raise ValueError, by name, for a value outside [low, high]; None is no upper limit."""
    if value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {limits}, got {value}")
