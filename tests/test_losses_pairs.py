"""DPSH, DTSH and HashNet against their formulas, written out pair by pair in float64."""

import math

import pytest
import torch

from coophash import losses

BATCH, BITS = 7, 6
CLASSES = torch.tensor([0, 1, 0, 2, 1, 0, 3])  # class 2 and 3 have one image each
SEVERAL = torch.tensor(
    [
        [1, 0, 0, 1],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
        [1, 1, 1, 0],
        [0, 0, 1, 0],
        [0, 1, 0, 0],
    ]
)  # the fourth has none


def outputs(count=BATCH, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, BITS, generator=source, dtype=torch.float64) * 1.5


def share(labels, i, j):
    """Common labels over all labels of two images."""
    sets = [
        {int(labels[n])} if labels.dim() == 1 else set(torch.nonzero(labels[n])[:, 0].tolist())
        for n in (i, j)
    ]
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 0.0


def dot(u, i, j):
    return sum(float(a) * float(b) for a, b in zip(u[i], u[j], strict=True))


def to_signs(u):
    entries = [float(x) for row in u for x in row]
    return sum((x - (1 if x >= 0 else -1)) ** 2 for x in entries) / len(entries)


def pairs(count=BATCH):
    return [(i, j) for i in range(count) for j in range(count) if i != j]


def naive_dpsh(u, labels, weight):
    total = 0.0
    for i, j in pairs(len(u)):
        theta, s = dot(u, i, j) / 2, share(labels, i, j) > 0
        total -= s * theta - math.log(1 + math.exp(theta))
    return total / len(pairs(len(u))) + weight * to_signs(u)


def naive_dtsh(u, labels, margin, weight):
    terms = []
    for q, p in pairs(len(u)):
        for n in range(len(u)):
            if n != q and share(labels, q, p) > 0 and share(labels, q, n) == 0:
                d = dot(u, q, p) / 2 - dot(u, q, n) / 2 - margin
                terms.append(-(d - math.log(1 + math.exp(d))))
    return sum(terms) / len(terms) + weight * to_signs(u)


def naive_hashnet(u, labels, beta, alpha):
    h = [[math.tanh(beta * float(x)) for x in row] for row in u]
    near = [pair for pair in pairs() if share(labels, *pair) > 0]
    total = 0.0
    for i, j in pairs():
        x = alpha * sum(a * b for a, b in zip(h[i], h[j], strict=True))
        s = (i, j) in near
        side = len(near) if s else len(pairs()) - len(near)
        weight = len(pairs()) / side * (share(labels, i, j) if s else 1)
        total += weight * (math.log(1 + math.exp(x)) - s * x)
    return total / len(pairs())


@pytest.mark.parametrize("labels", [CLASSES, SEVERAL], ids=["classes", "several"])
class TestAgainstTheFormula:
    @pytest.mark.parametrize("weight", [0.0, 0.1])
    def test_dpsh(self, labels, weight):
        u = outputs()
        got = losses.dpsh_loss(u, labels, quantization_weight=weight)
        assert float(got) == pytest.approx(naive_dpsh(u, labels, weight), rel=1e-12)

    @pytest.mark.parametrize("margin", [0.0, 2.0, None])
    def test_dtsh(self, labels, margin):
        u = outputs()
        expected = naive_dtsh(u, labels, BITS / 2 if margin is None else margin, 0.7)
        got = losses.dtsh_loss(u, labels, margin=margin, quantization_weight=0.7)
        assert float(got) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("beta, alpha", [(1.0, None), (3.0, 0.1)])
    def test_hashnet(self, labels, beta, alpha):
        u = outputs()
        expected = naive_hashnet(u, labels, beta, 10 / BITS if alpha is None else alpha)
        got = losses.hashnet_loss(u, labels, beta=beta, alpha=alpha)
        assert float(got) == pytest.approx(expected, rel=1e-12)

    def test_gradients(self, labels):
        for loss in (losses.dpsh_loss, losses.dtsh_loss, losses.hashnet_loss):
            u = outputs().requires_grad_()
            assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, labels), u)


def test_classes_and_their_one_hot_rows_are_the_same():
    u, hot = outputs(), torch.nn.functional.one_hot(CLASSES, 4)
    for loss in (losses.dpsh_loss, losses.dtsh_loss, losses.hashnet_loss):
        torch.testing.assert_close(loss(u, CLASSES), loss(u, hot))
        torch.testing.assert_close(loss(u, CLASSES), loss(u, hot.bool()))
        torch.testing.assert_close(loss(u, CLASSES), loss(u, hot.float()))


def test_dpsh_with_a_memory_pairs_the_batch_with_all_of_it():
    u, kept, labels = outputs(), outputs(9, 1), torch.arange(9) % 3
    expected = 0.0
    for i in range(BATCH):
        for j in range(9):
            theta = sum(float(a) * float(b) for a, b in zip(u[i], kept[j], strict=True)) / 2
            expected += math.log(1 + math.exp(theta)) - theta * int(CLASSES[i] == labels[j])
    expected = expected / (BATCH * 9) + 0.1 * to_signs(u)
    kept.requires_grad_()
    got = losses.dpsh_loss(u.requires_grad_(), CLASSES, memory=kept, memory_labels=labels)
    assert float(got.detach()) == pytest.approx(expected, rel=1e-12)
    got.backward()
    assert kept.grad is None, "the memory holds values, not a graph"


def test_perfect_codes_cost_less_than_any_others():
    """Codes that are equal within a class and opposite between two: the end of learning."""
    labels = torch.tensor([0, 0, 1, 1])
    good = torch.tensor([1.0, 1, -1, -1])[:, None].expand(4, BITS).double()
    for loss in (losses.dpsh_loss, losses.dtsh_loss, losses.hashnet_loss):
        best = float(loss(good, labels))
        for seed in range(20):
            assert float(loss(losses.straight_through_sign(outputs(4, seed)), labels)) >= best
    assert float(losses.dpsh_loss(good, labels)) == pytest.approx(
        (4 * math.log(1 + math.exp(-BITS / 2)) + 8 * math.log(1 + math.exp(-BITS / 2))) / 12
    )


def test_large_outputs_stay_finite():
    u = (outputs() * 1e4).float().requires_grad_()
    for loss in (losses.dpsh_loss, losses.dtsh_loss, losses.hashnet_loss):
        value = loss(u, CLASSES)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(u.grad).all()


@pytest.mark.parametrize("labels", [torch.zeros(5, dtype=torch.int64), torch.arange(5)])
def test_a_batch_without_a_triplet_or_a_kind_of_pair(labels):
    """Nothing to compare is no error in the middle of a run: what is left still teaches."""
    u = outputs(5).requires_grad_()
    assert float(losses.dtsh_loss(u, labels, quantization_weight=0.0).detach()) == 0
    for loss in (losses.dpsh_loss, losses.hashnet_loss):
        value = loss(u, labels)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(u.grad).all()
    one = outputs(1)
    assert float(losses.dpsh_loss(one, labels[:1])) == pytest.approx(0.1 * to_signs(one))
    assert float(losses.hashnet_loss(one, labels[:1])) == 0


def test_hashnet_balances_the_two_kinds_of_pairs():
    """With S / S_1 and S / S_0 each kind weighs as much as the other, however rare it is."""
    labels = torch.tensor([0, 0, *range(1, 9)])
    zero = torch.zeros(10, BITS, dtype=torch.float64)
    assert float(losses.hashnet_loss(zero, labels)) == pytest.approx(2 * math.log(2))


def test_hashnet_ends_at_the_signs():
    u = outputs()
    end = losses.hashnet_loss(u, CLASSES, beta=1e9)
    codes = losses.straight_through_sign(u) * 50  # tanh of it is the sign
    torch.testing.assert_close(end, losses.hashnet_loss(codes, CLASSES))


def test_hashnet_beta_grows_in_stages():
    assert losses.hashnet_beta(0) == losses.hashnet_beta(199) == 1
    assert losses.hashnet_beta(200) == pytest.approx(math.sqrt(2))
    assert losses.hashnet_beta(2399, 0.01, 1.0) == pytest.approx(1 + 0.01 * 2200)
    with pytest.raises(ValueError, match="update"):
        losses.hashnet_beta(-1)


BAD = [
    (torch.zeros(3), CLASSES[:3], r"outputs must be real \(B, K\), got float32 \(3,\)"),
    (torch.zeros(3, 2).long(), CLASSES[:3], r"outputs must be real \(B, K\), got int64"),
    (torch.zeros(3, 2), CLASSES[:2], "one batch, got 3 and 2 rows"),
    (torch.zeros(0, 2), CLASSES[:0], r"labels must be classes"),
    (torch.zeros(3, 2), torch.zeros(3), "integer classes"),
    (torch.zeros(3, 2), torch.zeros(3, 2, 2), r"multi-hot \(B, C\), got float32 \(3, 2, 2\)"),
    (torch.zeros(2, 2), torch.tensor([0, -1]), "from 0, got -1 to 0"),
    (torch.zeros(2, 2), torch.tensor([[0, 2], [1, 0]]), "0 and 1 alone"),
]


@pytest.mark.parametrize("u, labels, words", BAD)
def test_bad_input_says_what_is_wrong(u, labels, words):
    for loss in (losses.dpsh_loss, losses.dtsh_loss, losses.hashnet_loss):
        with pytest.raises(ValueError, match=words):
            loss(u, labels)


def test_bad_settings_say_what_is_wrong():
    u = outputs()
    with pytest.raises(ValueError, match="beta must be above 0"):
        losses.hashnet_loss(u, CLASSES, beta=0.0)
    with pytest.raises(ValueError, match="memory_labels"):
        losses.dpsh_loss(u, CLASSES, memory=u)
    with pytest.raises(ValueError, match=r"memory must be \(M, 6\)"):
        losses.dpsh_loss(u, CLASSES, memory=u[:, :3], memory_labels=CLASSES)
