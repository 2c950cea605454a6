"""The stand-ins for UCCH's parts against the definitions of its code, quirks included."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from coophash.compat import ucch
from coophash.compat.ucch import (
    ContrastiveLoss,
    NCEAverage,
    NCESoftmaxLoss,
    fx_calc_map_multilabel_k,
)

ITEMS, BITS, BATCH, K = 40, 10, 6, 15


def unit(seed, rows=BATCH):
    outputs = torch.randn(rows, BITS, generator=torch.Generator().manual_seed(seed))
    return (outputs / outputs.norm(dim=1, keepdim=True)).requires_grad_()


@pytest.fixture
def drawn():
    source = torch.Generator().manual_seed(3)
    y = torch.randperm(ITEMS, generator=source)[:BATCH]
    idx = torch.randint(ITEMS, (BATCH, K + 1), generator=source)
    idx[:, 0] = y
    return y, idx


def literal(memory, im, ab, y, idx, warm_up, T, momentum):
    """Keys (B, K + 1, bits), logits, and the memory afterwards, by the definition."""
    if warm_up:
        centre = ((im + ab) / 2).detach().sign()
        keys = torch.stack(
            [torch.cat([centre[i : i + 1], centre[:i], centre[i + 1 :]]) for i in range(len(im))]
        )
        momentum = 0
    else:
        keys = memory[idx].sign()
    scale = T * math.sqrt(BITS)
    out = [torch.stack([keys[i] @ h[i] for i in range(len(im))]) / scale for h in (im, ab)]
    after = memory.clone()
    for i, row in enumerate(y.tolist()):
        u = (im[i] + ab[i]).detach() / 2
        v = momentum * after[row] + (1 - momentum) * u / u.norm()
        after[row] = v / v.norm()
    return out[0][:, :, None], out[1][:, :, None], after


@pytest.mark.parametrize("gathered", [False, True], ids=["all rows", "gathered"])
@pytest.mark.parametrize(
    ("epoch", "momentum"), [(None, 0.4), (0, 0.4), (3, 0.4), (-1, 0.4), (None, 0.0)]
)
def test_logits_gradient_and_memory(monkeypatch, drawn, gathered, epoch, momentum):
    if gathered:
        monkeypatch.setattr(ucch, "_ALL_ROWS_PER_DRAW", 0)
        monkeypatch.setattr(ucch, "_GATHERED", 3 * (K + 1) * BITS)  # several parts, the last short
    y, idx = drawn
    contrast = NCEAverage(BITS, ITEMS, K, 0.9, momentum)
    contrast.memory[int(idx[0, 1]), 2] = 0.0  # sign(0) is 0
    before = contrast.memory.clone()
    warm_up = (epoch is not None and epoch < 0) or momentum <= 0
    im, ab = unit(1), unit(2)
    expected = literal(before, im, ab, y, idx, warm_up, 0.9, momentum)
    shape = (BATCH, BATCH, 1) if warm_up else (BATCH, K + 1, 1)
    out_l, out_ab = contrast(im, ab, y, idx.clone(), epoch=epoch)
    assert out_l.shape == out_ab.shape == shape
    torch.testing.assert_close(out_l, expected[0])
    torch.testing.assert_close(out_ab, expected[1])
    torch.testing.assert_close(contrast.memory, expected[2])

    criterion = NCESoftmaxLoss()
    loss = criterion(out_l) + 2 * criterion(out_ab)
    wanted = sum(
        w * torch.nn.functional.cross_entropy(o[:, :, 0], torch.zeros(BATCH, dtype=torch.int64))
        for w, o in ((1, expected[0]), (2, expected[1]))
    )
    torch.testing.assert_close(loss, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(loss, [im, ab]), torch.autograd.grad(wanted, [im, ab]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_memory_starts_as_the_original_does():
    torch.manual_seed(5)
    contrast = NCEAverage(48, 3000, K)
    torch.manual_seed(5)
    stdv = 1.0 / math.sqrt(48 / 3)
    signs = torch.randn(3000, 48).mul(2 * stdv).add(-stdv).sign()
    assert torch.equal(contrast.memory, signs / signs.norm(dim=1, keepdim=True))
    assert abs(float((contrast.memory > 0).double().mean()) - 0.3085) < 0.01
    assert set(contrast.state_dict()) == {"params", "memory"}
    wanted = torch.tensor([K, 0.07 * math.sqrt(48), -1, -1, 0.5])
    assert torch.equal(contrast.params, wanted)


def test_drawn_rows_are_uniform_and_begin_with_the_positive(monkeypatch, drawn):
    seen = []

    def noting(outputs, keys, rows):
        seen.append(rows)
        return outputs.new_zeros(rows.shape)

    monkeypatch.setattr(ucch, "_logits", noting)
    contrast, y = NCEAverage(BITS, ITEMS, 4000, 0.9, 0.4), drawn[0]
    contrast(unit(1), unit(2), y)
    assert torch.equal(seen[0][:, 0], y) and seen[0].shape == (BATCH, 4001)
    share = torch.bincount(seen[0][:, 1:].flatten(), minlength=ITEMS) / (BATCH * 4000)
    assert (share * ITEMS - 1).abs().max() < 0.2  # the positives are among them


def test_without_softmax_the_constants_are_those_of_the_first_batch(capsys, drawn):
    y, idx = drawn
    contrast = NCEAverage(BITS, ITEMS, K, 0.5, 0.4, use_softmax=False)
    im, ab = unit(1), unit(2)
    raw = [torch.exp(o) for o in literal(contrast.memory, im, ab, y, idx, False, 0.5, 0.4)[:2]]
    z = [float(o.mean()) * ITEMS for o in raw]
    out = contrast(im, ab, y, idx)
    for got, value, constant in zip(out, raw, z, strict=True):
        torch.testing.assert_close(got, value / constant)
    assert capsys.readouterr().out.count("normalization constant Z_") == 2
    contrast(unit(7), unit(8), y, idx)
    torch.testing.assert_close(contrast.params[2:4], torch.tensor(z))
    assert capsys.readouterr().out == ""


def test_update_memory_sets_the_sum():
    contrast, parts = NCEAverage(BITS, ITEMS, K), [unit(1, ITEMS).detach(), unit(2, ITEMS).detach()]
    contrast.update_memory(parts)
    wanted = parts[0] + parts[1]
    torch.testing.assert_close(contrast.memory, wanted / wanted.norm(dim=1, keepdim=True))


def test_a_hopeless_positive_costs_infinity():
    assert NCESoftmaxLoss()(torch.tensor([[-200.0, 0.0]])) == math.inf


@pytest.mark.parametrize(
    ("margin", "shift", "tau"), [(0.2, 0.1, 1.0), (0.0, 2.0, 0.3), (0.2, 7, 1)]
)
def test_the_ranking_loss(margin, shift, tau):
    criterion, im, ab = ContrastiveLoss(margin, shift), unit(1), unit(2)
    scores, total = im @ ab.T, 0
    for matrix in (scores, scores.T):
        for i in range(BATCH):
            own = matrix[i, i]
            costs = [s if s >= own - margin else s - shift for s in matrix[i]]
            total = total + margin - own + tau * torch.log(
                sum(torch.exp(c / tau) for c in costs)
            )  # fmt: skip
    loss = criterion(im, ab, tau=tau)
    torch.testing.assert_close(loss, total / BATCH)
    for ours, theirs in zip(
        torch.autograd.grad(loss, [im, ab]), torch.autograd.grad(total / BATCH, [im, ab]),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs)
    assert criterion.count == 2


def test_hinges_of_scores_and_the_rest_of_contrastive_loss():
    scores = torch.tensor([[0.5, 0.4, 0.1], [0.2, 0.9, 0.0]])
    # row 0: the positive itself 0.2, then 0.1 and 0; row 1: 0.2, 0.9, 0
    assert float(ContrastiveLoss(0.2)(scores)) == pytest.approx(0.2 + 0.1 + 0.2 + 0.9)
    assert float(ContrastiveLoss(0.2, max_violation=True)(scores)) == pytest.approx(0.2 + 0.9)
    criterion = ContrastiveLoss()
    criterion.set_margin(0.3)
    assert criterion.margin == 0.3 and criterion.shift == 2.0
    cost = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert float(criterion.loss_func(cost, 1.0)) == pytest.approx((math.e + math.e) / 2)
    with pytest.raises(ValueError, match="the original calls an undefined name"):
        ContrastiveLoss(measure="order")


def literal_map(retrieval, labels, query, asked, k, metric):
    distances = cdist(query, retrieval, metric)
    order = distances.argsort()
    values = []
    for i in range(len(query)):
        ranked = order[i][0 : (len(retrieval) if k == 0 else k)]
        hits = np.dot(labels[ranked], asked[i]) > 0
        if hits.sum() > 0:
            precision = np.cumsum(hits) / np.arange(1.0, len(hits) + 1)
            values.append(np.dot(hits, precision) / float(hits.sum()))
    return np.mean(values)


@pytest.mark.parametrize("k", [0, 30, 10_000, -1])
@pytest.mark.parametrize("bits", [8, 24, 33, 128])
def test_map_is_the_original_to_the_last_digit(monkeypatch, bits, k):
    monkeypatch.setattr(ucch, "_DISTANCES", 7 * 500)  # several blocks
    random = np.random.default_rng(bits)
    d, q = (np.sign(random.normal(size=(n, bits))).astype(np.float32) for n in (500, 40))
    labels, asked = ((random.random((n, 12)) < 0.08).astype(np.int64) for n in (500, 40))
    assert not asked.any(1).all()  # queries that are left out
    expected = literal_map(d, labels, q, asked, k, "hamming")
    assert fx_calc_map_multilabel_k(d, labels, q, asked, k=k, metric="hamming") == expected


def test_map_of_other_metrics_zeros_and_class_numbers():
    random = np.random.default_rng(0)
    d, q = random.normal(size=(90, 6)), random.normal(size=(20, 6))
    labels, asked = random.integers(0, 3, 90), random.integers(0, 3, 20)
    assert (asked == 0).any()  # class 0 is relevant to nothing
    for metric in ("cosine", "euclidean"):
        got = fx_calc_map_multilabel_k(d, labels, q, asked, metric=metric)
        assert got == literal_map(d, labels, q, asked, 0, metric)
    signs, others = np.sign(d), np.sign(q)
    others[3, 2] = 0.0  # differs from both
    one_hot, wanted = np.eye(3)[labels], np.eye(3)[asked]
    got = fx_calc_map_multilabel_k(signs, one_hot, others, wanted, 0, "hamming")
    assert got == literal_map(signs, one_hot, others, wanted, 0, "hamming")
    with pytest.warns(RuntimeWarning):
        assert math.isnan(fx_calc_map_multilabel_k(d, one_hot, q, 0 * wanted))
