"""Canonical correlation analysis with a rotation: cross-modal codes without a network, a baseline.

Gong, Ke, Isard, Lazebnik (IJCV 2014) project both modalities on their canonical directions, scaled
by a power of the correlations; ITQ (Gong and Lazebnik 2011) then rotates both alike, so that the
signs lose little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.codes import check_bits, pack
from coophash.data.pairs import PairSet


class CCAHash:
    """CCA-ITQ codes of image-text pairs.

    Args:
        bits: length of a code, at most the narrower of the two features.
        seed: of the first rotation.
        ridge: added to the covariances, in shares of their mean variance.
        power: of the correlations that scale the directions; 4 in the paper.
        iterations: turns of ITQ.
    """

    def __init__(
        self, bits: int, seed: int = 0, ridge: float = 0.05, power: float = 4.0,
        iterations: int = 50,
    ) -> None:  # fmt: skip
        self.bits, self.seed, self.ridge = check_bits(bits), seed, ridge
        self.power, self.iterations = power, iterations
        self.means: list[NDArray[np.float64]] = []
        self.projections: list[NDArray[np.float64]] = []

    def fit(self, pairs: PairSet) -> CCAHash:
        """Find the directions and the rotation; labels are not looked at. Returns itself.

        Raises:
            ValueError: more bits than features of one modality.
        """
        narrow = min(pairs.image_dim, pairs.text_dim)
        if self.bits > narrow:
            raise ValueError(f"bits must be at most {narrow}, the narrower width, got {self.bits}")
        views = [np.asarray(v, np.float64) for v in (pairs.images, pairs.texts)]
        self.means = [view.mean(axis=0) for view in views]
        x, y = (view - mean for view, mean in zip(views, self.means, strict=True))
        wx, wy = (self._whitener(view) for view in (x, y))
        left, correlations, right = np.linalg.svd(wx.T @ (x.T @ y) @ wy / len(x))
        scale = np.clip(correlations[: self.bits], 0, 1) ** self.power
        self.projections = [
            (wx @ left[:, : self.bits]) * scale, (wy @ right[: self.bits].T) * scale
        ]  # fmt: skip
        both = np.concatenate([x @ self.projections[0], y @ self.projections[1]])
        gaussian = np.random.RandomState(self.seed).standard_normal((self.bits, self.bits))
        rotation = np.linalg.qr(gaussian)[0]
        for _ in range(self.iterations):
            signs = np.where(both @ rotation >= 0, 1.0, -1.0)
            u, _, v = np.linalg.svd(both.T @ signs)
            rotation = u @ v
        self.projections = [projection @ rotation for projection in self.projections]
        return self

    def _whitener(self, centred: NDArray[np.float64]) -> NDArray[np.float64]:
        """W with W^T C W = I for the covariance C, ridge added."""
        covariance = centred.T @ centred / len(centred)
        covariance += self.ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors / np.sqrt(values))

    def encode_image(self, images: Any) -> NDArray[np.uint8]:
        """Packed codes of image features (N, image_dim) or of a `PairSet`."""
        return self._encode(images.images if isinstance(images, PairSet) else images, 0)

    def encode_text(self, texts: Any) -> NDArray[np.uint8]:
        """Packed codes of text features (N, text_dim) or of a `PairSet`."""
        return self._encode(texts.texts if isinstance(texts, PairSet) else texts, 1)

    def _encode(self, values: Any, view: int) -> NDArray[np.uint8]:
        if not self.projections:
            raise RuntimeError("fit the directions first: CCAHash(bits).fit(pairs)")
        centred = np.asarray(values, np.float64) - self.means[view]
        return np.asarray(pack(centred @ self.projections[view]))
