"""Named arrays from .mat, .h5 and .npz files that the tests write."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from coophash.data import load_arrays

FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)
LABELS = np.array([[1], [2], [10]], np.uint8)


def write_mat(path):
    io = pytest.importorskip("scipy.io")
    sparse = pytest.importorskip("scipy.sparse")
    contents = {
        "I_tr": FEATURES, "L_tr": LABELS, "bow": sparse.csc_matrix(FEATURES), "who": "text",
        "cells": np.array([1, "a"], dtype=object), "z": np.array([[1 + 2j]]),
    }  # fmt: skip
    io.savemat(path, contents)
    return ("I_tr", "L_tr", "bow")


def write_mat4(path):
    pytest.importorskip("scipy.io").savemat(path, {"I_tr": FEATURES, "L_tr": LABELS}, format="4")
    return ("I_tr", "L_tr")


def write_h5(path, transpose=False):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512 if transpose else 0) as file:
        for name, array in (("I_tr", FEATURES), ("L_tr", LABELS)):
            file[name] = array.T if transpose else array
        file["test/images"] = (FEATURES * 2).T if transpose else FEATURES * 2
        file["names"] = np.array([b"a", b"b"])
        if transpose:
            file["#refs#/a"] = np.zeros(2)
            file["none"] = np.array([0, 3], np.uint64)
            file["none"].attrs["MATLAB_empty"] = np.uint8(1)
        else:
            file["scalar"] = 2.5
    return ("I_tr", "L_tr", "test/images", "none" if transpose else "scalar")


def write_mat73(path):
    names = write_h5(path, transpose=True)
    with path.open("r+b") as file:  # what MATLAB writes in front
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8))
        file.write(struct.pack("<H", 0x0200) + b"IM")
    return names


def write_npz(path):
    with path.open("wb") as file:
        np.savez(file, I_tr=FEATURES, L_tr=LABELS.astype(">u2"), names=np.array(["a"]))
    return ("I_tr", "L_tr")


WRITERS = {
    "mat 5": write_mat, "mat 4": write_mat4, "mat 7.3": write_mat73, "h5": write_h5,
    "npz": write_npz,
}  # fmt: skip


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    path = tmp_path / "file"  # the kind is told by the contents
    return path, WRITERS[request.param](path)


def test_named_arrays(written):
    path, names = written
    got = load_arrays(path, ["L_tr", "I_tr"])
    assert list(got) == ["L_tr", "I_tr"]
    np.testing.assert_array_equal(got["I_tr"], FEATURES)
    np.testing.assert_array_equal(got["L_tr"], LABELS)
    for array in got.values():
        assert array.flags.c_contiguous and array.dtype.isnative
    everything = load_arrays(path)
    assert set(everything) == set(names)  # texts, cells and complex numbers are passed over
    assert load_arrays(path, []) == {}
    if "bow" in names:
        np.testing.assert_array_equal(everything["bow"], FEATURES)
    if "test/images" in names:
        np.testing.assert_array_equal(everything["test/images"], FEATURES * 2)
    if "none" in names:
        assert everything["none"].shape == (0, 3)  # of an empty array MATLAB stores the shape
    if "scalar" in names:
        assert everything["scalar"].shape == ()


def test_a_missing_name_lists_what_is_there(written):
    path, _ = written
    with pytest.raises(ValueError, match=r"file: it has no variable 'I_te', only .*I_tr"):
        load_arrays(path, ["I_tr", "I_te"])


@pytest.mark.parametrize("kind", ["mat 5", "h5", "npz", "mat 7.3"])
def test_no_numbers_and_damage(tmp_path, kind):
    path = tmp_path / "file"
    WRITERS[kind](path)
    text = "who" if kind == "mat 5" else "names"
    with pytest.raises(ValueError, match=f"variable '{text}' is no array of real numbers"):
        load_arrays(path, [text])
    raw = path.read_bytes()
    for cut in (0, 3, 100, 200):
        path.write_bytes(raw[:cut])
        with pytest.raises(
            ValueError, match=r"file cannot be read as .mat, .h5 or .npz|no variable"
        ):
            load_arrays(path, ["I_tr", "L_tr"])


def test_objects_are_not_unpickled(tmp_path):
    class Runs:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    with (tmp_path / "f").open("wb") as file:
        np.savez(file, a=np.array([Runs()], dtype=object), b=np.arange(2))
    np.testing.assert_array_equal(load_arrays(tmp_path / "f", ["b"])["b"], [0, 1])
    for names in (["a"], None):
        with pytest.raises(ValueError, match="cannot be read"):
            load_arrays(tmp_path / "f", names)
    assert not (tmp_path / "ran").exists()


def test_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file at"):
        load_arrays(tmp_path / "none.mat")
    (tmp_path / "f").write_bytes(b"not an archive at all")
    with pytest.raises(TypeError, match=r"names must be a list of names, .* give \['I_tr'\]"):
        load_arrays(tmp_path / "f", "I_tr")
    pytest.importorskip("scipy.io")
    with pytest.raises(ValueError, match="cannot be read as"):
        load_arrays(tmp_path / "f")


def test_without_h5py(tmp_path, monkeypatch):
    write_h5(tmp_path / "f")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "coophash\[data\]"'):
        load_arrays(tmp_path / "f")
