"""The first layer of the descriptor: convolution, bias, leaky ReLU and their way back.

    pytest benchmarks/bench_first_layer.py --benchmark-only

On the CPU the layer in training, through autograd, beside F.conv2d and F.leaky_relu. On a GPU the
layer with packed signs, and the end of a Langevin step: the gradient through the layer and the step
in one kernel, beside PyTorch's pieces. Each provider first gives the numbers of float64. Bytes are
counted from the code (kernels/README.md).
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from coophash.kernels import (  # noqa: E402
    bias_leaky_relu,
    first_conv,
    first_conv_bits,
    first_conv_input_grad,
    first_conv_langevin,
)
from coophash.kernels._backend import triton_missing  # noqa: E402

SLOPE, CHANNELS = 0.1, 32
LAYER = {"stride": 2, "padding": 2}  # 5 x 5, as in the descriptor
SHAPES = {"64x1x28x28": (64, 1, 28, 28), "64x3x32x32": (64, 3, 32, 32)}
GPU_SHAPES = {
    f"{batch}x3x{side}x{side}": (batch, 3, side, side)
    for batch in (64, 256, 1024)
    for side in (32, 64)
}


def eager(x, weight, bias):
    return F.leaky_relu(F.conv2d(x, weight, bias, **LAYER), SLOPE)


def coophash(x, weight, bias):
    return first_conv(x, weight, bias, SLOPE, **LAYER)


def apart(x, weight, bias):
    """As a later layer runs it: the convolution without its bias, then bias_leaky_relu."""
    return bias_leaky_relu(F.conv2d(x, weight, **LAYER), bias, SLOPE)


PROVIDERS = {"coophash": coophash, "apart": apart, "eager": eager}


def tensors(shape, dtype=torch.float32, device="cpu", last=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    weight = torch.randn(CHANNELS, shape[1], 5, 5, generator=generator).mul_(0.1).to(device, dtype)
    bias = torch.randn(CHANNELS, generator=generator).to(device, dtype)
    size = (shape[0], CHANNELS, (shape[2] + 1) // 2, (shape[3] + 1) // 2)
    grad = torch.randn(size, generator=generator).to(device, dtype)
    if last:
        x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
    return x, weight, bias, grad


def near(found, expected, allowed):
    """Refuse to time a wrong result."""
    error = (found.double() - expected).abs().max()
    assert error <= allowed * expected.abs().max(), f"off by {error:.3g}: not timed"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.benchmark(group="first layer, forward and backward, CPU")
def test_first_layer(benchmark, provider, shape):
    benchmark.group += f", {shape}"
    run = PROVIDERS[provider]
    *leaves, grad = tensors(SHAPES[shape])
    leaves = [t.requires_grad_() for t in leaves]
    doubles = [t.double() for t in leaves]
    found = torch.autograd.grad(run(*leaves), leaves, grad)
    expected = torch.autograd.grad(eager(*doubles), doubles, grad.double())
    for a, b in zip(found, expected, strict=True):
        near(a, b, 1e-5)
    benchmark.pedantic(
        lambda: torch.autograd.grad(run(*leaves), leaves, grad), rounds=100, warmup_rounds=10
    )
    benchmark.extra_info["threads"] = torch.get_num_threads()


def needs_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    if triton_missing("cuda"):
        pytest.skip(triton_missing("cuda"))


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True)


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True], ids=["row-major", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", GPU_SHAPES)
@pytest.mark.benchmark(group="first layer, GPU")
def test_forward_gpu(gpu_turns, shape, dtype, last):
    """PyTorch's convolution may use TF32 for float32, as it does by default; ours does not."""
    needs_gpu()
    x, weight, bias, _ = tensors(GPU_SHAPES[shape], getattr(torch, dtype), "cuda", last)

    def ours():
        return first_conv_bits(x, weight, bias, SLOPE, **LAYER)

    expected = eager(x.double(), weight.double(), bias.double())
    y, bits = ours()
    near(y, expected, 1e-5 if dtype == "float32" else 1e-2)
    run = compiled(eager)
    near(run(x, weight, bias), expected, 1e-2)
    gpu_turns(
        ours,
        {
            "eager": lambda: eager(x, weight, bias),
            "torch.compile": lambda: run(x, weight, bias),
        },
        moved=(x.numel() + y.numel()) * x.element_size() + bits.numel(),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True], ids=["row-major", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", GPU_SHAPES)
@pytest.mark.benchmark(group="first layer's gradient and the Langevin step, GPU")
def test_langevin_gpu(gpu_turns, shape, dtype, last):
    """x is float32 throughout, the network of `dtype`."""
    needs_gpu()
    x, weight, bias, grad = tensors(GPU_SHAPES[shape], getattr(torch, dtype), "cuda", last)
    z = F.conv2d(x, weight, bias, **LAYER)
    _, bits = first_conv_bits(x, weight, bias, SLOPE, **LAYER)
    x = x.float().contiguous()

    def ours():
        return first_conv_langevin(
            x, grad, bits, weight, SLOPE, grad_scale=0.01, noise_scale=0.1, clamp=(-1, 1), **LAYER
        )

    def input_grad(grad, z, weight):
        masked = torch.ops.aten.leaky_relu_backward(grad, z, SLOPE, False)
        return torch.ops.aten.convolution_backward(
            masked, x.to(grad.dtype), weight, None, [2, 2], [2, 2], [1, 1], False, [0, 0], 1,
            [True, False, False],
        )[0]  # fmt: skip

    def pieces(x, grad, z, weight):
        found = input_grad(grad, z, weight).float()
        return (x - 0.01 * found + 0.1 * torch.randn_like(x)).clamp_(-1, 1)

    expected = input_grad(grad.double(), z.double(), weight.double())
    size = tuple(x.shape[2:])
    ready = first_conv_input_grad(grad, bits, weight, SLOPE, size=size, **LAYER)
    # In bfloat16 the rounded z of PyTorch has another sign here and there.
    near(ready, expected, 1e-5 if dtype == "float32" else 5e-2)
    run = compiled(pieces)
    gpu_turns(
        ours,
        {
            "eager": lambda: pieces(x, grad, z, weight),
            "torch.compile": lambda: run(x, grad, z, weight),
        },
        moved=8 * x.numel() + grad.numel() * grad.element_size() + bits.numel(),
    )
