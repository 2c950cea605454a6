"""The data sets that retrieval papers use: what each consists of, and in which layout it comes.

Counts and list files are those of swuxyj/DeepHash-pytorch at commit ab14068 (folder `data/`), whose
lists OrthoHash and others share. The large database lists are not among that repository's files,
but their git object ids are, so a list from elsewhere can be told to be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from coophash.data.check_pairs import PAIR_FACTS

Layout = Literal["cifar10", "cifar100", "mnist", "lists", "pairs"]


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """What is published of a data set.

    Attributes:
        name: as `coophash data check ROOT NAME` takes it.
        title: for people.
        layout: which reader reads it.
        expects: what the root folder must hold, for people.
        classes: how many.
        parts: items of each part as it is published; None where that is not known.
        image_shape: (C, H, W) where all images have it.
        per_class: items of each class in a part, where that is known: one number for all, or one
            a class.
        multi_label: whether an item may have several labels.
        train_in_database: whether the database list contains the training list.
        list_ids: git object id of each list file as it is published.
        note: what else one should know.
    """

    name: str
    title: str
    layout: Layout
    expects: str
    classes: int | None
    parts: Mapping[str, int | None]
    image_shape: tuple[int, int, int] | None = None
    per_class: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    multi_label: bool = False
    train_in_database: bool | None = None
    list_ids: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def _pairs(name: str, title: str, expects: str, multi_label: bool = False) -> KnownSet:
    """Image-text features as the authors of UCCH load them; sizes are in `check_pairs`."""
    facts = PAIR_FACTS[name]
    return KnownSet(
        name=name, title=title, layout="pairs", expects=expects, classes=facts.classes,
        multi_label=multi_label or name == "iapr_fea", train_in_database=True,
        parts={"query": facts.queries, "train": facts.retrieval, "database": facts.retrieval},
    )  # fmt: skip


_LISTS = "list files and images"
_CIFAR = "binary or python files"

KNOWN = {
    known.name: known
    for known in (
        KnownSet(
            name="cifar10", title="CIFAR-10", layout="cifar10", classes=10,
            expects=_CIFAR,
            parts={"train": 50_000, "test": 10_000}, image_shape=(3, 32, 32),
            per_class={"train": 5_000, "test": 1_000},
        ),
        KnownSet(
            name="cifar100", title="CIFAR-100", layout="cifar100", classes=100,
            expects=_CIFAR,
            parts={"train": 50_000, "test": 10_000}, image_shape=(3, 32, 32),
            per_class={"train": 500, "test": 100},
        ),
        KnownSet(
            name="mnist", title="MNIST", layout="mnist", classes=10,
            expects="idx files, plain or .gz",
            parts={"train": 60_000, "test": 10_000}, image_shape=(1, 28, 28),
            per_class={
                "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
                "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
            },
        ),
        KnownSet(
            name="nuswide_21", title="NUS-WIDE, 21 labels", layout="lists",
            expects=_LISTS, classes=21, multi_label=True, train_in_database=True,
            parts={"query": 2_100, "train": 10_500, "database": 193_734},
            list_ids={
                "query": "371be57ca9dd7b0d98323cbc4dee9f1191224b5b",
                "train": "20f16d48c5d71412ab118563ab0edb3fd8a4e975",
                "database": "23c314cf90f8ed2648c957d302435ad7ccf9ce48",
            },
        ),
        KnownSet(
            name="nuswide_21_m", title="NUS-WIDE, 21 (*_m.jpg)", layout="lists",
            expects=_LISTS, classes=21, multi_label=True,
            parts={"query": 2_100, "train": 10_500, "database": None},
            list_ids={
                "query": "36e9b96390b33eb5da55886545830c60a2bd1aaa",
                "train": "7843deb26bf10fdc302209da6415800561577d59",
                "database": "4d9dd9b54fea2911d2dfc499b32f57c064dd6671",
            },
        ),
        KnownSet(
            name="nuswide_81_m", title="NUS-WIDE, 81 (*_m.jpg)", layout="lists",
            expects=_LISTS, classes=81, multi_label=True,
            parts={"query": 5_000, "train": 10_000, "database": None},
            list_ids={
                "query": "0c9cbaa5bfac5e83bf5c451c3d559b52a41de483",
                "train": "6661192fd42abdaabdb8bad4772e75266565dce2",
                "database": "1ea129609b2ac6510fd2ecd2e3ab086ef1c4d0be",
            },
            note="HashGAN's own lists of this set have a database of 168,692",
        ),
        KnownSet(
            name="coco", title="MS COCO 2014", layout="lists",
            expects=_LISTS, classes=80, multi_label=True,
            parts={"query": 5_000, "train": 10_000, "database": None},
            list_ids={
                "query": "e326d2091ab54672f1116fd93ea2d93fd76052c6",
                "train": "2b78ffd61c5ec98234343a8a2321d1378345d1bb",
                "database": "aaabcac7e9768b659dd12500b969add4b0f56e91",
            },
        ),
        KnownSet(
            name="imagenet", title="ImageNet, 100 classes", layout="lists",
            expects=_LISTS, classes=100,
            parts={"query": 5_000, "train": 13_000, "database": None},
            per_class={"query": 50, "train": 130},
            list_ids={
                "query": "6c42a17f483a8975f95691f36cdb2f52a50fe611",
                "train": "b291e089fe0c712501690d72da107f3190e9224b",
                "database": "8d9fba9d5d0dbbb0051e44d57d386d2382f1ca01",
            },
        ),
        KnownSet(
            name="mirflickr", title="MIRFlickr-25K", layout="lists",
            expects=_LISTS, classes=38, multi_label=True, train_in_database=False,
            parts={"query": 1_000, "train": 4_000, "database": 20_000},
            list_ids={
                "query": "ff10c8d7ce418d14c2dc85c9cad83b2bdafae363",
                "train": "0fbdee0a66d8fa03e69a9d153133a9c45e1c9201",
                "database": "05c46e607982c26a4a1135770148f0868e100b60",
            },
        ),
        KnownSet(
            name="voc2012", title="PASCAL VOC 2012", layout="lists",
            expects=_LISTS, classes=20, multi_label=True, train_in_database=False,
            parts={"query": 1_000, "train": 4_000, "database": 6_540},
            list_ids={
                "query": "2a2174e6f66a82946fdc56db09b35836af639d39",
                "train": "220d50fcb76ba731d767d7b3a00553392b57fa45",
                "database": "6a2aeddd1eaff223a2f6e870290776d759b9933f",
            },
        ),
        _pairs("wiki", "Wikipedia image-text (Rasiwasia 2010)", "I_tr, T_tr, L_tr, I_te, ..."),
        _pairs("mirflickr25k_fea", "MIRFlickr-25K features", "XAll, YAll, LAll", True),
        _pairs("mirflickr25k_dcmh", "MIRFlickr-25K of DCMH", "images or IAll, YAll, LAll", True),
        _pairs("iapr_fea", "IAPR TC-12 features", "VDatabase, YDatabase, databaseL, VTest, ..."),
        _pairs("nus_wide_tc10_fea", "NUS-WIDE TC-10 features", "XAll, YAll, LAll", True),
        _pairs("mscoco_fea", "MS-COCO features", "XAll, YAll, LAll", True),
        KnownSet(
            name="pairs", title="any other image-text features", layout="pairs",
            expects=".mat, .h5, .npz features", classes=None, multi_label=True,
            parts={"query": None, "train": None, "database": None},
        ),
        KnownSet(
            name="lists", title="any other", layout="lists",
            expects=_LISTS, classes=None, multi_label=True,
            parts={"query": None, "train": None, "database": None},
        ),
    )
}  # fmt: skip


def known_set(name: str) -> KnownSet:
    """The known set of this name.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if name not in KNOWN:
        raise ValueError(f"no data set {name!r} is known, only {', '.join(KNOWN)}")
    return KNOWN[name]
