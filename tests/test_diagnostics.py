"""The report on a generator: each number by hand, and both traps seen."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import coophash as ch  # noqa: E402
from coophash.diagnostics import generator_report, real_classifier  # noqa: E402


def small_model(**options):
    return ch.CoopHash(8, 3, (1, 8, 8), base_channels=4, features=16, generator_channels=4,
                       latent_dim=4, langevin_steps=3, **options)  # fmt: skip


def real_images(per_class=6):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), per_class)
    images = random.integers(0, 256, (len(labels), 1, 8, 8), dtype=np.uint8)
    return ch.data.ImageSet(images, labels, ("a", "b", "c"))


class Oracle:
    """A classifier that sees the same class everywhere."""

    def classify(self, images):
        return torch.zeros(len(images), dtype=torch.int64)


def test_each_number_by_hand():
    model, real = small_model(seed=1), real_images()
    report = generator_report(model, real, classifier=model, samples=5, seed=0)
    assert model.training, "left as it was"
    model.eval()
    labels = torch.arange(3).repeat_interleave(5)
    generated = model.contrastive_pair(labels, seed=0).positive
    revised, energies = model.revise(generated, labels, seed=0, return_energies=True)
    for number, images in enumerate((generated, revised, torch.from_numpy(real.float()))):
        pixels = images.flatten(1).double().numpy()
        of = pixels[6:11] if number == 2 else pixels[5:10]  # the second class
        by_hand = np.mean([np.linalg.norm(a - b) for i, a in enumerate(of) for b in of[:i]])
        assert report.distance_by_class[1][number] == pytest.approx(by_hand, rel=1e-5)
    means = np.mean(report.distance_by_class, axis=0)
    assert [report.distance_synthetic, report.distance_revised, report.distance_real] == (
        pytest.approx(means.tolist())
    )
    guesses = model.classify(generated)
    assert report.accuracy == pytest.approx(float((guesses == labels).double().mean()))
    assert report.accuracy_by_class[2] == float((guesses[10:] == 2).double().mean())
    assert report.class_shares == pytest.approx(
        [float((guesses == c).sum()) / 15 for c in range(3)]
    )
    assert report.accuracy_real == pytest.approx(
        float((model.classify(real) == torch.from_numpy(real.labels)).double().mean())
    )
    assert report.chain_energies == pytest.approx(energies.mean(1).tolist(), abs=1e-6)
    assert report.energy_generated == report.chain_energies[0]
    assert report.energy_revised == report.chain_energies[-1]
    rows = [6 * c + i for c in range(3) for i in range(5)]
    x, c = torch.from_numpy(real.float(rows)), torch.from_numpy(real.labels[rows])
    assert report.energy_real == pytest.approx(float(model.energy(x, c).detach().mean()), abs=1e-6)
    assert report.chain_move == pytest.approx(float((revised - generated).abs().mean()))
    assert json.loads(json.dumps(report.as_dict()))["diversity"] == report.diversity > 0


def test_distances_to_the_nearest():
    model, real = small_model(seed=1), real_images()
    report = generator_report(model, real, classifier=Oracle(), samples=5)
    flat = real.float().reshape(18, -1).astype(np.float64)
    every = np.linalg.norm(flat[:, None] - flat[None], axis=2) + np.diag([np.inf] * 18)
    rows = [6 * c + i for c in range(3) for i in range(5)]
    assert report.nearest_real == pytest.approx(every[rows].min(1).mean(), rel=1e-5)
    elsewhere = generator_report(model, real, classifier=Oracle(), samples=5, training=real)
    assert elsewhere.nearest_real == pytest.approx(0, abs=1e-3), "all of them were trained on"
    assert elsewhere.nearest_synthetic == report.nearest_synthetic > 0

    copies = torch.from_numpy(real.float()[::6])
    model.generator.forward = lambda labels, latent: copies[labels]
    copied = generator_report(model, real, classifier=Oracle(), samples=2)
    assert copied.novelty < 1e-3 and copied.diversity < 1e-6


def test_a_generator_that_ignores_its_latent():
    model, real = small_model(seed=1), real_images()
    with torch.no_grad():
        model.generator.dense.weight[:, : model.config.latent_dim] = 0
    assert generator_report(model, real, classifier=model, samples=5).diversity < 1e-5


def test_a_generator_that_ignores_its_label():
    report = generator_report(small_model(seed=1), real_images(), classifier=Oracle(), samples=5)
    assert report.accuracy == report.accuracy_revised == pytest.approx(1 / 3)
    assert report.class_shares == (1, 0, 0) and report.accuracy_by_class == (1, 0, 0)
    assert report.missing_classes == (1, 2) and report.coverage == pytest.approx(1 / 3)


def test_without_a_chain_there_are_no_energies():
    for without in ("energy", "langevin"):
        report = generator_report(
            small_model(without=without), real_images(), classifier=Oracle(), samples=2
        )
        assert report.chain_energies == () and report.energy_revised is None
        assert report.chain_move == 0 and report.distance_revised == report.distance_synthetic


def test_without_a_classifier_half_of_the_images_train_one(monkeypatch):
    from coophash import diagnostics

    seen = {}

    def plain(images, labels, classes, *, seed):
        seen["images"], seen["labels"] = images, labels
        return Oracle()

    monkeypatch.setattr(diagnostics, "real_classifier", plain)
    real = real_images()
    report = generator_report(small_model(), real.float(), real.labels, samples=2)
    assert np.bincount(seen["labels"]).tolist() == [3, 3, 3]
    np.testing.assert_array_equal(seen["images"], real.float()[::2])
    assert report.accuracy_real == pytest.approx(1 / 3)
    generator_report(small_model(), real, training=(real.float(), real.labels), samples=2)
    assert len(seen["labels"]) == 18


def test_the_classifier_learns_from_real_images():
    images = np.full((24, 1, 8, 8), -0.5, np.float32) + np.repeat([0, 0.6, 1.2], 8)[
        :, None, None, None
    ].astype(np.float32)
    labels = np.repeat(np.arange(3), 8)
    model = real_classifier(images, labels, 3, updates=20)
    assert not model.config.cooperative
    assert (model.classify(images).numpy() == labels).all()


@pytest.mark.parametrize(
    "options, images, words",
    [
        ({}, lambda: real_images(1), "at least 2 of each of the 3 classes, got 1"),
        (dict(without="generator"), real_images, "without a generator"),
        (dict(cooperative=False), real_images, "without a generator"),
        ({}, lambda: (np.zeros((4, 1, 8, 8), np.uint8), np.ones((4, 3))), "one label"),
    ],
)
def test_what_it_cannot_measure_is_said(options, images, words):
    with pytest.raises(ValueError, match=words):
        generator_report(small_model(**options), images(), classifier=Oracle())
    with pytest.raises(ValueError, match="samples must be"):
        generator_report(small_model(), real_images(), classifier=Oracle(), samples=1)
