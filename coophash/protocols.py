"""Retrieval protocols: named, seeded splits and evaluation rules, each with a hash.

Papers on hashing disagree because of split seeds, cut-offs, tie order and metric definitions. A
protocol states all of them as data. Its `hash` covers everything that decides a result, so two
figures with the same protocol hash and split hash are comparable, and others are not:

    protocol = coophash.protocols.get("cifar10")
    split = protocol.split(images.labels)  # of open_dataset(path, split="all")
    ...  # train on split.train, encode split.query and split.database
    record = protocol.evaluate(query_codes, codes, labels[split.query], labels[split.database])

`dataclasses.replace(protocol, seed=3)` makes another protocol, with another hash.

Every named protocol takes ties in the mean over their orders; AP is divided, and queries without a
relevant item are counted, as its source does. DeepHash-pytorch's `topK = -1`, which drops the last
rank, is all ranks here. `coophash.compat` has the original functions, quirks included.
"""

from __future__ import annotations

from typing import Any

from coophash._protocol import Protocol
from coophash._splits import Split
from coophash.data.known import KNOWN

__all__ = ["Protocol", "Split", "get", "names"]

_DEEPHASH = "swuxyj/DeepHash-pytorch @ ab14068, utils/tools.py"
_UNSEEDED = (
    "The original does not seed its permutation: each run has other queries. Ours is seeded; after "
    "numpy.random.seed(seed) the original's loader draws the same split."
)
_ADVERSARIAL = "khoadoan/adversarial-hashing @ eeeeb46, notebooks/create_datasets.ipynb"


def _cifar10(name: str, **fields: Any) -> Protocol:
    settings = {
        "rule": "per-class", "query": 100, "train": 500, "items": 60_000, "classes": 10,
        "divisor": "hits", "source": _DEEPHASH, "notes": _UNSEEDED, **fields,
    }  # fmt: skip
    return Protocol(name=name, dataset="cifar10", **settings)


def _lists(name: str, dataset: str, k: int | None, notes: str = "") -> Protocol:
    known = KNOWN[dataset]
    return Protocol(
        name=name, dataset=dataset, rule="lists", database="list", k=k, divisor="hits",
        query=known.parts["query"], train=known.parts["train"],
        database_items=known.parts["database"], classes=known.classes or 0,
        multi_label=known.multi_label, source=f"{_DEEPHASH} and data/{dataset}",
        notes=" ".join(filter(None, (notes, known.note))),
    )  # fmt: skip


_NAMED = {
    protocol.name: protocol
    for protocol in (
        _cifar10("cifar10"),
        _cifar10("cifar10-1", database="train+rest"),
        _cifar10("cifar10-2", query=1_000, train=5_000, database="train"),
        _cifar10(
            "cifar10-hashgan", image_size=32, k=54_000, empty="skip",
            source="thuml/HashGAN @ 2d11400, config/ and data_list/",
            notes="Our split is disjoint. HashGAN's lists are not: 888 of its 1,000 queries and "
            "4,504 of its 5,000 training images are in its database; taking the overlap out cost "
            "another repository about a point of mAP. HashGAN ranks by inner products of real "
            "outputs, here codes are ranked.",
        ),
        Protocol(
            name="mnist", dataset="mnist", rule="stratified", query=10_000, train=60_000,
            database="train", items=70_000, classes=10, image_size=64, source=_ADVERSARIAL,
            notes="Both published parts pooled; the original draws with scikit-learn and seeds 9, "
            "19, 29, 39 and 49, so its splits are others.",
        ),
        Protocol(
            name="mnist-5k", dataset="mnist", rule="stratified", query=10_000, train=5_000,
            items=70_000, classes=10, image_size=64, source=_ADVERSARIAL,
            notes="Both published parts pooled, database 55,000; the original draws with "
            "scikit-learn and seeds 109, 119, 129, 139 and 149, so its splits are others.",
        ),
        _lists("nuswide-21", "nuswide_21", 5_000, "The database contains the training images."),
        _lists("nuswide-81", "nuswide_81_m", 5_000, "The size of the database is not published."),
        _lists("coco", "coco", 5_000, "The size of the database is not published."),
        _lists("imagenet-100", "imagenet", 1_000, "The size of the database is not published."),
        _lists(
            "mirflickr", "mirflickr", None,
            "19 queries have no label: nothing is relevant to them, and they count 0.",
        ),
    )
}  # fmt: skip
# DeepHash-pytorch's own names of those that are called otherwise here.
_ALIASES = {"nuswide_21": "nuswide-21", "nuswide_81_m": "nuswide-81", "imagenet": "imagenet-100"}


def names() -> tuple[str, ...]:
    """The named protocols."""
    return tuple(_NAMED)


def get(name: str) -> Protocol:
    """The protocol of this name; DeepHash-pytorch's names of its sets are taken too.

    Raises:
        ValueError: there is none; the message lists them.
    """
    found = _NAMED.get(_ALIASES.get(name, name))
    if found is None:
        raise ValueError(f"no protocol {name!r} is known, only {', '.join(_NAMED)}")
    return found
