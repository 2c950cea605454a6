"""UCCH against its published formulas, written out naively in double precision."""

import json
import math

import numpy as np
import pytest
import torch

import coophash as ch
from coophash.kernels import bank_draws, bank_update
from coophash.ucch import MemoryBank, _disturbed, ucch_step
from coophash.ucch_config import PRESETS, UCCHConfig

BITS, ITEMS, BATCH, K = 13, 30, 7, 11
SMALL = {"image_hidden": (9, 8), "text_hidden": (10,), "negatives": K, "gradient_clip": None}


def model(**options):
    return ch.UCCH(BITS, 6, 5, **{**SMALL, **options}).double()


@pytest.fixture
def batch():
    source = torch.Generator().manual_seed(1)
    rows = torch.randperm(ITEMS, generator=source)[:BATCH]
    images = torch.randn(BATCH, 6, generator=source, dtype=torch.float64)
    texts = torch.randn(BATCH, 5, generator=source, dtype=torch.float64)
    return rows, images, texts


# --- the formulas, one term at a time ---------------------------------------------------------


def sgn(v):
    return torch.tensor([1.0 if x >= 0 else -1.0 for x in v.tolist()], dtype=torch.float64)


def contrast(h, keys, tau):
    """Eq. 3, 4, mean over the batch; keys[i]: the positive first, of length 1."""
    total = 0
    for i in range(len(h)):
        weights = [torch.exp(torch.dot(h[i], key) / tau) for key in keys[i]]
        total = total - torch.log(weights[0] / sum(weights))
    return total / len(h)


def ranking(hx, hy, m, xi, kappa):
    """Eq. 8, 14 with n the batch."""
    n, total = len(hx), 0
    for a, b in ((hx, hy), (hy, hx)):
        M = [[torch.dot(a[i], b[j]) for j in range(n)] for i in range(n)]
        for i in range(n):
            S = [M[i][j] if (M[i][i] - M[i][j]).item() <= m else M[i][j] - xi for j in range(n)]
            total = total + m + kappa * torch.log(sum(torch.exp(s / kappa) for s in S)) - S[i]
    return total / n


def max_margin(hx, hy, m):
    """Eq. 6, 7."""
    n, total = len(hx), 0
    for a, b in ((hx, hy), (hy, hx)):
        for i in range(n):
            own = torch.dot(a[i], b[i])
            for j in range(n):
                if j != i:
                    total = total + torch.clamp(m + torch.dot(a[i], b[j]) - own, min=0)
    return total / n**2


def forward(net, encoder, x):
    h = x
    for layer in net[:-1]:
        h = torch.clamp(h @ layer.weight.T + layer.bias, min=0)
    h = torch.tanh(h @ net[-1].weight.T + net[-1].bias)
    return h / h.norm(dim=1, keepdim=True)


def naive(net, bank_values, rows, images, texts, negatives, warm_up):
    c = net.config
    hx = forward(net.image_encoder.layers, net.image_encoder, images)
    hy = forward(net.text_encoder.layers, net.text_encoder, texts)
    centre = ((hx + hy) / 2).detach()
    if warm_up:
        signs = [sgn(v) / math.sqrt(BITS) for v in centre]
        keys = [[signs[i], *(signs[j] for j in range(BATCH) if j != i)] for i in range(BATCH)]
    else:
        signs = [sgn(v) / math.sqrt(BITS) for v in bank_values]
        keys = [[signs[rows[i]], *(signs[j] for j in negatives[i].tolist())] for i in range(BATCH)]
    L_c = contrast(hx, keys, c.temperature) + contrast(hy, keys, c.temperature)
    if c.ranking == "crl":
        L_r = ranking(hx, hy, c.margin, c.shift, c.ranking_temperature)
    else:
        L_r = max_margin(hx, hy, c.margin)
    loss = c.contrast_weight * L_c + (1 - c.contrast_weight) * L_r
    updated = bank_values.clone()
    delta = 0.0 if warm_up else c.bank_momentum
    for place, row in enumerate(rows.tolist()):
        u = centre[place]
        u = u / u.norm() if c.normalize_bank else u
        v = delta * updated[row] + (1 - delta) * u
        updated[row] = v / v.norm() if c.normalize_bank else v
    return loss, L_c, L_r, updated


CASES = {
    "code": {},
    "warm-up": {},
    "paper": {"preset": "paper"},
    "mscoco": {"preset": "mscoco"},
    "max-margin": {"ranking": "max-margin", "margin": 0.5},
    "others alone": {"exclude_positive": True, "temperature": 0.07, "ranking_temperature": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_published_formulas(case, batch):
    rows, images, texts = batch
    net, warm_up = model(**CASES[case]), case == "warm-up"
    bank = MemoryBank(ITEMS, BITS, seed=2).double()
    bank.values += 0.01 * torch.randn(ITEMS, BITS, generator=torch.Generator().manual_seed(3))
    bank.codes.copy_(ch.pack(bank.values))
    before = bank.values.clone()
    c = net.config
    own_rows = rows.numpy() if c.exclude_positive else None
    negatives = bank_draws(BATCH, K, ITEMS, seed=5, step=17, positives=own_rows)
    loss, L_c, L_r, updated = naive(net, before, rows, images, texts, negatives, warm_up)
    expected = torch.autograd.grad(loss, list(net.parameters()))

    still = torch.optim.SGD(net.parameters(), lr=0.0)  # leaves the gradients to be looked at
    watched = ucch_step(net, bank, rows, images, texts, still, seed=5, update=17, warm_up=warm_up)

    for name, value in (("loss", loss), ("contrast", L_c), ("ranking", L_r)):
        torch.testing.assert_close(watched[name], value.detach(), rtol=1e-12, atol=1e-12)
    for (name, parameter), gradient in zip(net.named_parameters(), expected, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert gradient.abs().max() > 1e-6, name
    torch.testing.assert_close(bank.values, updated, rtol=1e-12, atol=1e-14)
    assert torch.equal(bank.codes, ch.pack(updated))
    untouched = torch.ones(ITEMS, dtype=torch.bool)
    untouched[rows] = False
    assert torch.equal(bank.values[untouched], before[untouched])
    assert not torch.equal(bank.values[rows], before[rows])


def test_the_gradient_is_clipped_over_both_networks(batch):
    rows, images, texts = batch
    net = model(gradient_clip=0.01)
    ucch_step(
        net, MemoryBank(ITEMS, BITS).double(), rows, images, texts,
        torch.optim.SGD(net.parameters(), lr=0.0), seed=0, update=0,
    )  # fmt: skip
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_the_bank_starts_with_fair_signs_of_length_one():
    bank = MemoryBank(4000, 33, seed=1)
    assert bank.codes.shape == (4000, 5) and bank.codes.dtype == torch.uint8
    torch.testing.assert_close(bank.values.norm(dim=1), torch.ones(4000))
    assert abs(float((bank.values > 0).double().mean()) - 0.5) < 0.01
    assert torch.equal(bank.codes, ch.pack(bank.values))
    assert torch.equal(bank.values, MemoryBank(4000, 33, seed=1).values)
    assert not torch.equal(bank.values, MemoryBank(4000, 33, seed=2).values)


def test_an_output_of_zero_is_a_one_bit(batch):
    bank = MemoryBank(ITEMS, BITS)
    rows = torch.tensor([4])
    bank_update(bank.values, bank.codes, rows, torch.zeros(1, BITS), momentum=0.0, normalize=False)
    assert torch.equal(ch.unpack(bank.codes[4:5], BITS), torch.ones(1, BITS, dtype=torch.int8))


# --- presets and settings ---------------------------------------------------------------------


def test_presets_are_the_published_settings():
    # papers' table of hyper-parameters: (beta, xi, warm-up, clip, weight decay, normalised bank)
    expected = {
        "paper": (0.7, 0.1, 0, None, 0.0, False),
        "mirflickr": (0.7, 0.1, 1, 1.0, 1e-6, True),
        "nuswide": (0.7, 0.1, 1, 1.0, 1e-6, True),
        "mscoco": (0.6, 7.0, 1, 1.0, 1e-6, True),
    }
    for name, values in expected.items():
        c = UCCHConfig(64, 4096, 1386, **PRESETS[name])
        assert (
            c.contrast_weight, c.shift, c.warmup_epochs, c.gradient_clip, c.weight_decay,
            c.normalize_bank,
        ) == values  # fmt: skip
        assert (c.bank_momentum, c.temperature, c.negatives, c.margin) == (0.4, 0.9, 4096, 0.2)
        assert (c.learning_rate, c.epochs, c.batch_size) == (1e-4, 20, 256)
        assert (c.image_hidden, c.text_hidden) == ((8192, 8192), (8192,))
        assert c.ranking_temperature == 1.0 and not c.exclude_positive and not c.standardize


def test_noise_and_holes_are_in_training_alone_and_of_the_size_that_is_asked_for():
    features = torch.ones(4000, 50)
    source = torch.Generator().manual_seed(0)
    assert _disturbed(features, 0.0, 0.0, source) is features
    noisy = _disturbed(features, 0.6, 0.0, source) - 1
    spread = noisy.std(dim=1)  # of each pair its own, uniform from 0 to 0.6
    assert float(spread.min()) < 0.03 and 0.5 < float(spread.max()) < 0.75
    assert float(noisy.square().mean()) == pytest.approx(0.6**2 / 3, rel=0.05)
    holed = _disturbed(features, 0.0, 0.3, source)
    assert set(holed.unique().tolist()) == {0.0, 1.0}
    assert float(holed.mean()) == pytest.approx(0.7, abs=0.01)
    net = ch.UCCH(BITS, 6, 5, preset="ours", **{**SMALL, "negatives": K})
    images = torch.randn(3, 6)
    assert torch.equal(net.image_outputs(images), net.image_outputs(images))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "flickr"}, ValueError, "preset must be one of paper, mirflickr"),
        ({"preset": ["paper"]}, ValueError, "preset must be one of paper, mirflickr"),
        ({"negatives": 2**31}, ValueError, "negatives must be from 1 to 2147483647"),
        ({"seed": -1}, ValueError, r"seed must be from 0 to 2\*\*63 - 1, got -1"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number"),
        ({"sources": [1]}, TypeError, "sources must be a dict with image and text"),
        ({"beta": 0.5}, TypeError, "unknown option 'beta'; UCCH has"),
        ({"contrast_weight": 1.5}, ValueError, "contrast_weight must be from 0 to 1, got 1.5"),
        ({"bank_momentum": 1.0}, ValueError, "bank_momentum must be from 0 to below 1"),
        ({"temperature": 0}, ValueError, "temperature must be above 0"),
        ({"negatives": 2.5}, TypeError, "negatives must be int, got 2.5"),
        ({"ranking": "hinge"}, ValueError, "ranking must be one of"),
        ({"image_hidden": 512}, ValueError, "image_hidden must be a list of whole numbers"),
        ({"image_hidden": None}, ValueError, "image_hidden must be a list of whole numbers"),
        ({"gradient_clip": -1.0}, ValueError, "gradient_clip must be above 0"),
        ({"shift": math.nan}, ValueError, "shift must be finite"),
        ({"standardize": 1}, TypeError, "standardize must be bool"),
    ],
)
def test_bad_settings_are_named(options, error, message):
    with pytest.raises(error, match=message):
        ch.UCCH(**{"bits": 8, "image_dim": 4, "text_dim": 4, **SMALL, **options})


# --- encoding, saving -------------------------------------------------------------------------


def test_codes_are_the_signs_of_the_outputs():
    net = ch.UCCH(BITS, 6, 5, **SMALL)
    images = np.random.default_rng(0).normal(size=(10, 6))
    texts = torch.randn(9, 5)
    outputs = net.image_outputs(images, batch_size=4)
    assert outputs.shape == (10, BITS) and outputs.dtype == torch.float32
    torch.testing.assert_close(outputs.norm(dim=1), torch.ones(10))
    codes = net.encode_image(images, batch_size=3)
    assert isinstance(codes, np.ndarray) and np.array_equal(codes, ch.pack(outputs.numpy()))
    assert isinstance(net.encode_text(texts), torch.Tensor)
    assert net.encode_text(texts).shape == (9, 2)
    pairs = ch.data.PairSet(images[:9], texts.numpy())
    assert np.array_equal(net.encode_text(pairs), net.encode_text(texts).numpy())
    assert net.encode_image(images[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((3, 5)), ValueError, r"images must be features \(N, 6\) as in training"),
        (np.full((3, 6), np.nan), ValueError, "images must be finite in float32, got nan in row 0"),
        (torch.full((3, 6), torch.inf), ValueError, "images must be finite"),
        (torch.zeros(3, 6, dtype=torch.int64), TypeError, "images must be floating"),
        (np.array([["a"] * 6]), TypeError, "images must be real numbers"),
        (np.zeros(6), ValueError, r"images must be features \(N, D\)"),
    ],
)
def test_bad_features_are_named(images, error, message):
    with pytest.raises(error, match=message):
        ch.UCCH(BITS, 6, 5, **SMALL).encode_image(images)


def test_raw_input_is_checked_as_well():
    net = ch.UCCH(BITS, 6, 5, **SMALL)
    with pytest.raises(ValueError, match=r"set model\.text_source to what makes them"):
        net.encode_text(["a"])
    # tensors that want gradients, as some sentence encoders return them
    net.text_source = lambda texts: torch.ones(len(texts), 5, requires_grad=True)
    assert (
        net.encode_text(["a", "b"]).shape == (2, 2) == net.encode_text(np.array(["a", "b"])).shape
    )
    with pytest.raises(TypeError, match="texts must all be texts, got 3"):
        net.encode_text(["a", 3])
    with pytest.raises(TypeError, match=r"texts must be a list of them, got one: give \[text\]"):
        net.encode_text("a")
    net.text_source = lambda texts: np.zeros((len(texts) + 1, 5))
    with pytest.raises(ValueError, match=r"a row for each of 2 texts, got \(3, 5\)"):
        net.encode_text(["a", "b"])
    for batch_size, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="batch_size must be an integer >= 1"):
            net.encode_image(np.zeros((2, 6)), batch_size)


def test_numbers_of_numpy_are_settings_too(tmp_path):
    options = {**SMALL, "image_hidden": (np.int64(3),), "shift": np.float32(0.5)}
    net = ch.UCCH(np.int64(BITS), np.int32(6), 5, **options)
    net.save(tmp_path)  # JSON
    assert ch.load(tmp_path).config == net.config and type(net.config.bits) is int


def test_standardisation_is_of_the_training_pairs_and_kept(tmp_path):
    random = np.random.default_rng(0)
    images = random.normal(3, 5, size=(50, 6)).astype(np.float32)
    images[:, 2] = 7  # does not vary
    pairs = ch.data.PairSet(images, random.normal(-2, 0.1, size=(50, 5)))
    net = ch.UCCH(BITS, 6, 5, **SMALL, standardize=True, clip_features=1.5)
    net.learn_statistics(pairs)
    shown = net.prepared(net.image_encoder, torch.as_tensor(images))
    wanted = np.clip((images - images.mean(0)) / np.where(images.std(0) == 0, 1, images.std(0)),
                     -1.5, 1.5)  # fmt: skip
    np.testing.assert_allclose(shown.numpy(), wanted, atol=1e-5)
    net.save(tmp_path)
    again = ch.load(tmp_path)
    assert again.config == net.config and again.preset == net.preset
    assert np.array_equal(again.encode_image(pairs), net.encode_image(pairs))
    assert np.array_equal(again.encode_text(pairs), net.encode_text(pairs))


def test_a_folder_of_a_model_that_is_not_known(tmp_path):
    ch.UCCH(BITS, 6, 5, **SMALL).save(tmp_path)
    config = tmp_path / "config.json"
    told = json.loads(config.read_text())
    assert told["model"] == "UCCH" and told["preset"] == "mirflickr"
    config.write_text(json.dumps({**told, "model": "DCMH"}))
    with pytest.raises(ValueError, match="describes a model 'DCMH'; this version"):
        ch.load(tmp_path)
    config.write_text(json.dumps({**told, "preset": "other"}))
    with pytest.raises(ValueError, match=r"config\.json is damaged: preset must be one of"):
        ch.load(tmp_path)
