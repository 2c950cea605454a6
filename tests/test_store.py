"""An index on disk: what is saved opens as it was, damage is found and named, faiss agrees."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import coophash as ch
from coophash import store


def filled(bits: int = 60, rows: int = 500, seed: int = 0) -> ch.HammingIndex:
    rng = np.random.default_rng(seed)
    index = ch.HammingIndex(bits)
    index.add(ch.pack(rng.random((rows, bits)) < 0.5))
    return index


def queries(bits: int = 60) -> np.ndarray:
    return ch.pack(np.random.default_rng(9).random((7, bits)) < 0.5)


def assert_same_index(a: ch.HammingIndex, b: ch.HammingIndex) -> None:
    assert (a.bits, len(a)) == (b.bits, len(b))
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.get(a.ids), b.get(b.ids))
    asked = queries(a.bits)
    for x, y in zip(a.search(asked, 20), b.search(asked, 20), strict=True):
        np.testing.assert_array_equal(x, y)


def histories() -> list:
    plain = filled()
    sparse = filled(8, 300)
    sparse.remove(np.arange(0, 300, 3))
    offset = ch.HammingIndex(129)
    offset.add(queries(129), ids=np.arange(1000, 1007))
    shuffled = filled(33)
    shuffled.add(queries(33), ids=[900, 700, 800, 650, 640, 10**15, 630])
    shuffled.remove([700, 3])
    emptied = filled(64, 5)
    emptied.remove(np.arange(5))
    return [plain, sparse, offset, shuffled, emptied, ch.HammingIndex(17)]


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("history", range(6))
def test_what_is_saved_opens_as_it_was(tmp_path, history, mmap):
    index = histories()[history]
    index.save(tmp_path / "index")
    opened = ch.HammingIndex.open(tmp_path / "index", mmap=mmap, threads=2)
    assert_same_index(index, opened)
    # ids go on where they were, and those removed stay used
    np.testing.assert_array_equal(opened.add(queries(index.bits)), index.add(queries(index.bits)))
    assert_same_index(index, opened)


def test_removed_ids_stay_used_after_a_round_trip(tmp_path):
    index = filled()
    index.remove([7, 499])
    for _ in range(2):
        index.save(tmp_path / "index")
        index = ch.HammingIndex.open(tmp_path / "index")
        for id in (7, 499):
            with pytest.raises(ValueError, match="never used again"):
                index.add(queries()[:1], ids=[id])


def test_an_opened_index_changes_without_touching_its_files(tmp_path):
    index = filled()
    index.save(tmp_path / "index")
    before = {f.name: f.read_bytes() for f in (tmp_path / "index").iterdir()}
    opened = ch.HammingIndex.open(tmp_path / "index")
    for changed in (index, opened):
        changed.add(queries())
        changed.remove(np.arange(400))
        changed.add(queries(), ids=[3000, 2000, 1000, 5000, 4000, 9000, 8000])
        changed.remove([2000, 401])
    assert_same_index(index, opened)
    assert before == {f.name: f.read_bytes() for f in (tmp_path / "index").iterdir()}
    opened.save(tmp_path / "index")  # over the files that it is mapped from
    assert_same_index(index, opened)
    assert_same_index(index, ch.HammingIndex.open(tmp_path / "index"))


def test_saving_again_leaves_no_old_files(tmp_path):
    for rows in (10, 20, 0):
        index = filled(rows=rows)
        index.save(tmp_path / "index")
        assert_same_index(index, ch.HammingIndex.open(tmp_path / "index"))
        names = {f.name for f in (tmp_path / "index").iterdir()}
        assert len(names) == (2 if rows else 1)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_save_that_breaks_off_leaves_the_old_index(tmp_path, monkeypatch, failing):
    old = filled(seed=1)
    old.save(tmp_path / "index")

    def fail(*_):
        raise OSError("no space left")

    def fail_at(count):
        real, calls = os.fsync, iter(range(100))
        return lambda handle: fail() if next(calls) == count else real(handle)

    for count in range(3):
        with monkeypatch.context() as patch:
            if failing == "replace":
                patch.setattr(Path, "replace", fail)
            else:
                patch.setattr(os, "fsync", fail_at(count))
            with pytest.raises(OSError, match="no space left"):
                filled(seed=2).save(tmp_path / "index")
        opened = ch.HammingIndex.open(tmp_path / "index", mmap=False)
        if failing == "fsync" and count == 2:  # the manifest was in place by then
            assert_same_index(opened, filled(seed=2))
        else:
            assert_same_index(opened, old)
    filled(seed=3).save(tmp_path / "index")
    assert len(list((tmp_path / "index").iterdir())) == 2


def test_a_save_that_breaks_off_leaves_no_new_files(tmp_path, monkeypatch):
    filled(seed=1).save(tmp_path / "index")
    before = {f.name: f.read_bytes() for f in (tmp_path / "index").iterdir()}

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    for folder in ("index", "new"):
        with pytest.raises(OSError, match="no space left"):
            filled(seed=2).save(tmp_path / folder)
    assert before == {f.name: f.read_bytes() for f in (tmp_path / "index").iterdir()}
    assert list((tmp_path / "new").iterdir()) == []


def save_often(folder, seed, barrier):
    barrier.wait(60)
    for _ in range(10):
        filled(rows=5000, seed=seed).save(folder)


def test_processes_that_save_to_one_folder_take_turns(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    savers = [
        context.Process(target=save_often, args=(tmp_path / "index", seed, barrier))
        for seed in (1, 2)
    ]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join(100)
    assert [saver.exitcode for saver in savers] == [0, 0]
    assert len(list((tmp_path / "index").iterdir())) == 2
    opened = ch.HammingIndex.open(tmp_path / "index", mmap=False)
    codes = opened.get(opened.ids)
    assert any((codes == (x := filled(rows=5000, seed=s)).get(x.ids)).all() for s in (1, 2))


def test_a_second_save_waits_for_the_first(tmp_path, monkeypatch):
    filled(seed=1).save(tmp_path / "index")
    real, ended = store._write, threading.Event()

    def save():
        filled(seed=3).save(tmp_path / "index")
        ended.set()

    second = threading.Thread(target=save)

    def write(*arguments):
        entry = real(*arguments)
        if not second.ident:
            second.start()
            assert not ended.wait(0.3)  # it would take the file for one of an older index
        return entry

    monkeypatch.setattr(store, "_write", write)
    filled(seed=2).save(tmp_path / "index")
    second.join(60)
    assert ended.is_set()
    assert_same_index(ch.HammingIndex.open(tmp_path / "index", mmap=False), filled(seed=3))
    assert len(list((tmp_path / "index").iterdir())) == 2


@pytest.mark.parametrize("way", ["save", "write_faiss"])
def test_an_index_is_searched_and_changed_while_it_is_saved(tmp_path, monkeypatch, way):
    index, other = filled(), filled()
    for each in (index, other):
        each.remove([3])  # its last run has marks, and room to grow in place
        each.add(queries())
    chunks, held, go = store._code_chunks, threading.Event(), threading.Event()

    def slow(rows):
        held.set()
        assert go.wait(60)
        yield from chunks(rows)

    monkeypatch.setattr(store, "_code_chunks", slow)
    saver = threading.Thread(target=getattr(index, way), args=(tmp_path / "saved",))
    saver.start()
    try:
        assert held.wait(60)

        def use():
            index.search(queries(), 3)
            index.add(queries())
            index.remove([0, 4, 500])
            index.add(queries(), ids=[9000, 8000, 7000, 6000, 5000, 4000, 3000])
            index.remove(index.ids[: len(index) * 2 // 3])  # rows are dropped for good
            index.add(np.zeros((1000, index.width), np.uint8))

        user = threading.Thread(target=use, daemon=True)
        user.start()
        user.join(30)
        assert not user.is_alive() and saver.is_alive()
    finally:
        go.set()
        saver.join(60)
    read = ch.read_faiss if way == "write_faiss" else ch.HammingIndex.open
    saved = read(tmp_path / "saved")
    np.testing.assert_array_equal(saved.ids, other.ids)  # as it was when saving began
    np.testing.assert_array_equal(saved.get(saved.ids), other.get(other.ids))


def test_what_a_killed_save_leaves_is_no_hindrance(tmp_path):
    for name in ("index.lock", "manifest.json.123.tmp", "segment-000007.faiss"):
        (tmp_path / name).write_text("")
    filled().save(tmp_path)
    assert_same_index(ch.HammingIndex.open(tmp_path, mmap=False), filled())
    assert {f.name for f in tmp_path.iterdir()} == {"manifest.json", "segment-000008.faiss"}


def test_an_index_takes_no_folder_of_others(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="is a file"):
        filled().save(tmp_path / "file")
    with pytest.raises(FileExistsError, match="holds something that is no index"):
        filled().save(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "theirs"}')
    with pytest.raises(ValueError, match="no manifest of an index"):
        filled().save(tmp_path / "other")


def test_missing_folders_and_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no index folder"):
        ch.HammingIndex.open(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="has no manifest"):
        ch.HammingIndex.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ch.read_faiss(tmp_path / "nothing")
    filled().save(tmp_path / "index")
    with pytest.raises(FileNotFoundError, match=r"HammingIndex\.open"):
        ch.read_faiss(tmp_path / "index")
    next((tmp_path / "index").glob("*.faiss")).unlink()
    with pytest.raises(FileNotFoundError, match=r"segment-000001\.faiss is missing"):
        ch.HammingIndex.open(tmp_path / "index")


@pytest.mark.parametrize("mmap", [True, False])
def test_opening_goes_on_with_the_new_manifest_if_another_process_saves(
    tmp_path, monkeypatch, mmap
):
    folder = tmp_path / "index"
    filled(seed=0).save(folder)
    read, seeds = store._read_manifest, iter(range(1, 4))

    def saved_since(file):
        manifest = read(file)
        seed = next(seeds, None)
        if seed is not None:
            with monkeypatch.context() as patch:
                patch.setattr(store, "_read_manifest", read)
                ch.HammingIndex(60).save(folder)  # no file at all, and no number begins again
                filled(seed=seed).save(folder)
        return manifest

    monkeypatch.setattr(store, "_read_manifest", saved_since)
    assert_same_index(ch.HammingIndex.open(folder, mmap=mmap), filled(seed=3))

    monkeypatch.setattr(store, "_TRIES", 3)
    seeds = iter(range(100))
    with pytest.raises(FileNotFoundError, match="other processes saved it 3 times"):
        ch.HammingIndex.open(folder, mmap=mmap)


def test_an_index_opens_while_another_process_saves(tmp_path):
    filled(rows=5000, seed=1).save(tmp_path / "index")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    saver = context.Process(target=save_often, args=(tmp_path / "index", 1, barrier))
    saver.start()
    barrier.wait(60)
    opened = 0
    while saver.is_alive():
        assert len(ch.HammingIndex.open(tmp_path / "index", mmap=bool(opened % 2))) == 5000
        opened += 1
    saver.join(60)
    assert saver.exitcode == 0 and opened


def damaged_index(folder: Path) -> ch.HammingIndex:
    index = filled(rows=50)
    index.add(queries(), ids=[900, 800, 700, 600, 500, 400, 300])
    index.remove([800])
    index.save(folder)
    return index


@pytest.mark.parametrize("name", ["segment-000001.faiss", "segment-000001.ids", "manifest.json"])
def test_any_flipped_bit_is_found_by_a_full_read(tmp_path, name):
    damaged_index(tmp_path / "index")
    file = tmp_path / "index" / name
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, 5, 12, 25, 30, 33, *rng.integers(0, len(good), 60), len(good) - 1]:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        try:
            ch.HammingIndex.open(tmp_path / "index", mmap=False)
        except (ValueError, FileNotFoundError) as error:
            assert "index" in str(error) and (name in str(error) or name == "manifest.json")
        else:
            # white space in the manifest is the one thing that may change
            assert name == "manifest.json" and json.loads(bad) == json.loads(good)
    file.write_bytes(good)
    ch.HammingIndex.open(tmp_path / "index", mmap=False)


@pytest.mark.parametrize("name", ["segment-000001.faiss", "segment-000001.ids"])
def test_a_damaged_index_that_is_mapped_is_not_saved(tmp_path, monkeypatch, name):
    monkeypatch.setattr(store, "_CHUNK_BYTES", 512)
    damaged_index(tmp_path / "index")
    file = tmp_path / "index" / name
    good = file.read_bytes()
    for place in (33, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 4
        file.write_bytes(bad)
        opened = ch.HammingIndex.open(tmp_path / "index")
        opened.remove([5])  # rows that are left out are read all the same
        opened.add(queries())
        before = {f.name: f.read_bytes() for f in (tmp_path / "index").iterdir()}
        for folder in ("index", "copy"):
            with pytest.raises(ValueError, match=rf"index/{name} is damaged: its checksum"):
                opened.save(tmp_path / folder)
        with pytest.raises(ValueError, match=rf"index/{name} is damaged: its checksum"):
            opened.write_faiss(tmp_path / "file")
        assert before == {f.name: f.read_bytes() for f in (tmp_path / "index").iterdir()}
        assert list((tmp_path / "copy").iterdir()) == []
        assert not list(tmp_path.glob("file*"))
    file.write_bytes(good)
    opened = ch.HammingIndex.open(tmp_path / "index")
    opened.save(tmp_path / "index")
    opened.save(tmp_path / "copy")  # what it was read from is no longer there by name
    assert_same_index(opened, ch.HammingIndex.open(tmp_path / "copy", mmap=False))


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", ["segment-000001.faiss", "segment-000001.ids", "manifest.json"])
def test_a_wrong_length_is_found_at_once(tmp_path, name, mmap):
    damaged_index(tmp_path / "index")
    file = tmp_path / "index" / name
    good = file.read_bytes()
    for data in (b"", good[:20], good[:-2], good + b"x"):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            ch.HammingIndex.open(tmp_path / "index", mmap=mmap)


def test_a_damaged_header_is_found_at_once_even_when_mapped(tmp_path):
    damaged_index(tmp_path / "index")
    file = tmp_path / "index" / "segment-000001.faiss"
    good = file.read_bytes()
    for place in (0, 4, 8, 12, 25):  # kind, bits, width, rows, length
        bad = bytearray(good)
        bad[place] ^= 1
        file.write_bytes(bad)
        with pytest.raises(ValueError, match=r"segment-000001\.faiss"):
            ch.HammingIndex.open(tmp_path / "index", mmap=True)


def test_a_manifest_of_a_later_version_says_so(tmp_path):
    filled().save(tmp_path / "index")
    file = tmp_path / "index" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["version"] = 99
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"version 99 .* install a newer"):
        ch.HammingIndex.open(tmp_path / "index")


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    filled().save(tmp_path / "index")
    file = tmp_path / "index" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["crc32"]
    manifest["segments"][0]["codes"]["file"] = "../secret"
    manifest["crc32"] = store._manifest_crc(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"names a file '\.\./secret'"):
        ch.HammingIndex.open(tmp_path / "index")


def test_a_damaged_faiss_file(tmp_path):
    index = filled(64, 20)
    index.remove([3])
    index.write_faiss(tmp_path / "file")  # an IndexBinaryIDMap
    good = (tmp_path / "file").read_bytes()
    for cut in range(0, len(good), 5):
        (tmp_path / "file").write_bytes(good[:cut])
        with pytest.raises(ValueError, match="file is damaged"):
            ch.read_faiss(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"IxF2" + good[4:])
    with pytest.raises(ValueError, match=r"'IxF2' .* is no binary flat index"):
        ch.read_faiss(tmp_path / "file")
    negative = bytearray(good)
    negative[-1] = 0x80
    (tmp_path / "file").write_bytes(negative)
    with pytest.raises(ValueError, match="file: ids must be 0 to"):
        ch.read_faiss(tmp_path / "file")


class TestBesideFaiss:
    @pytest.fixture(autouse=True)
    def _faiss(self):
        self.faiss = pytest.importorskip("faiss")

    @pytest.mark.parametrize("history", range(6))
    def test_faiss_reads_what_is_written(self, tmp_path, history):
        index = histories()[history]
        index.write_faiss(tmp_path / "file")
        theirs = self.faiss.read_index_binary(str(tmp_path / "file"))
        assert theirs.ntotal == len(index) and theirs.d == 8 * index.width
        if len(index):
            asked = queries(index.bits)
            np.testing.assert_array_equal(theirs.search(asked, 5)[0], index.search(asked, 5)[0])
        ours = ch.read_faiss(tmp_path / "file")
        np.testing.assert_array_equal(ours.ids, index.ids)
        np.testing.assert_array_equal(ours.get(ours.ids), index.get(index.ids))

    @pytest.mark.parametrize("kind", ["Flat", "IDMap", "IDMap2"])
    def test_what_faiss_writes_is_read(self, tmp_path, kind):
        codes = queries(64)
        theirs = self.faiss.IndexBinaryFlat(64)
        ids = np.arange(7)
        if kind == "Flat":
            theirs.add(codes)
        else:
            ids = np.array([5, 9, 2, 70, 30, 1, 0])
            flat = theirs
            theirs = getattr(self.faiss, f"IndexBinary{kind}")(flat)
            theirs.add_with_ids(codes, ids)
        self.faiss.write_index_binary(theirs, str(tmp_path / "file"))
        ours = ch.read_faiss(tmp_path / "file")
        np.testing.assert_array_equal(ours.ids, ids)
        np.testing.assert_array_equal(ours.get(ids), codes)

    def test_another_kind_of_index_is_refused(self, tmp_path):
        theirs = self.faiss.IndexBinaryHash(64, 8)
        theirs.add(queries(64))
        self.faiss.write_index_binary(theirs, str(tmp_path / "file"))
        with pytest.raises(ValueError, match="no binary flat index"):
            ch.read_faiss(tmp_path / "file")

    def test_a_segment_is_a_faiss_file(self, tmp_path):
        filled(64).save(tmp_path / "index")
        theirs = self.faiss.read_index_binary(str(tmp_path / "index" / "segment-000001.faiss"))
        np.testing.assert_array_equal(
            theirs.search(queries(64), 9)[0], filled(64).search(queries(64), 9)[0]
        )
