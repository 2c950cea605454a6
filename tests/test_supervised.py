"""SupervisedHash: each method's network and loss, in the same harness as CoopHash."""

import dataclasses

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import losses, training
from coophash.coop import CoopHash
from coophash.supervised import METHODS, SupervisedHashConfig

SHAPE = (1, 12, 12)
every = pytest.mark.parametrize("method", METHODS)


def tiny(method, bits=8, classes=3, **options):
    return ch.SupervisedHash(
        method, bits, classes, SHAPE, **{"base_channels": 4, "features": 16, **options}
    )


def stripes(count=60, seed=0):
    """Three classes that differ in where a bright bar stands."""
    source = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = source.integers(0, 60, (count, *SHAPE), np.uint8)
    for row, label in enumerate(labels):
        images[row, 0, :, 4 * label : 4 * label + 4] += 150
    return ch.data.ImageSet(images, labels.astype(np.int64), ("left", "middle", "right"))


def several(count=60, seed=0):
    """Images with any of three bars, and multi-hot labels of them."""
    source = np.random.default_rng(seed)
    labels = source.integers(0, 2, (count, 3))
    labels[labels.sum(1) == 0, 0] = 1
    images = source.integers(0, 60, (count, *SHAPE), np.uint8)
    for row, present in enumerate(labels):
        for label in np.flatnonzero(present):
            images[row, 0, :, 4 * label : 4 * label + 4] += 150
    return images, labels


def fit(model, data, validation=None, **settings):
    settings = {"updates": 12, "batch_size": 8, "progress": False, "validate_every": 4, **settings}
    return ch.fit(model, data, validation, **settings)


def assert_equal_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@every
def test_it_is_trained_at_the_methods_own_rate(method):
    model, told = tiny(method), tiny(method)
    assert fit(model, stripes()).settings["learning_rate"] == model.learning_rate
    assert model.learning_rate == (1e-3 if method == "dpsh" else 3e-3)
    fit(told, stripes(), learning_rate=model.learning_rate)
    assert_equal_weights(model, told)


@every
def test_it_learns(method):
    model = tiny(method)
    before = model.outputs(stripes(30, 1))
    history = fit(model, stripes(), stripes(30, 1), updates=80, batch_size=16, learning_rate=3e-3)
    data, held_out = stripes(), stripes(30, 1)
    score = ch.metrics.mean_average_precision(
        model.encode(held_out), model.encode(data), held_out.labels, data.labels
    )
    assert score > 0.95
    assert not torch.equal(before, model.outputs(held_out))
    assert history.kept_update in dict(history.validation) and history.finished
    assert history.curve("loss")[1][-1] < history.curve("loss")[1][0]
    assert not model.training and model.class_names == ("left", "middle", "right")


@every
def test_it_learns_from_several_labels(method):
    model, (images, labels) = tiny(method), several()
    held_out, held_labels = several(40, 1)
    data = (images, labels), (held_out, held_labels)
    fit(model, *data, updates=200, batch_size=16, learning_rate=3e-3)
    score = ch.metrics.mean_average_precision(
        model.encode(held_out), model.encode(images), held_labels, labels
    )
    chance = (held_labels @ labels.T > 0).mean()
    assert score > chance + 0.4 * (1 - chance)


@every
def test_one_batch_is_the_method_loss(method):
    model, data = tiny(method), stripes(12)
    x, y = torch.from_numpy(data.float()), torch.from_numpy(data.labels)
    outputs = model.hash_outputs(model.base(x))
    c = model.config
    expected = {
        "dpsh": lambda: losses.dpsh_loss(outputs, y),
        "dtsh": lambda: losses.dtsh_loss(outputs, y),
        "hashnet": lambda: losses.hashnet_loss(outputs, y, beta=losses.hashnet_beta(400)),
        "greedyhash": lambda: losses.greedyhash_loss(
            outputs, model.classifier(losses.straight_through_sign(outputs)), y
        ),
        "csq": lambda: losses.csq_loss(outputs, y, losses.hash_centers(3, 8)),
        "orthohash": lambda: losses.orthohash_loss(outputs, y, losses.hash_centers(3, 8)),
    }[method]()
    torch.testing.assert_close(model.loss(x, y, update=400), expected)
    assert c.method == method


def test_hashnet_loss_depends_on_the_update():
    model, data = tiny("hashnet"), stripes(12)
    x, y = torch.from_numpy(data.float()), torch.from_numpy(data.labels)
    first, later = (float(model.loss(x, y, update).detach()) for update in (0, 4000))
    assert first != later


@every
def test_resume_gives_the_weights_of_an_uninterrupted_run(method, tmp_path, monkeypatch):
    whole = tiny(method)
    expected = fit(whole, stripes(), stripes(9, 1), folder=tmp_path / "whole")
    original, calls = training.supervised_step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "supervised_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(method), stripes(), stripes(9, 1), folder=tmp_path / "cut")
    monkeypatch.setattr(training, "supervised_step", original)
    resumed = tiny(method, seed=9)
    history = fit(resumed, stripes(), stripes(9, 1), folder=tmp_path / "cut", resume=True)
    assert_equal_weights(whole, resumed)
    assert history.kept_update == expected.kept_update


@every
def test_a_saved_model_loads(method, tmp_path):
    model = tiny(method, bits=11)
    fit(model, stripes(), folder=tmp_path)
    loaded = ch.load(tmp_path)
    assert type(loaded) is ch.SupervisedHash and loaded.config == model.config
    assert_equal_weights(model, loaded)
    assert np.array_equal(loaded.encode(stripes()), model.encode(stripes()))


def test_all_methods_have_coophash_s_base_network():
    coop = CoopHash(8, 3, SHAPE, base_channels=4, features=16)
    shapes = {name: value.shape for name, value in coop.descriptor.base.state_dict().items()}
    for method in METHODS:
        base = tiny(method).base
        assert {name: value.shape for name, value in base.state_dict().items()} == shapes


def test_only_what_a_method_needs_is_there():
    names = {
        method: {name.split(".")[0] for name in tiny(method).state_dict()} - {"base", "hash_head"}
        for method in METHODS
    }
    assert names == {
        "dpsh": set(), "dtsh": set(), "hashnet": set(), "greedyhash": {"classifier"},
        "csq": {"centers"}, "orthohash": {"norm", "centers"},
    }  # fmt: skip


def test_defaults_are_filled_in_and_the_seed_counts():
    assert tiny("dtsh", bits=32).config.margin == 16
    assert tiny("hashnet", bits=20).config.alpha == 0.5
    assert tiny("csq", centers="bernoulli").config.centers == "bernoulli"
    a, b = (tiny("csq", bits=12, seed=seed) for seed in (0, 1))
    assert not torch.equal(a.hash_head.weight, b.hash_head.weight)
    assert not torch.equal(a.centers, b.centers), "12 bits have Bernoulli centres"
    torch.manual_seed(5)
    assert_equal_weights(tiny("greedyhash", seed=2), tiny("greedyhash", seed=2))


def test_every_setting_is_documented():
    for field in dataclasses.fields(SupervisedHashConfig):
        assert field.name in (SupervisedHashConfig.__doc__ or ""), field.name


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(method="itq"), ValueError, "method must be one of dpsh, dtsh"),
        (dict(method="dpsh", margin=0.1), ValueError, "dpsh has no option 'margin'; it has quant"),
        (dict(method="csq", scale=1.0), ValueError, "it has quantization_weight, centers"),
        (dict(bits=0), ValueError, "bits must be from 1 to 4096"),
        (dict(bits=8.0), TypeError, "bits must be int"),
        (dict(classes=1), ValueError, "classes must be at least 2"),
        (dict(image_shape=(1, 4, 28)), ValueError, "from 8 to 64"),
        (dict(image_shape=(2, 28, 28)), ValueError, "image_shape"),
        (dict(quantization_weight=-1.0), ValueError, "quantization_weight must be finite and"),
        (dict(quantization_weight="much"), TypeError, "must be a number, got 'much'"),
        (dict(method="orthohash", scale=0.0), ValueError, "scale"),
        (dict(method="greedyhash", power=0.5), ValueError, "power must be at least 1"),
        (dict(method="csq", centers="random"), ValueError, "one of auto, hadamard, bernoulli"),
        (dict(langevin_steps=3), TypeError, "unknown option 'langevin_steps'; SupervisedHash has"),
        (dict(class_names=("a",)), ValueError, "class_names must be 3 names"),
    ],
)
def test_settings_out_of_range_name_themselves(change, error, words):
    settings = {"method": "dpsh", "bits": 8, "classes": 3, "image_shape": (1, 28, 28), **change}
    with pytest.raises(error, match=words):
        ch.SupervisedHash(**settings)


def test_bad_labels_say_what_is_wrong():
    images, labels = several()
    with pytest.raises(ValueError, match=r"multi-hot \(B, 3\) of 0 and 1"):
        fit(tiny("dpsh"), (images, np.c_[labels, labels]))
    with pytest.raises(ValueError, match="of 0 and 1"):
        fit(tiny("dpsh"), (images, labels * 2))
    with pytest.raises(
        ValueError, match="class 2 has 0 training images; training needs at least 1"
    ):
        fit(tiny("dpsh"), (images, labels * [1, 1, 0]))
    with pytest.raises(ValueError, match="integer classes"):
        fit(tiny("dpsh"), (images, labels.sum(1) / 2))


def test_divergence_names_only_the_settings_that_are_there():
    with pytest.raises(FloatingPointError, match=r"Lower learning_rate$"):
        fit(tiny("dpsh"), stripes(), learning_rate=1e30, schedule="constant", updates=40)


def test_codes_do_not_depend_on_the_batch_or_on_the_mode():
    model, data = tiny("orthohash"), stripes(12)
    fit(model, data)
    together = model.outputs(data)
    model.train()
    torch.testing.assert_close(model.outputs(data, batch_size=5), together)
    assert model.training
