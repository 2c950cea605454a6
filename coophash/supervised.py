"""Deep supervised hashing by one loss: DPSH, DTSH, HashNet, GreedyHash, CSQ and OrthoHash.

What CoopHash is compared with, on the same base network and through the same `fit`: they differ
from it, and from each other, in the loss and in what that needs behind the hash head. The losses
themselves are `coophash.losses`, with what each paper says and its public code does otherwise.

    model = ch.SupervisedHash("csq", bits=48, classes=10, image_shape=(3, 32, 32))
    ch.fit(model, train, validation)
    codes = model.encode(images)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coophash import losses
from coophash.backbone import make_base
from coophash.coop_config import check_backbone, check_range, later, shape_of
from coophash.hasher import ImageHasher, check_class_names, check_options, seeded_weights

# Options of each method and their defaults, by the number of bits.
_OPTIONS: dict[str, dict[str, Any]] = {
    "dpsh": {"quantization_weight": lambda bits: 0.1},
    "dtsh": {"margin": lambda bits: bits / 2, "quantization_weight": lambda bits: 1.0},
    "hashnet": {"alpha": lambda bits: 10 / bits, "continuation_rate": lambda bits: 0.005},
    "greedyhash": {"quantization_weight": lambda bits: 0.1, "power": lambda bits: 3.0},
    "csq": {"quantization_weight": lambda bits: 0.05, "centers": lambda bits: "auto"},
    "orthohash": {
        "margin": lambda bits: 0.2, "scale": lambda bits: 8.0, "centers": lambda bits: "auto"
    },
}  # fmt: skip
METHODS = tuple(_OPTIONS)
_COMMON = (
    "base_channels", "features", "backbone", "backbone_weights", "backbone_rate", "gradient_clip"
)  # fmt: skip


@dataclass(frozen=True)
class SupervisedHashConfig:
    """Every setting of a `SupervisedHash`.

    The options after `gradient_clip` belong to some methods each, named in brackets; None takes the
    method's default, and a value for another method is an error. Defaults are those of the losses.

    Attributes:
        method: "dpsh", "dtsh", "hashnet", "greedyhash", "csq" or "orthohash".
        bits: K, length of the code, 1 to 4096.
        classes: number of classes or labels, at least 2.
        image_shape: (C, H, W); C 1 or 3, H and W from 8 to 64, or to 1024 with a backbone.
        base_channels, features: width of the base's first convolution and of its output.
        backbone, backbone_weights, backbone_rate: a model of timm as the base, as for CoopHash.
        gradient_clip: largest norm of the gradient, as for CoopHash.
        quantization_weight: of the pull towards the signs [dpsh 0.1, dtsh 1, greedyhash 0.1, csq
            0.05].
        margin: alpha of the triplet likelihood [dtsh K / 2]; taken from the cosine with the own
            class [orthohash 0.2].
        alpha: of the adaptive sigmoid [hashnet 10 / K].
        continuation_rate: how fast beta grows [hashnet 0.005 an update].
        power: p of the penalty [greedyhash 3].
        scale: of the cosines [orthohash 8].
        centers: how the codes of the classes are made, the method of `losses.hash_centers` [csq and
            orthohash "auto"].

    Raises:
        TypeError, ValueError: a setting of the wrong type, out of range or of another method.
    """

    method: str
    bits: int
    classes: int
    image_shape: tuple[int, int, int]
    base_channels: int = 32
    features: int = 256
    backbone: str | None = later(None)
    backbone_weights: str | None = later(None)
    backbone_rate: float = later(0.1)
    gradient_clip: float = 5.0
    quantization_weight: float | None = None
    margin: float | None = None
    alpha: float | None = None
    continuation_rate: float | None = None
    power: float | None = None
    scale: float | None = None
    centers: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        object.__setattr__(self, "image_shape", shape_of(self.image_shape))
        for name in ("bits", "classes", "base_channels", "features"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be int, got {value!r}")
        check_range("bits", self.bits, 1, 4096)
        check_range("classes", self.classes, 2, None)
        check_range("base_channels", self.base_channels, 1, None)
        check_range("features", self.features, 1, None)
        check_backbone(self)
        self._check_options()

    def _check_options(self) -> None:
        options = _OPTIONS[self.method]
        every = {name for each in _OPTIONS.values() for name in each}
        for name in sorted(every):
            value = getattr(self, name)
            if name not in options:
                if value is not None:
                    raise ValueError(
                        f"{self.method} has no option {name!r}; it has {', '.join(options)}"
                    )
                continue
            if value is None:
                object.__setattr__(self, name, options[name](self.bits))
        for name in (*(options.keys() - {"centers"}), "gradient_clip", "backbone_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not math.isfinite(value) or value < 0 or (value == 0 and name in _POSITIVE):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if self.power is not None and self.power < 1:
            raise ValueError(f"power must be at least 1, got {self.power}")


_POSITIVE = ("gradient_clip", "scale", "alpha")  # 0 would end all learning


class SupervisedHash(ImageHasher):
    """Supervised image hashing by one loss, on CoopHash's base network.

    Args:
        method, bits, classes, image_shape, options: see `SupervisedHashConfig`.
        class_names: names in the order of the labels.
        seed: of the initial weights and of the codes of the classes.

    Attributes:
        config: the settings, the method's defaults filled in.
        base, hash_head: base network and hash head; retrieval uses these and `norm`.
        norm: batch normalisation of the hash outputs [orthohash]; else the identity.
        classifier: from signs to classes, without bias [greedyhash].
        centers: (classes, bits), the codes of the classes [csq, orthohash].
        class_names: names in the order of the labels; None when not known.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.
    """

    def __init__(
        self,
        method: str,
        bits: int,
        classes: int,
        image_shape: tuple[int, int, int],
        class_names: tuple[str, ...] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_options(options, SupervisedHashConfig, "SupervisedHash")
        super().__init__()
        self.config = SupervisedHashConfig(method, bits, classes, image_shape, **options)
        self.class_names = check_class_names(class_names, classes)
        c = self.config
        with seeded_weights(seed):
            self.base = make_base(c)
            self.hash_head = nn.Linear(c.features, bits, bias=method != "orthohash")
            self.norm = nn.BatchNorm1d(bits) if method == "orthohash" else nn.Identity()
            if method == "greedyhash":
                self.classifier = nn.Linear(bits, classes, bias=False)
        if c.centers is not None:
            centers = losses.hash_centers(classes, bits, method=c.centers, seed=seed)
            self.register_buffer("centers", centers)

    @property
    def method(self) -> str:
        """What the model is called in progress bars and tables."""
        return str(self.config.method)

    @property
    def _learning_rate(self) -> float:  # type: ignore[override]
        return 1e-3 if self.method == "dpsh" else 3e-3  # at 3e-3 it does not learn

    def base_features(self, images: Tensor) -> Tensor:
        """Base network: (B, C, H, W) -> (B, features)."""
        features: Tensor = self.base(images)
        return features

    def hash_outputs(self, features: Tensor) -> Tensor:
        """Hash head: (B, features) -> (B, bits) real; the code is their signs."""
        outputs: Tensor = self.norm(self.hash_head(features))
        return outputs

    def loss(self, images: Tensor, labels: Tensor, update: int = 0) -> Tensor:
        """The method's loss of a mini-batch, a scalar.

        Args:
            images: (B, C, H, W) float in [-1, 1].
            labels: classes (B,) or multi-hot (B, classes).
            update: number of this update, from 0: HashNet's beta depends on it.
        """
        c, outputs = self.config, self.hash_outputs(self.base_features(images))
        if c.method == "dpsh":
            return losses.dpsh_loss(outputs, labels, quantization_weight=c.quantization_weight)
        if c.method == "dtsh":
            return losses.dtsh_loss(
                outputs, labels, margin=c.margin, quantization_weight=c.quantization_weight
            )
        if c.method == "hashnet":
            beta = losses.hashnet_beta(update, c.continuation_rate)
            return losses.hashnet_loss(outputs, labels, beta=beta, alpha=c.alpha)
        if c.method == "greedyhash":
            logits = self.classifier(losses.straight_through_sign(outputs))
            return losses.greedyhash_loss(
                outputs, logits, labels, penalty_weight=c.quantization_weight, power=c.power
            )
        centers = self.get_buffer("centers")
        if c.method == "csq":
            return losses.csq_loss(
                outputs, labels, centers, quantization_weight=c.quantization_weight
            )
        return losses.orthohash_loss(outputs, labels, centers, margin=c.margin, scale=c.scale)


class SupervisedOptimizers(NamedTuple):
    """One optimiser for the whole network."""

    network: torch.optim.Optimizer


def supervised_step(
    model: SupervisedHash,
    images: Tensor,
    labels: Tensor,
    optimizers: SupervisedOptimizers,
    seed: int,
    update: int,
) -> dict[str, Tensor]:
    """One update on a mini-batch. Arguments as `cooperative_step`; nothing is drawn.

    labels: classes (B,) or multi-hot (B, classes).

    Returns:
        What to watch, as 0-d tensors: the loss.
    """
    loss = model.loss(images, labels, update)
    optimizers.network.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), model.config.gradient_clip)
    optimizers.network.step()
    return {"loss": loss.detach()}


def method_options(method: str) -> tuple[str, ...]:
    """Names of the options of a method, those that every method has first."""
    return (*_COMMON, *_OPTIONS[method])


def default_options(method: str, bits: int) -> dict[str, Any]:
    """What the options of a method alone are by default, some by the bits; none of CoopHash's."""
    return {name: default(bits) for name, default in _OPTIONS.get(method, {}).items()}
