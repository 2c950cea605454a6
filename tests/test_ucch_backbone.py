"""A backbone that is trained with UCCH: crops, the frozen warm-up, codes of pictures, resuming."""

import sys
import types

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import ucch_training
from coophash.data import BagOfWords, PairSet, read_pair_table
from coophash.features import Photos, TimmFeatures
from coophash.ucch_backbone import crop_at_random, middle, tune_backbone

SMALL = {
    "image_hidden": (8,), "text_hidden": (8,), "negatives": 16, "batch_size": 8, "epochs": 3,
    "learning_rate": 0.01,
}  # fmt: skip


class Backbone(torch.nn.Module):
    """Two means a channel, behind a layer with statistics of its own."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(6)

    def forward(self, x):
        assert x.shape[1:] == (3, 8, 8)
        return torch.relu(self.norm(self.convolution(x))).mean((2, 3))


@pytest.fixture(autouse=True)
def timm(monkeypatch, request):
    """A library of one model, in place of the real one."""
    torch.manual_seed(0)
    if "real" in request.node.name:
        return
    library = types.ModuleType("timm")
    library.create_model = lambda name, **options: Backbone()
    settings = {"input_size": (3, 8, 8), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    library.data = types.SimpleNamespace(resolve_model_data_config=lambda model: settings)
    monkeypatch.setitem(sys.modules, "timm", library)


def raw_pairs(count, seed=0, labels=True):
    """Pictures of a colour, and texts that name it."""
    random = np.random.default_rng(seed)
    colours = np.arange(count) % 3
    pixels = random.integers(0, 60, (count, 3, 10, 12), np.uint8)
    pixels[np.arange(count), colours] += 150
    texts = np.eye(3)[colours] + 0.1 * random.normal(size=(count, 3))
    return PairSet(pixels, texts, colours if labels else None)


def model(**options):
    net = ch.UCCH(12, 6, 3, **{**SMALL, **options})
    return tune_backbone(net, TimmFeatures("small", pretrained=True))


def backbone_state(net):
    return {k: v.clone() for k, v in net.image_encoder.backbone.state_dict().items()}


def test_the_backbone_learns_but_not_in_the_warm_up():
    for epochs, warm_up, changes in ((1, 1, False), (2, 1, True), (1, 0, True)):
        net = model(epochs=epochs, warmup_epochs=warm_up)
        before = backbone_state(net)
        ch.fit(net, raw_pairs(40, labels=False), None, progress=False)
        after = backbone_state(net)
        same = [torch.equal(before[name], after[name]) for name in before]
        assert not any(same) if changes else all(same), (epochs, warm_up)
        assert not net.image_encoder.backbone.training


def test_it_learns_to_find_texts_of_a_picture():
    train, test = raw_pairs(120, labels=False), raw_pairs(30, seed=1)
    net = model(epochs=12)
    ch.fit(net, train, None, progress=False)
    found = ucch_training.direction_maps(net, test, raw_pairs(120))
    assert min(found) > 0.8, found


def test_codes_of_raw_images_and_what_is_saved(tmp_path):
    net, pairs = model(epochs=1), raw_pairs(40)
    ch.fit(net, pairs, 0.2, folder=tmp_path / "run", progress=False)
    net.save(tmp_path / "model")
    again = ch.load(tmp_path / "model")
    assert again.sources["image"]["name"] == "small" and again.config == net.config
    codes = net.encode_image(pairs)
    assert np.array_equal(again.encode_image(pairs), codes)
    assert np.array_equal(net.encode_image(pairs.images, batch_size=7), codes)
    assert np.array_equal(ch.load(tmp_path / "run").encode_text(pairs), net.encode_text(pairs))
    pillow = pytest.importorskip("PIL.Image")
    square, files = pairs.images[:5, :, :9, :9], []  # files are read at 8 / 7 of the size
    for n, pixels in enumerate(square):
        files.append(tmp_path / f"{n}.png")
        pillow.fromarray(pixels.transpose(1, 2, 0)).save(files[-1])
    assert np.array_equal(net.encode_image(files), net.encode_image(square))


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    settings = {"validation": 0.2, "progress": False}
    whole = model()
    ch.fit(whole, raw_pairs(40), **settings)
    step, calls = ucch_training.ucch_step, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > 6:  # in the second epoch, after the warm-up
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    torch.manual_seed(0)
    net = model()
    monkeypatch.setattr(ucch_training, "ucch_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ch.fit(net, raw_pairs(40), folder=tmp_path, **settings)
    monkeypatch.setattr(ucch_training, "ucch_step", step)
    net = model(seed=4)  # the checkpoint's weights count, not these
    ch.fit(net, raw_pairs(40), folder=tmp_path, resume=True, **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name


def test_a_table_of_photos(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    rows = ["image,text"]
    for n, pixels in enumerate(raw_pairs(6).images):
        pillow.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"{n}.png")
        rows.append(f"{n}.png,{('red', 'green', 'blue')[n % 3]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    table = read_pair_table(tmp_path / "t.csv")
    pairs = table.features(Photos(9), BagOfWords.fit(table.captions))
    assert pairs.raw and pairs.images.shape == (6, 3, 9, 9)
    assert model().encode_image(pairs).shape == (6, 2)


def test_by_command(tmp_path, capsys):
    pytest.importorskip("typer")
    from coophash.cli import main
    from coophash.encoded import EncodedSet

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code, capsys.readouterr().err

    pillow, pairs = pytest.importorskip("PIL.Image"), raw_pairs(30)
    rows = ["image,text"]
    for n, pixels in enumerate(pairs.images):
        pillow.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"{n}.png")
        rows.append(f"{n}.png,{('red', 'green', 'blue')[n % 3]}")
    table, file = tmp_path / "t.csv", tmp_path / "f.npz"
    table.write_text("\n".join(rows))
    np.savez(file, images=pairs.images, YAll=pairs.texts, LAll=np.eye(3)[pairs.labels])
    torch.save(Backbone().state_dict(), tmp_path / "w.pth")
    options = {**SMALL, "image_hidden": "[4]", "text_hidden": "[4]", "epochs": 2, "backbone": "s",
               "weights": tmp_path / "w.pth"}  # fmt: skip
    command = [w for name, value in options.items() for w in ("--set", f"{name}={value}")]
    command = ["train", "--method", "ucch", "--bits", 9, *command]
    for data, name, more, part, count in (
        (table, "a", "words=3", (), 60),
        (file, "b", "queries=6", ("--split", "test", "--queries", 6), 12),
    ):
        folder, out = tmp_path / name, tmp_path / f"{name}.npz"
        code, told = run(*command, data, "--model", folder, "--set", "tune=true", "--set", more)
        assert not code, told
        code, told = run("encode", folder, data, "--out", out, *part)
        assert not code and len(EncodedSet.load(out)) == count, told
    code, told = run(*command, file, "--model", tmp_path / "c", "--set", "tune=3")
    assert code and "tune must be true or false, got 3" in told


def test_random_crops():
    ramp = torch.arange(20.0).expand(500, 1, 16, 20)  # each column its number
    torch.manual_seed(0)
    crops = crop_at_random(ramp, 8)
    assert crops.shape == (500, 1, 8, 8)
    assert float(crops.min()) >= 0 and float(crops.max()) <= 19
    steps = crops.diff(dim=3).mean((1, 2, 3))
    assert 0.35 < float((steps < 0).double().mean()) < 0.65  # mirrored
    shown = 8 * steps.abs() / 20  # share of the width
    assert float(shown.min()) > 0.2 and float(shown.max()) <= 1.001
    assert float(shown.std()) > 0.1
    torch.testing.assert_close(crops.diff(dim=2), torch.zeros(500, 1, 7, 8), atol=1e-4, rtol=0)
    tall = crop_at_random(torch.arange(16.0)[:, None].expand(500, 1, 16, 20), 8)
    centres = tall.mean((1, 2, 3))
    assert float(centres.min()) < 5 and float(centres.max()) > 10
    torch.manual_seed(0)
    assert torch.equal(crop_at_random(ramp, 8), crops)


def test_the_middle():
    images = torch.arange(120.0).reshape(1, 1, 10, 12)
    assert torch.equal(middle(images, 8), images[..., 1:9, 2:10])
    assert torch.equal(middle(images, 10), images[..., 1:11])
    assert middle(images, 20).shape == (1, 1, 20, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_dim": 7}, "image_dim must be the backbone's width, 6, got 7"),
        ({"standardize": True}, "standardize must be False with a backbone"),
        ({"image_noise": 0.5}, "image_noise must be 0 with a backbone"),
    ],
)
def test_models_that_do_not_fit(options, message):
    settings = {"image_dim": 6, **SMALL, **options}
    with pytest.raises(ValueError, match=message):
        tune_backbone(ch.UCCH(12, text_dim=3, **settings), TimmFeatures("small", pretrained=True))


def test_bad_input_is_named():
    net = model()
    with pytest.raises(ValueError, match="has a backbone already"):
        tune_backbone(net, TimmFeatures("small", pretrained=True))
    with pytest.raises(TypeError, match="source must be a TimmFeatures, got str"):
        tune_backbone(net, "vgg11")
    features = PairSet(np.zeros((20, 6)), np.zeros((20, 3)))
    for images in (features, features.images, np.zeros((2, 1, 8, 8), np.uint8)):
        with pytest.raises(TypeError, match=r"images must be pixels, uint8 \(N, 3, H, W\), or"):
            net.encode_image(images)
    with pytest.raises(TypeError, match="images must be pixels"):
        ch.fit(net, features, progress=False)
    with pytest.raises(TypeError, match=r"has raw images, .* coophash\.ucch_backbone"):
        ch.fit(ch.UCCH(12, 6, 3, **SMALL), raw_pairs(20), progress=False)


def test_with_real_models_of_timm(tmp_path):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    for name, width in (("resnet10t", 512), ("mobilenetv3_small_050", 1024)):
        weights = tmp_path / "w.pth"  # with its classifier, as they are published
        torch.save(timm.create_model(name, pretrained=False).state_dict(), weights)
        source = TimmFeatures(name, weights=weights, size=32)
        assert source.width == source(raw_pairs(4).images).shape[1] == width
        net = tune_backbone(ch.UCCH(12, width, 3, **{**SMALL, "epochs": 2}), source)
        ch.fit(net, raw_pairs(20), 0.2, folder=tmp_path / name, progress=False)
        codes = ch.load(tmp_path / name).encode_image(raw_pairs(20))
        assert np.array_equal(codes, net.encode_image(raw_pairs(20)))
