"""fit: what a stop, a divergence or data of an odd kind must not do."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import training

_spec = importlib.util.spec_from_file_location(
    "training_sets", Path(__file__).with_name("training_sets.py")
)
sets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sets)
stripes, weights, assert_equal_weights = sets.stripes, sets.weights, sets.assert_equal_weights

SMALL = dict(base_channels=4, features=16, generator_channels=2, latent_dim=5, langevin_steps=2,
             synthetic_from=2)  # fmt: skip


def tiny():
    return ch.CoopHash(8, 3, (1, 12, 12), **SMALL)


def fit(model, data=None, **settings):
    settings = {"updates": 12, "batch_size": 8, "progress": False, "validate_every": 4, **settings}
    return ch.fit(model, data if data is not None else stripes(), **settings)


def interrupt_in(monkeypatch, name, update):
    """Ctrl-C in a method of the run, before it does anything, once this update is done."""
    real = getattr(training._Run, name)

    def interrupted(self, *arguments):
        if self.update == update:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(training._Run, name, interrupted)
    return lambda: monkeypatch.setattr(training._Run, name, real)


@pytest.mark.parametrize(
    "where, stop_at",
    [("codes", 4), ("codes", 12), ("signs", 8), ("record", 12), ("choose", 4), ("choose", 12)],
)
def test_what_a_stop_left_out_is_made_up_for(tmp_path, monkeypatch, where, stop_at):
    """Ctrl-C in a validation: the resumed run validates that update, also when it was the last."""
    whole = tiny()
    expected = fit(whole, validation=stripes(12, seed=1), folder=tmp_path / "whole")
    heal = interrupt_in(monkeypatch, where, stop_at)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), validation=stripes(12, seed=1), folder=tmp_path / "parts")
    heal()
    resumed = tiny()
    found = fit(resumed, validation=stripes(12, seed=1), folder=tmp_path / "parts", resume=True)
    assert found.validation == expected.validation and len(found.validation) == 3
    assert found.kept_update == expected.kept_update
    assert_equal_weights(weights(resumed), weights(whole))
    loaded = ch.load(tmp_path / "parts")
    assert_equal_weights(weights(loaded), weights(whole))


def test_a_stop_while_the_averaged_weights_are_in_leaves_the_others(tmp_path, monkeypatch):
    """The averaged weights stand in the model during validation: they must not be trained on."""
    whole = tiny()
    fit(whole, validation=stripes(12, seed=1))
    real, calls = training._Run.fill, []

    def interrupted(self, chosen):
        real(self, chosen)
        calls.append(self.update)
        if len(calls) == 1:
            raise KeyboardInterrupt  # the averaged weights are in, and the block has not begun

    monkeypatch.setattr(training._Run, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), validation=stripes(12, seed=1), folder=tmp_path)
    monkeypatch.setattr(training._Run, "fill", real)
    resumed = tiny()
    fit(resumed, validation=stripes(12, seed=1), folder=tmp_path, resume=True)
    assert_equal_weights(weights(resumed), weights(whole))


def test_a_divergence_does_not_overwrite_the_last_good_checkpoint(tmp_path, monkeypatch):
    real = training.cooperative_step

    def diverges(model, images, labels, optimizers, seed, update, augment=None):
        watched = real(model, images, labels, optimizers, seed, update, augment=augment)
        if update >= 8:
            watched["hash"] = torch.tensor(torch.nan)
            model.descriptor.hash_head.weight.data.fill_(torch.nan)
        return watched

    monkeypatch.setattr(training, "cooperative_step", diverges)
    with pytest.raises(FloatingPointError, match=r"training diverged: hash is nan near update 9"):
        fit(tiny(), folder=tmp_path, checkpoint_every=3)
    assert np.isfinite(ch.load(tmp_path).encode(stripes())).all()
    with pytest.raises(FloatingPointError, match="training diverged"):  # again, not "damaged"
        fit(tiny(), folder=tmp_path, checkpoint_every=3, resume=True, time_limit=100.0)


def test_weights_that_are_not_finite_are_not_written_either(tmp_path, monkeypatch):
    real = training.cooperative_step

    def diverges(model, *arguments, **options):
        watched = real(model, *arguments, **options)
        model.descriptor.hash_head.weight.data[0, 0] = torch.inf
        return watched

    monkeypatch.setattr(training, "cooperative_step", diverges)
    with pytest.raises(FloatingPointError, match=r"descriptor.hash_head.weight.*update 1.*Lower"):
        fit(tiny(), folder=tmp_path, checkpoint_every=1)
    assert not list(tmp_path.glob("*"))


def test_more_names_than_classes_are_refused_before_training(tmp_path):
    data = stripes()
    few = data.subset(data.labels < 2)
    model = ch.CoopHash(8, 2, (1, 12, 12), base_channels=4, features=16)
    with pytest.raises(ValueError, match=r"dataset has 3 class names, the model 2 classes: "):
        fit(model, few, folder=tmp_path)
    assert not list(tmp_path.glob("*")) and model.class_names is None


def test_validation_in_which_nothing_can_be_found_is_refused():
    data = stripes(3)
    with pytest.raises(ValueError, match=r"validation has no two images of one class"):
        fit(tiny(), validation=data)
    several = data.images, np.eye(3)
    with pytest.raises(ValueError, match=r"validation has no two images that share a label"):
        fit(tiny(), (stripes().images, np.eye(3)[stripes().labels]), validation=several)


def test_a_query_that_nothing_is_relevant_to_does_not_count():
    held_out = stripes(24, seed=1)
    alone = held_out.subset(np.r_[np.flatnonzero(held_out.labels < 2), 2])  # one of the third class
    history = fit(tiny(), stripes(60), validation=alone, updates=60, learning_rate=3e-3)
    assert history.validation[-1][1] == pytest.approx(1.0, abs=0.05)


def test_numbers_of_numpy_are_kept_in_the_checkpoint(tmp_path):
    names = np.array([3, 4, 5])
    one, other = (ch.CoopHash(8, 3, (1, 12, 12), n, base_channels=4, features=16)
                  for n in (names, None))  # fmt: skip
    fit(one, updates=np.int64(4), batch_size=np.int32(8), seed=np.int64(1), shift=np.int64(1),
        validate_every=np.int64(4), checkpoint_every=np.int64(4), folder=tmp_path)  # fmt: skip
    fit(other, updates=4, seed=1, shift=1)
    assert_equal_weights(weights(one), weights(other))
    assert ch.load(tmp_path).class_names == ("3", "4", "5")
    assert json.loads((tmp_path / "config.json").read_text())["class_names"] == ["3", "4", "5"]


@pytest.mark.parametrize("name", ["dataset", "validation"])
def test_images_from_0_to_1_are_told_of(name):
    data, held_out = stripes(), stripes(12, seed=1)
    halved = {"dataset": data, "validation": held_out}
    halved[name] = (halved[name].images / np.float32(255), halved[name].labels)
    with pytest.warns(UserWarning, match=rf"{name} images.*0 to 1.*x \* 2 - 1"):
        fit(tiny(), halved["dataset"], validation=halved["validation"], updates=1)


def test_images_from_minus_1_are_not_warned_of(recwarn):
    data = stripes()
    fit(tiny(), (data.float(slice(None)), data.labels), updates=1)
    assert not [w for w in recwarn if "0 to 1" in str(w.message)]


def test_a_refused_resume_leaves_the_model_as_it_was(tmp_path):
    fit(tiny(), folder=tmp_path)
    other = tiny()
    before = weights(other)
    with pytest.raises(ValueError, match="made with learning_rate"):
        fit(other, folder=tmp_path, resume=True, learning_rate=1e-4)
    assert_equal_weights(weights(other), before)


def test_a_resume_of_another_model_names_the_setting(tmp_path):
    fit(tiny(), folder=tmp_path)
    longer = ch.CoopHash(16, 3, (1, 12, 12), base_channels=4, features=16, generator_channels=2,
                         latent_dim=5, langevin_steps=2, synthetic_from=2)  # fmt: skip
    with pytest.raises(ValueError, match=r"made with bits = 8, not 16"):
        fit(longer, folder=tmp_path, resume=True)
    baseline = ch.SupervisedHash("csq", 8, 3, (1, 12, 12), base_channels=4, features=16)
    with pytest.raises(ValueError, match=r"is of a CoopHash, not of a SupervisedHash"):
        fit(baseline, folder=tmp_path, resume=True)


def test_a_refused_fit_leaves_what_the_model_says_of_labels():
    model = tiny()
    several = np.eye(3)[stripes().labels]
    several[:, 2] = 0
    several[:, 0] = 1
    with pytest.raises(ValueError, match="class 2 has 0 training images"):
        fit(model, (stripes().images, several))
    assert not model.multi_label


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, ">i8", "<i2"])
def test_labels_of_any_integer_kind(dtype):
    data = stripes()
    one, other = tiny(), tiny()
    fit(one, (data.images, data.labels.astype(dtype)), updates=2)
    fit(other, data, updates=2)
    assert_equal_weights(weights(one), weights(other))


def test_arrays_that_run_backwards():
    data = stripes()
    one, other = tiny(), tiny()
    fit(one, (data.images[::-1], data.labels[::-1]), updates=2)
    fit(other, (data.images[::-1].copy(), data.labels[::-1].copy()), updates=2)
    assert_equal_weights(weights(one), weights(other))


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(seed=-1), "seed must be an integer >= 0, got -1"),
        (dict(seed=1.5), r"seed must be an integer >= 0, got 1\.5"),
        (dict(seed=None), "seed must be an integer >= 0, got None"),
        (dict(seed=True), "seed must be an integer >= 0, got True"),
        (dict(time_limit="5", folder="x"), "time_limit must be a number of at least 0, got '5'"),
        (dict(time_limit=float("nan"), folder="x"), "time_limit must be at least 0, got nan"),
    ],
)
def test_bad_seeds_and_times(settings, words):
    with pytest.raises((TypeError, ValueError), match=words):
        fit(tiny(), **settings)


def test_no_labels():
    with pytest.raises(TypeError, match="dataset has no labels"):
        fit(tiny(), (stripes().images, None))


def test_a_subclass_is_saved_as_what_it_is_made_of(tmp_path):
    class Mine(ch.CoopHash):
        pass

    model = Mine(8, 3, (1, 12, 12), base_channels=4, features=16)
    model.save(tmp_path)
    assert_equal_weights(weights(ch.load(tmp_path)), weights(model))
