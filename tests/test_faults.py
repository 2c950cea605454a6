"""Divergence and slow faults: each provoked in a tiny training, each naming its setting."""

import math
import re
import warnings

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import faults
from coophash._generator_signs import code_distance, generator_signs, rows_to_look_at
from coophash.coop_config import CoopHashConfig
from coophash.faults import FaultWatch, TrainingWarning
from coophash.methods import make_model

SMALL = dict(base_channels=2, features=8, generator_channels=2, latent_dim=3, langevin_steps=2,
             synthetic_from=0, cooperate_every=1, langevin_step_size=4.5, pairs="generated",
             ranking="triplet", synthetic_weight=0.3, synthetic_category_weight=0.3)  # fmt: skip


def tiny(**options):
    return ch.CoopHash(8, 3, (1, 8, 8), **{**SMALL, **options})


def data(count=24):
    source = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 8, 8, generator=source) * 2 - 1, torch.arange(count) % 3


def fit(model, **settings):
    settings = {"updates": 20, "batch_size": 8, "progress": False, "averaging": 0.0, **settings}
    return ch.fit(model, data(), schedule="constant", **settings)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(faults, "PATIENCE", 1)


def warned(model, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, **settings)
    return [str(w.message) for w in caught if issubclass(w.category, TrainingWarning)]


def test_a_healthy_training_says_nothing(impatient):
    assert warned(tiny(), updates=20) == []


RUNNING_OFF = dict(energy_gap=None, energy_penalty=0.0, energy_rate=1.0, energy_weight=50.0,
                   langevin_steps=0)  # fmt: skip


def test_energies_that_run_apart_stop_the_training():
    message = r"run .* apart near update \d+\. To mend it, lower energy_weight or energy_rate"
    with pytest.raises(FloatingPointError, match=message) as error:
        fit(tiny(**RUNNING_OFF), updates=100, learning_rate=0.1)
    assert "energy_penalty" in str(error.value) and "spectral_norm" in str(error.value)


def test_energies_that_stay_apart_are_told(impatient):
    said = warned(tiny(**RUNNING_OFF), updates=40, learning_rate=0.02)
    assert [m for m in said if "apart (update" in m and "energy_penalty" in m], said


def test_a_chain_that_breaks_names_the_step_size():
    """Of an energy that falls without end, and without the clamp that keeps pixels in range."""
    model = tiny()

    def falling(x, labels):
        return -x.square().square().flatten(1).sum(1)

    model._revise = lambda x, labels, *_: ch.langevin(falling, x, labels, steps=50, step_size=9.0)
    with pytest.raises(FloatingPointError, match=r"in update 1: .* Lower langevin_step_size"):
        fit(model)


def test_weights_that_are_lost_name_the_learning_rate():
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        fit(tiny(), learning_rate=1e30, updates=40)


@pytest.mark.parametrize("options, words", [
    (dict(langevin_step_size=1e-3), "no more than its noise .* Raise langevin_step_size"),
    (dict(langevin_step_size=60.0, langevin_noise=1.0), "of a range of 2 .* langevin_step_size"),
    (dict(kl_weight=1e6), "KL term has collapsed .* Lower kl_weight"),
])  # fmt: skip
def test_slow_faults_of_a_setting_are_told_once(impatient, options, words):
    said = warned(tiny(**options), updates=60, learning_rate=1e-2)
    assert len([m for m in said if re.search(words, m)]) == 1, said


@pytest.mark.parametrize("method", ["plain", "csq"])
def test_one_code_for_all_images_is_told(monkeypatch, method):
    monkeypatch.setattr(faults, "PARTED", 20)
    weights = {"quantization_weight": 50.0}
    if method == "plain":
        weights["hash_weight"] = 0.0
    model = make_model(method, 8, 3, (1, 8, 8), base_channels=2, features=8, **weights)
    with torch.no_grad():
        (model.hash_head if method == "csq" else model.descriptor.hash_head).bias[:] = 0.5
    said = warned(model, updates=60, learning_rate=1e-2, validate_every=10)
    assert len(said) == 1 and "nearly all images have one code" in said[0], said
    assert ("raise hash_weight" in said[0]) == (method == "plain")
    assert "quantization_weight" in said[0]


def test_the_distance_of_codes():
    model = tiny(cooperative=False).eval()
    with torch.no_grad():
        model.descriptor.hash_head.bias.zero_()
    images = data()[0]
    codes = model.encode(images)
    distances = ch.hamming_distances(codes.numpy(), codes.numpy()).astype(float)
    expected = distances.sum() / (24 * 23) / 8
    assert expected > 0
    assert code_distance(model, images) == pytest.approx(expected)


def ignoring(which):
    model = tiny()
    generator, latent = model.generator, model.config.latent_dim
    with torch.no_grad():
        if which == "latent":
            generator.dense.weight[:, :latent] = 0
        else:
            generator.dense.weight[:, latent:] = 0
            for norm in (generator.first_norm, *generator.norms):
                norm.gain.weight[:] = norm.gain.weight[:1].clone()
                norm.bias.weight[:] = norm.bias.weight[:1].clone()
    return model


@pytest.mark.parametrize("which", ["latent", "label"])
def test_a_generator_that_ignores_an_input_is_told(impatient, which):
    said = warned(ignoring(which), generator_learning_rate=0.0, validate_every=10)
    assert len(said) == 1 and f"ignores its {which}" in said[0]
    assert "kl_weight" in said[0]


def watch(**options):
    return FaultWatch(CoopHashConfig(8, 3, (1, 8, 8), **options))


def record(update=20, **values):
    healthy = {"energy_real": 0.1, "energy_revised": 0.2, "chain_move": 0.1, "kl": 9.0}
    return {"update": update, "seconds": 1.0, **healthy, **values}


def test_a_slow_fault_must_last():
    bad, good = record(kl=0.01), record()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch().check([bad] * (faults.PATIENCE - 1))
        watch().check([bad, bad, good, bad, bad])
        patient = watch()
        with pytest.raises(TrainingWarning, match="kl_weight"):
            patient.check([good] + [bad] * faults.PATIENCE)
        patient.check([bad] * 20)  # once


def test_a_rising_energy_is_told_from_the_looks_alone():
    seen = watch()
    records = [record(20 * i, **({"chain_drop": -0.5} if i % 5 == 0 else {})) for i in range(21)]
    with pytest.warns(TrainingWarning, match="rises by 0.5 along.*langevin_step_size"):
        seen.warn(records)


def told(seen, **values):
    """The step size is to go up or down, by what is said of records of such values."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen.warn([record(**values)] * faults.PATIENCE)
    said = [str(w.message) for w in caught]
    found = [word for word in ("Raise", "Lower") for m in said if f"{word} langevin_step" in m]
    assert len(found) == len(said), said
    return found


@pytest.mark.parametrize("values, expected", [
    (dict(chain_drop=-1e-3), ["Lower"]),
    (dict(chain_drop=-8e-8), []),  # rounding
    (dict(chain_drop=-5e-3, energy_generated=-200.0), []),  # of large energies
    (dict(chain_drop=-5e-2, energy_generated=-200.0), ["Lower"]),
    (dict(chain_drop=0.1, chain_move=1e-5), ["Raise"]),
    (dict(chain_drop=-0.1, chain_move=1e-5), ["Raise"]),  # it hardly moves: not by its steps
    (dict(chain_drop=0.1, chain_move=0.6), ["Lower"]),
    (dict(chain_drop=-0.1, chain_move=0.6), ["Lower", "Lower"]),
])  # fmt: skip
@pytest.mark.parametrize("noise", [0.0, 0.0022])
def test_the_step_size_is_to_go_one_way(values, expected, noise):
    assert told(watch(langevin_noise=noise), **values) == expected


def test_noise_that_outweighs_the_gradient_is_not_too_long_a_step():
    loud = dict(langevin_step_size=0.1, langevin_noise=1.0)
    assert told(watch(**loud), chain_move=0.11, chain_drop=-0.1) == ["Raise"]
    with pytest.warns(TrainingWarning, match="energy_weight, or lower langevin_noise"):
        watch(**loud).warn([record(chain_move=0.11)] * faults.PATIENCE)
    louder = watch(langevin_step_size=60.0, langevin_noise=1.0)  # the clamp stops what it moves
    assert told(louder, chain_move=0.99, chain_drop=0.1) == ["Lower"]


@pytest.mark.parametrize("step_size", [1e-4, 1e-3])
def test_a_chain_of_tiny_steps_is_told_to_go_faster_alone(impatient, step_size):
    said = warned(tiny(langevin_step_size=step_size), updates=20, validate_every=10)
    assert len(said) == 1 and "Raise langevin_step_size" in said[0], said


@pytest.mark.parametrize("first, mend", [
    (["energy_revised"], "To mend it, lower energy_weight"),
    (["kl", "reconstruction"], "Lower generator_learning_rate"),
    (["hash", "kl", "energy_real"], "Lower learning_rate or langevin_step_size"),
])  # fmt: skip
def test_the_first_value_that_is_lost_is_named(first, mend):
    """An update later all are."""
    last = record(**{n: math.nan for n in ("energy_real", "energy_revised", "kl", "hash",
                                           "reconstruction")})  # fmt: skip
    latest = [
        {"hash": torch.tensor(1.0)},
        {name: torch.tensor(math.inf) for name in first},
        {name: torch.tensor(math.nan) for name in last},
    ]
    with pytest.raises(FloatingPointError, match=mend) as error:
        watch().check([record(), last], latest)
    assert f"diverged: {first[0]} is" in str(error.value)


def test_only_what_is_there_is_judged():
    plain = watch(cooperative=False)
    plain.check([record(kl=0.0, chain_move=0.0)] * 9)
    watch(without="generator").check([{"update": 1, "chain_move": 0.1}] * 9)


def test_signs_of_a_generator():
    images, labels = data(12)
    model = tiny().eval()
    signs = generator_signs(model, images, labels)
    assert signs.keys() == {"diversity", "pair_distance", "latent_spread", "energy_generated",
                            "chain_drop"}  # fmt: skip
    assert signs == generator_signs(model, images, labels), "the same latents at every look"
    pair = model.contrastive_pair(labels)
    same = [(i, j) for i in range(12) for j in range(12) if i != j and i % 3 == j % 3]
    means = [np.mean([(x[i] - x[j]).norm() for i, j in same]) for x in (pair.positive, images)]
    assert signs["diversity"] == pytest.approx(means[0] / means[1], rel=1e-4)
    energies = model.energy(pair.positive, labels)
    assert signs["energy_generated"] == pytest.approx(float(energies.detach().mean()), abs=1e-6)
    lower = model.energy(model.revise(pair.positive, labels), labels)
    assert signs["chain_drop"] == pytest.approx(float((energies - lower).detach().mean()), abs=1e-6)
    for which, sign in (("latent", "diversity"), ("label", "pair_distance")):
        assert generator_signs(ignoring(which).eval(), images, labels)[sign] < 1e-5
    assert generator_signs(tiny(without="generator"), images, labels) == {}
    assert "chain_drop" not in generator_signs(tiny(without="langevin").eval(), images, labels)
    assert "latent_spread" not in generator_signs(tiny(without="inference").eval(), images, labels)


def test_the_first_rows_of_each_class_are_looked_at():
    labels = np.array([0, 0, 2, 1, 2, 2, 1, 1])
    assert rows_to_look_at(labels, 3).tolist() == list(range(8))
    labels = np.arange(400) % 32
    assert rows_to_look_at(labels, 32).tolist() == list(range(64))


def test_signs_are_in_the_history_at_every_look():
    history = fit(tiny(), updates=40, validate_every=20)
    updates, values = history.curve("diversity")
    assert updates == [20, 40] and np.isfinite(values).all()
