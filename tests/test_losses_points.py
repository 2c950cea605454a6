"""GreedyHash, CSQ and OrthoHash against their formulas in float64; codes for classes."""

import math

import pytest
import torch

from coophash import losses

BATCH, BITS, COUNT = 6, 8, 4
CLASSES = torch.tensor([0, 1, 0, 2, 1, 3])
SEVERAL = torch.tensor(
    [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 1, 0]]
)
BOTH = pytest.mark.parametrize("labels", [CLASSES, SEVERAL], ids=["classes", "several"])


def outputs(seed=0, count=BATCH):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, BITS, generator=source, dtype=torch.float64) * 1.5


def centers(method="auto"):
    return losses.hash_centers(COUNT, BITS, method=method).double()


def own(labels, i):
    """The classes of an image."""
    return [int(labels[i])] if labels.dim() == 1 else torch.nonzero(labels[i])[:, 0].tolist()


def sign(x):
    return 1.0 if x >= 0 else -1.0


@BOTH
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_greedyhash_is_its_formula(labels, power):
    u, logits = outputs(), outputs(1)[:, :COUNT]
    total = 0.0
    for i in range(BATCH):
        row = [float(x) for x in logits[i]]
        if labels.dim() == 1:
            total -= row[int(labels[i])] - math.log(sum(math.exp(x) for x in row))
        else:
            for c, x in enumerate(row):
                p = 1 / (1 + math.exp(-x))
                total -= math.log(p if labels[i, c] else 1 - p) / COUNT
    penalty = sum(abs(float(x) - sign(float(x))) ** power for row in u for x in row)
    expected = total / BATCH + 0.3 * penalty / (BATCH * BITS)
    got = losses.greedyhash_loss(u, logits, labels, penalty_weight=0.3, power=power)
    assert float(got) == pytest.approx(expected, rel=1e-12)


@BOTH
def test_csq_is_its_formula(labels):
    u, codes = outputs(), centers()
    targets = losses.label_centers(labels, codes)
    central = quantization = 0.0
    for i in range(BATCH):
        for k in range(BITS):
            h = math.tanh(float(u[i, k]))
            c, q = (float(targets[i, k]) + 1) / 2, (h + 1) / 2
            central -= c * math.log(q) + (1 - c) * math.log(1 - q)
            quantization += math.log(math.cosh(abs(h) - 1))
    expected = (central + 0.05 * quantization) / (BATCH * BITS)
    assert float(losses.csq_loss(u, labels, codes)) == pytest.approx(expected, rel=1e-10)


@BOTH
@pytest.mark.parametrize("margin, scale", [(0.0, 1.0), (0.2, 8.0)])
def test_orthohash_is_its_formula(labels, margin, scale):
    u, codes = outputs(), centers("bernoulli")
    total = 0.0
    for i in range(BATCH):
        length = math.sqrt(sum(float(x) ** 2 for x in u[i]))
        logits = []
        for c in range(COUNT):
            cosine = sum(float(a) * float(b) for a, b in zip(u[i], codes[c], strict=True))
            cosine /= length * math.sqrt(BITS)
            logits.append(scale * (cosine - margin * (c in own(labels, i))))
        norm = math.log(sum(math.exp(x) for x in logits))
        total -= sum(logits[c] - norm for c in own(labels, i)) / len(own(labels, i))
    got = losses.orthohash_loss(u, labels, codes, margin=margin, scale=scale)
    assert float(got) == pytest.approx(total / BATCH, rel=1e-12)


@BOTH
def test_gradients(labels):
    u, codes, logits = outputs(), centers(), outputs(1)[:, :COUNT].contiguous()
    for loss in (
        lambda x: losses.csq_loss(x, labels, codes),
        lambda x: losses.orthohash_loss(x, labels, codes),
        lambda x: losses.greedyhash_loss(x, logits, labels),
    ):
        assert torch.autograd.gradcheck(loss, u.clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x: losses.greedyhash_loss(u, x, labels), logits.requires_grad_()
    )


def test_the_sign_lets_the_gradient_pass_and_makes_no_zero():
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 3.0], requires_grad=True)
    bits = losses.straight_through_sign(x)
    assert bits.tolist() == [-1, 1, 1, 1, 1]
    (bits * torch.arange(5)).sum().backward()
    assert x.grad.tolist() == [0, 1, 2, 3, 4]


def test_an_image_without_a_label():
    u, codes, none = outputs(count=2), centers(), torch.zeros(2, COUNT)
    none[0, 1] = 1
    assert torch.isfinite(losses.csq_loss(u, none, codes))
    alone = losses.orthohash_loss(u[:1], none[:1], codes)
    assert float(losses.orthohash_loss(u, none, codes)) == pytest.approx(float(alone) / 2)


def test_codes_at_the_centers_cost_least():
    codes = centers()
    u = codes[CLASSES]
    for loss in (losses.csq_loss, losses.orthohash_loss):
        best = float(loss(u * 20, CLASSES, codes))
        for seed in range(20):
            assert (
                float(loss(losses.straight_through_sign(outputs(seed)) * 20, CLASSES, codes)) > best
            )
    assert float(losses.csq_loss(u * 20, CLASSES, codes)) == pytest.approx(0, abs=1e-12)
    # Cosine 1 with the own class and 0 with the others, less the margin.
    expected = -math.log(math.exp(6.4) / (math.exp(6.4) + COUNT - 1))
    assert float(losses.orthohash_loss(u, CLASSES, codes)) == pytest.approx(expected)


def test_large_outputs_stay_finite():
    u = (outputs() * 1e4).float().requires_grad_()
    codes = centers().float()
    for value in (
        losses.csq_loss(u, CLASSES, codes),
        losses.orthohash_loss(u, CLASSES, codes),
        losses.greedyhash_loss(u, u[:, :COUNT], CLASSES),
    ):
        (grad,) = torch.autograd.grad(value, u)
        assert torch.isfinite(value) and torch.isfinite(grad).all()


def test_label_centers_are_the_majority():
    codes = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, 1, 1, -1]])
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert losses.label_centers(labels, codes).tolist() == [
        [1, 1, -1, -1],
        [1, -1, 1, -1],  # bits 1 and 2 are tied
        [1, 1, 1, -1],
        [1, -1, 1, -1],
    ]
    assert torch.equal(losses.label_centers(torch.tensor([2, 0]), codes), codes[[2, 0]])


@pytest.mark.parametrize("classes, bits", [(10, 16), (32, 16), (2, 1), (100, 64), (5, 4)])
def test_hadamard_centers_are_orthogonal_or_opposite(classes, bits):
    codes = losses.hash_centers(classes, bits)
    products = codes @ codes.T
    assert codes.shape == (classes, bits) and set(codes.unique().tolist()) <= {-1.0, 1.0}
    others = products[~torch.eye(classes, dtype=torch.bool)]
    assert set(others.tolist()) <= {0.0, -float(bits)}


@pytest.mark.parametrize("classes, bits", [(10, 48), (100, 48), (100, 32), (8, 3), (10, 12)])
def test_bernoulli_centers_are_far_apart(classes, bits):
    codes = losses.hash_centers(classes, bits, method="bernoulli")
    distances = (bits - codes @ codes.T) / 2
    others = distances[~torch.eye(classes, dtype=torch.bool)]
    assert others.min() >= 1, "two classes with one code"
    if bits >= 32:
        assert others.min() >= bits / 4 and others.mean() > bits / 2 - 1
    assert torch.equal(codes, losses.hash_centers(classes, bits, method="bernoulli"))
    other = losses.hash_centers(classes, bits, method="bernoulli", seed=1)
    assert not torch.equal(codes, other)


@pytest.mark.parametrize(
    "classes, bits, method",
    [(10, 16, "hadamard"), (9, 16, "hadamard"), (8, 16, "bernoulli"), (10, 32, "bernoulli"),
     (32, 16, "hadamard"), (33, 16, "bernoulli"), (10, 48, "bernoulli"), (2, 1, "hadamard")],
)  # fmt: skip
def test_distinct_centers_repeat_no_bit(classes, bits, method):
    codes = losses.hash_centers(classes, bits, method="distinct", seed=3)
    assert torch.equal(codes, losses.hash_centers(classes, bits, method=method, seed=3))
    if method == "hadamard":
        assert len(torch.unique(codes, dim=1).T) == bits, "two bits say the same of each class"


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(classes=10, bits=48, method="hadamard"), "no Hadamard centres for 10 classes at 48"),
        (dict(classes=33, bits=16, method="hadamard"), "at most twice as many"),
        (dict(classes=9, bits=3), "9 classes need more than 3 bits"),
        (dict(classes=0, bits=3), "at least 1"),
        (dict(classes=2, bits=8, method="random"), "method must be"),
    ],
)
def test_impossible_centers_say_why(settings, words):
    with pytest.raises(ValueError, match=words):
        losses.hash_centers(**settings)


U, CODES = torch.zeros(3, BITS), losses.hash_centers(COUNT, BITS)
THREE = CLASSES[:3]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: losses.csq_loss(U, THREE, CODES[:, :4]), "centers must be"),
        (lambda: losses.csq_loss(U, THREE, CODES.long()), "floating, -1 and \\+1"),
        (lambda: losses.csq_loss(U, THREE + 4, CODES), "from 0 to 3, got 4 to 5"),
        (lambda: losses.csq_loss(U, torch.zeros(3, 5), CODES), "must have 4 columns"),
        (lambda: losses.orthohash_loss(U, THREE[:2], CODES), "3 and 2 rows"),
        (lambda: losses.orthohash_loss(U, THREE, CODES, scale=0.0), "scale must be above 0"),
        (lambda: losses.orthohash_loss(U, THREE, None), "got NoneType"),
        (lambda: losses.greedyhash_loss(U, U[:2], THREE), r"logits must be \(3, C\)"),
        (lambda: losses.greedyhash_loss(U, U, THREE, power=0.5), "power must be at least 1"),
        (lambda: losses.label_centers(THREE - 1, CODES), "got -1 to 0"),
    ],
)  # fmt: skip
def test_bad_input_says_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()
