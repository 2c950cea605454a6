"""`coophash data` and `coophash evaluate --protocol`: what they print, write and exit with."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("typer")

import coophash as ch
from coophash import protocols
from coophash.data.known import KNOWN
from coophash.encoded import EncodedSet


@pytest.fixture
def listed(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    for name, paths in (("test", ["q"]), ("train", ["d"]), ("database", ["d", "e"])):
        (tmp_path / f"{name}.txt").write_text("".join(f"{p}.png 1 0\n" for p in paths))
        for number, path in enumerate(paths):
            pixels = np.full((8, 9, 3), 50 * number + len(paths), np.uint8)
            pillow.fromarray(pixels).save(tmp_path / f"{path}.png")
    return tmp_path


def test_list_names_everything_in_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run("data", "list")
    assert result.code == 0 and not result.err
    for name in (*KNOWN, *protocols.names()):
        assert name in result.out
    assert all(protocols.get(name).hash in result.out for name in protocols.names())
    assert max(map(len, result.out.splitlines())) <= 80


def test_check_says_complete_or_what_is_not(run, listed):
    result = run("data", "check", listed, "lists")
    assert result.code == 0 and result.out.splitlines()[-1] == "complete", result.out
    (listed / "e.png").unlink()
    (listed / "train.txt").unlink()
    result = run("data", "check", listed, "lists")
    assert result.code == 1 and result.out.splitlines()[-1] == "2 missing", result.out
    assert "train.txt" in result.out and "1 of 2 are not under" in " ".join(result.out.split())
    assert not result.err


def test_check_takes_a_protocol_and_lists_elsewhere(run, listed, tmp_path):
    result = run("data", "check", listed, "nuswide-21", "--images", 0)
    assert result.code == 1 and "2,100 images are published" in " ".join(result.out.split())
    lists = tmp_path / "lists [1]"  # what rich would take for markup
    lists.mkdir()
    for name in ("test", "train", "database"):
        (listed / f"{name}.txt").rename(lists / f"{name}.txt")
    assert run("data", "check", listed, "lists", "--lists", lists).code == 0
    (lists / "train.txt").write_text("nonsense\n")
    result = run("data", "check", listed, "lists", "--lists", lists)
    assert "line 1: expected" in " ".join(result.out.split()) and "[1]" in result.out


def test_wrong_arguments(run, tmp_path):
    assert "no data set 'cifar' is known" in run("data", "check", tmp_path, "cifar").error
    assert "without list files" in run("data", "check", tmp_path, "mnist", "--lists", ".").error


@pytest.fixture
def codes(tmp_path, monkeypatch):
    """Codes of a whole set of 100, shuffled, and a protocol that splits it."""
    protocol = protocols.Protocol(
        name="tiny", dataset="cifar10", rule="per-class", query=2, train=3, items=100, classes=10,
        k=20,
    )  # fmt: skip
    monkeypatch.setitem(protocols._NAMED, "tiny", protocol)
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(100) % 10)
    packed = ch.pack(random.normal(size=(100, 12)) + np.eye(10, 12)[labels])
    order = random.permutation(100)
    names = tuple("abcdefghij")
    whole = EncodedSet(packed[order], 12, order, labels[order], names)
    whole.save(tmp_path / "codes.npz")
    return protocol, packed, labels, tmp_path / "codes.npz", names


def test_evaluate_by_protocol(run, codes, tmp_path):
    protocol, packed, labels, path, names = codes
    split = protocol.split(labels)
    data = (
        packed[split.query],
        packed[split.database],
        labels[split.query],
        labels[split.database],
    )
    expected = protocol.evaluate(*data, split=split, bits=12)
    result = run("evaluate", path, "--protocol", "tiny", "--json", tmp_path / "r.json")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "r.json").read_text()) == expected
    for text in (protocol.hash, split.hash, f"{expected['map']:.4f}", "mAP@20, ties: average"):
        assert text in result.out
    # The two parts, encoded apart, give the same scores; which split they are of is not known.
    for name, rows in (("q", split.query), ("d", split.database)):
        EncodedSet(packed[rows], 12, rows, labels[rows], names).save(tmp_path / f"{name}.npz")
    both = ("--queries", tmp_path / "q.npz", "--database", tmp_path / "d.npz")
    run("evaluate", *both, "--protocol", "tiny", "--json", tmp_path / "two.json")
    assert json.loads((tmp_path / "two.json").read_text()) == {**expected, "split_hash": None}
    run("evaluate", path, "--protocol", "tiny", "--seed", 4, "--json", tmp_path / "r4.json")
    other = json.loads((tmp_path / "r4.json").read_text())
    assert other["seed"] == 4 and other["protocol_hash"] != expected["protocol_hash"]
    assert other["split_hash"] != expected["split_hash"]


def test_evaluate_by_protocol_errors(run, codes, tmp_path):
    _, packed, labels, path, names = codes
    evaluate = ("evaluate", path, "--protocol")
    assert "no protocol 'x' is known" in run(*evaluate, "x").error
    assert "cifar10 splits all 60,000 items" in run(*evaluate, "cifar10").error
    assert "fixed by list files" in run(*evaluate, "coco").error
    assert "leave --query-count and -k out" in run(*evaluate, "tiny", "-k", 3).error
    assert "--protocol takes CODES.npz" in run("evaluate", "--protocol", "tiny").error
    part = EncodedSet(packed[:50], 12, np.arange(1, 51), labels[:50], names)
    part.save(tmp_path / "part.npz")
    assert "are not 0 to 49" in run("evaluate", tmp_path / "part.npz", "--protocol", "tiny").error
    EncodedSet(packed, 12).save(tmp_path / "bare.npz")
    assert "no labels" in run("evaluate", tmp_path / "bare.npz", "--protocol", "tiny").error
