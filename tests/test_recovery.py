"""Recovery: what is held, what is made, and that it helps a model that has learned."""

import json

import numpy as np
import pytest
import torch

import coophash as ch
from coophash.corruptions import spoil
from coophash.data import ImageSet
from coophash.evaluation import evaluate_codes, evaluate_recovery
from coophash.recovery import HeldEnergy, _draw_prior, _weights
from coophash.sampling import langevin

SMALL = dict(base_channels=8, features=32, generator_channels=8, latent_dim=4, langevin_steps=3)


def bars(count=90, seed=0):
    """A faint bar in one of three places: a grey occluder outshines it."""
    source = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = source.integers(0, 20, (count, 1, 12, 12), np.uint8)
    for row, label in enumerate(labels):
        images[row, 0, :, 4 * label + 1 : 4 * label + 3] += source.integers(40, 70, dtype=np.uint8)
    return ImageSet(images, labels.astype(np.int64), ("left", "middle", "right"))


def tiny(**options):
    return ch.CoopHash(8, 3, (1, 12, 12), **{**SMALL, **options}).eval()


@pytest.fixture(scope="module")
def trained():
    # The reconstruction is a sum over pixels, and these are few: weights of the terms and rates to
    # match. At the default ones the model learns bars by heart and noise is not pulled as far.
    few_pixels = dict(
        variational_weight=0.01, quantization_weight=0.01, energy_rate=0.2, langevin_step_size=4.5
    )
    model = ch.CoopHash(
        16, 3, (1, 12, 12), synthetic_from=20, cooperate_every=1, **few_pixels, **SMALL
    )
    ch.fit(model, bars(), updates=150, batch_size=30, learning_rate=1e-3, progress=False)
    return model


@pytest.fixture
def hidden():
    return spoil(bars(20, seed=1), "occlusion", 4, seed=5)


def test_observed_pixels_are_held_and_hidden_ones_do_not_matter(hidden):
    model, (images, mask) = tiny(), hidden
    found = model.recover(images, mask, rounds=2, starts=2)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    assert found.shape == images.shape and np.abs(found).max() <= 1
    whole = np.broadcast_to(mask, images.shape)
    np.testing.assert_array_equal(found[whole], images[whole])
    assert (found[~whole] != images[~whole]).mean() > 0.99
    other = np.where(mask, images, np.float32(0.7))
    np.testing.assert_array_equal(model.recover(other, mask, rounds=2, starts=2), found)


@pytest.mark.parametrize("value", [np.nan, np.inf, 99.0])
def test_hidden_pixels_may_hold_what_no_image_has(value, hidden):
    model, (images, mask) = tiny(), hidden
    found = model.recover(images, mask)
    marked = np.where(mask, images, np.float32(value))
    before = marked.copy()
    np.testing.assert_array_equal(model.recover(marked, mask), found)
    np.testing.assert_array_equal(marked, before)
    np.testing.assert_array_equal(model.recover(marked.astype(np.float64), mask), found)
    tensor = model.recover(torch.from_numpy(marked), torch.from_numpy(mask))
    np.testing.assert_array_equal(tensor.numpy(), found)
    for wrong in (None, ~mask, np.ones((12, 12), bool)):  # it still must not be observed
        with pytest.raises(ValueError, match="images must be"):
            model.recover(marked, wrong)


def test_uint8_images_with_hidden_pixels(hidden):
    model, (images, mask) = tiny(), hidden
    as_bytes = np.round((images + 1) * 127.5).astype(np.uint8)
    found = model.recover(as_bytes, mask)
    np.testing.assert_array_equal(model.recover(np.where(mask, as_bytes, 77), mask), found)


def test_masks_of_every_form_and_torch_in_torch_out(hidden):
    model, (images, mask) = tiny(), hidden
    whole = model.recover(images, mask)
    np.testing.assert_array_equal(model.recover(images, np.broadcast_to(mask, images.shape)), whole)
    tensor = model.recover(torch.from_numpy(images), torch.from_numpy(mask))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), whole)
    one = mask[0, 0]
    np.testing.assert_array_equal(
        model.recover(images, one), model.recover(images, np.broadcast_to(one, mask.shape))
    )
    assert model.recover(images[:0], mask[:0]).shape == (0, 1, 12, 12)


def test_the_seed_decides_and_the_mode_stays(hidden):
    model, (images, mask) = tiny(), hidden
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = model.recover(images, mask, seed=1)
    np.testing.assert_array_equal(found, model.recover(images, mask, seed=1))
    assert not np.array_equal(found, model.recover(images, mask, seed=2))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_held_energy_is_an_energy_of_the_free_pixels():
    """Its gradient against autograd through the composite, exact and soft."""
    descriptor = tiny().descriptor
    source = torch.Generator().manual_seed(0)
    x, anchor = (torch.rand(5, 1, 12, 12, generator=source) * 2 - 1 for _ in range(2))
    held = torch.rand(5, 1, 12, 12, generator=source) < 0.5
    labels = torch.arange(5) % 3
    for pull in (None, 0.7):
        leaf = x.clone().requires_grad_()
        if pull is None:
            value = descriptor(torch.where(held, anchor, leaf), labels)
        else:
            off = ((leaf - anchor) * held).square().flatten(1).sum(1)
            value = descriptor(leaf, labels) + pull / 2 * off
        value.sum().backward()
        energies, grad = HeldEnergy(descriptor, anchor, held, pull).energy_and_grad(x, labels)
        torch.testing.assert_close(energies, value.detach())
        torch.testing.assert_close(grad, leaf.grad, rtol=1e-4, atol=1e-6)
    assert (grad[held] != 0).any()


def test_the_chain_lowers_the_energy_of_the_hidden_pixels(trained, hidden):
    images, mask = (torch.from_numpy(each) for each in hidden)
    labels = torch.arange(20) % 3
    held = HeldEnergy(trained.descriptor, images, mask.broadcast_to(images.shape))
    _, energies = langevin(
        held, images, labels, steps=5, step_size=0.5, noise=0.0, return_energies=True
    )
    assert (energies[1:] <= energies[:-1] + 1e-5).all() and (energies[-1] < energies[0]).any()


def test_weights_of_the_prior_against_a_loop():
    model = tiny()
    with torch.no_grad():
        prior = _draw_prior(model, 5, seed=3, revise=True)
    source = torch.Generator().manual_seed(0)
    y = torch.rand(4, 1, 12, 12, generator=source) * 2 - 1
    seen = torch.rand(4, 1, 12, 12, generator=source) < 0.6
    found = _weights(prior, y, seen, 4, None)
    assert prior.images.shape == (15, 144) and prior.classes.sum(0).tolist() == [5, 5, 5]
    for row in range(4):
        kept = seen[row].flatten()
        distances = torch.stack([(y[row].flatten() - x)[kept].square().sum() for x in prior.images])
        expected = distances**-2 / (distances**-2).sum()
        torch.testing.assert_close(found[row], expected, rtol=1e-3, atol=1e-6)
    only = _weights(prior, y, seen, 4, torch.tensor([2, 0, 1, 2]))
    assert torch.equal((only > 0).float() @ prior.classes > 0, torch.eye(3)[[2, 0, 1, 2]] > 0)
    hidden = _weights(prior, y, torch.zeros_like(seen), 4, None)
    torch.testing.assert_close(hidden, torch.full((4, 15), 1 / 15))


def test_an_image_that_the_generator_made_comes_back(trained):
    """z~ is centred by class as in training, and c is found."""
    labels = torch.arange(30) % 3
    made = trained.contrastive_pair(labels, seed=9).positive
    mask = np.ones((12, 12), bool)
    mask[3:9, 3:9] = False
    grey = torch.where(torch.from_numpy(mask), made, 0.0)
    found = trained.recover(grey, mask, steps=0)
    error = (found - made)[:, :, ~torch.from_numpy(mask)].abs().mean()
    assert error < 0.5 * (grey - made)[:, :, ~torch.from_numpy(mask)].abs().mean()
    assert (trained.classify(found) == labels).float().mean() > 0.9


def test_given_labels_and_lowest_energy_of_several_starts(trained, hidden):
    images, mask = hidden
    wrong = (np.arange(20) + 1) % 3
    found = trained.recover(images, mask, labels=wrong)
    assert not np.array_equal(found, trained.recover(images, mask, labels=np.arange(20) % 3))

    def energy(images):
        return trained.energy(torch.from_numpy(images), torch.from_numpy(wrong)).detach()

    several = trained.recover(images, mask, labels=wrong, starts=4)
    assert (energy(several) <= energy(found) + 1e-4).all()
    assert (energy(several) < energy(found) - 1e-4).any()


def test_recovery_helps_occluded_queries(trained):
    queries, database = bars(60, seed=2), bars(90, seed=3)
    found = evaluate_recovery(trained, queries, database, strengths=(3, 5), seed=4)
    images, mask = spoil(queries, "occlusion", 5, 4)
    codes = trained.encode(database)
    for side, pixels in (
        (found.as_is, images), (found.recovered, trained.recover(images, mask, seed=4))
    ):  # fmt: skip
        expected = evaluate_codes(
            trained.encode(pixels), codes, queries.labels, database.labels, bits=16
        )
        assert side["occlusion"][5] == expected
    before, after = found.losses["occlusion"]
    assert before > 0.1 and after < 0.5 * before
    assert found.loss == pytest.approx(np.mean([pair[1] for pair in found.losses.values()]))
    record = json.loads(json.dumps(found.as_dict()))
    assert set(record["recovered"]) == {"occlusion", "impulse_noise", "gaussian_noise"}
    assert record["losses"]["occlusion"] == pytest.approx([before, after])
    with pytest.raises(
        ValueError, match="kinds must be of occlusion, impulse_noise, gaussian_noise, got 'blur'"
    ):
        evaluate_recovery(trained, queries, database, kinds=("blur",))


def test_noise_is_pulled_towards_what_the_model_knows(trained):
    clean = bars(30, seed=6).float()
    noisy = clean + np.random.default_rng(0).normal(0, 0.5, clean.shape).astype(np.float32)
    noisy = noisy.clip(-1, 1)
    found = trained.recover(noisy)
    assert np.abs(found - clean).mean() < 0.8 * np.abs(noisy - clean).mean()
    changes = [np.abs(trained.recover(noisy, trust=t) - noisy).mean() for t in (0.95, 0.6, 0.2)]
    assert changes[0] < 0.8 * changes[1] < 0.7 * changes[2]
    np.testing.assert_array_equal(trained.recover(noisy, trust=1.0), noisy)


@pytest.mark.parametrize("part", ["energy", "langevin", "category"])
def test_models_without_a_part_that_is_not_needed(part, hidden):
    model, (images, mask) = tiny(without=part), hidden
    assert np.isfinite(model.recover(images, mask)).all()
    if part != "category":
        with pytest.raises(ValueError, match="steps must be 0 and starts 1"):
            model.recover(images, mask, steps=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"without": "generator"}, "without its generator"),
        ({"without": "inference"}, "without its inference"),
        ({"cooperative": False}, "without its cooperative part"),
    ],
)
def test_models_that_cannot(settings, message, hidden):
    with pytest.raises(ValueError, match=message):
        tiny(**settings).recover(*hidden)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"mask": np.ones((20, 1, 12, 12))}, TypeError, "mask must be a bool array, .* float64"),
        ({"mask": [True]}, TypeError, "mask must be a bool array, .* got list"),
        ({"mask": np.ones((12, 11), bool)}, ValueError, r"mask must be .* got \(12, 11\)"),
        ({"rounds": 0}, ValueError, "rounds"),
        ({"starts": 0}, ValueError, "starts"),
        ({"samples": 0}, ValueError, "samples"),
        ({"steps": -1}, ValueError, "steps"),
        ({"trust": 0}, ValueError, "trust must be above 0 and at most 1, got 0"),
        ({"trust": 1.5}, ValueError, "trust must be"),
        ({"trust": np.nan}, ValueError, "trust must be"),
        ({"trust": "a"}, TypeError, "trust must be a number above 0 and at most 1, got 'a'"),
        ({"trust": True}, TypeError, "trust must be a number .*, got True"),
        ({"images": np.zeros((20, 1, 12, 11))}, ValueError, "images must be .* resize them"),
        ({"images": np.zeros((20, 12, 12))}, ValueError, "images must be .* add the channel axis"),
        ({"images": [0.0]}, TypeError, "images must be a NumPy array or torch tensor"),
        ({"labels": [0]}, ValueError, r"labels must be \(20,\)"),
        ({"labels": [3] * 20}, ValueError, "labels must be from 0 to 2"),
        ({"images": np.full((20, 1, 12, 12), 2.0)}, ValueError, r"must be in \[-1, 1\]"),
        ({"wrong": 1}, TypeError, "wrong"),
    ],
)
def test_wrong_arguments_are_named(settings, error, message, hidden):
    given = {"images": hidden[0], "mask": hidden[1], **settings}
    with pytest.raises(error, match=message):
        tiny().recover(**given)
