"""The ops of first_layer.py on the CPU: function, bits, gradients, registration, bad input.

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
    first_conv,
    first_conv_bits,
    first_conv_input_grad,
)
from coophash.kernels.leaky_relu import unpack_signs  # noqa: E402

LAST = torch.channels_last
# inputs, channels, kernel, image, options
LAYERS = {
    "descriptor 3": (3, 8, (5, 5), (10, 12), {"stride": 2, "padding": 2}),
    "descriptor 1": (1, 8, (5, 5), (7, 7), {"stride": 2, "padding": 2}),
    "3x3": (3, 11, (3, 3), (6, 5), {"padding": 1}),
    "odd": (2, 3, (2, 3), (7, 6), {"stride": (2, 1), "padding": (0, 2)}),
    "one pixel": (3, 9, (4, 4), (4, 4), {}),
}


def layer(name, dtype=torch.float32, batch=2):
    inputs, channels, kernel, image, options = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, inputs, *image, generator=generator).to(dtype)
    weight = torch.randn(channels, inputs, *kernel, generator=generator).to(dtype)
    return x, weight, torch.randn(channels, generator=generator), options


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def oracle(x, weight, bias, slope, stride=1, padding=0):
    """The layer before and after its activation: a sum over places of the kernel, in NumPy."""
    x, weight = x.double().numpy(), weight.double().numpy()
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    kh, kw = weight.shape[2:]
    rows, columns = (x.shape[2] - kh) // sh + 1, (x.shape[3] - kw) // sw + 1
    z = np.zeros((len(x), len(weight), rows, columns))
    for i in range(kh):
        for j in range(kw):
            seen = x[:, :, i : i + sh * (rows - 1) + 1 : sh, j : j + sw * (columns - 1) + 1 : sw]
            z += np.einsum("bchw,oc->bohw", seen, weight[:, :, i, j])
    z += bias.double().numpy()[:, None, None]
    return z, np.where(z > 0, z, slope * z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("last", [False, True])
def test_function_and_bits(name, dtype, last):
    x, weight, bias, options = layer(name, dtype)
    bias = bias.to(dtype)
    z, y = oracle(x, weight, bias, 0.1, **options)
    eps = torch.finfo(dtype).eps
    near = {"rtol": 4 * eps, "atol": 40 * eps if dtype == torch.bfloat16 else 2e-5}
    plain = first_conv(x, weight, bias, 0.1, channels_last=last, **options)
    ours, bits = first_conv_bits(x, weight, bias, 0.1, channels_last=last, **options)
    for found in (plain, ours):
        assert found.dtype == dtype and found.shape == y.shape
        assert found.is_contiguous(memory_format=LAST if last else torch.contiguous_format)
        np.testing.assert_allclose(found.double(), y, **near)
    by_pixel = last or math.prod(y.shape[2:]) == 1
    rows = np.moveaxis(z > 0, 1, -1) if by_pixel else (z > 0).reshape(*z.shape[:2], -1)
    assert np.array_equal(bits, np.packbits(rows, axis=-1, bitorder="little"))


def test_memory_format_follows_x_or_weight():
    x, weight, bias, options = layer("descriptor 3")
    for a, b in ((x.to(memory_format=LAST), weight), (x, weight.to(memory_format=LAST))):
        y, bits = first_conv_bits(a, b, bias, **options)
        assert y.is_contiguous(memory_format=LAST) and bits.shape == (2, 5, 6, 1)
        assert first_conv(a, b, bias, **options).is_contiguous(memory_format=LAST)
    y, bits = first_conv_bits(x, weight, bias, **options)
    assert y.is_contiguous() and bits.shape == (2, 8, 4)


def through_the_op(x, weight, bias, stride, padding, last=False):
    return torch.ops.coophash.first_conv(x, weight, bias, 0.1, pair(stride), pair(padding), last)[0]


@pytest.mark.parametrize("name", ["descriptor 3", "odd"])
def test_gradcheck_twice(name):
    x, weight, bias, options = layer(name, torch.float64, batch=1)
    stride, padding = options["stride"], options["padding"]
    x, weight, bias = (t.double()[..., :7].requires_grad_() for t in (x, weight, bias))
    bias = torch.randn(weight.shape[0], dtype=torch.float64).requires_grad_()

    def both(x, weight, bias):
        return (
            through_the_op(x, weight, bias, stride, padding),
            first_conv(x, weight, bias, 0.1, **options),
        )

    assert torch.autograd.gradcheck(both, (x, weight, bias))
    assert torch.autograd.gradgradcheck(both, (x, weight, bias))


def test_the_op_keeps_x_weight_and_bits_alone():
    x, weight, bias, _ = layer("descriptor 3")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = through_the_op(x, weight.requires_grad_(), bias, 2, 2)
    kept = {t.data_ptr(): t.numel() * t.element_size() for t in saved}
    bits = y.shape[0] * y.shape[1] * -(-y[0, 0].numel() // 8)
    assert sum(kept.values()) == 4 * (x.numel() + weight.numel()) + bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("last", [False, True])
def test_input_grad_equals_autograd(name, dtype, last):
    x, weight, bias, options = layer(name, dtype)
    bias = bias.to(dtype)
    y, bits = first_conv_bits(x, weight, bias, 0.1, channels_last=last, **options)
    grad = torch.randn(y.shape, dtype=dtype)
    found = first_conv_input_grad(grad, bits, weight, 0.1, size=tuple(x.shape[2:]), **options)
    leaf = x.double().requires_grad_()
    z = F.conv2d(leaf, weight.double(), bias.double(), **options)
    (expected,) = torch.autograd.grad(F.leaky_relu(z, 0.1), leaf, grad.double())
    assert found.dtype == dtype and found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


def test_input_grad_is_differentiable():
    x, weight, bias, options = layer("odd", torch.float64, batch=1)
    y, bits = first_conv_bits(x, weight, bias.double(), 0.1, **options)
    grad = torch.randn_like(y).requires_grad_()

    def function(grad, weight):
        return first_conv_input_grad(grad, bits, weight, 0.1, size=(7, 6), **options)

    assert torch.autograd.gradcheck(function, (grad, weight.requires_grad_()))


@pytest.mark.parametrize("case", ["row-major", "channels_last", "no bias", "bf16", "constants"])
def test_opcheck(case):
    x, weight, bias, _ = layer("descriptor 3", torch.bfloat16 if case == "bf16" else torch.float32)
    grad_wanted = case not in ("constants", "bf16")
    tensors = [t.requires_grad_(grad_wanted) for t in (x, weight)]
    tensors.append(None if case == "no bias" else bias.requires_grad_(grad_wanted))
    arguments = (*tensors, 0.1, [2, 2], [2, 2], case == "channels_last")
    torch.library.opcheck(torch.ops.coophash.first_conv.default, arguments)
    y, bits = first_conv_bits(x, weight, None, 0.1, stride=2, padding=2)
    arguments = (torch.randn_like(y).requires_grad_(grad_wanted), bits, weight, 0.1, [2, 2],
                 [2, 2], [10, 12])  # fmt: skip
    torch.library.opcheck(torch.ops.coophash.first_conv_input_grad.default, arguments)


def network(x, weight, bias):
    y, bits = first_conv_bits(x, weight, bias, 0.1, stride=2, padding=2)
    grad = first_conv_input_grad(
        torch.cos(y), bits, weight, 0.1, stride=2, padding=2, size=(10, 12)
    )
    return first_conv(x + grad, weight, bias, 0.1, stride=2, padding=2), grad


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    torch._dynamo.reset()
    x, weight, bias, _ = layer("descriptor 3")
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x, weight, bias), network(x, weight, bias))


def test_compile_of_a_training_step():
    torch._dynamo.reset()
    x, weight, bias, _ = layer("descriptor 3")
    results = []
    for compiled in (False, True):

        def run(x, weight, bias):
            return through_the_op(x, weight, bias, 2, 2).square().sum()

        if compiled:
            run = torch.compile(run, fullgraph=True, backend="aot_eager")
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        results.append(torch.autograd.grad(run(*leaves), leaves))
    torch.testing.assert_close(results[0], results[1])


def test_export():
    class Network(torch.nn.Module):
        def forward(self, x, weight, bias):
            return network(x, weight, bias)

    x, weight, bias, _ = layer("descriptor 3")
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        Network(), (x, weight, bias), dynamic_shapes=({0: batch}, None, None)
    )
    assert "coophash.first_conv_input_grad" in program.graph_module.code
    x = torch.randn(5, 3, 10, 12)
    torch.testing.assert_close(program.module()(x, weight, bias), network(x, weight, bias))


X, WEIGHT, BIAS = torch.zeros(2, 3, 6, 6), torch.zeros(4, 3, 3, 3), torch.zeros(4)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "x must be a torch.Tensor, got list", {"x": [1.0]}),
        (TypeError, "x must be float32.*got torch.uint8", {"x": X.byte()}),
        (ValueError, r"x must be \(B, C_in, H, W\), got \(3, 6, 6\)", {"x": X[0]}),
        (ValueError, r"weight must be \(C_out, 3, KH, KW\).*got \(4, 2, 3, 3\)",
         {"weight": WEIGHT[:, :2]}),
        (TypeError, "weight must have the dtype of x, torch.float32, got torch.float64",
         {"weight": WEIGHT.double()}),
        (ValueError, "weight must be on the device of x, cpu, got meta",
         {"weight": WEIGHT.to("meta")}),
        (ValueError, r"bias must be \(4,\)", {"bias": torch.zeros(3)}),
        (ValueError, "slope must be a finite number >= 0", {"slope": -1.0}),
        (ValueError, "stride must be >= 1, got 0", {"stride": 0}),
        (TypeError, r"stride must be an integer or a pair of integers, got \(1, 2, 3\)",
         {"stride": (1, 2, 3)}),
        (TypeError, "padding must be an integer or a pair of integers, got 'same'",
         {"padding": "same"}),
        (ValueError, "padding must be >= 0, got -1", {"padding": -1}),
        (ValueError, r"as high as the kernel, got 2 \+ 2 · 0 for 3", {"x": X[:, :, :2]}),
        (ValueError, "as wide as the kernel", {"x": X[..., :1]}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", [first_conv, first_conv_bits])
def test_bad_input(function, error, message, change):
    with pytest.raises(error, match=message):
        function(**{"x": X, "weight": WEIGHT, "bias": BIAS, "slope": 0.1} | change)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "grad must be a torch.Tensor", {"grad": None}),
        (ValueError, r"grad must be \(B, C_out, H', W'\)", {"grad": torch.zeros(2, 5, 4, 4)}),
        (ValueError, "grad must be 3 x 4 for an image of 5 x 6", {"size": (5, 6)}),
        (TypeError, "bits must be the uint8 tensor", {"bits": torch.zeros(2, 4, 2)}),
        (ValueError, "bits must be of shape", {"bits": torch.zeros(2, 4, 3, dtype=torch.uint8)}),
        (ValueError, "weight must be on the device of grad", {"weight": WEIGHT.to("meta")}),
    ],
)
def test_bad_input_of_the_gradient(error, message, change):
    arguments = {
        "grad": torch.zeros(2, 4, 4, 4), "bits": torch.zeros(2, 4, 2, dtype=torch.uint8),
        "weight": WEIGHT, "slope": 0.1, "size": (6, 6),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        first_conv_input_grad(**arguments | change)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "shape, options",
    [
        ((64, 3, 32, 32, 32, 5), {"stride": 2, "padding": 2}),
        ((64, 1, 28, 28, 32, 5), {"stride": 2, "padding": 2}),
        ((32, 3, 64, 64, 64, 3), {"padding": 1}),
        ((5, 2, 17, 13, 40, 4), {"stride": (2, 1), "padding": (1, 0)}),
        ((5, 3, 17, 13, 128, 3), {}),
        ((5, 6, 17, 13, 16, 3), {"padding": 1}),
    ],
)
def test_on_a_gpu_against_double_precision(shape, options, dtype, last):
    batch, inputs, height, width, channels, kernel = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, inputs, height, width, generator=generator)
    weight = torch.randn(channels, inputs, kernel, kernel, generator=generator)
    bias = torch.randn(channels, generator=generator).cuda()
    x, weight = x.cuda().to(dtype), weight.cuda().to(dtype)
    z = F.conv2d(x.double(), weight.double(), bias.double(), **options)
    # What float32 may round: TF32 is wrong by 500 times as much.
    size = F.conv2d(x.double().abs(), weight.double().abs(), bias.double().abs(), **options)
    y, bits = first_conv_bits(x, weight, bias, 0.1, channels_last=last, **options)
    error = (y.double() - F.leaky_relu(z, 0.1)).abs()
    assert (error <= (2e-6 if dtype == torch.float32 else 5e-3) * size).all()
    sure = z.abs() > 2e-6 * size
    assert torch.equal(unpack_signs(bits, y.shape)[sure], (z > 0)[sure])
    grad = torch.randn(y.shape, generator=generator).cuda().to(dtype)
    found = first_conv_input_grad(grad, bits, weight, 0.125, size=(height, width), **options)
    masked = torch.where(unpack_signs(bits, y.shape), grad, grad * 0.125).double()
    back = [
        torch.nn.grad.conv2d_input(x.shape, w, g, **options)
        for w, g in ((weight.double(), masked), (weight.double().abs(), masked.abs()))
    ]
    assert ((found - back[0]).abs() <= 4e-6 * back[1] + 1e-6).all()
