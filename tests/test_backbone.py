"""A model of timm as the base: sizes, gradients, training, weights and what is kept."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import coophash as ch
from coophash import checkpoints
from coophash.backbone import BackboneBase, enlarge, reduce
from coophash.coop import _cooperative_loss as cooperative_loss
from coophash.diagnostics import generator_report
from coophash.generation import latent_grid, triplets
from coophash.optimizers import make_optimizers
from coophash.recipe_runner import settings_of
from coophash.training import fit

SIDE = 40
SMALL = dict(
    features=16, generator_channels=2, generator_size=12, latent_dim=5, langevin_steps=2,
    synthetic_from=0,
)  # fmt: skip


class Net(nn.Module):
    """In place of a backbone: convolution, batch norm, dropout, pooling."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 5, stride=4)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.pretrained_cfg = {"classifier": "fc"}

    def forward(self, x):
        assert x.shape[1:] == (3, SIDE, SIDE), x.shape
        return self.drop(F.relu(self.norm(self.conv(x)))).mean((2, 3))


@pytest.fixture
def timm(monkeypatch):
    """A library of one model, in place of the real one."""

    def create_model(name, pretrained, num_classes):
        assert (pretrained, num_classes) == (False, 0)
        if name != "net":
            raise RuntimeError(f"Unknown model ({name})")
        return Net()

    settings = {"input_size": (3, SIDE, SIDE), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    library = types.ModuleType("timm")
    library.create_model = create_model
    library.data = types.SimpleNamespace(resolve_model_data_config=lambda model: settings)
    monkeypatch.setitem(sys.modules, "timm", library)


def tiny(channels=3, **options):
    shape = (channels, SIDE, SIDE)
    return ch.CoopHash(9, 3, shape, **{**SMALL, "backbone": "net", **options})


def data(count=24, channels=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = random.uniform(-0.3, 0.3, (count, channels, SIDE, SIDE))
    images += (labels[:, None, None, None] - 1) * 0.6
    return images.astype(np.float32), labels


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_the_backbone_sees_enlarged_normalised_images(timm):
    base = tiny().descriptor.base
    seen = []
    base.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    small = torch.rand(2, 3, 12, 12) * 2 - 1
    base(x), base(small)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))
    torch.testing.assert_close(seen[0], ((x + 1) / 2 - mean) / std, rtol=1e-5, atol=1e-5)
    large = F.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[1], ((large + 1) / 2 - mean) / std, rtol=1e-5, atol=1e-5)
    assert base(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 16)
    grey = tiny(1).descriptor.base
    grey.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    grey(x[:, :1])
    torch.testing.assert_close(seen[-1], ((x[:, :1] + 1) / 2 - mean) / std, rtol=1e-5, atol=1e-5)


def test_sizes_of_the_generator(timm):
    assert tiny().config.generator_shape == (3, 12, 12)
    assert tiny(generator_size=None).config.generator_shape == (3, 32, 32)
    wide = ch.coop_config.CoopHashConfig(8, 3, (3, 224, 160), backbone="net")
    assert wide.generator_shape == (3, 32, 23)
    assert ch.coop_config.CoopHashConfig(8, 3, (1, 28, 28)).generator_shape == (1, 28, 28)
    x = torch.rand(2, 3, SIDE, SIDE)
    assert enlarge(x, (SIDE, SIDE)) is x and reduce(x, (SIDE, SIDE)) is x
    flat = torch.full((1, 1, 40, 40), 0.25)
    torch.testing.assert_close(reduce(flat, (12, 12)), torch.full((1, 1, 12, 12), 0.25))
    dots = torch.zeros(1, 1, 40, 40)
    dots[..., ::2, ::2] = 1  # plain bilinear reduction would see all or nothing of them
    assert (reduce(dots, (10, 10)) - 0.25).abs().max() < 0.05


def test_the_chain_moves_small_images_by_the_gradient_through_enlarging(timm):
    model = tiny(langevin_steps=1, langevin_noise=0.0)
    labels = torch.tensor([0, 1, 2])
    pair = model.contrastive_pair(labels)
    assert pair.positive.shape == pair.negative.shape == (3, 3, 12, 12)
    revised = model.revise(pair.positive, labels)
    leaf = pair.positive.clone().requires_grad_()
    features = model.descriptor.base(
        F.interpolate(leaf, (SIDE, SIDE), mode="bilinear", align_corners=False)
    )
    energy = model.descriptor.energy_head(features)[torch.arange(3), labels].sum()
    (grad,) = torch.autograd.grad(energy, leaf)
    expected = (pair.positive - 0.5 * model.config.langevin_step_size**2 * grad).clamp(-1, 1)
    torch.testing.assert_close(revised, expected, rtol=1e-4, atol=1e-6)
    assert not torch.equal(revised, pair.positive)
    torch.testing.assert_close(  # the energy is that of a picture, however many its pixels
        model.energy(enlarge(revised, (SIDE, SIDE)), labels), model.energy(revised, labels),
        rtol=0.05, atol=0.02,
    )  # fmt: skip


def test_energies_compare_images_of_one_resolution(timm):
    """And the hash head has the real images as they are."""
    model = tiny()
    images, labels = (torch.as_tensor(v[:6]) for v in data())
    model.eval()
    found = cooperative_loss(model, images, labels, 0, 0)[1]
    low = reduce(images, (12, 12))
    torch.testing.assert_close(found["energy_real"], model.descriptor(low, labels).mean())
    torch.testing.assert_close(model.energy(images, labels), model.descriptor(low, labels))
    plain = tiny(cooperative=False).eval()
    assert torch.equal(plain.outputs(images), model.outputs(images))
    features = model.descriptor.base(images)
    torch.testing.assert_close(model.outputs(images), model.descriptor.hash_head(features))


@pytest.mark.parametrize(
    "options",
    [{}, {"pairs": "revised"}, {"cooperate_every": 2}, {"cooperative": False}]
    + [{"without": part} for part in ("generator", "energy", "langevin", "inference", "category")],
)
def test_every_variant_trains(timm, options):
    model = tiny(**options)
    before, statistics = weights(model), model.descriptor.base.backbone.norm.running_mean.clone()
    fit(model, data(), updates=2, batch_size=6, progress=False)
    assert torch.isfinite(weights(model)).all() and not torch.equal(weights(model), before)
    assert torch.equal(model.descriptor.base.backbone.norm.running_mean, statistics)


def test_the_backbone_has_its_own_rate_and_stays_in_evaluation_mode(timm):
    model = tiny(backbone_rate=0.25).train()
    assert model.training and model.descriptor.base.training
    assert not any(module.training for module in model.descriptor.base.backbone.modules())
    groups = make_optimizers(model, 1e-2, 1e-3).descriptor.param_groups
    backbone = {id(p) for p in model.descriptor.base.backbone.parameters()}
    for group in groups:
        own = {id(p) in backbone for p in group["params"]}
        assert own == {group["lr"] == 2.5e-3}
    every = {id(p) for group in groups for p in group["params"]}
    assert every == {id(p) for p in model.descriptor.parameters()}
    x = torch.rand(4, 3, SIDE, SIDE)
    alone, together = model.descriptor.base(x[:1]), model.descriptor.base(x)
    torch.testing.assert_close(alone, together[:1])


def test_a_baseline_has_the_same_backbone(timm):
    model = ch.SupervisedHash("csq", 9, 3, (3, SIDE, SIDE), backbone="net", features=16)
    shapes = {name: value.shape for name, value in tiny().descriptor.base.state_dict().items()}
    assert {name: value.shape for name, value in model.base.state_dict().items()} == shapes
    fit(model, data(), updates=2, batch_size=6, progress=False)
    made = ch.methods.make_model("dpsh", 9, 3, (3, SIDE, SIDE), backbone="net")
    assert isinstance(made.base, BackboneBase)
    rates = {group["lr"] for group in make_optimizers(model, 1e-2, 0.0).network.param_groups}
    assert rates == {1e-2, 1e-3}


def test_training_learns_and_a_saved_model_needs_no_weights_file(timm, tmp_path):
    path = tmp_path / "net.pth"
    torch.manual_seed(0)
    state = Net().state_dict() | {"fc.weight": torch.zeros(7, 6), "fc.bias": torch.zeros(7)}
    torch.save(state, path)
    model = tiny(backbone_weights=str(path), langevin_step_size=0.5, backbone_rate=1.0)
    for name, value in model.descriptor.base.backbone.state_dict().items():
        assert torch.equal(value, state[name]), name
    fit(model, data(60), updates=80, batch_size=12, progress=False, folder=tmp_path / "model",
        learning_rate=5e-3)  # fmt: skip
    path.unlink()
    loaded = ch.load(tmp_path / "model")
    assert torch.equal(weights(loaded), weights(model))
    assert loaded.config.backbone == "net" and loaded.config.backbone_weights is None
    (q, ql), (d, dl) = data(12, seed=1), data(30, seed=2)
    score = ch.metrics.mean_average_precision(loaded.encode(q), loaded.encode(d), ql, dl)
    assert score > 0.95
    assert latent_grid(loaded, 2).shape == (2, 3, 3, 12, 12)
    real = ch.data.ImageSet(((d + 1) * 127.5).clip(0, 255).astype(np.uint8), dl, ("a", "b", "c"))
    found = triplets(loaded, real)
    assert found.real.shape == found.positive.shape == (3, 3, 12, 12)
    measured = generator_report(loaded, real, classifier=loaded, samples=3)
    assert 0 <= measured.accuracy <= 1 and measured.accuracy_real > 0.9

    safe = tmp_path / "net.safetensors"
    checkpoints.write_atomically(
        safe, checkpoints._safetensors().save({k: v.contiguous() for k, v in state.items()})
    )
    again = tiny(backbone_weights=str(safe)).descriptor.base.backbone
    assert torch.equal(again.conv.weight, state["conv.weight"])


def test_new_settings_leave_the_hash_of_older_runs_alone(timm):
    old = settings_of(ch.CoopHash(8, 3, (1, 12, 12)).config)
    assert not {"backbone", "backbone_weights", "backbone_rate", "generator_size"} & set(old)
    assert {"bits", "image_shape", "langevin_steps"} <= set(old)
    new = settings_of(tiny(backbone_rate=0.5).config)
    assert (new["backbone"], new["backbone_rate"], new["generator_size"]) == ("net", 0.5, 12)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(backbone=None), ValueError, "generator_size is for a backbone"),
        (dict(backbone=None, generator_size=None, image_shape=(3, 224, 224)), ValueError,
         "from 8 to 64, got 224: give the name of a model of timm"),
        (dict(image_shape=(3, 2000, 2000)), ValueError, "from 8 to 1024"),
        (dict(backbone="nat"), ValueError, "must be a model of timm, got 'nat': Unknown model"),
        (dict(backbone=3), TypeError, "backbone must be str"),
        (dict(generator_size=100), ValueError, "generator_size must be from 8 to 40"),
        (dict(generator_size=9.5), TypeError, "generator_size must be int"),
        (dict(backbone_rate=-1.0), ValueError, "backbone_rate must be at least 0"),
        (dict(backbone_weights="none.pth"), FileNotFoundError, "no backbone_weights at"),
        (dict(backbone_weights=__file__), ValueError, "no file of weights alone"),
    ],
)  # fmt: skip
def test_settings_out_of_range_name_themselves(timm, change, error, words):
    settings = {"bits": 8, "classes": 3, "image_shape": (3, SIDE, SIDE), "backbone": "net",
                "generator_size": 12, **change}  # fmt: skip
    with pytest.raises(error, match=words):
        ch.CoopHash(**settings)


def test_weights_of_another_model(timm, tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not fit net"):
        tiny(backbone_weights=str(tmp_path / "w.pth"))
    torch.save([1], tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no state dict but list"):
        tiny(backbone_weights=str(tmp_path / "w.pth"))


def test_recovery_needs_images_of_the_generator_s_size(timm):
    with pytest.raises(ValueError, match="makes images of 12 x 12 and takes 40 x 40"):
        tiny().recover(data()[0])
    whole = tiny(generator_size=SIDE)
    assert whole.recover(data()[0][:2], samples=2).shape == (2, 3, SIDE, SIDE)


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'a backbone needs timm.*pip install "coophash\[timm\]"'):
        tiny()


@pytest.mark.parametrize("several", [False, True])
def test_with_a_model_of_timm(several, tmp_path):
    pytest.importorskip("timm", exc_type=ImportError)
    model = ch.CoopHash(9, 3, (3, 64, 64), backbone="resnet10t", **SMALL)
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (12, 3, 64, 64)).astype(np.float32)
    labels = np.arange(12) % 3
    if several:
        labels = np.eye(3, dtype=bool)[labels] | (random.random((12, 3)) < 0.3)
    fit(model, (images, labels), updates=2, batch_size=6, progress=False, folder=tmp_path)
    loaded = ch.load(tmp_path)
    assert np.array_equal(loaded.encode(images), model.encode(images))
    assert loaded.contrastive_pair(torch.tensor([0, 1])).positive.shape == (2, 3, 12, 12)
    with pytest.raises(ValueError, match="must be a model of timm, got 'resnet10tt'"):
        ch.CoopHash(9, 3, (3, 64, 64), backbone="resnet10tt")
    with pytest.raises(ValueError, match="does not take images of 64 x 64"):
        ch.CoopHash(9, 3, (3, 64, 64), backbone="vit_tiny_patch16_224")
