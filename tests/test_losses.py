"""Each loss against a slow, obvious recomputation, and its gradient where it is hand-shaped."""

import itertools
import math

import numpy as np
import pytest
import torch

from coophash import coop, losses


def _hinges(outputs, labels, margin):
    found = []
    for a, p, n in itertools.product(range(len(labels)), repeat=3):
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
            near = ((outputs[a] - outputs[p]) ** 2).sum()
            far = ((outputs[a] - outputs[n]) ** 2).sum()
            found.append(max(0.0, float(margin + near - far)))
    return found


@pytest.mark.parametrize("margin", [0.5, 8.0])
@pytest.mark.parametrize("batch", [2, 7, 12])
def test_batch_all_triplets_equal_the_triple_loop(batch, margin):
    source = torch.Generator().manual_seed(batch)
    outputs = torch.rand(batch, 6, generator=source, dtype=torch.float64) * 2 - 1
    labels = torch.randint(0, 3, (batch,), generator=source)
    active = [h for h in _hinges(outputs, labels, margin) if h > 0]
    expected = sum(active) / max(1, len(active))
    got = losses.batch_all_triplet_loss(outputs, labels, margin)
    assert float(got) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_batch_all_triplets_of_one_class_are_zero_and_differentiable():
    outputs = torch.rand(5, 4, requires_grad=True)
    loss = losses.batch_all_triplet_loss(outputs, torch.zeros(5, dtype=torch.int64), 2.0)
    loss.backward()
    assert float(loss.detach()) == 0 and not outputs.grad.any()


@pytest.mark.parametrize("batch", [64, 192])
def test_batch_all_triplets_equal_the_cube_of_all_triples(batch):
    """Value and gradient against B^3 hinges, with codes among the outputs, so that many tie."""
    source = torch.Generator().manual_seed(batch)
    outputs = torch.rand(batch, 16, generator=source, dtype=torch.float64) * 2 - 1
    outputs[::2] = outputs[::2].sign()
    outputs.requires_grad_()
    labels = torch.randint(0, 10, (batch,), generator=source)
    for margin in (0.0, 4.0, 8.0, 100.0):
        squared = outputs.square().sum(1)
        d = squared[:, None] + squared[None, :] - 2 * outputs @ outputs.T
        same = labels[:, None] == labels[None, :]
        valid = (same & ~torch.eye(batch, dtype=torch.bool))[:, :, None] & ~same[:, None, :]
        hinge = torch.relu(d.add(margin)[:, :, None] - d[:, None, :]) * valid
        expected = hinge.sum() / (hinge > 0).sum().clamp_min(1)
        got = losses.batch_all_triplet_loss(outputs, labels, margin)
        torch.testing.assert_close(got, expected)
        gradients = [torch.autograd.grad(loss, outputs)[0] for loss in (got, expected)]
        torch.testing.assert_close(*gradients)


def test_batch_all_triplets_pass_on_what_is_not_a_number():
    outputs = torch.ones(6, 3)
    outputs[2, 1] = torch.nan
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.isnan(losses.batch_all_triplet_loss(outputs, labels, 5.0))


def test_batch_all_triplets_gradient():
    outputs = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    torch.autograd.gradcheck(lambda h: losses.batch_all_triplet_loss(h, labels, 5.0), outputs)


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_supervised_contrastive_loss_is_its_formula(multi_hot, temperature):
    source = torch.Generator().manual_seed(3)
    outputs = torch.randn(8, 5, generator=source, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 2, 0, 1, 0, 3])  # class 3 has no positive: no anchor either
    given = torch.nn.functional.one_hot(labels, 4) if multi_hot else labels
    unit = outputs.detach() / outputs.detach().norm(dim=1, keepdim=True)
    terms = []
    for i in range(8):
        alike = [j for j in range(8) if j != i and labels[j] == labels[i]]
        if alike:
            total = sum(math.exp(unit[i] @ unit[j] / temperature) for j in range(8) if j != i)
            logs = [math.log(math.exp(unit[i] @ unit[j] / temperature) / total) for j in alike]
            terms.append(-sum(logs) / len(alike))
    loss = losses.supervised_contrastive_loss(outputs, given, temperature)
    assert float(loss.detach()) == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda u: losses.supervised_contrastive_loss(u, given, temperature), outputs
    )


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_central_contrastive_loss_is_its_formula(multi_hot, temperature):
    source = torch.Generator().manual_seed(4)
    outputs = torch.tanh(torch.randn(7, 6, generator=source, dtype=torch.float64)).requires_grad_()
    centers = losses.hash_centers(4, 6, seed=1)
    if multi_hot:  # the last has no label: no anchor, and no positive of any
        labels = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1],
                               [0, 1, 0, 0], [0, 0, 0, 0]])  # fmt: skip
    else:
        labels = torch.tensor([0, 1, 1, 2, 0, 1, 3])
    hot = labels if multi_hot else torch.nn.functional.one_hot(labels, 4)
    points = [*outputs.detach(), *centers.double()]
    sets = [set(row.nonzero().flatten().tolist()) for row in hot] + [{c} for c in range(4)]
    terms = []
    for i in range(7):
        logits = [float((points[i] * point).mean()) / temperature for point in points]
        total = sum(math.exp(logit) for j, logit in enumerate(logits) if j != i)
        alike = [j for j in range(11) if j != i and sets[j] & sets[i]]
        assert len(alike) >= len(sets[i])
        if alike:
            terms.append(-sum(logits[j] - math.log(total) for j in alike) / len(alike))
    loss = losses.central_contrastive_loss(outputs, labels, centers, temperature)
    assert float(loss.detach()) == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda h: losses.central_contrastive_loss(h, labels, centers, temperature), outputs
    )


def test_central_contrastive_loss_names_centres_that_do_not_fit():
    for centers in (losses.hash_centers(3, 5), torch.ones(4), torch.ones(3, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match="centers must be"):
            losses.central_contrastive_loss(torch.randn(3, 4), torch.arange(3), centers, 0.1)


def test_central_contrastive_loss_of_images_without_a_label_is_zero():
    outputs, centers = torch.randn(3, 4, requires_grad=True), losses.hash_centers(2, 4)
    loss = losses.central_contrastive_loss(outputs, torch.zeros(3, 2), centers, 0.1)
    loss.backward()
    assert float(loss.detach()) == 0 and not outputs.grad.any()


def test_supervised_contrastive_loss_without_a_positive_is_zero():
    outputs = torch.randn(3, 4, requires_grad=True)
    loss = losses.supervised_contrastive_loss(outputs, torch.arange(3), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0 and not outputs.grad.any()


H, Y, CENTERS = torch.zeros(16, 4), torch.arange(16) % 3, losses.hash_centers(3, 4)
RANKINGS = {
    "triplets": lambda h, y: losses.batch_all_triplet_loss(h, y, 1.0),
    "contrastive": lambda h, y: losses.supervised_contrastive_loss(h, y, 0.1),
    "central": lambda h, y: losses.central_contrastive_loss(
        h, y, CENTERS.to(h.device) if isinstance(h, torch.Tensor) else CENTERS, 0.1
    ),
}


@pytest.mark.parametrize("name", RANKINGS)
@pytest.mark.parametrize(
    ("outputs", "labels", "words"),
    [
        (H, Y[:1], "of one batch, got 16 and 1 rows"),
        (H, Y[:15], "of one batch, got 16 and 15 rows"),
        (H, Y.float(), r"labels must be integer classes \(B,\), got float32 \(16,\)"),
        (H, Y - 1, "labels must be classes from 0.*, got -1 to 1"),
        (H, torch.full((16, 3), 0.5), "must hold 0 and 1 alone"),
        (H, [0] * 16, "labels must be .*, got list"),
        (H[0], Y, r"outputs must be real \(B, K\), got float32 \(4,\)"),
        (H.long(), Y, "outputs must be real .*, got int64"),
        (H.numpy(), Y, "outputs must be real .*, got ndarray"),
    ],
)
def test_rankings_name_a_batch_that_does_not_fit(name, outputs, labels, words):
    with pytest.raises(ValueError, match=words):
        RANKINGS[name](outputs, labels)


def test_labels_of_a_class_without_a_centre_are_named():
    with pytest.raises(ValueError, match="from 0 to 2, got 0 to 3"):
        RANKINGS["central"](H[:2], torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="must have 3 columns"):
        RANKINGS["central"](H, torch.zeros(16, 4))


FACTORS = {
    "triplet_loss": ("margin", lambda f: losses.triplet_loss(H, H, H, f)),
    "batch_all": ("margin", lambda f: losses.batch_all_triplet_loss(H, Y, f)),
    "contrastive": ("temperature", lambda f: losses.supervised_contrastive_loss(H, Y, f)),
    "central": ("temperature", lambda f: losses.central_contrastive_loss(H, Y, CENTERS, f)),
}


@pytest.mark.parametrize("loss", FACTORS)
def test_margin_and_temperature_are_checked(loss):
    name, call = FACTORS[loss]
    for value in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} must be finite and .* 0, got {value}"):
            call(value)
    for value in ("1", None, True, torch.ones(16)):
        with pytest.raises(TypeError, match=f"{name} must be a number"):
            call(value)
    if name == "temperature":
        with pytest.raises(ValueError, match="temperature must be finite and above 0, got 0"):
            call(0)
    else:
        assert torch.isfinite(call(0))
    assert torch.equal(call(1), call(np.float32(1)))
    assert torch.equal(call(1), call(torch.tensor(1.0)))


@pytest.mark.parametrize("labels", [Y, torch.nn.functional.one_hot(Y, 3)], ids=["one", "several"])
@pytest.mark.parametrize("name", RANKINGS)
def test_rankings_trace_into_one_graph_without_a_look_at_values(name, labels):
    """Values of labels are not known while a graph is traced, nor on a GPU without waiting."""
    source = torch.Generator().manual_seed(0)
    h = torch.rand(16, 4, generator=source) * 2 - 1
    compiled = torch.compile(RANKINGS[name], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(h, labels), RANKINGS[name](h, labels))
    assert RANKINGS[name](h.to("meta"), labels.to("meta")).shape == ()


def test_losses_of_two_tensors_do_not_broadcast():
    one, three = torch.zeros(1, 4), torch.zeros(3, 4)
    for call, words in (
        (lambda: losses.triplet_loss(three, one, three, 1.0), "anchor and positive must be of one"),
        (lambda: losses.triplet_loss(three, three, one, 1.0), r"negative .*float32 \(1, 4\)"),
        (lambda: losses.triplet_loss(three[0], one[0], one[0], 1.0), "anchor must be real"),
        (lambda: losses.reconstruction_loss(three, one), "samples and reconstructions must be"),
        (lambda: losses.gaussian_kl(three, one), "mean and log_std must be of one shape"),
        (lambda: losses.gaussian_kl(three[0], three[0]), "mean must be real"),
        (lambda: losses.quantization_loss(three[0]), "outputs must be real"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    none = torch.zeros(0, 4)
    assert float(losses.triplet_loss(none, none, none, 1.0)) == 0


def test_triplet_loss_is_the_mean_over_active_triplets():
    anchor = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    positive = torch.tensor([[1.0, -1.0], [1.0, -1.0]])  # squared distances 4 and 0
    negative = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])  # 4 and 8
    assert float(losses.triplet_loss(anchor, positive, negative, 2.0)) == 2.0  # second: inactive


def test_quantization_loss_is_zero_at_the_corners_only():
    corners = torch.tensor([[1.0, -1.0, 1.0]])
    assert float(losses.quantization_loss(corners)) == 0
    assert float(losses.quantization_loss(corners * 0.5)) == pytest.approx(3 * 0.25)


def test_energy_loss_gradient_is_equation_4():
    real = torch.tensor([1.0, 2.0], requires_grad=True)
    revised = torch.tensor([3.0, 5.0], requires_grad=True)
    losses.energy_loss(real, revised).backward()
    assert real.grad.tolist() == [0.5, 0.5] and revised.grad.tolist() == [-0.5, -0.5]


def test_energy_penalty_pulls_the_free_constant_back():
    level = torch.tensor(3.0, requires_grad=True)
    losses.energy_penalty(level.expand(4), level.expand(4)).backward()
    assert float(level.grad) == pytest.approx(2 * 3.0 * 2)


@pytest.mark.parametrize("gap, expected", [(-3.0, 1.0), (0.0, 1.0), (0.5, 0.5379), (2.0, 0.0360)])
def test_energy_damping_closes_as_the_gap_opens(gap, expected):
    real = torch.tensor([1.0, 3.0], requires_grad=True)
    factor = losses.energy_damping(real, real + gap, 0.5)
    assert float(factor) == pytest.approx(expected, abs=1e-4) and not factor.requires_grad
    assert float(losses.energy_damping(real, real + gap, None)) == 1.0


def test_reconstruction_sums_pixels_and_averages_images():
    samples = torch.zeros(2, 1, 3, 3)
    assert float(losses.reconstruction_loss(samples, torch.ones_like(samples))) == 9.0


def test_gaussian_kl_against_torch_distributions():
    mean, log_std = torch.randn(5, 7), torch.randn(5, 7) * 0.3
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    )
    assert float(losses.gaussian_kl(mean, log_std)) == pytest.approx(
        float(expected.sum(1).mean()), rel=1e-5
    )
    assert math.isclose(float(losses.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3))), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_kl_goes_on_linearly_where_exp_would_overflow(dtype):
    """Up to the limit the formula bit for bit, above it the tangent: finite, and it leads down."""
    below = torch.linspace(-30, losses.LOG_STD_LIMIT, 9, dtype=dtype)[:-1, None].requires_grad_()
    mean = torch.randn(8, 1, dtype=dtype)
    found = losses.gaussian_kl(mean, below)
    expected = 0.5 * (mean.square() + (2 * below).exp() - 1 - 2 * below).sum(1).mean()
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad(value, below)[0] for value in (found, expected)]
    assert torch.equal(*slopes)

    limit = losses.LOG_STD_LIMIT
    for far in (limit + 1, 65.0, 1e6):
        log_std = torch.full((1, 1), far, dtype=dtype, requires_grad=True)
        value = losses.gaussian_kl(torch.zeros_like(log_std), log_std)
        (slope,) = torch.autograd.grad(value, log_std)
        at_limit, tangent = 0.5 * (math.exp(2 * limit) - 1 - 2 * limit), math.exp(2 * limit) - 1
        assert float(slope) == pytest.approx(tangent, rel=1e-6)
        assert float(value.detach()) == pytest.approx(at_limit + (far - limit) * tangent, rel=1e-6)


def test_gradient_penalty_of_a_quadratic_energy():
    """E = w/2 |x|^2: |dE/dx|^2 = w^2 |x|^2, and its derivative with respect to w."""
    weight = torch.tensor(3.0, requires_grad=True)
    x = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    penalty = losses.gradient_penalty(
        lambda x, _: 0.5 * weight * x.square().sum(1), x, torch.zeros(2)
    )
    assert penalty.item() == pytest.approx(9 * (5 + 16) / 2)
    penalty.backward()
    assert weight.grad.item() == pytest.approx(2 * 3 * (5 + 16) / 2)
    assert not x.requires_grad


def test_plain_energy_is_the_energy():
    model = coop.CoopHash(8, 3, (1, 8, 8), base_channels=2, features=8)
    x, classes = torch.rand(4, 1, 8, 8), torch.tensor([0, 2, 1, 1])
    several = torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    for labels in (classes, several):
        torch.testing.assert_close(
            model.descriptor.plain_energy(x, labels), model.descriptor(x, labels)
        )
