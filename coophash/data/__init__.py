"""Labelled images, `ImageSet`, and image-text pairs, `PairSet`: seeded splits, and readers for the
published layouts.

Nothing here downloads anything, and a pickle is read as plain data or not at all.
"""

from __future__ import annotations

from coophash.data.arrays import load_arrays
from coophash.data.bag_of_words import BagOfWords
from coophash.data.check import check_dataset
from coophash.data.checks import check_images
from coophash.data.cifar10 import read_cifar10
from coophash.data.cifar100 import read_cifar100
from coophash.data.halves import read_mnist_halves, split_halves
from coophash.data.idx import read_idx, read_mnist
from coophash.data.image_folder import read_image_folder
from coophash.data.image_list import ImageList, read_image_list, read_image_lists
from coophash.data.imageset import ImageSet, concatenate
from coophash.data.mnist5k import read_mnist5k
from coophash.data.opening import open_dataset
from coophash.data.pair_files import read_pairs
from coophash.data.pair_table import PairTable, read_pair_table
from coophash.data.pairs import PairSet
from coophash.data.resize import adapt_images
from coophash.data.split import split_indices
from coophash.data.uci_digits import read_uci_digits

__all__ = [
    "BagOfWords",
    "ImageList",
    "ImageSet",
    "PairSet",
    "PairTable",
    "adapt_images",
    "check_dataset",
    "check_images",
    "concatenate",
    "load_arrays",
    "open_dataset",
    "read_cifar10",
    "read_cifar100",
    "read_idx",
    "read_image_folder",
    "read_image_list",
    "read_image_lists",
    "read_mnist",
    "read_mnist5k",
    "read_mnist_halves",
    "read_pair_table",
    "read_pairs",
    "read_uci_digits",
    "split_halves",
    "split_indices",
]
