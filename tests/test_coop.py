"""CoopHash: settings, shapes, the pair, the chain, and which gradient reaches which network."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import losses
from coophash.coop import (
    CooperativeOptimizers,
    CoopHashConfig,
    cooperative_step,
)
from coophash.coop import _cooperative_loss as cooperative_loss
from coophash.coop_terms import centre_by_class, other_classes, random_source
from coophash.descriptor import draw_latent

SMALL = dict(base_channels=4, features=16, generator_channels=2, latent_dim=5, langevin_steps=2)


def tiny(shape=(1, 12, 12), classes=3, **options):
    return ch.CoopHash(9, classes, shape, **{**SMALL, "synthetic_from": 0, **options})


def batch(count=6, shape=(1, 12, 12), classes=3, seed=0):
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(count, *shape, generator=source) * 2 - 1
    return images, torch.arange(count) % classes


def optimizers(model, rate=1e-3):
    return CooperativeOptimizers(
        torch.optim.Adam(model.descriptor.parameters(), rate),
        torch.optim.Adam(model.generator.parameters(), rate),
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 17, 30), (1, 64, 64)])
def test_every_image_size_goes_round(shape):
    model = tiny(shape)
    images, labels = batch(4, shape)
    pair = model.contrastive_pair(labels)
    assert pair.positive.shape == pair.negative.shape == images.shape
    assert pair.positive.abs().max() <= 1
    assert model.energy(images, labels).shape == (4,)
    assert model.revise(pair.positive, labels).shape == images.shape
    assert model.outputs(images).shape == (4, 9)
    assert model.encode(images).shape == (4, 2)
    watched = cooperative_step(model, images, labels, optimizers(model), 0, 0)
    assert all(torch.isfinite(value) for value in watched.values())


def test_a_pair_shares_its_latent_and_differs_in_the_class():
    model = tiny()
    labels = torch.arange(3).repeat(20)
    pair = model.contrastive_pair(labels, seed=5)
    assert (pair.labels == labels).all() and (pair.negative_labels != labels).all()
    assert {int(n) for n in pair.negative_labels} == {0, 1, 2}
    again = model.contrastive_pair(labels, pair.negative_labels, pair.latent)
    assert torch.allclose(again.positive, pair.positive, atol=1e-6)
    assert not torch.equal(pair.latent, model.contrastive_pair(labels, seed=6).latent)


def test_making_a_pair_in_training_mode_teaches_nothing():
    """Batch statistics would move, and an image would depend on the others of its batch."""
    model, labels, latent = tiny(), torch.arange(3), torch.randn(3, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pair = model.train().contrastive_pair(labels, (labels + 1) % 3, latent)
    assert model.training and model.generator.training
    assert [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])] == []
    alone = model.contrastive_pair(labels[:1], labels[1:2], latent[:1])
    torch.testing.assert_close(alone.positive, pair.positive[:1])


def test_generator_uses_both_inputs_from_the_first_update():
    model = tiny()
    latent = torch.randn(8, 5)
    one = model.generator(torch.zeros(8, dtype=torch.int64), latent)
    other = model.generator(torch.ones(8, dtype=torch.int64), latent)
    assert (one - other).abs().mean() > 0.01
    assert (one[0] - one[1]).abs().mean() > 0.01


def test_revision_lowers_the_energy_without_noise():
    model = tiny(langevin_steps=20, langevin_step_size=0.3, langevin_noise=0.0)
    images, labels = batch()
    revised, energies = model.revise(images * 0.5, labels, return_energies=True)
    assert energies.shape == (21, 6)
    assert (energies[1:] <= energies[:-1] + 1e-6).all()
    torch.testing.assert_close(model.energy(revised, labels), energies[-1])
    assert not revised.requires_grad


def test_the_generator_learns_from_the_reconstruction_alone():
    """Eq. 2: no other loss may reach g, and the descriptor sees it times `variational_weight`."""
    images, labels = batch()
    grads = {}
    for weight in (1.0, 0.01):
        model = tiny(variational_weight=weight)
        loss, *_ = cooperative_loss(model, images, labels, 0, 0)
        loss.backward()
        grads[weight] = (
            [p.grad.clone() for p in model.generator.parameters()],
            model.descriptor.inference_head.weight.grad.clone(),
        )
    for strong, weak in zip(grads[1.0][0], grads[0.01][0], strict=True):
        torch.testing.assert_close(strong, weak)
    torch.testing.assert_close(grads[1.0][1] * 0.01, grads[0.01][1], rtol=1e-4, atol=1e-8)

    model = tiny(energy_weight=0.0, hash_weight=0.0, category_weight=0.0)
    loss, *_ = cooperative_loss(model, images, labels, 0, 0)
    loss.backward()
    for parameter, expected in zip(model.generator.parameters(), grads[1.0][0], strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_observed_images_take_their_share_of_the_variational_loss():
    """0 leaves them out, 1 leaves the chain's samples out, 1/4 is in between by weight."""
    images, labels = batch()
    found = {}
    for share in (0.0, 0.25, 1.0):
        model = tiny(observed_share=share, langevin_noise=0.0)
        model.generator.eval()  # batch statistics would mix the two
        torch.nn.init.constant_(model.descriptor.inference_head.weight, 0.0)
        bias = model.descriptor.inference_head.bias  # z~ is 0, whatever the image and the noise
        bias.data = torch.cat([torch.zeros(5), torch.full((5,), -50.0)])
        found[share] = cooperative_loss(model, images, labels, 0, 0)[1]["reconstruction"]
        if share == 1:
            decoded = model.generator(labels, torch.zeros(6, 5))
            torch.testing.assert_close(found[share], losses.reconstruction_loss(images, decoded))
    assert abs(found[0.0] - found[1.0]) > 1
    torch.testing.assert_close(found[0.25], 0.75 * found[0.0] + 0.25 * found[1.0])


def test_an_inference_head_that_shot_up_comes_back():
    """A cold optimizer can throw log std past where exp overflows; the KL brings it down again."""
    images, labels = batch()
    model = tiny(variational_weight=0.01)
    model.descriptor.inference_head.bias.data[5:] = 65.0
    chosen = optimizers(model)
    for update in range(40):
        watched = cooperative_step(model, images, labels, chosen, 0, update)
        assert all(math.isfinite(float(value)) for value in watched.values()), (update, watched)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    with torch.no_grad():
        log_std = model.descriptor.infer(model.descriptor.base(images))[1]
    assert float(log_std.max()) < 65


def test_a_draw_below_the_limit_is_the_plain_one_and_above_it_finite():
    mean, noise = torch.randn(4, 3), torch.randn(4, 3)
    log_std = torch.linspace(-5, losses.LOG_STD_LIMIT, 12).reshape(4, 3)
    assert torch.equal(draw_latent(mean, log_std, noise), mean + log_std.exp() * noise)
    assert bool(torch.isfinite(draw_latent(mean, log_std + 100, noise)).all())


def test_between_cooperative_updates_real_images_teach_alone():
    images, labels = batch()
    model = tiny(cooperate_every=3, observed_share=0.0)
    plain = tiny(cooperative=False)
    chosen, chosen_plain = optimizers(model), optimizers(plain)
    for update in (1, 2):
        watched = cooperative_step(model, images, labels, chosen, 0, update)
        assert watched.keys() == {"hash", "category", "gradient_norm"}
        cooperative_step(plain, images, labels, chosen_plain, 0, update)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "energy_real" in cooperative_step(model, images, labels, chosen, 0, 3)

    before = [p.detach().clone() for p in model.generator.parameters()]
    shared = tiny(cooperate_every=3)  # the inference head and the generator go on learning
    assert cooperative_step(shared, images, labels, optimizers(shared), 0, 1).keys() == {
        "hash", "category", "kl", "reconstruction", "gradient_norm", "generator_gradient_norm",
    }  # fmt: skip
    moved = [p for p in shared.generator.parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    assert shared.descriptor.inference_head.weight.grad.any()
    assert shared.descriptor.energy_head.weight.grad is None


@pytest.mark.parametrize("pairs", ["generated", "revised"])
def test_augmentation_reaches_hash_and_category_head_alone(pairs):
    """What generator, energy and inference head learn is as without; the rest sees each draw."""
    images, labels = batch()
    draws = []

    def mirror(x, draw):
        draws.append(draw)
        return x.flip(3)

    found = {}
    for name, augment in (("as it is", None), ("same", lambda x, draw: x), ("mirrored", mirror)):
        model = tiny(pairs=pairs, synthetic_from=0)
        loss, watched, _ = cooperative_loss(model, images, labels, 0, 0, augment)
        loss.backward()
        heads = [model.descriptor.energy_head, model.descriptor.inference_head, model.generator]
        grads = [[p.grad for p in head.parameters()] for head in heads]
        found[name] = watched, grads, model.descriptor.hash_head.weight.grad
    assert sorted(draws) == [0, 1, 2]
    for name in ("same", "mirrored"):
        torch.testing.assert_close(found[name][1], found["as it is"][1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["same"][2], found["as it is"][2], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found["mirrored"][2], found["as it is"][2], rtol=1e-2)
    for term in ("energy_real", "energy_revised", "kl", "reconstruction"):
        torch.testing.assert_close(found["mirrored"][0][term], found["as it is"][0][term])
    assert found["mirrored"][0]["category"] != found["as it is"][0]["category"]


def test_between_cooperative_updates_augmentation_reaches_the_heads_too():
    images, labels = batch()
    found = []
    for augment in (None, lambda x, draw: x.flip(3)):
        model = tiny(cooperate_every=2)
        found.append(cooperative_step(model, images, labels, optimizers(model), 0, 1, augment))
    assert found[0]["hash"] != found[1]["hash"] and found[0]["category"] != found[1]["category"]
    torch.testing.assert_close(found[0]["reconstruction"], found[1]["reconstruction"])


@pytest.mark.parametrize("ranking, loss", [
    ("triplet", lambda h, y: losses.batch_all_triplet_loss(h, y, 0.5 * 9)),
    ("contrastive", lambda h, y: losses.supervised_contrastive_loss(h, y, 0.25)),
    ("central",
     lambda h, y: losses.central_contrastive_loss(h, y, losses.hash_centers(3, 9), 0.25)),
])  # fmt: skip
def test_the_form_of_the_ranking_loss(ranking, loss):
    images, labels = batch()
    model = tiny(ranking=ranking, cooperative=False, quantization_weight=0.0)
    h = torch.tanh(model.hash_outputs(model.base_features(images)))
    watched = cooperative_step(model, images, labels, optimizers(model), 0, 0)
    torch.testing.assert_close(watched["hash"], loss(h, labels).detach())


@pytest.mark.parametrize("pairs", ["generated", "revised"])
@pytest.mark.parametrize("triplets", ["all", "pair"])
def test_synthetic_triplets_wait_for_their_update(pairs, triplets):
    images, labels = batch()
    model = tiny(synthetic_from=3, pairs=pairs, synthetic_triplets=triplets)
    model.generator.eval()  # batch statistics would otherwise differ between the two calls
    without = tiny(synthetic_weight=0.0)
    before = float(cooperative_loss(model, images, labels, 0, 2)[1]["hash"])
    after = float(cooperative_loss(model, images, labels, 0, 3)[1]["hash"])
    assert before == pytest.approx(
        float(cooperative_loss(without, images, labels, 0, 2)[1]["hash"])
    )
    assert after != pytest.approx(before)

    real = {}  # cross-entropy of x~ and x- waits as well
    for update, weight in ((2, 1.0), (3, 1.0), (3, 0.0)):
        model = tiny(synthetic_from=3, synthetic_category_weight=weight)
        model.generator.eval()
        real[update, weight] = cooperative_loss(model, images, labels, 0, update)[1]["category"]
    torch.testing.assert_close(real[2, 1.0], real[3, 0.0])
    assert real[3, 1.0] > 2 * real[3, 0.0]


def test_steps_are_reproducible_and_the_seed_counts():
    images, labels = batch()

    def run(seed):
        model = tiny()
        chosen = optimizers(model)
        for update in range(3):
            cooperative_step(model, images, labels, chosen, seed, update)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_gradient_norms_are_watched():
    """Of the whole gradients, by hand; the descriptor's before it is clipped."""
    images, labels = batch()
    model = tiny(gradient_clip=1e-3)
    loss, *_ = cooperative_loss(model, images, labels, 0, 0)
    loss.backward()
    expected = [
        torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None]).norm()
        for part in (model.descriptor, model.generator)
    ]
    watched = cooperative_step(tiny(gradient_clip=1e-3), images, labels, optimizers(model), 0, 0)
    torch.testing.assert_close(watched["gradient_norm"], expected[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(watched["generator_gradient_norm"], expected[1], rtol=1e-4, atol=0)
    assert watched["gradient_norm"] > 1e-3
    plain = tiny(cooperative=False)
    assert "generator_gradient_norm" not in cooperative_step(
        plain, images, labels, optimizers(plain), 0, 0
    )


def test_the_plain_model_leaves_generator_energy_and_inference_alone():
    images, labels = batch()
    model = tiny(cooperative=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cooperative_step(model, images, labels, optimizers(model), 0, 0)
    for name, value in model.state_dict().items():
        trained = name.startswith(
            ("descriptor.base", "descriptor.hash_head", "descriptor.category_head")
        )
        assert torch.equal(value, before[name]) != trained, name


def test_initial_weights_depend_on_the_seed_and_not_on_the_global_stream():
    torch.manual_seed(1)
    first = tiny(seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = tiny(seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["descriptor.hash_head.weight"],
                           tiny(seed=4).state_dict()["descriptor.hash_head.weight"])  # fmt: skip


def test_encode_takes_numpy_torch_and_bytes_alike():
    model = tiny()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 12, 12), np.uint8)
    floats = pixels.astype(np.float32) / 127.5 - 1
    codes = model.encode(pixels, batch_size=3)
    assert isinstance(codes, np.ndarray) and codes.dtype == np.uint8 and codes.shape == (7, 2)
    assert np.array_equal(codes, model.encode(floats))
    assert np.array_equal(codes, model.encode(torch.from_numpy(floats)).numpy())
    images = ch.data.ImageSet(pixels, np.zeros(7, np.int64), ("a", "b", "c"))
    assert np.array_equal(codes, model.encode(images))
    assert np.array_equal(ch.unpack(codes, 9) > 0, model.outputs(floats).numpy() >= 0)
    assert model.encode(pixels[:0]).shape == (0, 2)
    assert model.classify(pixels).shape == (7,)


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((2, 3, 12, 12), np.float32), "1, 12, 12"),
        (np.full((2, 1, 12, 12), np.nan, np.float32), "NaN"),
        (np.full((2, 1, 12, 12), 255.0, np.float32), "127.5"),
        (np.zeros((12, 12), np.float32), "1, 12, 12"),
    ],
)
def test_encode_says_what_is_wrong(images, words):
    with pytest.raises((ValueError, TypeError), match=words):
        tiny().encode(images)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(bits=0), ValueError, "bits must be from 1 to 4096, got 0"),
        (dict(bits=5000), ValueError, "bits"),
        (dict(bits=4.0), TypeError, "bits must be int"),
        (dict(classes=1), ValueError, "classes must be at least 2"),
        (dict(image_shape=(2, 28, 28)), ValueError, "image_shape"),
        (dict(image_shape=(1, 4, 28)), ValueError, "from 8 to 64"),
        (dict(langevin_step_size=0.0), ValueError, "langevin_step_size must be above 0"),
        (dict(energy_weight=-1.0), ValueError, "energy_weight"),
        (dict(margin=float("nan")), ValueError, "margin must be finite"),
        (dict(pairs="both"), ValueError, "pairs must be one of"),
        (dict(ranking="soft"), ValueError, "ranking must be one of"),
        (dict(temperature=0.0), ValueError, "temperature must be above 0"),
        (dict(bits=1), ValueError, "only 2 codes for its centres; or take more bits"),
        (dict(cooperative=1), TypeError, "cooperative must be bool"),
        (dict(langevin_setps=3), TypeError, "unknown option 'langevin_setps'"),
        (dict(class_names=("a",)), ValueError, "class_names must be 3 names"),
    ],
)
def test_settings_out_of_range_name_themselves(change, error, words):
    settings = {"bits": 8, "classes": 3, "image_shape": (1, 28, 28), **change}
    with pytest.raises(error, match=words):
        ch.CoopHash(**settings)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((torch.tensor([0, 3]),), "labels must be from 0 to 2, got 0 to 3"),
        ((torch.tensor([0.0, 1.0]),), "labels must be integer"),
        ((torch.tensor([0, 1]), torch.tensor([1])), "negative_labels"),
        ((torch.tensor([0, 1]), torch.tensor([1, 1])), "must differ"),
        ((torch.tensor([0, 1]), None, torch.zeros(2, 4)), "latent must be"),
    ],
)
def test_pairs_say_what_is_wrong(arguments, words):
    with pytest.raises(ValueError, match=words):
        tiny().contrastive_pair(*arguments)


def test_every_setting_is_documented():
    for field in dataclasses.fields(CoopHashConfig):
        assert field.name in (CoopHashConfig.__doc__ or ""), field.name


def test_centred_latents_carry_no_class_mean():
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    latent = torch.randn(6, 5) + 10 * labels[:, None]
    centred = centre_by_class(latent, labels, 4)
    for row in range(6):
        mates = latent[labels == labels[row]]
        expected = latent[row] - mates.mean(0) * (1 - 1 / len(mates))
        torch.testing.assert_close(centred[row], expected)
    torch.testing.assert_close(centred[3], latent[3])  # alone in its class
    many = torch.arange(4).repeat(500)
    shifted = torch.randn(2000, 5) + 10 * many[:, None]
    for label in range(4):
        assert centre_by_class(shifted, many, 4)[many == label].mean(0).abs().max() < 0.1


def test_random_source_and_other_classes():
    a, b = (torch.rand(4, generator=random_source(torch.device("cpu"), 0, u)) for u in (0, 1))
    assert not torch.equal(a, b)
    labels = torch.arange(5).repeat(400)
    others = other_classes(labels, 5, random_source(torch.device("cpu"), 0, 0))
    counts = torch.bincount(others[labels == 2], minlength=5)
    assert counts[2] == 0 and (counts[[0, 1, 3, 4]] > 60).all()


def generator_gradients(model, augment=None, **batch_options):
    images, labels = batch(**batch_options)
    cooperative_loss(model, images, labels, 0, 0, augment).loss.backward()
    return [p.grad for p in model.generator.parameters()]


@pytest.mark.parametrize("pairs", ["revised", "generated"])
def test_hash_and_category_loss_teach_the_generator_by_pair_gradient(pairs):
    from coophash.augmentation import shift_and_flip

    def augment(images, draw):
        return shift_and_flip(images, 1, True, 0, 0, draw)

    found = {
        weight: generator_gradients(tiny(pair_gradient=weight, pairs=pairs), augment)
        for weight in (0.0, 1.0, 3.0)
    }
    for none, one, three in zip(*found.values(), strict=True):
        torch.testing.assert_close(3 * (one - none), three - none, rtol=1e-3, atol=2e-5)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(found[0.0], found[1.0], strict=True))


def test_pair_gradient_is_that_of_the_synthetic_losses():
    """By hand: what the cross-entropy of x- under c- gives, beside the gradient of Eq. 2."""
    images, labels = batch()
    model = tiny(
        pair_gradient=0.5, energy_weight=0.0, hash_weight=0.0, category_weight=0.0,
        synthetic_weight=0.0, quantization_weight=0.0,
    )  # fmt: skip
    plain = generator_gradients(tiny(
        energy_weight=0.0, hash_weight=0.0, category_weight=0.0, synthetic_weight=0.0,
        quantization_weight=0.0,
    ))  # fmt: skip
    ours = generator_gradients(model)
    source = random_source(images.device, 0, 0)
    latent = torch.randn(6, 5, generator=source)
    others = other_classes(labels, 3, source)
    again = tiny()
    made = again.generator(torch.cat([labels, others]), latent.repeat(2, 1))[6:]
    logits = again.descriptor.category_head(again.descriptor.base(made))
    (0.5 * torch.nn.functional.cross_entropy(logits, others)).backward()
    for a, b, parameter in zip(ours, plain, again.generator.parameters(), strict=True):
        torch.testing.assert_close(a - b, parameter.grad, rtol=1e-3, atol=1e-5)


def test_pair_noise_is_one_draw_for_both_images(monkeypatch):
    import coophash.coop as module

    seen, original = {}, module.shared_features

    def watching(model, x, positive, revised, negative, augment):
        seen[model.config.pair_noise] = positive, negative, revised
        return original(model, x, positive, revised, negative, augment)

    monkeypatch.setattr(module, "shared_features", watching)
    for sigma in (0.0, 0.3):
        cooperative_loss(tiny(pair_noise=sigma, pairs="generated"), *batch(), 0, 0)
    added = [noisy - clean for noisy, clean in zip(seen[0.3][:2], seen[0.0][:2], strict=True)]
    torch.testing.assert_close(added[0], added[1], atol=1e-6, rtol=0)
    assert 0.25 < added[0].std() < 0.35
    assert torch.equal(seen[0.3][2], seen[0.0][2])  # the chain starts without it


def weights_after(order, descriptor_rate, update=0, **options):
    model = tiny(update_order=order, **options)
    chosen = CooperativeOptimizers(
        torch.optim.SGD(model.descriptor.parameters(), descriptor_rate),
        torch.optim.SGD(model.generator.parameters(), 1e-2),
    )
    cooperative_step(model, *batch(), chosen, 0, update)
    return [
        [p.detach().clone() for p in m.parameters()] for m in (model.descriptor, model.generator)
    ]


@pytest.mark.parametrize(
    "options", [{}, {"cooperate_every": 2, "update": 1}, {"without": "energy"}]
)
def test_the_descriptor_may_be_updated_first(options):
    """Its own update is the same; the generator's differs by what it changed, and by no more."""
    together, first = (weights_after(o, 1e-1, **options) for o in ("together", "descriptor first"))
    for a, b in zip(together[0], first[0], strict=True):
        assert torch.equal(a, b)
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(together[1], first[1], strict=True))
    still = [weights_after(o, 0.0, **options)[1] for o in ("together", "descriptor first")]
    for a, b in zip(*still, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_pair_options_that_do_not_go_together():
    with pytest.raises(ValueError, match='update_order must be "together" with a pair_gradient'):
        tiny(pair_gradient=1.0, update_order="descriptor first")
    with pytest.raises(ValueError, match="pair_gradient must be 0 without the generator"):
        tiny(pair_gradient=1.0, without="generator")
    with pytest.raises(ValueError, match='pairs must be "generated" with a pair_noise'):
        tiny(pair_noise=0.3)
