"""Hashing without learning from labels, to measure other methods against: LSH and ITQ.

Both take real features (N, dims), flattened pixels for instance, and make packed codes. NumPy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.codes import as_numpy, check_bits, pack

Floats = NDArray[np.float64]

__all__ = ["ITQ", "RandomProjection"]


class _Projection:
    """Centre, project, take signs: what both methods do once they are fitted."""

    bits: int
    mean: Floats | None  # (dims,)
    projection: Floats | None  # (dims, bits)

    def transform(self, x: Any) -> Floats:
        """Real outputs, float64, (N, bits); the code is their signs.

        Args:
            x: real, (N, dims).

        Raises:
            RuntimeError: not fitted yet.
            TypeError, ValueError: not (N, dims) of finite real numbers.
        """
        if self.mean is None or self.projection is None:
            raise RuntimeError(f"{type(self).__name__} is not fitted: call fit(x) first")
        return (_check_features(x, len(self.mean)) - self.mean) @ self.projection

    def encode(self, x: Any) -> NDArray[np.uint8]:
        """Packed codes, uint8, (N, ceil(bits / 8)), of real features (N, dims)."""
        codes: NDArray[np.uint8] = pack(self.transform(x))
        return codes

    def __repr__(self) -> str:
        state = "not fitted" if self.mean is None else f"fitted, {len(self.mean)} dims"
        return f"{type(self).__name__}(bits={self.bits}: {state})"


class RandomProjection(_Projection):
    """Signs of Gaussian random projections of centred data (Charikar, STOC 2002).

    Two codes differ in a share of bits that is the angle between the centred points over pi, in
    expectation.

    Args:
        bits: length of a code, 1 to 4096.
        seed: the same seed gives the same projections.

    Attributes:
        mean: float64, (dims,); None before `fit`.
        projection: float64, (dims, bits), standard normal; None before `fit`.
    """

    def __init__(self, bits: int, seed: int = 0) -> None:
        self.bits = check_bits(bits)
        self.seed = seed
        self.mean = None
        self.projection = None

    def fit(self, x: Any) -> RandomProjection:
        """Take the mean of real features (N, dims) and draw the projections; returns itself."""
        features = _check_features(x)
        self.mean = features.mean(axis=0)
        self.projection = np.random.RandomState(self.seed).standard_normal(
            (features.shape[1], self.bits)
        )
        return self


class ITQ(_Projection):
    """Iterative quantisation (Gong and Lazebnik, CVPR 2011).

    The data are centred and projected on their `bits` principal components, v; then a rotation R
    is sought that brings v R near to its signs, min ||B - v R||_F over B in {-1, +1} and R
    orthogonal, by turns: B = sign(v R), and R from the singular value decomposition of v^T B
    (orthogonal Procrustes). R starts as a random rotation.

    Args:
        bits: length of a code, at most the number of dims.
        seed: of the first rotation.
        iterations: turns; 50 in the paper.

    Attributes:
        mean: float64, (dims,); None before `fit`.
        components: float64, (dims, bits), orthonormal columns, largest variance first.
        rotation: float64, (bits, bits), orthogonal.
        projection: float64, (dims, bits): components @ rotation.
        errors: float64, (iterations + 1,): mean over the items of ||B - v R||^2, before the first
            turn and after each; it never rises.
    """

    def __init__(self, bits: int, seed: int = 0, iterations: int = 50) -> None:
        self.bits = check_bits(bits)
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
            raise ValueError(f"iterations must be an integer >= 0, got {iterations!r}")
        self.seed = seed
        self.iterations = iterations
        self.mean = None
        self.projection = None
        self.components: Floats | None = None
        self.rotation: Floats | None = None
        self.errors: Floats | None = None

    def fit(self, x: Any) -> ITQ:
        """Find components and rotation from real features (N, dims); returns itself.

        Raises:
            ValueError: more bits than dims, or fewer than two items.
        """
        features = _check_features(x)
        items, dims = features.shape
        if self.bits > dims:
            raise ValueError(
                f"bits must be at most the number of dims, {dims}, got {self.bits}: ITQ makes one "
                "bit per principal component; use RandomProjection for longer codes"
            )
        if items < 2:
            raise ValueError(f"x must hold at least 2 items to find directions, got {items}")
        mean = features.mean(axis=0)
        centred = features - mean
        # eigh sorts by ascending variance.
        components = np.linalg.eigh(centred.T @ centred)[1][:, : -self.bits - 1 : -1]
        projected = centred @ components

        gaussian = np.random.RandomState(self.seed).standard_normal((self.bits, self.bits))
        rotation = np.linalg.qr(gaussian)[0]
        errors = np.empty(self.iterations + 1)
        for turn in range(self.iterations + 1):
            rotated = projected @ rotation
            signs = np.where(rotated >= 0, 1.0, -1.0)
            errors[turn] = ((signs - rotated) ** 2).sum() / items
            if turn < self.iterations:
                left, _, right = np.linalg.svd(projected.T @ signs)
                rotation = left @ right
        self.mean, self.components, self.rotation = mean, components, rotation
        self.projection = components @ rotation
        self.errors = errors
        return self


def _check_features(x: Any, dims: int | None = None) -> Floats:
    features, _ = as_numpy(x, "x")
    expected = "(N, dims)" if dims is None else f"(N, {dims}), as fitted"
    width = features.shape[1] if features.ndim == 2 else 0
    if width == 0 or dims not in (None, width):
        mend = ": flatten the images, x.reshape(len(x), -1)" if features.ndim > 2 else ""
        raise ValueError(f"x must be real {expected}, got {features.dtype} {features.shape}{mend}")
    if dims is None and len(features) == 0:
        raise ValueError("x must hold at least one item to fit, got none")
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        raise ValueError("x must be finite, got NaN or infinity")
    return features.astype(np.float64, copy=False)
