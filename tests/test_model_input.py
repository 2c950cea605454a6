"""What models do with input of an odd kind, and what reading from them must not change."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import evaluation, losses
from coophash.data import ImageSet

SMALL = dict(base_channels=4, features=16, generator_channels=2, latent_dim=5, langevin_steps=2)


def tiny(**options):
    return ch.CoopHash(8, 3, (1, 12, 12), **{**SMALL, **options})


def batch(count=6):
    levels = np.random.default_rng(0).integers(0, 256, (count, 1, 12, 12), np.uint8)
    return levels, np.arange(count) % 3


def all_weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: tiny(seed=seed),
        lambda seed: ch.SupervisedHash("csq", 8, 3, (1, 12, 12), base_channels=4, features=16,
                                       seed=seed),
        lambda seed: ch.UCCH(8, 5, 7, image_hidden=(24,), text_hidden=(24,), seed=seed),
    ],
    ids=["coophash", "csq", "ucch"],
)  # fmt: skip
def test_the_seed_decides_the_weights_in_threads_too(make, monkeypatch):
    """And torch's global generators, those of GPUs as well, are afterwards as they were."""
    expected, state = all_weights(make(3)), torch.get_rng_state()
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: all_weights(make(3)), range(24)):
            assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), state) and not seeded
    assert not torch.equal(all_weights(make(4)), expected)


def test_a_default_device_is_taken():
    """Weights are drawn where torch's defaults put them."""
    with torch.device("meta"):
        assert next(tiny().parameters()).device.type == "meta"


@pytest.mark.parametrize("seed", [-1, 1.5, None, True])
def test_a_seed_is_an_integer(seed):
    with pytest.raises((TypeError, ValueError), match="seed must be an integer >= 0, got"):
        tiny(seed=seed)


def test_energy_and_revise_take_what_encode_takes():
    model, (levels, labels) = tiny(), batch()
    images = torch.from_numpy(levels).float() / 127.5 - 1
    expected = model.energy(images, torch.from_numpy(labels))
    torch.testing.assert_close(model.energy(levels, labels), expected)
    torch.testing.assert_close(model.energy(torch.from_numpy(levels), list(labels)), expected)
    moved = model.revise(images, torch.from_numpy(labels))
    torch.testing.assert_close(model.revise(levels, labels), moved)


@pytest.mark.parametrize("name", ["energy", "revise"])
@pytest.mark.parametrize(
    "change, labels, error, words",
    [
        (lambda x: x[:, :, :10], [0, 1, 2], ValueError, r"images must be \(B, 1, 12, 12\), got"),
        (lambda x: x[0], [0, 1, 2], ValueError, r"one image is a batch of one"),
        (lambda x: x.long(), [0, 1, 2], TypeError, "images must be floating .* got torch.int64"),
        (lambda x: x, [0, 1, 3], ValueError, "labels must be from 0 to 2, got 0 to 3"),
        (lambda x: x, [0, 1], ValueError, r"labels must be \(3,\), got \(2,\)"),
    ],
)
def test_energy_and_revise_refuse_the_rest(name, change, labels, error, words):
    images = torch.zeros(3, 1, 12, 12)
    with pytest.raises(error, match=words):
        getattr(tiny(), name)(change(images), torch.tensor(labels))


@pytest.mark.parametrize("value, words", [(200.0, r"\[-1, 1\]"), (float("nan"), "finite")])
def test_revise_refuses_another_range(value, words):
    with pytest.raises(ValueError, match=words):
        tiny().revise(torch.full((3, 1, 12, 12), value), torch.arange(3))


def test_energy_is_differentiable_and_lets_chains_leave_the_range():
    images = torch.full((3, 1, 12, 12), 1.5, requires_grad=True)
    tiny().energy(images, torch.arange(3)).sum().backward()
    assert images.grad is not None and float(images.grad.abs().max()) > 0


def test_a_pair_of_odd_input():
    model = tiny()
    latent = np.random.default_rng(0).normal(size=(3, 5))
    labels = np.arange(3)
    expected = model.contrastive_pair(
        torch.from_numpy(labels), torch.tensor([1, 2, 0]), torch.from_numpy(latent).float()
    )
    found = model.contrastive_pair(labels, np.array([1, 2, 0]), latent)
    assert torch.equal(found.positive, expected.positive)
    with pytest.raises(ValueError, match="latent must be finite"):
        model.contrastive_pair(labels, latent=latent * np.nan)
    with pytest.raises(ValueError, match="labels must have at least one row"):
        model.contrastive_pair(labels[:0])


def test_each_module_stays_in_its_mode():
    model, (levels, labels) = tiny(), batch()
    model.train()
    model.generator.eval()  # frozen batch statistics
    before = {name: module.training for name, module in model.named_modules()}
    model.encode(levels), model.contrastive_pair(labels), model.outputs(levels)
    assert before == {name: module.training for name, module in model.named_modules()}


def test_a_column_of_labels_is_refused():
    """0 and 1 in one column could be two classes, or one label that some images lack."""
    outputs, labels = torch.randn(6, 8), torch.arange(6) % 2
    for loss in (losses.dpsh_loss, losses.dtsh_loss, losses.triplet_loss):
        with pytest.raises((TypeError, ValueError)):
            loss(outputs, labels[:, None])
    with pytest.raises(ValueError, match=r"labels of shape \(6, 1\) could be .*labels\[:, 0\]"):
        losses.dpsh_loss(outputs, labels[:, None])


def test_recovery_is_asked_of_models_that_can():
    levels, labels = batch(12)
    data = ImageSet(levels.repeat(2, 2).repeat(2, 3)[:, :, :16, :16], labels, ("a", "b", "c"), "x")
    baseline = ch.SupervisedHash("csq", 8, 3, (1, 16, 16), base_channels=4, features=16)
    with pytest.raises(ValueError, match=r"model cannot recover: SupervisedHash \(csq\)"):
        evaluation.evaluate_recovery(baseline, data, data)
    with pytest.raises(TypeError, match=r"kinds must be several names, got the text 'occlusion'"):
        evaluation.evaluate_corruptions(baseline, data, data, kinds="occlusion")


@pytest.mark.parametrize("shape", [8, None, (1, 12.0, 12), "112"])
def test_an_image_shape_is_three_integers(shape):
    for make in (
        lambda: ch.CoopHash(8, 3, shape),
        lambda: ch.SupervisedHash("csq", 8, 3, shape),
    ):
        with pytest.raises(TypeError, match=r"image_shape must be three integers \(C, H, W\), got"):
            make()
    assert ch.CoopHash(8, 3, np.array([1, 12, 12])).config.image_shape == (1, 12, 12)
