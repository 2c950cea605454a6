"""fit on pairs: what a stop, a divergence or a refusal must not do."""

import importlib.util
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import ucch_training
from coophash.data import PairSet

_spec = importlib.util.spec_from_file_location(
    "training_sets", Path(__file__).with_name("training_sets.py")
)
sets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sets)
pairs, weights, assert_equal_weights = sets.pairs, sets.weights, sets.assert_equal_weights

OPTIONS = {
    "image_hidden": (24,), "text_hidden": (24,), "negatives": 64, "batch_size": 32, "epochs": 4,
    "learning_rate": 3e-3, "standardize": True,
}  # fmt: skip


def model(**options):
    return ch.UCCH(16, 10, 8, **{**OPTIONS, **options})


def fit(net, data=None, **settings):
    settings = {"validation": 0.1, "progress": False, "checkpoint_every": 2, **settings}
    return ch.fit(net, pairs(120, 0) if data is None else data, **settings)  # 3 updates an epoch


def records(history):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in history.records]


def interrupt_once(monkeypatch, owner, name, call):
    """Ctrl-C at the beginning of the given call of a function."""
    real, calls = getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)
    return lambda: monkeypatch.setattr(owner, name, real)


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is not signal.default_int_handler, reason="SIGINT is taken"
)
@pytest.mark.parametrize(
    "name, call",
    [("direction_maps", n) for n in (1, 3, 4)] + [("ucch_step", n) for n in (2, 3, 6, 12)]
    + [("record", n) for n in (2, 4)],
)  # fmt: skip
def test_a_stop_anywhere_resumes_to_the_same_weights(tmp_path, monkeypatch, name, call):
    whole = model()
    expected = fit(whole)
    owner = ucch_training._Run if name == "record" else ucch_training
    heal = interrupt_once(monkeypatch, owner, name, call)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), folder=tmp_path)
    heal()
    resumed = model()
    found = fit(resumed, folder=tmp_path, resume=True)
    assert records(found) == records(expected) and found.kept_update == expected.kept_update
    assert_equal_weights(weights(resumed), weights(whole))
    assert_equal_weights(weights(ch.load(tmp_path)), weights(whole))


def test_a_stop_while_the_kept_weights_are_in_leaves_the_others(tmp_path, monkeypatch):
    """A save writes the weights that would be ended with, and must not go on with them."""
    scores = iter([0.9, 0.1, 0.1, 0.1] * 3)
    monkeypatch.setattr(ucch_training, "direction_maps", lambda *_: (s := next(scores), s))
    whole = model()
    fit(whole)
    real, calls = ch.checkpoints.save_model, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    scores = iter([0.9, 0.1, 0.1, 0.1])
    monkeypatch.setattr(ucch_training.checkpoints, "save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), folder=tmp_path)
    monkeypatch.setattr(ucch_training.checkpoints, "save_model", real)
    scores = iter([0.1, 0.1])
    resumed = model()
    fit(resumed, folder=tmp_path, resume=True)
    assert_equal_weights(weights(resumed), weights(whole))


def test_a_divergence_is_told_and_nothing_is_written(tmp_path):
    """In the last update: no loss shows it, the weights do."""
    net = model(epochs=1, batch_size=64, learning_rate=1e39, warmup_epochs=0)
    with pytest.raises(FloatingPointError, match=r"training diverged: .* Lower learning_rate"):
        fit(net, pairs(64, 0), validation=None, folder=tmp_path)
    assert not list(tmp_path.glob("*"))


def test_a_divergence_does_not_overwrite_the_last_good_checkpoint(tmp_path, monkeypatch):
    real, calls = ucch_training.ucch_step, []

    def diverges(net, *arguments, **options):
        watched = real(net, *arguments, **options)
        calls.append(1)
        if len(calls) == 12:  # the last of all
            next(net.parameters()).data.fill_(torch.inf)
        return watched

    monkeypatch.setattr(ucch_training, "ucch_step", diverges)
    with pytest.raises(FloatingPointError, match="training diverged"):
        fit(model(), validation=None, folder=tmp_path)
    monkeypatch.setattr(ucch_training, "ucch_step", real)
    assert np.isfinite(ch.load(tmp_path).encode_image(pairs(9, 1))).all()
    resumed, whole = model(), model()
    fit(resumed, validation=None, folder=tmp_path, resume=True)
    fit(whole, validation=None)
    assert_equal_weights(weights(resumed), weights(whole))


def test_a_refused_fit_leaves_the_model_as_it_was(tmp_path):
    net = model()
    fit(net, folder=tmp_path)
    before, config = weights(net), net.config
    other = PairSet(pairs(120, 3).images * 3 + 5, pairs(120, 3).texts)
    for settings in (
        {"folder": tmp_path}, {"folder": tmp_path, "resume": True}, {"batch_size": 5000},
        {"validation": 7.5, "epochs": 99},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            fit(net, other, **settings)
        assert_equal_weights(weights(net), before)
        assert net.config == config


@pytest.mark.parametrize("what", ["labels", "no labels", "validation"])
def test_resume_refuses_another_validation(tmp_path, monkeypatch, what):
    data, held = pairs(120, 0), pairs(30, 1)
    share = what != "validation"
    heal = interrupt_once(monkeypatch, ucch_training, "ucch_step", 7)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), data, folder=tmp_path, **({} if share else {"validation": held}))
    heal()
    changed = {
        "labels": lambda: PairSet(data.images, data.texts, data.labels[::-1].copy()),
        "no labels": lambda: PairSet(data.images, data.texts),
        "validation": lambda: data,
    }[what]()
    other = {} if share else {"validation": pairs(30, 2)}
    with pytest.raises(ValueError, match=r"made with .*validation"):
        fit(model(), changed, folder=tmp_path, resume=True, **other)


def test_labels_that_choose_nothing_do_not_matter(tmp_path, monkeypatch):
    """Without validation labels are not looked at."""
    heal = interrupt_once(monkeypatch, ucch_training, "ucch_step", 7)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), validation=None, folder=tmp_path)
    heal()
    fit(model(), pairs(120, 0, labels=False), validation=None, folder=tmp_path, resume=True)


def test_numbers_of_numpy(tmp_path):
    net = model(epochs=2)
    fit(net, validate_every=np.int64(2), checkpoint_every=np.int32(1), folder=tmp_path)
    fit(net, validate_every=2, checkpoint_every=1, folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    "data, validation",
    [
        (lambda: pairs(120, 0, labels=False), 0.001),
        (lambda: pairs(120, 0), PairSet(pairs(9, 1).images, pairs(9, 1).texts, [9] * 9)),
    ],
)  # fmt: skip
def test_a_validation_that_can_choose_nothing_is_refused(data, validation):
    with pytest.raises(ValueError, match=r"validation .* nothing"):
        fit(model(), data(), validation=validation)


def test_training_leaves_the_generators_of_others_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    state = torch.get_rng_state()
    fit(model(epochs=1, dropout=0.3))
    assert not seeded and torch.equal(torch.get_rng_state(), state)


def test_each_layer_stays_in_its_mode():
    net = model()
    net.train()
    net.image_encoder.layers[0].eval()
    before = {name: module.training for name, module in net.named_modules()}
    net.encode_image(pairs(5, 1)), net.encode_text(pairs(5, 1))
    assert before == {name: module.training for name, module in net.named_modules()}
