"""The Langevin chain on CoopHash's descriptor, beside the loops that other code runs.

    pytest benchmarks/bench_chain.py --benchmark-only

    eager          the input's gradient by autograd.grad, then the update in PyTorch's own ops
    JEM            the same on x.data, with a leaf remade and the graph retained at each step
    backward       energy.sum().backward(), which computes the gradients of all weights too
    torch.compile  one step, gradient and update, as one compiled graph
    torchebm       its LangevinDynamics sampler on the same energy
    manual graph   the eager loop captured by hand as one CUDA graph, with torch's own noise
    loop           coophash without its graph

Each provider first gives the same descent without noise and noise of the right size. The last
benchmark is a whole update of CoopHash with its chain and with the eager one.
"""

from __future__ import annotations

import contextlib
import math

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

import coophash as ch  # noqa: E402
from coophash import coop  # noqa: E402
from coophash.kernels._backend import triton_missing  # noqa: E402

A, B, LOW, HIGH = 0.5, 0.01, -1.0, 1.0
# The untrained energy is nearly flat: a factor makes its gradient move pixels.
SCALE = 100.0
CPU_SIZES = [(64, 1, 28), (16, 3, 32)]
GPU_SIZES = [(batch, 3, side) for side in (32, 64) for batch in (64, 256, 1024)]


class Energy(torch.nn.Module):
    """A descriptor's energy in plain PyTorch: what the peers differentiate."""

    def __init__(self, descriptor):
        super().__init__()
        self.descriptor = descriptor

    def forward(self, x, labels):
        base = self.descriptor.base
        for layer in base.convolutions:
            z = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
            x = F.leaky_relu(z, base.slope)
        features = F.leaky_relu(base.dense(x.flatten(1)), base.slope)
        return self.descriptor.energy_head(features).gather(1, labels[:, None])[:, 0]


def coophash(energy, x, labels, steps, b, graph=True):
    return ch.langevin(
        energy.descriptor, x, labels, steps, grad_scale=A, noise_scale=b, clamp=(LOW, HIGH),
        graph=graph, check_finite=False,
    )  # fmt: skip


def loop(energy, x, labels, steps, b):
    return coophash(energy, x, labels, steps, b, graph=False)


def eager(energy, x, labels, steps, b):
    for _ in range(steps):
        leaf = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(energy(leaf, labels).sum(), leaf)
        with torch.no_grad():
            x = (x - A * grad + b * torch.randn_like(x)).clamp_(LOW, HIGH)
    return x


def jem(energy, x, labels, steps, b):
    state = x.clone().requires_grad_()
    for _ in range(steps):
        slope = torch.autograd.grad(energy(state, labels).sum(), [state], retain_graph=True)[0]
        state.data += -A * slope + b * torch.randn_like(state)
        state.data.clamp_(LOW, HIGH)
    return state.detach()


def backward(energy, x, labels, steps, b):
    for _ in range(steps):
        leaf = x.detach().requires_grad_()
        energy(leaf, labels).sum().backward()
        with torch.no_grad():
            x = (x - A * leaf.grad + b * torch.randn_like(x)).clamp_(LOW, HIGH)
    energy.zero_grad(set_to_none=True)
    return x


class Compiled:
    def __init__(self):
        torch._dynamo.reset()
        self.step = torch.compile(self._step, fullgraph=True)

    @staticmethod
    def _step(energy, x, labels, b):
        grad = torch.func.grad(lambda x: energy(x, labels).sum())(x)
        return (x - A * grad + b * torch.randn_like(x)).clamp(LOW, HIGH)

    def __call__(self, energy, x, labels, steps, b):
        with torch.no_grad():
            for _ in range(steps):
                x = self.step(energy, x, labels, b)
        return x


class TorchEbm:
    def __init__(self):
        core, samplers = (pytest.importorskip(f"torchebm.{n}") for n in ("core", "samplers"))
        self.base, self.sampler = core.BaseModel, samplers.LangevinDynamics

    def __call__(self, energy, x, labels, steps, b):
        class Model(self.base):
            def forward(self, x, y):
                return energy(x, y)

        # Its noise is sqrt(2 step_size) · noise_scale; its noise_scale must be positive.
        sampler = self.sampler(
            Model(device=x.device), step_size=A, noise_scale=max(b, 1e-30) / math.sqrt(2 * A),
            clamp=(LOW, HIGH), device=x.device,
        )  # fmt: skip
        return sampler.sample(x=x, n_steps=steps, y=labels)


class ManualGraph:
    """The eager loop as one graph, captured for the arguments of the first call."""

    def __init__(self):
        self.graphs = {}

    def __call__(self, energy, x, labels, steps, b):
        if b not in self.graphs:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                eager(energy, x, labels, 2, b)
            torch.cuda.current_stream().wait_stream(side)
            graph, own = torch.cuda.CUDAGraph(), x.clone()
            with torch.cuda.graph(graph):
                out = eager(energy, own, labels, steps, b)
            self.graphs[b] = graph, own, out
        graph, own, out = self.graphs[b]
        own.copy_(x)
        graph.replay()
        return out.clone()


def providers(device):
    found = {"eager": eager, "JEM": jem, "backward": backward, "torch.compile": Compiled()}
    with contextlib.suppress(pytest.skip.Exception):  # not installed
        found["torchebm"] = TorchEbm()
    if device == "cuda":
        found |= {"manual graph": ManualGraph(), "loop": loop}
    return found


def gate(run, energy, x, labels, steps):
    """Refuse to time a wrong chain."""
    expected = eager(energy, x, labels, steps, 0.0)
    moved = run(energy, x, labels, steps, 0.0)
    assert (moved - x).abs().mean() > 1e-3
    tolerance = 1e-3 if x.is_cuda else 1e-4  # TF32 and other convolution algorithms
    torch.testing.assert_close(moved, expected, rtol=0, atol=tolerance)
    still, noisy = run(energy, x, labels, 1, 0.0), run(energy, x, labels, 1, B)
    free = (noisy.abs() < HIGH) & (still.abs() < HIGH - 0.1)
    assert ((noisy - still)[free].std() / B).item() == pytest.approx(1.0, abs=0.1)


def setting(batch, channels, side, device):
    model = ch.CoopHash(bits=48, classes=10, image_shape=(channels, side, side)).to(device)
    with torch.no_grad():
        model.descriptor.energy_head.weight.mul_(SCALE)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, channels, side, side, generator=generator).mul_(1.6).sub_(0.8)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    return Energy(model.descriptor), x.to(device), labels.to(device)


def measure(benchmark, turns, batch, channels, side, device, steps):
    energy, x, labels = setting(batch, channels, side, device)
    calls = {}
    for name, run in ({"ours": coophash} | providers(device)).items():
        for _ in range(3):  # compiled, tuned, captured
            gate(run, energy, x, labels, steps)
        calls[name] = lambda run=run: run(energy, x, labels, steps, B)
    turns(
        calls.pop("ours"), calls, moved=12 * x.numel() * steps, device=device, rounds=20, turn=0.05
    )
    benchmark.extra_info |= {"steps": steps, "threads": torch.get_num_threads()}
    if us := benchmark.extra_info.get("us"):
        benchmark.extra_info["us_per_step"] = {
            name: [round(value / steps, 1) for value in values] for name, values in us.items()
        }


@pytest.mark.parametrize("batch, channels, side", CPU_SIZES)
@pytest.mark.benchmark(group="chain, CPU, fp32")
def test_chain(benchmark, gpu_turns, batch, channels, side):
    measure(benchmark, gpu_turns, batch, channels, side, "cpu", steps=5)


@pytest.mark.gpu
@pytest.mark.parametrize("batch, channels, side", GPU_SIZES)
@pytest.mark.benchmark(group="chain, GPU, fp32")
def test_chain_gpu(benchmark, gpu_turns, batch, channels, side):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    if triton_missing("cuda"):
        pytest.skip(triton_missing("cuda"))
    measure(benchmark, gpu_turns, batch, channels, side, "cuda", steps=20)
    ch.sampling.clear_graphs()


class Update:
    """Cooperative updates of a model of its own, with one or the other chain."""

    def __init__(self, device, channels, side, chain):
        shape = (channels, side, side)
        self.model = ch.CoopHash(32, 10, shape, cooperate_every=1).to(device)
        self.optimizers = coop.CooperativeOptimizers(
            torch.optim.Adam(self.model.descriptor.parameters(), lr=1e-4),
            torch.optim.Adam(self.model.generator.parameters(), lr=1e-4),
        )
        self.chain, self.update = chain, 0
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(64, *shape, generator=generator).mul_(2).sub_(1).to(device)
        self.labels = torch.arange(64).remainder(10).to(device)
        if chain is eager:
            config = self.model.config

            energy = Energy(self.model.descriptor)

            def revise(images, labels, *_, **__):
                return plain(config, energy, images, labels)

            self.model.revise = revise

    def __call__(self):
        watched = coop.cooperative_step(
            self.model, self.images, self.labels, self.optimizers, 0, self.update
        )
        self.update += 1
        return watched


def plain(config, energy, x, labels):
    """The eager chain with a model's settings."""
    size = config.langevin_step_size
    for _ in range(config.langevin_steps):
        leaf = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(energy(leaf, labels).sum(), leaf)
        noise = size * config.langevin_noise * torch.randn_like(x)
        x = (x - 0.5 * size**2 * grad + noise).clamp_(-1.0, 1.0)
    return x.detach()


def measure_update(benchmark, turns, device, channels, side):
    ours, peer = (Update(device, channels, side, chain) for chain in (coophash, eager))
    first, other = ours(), peer()
    for name in ("hash", "energy_real", "chain_move"):  # same weights and images, other noise
        torch.testing.assert_close(first[name], other[name], rtol=0.05, atol=1e-3)
    moved = 12 * ours.images.numel() * ours.model.config.langevin_steps
    turns(ours, {"eager chain": peer}, moved=moved, device=device, rounds=20, turn=0.2)
    benchmark.extra_info |= {"threads": torch.get_num_threads()}


@pytest.mark.parametrize("channels, side", [(1, 28), (3, 32)])
@pytest.mark.benchmark(group="one cooperative update, CPU, batch 64")
def test_update(benchmark, gpu_turns, channels, side):
    measure_update(benchmark, gpu_turns, "cpu", channels, side)


@pytest.mark.gpu
@pytest.mark.parametrize("channels, side", [(1, 28), (3, 32)])
@pytest.mark.benchmark(group="one cooperative update, GPU, batch 64")
def test_update_gpu(benchmark, gpu_turns, channels, side):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    measure_update(benchmark, gpu_turns, "cuda", channels, side)
