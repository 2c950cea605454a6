"""The ops of leaky_relu.py on the CPU: function, bits, gradients, registration, bad input.

Triton's side is in test_interpreter.py (parity), test_cubins.py (object code) and at the end of
this file (on a GPU).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from coophash.kernels import (  # noqa: E402
    bias_leaky_relu,
    bias_leaky_relu_bits,
    leaky_relu_backward,
)

LAST = torch.channels_last
SHAPES = [(2, 3), (4, 16), (2, 3, 5), (2, 3, 1), (2, 3, 4, 5), (2, 9, 7, 7), (2, 1, 7, 7),
          (2, 9, 1, 1), (2, 3, 2, 3, 5), (0, 3, 4, 4)]  # fmt: skip


def tensors(shape, dtype=torch.float32, last=False):
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    bias = torch.randn(shape[1], generator=generator)
    x.view(-1)[:2] = 0
    bias[0] = 0  # some sums are exactly 0
    if last:
        x, grad = (t.to(memory_format=LAST) for t in (x, grad))
    return x, bias, grad


def oracle(x, bias, grad, slope):
    """y, the signs and both gradients, in NumPy and double precision."""
    x, grad = x.double().numpy(), grad.double().numpy()
    z = x + bias.double().numpy().reshape(-1, *[1] * (x.ndim - 2))
    passed = np.where(z > 0, grad, slope * grad)
    return np.where(z > 0, z, slope * z), z > 0, passed, passed.sum((0, *range(2, x.ndim)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [False, True])
def test_function_bits_and_gradient(shape, dtype, last):
    if last and len(shape) != 4:
        pytest.skip("channels_last is of four dimensions")
    x, bias, grad = tensors(shape, dtype, last)
    y, positive, passed, summed = oracle(x, bias, grad, 0.1)
    near = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-6}
    ours, bits = bias_leaky_relu_bits(x, bias, 0.1)
    assert ours.dtype == dtype and ours.stride() == x.stride()
    np.testing.assert_allclose(ours.double(), y, **near)
    np.testing.assert_allclose(bias_leaky_relu(x, bias, 0.1).double(), y, **near)

    innermost = len(shape) == 2 or math.prod(shape[2:]) == 1 or (last and not x.is_contiguous())
    rows = (
        np.moveaxis(positive, 1, -1)
        if innermost
        else positive.reshape(*shape[:2], math.prod(shape[2:]))
    )
    assert np.array_equal(bits, np.packbits(rows, axis=-1, bitorder="little"))

    ours, none = leaky_relu_backward(grad, bits, 0.1)
    assert none is None and ours.dtype == dtype
    np.testing.assert_allclose(ours.double(), passed, **near)
    _, ours = leaky_relu_backward(grad, bits, 0.1, bias_grad=True)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    scale = np.abs(passed).sum((0, *range(2, x.dim())))
    assert np.all(np.abs(ours.double().numpy() - summed) <= 2 * torch.finfo(dtype).eps * scale)


def test_both_layouts_hold_the_same_bits():
    x, bias, grad = tensors((3, 11, 5, 6))
    by_plane = bias_leaky_relu_bits(x, bias, 0.3)[1]
    by_pixel = bias_leaky_relu_bits(x.to(memory_format=LAST), bias, 0.3)[1]
    assert by_plane.shape == (3, 11, 4) and by_pixel.shape == (3, 5, 6, 2)
    # Whatever the gradient's own layout, the result has that of the bits.
    for layout in (torch.contiguous_format, LAST):
        of_planes, _ = leaky_relu_backward(grad.contiguous(memory_format=layout), by_plane, 0.3)
        of_pixels, _ = leaky_relu_backward(grad.contiguous(memory_format=layout), by_pixel, 0.3)
        assert of_planes.is_contiguous() and of_pixels.is_contiguous(memory_format=LAST)
        assert torch.equal(of_planes, of_pixels)


def test_views_without_bias_and_relu():
    x, _, grad = tensors((4, 6, 8, 6))
    cut = x[:, ::2, :, 1:]
    y, bits = bias_leaky_relu_bits(cut, None, 0.0)
    assert torch.equal(y, F.relu(cut)) and y.is_contiguous()
    passed, _ = leaky_relu_backward(grad[:, ::2, :, 1:], bits, 0.0)
    assert torch.equal(passed, grad[:, ::2, :, 1:] * (cut > 0))
    assert torch.equal(bias_leaky_relu(cut, None, 0.0), F.relu(cut))


def test_nan_and_infinity():
    x = torch.tensor([[math.nan, math.inf, -math.inf, -0.0]])
    y, bits = bias_leaky_relu_bits(x, None, 0.5)
    assert y.isnan().tolist() == [[True, False, False, False]] and y[0, 2] == -math.inf
    assert bits.tolist() == [[2]]
    assert torch.equal(leaky_relu_backward(torch.ones(1, 4), bits, 0.5)[0][0],
                       torch.tensor([0.5, 1.0, 0.5, 0.5]))  # fmt: skip


def through_the_op(x, bias, slope):
    return torch.ops.coophash.bias_leaky_relu(x, bias, slope)[0]


@pytest.mark.parametrize("function", [bias_leaky_relu, through_the_op])
@pytest.mark.parametrize("last", [False, True])
def test_gradcheck_twice(function, last):
    x, bias, _ = (t.double() for t in tensors((2, 3, 4, 3), last=last))
    x = (x + 0.01 * x.sign() + 0.01).requires_grad_()  # the kink is at 0
    bias.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, b: function(x, b, 0.1), (x, bias))
    assert torch.autograd.gradgradcheck(lambda x, b: function(x, b, 0.1), (x, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", [bias_leaky_relu, through_the_op])
def test_gradients_equal_those_of_pytorch(function, dtype):
    x, bias, grad = tensors((4, 5, 6, 7), dtype)
    results = []
    for run in (function, lambda x, b, s: F.leaky_relu(x + b.to(dtype)[:, None, None], s)):
        leaf, b = x.clone().requires_grad_(), bias.to(dtype).requires_grad_()
        results.append(torch.autograd.grad(run(leaf, b, 0.1), (leaf, b), grad))
    assert results[0][1].dtype == dtype
    torch.testing.assert_close(results[0], results[1], rtol=1e-2 if dtype.itemsize == 2 else 1e-5,
                               atol=1e-4 if dtype.itemsize == 4 else 0.1)  # fmt: skip


def test_the_op_keeps_bits_alone():
    x, bias, _ = tensors((2, 64, 8, 8))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        through_the_op(x.requires_grad_(), bias.requires_grad_(), 0.1)
    assert sum(t.numel() * t.element_size() for t in saved) == x.numel() // 8


def test_the_cpu_keeps_no_copy_but_the_result():
    x, bias, _ = tensors((2, 64, 8, 8))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = bias_leaky_relu(x.requires_grad_(), bias.requires_grad_(), 0.1)
    assert {t.data_ptr() for t in saved if t.numel() == x.numel()} == {y.data_ptr()}


@pytest.mark.parametrize("case", ["planes", "pixels", "dense", "no bias", "bf16", "constants"])
def test_opcheck(case):
    shape = (4, 13) if case == "dense" else (2, 3, 4, 5)
    x, bias, grad = tensors(shape, torch.bfloat16 if case == "bf16" else torch.float32,
                            case == "pixels")  # fmt: skip
    differentiable = case != "constants"
    b = None if case == "no bias" else bias.requires_grad_(differentiable)
    arguments = (x.requires_grad_(differentiable), b, 0.1)
    torch.library.opcheck(torch.ops.coophash.bias_leaky_relu.default, arguments)
    _, bits = bias_leaky_relu_bits(x, bias, 0.1)
    arguments = (grad.requires_grad_(differentiable), bits, 0.1, case != "bf16")
    torch.library.opcheck(torch.ops.coophash.leaky_relu_backward.default, arguments)


def layer(x, weight, bias, grad):
    y, bits = bias_leaky_relu_bits(F.conv2d(x, weight), bias, 0.1)
    passed, summed = leaky_relu_backward(grad * 2, bits, 0.1, bias_grad=True)
    return bias_leaky_relu(y, bias, 0.1), passed, summed


def layer_arguments():
    x, bias, grad = tensors((3, 8, 6, 6))
    weight = torch.randn(8, 8, 1, 1, generator=torch.Generator().manual_seed(1))
    return x, weight, bias, grad


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    arguments = layer_arguments()
    torch.testing.assert_close(compiled(*arguments), layer(*arguments))


def test_compile_of_a_training_step():
    torch._dynamo.reset()
    x, weight, bias, grad = layer_arguments()
    results = []
    for compiled in (False, True):

        def run(x, weight, bias):
            return through_the_op(F.conv2d(x, weight), bias, 0.1)

        if compiled:
            run = torch.compile(run, fullgraph=True, backend="aot_eager")
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        results.append(torch.autograd.grad(run(*leaves), leaves, grad))
    torch.testing.assert_close(results[0], results[1])


def test_export():
    class Layer(torch.nn.Module):
        def forward(self, x, weight, bias, grad):
            return layer(x, weight, bias, grad)

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        Layer(), layer_arguments(), dynamic_shapes=({0: batch}, None, None, {0: batch})
    )
    assert "coophash.leaky_relu_backward" in program.graph_module.code
    x, weight, bias, grad = layer_arguments()
    x, grad = x.repeat(2, 1, 1, 1), grad.repeat(2, 1, 1, 1)
    torch.testing.assert_close(
        program.module()(x, weight, bias, grad), layer(x, weight, bias, grad)
    )


X, BIAS = torch.zeros(2, 3, 4, 4), torch.zeros(3)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "x must be a torch.Tensor, got list", {"x": [1.0]}),
        (TypeError, "x must be float32.*got torch.int64", {"x": X.long()}),
        (ValueError, r"x must be \(B, C\) or \(B, C, …\), got \(3,\)", {"x": BIAS}),
        (TypeError, "bias must be a torch.Tensor or None, got float", {"bias": 1.0}),
        (TypeError, "bias must be floating point", {"bias": BIAS.int()}),
        (ValueError, r"bias must be \(3,\), one number a channel, got \(4,\)",
         {"bias": torch.zeros(4)}),
        (ValueError, "bias must be on cpu", {"bias": BIAS.to("meta")}),
        (TypeError, "slope must be a number, got str", {"slope": "0.1"}),
        (ValueError, "slope must be a finite number >= 0, got -0.1", {"slope": -0.1}),
        (ValueError, "slope must be a finite number >= 0, got nan", {"slope": math.nan}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", [bias_leaky_relu, bias_leaky_relu_bits])
def test_bad_input(function, error, message, change):
    with pytest.raises(error, match=message):
        function(**{"x": X, "bias": BIAS, "slope": 0.1} | change)


BITS = torch.zeros(2, 3, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "grad must be a torch.Tensor", {"grad": None}),
        (TypeError, "bits must be the uint8 tensor of the forward op, got torch.bool",
         {"bits": BITS.bool()}),
        (ValueError, r"bits must be of shape \(2, 4, 4, 1\) or \(2, 3, 2\).*got \(2, 3, 3\)",
         {"bits": torch.zeros(2, 3, 3, dtype=torch.uint8)}),
        (ValueError, "bits must be on cpu", {"bits": BITS.to("meta")}),
        (ValueError, "slope must be", {"slope": math.inf}),
    ],
)  # fmt: skip
def test_bad_input_backward(error, message, change):
    with pytest.raises(error, match=message):
        leaky_relu_backward(**{"grad": X, "bits": BITS, "slope": 0.1} | change)


def test_fake_checks_bits_at_trace_time():
    with pytest.raises(RuntimeError, match="are not those of an activation of shape"):
        torch.ops.coophash.leaky_relu_backward(
            torch.empty(2, 3, device="meta"), torch.empty(2, 2, dtype=torch.uint8, device="meta"),
            0.1, False,
        )  # fmt: skip


def test_a_launch_has_a_grid():
    pytest.importorskip("triton")
    from coophash.kernels.leaky_relu_triton import LONGEST_UNIT, launch_shape

    for unit in (*range(1, 300), 1000, 1025, 10**6, LONGEST_UNIT):
        rows, columns, _ = launch_shape(1 << 20, unit)
        assert -(-unit // columns) <= 65535
        assert (rows - 1) * unit + 65535 * columns < 2**31  # offsets in a tile


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "shape", [(8, 32, 32, 32), (64, 64, 14, 14), (3, 5, 7, 9), (512, 256), (4096, 256, 16, 16)]
)
def test_on_a_gpu_against_double_precision(shape, dtype, last):
    if last and len(shape) != 4:
        pytest.skip("channels_last is of four dimensions")
    x, bias, grad = (t.cuda() for t in tensors(shape, dtype, last))
    z = x.double() + bias.double().view(-1, *[1] * (x.dim() - 2))
    expected = torch.where(z > 0, grad.double(), 0.1 * grad.double())
    near = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-6}
    y, bits = bias_leaky_relu_bits(x, bias, 0.1)
    torch.testing.assert_close(y.double(), F.leaky_relu(z, 0.1), **near)
    passed, summed = leaky_relu_backward(grad, bits, 0.1, bias_grad=True)
    torch.testing.assert_close(passed.double(), expected, **near)
    scale = expected.abs().sum([0, *range(2, x.dim())])
    total = expected.sum([0, *range(2, x.dim())])
    assert ((summed.double() - total).abs() <= 1e-5 * scale).all()
    again = leaky_relu_backward(grad, bits, 0.1, bias_grad=True)
    assert torch.equal(again[0], passed) and torch.equal(again[1], summed)


@pytest.mark.gpu
def test_autograd_on_a_gpu():
    x, bias, grad = (t.cuda() for t in tensors((16, 32, 16, 16)))
    results = []
    for run in (bias_leaky_relu, lambda x, b, s: F.leaky_relu(x + b[:, None, None], s)):
        leaf, b = x.clone().requires_grad_(), bias.clone().requires_grad_()
        results.append(torch.autograd.grad(run(leaf, b, 0.1), (leaf, b), grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-3)
