"""Labelled images: `ImageSet`, seeded splits and readers for the published layouts.

Nothing here downloads anything or unpickles a file.
"""

from __future__ import annotations

from coophash.data.imageset import ImageSet
from coophash.data.mnist5k import read_mnist5k
from coophash.data.split import split_indices

__all__ = ["ImageSet", "read_mnist5k", "split_indices"]
