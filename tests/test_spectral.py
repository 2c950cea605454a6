"""Spectral normalisation: the norms, the one network of an update, and what is saved of it."""

import pytest
import torch

import coophash as ch
from coophash import _descriptor_gradient, spectral
from coophash._chain_energy import by_autograd
from coophash.coop import CoopHashConfig, cooperative_step
from coophash.optimizers import make_optimizers

SMALL = dict(base_channels=2, features=8, generator_channels=2, latent_dim=3, langevin_steps=2,
             synthetic_from=0)  # fmt: skip


def tiny(parts="both", **options):
    return ch.CoopHash(8, 3, (1, 8, 8), **{**SMALL, "spectral_norm": parts, **options})


def data(count=24):
    source = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 8, 8, generator=source) * 2 - 1, torch.arange(count) % 3


def norms(model):
    """Largest singular values of the base's layers and of the energy head, by decomposition."""
    layers = [*model.descriptor.base.convolutions, model.descriptor.base.dense]
    layers.append(model.descriptor.energy_head)
    return [torch.linalg.matrix_norm(la.weight.flatten(1), 2).item() for la in layers]


def states(model):
    return {k: v.clone() for k, v in model.state_dict().items() if k.endswith(("._u", "._v"))}


@pytest.mark.parametrize("parts, normal", [("base", [1, 1, 0]), ("energy_head", [0, 0, 1]),
                                           ("both", [1, 1, 1])])  # fmt: skip
def test_weights_of_the_chosen_parts_have_norm_one(parts, normal):
    model = tiny(parts)
    spectral.settle(model)
    for norm, chosen in zip(norms(model), normal, strict=True):
        assert (norm == pytest.approx(1, rel=1e-3)) == bool(chosen)
    for head in ("inference_head", "category_head", "hash_head"):
        assert f"descriptor.{head}.weight" in model.state_dict(), "left free"


def test_energies_of_near_images_stay_near():
    model = tiny()
    with torch.no_grad():  # what an energy that runs off looks like
        for name, parameter in model.descriptor.named_parameters():
            if name.endswith("original"):
                parameter.mul_(50)
    spectral.settle(model)
    x, labels = data()
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    apart = (model.energy(x, labels) - model.energy(y, labels)).abs()
    # A strided 5 x 5 convolution sees a pixel up to nine times: its norm is at most 3.
    assert (apart <= 3 * (x - y).flatten(1).norm(dim=1)).all() and apart.max() > 0


def test_an_update_moves_the_power_iteration_once():
    model, (x, labels) = tiny(), data(9)
    model.train()
    before = states(model)
    model.energy(x, labels), model.revise(x, labels)
    assert all(torch.equal(v, before[k]) for k, v in states(model).items()), "passes move nothing"
    expected = tiny()
    spectral.advance(expected)
    optimizers = make_optimizers(model, 0.0, 0.0)
    cooperative_step(model, x, labels, optimizers, 0, 0)
    after = states(model)
    assert any(not torch.equal(v, before[k]) for k, v in after.items())
    for name, value in states(expected).items():
        assert torch.equal(value, after[name]), name
    model.eval(), model.train()
    assert all(not part.training for part in spectral._normalizations(model))


def test_the_gradient_by_hand_is_that_of_the_normalised_network(monkeypatch):
    model, (x, labels) = tiny().double(), data(6)
    descriptor, x = model.descriptor.train(), x.double()
    assert _descriptor_gradient.applies(descriptor.base, descriptor.energy_head, x)
    expected = by_autograd(lambda x: descriptor(x, labels), x)
    for fused in (False, True):
        monkeypatch.setattr(_descriptor_gradient, "fuses", lambda x, fused=fused: fused)
        with torch.no_grad():
            parts = descriptor.base, descriptor.energy_head, x, labels
            found = _descriptor_gradient.energy_and_grad(*parts)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_another_parametrisation_is_differentiated_by_autograd():
    class Doubled(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, (x, labels) = tiny(""), data(6)
    descriptor = model.descriptor
    torch.nn.utils.parametrize.register_parametrization(descriptor.base.dense, "weight", Doubled())
    assert not _descriptor_gradient.applies(descriptor.base, descriptor.energy_head, x)
    expected = by_autograd(lambda x: descriptor(x, labels), x)
    torch.testing.assert_close(descriptor.energy_and_grad(x, labels), expected)
    moving = tiny()
    part = next(spectral._normalizations(moving.descriptor.base))
    part.train()  # a power iteration at every look at the weight
    assert not _descriptor_gradient.applies(
        moving.descriptor.base, moving.descriptor.energy_head, x
    )


@pytest.mark.parametrize("options", [{"spectral_norm": "both"}, {"replay": 0.5},
                                     {"gradient_penalty": 0.1}])  # fmt: skip
def test_training_stops_and_resumes_to_the_same_weights(options, tmp_path):
    """Of every stability option."""
    options = {"spectral_norm": "", **options}
    settings = dict(updates=6, batch_size=8, progress=False, averaging=0.5, learning_rate=1e-2)
    whole = tiny(**{"parts": options.pop("spectral_norm"), **options})
    parts = whole.config.spectral_norm
    ch.fit(whole, data(), **settings)
    finished = False
    while not finished:
        model = tiny(parts, **options)
        history = ch.fit(model, data(), **settings, folder=tmp_path, resume=True, time_limit=0)
        finished = history.finished
    assert whole.state_dict().keys() == model.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    loaded, images = ch.load(tmp_path), data()[0]
    assert loaded.config == model.config
    assert torch.equal(loaded.encode(images), model.encode(images))
    assert torch.equal(loaded.energy(*data()), model.energy(*data()))
    if parts:
        assert max(norms(loaded)) == pytest.approx(1, rel=1e-3), "of the mean of the weights too"


def test_other_random_numbers_are_left_alone():
    torch.manual_seed(3)
    tiny()
    found = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(1))
    assert torch.equal(tiny().generator.dense.weight, tiny("").generator.dense.weight)


def test_unknown_parts_are_named():
    with pytest.raises(ValueError, match=r"spectral_norm must be one of .*, got 'heads'"):
        tiny("heads")


def test_a_pretrained_backbone_is_left_alone():
    settings = dict(backbone="resnet18", spectral_norm="both")
    with pytest.raises(ValueError, match='spectral_norm must be "energy_head" or "" with a backbo'):
        CoopHashConfig(8, 3, (3, 96, 96), **settings)
