"""Every image hashing method here by its name, for tables that compare them.

    coophash                     the whole method
    coophash-without-PART        without generator, energy, langevin, inference or category:
                                 `coophash.ablation`
    plain                        its base network, triplet loss and cross-entropy on real images
    dpsh dtsh hashnet greedyhash csq orthohash
                                 `coophash.supervised`

    model = make_model("csq", bits=48, classes=10, image_shape=(3, 32, 32))

All have the same base network and are trained by the same `coophash.fit`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from coophash import supervised
from coophash.coop import CoopHash
from coophash.coop_config import PARTS, CoopHashConfig
from coophash.hasher import ImageHasher
from coophash.supervised import SupervisedHash

# Settings that the name of a method stands for.
_COOPHASH: dict[str, dict[str, Any]] = {
    "coophash": {},
    **{f"coophash-without-{part}": {"without": part} for part in PARTS if part},
    "plain": {"cooperative": False},
}
METHODS = (*_COOPHASH, *supervised.METHODS)


def make_model(
    method: str,
    bits: int,
    classes: int,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...] | None = None,
    seed: int = 0,
    **options: Any,
) -> ImageHasher:
    """A new model of a method.

    Args:
        method: one of `METHODS`.
        bits, classes, image_shape, class_names, seed: as `CoopHash` and `SupervisedHash` take them.
        options: of `CoopHashConfig` or `SupervisedHashConfig`, without what the name stands for.

    Raises:
        TypeError, ValueError: an unknown method, or an option that it does not have or that is out
            of range.
    """
    check_method(method)
    if unknown := sorted(set(options) - set(option_names(method))):
        raise ValueError(
            f"{method} has no option {unknown[0]!r}; it has {', '.join(option_names(method))}"
        )
    if method in _COOPHASH:
        fixed = _COOPHASH[method]
        return CoopHash(bits, classes, image_shape, class_names, seed, **fixed, **options)
    return SupervisedHash(method, bits, classes, image_shape, class_names, seed, **options)


def option_names(method: str) -> tuple[str, ...]:
    """Names of the options that `make_model` takes for a method.

    Raises:
        ValueError: there is no such method.
    """
    check_method(method)
    if method in supervised.METHODS:
        return supervised.method_options(method)
    taken = {"bits", "classes", "image_shape", "cooperative", "without"}
    return tuple(f.name for f in dataclasses.fields(CoopHashConfig) if f.name not in taken)


def check_method(method: str) -> None:
    """Raise ValueError, which lists the methods, for a name that is none."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
