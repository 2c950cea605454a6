"""The energy head: coophash beside a linear layer and its gather, eager and compiled.

    pytest benchmarks/bench_energy.py --benchmark-only

What is timed: energies with their gradient with respect to the features, as a step of a chain asks
for them ("chain": behind a leaky ReLU, as in the descriptor); energies and all gradients, as
training does ("training"). Each provider first passes a gate against double precision. Bytes are
what the op must move, counted from the shapes: the features and a gradient of their size, each
weight once.
"""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from coophash.kernels import energy_head, energy_head_and_grad  # noqa: E402
from coophash.kernels._backend import triton_missing  # noqa: E402

SLOPE = 0.1
# batch, features, classes. The descriptor's is 256 features.
CPU_SIZES = [(b, 256, c) for b in (64, 256) for c in (10, 100, 1000)]
GPU_SIZES = [(256, 256, 10), (1024, 256, 100), (1024, 4096, 10), (16384, 2048, 100)]
KINDS = ["class", "several", "marginal"]


def eager_energies(features, weight, bias, labels, slope):
    """What one writes without coophash."""
    active = features if slope is None else F.leaky_relu(features, slope)
    outputs = F.linear(active, weight, bias)
    if labels is None:
        return -torch.logsumexp(-outputs, 1)
    if labels.dim() == 2:
        return (outputs * labels).sum(1) / labels.sum(1)
    return outputs.gather(1, labels[:, None])[:, 0]


def eager_chain(features, weight, bias, labels):
    leaf = features.detach().requires_grad_()
    energies = eager_energies(leaf, weight, bias, labels, SLOPE)
    (grad,) = torch.autograd.grad(energies.sum(), leaf)
    return energies.detach(), grad


def ours_chain(features, weight, bias, labels):
    with torch.no_grad():
        return energy_head_and_grad(features, weight, bias, labels, slope=SLOPE)


def training(energies, features, weight, bias, labels):
    leaves = [t.detach().requires_grad_() for t in (features, weight, bias)]
    loss = energies(*leaves, labels).float().square().mean()
    return torch.autograd.grad(loss, leaves)


def ours_energies(features, weight, bias, labels):
    return energy_head(features, weight, bias, labels)


def providers(kind: str):
    plain = functools.partial(eager_energies, slope=None)
    torch._dynamo.reset()
    compiled = torch.compile(eager_energies)
    if kind == "training":
        compiled_plain = functools.partial(compiled, slope=None)
        return {
            name: functools.partial(training, energies)
            for name, energies in (
                ("ours", ours_energies), ("eager", plain), ("torch.compile", compiled_plain)
            )
        }  # fmt: skip

    def compiled_chain(features, weight, bias, labels):
        leaf = features.detach().requires_grad_()
        energies = compiled(leaf, weight, bias, labels, SLOPE)
        (grad,) = torch.autograd.grad(energies.sum(), leaf)
        return energies.detach(), grad

    return {"ours": ours_chain, "eager": eager_chain, "torch.compile": compiled_chain}


def gate(name, run, arguments, expected) -> None:
    """Refuse to time a wrong result."""
    for got, exact in zip(run(*arguments), expected, strict=True):
        worst = (got.cpu().double() - exact).abs().max() / exact.abs().max().clamp(min=1e-9)
        allowed = 5e-2 if arguments[0].dtype == torch.bfloat16 else 1e-4
        assert worst < allowed, f"{name}: off by {worst:.1e} of the largest value"


def measure(gpu_turns, what, kind, size, dtype, device) -> None:
    batch, width, classes = size
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, width, generator=generator).to(dtype)
    weight = (torch.randn(classes, width, generator=generator) / width**0.5).to(dtype)
    bias = torch.randn(classes, generator=generator).to(dtype)
    labels = None
    if kind != "marginal":
        labels = torch.randint(classes, (batch,), generator=generator)
    if kind == "several":
        several = torch.rand(batch, classes, generator=generator) < 3 / classes
        labels = several | F.one_hot(labels, classes).bool()
    double = [t.double() for t in (features, weight, bias)]
    reference = (
        functools.partial(training, functools.partial(eager_energies, slope=None))
        if what == "training"
        else eager_chain
    )
    expected = reference(*double, labels)
    arguments = [None if t is None else t.to(device) for t in (features, weight, bias, labels)]
    calls = providers(what)
    for name, run in calls.items():
        gate(name, run, arguments, expected)
    read = 2 * batch * width + min(batch, classes) * width  # features, their gradient, weight
    if what == "training":
        read += batch * width + classes * width  # features once more, the weight's gradient
    moved = read * features.element_size() + 4 * batch
    moved += 0 if labels is None else labels.numel() * labels.element_size()
    bound = {name: functools.partial(run, *arguments) for name, run in calls.items()}
    gpu_turns(bound.pop("ours"), bound, moved=moved, device=device)


@pytest.mark.parametrize("size", CPU_SIZES, ids=str)
@pytest.mark.parametrize("what", ["chain", "training"])
@pytest.mark.benchmark(group="energy head, class labels, CPU, fp32")
def test_energy_head(benchmark, gpu_turns, what, size):
    benchmark.group += f", {what}, {size}"
    measure(gpu_turns, what, "class", size, torch.float32, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("size", GPU_SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["chain", "training"])
@pytest.mark.benchmark(group="energy head, GPU")
def test_energy_head_gpu(benchmark, gpu_turns, what, kind, dtype, size):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    if triton_missing("cuda"):
        pytest.skip(triton_missing("cuda"))
    benchmark.group += f", {what}, {kind}, {dtype}, {size}"
    measure(gpu_turns, what, kind, size, getattr(torch, dtype), "cuda")
