"""pack and unpack: the bit rule, every length, every kind of array, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import coophash as ch
from coophash import codes

BITS = (1, 5, 7, 8, 9, 31, 32, 33, 48, 63, 64, 65, 100, 128, 129, 256, 512, 1000, 4096)


def pack_bit_by_bit(outputs: np.ndarray) -> np.ndarray:
    rows, bits = outputs.shape
    packed = np.zeros((rows, (bits + 7) // 8), np.uint8)
    for row in range(rows):
        for bit in range(bits):
            if outputs[row, bit] >= 0:
                packed[row, bit // 8] |= 1 << (bit % 8)
    return packed


@pytest.mark.parametrize("bits", BITS)
def test_pack_follows_the_bit_rule_and_unpack_inverts_it(bits):
    outputs = np.random.default_rng(bits).standard_normal((7, bits)).astype(np.float32)
    packed = ch.pack(outputs)
    assert packed.dtype == np.uint8 and packed.flags.c_contiguous
    np.testing.assert_array_equal(packed, pack_bit_by_bit(outputs))
    signs = ch.unpack(packed, bits)
    assert signs.dtype == np.int8
    np.testing.assert_array_equal(signs, np.where(outputs >= 0, 1, -1))
    np.testing.assert_array_equal(ch.pack(signs), packed)


def test_zero_and_negative_zero_are_plus_one():
    np.testing.assert_array_equal(ch.pack(np.array([[0.0, -0.0, -1e-45, 1e-45]], "f4")), [[0b1011]])


def test_infinities_have_signs():
    np.testing.assert_array_equal(ch.pack(np.array([[np.inf, -np.inf]])), [[1]])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "?", ">f4"])
def test_pack_takes_every_real_type(dtype):
    positive = np.random.default_rng(0).random((5, 20)) < 0.5
    outputs = positive if dtype == "?" else np.where(positive, 1, -1).astype(dtype)
    np.testing.assert_array_equal(ch.pack(outputs), pack_bit_by_bit(np.where(positive, 1, -1)))


def test_pack_of_rows_that_do_not_lie_together():
    outputs = np.random.default_rng(0).standard_normal((40, 60))
    for view in (outputs.T, outputs[::-3, ::2], np.asfortranarray(outputs)):
        np.testing.assert_array_equal(ch.pack(view), pack_bit_by_bit(view))


def test_pack_works_through_many_parts():
    outputs = np.random.default_rng(0).standard_normal((9000, 256)).astype("f4")
    expected = np.packbits(outputs >= 0, axis=1, bitorder="little")
    np.testing.assert_array_equal(ch.pack(outputs), expected)


def test_no_rows():
    assert ch.pack(np.empty((0, 20))).shape == (0, 3)
    assert ch.unpack(np.empty((0, 3), np.uint8), 20).shape == (0, 20)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)), st.data())
def test_any_code_survives_unpack_and_pack(array, data):
    bits = data.draw(st.integers(8 * array.shape[1] - 7, 8 * array.shape[1]))
    if bits % 8:
        array[:, -1] &= (1 << bits % 8) - 1
    np.testing.assert_array_equal(ch.pack(ch.unpack(array, bits)), array)


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        (np.array([[1.0, np.nan]]), ValueError, "row 0, bit 1"),
        (np.ones(8), ValueError, r"outputs\[None\]"),
        (np.ones((1, 2, 3)), ValueError, "real"),
        (np.ones((3, 0)), ValueError, "1 to 4096 bits"),
        (np.ones((1, 4097)), ValueError, "1 to 4096 bits"),
        (np.ones((2, 8), np.uint8), TypeError, "packed already"),
        (np.ones((2, 8), complex), TypeError, "real numbers"),
        (np.array([["a"]]), TypeError, "real numbers"),
        ("text", TypeError, "real numbers"),
        (None, TypeError, "real numbers"),
        ([[1.0, 2.0], [3.0]], ValueError, "outputs must be an array"),
        (np.array([[0, 1], [1, 1]]), ValueError, "outputs == 1"),
    ],
)
def test_pack_refuses(outputs, error, message):
    with pytest.raises(error, match=message):
        ch.pack(outputs)


def test_nan_is_found_in_any_part():
    outputs = np.zeros((9000, 256), np.float32)
    outputs[8000, 3] = np.nan
    with pytest.raises(ValueError, match="row 8000, bit 3"):
        ch.pack(outputs)


@pytest.mark.parametrize(
    ("array", "bits", "error", "message"),
    [
        (np.zeros((3, 8), np.float32), 8, TypeError, r"got float32 \(3, 8\): call coophash.pack"),
        (np.zeros((3, 8), np.int64), 64, TypeError, "got int64"),
        (np.zeros(8, np.uint8), 64, ValueError, r"codes\[None\]"),
        (np.zeros((3, 7), np.uint8), 64, ValueError, r"uint8 \(N, 8\) for 64 bits, got uint8 \(3"),
        (np.zeros((3, 2), np.uint8), 0, ValueError, "bits must be 1 to 4096"),
        (np.zeros((3, 2), np.uint8), 4097, ValueError, "bits must be 1 to 4096"),
        (np.zeros((3, 2), np.uint8), 16.0, TypeError, "whole number"),
        (np.zeros((3, 2), np.uint8), True, TypeError, "whole number"),
        (np.array([[1, 1], [255, 16]], np.uint8), 12, ValueError, r"row 1 is not.*&= 15"),
    ],
)
def test_unpack_refuses(array, bits, error, message):
    with pytest.raises(error, match=message):
        ch.unpack(array, bits)


class TestTensors:
    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch")

    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64"])
    def test_tensor_in_tensor_out(self, dtype):
        outputs = self.torch.randn(6, 30).sign().to(getattr(self.torch, dtype))
        packed = ch.pack(outputs)
        assert isinstance(packed, self.torch.Tensor) and packed.dtype == self.torch.uint8
        np.testing.assert_array_equal(packed.numpy(), pack_bit_by_bit(outputs.double().numpy()))
        signs = ch.unpack(packed, 30)
        assert isinstance(signs, self.torch.Tensor) and signs.dtype == self.torch.int8
        np.testing.assert_array_equal(signs.numpy(), np.where(outputs.double() >= 0, 1, -1))

    def test_a_tensor_with_gradient_and_strides(self):
        outputs = self.torch.randn(30, 6, requires_grad=True).T
        np.testing.assert_array_equal(
            ch.pack(outputs).numpy(), pack_bit_by_bit(outputs.detach().numpy())
        )

    @pytest.mark.parametrize("bits", [1, 8, 12, 64, 129])
    def test_the_path_of_other_devices_is_the_same(self, bits):
        outputs = self.torch.randn(9, bits)
        packed = codes._pack_torch(outputs)
        np.testing.assert_array_equal(packed.numpy(), pack_bit_by_bit(outputs.numpy()))
        np.testing.assert_array_equal(
            codes._unpack_torch(packed, bits).numpy(), ch.unpack(packed.numpy(), bits)
        )

    def test_the_path_of_other_devices_refuses_the_same(self):
        torch = self.torch
        for outputs, error in [
            (torch.tensor([[1.0, float("nan")]]), ValueError),
            (torch.zeros(3, 4, dtype=torch.uint8), TypeError),
            (torch.tensor([[0, 1]]), ValueError),
            (torch.zeros(3), ValueError),
        ]:
            with pytest.raises(error) as plain:
                ch.pack(outputs)
            with pytest.raises(error) as other:
                codes._pack_torch(outputs)
            assert str(plain.value) == str(other.value)
        with pytest.raises(ValueError, match="row 1 is not"):
            codes._unpack_torch(torch.tensor([[1], [255]], dtype=torch.uint8), 7)

    def test_sparse_and_meta_tensors_are_refused(self):
        for outputs in (self.torch.eye(3).to_sparse(), self.torch.zeros(3, 3, device="meta")):
            with pytest.raises(TypeError, match="outputs must be a dense tensor"):
                ch.pack(outputs)


def test_anything_with_dlpack():
    class Array:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    outputs = np.random.default_rng(0).standard_normal((4, 12))
    np.testing.assert_array_equal(ch.pack(Array(outputs)), pack_bit_by_bit(outputs))


def test_dlpack_of_another_device_is_refused():
    class Elsewhere:
        def __dlpack__(self, **options):
            raise AssertionError("must not be called")

        def __dlpack_device__(self):
            return 8, 0  # Metal; those of CUDA are in tests/test_cuda_arrays.py

    with pytest.raises(TypeError, match="another device"):
        ch.pack(Elsewhere())


def test_lists_are_arrays():
    np.testing.assert_array_equal(ch.pack([[-1.0, 2.0], [0.0, -3.0]]), [[2], [1]])


def test_torch_is_not_imported():
    program = (
        "import coophash as ch, numpy as np, sys\n"
        "codes = ch.pack(np.ones((3, 9)))\n"
        "ch.unpack(codes, 9)\n"
        "index = ch.HammingIndex(9); index.add(codes); index.search(codes, 2)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_0_and_1_are_no_outputs(dtype):
    """Their signs are all +: every bit would be 1."""
    outputs = np.random.default_rng(0).normal(size=(5, 16))
    with pytest.raises(ValueError, match=r"0 and 1 alone, which all have the sign \+1"):
        ch.pack((outputs > 0).astype(dtype))
    for value in (0, 1):  # sign(0) = +1
        assert (ch.pack(np.full((2, 16), value, dtype)) == 255).all()
    mixed = (outputs > 0).astype(dtype)
    mixed[4, 3] = 0.5
    assert ch.pack(mixed).shape == (5, 2)
