"""The op first_conv_langevin on the CPU: its reference, registration, compile, bad input.

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
    bias_leaky_relu_bits,
    first_conv_bits,
    first_conv_input_grad,
    first_conv_langevin,
    langevin_step,
    leaky_relu_backward,
    philox_normal,
)

LAST = torch.channels_last
LAYER = {"stride": 2, "padding": 2}
EVERYTHING = {"clamp": (-0.9, 1.1), "grad_clip": 7.0, "reference_std": 2.0, "noise_scale": 0.1,
              "seed": 3, "step": 4, "chain": 5}  # fmt: skip


def layer(dtype=torch.float32, last=False, shape=(2, 3, 10, 12), channels=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(channels, shape[1], 5, 5, generator=generator).to(dtype)
    bias = torch.randn(channels, generator=generator)
    y, bits = first_conv_bits(x.to(dtype), weight, bias, 0.1, channels_last=last, **LAYER)
    return x, torch.randn(y.shape, generator=generator).to(dtype), bits, weight, bias


@pytest.mark.parametrize("last", [False, True])
def test_against_autograd_and_numpy(last):
    x, grad, bits, weight, bias = layer(last=last)
    moved = first_conv_langevin(x, grad, bits, weight, 0.1, grad_scale=0.05, **LAYER, **EVERYTHING)
    leaf = x.double().requires_grad_()
    y = F.leaky_relu(F.conv2d(leaf, weight.double(), bias.double(), **LAYER), 0.1)
    (drift,) = torch.autograd.grad(y, leaf, grad.double())
    noise = philox_normal(x.numel(), seed=3, step=4, chain=5).reshape(x.shape)
    drift = np.clip(drift.numpy(), -7.0, 7.0) + x.double().numpy() / 4
    expected = np.clip(x.double().numpy() - 0.05 * drift + 0.1 * noise, -0.9, 1.1)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-5)
    assert (np.abs(expected) < 0.9).mean() > 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equals_the_gradient_and_then_the_step(dtype, x_dtype):
    x, grad, bits, weight, _ = layer(dtype)
    x = x.to(x_dtype).to(memory_format=LAST)
    found = first_conv_input_grad(grad, bits, weight, 0.1, size=(10, 12), **LAYER)
    expected = langevin_step(x, found, grad_scale=0.05, **EVERYTHING)
    kept, out = torch.empty(x.shape), torch.empty_like(x)
    moved = first_conv_langevin(
        x, grad, bits, weight, 0.1, grad_scale=0.05, out=out, input_grad=kept, **LAYER, **EVERYTHING
    )
    assert moved is out and torch.equal(moved, expected)
    torch.testing.assert_close(kept, found.float())
    alone = first_conv_langevin(x, grad, bits, weight, 0.1, grad_scale=0.05, **LAYER, **EVERYTHING)
    assert torch.equal(alone, expected) and alone.stride() == torch.empty_like(x).stride()
    in_place = x.clone()
    first_conv_langevin(
        in_place, grad, bits, weight, 0.1, grad_scale=0.05, out=in_place, **LAYER, **EVERYTHING
    )
    assert torch.equal(in_place, expected)


def test_given_noise_and_numbers_on_the_device():
    x, grad, bits, weight, _ = layer()
    noise = torch.randn(x.shape)
    found = first_conv_input_grad(grad, bits, weight, 0.1, size=(10, 12), **LAYER)
    for options in (
        {"grad_scale": 0.05, "noise_scale": 0.3, "noise": noise},
        {"grad_scale": torch.tensor(0.05), "noise_scale": torch.tensor([0.3]),
         "seed": torch.tensor(-7), "step": torch.tensor(3), "chain": 2},
        {"grad_scale": 0.05},
    ):  # fmt: skip
        moved = first_conv_langevin(x, grad, bits, weight, 0.1, **LAYER, **options)
        assert torch.equal(moved, langevin_step(x, found, **options))


def test_a_network_by_hand_equals_autograd():
    """The chain of pieces that leaky_relu.py describes: two layers, a linear energy, one step."""
    x, _, _, w1, b1 = layer()
    w2, b2 = torch.randn(6, 8, 3, 3), torch.randn(6)
    head = torch.randn(2, 6, 3, 3)
    y1, bits1 = first_conv_bits(x, w1, b1, 0.1, **LAYER)
    _, bits2 = bias_leaky_relu_bits(F.conv2d(y1, w2, stride=2, padding=1), b2, 0.1)
    grad, _ = leaky_relu_backward(head, bits2, 0.1)
    grad = torch.nn.grad.conv2d_input(y1.shape, w2, grad, stride=2, padding=1)
    moved = first_conv_langevin(
        x, grad, bits1, w1, 0.1, grad_scale=0.01, noise_scale=0.1, seed=1, **LAYER
    )
    leaf = x.clone().requires_grad_()
    y = F.leaky_relu(F.conv2d(leaf, w1, b1, **LAYER), 0.1)
    y = F.leaky_relu(F.conv2d(y, w2, b2, stride=2, padding=1), 0.1)
    (grad,) = torch.autograd.grad((y * head).sum(), leaf)
    expected = langevin_step(x, grad, grad_scale=0.01, noise_scale=0.1, seed=1)
    torch.testing.assert_close(moved, expected, rtol=0, atol=2e-5)


def test_empty():
    x, grad, bits, weight, _ = layer()
    moved = first_conv_langevin(
        x[:0], grad[:0], bits[:0], weight, 0.1, grad_scale=0.1, noise_scale=0.1, **LAYER
    )
    assert moved.shape == (0, 3, 10, 12)


def op_arguments(x, grad, bits, weight, noise=None):
    layer_options = (0.1, [2, 2], [2, 2])
    return (x, grad, bits, weight, noise, *layer_options, None, None, 0.5, 0.1, -1.0, 1.0,
            math.inf, 0.0, 3, 4, 5)  # fmt: skip


@pytest.mark.parametrize("case", ["drawn", "noise", "channels_last", "bf16", "out"])
def test_opcheck(case):
    x, grad, bits, weight, _ = layer(torch.bfloat16 if case == "bf16" else torch.float32)
    if case == "channels_last":
        x = x.to(memory_format=LAST)
    plain = op_arguments(x, grad, bits, weight, torch.randn_like(x) if case == "noise" else None)
    if case != "out":
        torch.library.opcheck(torch.ops.coophash.first_conv_langevin.default, plain)
        return
    for kept in (None, torch.empty_like(x)):
        arguments = (*plain[:5], torch.empty_like(x), kept, *plain[5:])
        torch.library.opcheck(torch.ops.coophash.first_conv_langevin_out.default, arguments)


def test_compile_and_export():
    class Step(torch.nn.Module):
        def forward(self, x, weight, bias, step):
            y, bits = first_conv_bits(x, weight, bias, 0.1, **LAYER)
            return first_conv_langevin(
                x, torch.cos(y), bits, weight, 0.1, grad_scale=0.1, noise_scale=0.1, step=step,
                **LAYER,
            )  # fmt: skip

    torch._dynamo.reset()
    x, _, _, weight, bias = layer()
    module, arguments = Step(), (x, weight, bias, torch.tensor(3))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), module(*arguments))
    program = torch.export.export(module, arguments)
    assert "coophash.first_conv_langevin" in program.graph_module.code
    assert torch.equal(program.module()(*arguments), module(*arguments))


GOOD = dict(zip(("x", "grad", "bits", "weight"), layer()[:4], strict=True))
X = GOOD["x"]


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "x must be a torch.Tensor", {"x": 1}),
        (ValueError, r"x must be \(B, C_in, H, W\)", {"x": X[0]}),
        (ValueError, "grad must be 4 x 6 for an image of 8 x 12", {"x": X[:, :, :8]}),
        (ValueError, "2 samples and 2 input channels on cpu like x, got 2 and 3", {"x": X[:, :2]}),
        (ValueError, "1 samples and 3 input channels on cpu like x, got 2 and 3", {"x": X[:1]}),
        (TypeError, "bits must be the uint8 tensor", {"bits": GOOD["bits"].int()}),
        (ValueError, "noise must have the shape of x", {"noise": X[:1]}),
        (ValueError, "input_grad must have the shape of x", {"input_grad": X[:1]}),
        (ValueError, "input_grad must own each", {"input_grad": X[:1].expand_as(X)}),
        (TypeError, "out must have the dtype of x", {"out": X.double()}),
        (ValueError, "grad_scale must be a finite number >= 0", {"grad_scale": -1.0}),
        (ValueError, "not differentiable.*under torch.no_grad",
         {"weight": GOOD["weight"].clone().requires_grad_()}),
    ],
)  # fmt: skip
def test_bad_input(error, message, change):
    with pytest.raises(error, match=message):
        first_conv_langevin(**GOOD | {"slope": 0.1, "grad_scale": 0.1} | LAYER | change)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (256, 1, 28, 28), (9, 2, 15, 17)])
def test_on_a_gpu_against_double_precision(shape, dtype, last):
    x, grad, bits, weight, _ = (t.cuda() for t in layer(dtype, last, shape, 32))
    found = first_conv_input_grad(grad, bits, weight, 0.125, size=shape[2:], **LAYER)
    cpu = [t.cpu() for t in (grad, bits, weight)]
    exact = first_conv_input_grad(cpu[0].double(), cpu[1], cpu[2].double(), 0.125,
                                  size=shape[2:], **LAYER)  # fmt: skip
    scale = exact.abs().max()
    # One product of TF32 would be wrong by some 1e-3 of the scale.
    assert (found.cpu().double() - exact).abs().max() <= 2e-6 * scale
    options = {"grad_scale": 0.05, **EVERYTHING}
    kept = torch.empty_like(x)
    moved = first_conv_langevin(x, grad, bits, weight, 0.125, input_grad=kept, **LAYER, **options)
    expected = langevin_step(x.cpu().double(), exact, **options)
    torch.testing.assert_close(moved.cpu().double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(kept, found, rtol=0, atol=0)
    again = first_conv_langevin(x, grad, bits, weight, 0.125, **LAYER, **options)
    assert torch.equal(again, moved)


def test_offsets_beyond_32_bits_go_another_way():
    pytest.importorskip("triton")
    from coophash.kernels.first_layer_langevin_triton import _small

    x = torch.empty(2, 3, 8, 8, device="meta")
    far = torch.empty(3, 1 << 23, 8, 8, device="meta").transpose(0, 1)[:2]
    assert _small(x, x.shape, x, None) and not _small(x, x.shape, x, far)
