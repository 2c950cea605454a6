"""The Langevin chain: where it ends, how it is repeated, what it leaves alone, bad input."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from coophash import langevin  # noqa: E402
from coophash.kernels import langevin_step  # noqa: E402


def quadratic(x):
    """Energy of N(2, 0.5²) in every element."""
    return (2.0 * (x - 2.0) ** 2).flatten(1).sum(1)


class Descriptor(torch.nn.Module):
    """A small class-conditional energy on images, with what changes between train and eval."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x, labels):
        features = self.norm(self.conv(x)).tanh().mean((2, 3))
        return self.head(self.drop(features)).gather(1, labels[:, None])[:, 0]


@pytest.fixture
def descriptor():
    torch.manual_seed(0)
    return Descriptor()


def test_stationary_distribution_of_a_gaussian_energy():
    """x' = x - a·4(x - 2) + b ε has mean 2 and variance b² / (1 - (1 - 4a)²), exactly."""
    step_size, elements = 0.2, 40_000
    x = langevin(quadratic, torch.zeros(elements // 8, 8), steps=120, step_size=step_size, seed=1)
    variance = step_size**2 / (1 - (1 - 4 * step_size**2 / 2) ** 2)
    assert abs(x.mean() - 2) < 5 * math.sqrt(variance / elements)
    assert abs(x.var() / variance - 1) < 5 * math.sqrt(2 / elements)
    # Small steps: the Gaussian itself, up to the first-order bias of the step.
    assert variance == pytest.approx(0.25, rel=0.1)
    kurtosis = ((x - x.mean()) ** 4).mean() / x.var() ** 2
    assert abs(kurtosis - 3) < 5 * math.sqrt(24 / elements)


def test_temperature_scales_the_spread():
    start = torch.full((2000, 8), 2.0)
    cold = langevin(quadratic, start, steps=60, step_size=0.3, noise=0.5, seed=1)
    warm = langevin(quadratic, start, steps=60, step_size=0.3, noise=1.0, seed=1)
    torch.testing.assert_close(cold - 2, (warm - 2) / 2, rtol=1e-4, atol=1e-4)


def test_without_noise_it_descends():
    x, energies = langevin(
        quadratic, torch.zeros(4, 3), steps=50, step_size=0.5, noise=0.0, return_energies=True
    )
    torch.testing.assert_close(x, torch.full((4, 3), 2.0), rtol=0, atol=1e-3)
    assert (energies.diff(dim=0) <= 0).all()


def test_one_step_is_equation_6():
    x = torch.randn(5, 7)
    options = {"seed": 3, "chain": 4, "clamp": (-1.0, 1.0)}
    moved = langevin(quadratic, x, steps=1, step_size=0.2, noise=0.5, first_step=9, **options)
    expected = langevin_step(x, 4 * (x - 2), grad_scale=0.02, noise_scale=0.1, step=9, **options)
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_decoupled_scales(as_tensors):
    x, kind = torch.randn(5, 7), torch.tensor if as_tensors else float
    moved = langevin(quadratic, x, steps=1, grad_scale=kind(0.25), noise_scale=kind(0.01), seed=3)
    expected = langevin_step(x, 4 * (x - 2), grad_scale=0.25, noise_scale=0.01, seed=3)
    torch.testing.assert_close(moved, expected)
    # One of the two alone: the other follows from the step size.
    moved = langevin(quadratic, x, steps=1, step_size=0.2, grad_scale=kind(0.25), seed=3)
    expected = langevin_step(x, 4 * (x - 2), grad_scale=0.25, noise_scale=0.2, seed=3)
    torch.testing.assert_close(moved, expected)


def test_a_resumed_chain_continues_the_stream():
    x = torch.randn(6, 5)
    whole = langevin(quadratic, x, steps=7, seed=11, chain=2)
    half = langevin(quadratic, x, steps=3, seed=11, chain=2)
    rest = langevin(quadratic, half, steps=4, seed=11, chain=2, first_step=3)
    assert torch.equal(rest, whole)
    rest = langevin(quadratic, half, steps=4, seed=torch.tensor(11), chain=2,
                    first_step=torch.tensor(3))  # fmt: skip
    assert torch.equal(rest, whole)


@pytest.mark.parametrize(
    "other", [{"seed": 6}, {"seed": 5, "chain": 1}, {"seed": 6, "first_step": 9}]
)
def test_neighbouring_chains_are_uncorrelated(other):
    """The trap is a stream where chain s at step i is chain s + 1 at step i - 1."""
    x = torch.full((1000, 20), 2.0)
    a = langevin(quadratic, x, steps=10, seed=5, first_step=10) - 2
    b = langevin(quadratic, x, steps=10, **{"first_step": 10} | other) - 2
    correlation = (a * b).mean() / (a.std() * b.std())
    assert abs(correlation) < 5 / math.sqrt(x.numel())


def test_energies_along_the_way(descriptor):
    descriptor.eval()
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    samples, energies = langevin(descriptor, x, labels, steps=5, return_energies=True)
    assert energies.shape == (6, 4) and energies.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(energies[0], descriptor(x, labels))
        torch.testing.assert_close(energies[-1], descriptor(samples, labels))
    alone = langevin(descriptor, x, labels, steps=5)
    assert torch.equal(alone, samples)


def test_no_steps():
    x = torch.randn(3, 2)
    samples, energies = langevin(quadratic, x, steps=0, return_energies=True)
    assert torch.equal(samples, x) and samples.data_ptr() != x.data_ptr()
    assert energies.shape == (1, 3)


@pytest.mark.parametrize("training", [True, False])
def test_modules_are_left_as_they_were(descriptor, training):
    descriptor.train(training)
    x = torch.randn(4, 1, 8, 8, requires_grad=True)
    before = x.detach().clone()
    samples = langevin(descriptor, x, torch.tensor([0, 1, 2, 0]), steps=3)
    assert not samples.requires_grad and samples.grad_fn is None
    assert all(p.grad is None and p.requires_grad for p in descriptor.parameters())
    assert x.grad is None and torch.equal(x.detach(), before)
    assert descriptor.training == training


def test_no_weight_gradient_is_computed(descriptor):
    asked = []
    for parameter in descriptor.parameters():
        parameter.register_hook(lambda grad: asked.append(grad))
    langevin(descriptor, torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long), steps=2)
    assert not asked


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_does_not_matter(descriptor, mode):
    descriptor.eval()
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    expected = langevin(descriptor, x, labels, steps=3)
    with mode():
        # Made inside: inference tensors in inference mode.
        samples = langevin(descriptor, x.clone(), labels.clone(), steps=3)
    assert torch.equal(samples, expected)


def test_an_energy_may_keep_what_it_is_given():
    seen = []

    def energy(x):
        seen.append(x)
        return quadratic(x)

    langevin(energy, torch.zeros(2, 3), steps=4)
    states = torch.stack([x.detach() for x in seen])
    assert not torch.equal(states[1], states[2]) and torch.equal(states[0], torch.zeros(2, 3))


@pytest.mark.parametrize(
    "energy",
    [
        quadratic,
        lambda x, labels: quadratic(x),
        lambda x, labels=None: quadratic(x),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 1), torch.nn.Flatten(0)),
    ],
)
def test_energies_without_labels(energy):
    assert langevin(energy, torch.zeros(2, 3), steps=2).shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    x = langevin(quadratic, torch.zeros(50, 8, dtype=dtype), steps=30, step_size=0.3)
    assert x.dtype == dtype and abs(x.float().mean() - 2) < 0.2


def test_autocast():
    layer = torch.nn.Linear(8, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, energies = langevin(
            lambda x: layer(x)[:, 0], torch.zeros(5, 8), steps=3, return_energies=True
        )
    assert x.dtype == torch.float32 and energies.dtype == torch.float32


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "x must be a torch.Tensor", {"x": [0.0]}),
        (TypeError, "x must be floating point, got torch.uint8", {"x": torch.zeros(4, 3).byte()}),
        (ValueError, "x must have a batch dimension", {"x": torch.tensor(1.0)}),
        (ValueError, "labels must have one row for each of the 4", {"labels": torch.zeros(3)}),
        (ValueError, "steps must be an integer >= 0, got -1", {"steps": -1}),
        (ValueError, "steps must be an integer >= 0, got 2.0", {"steps": 2.0}),
        (ValueError, "step_size must be > 0, got 0", {"step_size": 0}),
        (ValueError, "step_size must be a finite number >= 0, got nan", {"step_size": math.nan}),
        (TypeError, "step_size must be a number, got str", {"step_size": "0.1"}),
        (ValueError, "noise must be a finite number >= 0, got -1", {"noise": -1.0}),
        (ValueError, "grad_scale must be a finite number >= 0", {"grad_scale": -1.0}),
        (ValueError, "clamp must be", {"clamp": (1, -1)}),
        (ValueError, "seed must be in 0", {"seed": -1}),
        (TypeError, "energy must be callable", {"energy": 3}),
        (TypeError, "energy must return a torch.Tensor, got int", {"energy": lambda x: 3}),
        (ValueError, r"one number for each sample, \(4,\), got \(4, 1\)",
         {"energy": lambda x: x.sum(1, keepdim=True)}),
        (ValueError, r"for each sample, \(4,\), got \(\)", {"energy": lambda x: x.sum()}),
        (ValueError, "energy must be differentiable in x", {"energy": lambda x: x.detach().sum(1)}),
        (ValueError, "energy must depend on x",
         {"energy": lambda x: torch.ones(4, requires_grad=True) * 1}),
    ],
)  # fmt: skip
def test_bad_input(error, message, change):
    arguments = {"energy": quadratic, "x": X, "steps": 2} | change
    with pytest.raises(error, match=message):
        langevin(arguments.pop("energy"), arguments.pop("x"), **arguments)


def test_bad_step_settings_are_found_even_without_a_step():
    with pytest.raises(ValueError, match="step_size"):
        langevin(quadratic, X, steps=0, step_size=-1.0)


def test_divergence_names_the_step_and_the_mend():
    with pytest.raises(FloatingPointError, match=r"after step \d+ of 200.*lower step_size"):
        langevin(quadratic, X, steps=200, step_size=3.0)


def test_divergence_in_the_last_step():
    with pytest.raises(FloatingPointError, match="after step 1 of 1"):
        langevin(lambda x: (x**2).sum(1) / 2, torch.full((1, 1), 1e10), steps=1, grad_scale=1e30)


def test_non_finite_start_is_told_apart():
    with pytest.raises(FloatingPointError, match="not finite before the first step: look for NaN"):
        langevin(quadratic, torch.full((2, 2), math.nan), steps=3)


@pytest.mark.gpu
def test_gpu_chain_equals_the_cpu_chain(descriptor):
    descriptor.eval()
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    options = {"steps": 10, "seed": 5, "clamp": (-1, 1), "return_energies": True}
    samples, energies = langevin(descriptor, x, labels, **options)
    on_device = langevin(descriptor.cuda(), x.cuda(), labels.cuda(), **options)
    torch.testing.assert_close(on_device[0].cpu(), samples, rtol=0, atol=1e-3)
    torch.testing.assert_close(on_device[1].cpu(), energies, rtol=0, atol=1e-3)
    with pytest.raises(FloatingPointError, match=r"after step \d+ of 200"):
        langevin(quadratic, X.cuda(), steps=200, step_size=3.0)
