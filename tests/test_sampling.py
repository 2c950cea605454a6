"""The Langevin chain: where it ends, how it is repeated, what it leaves alone, bad input."""

from __future__ import annotations

import math

import numpy as np
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


@pytest.mark.parametrize("step_size", [0.1, 0.2, 0.6, 0.95])
def test_stationary_distribution_of_a_gaussian_energy(step_size):
    """Of the discretised chain, exactly: x' = x - a·4(x - 2) + b ε, with a = δ²/2 and b = δ, has
    mean 2 and variance b² / (1 - (1 - 4a)²). Both within 5 standard errors of independent chains.
    """
    chains, dimensions = 5_000, 8
    elements = chains * dimensions
    shrink = 1 - 4 * step_size**2 / 2
    steps = 20 + math.ceil(math.log(1e-4) / math.log(abs(shrink)))  # what is left of the start
    start = torch.zeros(chains, dimensions)
    x = langevin(quadratic, start, steps=steps, step_size=step_size, seed=1).double()
    variance = step_size**2 / (1 - shrink**2)
    assert abs(x.mean() - 2) < 5 * math.sqrt(variance / elements)
    assert abs(x.var() / variance - 1) < 5 * math.sqrt(2 / elements)
    kurtosis = ((x - x.mean()) ** 4).mean() / x.var() ** 2
    assert abs(kurtosis - 3) < 5 * math.sqrt(24 / elements)
    # Elements of a sample and samples of the batch are independent.
    z = (x - 2) / math.sqrt(variance)
    assert abs((z[:, 0] * z[:, 1]).mean()) < 5 / math.sqrt(chains)
    assert abs((z[:-1] * z[1:]).mean()) < 5 / math.sqrt(elements)
    if step_size == 0.1:  # small steps: the Gaussian itself, up to the bias of the step
        assert variance == pytest.approx(0.25, rel=0.02)


def test_stationary_distribution_on_a_gaussian_reference():
    """exp(-E) N(0, σ²) is Gaussian too: precision 4 + 1/σ², mean 8 / (4 + 1/σ²)."""
    step_size, std, elements = 0.3, 0.4, 40_000
    x = langevin(quadratic, torch.zeros(elements // 8, 8), steps=80, step_size=step_size,
                 reference_std=std, seed=2).double()  # fmt: skip
    precision = 4 + 1 / std**2
    variance = step_size**2 / (1 - (1 - precision * step_size**2 / 2) ** 2)
    assert abs(x.mean() - 8 / precision) < 5 * math.sqrt(variance / elements)
    assert abs(x.var() / variance - 1) < 5 * math.sqrt(2 / elements)


def test_stationary_mean_of_a_correlated_gaussian():
    """Of E = (x - m)' P (x - m) / 2 the discretised chain keeps covariance P^-1 (I - δ²P/4)^-1."""
    precision = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    mean, step_size, chains = torch.tensor([1.0, -1.0], dtype=torch.float64), 0.4, 20_000

    def energy(x):
        return 0.5 * ((x - mean) @ precision * (x - mean)).sum(1)

    start = torch.zeros(chains, 2, dtype=torch.float64)
    x = langevin(energy, start, steps=120, step_size=step_size, seed=3)
    expected = torch.linalg.inv(precision - step_size**2 / 4 * precision @ precision)
    errors = torch.sqrt((expected.diag()[:, None] * expected.diag() + expected**2) / chains)
    assert ((x.mean(0) - mean).abs() < 5 * (expected.diag() / chains).sqrt()).all()
    assert ((torch.cov(x.T) - expected).abs() < 5 * errors).all()


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


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, "function"])
def test_schedules(kind):
    """Each step with its own step size and temperature, as in so many chains of one step."""
    sizes, temperatures = [0.3, 0.2, 0.1, 0.0], [1.0, 0.5, 0.0, 2.0]
    x = expected = torch.randn(5, 7)
    for i in range(4):
        if sizes[i]:
            expected = langevin(quadratic, expected, steps=1, step_size=sizes[i],
                                noise=temperatures[i], seed=3, first_step=i)  # fmt: skip
    given = [kind(s) if callable(kind) else s.__getitem__ for s in (sizes, temperatures)]
    moved = langevin(quadratic, x, steps=4, step_size=given[0], noise=given[1], seed=3)
    torch.testing.assert_close(moved, expected)
    # A chain is resumed with what is left of the schedule.
    half = langevin(quadratic, x, steps=2, step_size=sizes[:2], noise=temperatures[:2], seed=3)
    rest = langevin(quadratic, half, steps=2, step_size=sizes[2:], noise=temperatures[2:],
                    seed=3, first_step=2)  # fmt: skip
    torch.testing.assert_close(rest, moved)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_scheduled_scales(as_tensors):
    x, a, b = torch.randn(5, 7), [0.3, 0.2, 0.1], [0.1, 0.0, 0.2]
    expected = x
    for i in range(3):
        expected = langevin_step(expected, 4 * (expected - 2), grad_scale=a[i], noise_scale=b[i],
                                 seed=3, step=i)  # fmt: skip
    given = [torch.tensor(s) if as_tensors else s for s in (a, b)]
    moved = langevin(quadratic, x, steps=3, grad_scale=given[0], noise_scale=given[1], seed=3)
    torch.testing.assert_close(moved, expected)


def test_clip_and_reference_are_those_of_the_step():
    x = torch.randn(5, 7)
    options = {"grad_clip": 3.0, "reference_std": 0.5, "clamp": (-1.0, 1.0), "seed": 3}
    moved = langevin(quadratic, x, steps=1, step_size=0.2, **options)
    grad = 4 * (x - 2)
    assert (grad.abs() > 3).any()
    expected = langevin_step(x, grad, grad_scale=0.02, noise_scale=0.2, **options)
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


def test_torchebm_models():
    core = pytest.importorskip("torchebm.core")
    mean, covariance = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.4], [0.4, 0.5]])
    model = core.GaussianModel(mean, covariance)
    x = langevin(model, torch.zeros(4000, 2), steps=150, step_size=0.25, seed=4)
    deviations = torch.sqrt(covariance.diag() / 4000)
    assert ((x.mean(0) - mean).abs() < 5 * deviations).all()
    assert (torch.cov(x.T) - covariance).abs().max() < 0.1
    # The gradient is the one that torchebm's own sampler takes.
    start = torch.randn(50, 2)
    moved = langevin(core.DoubleWellModel(), start, steps=1, step_size=0.1, noise=0.0)
    expected = start - 0.005 * core.DoubleWellModel().gradient(start)
    torch.testing.assert_close(moved, expected)


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


class WithGradient:
    """The quadratic energy with its gradient in closed form; its call would be wrong."""

    def __init__(self, update=False):
        self.asked = []
        if update:
            self.energy_and_update = self._update

    def __call__(self, x, labels):
        raise AssertionError("not to be called")

    def energy_and_grad(self, x, labels):
        self.asked.append("grad")
        return quadratic(x - labels), 4 * (x - labels - 2)

    def _update(self, x, labels, step):
        self.asked.append("update")
        if len(x) > 4:
            return NotImplemented
        value, grad = quadratic(x - labels), 4 * (x - labels - 2)
        return value, torch.ops.coophash.langevin_step(x, grad, None, *step)


@pytest.mark.parametrize("update, batch", [(False, 4), (True, 4), (True, 5)])
def test_an_energy_with_its_own_gradient_or_update(update, batch):
    x, labels = torch.randn(batch, 3), torch.randn(batch, 1)
    energy = WithGradient(update)
    options = {"steps": 3, "seed": 2, "clamp": (-1.0, 1.5), "grad_clip": 4.0}
    expected = langevin(lambda x, c: quadratic(x - c), x, labels, **options)
    moved = langevin(energy, x, labels, **options)
    torch.testing.assert_close(moved, expected)
    kinds = ["update"] * update + ["grad"] * (not update or batch > 4)
    assert energy.asked == kinds * 3


def test_a_wrong_gradient_of_its_own_is_named():
    energy = WithGradient()
    energy.energy_and_grad = lambda x, labels: (quadratic(x), x[:1])
    with pytest.raises(ValueError, match=r"energy_and_grad must return .* \(4, 3\), got \(1, 3\)"):
        langevin(energy, X, torch.zeros(4, 1), steps=1)


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
        (TypeError, "step_size must be a number, or a sequence.*, got str", {"step_size": "0.1"}),
        (ValueError, "noise must be a finite number >= 0, got -1", {"noise": -1.0}),
        (ValueError, "grad_scale must be a finite number >= 0", {"grad_scale": -1.0}),
        (ValueError, "step_size must have one number for each of the 2 steps, got 3",
         {"step_size": [0.1] * 3}),
        (ValueError, r"noise\[1\] must be a finite number >= 0", {"noise": [1.0, math.inf]}),
        (ValueError, r"noise\(0\) must be a finite number", {"noise": lambda i: i - 1.0}),
        (TypeError, r"step_size\(0\) must be a number, got str", {"step_size": lambda i: "x"}),
        (TypeError, "noise must be a number, or a sequence.*, got NoneType", {"noise": None}),
        (ValueError, "noise_scale must be one number or one for each of the 2 steps, got shape",
         {"noise_scale": torch.ones(3)}),
        (ValueError, "grad_clip must be > 0", {"grad_clip": 0.0}),
        (ValueError, "reference_std must be > 0", {"reference_std": -1.0}),
        (ValueError, "first_step must be in 0", {"first_step": -1}),
        (ValueError, r"first_step \+ steps must be <= 2\*\*32", {"first_step": 2**32 - 1}),
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


def test_divergence_may_be_left_unchecked():
    x = langevin(quadratic, X, steps=200, step_size=3.0, check_finite=False)
    assert not x.isfinite().all()


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
