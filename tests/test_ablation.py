"""CoopHash without a part: what stands in for it, and what is left alone."""

import pytest
import torch

import coophash as ch
from coophash import losses
from coophash.ablation import ablated_loss, chained_pair
from coophash.coop import CooperativeOptimizers, cooperative_step
from coophash.coop import _cooperative_loss as cooperative_loss
from coophash.coop_config import PARTS
from coophash.coop_terms import random_source
from coophash.replay import REPLAY

SMALL = dict(base_channels=4, features=16, generator_channels=2, latent_dim=5, langevin_steps=2,
             synthetic_from=0)  # fmt: skip
SHAPE = (1, 12, 12)
LEFT_OUT = [part for part in PARTS if part]


def tiny(without="", **options):
    return ch.CoopHash(9, 3, SHAPE, **{**SMALL, "without": without, **options})


def batch(count=9, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.rand(count, *SHAPE, generator=source) * 2 - 1, torch.arange(count) % 3


def optimizers(model, rate=1e-2):
    return CooperativeOptimizers(
        torch.optim.Adam(model.descriptor.parameters(), rate),
        torch.optim.Adam(model.generator.parameters(), rate),
    )


@pytest.mark.parametrize("pairs", ["generated", "revised"])
@pytest.mark.parametrize("triplets", ["all", "pair"])
@pytest.mark.parametrize("augment", [None, lambda x, draw: x.roll(draw + 1, 3)])
def test_without_nothing_it_is_the_whole_method(pairs, triplets, augment):
    """The loss here and that of coop.py are one formula: change both."""
    found = {}
    for name, loss in (("whole", cooperative_loss), ("here", ablated_loss)):
        model = tiny(pairs=pairs, synthetic_triplets=triplets)
        value, watched, _ = loss(model, *batch(), 3, 7, augment)
        value.backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters()])
        found[name] = value.detach(), grads, watched
    torch.testing.assert_close(found["here"][0], found["whole"][0])
    torch.testing.assert_close(found["here"][1], found["whole"][1], rtol=1e-4, atol=1e-6)
    assert found["here"][2].keys() == found["whole"][2].keys()
    for name, value in found["whole"][2].items():
        torch.testing.assert_close(found["here"][2][name], value)


@pytest.mark.parametrize("without", LEFT_OUT)
def test_what_is_left_out_stays_as_it_was_and_the_rest_learns(without):
    model = tiny(without)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = optimizers(model)
    for update in range(3):
        watched = cooperative_step(model, *batch(), chosen, 0, update)
        assert all(torch.isfinite(value) for value in watched.values())
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    parts = {
        "generator": ("generator.", "descriptor.inference_head."),
        "energy": ("descriptor.energy_head.",),
        "langevin": (),
        "inference": ("descriptor.inference_head.",),
        "category": ("descriptor.category_head.",),
    }
    still = {name for name in before if not name.startswith(parts[without]) or not parts[without]}
    still -= {"centers"}  # of the ranking loss: fixed
    running = {name for name in before if "norm" in name}  # batch statistics move with any pass
    bias = {name for name in before if name == "generator.dense.bias"}
    assert changed - running <= still
    assert still - running - bias <= changed


WATCHED = {
    "generator": {"energy_real", "energy_revised", "chain_move", "hash", "category"},
    "energy": {"kl", "reconstruction", "hash", "category"},
    "langevin": {"energy_real", "energy_revised", "kl", "reconstruction", "hash", "category"},
    "inference": {"energy_real", "energy_revised", "chain_move", "reconstruction", "hash",
                  "category"},
    "category": {"energy_real", "energy_revised", "chain_move", "kl", "reconstruction", "hash"},
}  # fmt: skip


@pytest.mark.parametrize("without", LEFT_OUT)
def test_only_what_is_there_is_watched(without):
    assert ablated_loss(tiny(without), *batch(), 0, 0)[1].keys() == WATCHED[without]


@pytest.mark.parametrize("without", ["energy", "langevin"])
def test_without_a_chain_the_generator_learns_from_real_images(without):
    """A constant image is the best answer to constant images."""
    model, (_, labels) = tiny(without, centre_latent=False), batch()
    x = torch.full((9, *SHAPE), 0.5)
    chosen = optimizers(model)
    for update in range(80):
        watched = cooperative_step(model, x, labels, chosen, 0, update)
    assert float(watched["reconstruction"]) < 0.05 * x[0].numel()


def test_without_the_inference_head_the_known_latent_teaches():
    model, (x, labels) = tiny("inference"), batch()
    source = random_source(x.device, 4, 2)
    latent = torch.randn(9, 5, generator=source)
    start = model.contrastive_pair(labels, (labels + 1) % 3, latent).positive
    _, watched, _ = ablated_loss(model, x, labels, 4, 2)
    other = (labels + torch.randint(1, 3, (9,), generator=source)) % 3
    start = model._pair(labels, other, latent).positive
    revised = model.revise(start, labels, 4, first_step=2 * 2)
    expected = losses.reconstruction_loss(revised, model.generator(labels, latent))
    torch.testing.assert_close(watched["reconstruction"], expected.detach(), rtol=1e-3, atol=1e-3)


def test_without_the_generator_chains_go_on_where_they_stopped():
    model, (_, labels) = tiny("generator"), batch()
    assert model.replay.shape == (3, REPLAY, *SHAPE) and model.replay.abs().max() <= 1
    before = model.replay.clone()
    others = (labels + 1) % 3
    source = random_source(labels.device, 0, 0)
    positive, negative, moved = chained_pair(model, labels, others, source, 0, 0)
    assert positive.shape == negative.shape == (9, *SHAPE) and moved > 0
    rows = (model.replay != before).flatten(2).any(2)
    assert rows.sum(1).tolist() == [6, 6, 6], "three chains as c and three as c- of each class"
    kept = model.replay[rows].flatten(1)
    for image in torch.cat([positive, negative]).flatten(1):
        assert (kept == image).all(1).any()
    assert torch.equal(tiny("generator").replay, before), "the seed of the model fixes the start"


@pytest.mark.parametrize("without", LEFT_OUT)
def test_training_stops_and_resumes_to_the_same_weights(without, tmp_path):
    source = torch.Generator().manual_seed(0)
    images = (torch.rand(24, *SHAPE, generator=source) * 2 - 1, torch.arange(24) % 3)
    settings = dict(updates=6, batch_size=8, progress=False, averaging=0.5)
    whole = tiny(without)
    ch.fit(whole, images, **settings)
    finished = False
    while not finished:
        model = tiny(without)
        history = ch.fit(model, images, **settings, folder=tmp_path, resume=True, time_limit=0)
        finished = history.finished
    for name, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    loaded = ch.load(tmp_path)
    assert loaded.config.without == without
    assert loaded.method == f"CoopHash without {without}"
    assert torch.equal(loaded.encode(images[0]), model.encode(images[0]))


LABELS = torch.tensor([0, 1])
CALLS = {
    "pair": lambda model: model.contrastive_pair(LABELS),
    "energy": lambda model: model.energy(torch.zeros(2, *SHAPE), LABELS),
    "revise": lambda model: model.revise(torch.zeros(2, *SHAPE), LABELS),
    "classify": lambda model: model.classify(torch.zeros(2, *SHAPE)),
}
UNTAUGHT = {
    "generator": {"pair": "generator: it cannot make pairs"},
    "energy": {"energy": "energy: it cannot tell how likely", "revise": "energy: it cannot revise"},
    "langevin": {},
    "inference": {},
    "category": {"classify": "category: it cannot classify images"},
    "plain": {name: "cooperative part: it cannot" for name in ("pair", "energy", "revise")},
}


@pytest.mark.parametrize("without", UNTAUGHT)
def test_a_part_that_was_not_trained_does_not_answer(without):
    model = tiny(cooperative=False) if without == "plain" else tiny(without)
    for name, call in CALLS.items():
        if message := UNTAUGHT[without].get(name):
            with pytest.raises(ValueError, match=f"this model is without its {message}"):
                call(model)
        else:
            call(model)


def test_unknown_parts_are_named():
    with pytest.raises(ValueError, match="without must be one of"):
        tiny("hash")
