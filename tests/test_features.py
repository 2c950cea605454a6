"""Sources of features: small pictures, backbones, and what is kept of them with a model."""

import sys
import types

import numpy as np
import pytest
import torch

import coophash as ch
from coophash.data import BagOfWords, PairSet
from coophash.features import Pixels, TimmFeatures, describe_source, make_source

SMALL = {"image_hidden": (6,), "text_hidden": (6,)}


@pytest.fixture
def files(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    for n, level in enumerate((0, 51, 255)):
        pixels = np.full((6, 8, 3), level, np.uint8)
        pixels[..., 0] = 255
        pillow.fromarray(pixels).save(tmp_path / f"{n}.png")
    return [tmp_path / f"{n}.png" for n in range(3)]


def test_pixels_are_scaled_to_one(files):
    features = Pixels(4, channels=3)(files)
    assert features.shape == (3, 48) and features.dtype == np.float32
    np.testing.assert_allclose(features[1].reshape(3, 16)[0], 1.0)
    np.testing.assert_allclose(features[1].reshape(3, 16)[1], 51 / 127.5 - 1, rtol=1e-6)
    assert Pixels(4, 1)(files).shape == (3, 16) and Pixels(4)([]).shape[0] == 0
    with pytest.raises(ValueError, match="cannot read"):
        Pixels()([__file__])
    for size, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="size must be an integer >= 1"):
            Pixels(size)
    with pytest.raises(TypeError, match="files must be a list of image files, got one"):
        Pixels(4)(str(files[0]))


class Backbone(torch.nn.Module):
    num_features = 5

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {"classifier": "fc"}
        self.shift = torch.nn.Parameter(torch.zeros(5))

    def forward(self, x):
        assert x.shape[1:] == (3, 10, 10) and not self.training
        return x.mean((2, 3)) @ torch.ones(3, 5) + self.shift


def save_weights(path):
    torch.save({"shift": torch.arange(5.0), "fc.weight": torch.zeros(7, 5)}, path)
    return path


@pytest.fixture
def timm(monkeypatch):
    """A library of one model, in place of the real one."""
    made = []

    def create_model(name, **options):
        made.append((name, options))
        return Backbone()

    settings = {"input_size": (3, 10, 10), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    library = types.ModuleType("timm")
    library.create_model = create_model
    library.data = types.SimpleNamespace(resolve_model_data_config=lambda model: settings)
    monkeypatch.setitem(sys.modules, "timm", library)
    return made


def test_a_backbone_sees_normalised_images_in_batches(files, timm, tmp_path):
    weights = save_weights(tmp_path / "w.pth")
    source = TimmFeatures("vgg19", weights=weights, batch_size=2)
    assert timm == [("vgg19", {"pretrained": False, "num_classes": 0})]
    assert TimmFeatures("vgg19", pretrained=True).width == 5
    assert timm[-1][1]["pretrained"] is True
    features = source(files)
    level = (np.array([1.0, 51 / 255, 51 / 255]) - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1]
    np.testing.assert_allclose(features[1], level.sum() + np.arange(5), rtol=1e-5)
    assert features.shape == (3, 5) and source([]).shape == (0, 5)
    again = make_source(source.describe())
    assert isinstance(again, TimmFeatures) and again.describe() == source.describe()
    with pytest.raises(ValueError, match="vgg19 needs weights: give a file"):
        TimmFeatures("vgg19")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        TimmFeatures("vgg19", weights=tmp_path / "none.pth")
    torch.save({"other": torch.zeros(5)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not fit vgg19"):
        TimmFeatures("vgg19", weights=tmp_path / "other.pth")


def test_a_backbone_without_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'a backbone needs timm.*pip install "coophash\[timm\]"'):
        TimmFeatures("vgg19", pretrained=True)


def test_sources_are_kept_with_the_model(files, tmp_path):
    bag = BagOfWords(["red", "blue"])
    sources = {"image": describe_source(Pixels(2)), "text": describe_source(bag)}
    model = ch.UCCH(9, 12, 2, sources=sources, **SMALL)
    model.save(tmp_path / "model")
    again = ch.load(tmp_path / "model")
    assert again.sources == sources
    codes = again.encode_image(files)
    assert np.array_equal(codes, model.encode_image(Pixels(2)(files)))
    assert np.array_equal(again.encode_text(["Red!"]), model.encode_text(np.array([[1.0, 0.0]])))


def test_any_callable_is_a_source_but_is_not_kept(tmp_path):
    model = ch.UCCH(9, 12, 2, **SMALL)
    with pytest.raises(ValueError, match=r"set model\.text_source to what makes them"):
        model.encode_text(["a text"])
    model.text_source = lambda texts: [[len(text), 1.0] for text in texts]
    assert np.array_equal(model.encode_text(["abc"]), model.encode_text(np.array([[3.0, 1.0]])))
    with pytest.raises(TypeError, match="texts must be a list of them, got one"):
        model.encode_text("abc")
    assert model.sources == {"image": None, "text": None}
    model.save(tmp_path / "model")
    assert ch.load(tmp_path / "model").text_source is None


def test_pixels_in_memory_are_images_too(files, timm, tmp_path):
    weights = save_weights(tmp_path / "w.pth")
    pillow = pytest.importorskip("PIL.Image")
    pixels = np.stack([np.asarray(pillow.open(file)).transpose(2, 0, 1) for file in files])
    for source in (Pixels(4), TimmFeatures("vgg19", weights=weights)):
        np.testing.assert_array_equal(source(pixels), source(files))
    model = ch.UCCH(9, 48, 2, **SMALL)
    raw = PairSet(pixels, np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"set model\.image_source"):
        model.encode_image(raw)
    model.image_source = Pixels(4)
    for images in (raw, pixels):
        assert np.array_equal(model.encode_image(images), model.encode_image(files))
    with pytest.raises(TypeError, match=r"pixels must be uint8 \(C, H, W\)"):
        model.encode_image(pixels.astype(np.float32))


def test_a_source_of_another_kind():
    with pytest.raises(ValueError, match=r"of a kind in \['pixels', 'timm', 'words'\]"):
        make_source({"kind": "pickle"})
