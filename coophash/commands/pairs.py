"""What `train`, `encode`, `search` and `evaluate` do with image-text pairs (method ucch)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coophash.commands.common import Device, Split, console, new_table, say, torch_device

if TYPE_CHECKING:
    from coophash.data import PairSet
    from coophash.data.pair_files import Part
    from coophash.encoded import EncodedSet
    from coophash.ucch import UCCH

# Options of the command that are settings of the model here.
_ELSEWHERE = {"bits": "--bits", "image_dim": "the data", "text_dim": "the data"}
# Settings that are not the model's but those of what makes its features.
SOURCES = ("queries", "backbone", "weights", "size", "words", "tune")


def is_pair_model(folder: Path) -> bool:
    """Whether a model folder holds a UCCH."""
    from coophash.checkpoints import CONFIG_FILE

    try:
        description = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # `load` says what is wrong
    return isinstance(description, dict) and description.get("model") == "UCCH"


def train_pairs(
    data: Path,
    model: Path,
    bits: int,
    seed: int,
    validation_fraction: float,
    options: dict[str, Any],
    device: Device,
    resume: bool,
) -> tuple[Any, int]:
    """Train on a feature file or a table; returns the history and the epochs done."""
    from coophash.checkpoints import CONFIG_FILE
    from coophash.commands.learned import keep_learned
    from coophash.ucch import UCCH
    from coophash.ucch_training import fit_pairs

    options = dict(options)
    given = {name: options.pop(name) for name in SOURCES if name in options}
    tuned = _tuned_backbone(given)
    pairs, sources = _training_pairs(data, given, tuned)
    width = pairs.image_dim if tuned is None else tuned.width
    hasher = UCCH(bits, width, pairs.text_dim, seed=seed, sources=sources, **options)
    if tuned is not None:
        from coophash.ucch_backbone import tune_backbone

        tune_backbone(hasher, tuned)
    hasher.to(torch_device(device))
    say(f"{pairs!r}; preset {hasher.preset}, seed {seed}, on {hasher.device.type}")
    try:
        history = fit_pairs(
            hasher, pairs, validation_fraction or None, seed=seed, folder=model, resume=resume,
            checkpoint_every=1,
        )  # fmt: skip
    except (KeyboardInterrupt, FloatingPointError):
        if (model / CONFIG_FILE).is_file():
            keep_learned(model, pairs.images, pairs.texts)
        raise
    keep_learned(model, pairs.images, pairs.texts)  # those held out as well: they chose the epoch
    return history, hasher.config.epochs


def option_names() -> list[str]:
    """Options that `--set` and `--config` take for UCCH."""
    from coophash.ucch_config import UCCHConfig

    names = [field.name for field in dataclasses.fields(UCCHConfig)]
    return ["preset", *[name for name in names if name not in _ELSEWHERE], *SOURCES]


def _tuned_backbone(given: dict[str, Any]) -> Any:
    """The backbone that is to be trained along, if one is; takes its options away."""
    tune = given.pop("tune", False)
    if not isinstance(tune, bool):
        raise ValueError(f"tune must be true or false, got {tune!r}")
    if not tune:
        return None
    if "backbone" not in given:
        raise ValueError("option 'tune' trains a backbone: give backbone too")
    source = _image_source(given)
    for name in ("backbone", "weights", "size"):
        given.pop(name, None)
    return source


def _training_pairs(
    data: Path, given: dict[str, Any], tuned: Any = None
) -> tuple[PairSet, dict[str, Any]]:
    """Training pairs, and what made their features; raw images for a backbone that is trained."""
    from coophash.data import BagOfWords, read_pair_table, read_pairs
    from coophash.data.pair_table import TABLES
    from coophash.features import describe_source

    if data.suffix.lower() not in TABLES:
        if "words" in given:
            raise ValueError("option 'words' is for tables of images and texts alone")
        pairs = read_pairs(data, "train", given.get("queries"))
        if tuned is not None:
            if not pairs.raw:
                raise ValueError(f"option 'tune' is for raw images, and {data} has features")
            return pairs, {}
        if pairs.raw:
            image = _image_source(given)
            return pairs.with_features(image), {"image": describe_source(image)}
        unused = [name for name in given if name != "queries"]
        if unused:
            raise ValueError(f"option {unused[0]!r} is for raw images, and {data} has features")
        return pairs, {}
    if "queries" in given:
        raise ValueError("option 'queries' is for pooled feature files, not tables")
    table = read_pair_table(data)
    image = _image_source(given)
    if tuned is not None:
        from coophash.ucch_backbone import photos_for

        image = photos_for(tuned.size, tuned.channels)
    text = BagOfWords.fit(table.captions, words=given.get("words", 1000))
    sources = {"image": describe_source(image), "text": describe_source(text)}
    return table.features(image, text), sources


def _image_source(given: dict[str, Any]) -> Any:
    from coophash.features import Pixels, TimmFeatures

    if "backbone" not in given:
        if "weights" in given:
            raise ValueError("option 'weights' is of a backbone: give backbone too")
        return Pixels(given.get("size", 16))
    weights = given.get("weights")
    return TimmFeatures(
        str(given["backbone"]), weights, pretrained=weights is None, size=given.get("size")
    )


def read_for(hasher: UCCH, data: Path, split: Part, queries: int | None = None) -> PairSet:
    """Pairs of a feature file or a table, as the model takes them."""
    from coophash.data import read_pair_table, read_pairs
    from coophash.data.pair_table import TABLES

    if data.suffix.lower() in TABLES:
        if (trained := hasher.trained_backbone) is not None and hasher.text_source is not None:
            from coophash.ucch_backbone import photos_for

            photos = photos_for(trained["size"], trained["channels"])
            return read_pair_table(data).features(photos, hasher.text_source)
        if hasher.image_source is None or hasher.text_source is None:
            raise ValueError(
                f"the model takes features, and {data} is a table of images and texts: give a "
                "feature file"
            )
        return read_pair_table(data).features(hasher.image_source, hasher.text_source)
    return read_pairs(data, split, queries)


def encode_pairs(
    model: Path, data: Path, out: Path, split: Part, device: Device, queries: int | None = None
) -> None:
    """Codes of both modalities in one file."""
    hasher = load_ucch(model, device)
    from coophash.commands.learned import are_learned
    from coophash.encoded import EncodedSet

    pairs = read_for(hasher, data, split, queries)
    learned = are_learned(model, pairs.images, pairs.texts)
    written = dataclasses.replace(
        encoded_pairs(hasher, pairs), learned=None if learned is None else np.tile(learned, 2)
    ).save(out)

    count = len(EncodedSet.load(written))
    say(f"{written}: {count:,} codes of {hasher.config.bits} bits, half of images, half of texts")


def load_ucch(folder: Path, device: Device) -> UCCH:
    """The UCCH of a folder, on the device."""
    from coophash.checkpoints import load

    model: UCCH = load(folder)
    return model.to(torch_device(device))


def encoded_pairs(hasher: UCCH, pairs: PairSet) -> EncodedSet:
    """Codes of images, then of texts, with the ids of `coophash.cross_modal`."""
    from coophash.cross_modal import IMAGE, TEXT, modality_ids
    from coophash.encoded import EncodedSet

    count = len(pairs)
    paths = None
    if pairs.paths is not None or pairs.captions is not None:
        blank = ("",) * count
        paths = (*(pairs.paths or blank), *(pairs.captions or blank))
    return EncodedSet(
        np.concatenate([hasher.encode_image(pairs), hasher.encode_text(pairs)]),
        hasher.config.bits,
        np.concatenate([modality_ids(pairs.ids, IMAGE), modality_ids(pairs.ids, TEXT)]),
        None if pairs.labels is None else np.concatenate([pairs.labels, pairs.labels]),
        pairs.class_names,
        paths,
        np.repeat(np.array([IMAGE, TEXT], np.uint8), count),
    )


def query_codes(model: Path, queries: str | Path, split: Split, device: Device) -> EncodedSet:
    """Codes of a feature file, a table, an image file, or of the words that were given."""
    from coophash.cross_modal import IMAGE, TEXT
    from coophash.data.pair_files import SUFFIXES
    from coophash.data.pair_table import TABLES
    from coophash.encoded import EncodedSet

    hasher, path = load_ucch(model, device), Path(queries)
    if path.exists() and (path.is_dir() or path.suffix.lower() in (*SUFFIXES, *TABLES)):
        return encoded_pairs(hasher, read_for(hasher, path, split))
    if path.is_file():
        codes, modality = hasher.encode_image([path]), IMAGE
    elif hasher.text_source is not None:
        codes, modality = hasher.encode_text([str(queries)]), TEXT
    else:
        raise FileNotFoundError(
            f"no queries at {str(queries)!r} (the model has no words of its own, so it is no text)"
        )
    return EncodedSet(
        codes, hasher.config.bits, paths=(str(queries),), modalities=np.array([modality], np.uint8)
    )


def evaluate_encoded(
    queries: EncodedSet, database: EncodedSet, radius: int, k: int | None
) -> dict[str, Any]:
    """Scores of both directions, shown as a table and returned for JSON.

    Without labels in either, as for Flickr30K: how often the own other half is found.
    """
    from coophash.cross_modal import IMAGE, TEXT, evaluate_cross_modal
    from coophash.evaluation import check_comparable

    bare = queries.labels is None and database.labels is None and queries.bits == database.bits
    if not bare:
        check_comparable(queries, database)
    parts: dict[str, list[EncodedSet]] = {}
    for name, encoded in (("queries", queries), ("database", database)):
        assert encoded.modalities is not None
        parts[name] = [
            encoded.subset(np.flatnonzero(encoded.modalities == modality))
            for modality in (IMAGE, TEXT)
        ]
        images, texts = parts[name]
        if not np.array_equal(images.ids + 1, texts.ids):
            raise ValueError(
                f"the {name} must be pairs, an image and a text each, in one order: encode them "
                "with `coophash encode`"
            )
    asked, there = parts["queries"], parts["database"]
    learned = 0 if asked[0].learned is None else int(asked[0].learned.sum())
    if learned:
        say(
            f"warning: {learned:,} of the {len(asked[0]):,} query pairs were given for training: "
            "these are not the scores of new pairs"
        )
    if bare:
        return _own_halves(asked, there, queries.bits, k)
    if np.isin(asked[0].ids, there[0].ids).any():
        say("note: some queries have the id of a pair in the database; are they the same pairs?")
    scores = evaluate_cross_modal(
        asked[0].codes, asked[1].codes, there[0].codes, there[1].codes, asked[0].labels,
        there[0].labels, bits=queries.bits, radius=radius, k=k,
    )  # fmt: skip
    table = new_table(
        "score", "image to text", "text to image",
        title=f"{len(asked[0]):,} query pairs, {len(there[0]):,} pairs, {queries.bits} bits",
    )  # fmt: skip
    both = scores.image_to_text, scores.text_to_image

    def row(name: str, *cells: str) -> None:
        table.add_row(name, *cells)

    row("mAP, mean over the orders of ties", *(f"{s.mean_average_precision:.4f}" for s in both))
    row("mAP, worst and best order", *(f"{s.map_worst:.4f} to {s.map_best:.4f}" for s in both))
    row(f"precision within radius {radius}", *(f"{s.precision_at_radius:.4f}" for s in both))
    if k is not None:
        row(f"mAP@{k}", *(f"{s.map_at_k:.4f}" for s in both))
        row(f"precision@{k}", *(f"{s.precision_at_k:.4f}" for s in both))
    console.print(table)
    return scores.as_dict()


def _check_same(asked: EncodedSet, there: EncodedSet) -> None:
    """Raise where an id stands for one thing among the queries and for another in the database."""
    if asked.paths is None or there.paths is None:
        return
    names = dict(zip(there.ids.tolist(), there.paths, strict=True))
    for number, path in zip(asked.ids.tolist(), asked.paths, strict=True):
        if names[number] != path:
            raise ValueError(
                f"without labels a query is right with its own other half, and query {number} is "
                f"{path!r} where the database has {names[number]!r}: give the same pairs as both, "
                "or labels"
            )


def _own_halves(
    asked: list[EncodedSet], there: list[EncodedSet], bits: int, k: int | None
) -> dict[str, Any]:
    """Recall of instance retrieval in both directions: is the pair's own other half found?"""
    from coophash.cross_modal import IMAGE, TEXT, instance_recall, split_ids

    ks = tuple(sorted({1, 5, 10} if k is None else {1, 5, 10, k}))
    own, others = split_ids(asked[0].ids)[0], split_ids(there[0].ids)[0]
    if not np.isin(own, others).all():
        raise ValueError(
            "without labels a query is right with its own other half, and some queries are no pair "
            "of the database: give the same pairs as both, or labels"
        )
    for modality in (IMAGE, TEXT):
        _check_same(asked[modality], there[modality])
    found = {
        "image_to_text": instance_recall(asked[IMAGE].codes, there[TEXT].codes, own, others, ks),
        "text_to_image": instance_recall(asked[TEXT].codes, there[IMAGE].codes, own, others, ks),
    }
    table = new_table(
        "own other half, no labels", "image to text", "text to image",
        title=f"{len(asked[0]):,} query pairs, {len(there[0]):,} pairs, {bits} bits",
    )  # fmt: skip
    for rank in ks:
        table.add_row(f"recall@{rank}", *(f"{recall[rank]:.4f}" for recall in found.values()))
    console.print(table)
    return {
        direction: {f"recall@{rank}": value for rank, value in recall.items()}
        for direction, recall in found.items()
    }
