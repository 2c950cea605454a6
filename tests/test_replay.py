"""The replay memory: places, what goes on from it, and that none of it costs when it is off."""

import pytest
import torch

import coophash as ch
from coophash.ablation import ablated_loss
from coophash.coop import _cooperative_loss as cooperative_loss
from coophash.coop_terms import random_source
from coophash.replay import REPLAY, Memory, new_memory

SMALL = dict(base_channels=2, features=8, generator_channels=2, latent_dim=3, langevin_steps=2,
             synthetic_from=0)  # fmt: skip


def tiny(**options):
    return ch.CoopHash(8, 3, (1, 8, 8), **{**SMALL, **options})


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def data(count=9):
    return torch.rand(count, 1, 8, 8, generator=source()) * 2 - 1, torch.arange(count) % 3


def test_no_two_chains_have_one_place():
    memory = Memory(*new_memory(2, (1, 2, 2), seed=0))
    labels = torch.zeros(REPLAY + 7, dtype=torch.int64)
    places = memory.choose(labels, source())
    assert places.own.sum() == REPLAY and not places.own[-7:].any()
    assert len(set(places.rows[places.own].tolist())) == REPLAY
    images = torch.arange(REPLAY + 7.0)[:, None, None, None].expand(-1, 1, 2, 2)
    other = memory.images[1].clone()
    memory.write(places, images)
    assert torch.equal(memory.read(places)[:REPLAY], images[:REPLAY])
    assert set(memory.images[0].flatten().tolist()) == set(map(float, range(REPLAY)))
    assert torch.equal(memory.images[1], other) and memory.filled.sum(1).tolist() == [REPLAY, 0]


def test_chains_go_on_only_from_what_was_written():
    memory = Memory(*new_memory(3, (1, 8, 8), seed=0))
    generated, labels = data()
    start, places = memory.starts(generated, labels, 1.0, source())
    assert torch.equal(start, generated), "nothing was written yet"
    memory.write(places, generated - 5)
    again, same = memory.starts(generated, labels, 1.0, source())
    assert torch.equal(same.rows, places.rows) and torch.equal(again, generated - 5)


def test_the_share_is_of_the_chains():
    memory = Memory(*new_memory(2, (1, 1, 1), seed=0))
    memory.images.fill_(7), memory.filled.fill_(True)
    labels = torch.arange(200) % 2
    start, _ = memory.starts(torch.zeros(200, 1, 1, 1), labels, 0.25, source())
    assert set(start.flatten().tolist()) == {0.0, 7.0}
    assert float((start == 7).float().mean()) == pytest.approx(0.25, abs=0.08)


def test_the_second_update_goes_on_where_the_first_stopped():
    model, (x, labels) = tiny(replay=1.0, langevin_noise=0.0), data()
    cooperative_loss(model, x, labels, 0, 0)
    assert model.replay_filled.sum(1).tolist() == [3, 3, 3]
    written = model.replay[model.replay_filled].clone()
    pair, seen = model.contrastive_pair(labels).positive, []
    model.replay_filled.fill_(True)
    memory = model.replay.clone()
    revise = model._revise
    model._revise = lambda start, *rest: (seen.append(start), revise(start, *rest))[1]
    model._chain(pair, labels, source(), 0, 1)
    flat = memory.flatten(0, 1).flatten(1)
    for image in seen[0].flatten(1):
        assert (flat == image).all(1).any(), "every chain starts in the memory"
    assert len(written) == 9


def test_off_draws_nothing_and_keeps_nothing():
    model, (x, labels) = tiny(), data()
    assert not [name for name in model.state_dict() if "replay" in name]
    generator = random_source(x.device, 0, 0)
    before = generator.get_state()
    start = model.contrastive_pair(labels).positive
    revised, moved = model._chain(start, labels, generator, 0, 3)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(revised, model.revise(start, labels, 0, first_step=6))
    assert moved == (revised - start).abs().mean()


@pytest.mark.parametrize("several", [False, True])
def test_the_loss_here_and_in_the_ablation_are_one_formula(several):
    """With every stability option on."""
    options = dict(replay=0.7, gradient_penalty=0.3, gradient_penalty_at="interpolates",
                   spectral_norm="both")  # fmt: skip
    found, (x, labels) = [], data()
    if several:
        labels = torch.eye(3)[labels] + (torch.arange(9) < 4).float()[:, None] * torch.eye(3)[2]
        labels = labels.clamp(max=1)
    for loss in (cooperative_loss, ablated_loss):
        model = tiny(**options)
        for update in (3, 4):  # the second goes on from the first
            value, watched, _ = loss(model, x, labels, 3, update)
        found.append((value.detach(), watched, model.replay))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][2], found[1][2])
    assert found[0][1].keys() == found[1][1].keys()
    assert "gradient_penalty" in found[0][1]


def test_images_are_not_averaged():
    model = tiny(replay=1.0)
    ch.fit(model, data(24), updates=4, batch_size=12, progress=False, averaging=0.9)
    kept = model.replay[model.replay_filled]
    plain = tiny(replay=1.0)
    ch.fit(plain, data(24), updates=4, batch_size=12, progress=False, averaging=0.0)
    assert torch.equal(kept, plain.replay[plain.replay_filled])


@pytest.mark.parametrize("without", ["generator", "energy", "langevin", "inference"])
def test_parts_that_it_needs(without):
    with pytest.raises(ValueError, match=f"replay must be 0 without {without}, got 0.5"):
        tiny(replay=0.5, without=without)
    tiny(replay=0.5, without="category")
    with pytest.raises(ValueError, match="replay must be from 0 to 1, got 1"):
        tiny(replay=1.5)
