"""Bias and leaky ReLU, forward and backward: one bit an element kept, beside PyTorch's own.

    pytest benchmarks/bench_leaky_relu.py --benchmark-only

On the CPU, what training runs: the activation of a layer with its bias, through autograd. On a GPU
the passes with packed signs. Each provider first gives the gradients of the eager one. Bytes are
counted from the code (kernels/README.md).
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from coophash.kernels import (  # noqa: E402
    bias_leaky_relu,
    bias_leaky_relu_bits,
    leaky_relu_backward,
)
from coophash.kernels._backend import triton_missing  # noqa: E402

SLOPE = 0.1
# Layers of the descriptor at batch 64: 32 and 128 channels of 3 x 32 x 32 images, the dense layer.
SHAPES = {"64x32x16x16": (64, 32, 16, 16), "64x128x4x4": (64, 128, 4, 4), "64x256": (64, 256)}
GPU_SHAPES = {"256x64x16x16": (256, 64, 16, 16), "1024x64x32x32": (1024, 64, 32, 32)}


def eager(x, bias):
    return F.leaky_relu(x + bias.view(-1, *[1] * (x.dim() - 2)), SLOPE)


def coophash(x, bias):
    return bias_leaky_relu(x, bias, SLOPE)


PROVIDERS = {"coophash": coophash, "eager": eager, "torch.compile": eager}


def make(provider):
    if provider != "torch.compile":
        return PROVIDERS[provider]
    torch._dynamo.reset()
    return torch.compile(PROVIDERS[provider], fullgraph=True)


def tensors(shape, dtype=torch.float32, device="cpu", last=False):
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    bias = torch.randn(shape[1], generator=generator).to(device, dtype)
    if last:
        x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
    return x.requires_grad_(), bias.requires_grad_(), grad


def gate(run, x, bias, grad):
    """Refuse to time wrong gradients."""
    found = torch.autograd.grad(run(x, bias), (x, bias), grad)
    expected = torch.autograd.grad(eager(x.double(), bias.double()), (x, bias), grad.double())
    half = x.dtype != torch.float32
    torch.testing.assert_close(found[0], expected[0], rtol=2e-2 if half else 1e-5, atol=1e-5)
    allowed = (1e-2 if half else 1e-5) * grad.double().abs().sum([0, *range(2, x.dim())])
    assert ((found[1] - expected[1]).abs() <= allowed).all()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.benchmark(group="bias + leaky ReLU, forward and backward, CPU")
def test_bias_leaky_relu(benchmark, provider, shape):
    benchmark.group += f", {shape}"
    run = make(provider)
    x, bias, grad = tensors(SHAPES[shape])
    gate(run, x, bias, grad)
    benchmark.pedantic(
        lambda: torch.autograd.grad(run(x, bias), (x, bias), grad), rounds=200, warmup_rounds=10
    )
    benchmark.extra_info["threads"] = torch.get_num_threads()


def needs_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    if triton_missing("cuda"):
        pytest.skip(triton_missing("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True], ids=["row-major", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", GPU_SHAPES)
@pytest.mark.benchmark(group="bias + leaky ReLU, GPU")
def test_forward_gpu(gpu_turns, shape, dtype, last):
    needs_gpu()
    x, bias, grad = tensors(GPU_SHAPES[shape], getattr(torch, dtype), "cuda", last)
    gate(coophash, x, bias, grad)
    compiled = make("torch.compile")
    x, bias = x.detach(), bias.detach()
    gpu_turns(
        lambda: bias_leaky_relu_bits(x, bias, SLOPE),
        {"eager": lambda: eager(x, bias), "torch.compile": lambda: compiled(x, bias)},
        moved=2 * x.numel() * x.element_size() + x.numel() // 8,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True], ids=["row-major", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", GPU_SHAPES)
@pytest.mark.benchmark(group="bias + leaky ReLU backward with the bias' gradient, GPU")
def test_backward_gpu(gpu_turns, shape, dtype, last):
    needs_gpu()
    x, bias, grad = tensors(GPU_SHAPES[shape], getattr(torch, dtype), "cuda", last)
    gate(coophash, x, bias, grad)
    x, bias = x.detach(), bias.detach()
    z = x + bias[:, None, None]
    _, bits = bias_leaky_relu_bits(x, bias, SLOPE)

    def plain():
        passed = torch.ops.aten.leaky_relu_backward(grad, z, SLOPE, False)
        return passed, passed.sum((0, 2, 3))

    torch._dynamo.reset()
    compiled = torch.compile(plain, fullgraph=True)
    gpu_turns(
        lambda: leaky_relu_backward(grad, bits, SLOPE, bias_grad=True),
        {"eager": plain, "torch.compile": compiled},
        moved=2 * x.numel() * x.element_size() + x.numel() // 8,
    )
