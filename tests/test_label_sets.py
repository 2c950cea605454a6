"""CoopHash where an image has several labels: each term, the pair, training, and what is kept."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import coophash as ch
from coophash import label_sets, losses
from coophash.ablation import ablated_loss
from coophash.coop import CooperativeOptimizers, cooperative_step
from coophash.coop import _cooperative_loss as cooperative_loss
from coophash.coop_terms import (
    category_loss,
    centre_by_class,
    other_classes,
    random_source,
    real_hash_loss,
)
from coophash.diagnostics import generator_report
from coophash.training import fit

SMALL = dict(base_channels=4, features=16, generator_channels=2, latent_dim=5, langevin_steps=2)
PARTS = ("generator", "energy", "langevin", "inference", "category")
CPU = torch.device("cpu")


def tiny(classes=3, **options):
    return ch.CoopHash(9, classes, (1, 12, 12), **{**SMALL, "synthetic_from": 0, **options})


def batch(count=6, classes=3, seed=0):
    """Images and their classes."""
    source = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 12, 12, generator=source) * 2 - 1, torch.arange(count) % classes


def squares(count, seed=0, classes=4):
    """Images of a grid of 2 x 2 fields, each lit where the image has its label, in noise."""
    random = np.random.default_rng(seed)
    labels = random.random((count, classes)) < 0.4
    labels[np.arange(count), random.integers(0, classes, count)] = True
    images = random.normal(-0.6, 0.35, (count, 1, 12, 12))
    for label in range(classes):
        row, column = 6 * (label // 2), 6 * (label % 2)
        images[labels[:, label], :, row + 1 : row + 5, column + 1 : column + 5] += 0.9
    return images.clip(-1, 1).astype(np.float32), labels


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def scored(model):
    (q, ql), (d, dl) = squares(60, 5), squares(200, 6)
    return ch.metrics.mean_average_precision(model.encode(q), model.encode(d), ql, dl)


def test_negative_labels_share_nothing_and_come_from_the_batch():
    hot = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 0.0]])
    drawn = torch.stack([label_sets.apart(hot, random_source(CPU, 0, n)) for n in range(200)])
    assert not (drawn[:, [0, 1, 2, 4]] * hot[[0, 1, 2, 4]]).any()
    assert {tuple(row) for row in drawn[:, 0].tolist()} == {(0, 1, 0, 0), (0, 1, 1, 0)}
    assert {tuple(row) for row in drawn[:, 1].tolist()} == {(1, 0, 0, 1), (1, 0, 1, 0)}
    assert (drawn[:, 3].sum(1) == 1).all() and drawn[:, 3].any(0).all()  # it has every label
    # Of a batch in which all share a label, one that the image has not.
    same = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0.0]])
    alone = torch.stack([label_sets.apart(same, random_source(CPU, 1, n)) for n in range(100)])
    assert (alone.sum(2) == 1).all() and not (alone * same).any()
    assert (alone[:, 0, 2:].sum(0) > 25).all()
    assert torch.equal(other_classes(hot, 4, random_source(CPU, 0, 3)), drawn[3])


def test_one_of_several_labels_is_drawn_uniformly():
    hot = torch.tensor([[1, 0, 1, 1.0]]).repeat(3000, 1)
    counts = torch.bincount(label_sets.one_of(hot, random_source(CPU, 0, 0)), minlength=4)
    assert counts[1] == 0 and (counts[[0, 2, 3]] - 1000).abs().max() < 120


def test_centring_takes_the_linear_part_of_several_labels_away():
    source = torch.Generator().manual_seed(0)
    hot = (torch.rand(400, 5, generator=source) < 0.4).float()
    noise = torch.randn(400, 3, generator=source)
    effects = 10 * torch.randn(5, 3, generator=source)
    centred = label_sets.centre(noise + hot @ effects + 7, hot)
    assert (centred - noise).abs().max() < 0.8
    # By definition: the prediction of least squares, less by the leverage.
    few, latent = hot[:30], noise[:30] + hot[:30] @ effects
    design = np.c_[few.numpy(), np.ones(30)].astype(np.float64)
    fitted = design @ np.linalg.pinv(design)
    expected = latent.numpy() - (1 - np.diag(fitted))[:, None] * (fitted @ latent.numpy())
    np.testing.assert_allclose(label_sets.centre(latent, few).numpy(), expected, atol=1e-4)


def test_one_label_in_each_row_is_centred_by_class():
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    latent = torch.randn(6, 5) + 10 * labels[:, None]
    hot = F.one_hot(labels, 4).float()
    torch.testing.assert_close(
        centre_by_class(latent, hot, 4), centre_by_class(latent, labels, 4), rtol=1e-4, atol=1e-4
    )


def test_triplets_of_images_that_share_a_label():
    outputs = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    hot = torch.tensor(
        [[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0]]
    )
    hinges = [
        2.0 + (outputs[a] - outputs[p]).square().sum() - (outputs[a] - outputs[n]).square().sum()
        for a in range(7) for p in range(7) for n in range(7)
        if a != p and (hot[a] & hot[p]).any() and not (hot[a] & hot[n]).any()
    ]  # fmt: skip
    active = torch.stack([h for h in hinges if h > 0])
    torch.testing.assert_close(losses.batch_all_triplet_loss(outputs, hot, 2.0), active.mean())


def test_quantisation_of_several_labels_leaves_the_means_of_bits_alone():
    """A pull of all images to one sign made all codes the same before labels were told apart."""
    model = tiny(ranking="triplet", hash_weight=0.0, quantization_weight=1.0)
    hot = F.one_hot(torch.arange(8) % 3, 3).float()
    h = 0.3 + 0.1 * torch.randn(8, 9, generator=torch.Generator().manual_seed(0))
    h.requires_grad_()
    (grad,) = torch.autograd.grad(real_hash_loss(model, h, hot), h)
    assert grad.mean(0).abs().max() < 1e-6 < grad.abs().max()
    (plain,) = torch.autograd.grad(real_hash_loss(model, h, hot.argmax(1)), h)
    assert plain.mean(0).abs().min() > 0.1
    settled = torch.tensor([[1.0, -1], [-1, 1]]).repeat(4, 1)
    assert float(real_hash_loss(model, settled, hot)) == 0


@pytest.mark.parametrize(
    "options", [{"ranking": "contrastive"}, {"ranking": "central"}, {"replay": 0.5}]
)
def test_later_options_take_sets_of_labels(options):
    images, labels = squares(24)
    model = tiny(classes=4, **options)
    before = weights(model).clone()
    history = fit(model, (images, labels), updates=3, batch_size=12, progress=False, shift=1)
    assert history.finished and torch.isfinite(weights(model)).all()
    assert not torch.equal(weights(model), before)


def test_category_loss_of_several_labels_is_their_likelihood():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    hot = torch.tensor([[1, 0, 1.0], [0, 1, 0]])
    p = torch.sigmoid(logits)
    expected = -torch.where(hot == 1, p, 1 - p).log().sum(1).mean()
    torch.testing.assert_close(category_loss(logits, hot), expected)
    labels = torch.tensor([0, 1])
    assert torch.equal(category_loss(logits, labels), F.cross_entropy(logits, labels))


def test_the_generator_takes_the_mean_of_its_labels_embeddings():
    model = tiny()
    norm = model.generator.first_norm.eval()
    x = torch.randn(2, norm.gain.weight.shape[1], 3, 3)
    shares = torch.tensor([[0.5, 0, 0.5], [0, 1, 0]])
    gain = torch.stack([norm.gain.weight[[0, 2]].mean(0), norm.gain.weight[1]])
    bias = torch.stack([norm.bias.weight[[0, 2]].mean(0), norm.bias.weight[1]])
    expected = norm.norm(x) * gain[:, :, None, None] + bias[:, :, None, None]
    torch.testing.assert_close(norm(x, shares), expected)
    latent = torch.randn(6, 5)
    labels = batch()[1]
    torch.testing.assert_close(
        model.generator(F.one_hot(labels, 3), latent), model.generator(labels, latent)
    )


@pytest.mark.parametrize("without", ["", *PARTS])
@pytest.mark.parametrize("triplets", ["all", "pair"])
def test_one_label_in_each_row_gives_the_losses_of_classes(monkeypatch, without, triplets):
    """All but those of the category head, whose probabilities are others, and of quantisation."""
    images, labels = batch()
    others = (labels + 1) % 3
    hot, hot_others = F.one_hot(labels, 3).float(), F.one_hot(others, 3).float()
    for module in ("coop", "ablation"):
        monkeypatch.setattr(
            f"coophash.{module}.other_classes", lambda c, *_: others if c.dim() == 1 else hot_others
        )
    monkeypatch.setattr(label_sets, "one_of", lambda c, _: c.argmax(1))
    loss = ablated_loss if without else cooperative_loss
    options = dict(
        without=without, synthetic_triplets=triplets, langevin_noise=0.0, quantization_weight=0.0
    )  # fmt: skip
    found = {}
    for kind, c in (("classes", labels), ("sets", hot)):
        model = tiny(**options)
        total, found[kind], _ = loss(model, images, c, 0, 0)
        assert torch.isfinite(total)
    assert found["classes"].keys() == found["sets"].keys()
    for name, value in found["classes"].items():
        if name != "category":
            torch.testing.assert_close(found["sets"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    if without != "category":
        assert found["sets"]["category"] != found["classes"]["category"]


@pytest.mark.parametrize("options", [{"without": part} for part in PARTS] + [
    {"cooperative": False}, {"cooperate_every": 2}, {"pairs": "revised"},
    {"synthetic_triplets": "pair"},
])  # fmt: skip
def test_every_variant_takes_sets_of_labels(options):
    images, labels = squares(16)
    model = tiny(classes=4, **options)
    chosen = CooperativeOptimizers(
        torch.optim.Adam(model.descriptor.parameters()),
        torch.optim.Adam(model.generator.parameters()),
    )
    before = weights(model).clone()
    for update in range(2):
        watched = cooperative_step(
            model, torch.from_numpy(images), torch.from_numpy(labels).float(), chosen, 0, update
        )
        assert all(torch.isfinite(value) for value in watched.values())
    assert not torch.equal(weights(model), before)


def test_a_negative_that_shares_a_label_is_in_no_bare_triplet():
    images, labels = squares(4)
    hot = torch.from_numpy(labels).float()
    hot[:] = 1  # every image has every label: c- shares one with each
    model = tiny(classes=4, ranking="triplet", synthetic_triplets="pair", quantization_weight=0.0)
    assert float(cooperative_loss(model, torch.from_numpy(images), hot, 0, 0)[1]["hash"]) == 0


def test_training_on_several_labels_raises_map_and_knows_the_labels(tmp_path):
    train, validation = squares(160), squares(80, 1)
    model = ch.CoopHash(
        12, 4, (1, 12, 12), base_channels=6, features=24, generator_channels=2, latent_dim=5,
        langevin_steps=2, synthetic_from=20, ranking="triplet",
    )  # fmt: skip
    before = scored(model)
    history = fit(
        model, train, validation, updates=80, batch_size=32, validate_every=40, progress=False,
        folder=tmp_path, learning_rate=3e-3,
    )  # fmt: skip
    after = scored(model)
    assert after > before + 0.15 and after > 0.9, (before, after)
    assert history.validation and model.multi_label
    images, labels = squares(60, 5)
    found = model.classify(images)
    assert found.dtype == torch.bool and found.shape == (60, 4) and found.any(1).all()
    assert (found.numpy() == labels).mean() > 0.9
    assert model.classify(images[:0]).shape == (0, 4)

    loaded = ch.load(tmp_path)
    assert loaded.multi_label and torch.equal(weights(loaded), weights(model))
    assert torch.equal(loaded.classify(images), found)


def test_resume_gives_the_weights_of_an_uninterrupted_run(tmp_path):
    data, settings = squares(32), dict(updates=6, batch_size=8, progress=False)
    whole, parts = tiny(classes=4), tiny(classes=4)
    fit(whole, data, **settings)
    for number in range(20):
        history = fit(
            parts, data, folder=tmp_path, resume=bool(number), time_limit=1e-9, **settings
        )
        if history.finished:
            break
    assert history.finished and number > 1
    assert torch.equal(weights(whole), weights(parts))


def test_pairs_chains_and_energies_of_sets():
    model = tiny(classes=4)
    images, labels = squares(10)
    hot = torch.from_numpy(labels)
    pair = model.contrastive_pair(hot)
    assert pair.positive.shape == pair.negative.shape == (10, 1, 12, 12)
    assert pair.labels.dtype == torch.float32 and (pair.negative_labels.sum(1) > 0).all()
    again = model.contrastive_pair(pair.labels, pair.negative_labels, pair.latent)
    assert torch.equal(again.negative, pair.negative)
    revised, energies = model.revise(pair.positive, pair.labels, return_energies=True)
    torch.testing.assert_close(model.energy(revised, pair.labels), energies[-1])
    x = torch.from_numpy(images)
    each = torch.stack([model.energy(x, torch.full((10,), c)) for c in range(4)], 1)
    expected = (each * hot).sum(1) / hot.sum(1)
    torch.testing.assert_close(model.energy(x, hot.float()), expected)


def test_recovery_with_sets_given_and_inferred():
    model = tiny(classes=4, multi_label=True)
    images, labels = squares(6)
    mask = np.zeros((12, 12), bool)
    mask[:, :8] = True
    for known in (None, labels):
        mended = model.recover(images, mask, known, samples=5, rounds=2, starts=2)
        assert mended.shape == images.shape and np.isfinite(mended).all()
        assert np.array_equal(mended[..., :8], images[..., :8])
        assert not np.array_equal(mended[..., 8:], images[..., 8:])
    # One label in each row is that class.
    one = np.arange(6) % 4
    torch.testing.assert_close(
        model.recover(torch.from_numpy(images), mask, torch.eye(4)[one], samples=5),
        model.recover(torch.from_numpy(images), mask, torch.from_numpy(one), samples=5),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m, x, y: fit(m, (x, y * 0)), "row 0 has none"),
        (lambda m, x, y: fit(m, (x, y[:, :3])), r"multi-hot \(B, 4\) of 0 and 1"),
        (lambda m, x, y: fit(m, (x, y * 2.0)), "of 0 and 1"),
        (lambda m, x, y: fit(m, (x, y & [1, 1, 1, 0] | [1, 0, 0, 0])), "class 3 has 0 training"),
        (lambda m, x, y: m.contrastive_pair(y, np.arange(len(y)) % 4), "or multi-hot as labels"),
        (lambda m, x, y: m.contrastive_pair(y, y), "must differ"),
        (lambda m, x, y: m.contrastive_pair(y, y[:2]), r"negative_labels must be \(8, 4\)"),
        (lambda m, x, y: ch.data.ImageSet((x * 0).astype(np.uint8), y * 1, tuple("abcd")),
         r"give fit \(images, labels\)"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, words):
    images, labels = squares(8)
    with pytest.raises(ValueError, match=words):
        call(tiny(classes=4), images, labels)


def test_the_generator_s_check_is_for_one_label():
    images, labels = batch(12)
    real = ch.data.ImageSet((images * 0).numpy().astype(np.uint8), labels.numpy(), tuple("abc"))
    with pytest.raises(ValueError, match="one label an image"):
        generator_report(tiny(multi_label=True), real, classifier=tiny())
