"""Training UCCH: that it learns, repeats itself, resumes, and validates on pairs held out."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import ucch_training
from coophash.checkpoints import read_tensors
from coophash.data import PairSet
from coophash.ucch_training import direction_maps

_spec = importlib.util.spec_from_file_location(
    "training_sets", Path(__file__).with_name("training_sets.py")
)
sets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sets)
pairs = sets.pairs

OPTIONS = {
    "image_hidden": (24,), "text_hidden": (24,), "negatives": 64, "batch_size": 32, "epochs": 6,
    "learning_rate": 3e-3, "standardize": True,
}  # fmt: skip


def model(**options):
    return ch.UCCH(16, 10, 8, **{**OPTIONS, **options})


def test_it_learns_to_find_pairs_of_one_topic_without_labels():
    train, test = pairs(400, 0, labels=False), pairs(100, 1)
    database = pairs(400, 0)
    net = model(epochs=15)
    before = direction_maps(net, test, database)
    history = ch.fit(net, train, None, progress=False)
    after = direction_maps(net, test, database)
    assert max(before) < 0.55 and min(after) > 0.75, (before, after)
    assert not net.training and history.kept_update is None
    assert len(history.records) == 15 and history.records[-1]["epoch"] == 15
    assert history.records[-1]["similarity_own"] > 0.5 + history.records[-1]["similarity_others"]
    # 12 batches of 32 an epoch: the last 16 pairs of each order are left out
    assert history.records[-1]["update"] == 15 * 12


def test_equal_seeds_give_equal_weights_and_others_do_not():
    def weights(**options):
        net = model(epochs=3, dropout=0.2, image_noise=0.1, text_dropout=0.1)
        ch.fit(net, pairs(100, 0), progress=False, **options)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    torch.manual_seed(1)
    first = weights()
    torch.manual_seed(2)
    assert torch.equal(first, weights())
    assert not torch.equal(first, weights(seed=1))


@pytest.mark.parametrize("stop", [1, 7, 9])
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, monkeypatch, stop):
    options = {"epochs": 4, "dropout": 0.1, "text_noise": 0.1, "image_dropout": 0.1}
    settings = {"validation": 0.1, "progress": False, "checkpoint_every": 2}
    whole = model(**options)
    expected = ch.fit(whole, pairs(120, 0), **settings)  # 3 updates an epoch

    step, calls = ucch_training.ucch_step, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(ucch_training, "ucch_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ch.fit(model(**options), pairs(120, 0), folder=tmp_path, **settings)
    monkeypatch.setattr(ucch_training, "ucch_step", step)
    facts = json.loads(read_tensors(tmp_path / "checkpoint.safetensors")[1]["facts"])
    assert facts["epoch"] * 3 + facts["place"] == stop
    with pytest.raises(ValueError, match="checkpoint of an earlier run: resume it"):
        ch.fit(model(**options), pairs(120, 0), folder=tmp_path, **settings)
    with pytest.raises(ValueError, match="was made with seed = 0, not 3"):
        ch.fit(model(**options), pairs(120, 0), folder=tmp_path, resume=True, seed=3, **settings)
    for changed, data, message in (
        ({"epochs": 9}, pairs(120, 0), "made with epochs = 4, not 9: resume"),
        ({"image_hidden": (7,)}, pairs(120, 0), r"image_hidden = \[24\], not \[7\]"),
        ({}, pairs(120, 1), "made with pairs_digest = "),
        ({}, pairs(130, 0), "made with pairs = 108, not 117"),
    ):
        with pytest.raises(ValueError, match=message):
            net = model(**{**options, **changed})
            ch.fit(net, data, folder=tmp_path, resume=True, **settings)
    net = model(**options, seed=5)  # the checkpoint's weights count, not these
    history = ch.fit(net, pairs(120, 0), folder=tmp_path, resume=True, **settings)

    for a, b in zip(whole.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(expected.records, history.records, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert history.kept_update == expected.kept_update
    again = ch.load(tmp_path)
    assert np.array_equal(again.encode_image(pairs(9, 3)), net.encode_image(pairs(9, 3)))


def test_a_power_of_the_features_comes_before_their_statistics():
    random = np.random.default_rng(0)
    data = PairSet(random.exponential(size=(90, 10)), random.normal(size=(90, 8)))
    net = model(feature_power=0.5)
    net.learn_statistics(data)
    shown = net.prepared(net.image_encoder, torch.from_numpy(data.images)).numpy()
    root = np.sqrt(data.images)
    np.testing.assert_allclose(shown, (root - root.mean(0)) / root.std(0), atol=1e-4)
    signed = net.prepared(net.text_encoder, torch.from_numpy(data.texts)).numpy()
    root = np.sign(data.texts) * np.sqrt(abs(data.texts))
    np.testing.assert_allclose(signed, (root - root.mean(0)) / root.std(0), atol=1e-4)


def test_the_pairs_held_out_are_not_trained_on(monkeypatch):
    seen = set()
    step = ucch_training.ucch_step

    def noting(net, bank, rows, images, texts, *args, **kwargs):
        seen.update(images[:, 0].tolist())
        return step(net, bank, rows, images, texts, *args, **kwargs)

    monkeypatch.setattr(ucch_training, "ucch_step", noting)
    data = pairs(100, 0)
    net = model(standardize=False, epochs=6, batch_size=8)
    history = ch.fit(net, data, progress=False)
    assert len(seen) == 90 and history.settings["validation"] == 10
    held_out = [row for row in range(100) if data.images[row, 0].item() not in seen]
    assert len(held_out) == 10
    best = max(score for _, score in history.validation)
    assert dict(history.validation)[history.kept_update] == best
    rest = np.setdiff1d(np.arange(100), held_out)
    ours = direction_maps(net, data.subset(held_out), data.subset(rest))
    assert sum(ours) / 2 == pytest.approx(best)  # the weights of that epoch are those it ended with


def test_validation_rules(monkeypatch):
    monkeypatch.setattr(ucch_training, "AUTHORS", 20)
    data = pairs(64, 0)
    net = model(epochs=2)
    history = ch.fit(net, data, "authors", progress=False)
    assert history.settings["pairs"] == 64
    first = data.subset(slice(0, 20))
    best = max(history.validation, key=lambda point: point[1])
    assert best[1] == pytest.approx(sum(direction_maps(net, first, first)) / 2)

    history = ch.fit(model(epochs=2), data, pairs(30, 4), progress=False, validate_every=2)
    assert len(history.validation) == 1 and history.settings["validation"] == 30

    # without labels a pair's partner is the one right answer
    net = model(epochs=2)
    history = ch.fit(net, pairs(64, 0, labels=False), 0.25, progress=False)
    assert 0 < history.validation[-1][1] < 1


def test_schedules():
    def rates(**options):
        net = model(epochs=4, batch_size=32, **options)
        run = ucch_training._Run(net, pairs(64, 0), None, None, {"seed": 0}, None)
        found = []
        for run.epoch in range(4):
            for run.place in range(2):
                found.append(run.rate(run.epoch * 2 + run.place))
        return found

    assert rates(schedule="constant") == [1.0] * 8
    wanted = [0.5 * (1 + math.cos(math.pi * update / 8)) for update in range(8)]
    assert rates(schedule="cosine") == pytest.approx(wanted)
    run = ucch_training._Run(model(), pairs(64, 0), None, None, {"seed": 0}, None)
    told = {}
    for run.epoch in (0, 29, 30, 59, 60, 120):
        told[run.epoch] = run.rate(0)
    assert told == pytest.approx({0: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01, 120: 1e-4})


@pytest.mark.parametrize(
    ("options", "validation"),
    [({}, None), ({}, 0.2), ({"epochs": 1, "image_hidden": (9, 9)}, 0.2)],
)
def test_divergence_is_told(options, validation):
    with pytest.raises(FloatingPointError, match=r"training diverged: .* in epoch [123]\."):
        ch.fit(model(learning_rate=1e30, **options), pairs(64, 0), validation, progress=False)


@pytest.mark.parametrize(
    "options",
    [{"negatives": 5000}, {"negatives": 5000, "exclude_positive": True}, {"warmup_epochs": 0},
     {"batch_size": 2, "standardize": False}, {"image_hidden": (), "text_hidden": ()}],
)  # fmt: skip
@pytest.mark.parametrize("bits", [1, 13])
def test_settings_at_their_limits(options, bits):
    # more negatives than rows, a batch of one pair and one other, no hidden layer, texts all alike
    few = pairs(33, 0)
    few = PairSet(few.images, np.repeat(few.texts[:1], 33, axis=0), few.labels)
    settings = {**OPTIONS, "epochs": 2, "batch_size": 16, **options}
    net = ch.UCCH(bits, 10, 8, **settings)
    history = ch.fit(net, few, 0.1, progress=False)
    assert all(math.isfinite(value) for value in history.records[-1].values())
    assert net.encode_text(few).shape == (33, -(-bits // 8))


def test_what_cannot_be_trained_is_said_before_training(tmp_path):
    with pytest.raises(TypeError, match=r"float32 to be trained, got torch\.float64: call model"):
        ch.fit(model().double(), pairs(64, 0), progress=False)
    with pytest.raises(TypeError, match="got the class UCCH: make one first"):
        ch.fit(ch.UCCH, pairs(64, 0))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file: give another name"):
        ch.fit(model(), pairs(64, 0), folder=tmp_path / "file", progress=False)


def test_other_types_of_the_model_encode():
    net, data = model(), pairs(20, 0)
    outputs = net.text_outputs(data)
    assert net.double().text_outputs(data).dtype == torch.float32
    torch.testing.assert_close(net.text_outputs(data), outputs)
    net.float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net.text_outputs(data), outputs, atol=0.05, rtol=0)
        ch.fit(net, data, None, batch_size=4, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (pairs(20, 0), {}, ValueError, "batch_size must be at most the 18 pairs to train on"),
        (pairs(64, 0), {"validation": 1.5}, ValueError, "validation must be a share"),
        (pairs(64, 0), {"validation": "test"}, ValueError, 'a PairSet, "authors" or None'),
        (pairs(64, 0), {"epochs": 0}, ValueError, "epochs must be at least 1"),
        (pairs(64, 0), {"learning_rate": -1e-3}, ValueError, "learning_rate must be above 0"),
        (pairs(64, 0), {"learning_rate": math.nan}, ValueError, "learning_rate must be finite"),
        (pairs(64, 0), {"learning_rate": "1"}, TypeError, "learning_rate must be float"),
        (pairs(64, 0), {"validate_every": 0}, ValueError, "validate_every must be an integer"),
        (pairs(64, 0), {"resume": True}, ValueError, "resume needs folder"),
        (pairs(64, 0), {"validation": np.zeros(3)}, ValueError, "validation must be a share"),
        (pairs(64, 0), {"validation": pairs(0, 0)}, ValueError, "validation has 0 pairs"),
        (
            pairs(64, 0),
            {"validation": replace(pairs(9, 0), labels=np.eye(9))},
            ValueError,
            r"must have one form, .*, got \(9, 9\) and \(64,\)",
        ),
        (pairs(64, 0), {"seed": 2**63}, ValueError, "seed must be from 0 to"),
        (pairs(64, 0), {"seed": None}, TypeError, "seed must be a whole number"),
        (
            PairSet(np.zeros((64, 1, 4, 4), np.uint8), np.zeros((64, 8))),
            {},
            TypeError,
            "pairs has raw images, .*: make features of them first",
        ),
        ((1, 2), {}, TypeError, "pairs must be a PairSet, got tuple"),
        (PairSet(np.zeros((64, 3)), np.zeros((64, 8))), {}, ValueError, r"features \(N, 10\)"),
        (pairs(1, 0), {}, ValueError, "training needs at least 2"),
    ],
)
def test_bad_input_is_named(data, options, error, message):
    with pytest.raises(error, match=message):
        ch.fit(model(), data, progress=False, **options)
