"""CoopHash without one of its parts: what the part brings is what is lost without it.

A part cannot always just be left out: some other part may learn from it. What stands in for it is
said here, and is the least that leaves the rest a method that can learn (our reading; the paper's
own ablation is not public). `CoopHashConfig.without` chooses:

    generator  No g. Chains start where they stopped last, in a memory of 100 images a class, a
               twentieth of them from uniform noise, as in JEM (Grathwohl et al., ICLR 2020).
               Of several labels a set is remembered under one, drawn.
               The pair (x+, x-) comes from the chains under c and c-; it shares no latent. Nothing
               is decoded, so the inference head goes with the generator.
    energy     No f_E, so no chain and no x~. The generator and the inference head learn as a
               conditional VAE of the real images. x+ and x- are as generated.
    langevin   No chain: x~ would be x+ itself, and Eq. 2 would teach the generator its own
               images. The energy tells real images from x+; the generator learns from real images,
               as without the energy.
    inference  No q(z | x). The generator learns from the z that started the chain, as CoopNets
               and conditional CoopNets do: ||x~ - g(c, z)||^2.
    category   No p(c | x): no cross-entropy, of real images or of synthetic ones.

Without any cooperative part (`cooperative=False`) what is left is the ranking loss and the
cross-entropy of real images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coophash import losses, replay
from coophash.coop import CoopHash
from coophash.coop_terms import (
    Augment,
    UpdateLoss,
    category_loss,
    energy_terms,
    other_classes,
    random_source,
    real_hash_loss,
    shared_features,
    synthetic_category_loss,
    synthetic_hash_loss,
    teach,
    with_pair_noise,
)

RESTART = 0.05  # share of the chains that begin anew at each update, as in JEM


def observed_loss(
    model: CoopHash, x: Tensor, labels: Tensor, seed: int, update: int,
    augment: Augment | None = None,
) -> UpdateLoss:  # fmt: skip
    """What real images alone teach: hash and category head, and the variational part if it may."""
    c, descriptor = model.config, model.descriptor
    from_data = c.observed_share > 0 or c.without in ("energy", "langevin")
    variational = c.cooperative and from_data and c.without not in ("generator", "inference")
    features = descriptor.base(x if augment is None else augment(x, 0))
    loss = real_hash_loss(model, torch.tanh(descriptor.hash_head(features)), labels)
    watched = {"hash": loss}
    reteach = None
    if c.without != "category":
        category = category_loss(descriptor.category_head(features), labels)
        watched["category"] = c.category_weight * category
        loss = loss + watched["category"]
    if variational:
        source = random_source(x.device, seed, update)
        low = model.reduced(x)
        low_f = features if augment is None and low is x else descriptor.base(low)
        taught, terms, reteach = teach(model, [(low, low_f, 1.0)], labels, source)
        loss, watched = loss + taught, watched | terms
    return UpdateLoss(loss, {name: value.detach() for name, value in watched.items()}, reteach)


def ablated_loss(
    model: CoopHash, x: Tensor, labels: Tensor, seed: int, update: int,
    augment: Augment | None = None,
) -> UpdateLoss:  # fmt: skip
    """The loss of one update without `model.config.without`; with "" that of the whole method.

    Args:
        x: (B, C, H, W) in [-1, 1]; labels: (B,) or multi-hot (B, classes).
        seed, update: of all draws.

    Returns:
        The loss, a scalar; what to watch, 0-d tensors, without what is not there; and what
        `update_order` asks for.
    """
    c, descriptor, without = model.config, model.descriptor, model.config.without
    source = random_source(x.device, seed, update)
    latent = torch.randn(len(x), c.latent_dim, generator=source, device=x.device)
    others = other_classes(labels, c.classes, source)
    if without == "generator":
        positive, negative, moved = chained_pair(model, labels, others, source, seed, update)
        revised = positive
    else:
        pair = model._pair(labels, others, latent, c.pair_gradient)
        positive, negative = pair.positive, pair.negative
        revised = positive.detach() if c.pair_gradient else positive
        moved = x.new_zeros(())
        if without not in ("energy", "langevin"):
            revised, moved = model._chain(revised, labels, source, seed, update)
    positive, negative = with_pair_noise(model, positive, negative, source)

    f = shared_features(model, x, positive, revised, negative, augment)
    total = x.new_zeros(())
    watched: dict[str, Tensor] = {}
    reteach = None

    if without != "energy":
        energy = energy_terms(model, f.low, revised, f.real, f.revised, labels, source)
        total = total + energy.loss
        watched |= energy.watched
        if without != "langevin":
            watched["chain_move"] = moved

    if without == "inference":
        taught = losses.reconstruction_loss(revised, model.generator(labels, latent))
        total = total + taught
        watched["reconstruction"] = taught
    elif without != "generator":
        share = 1.0 if without in ("energy", "langevin") else c.observed_share
        taught, terms, reteach = teach(
            model, [(revised, f.revised, 1 - share), (f.low, f.real, share)], labels, source
        )
        total = total + taught
        watched |= terms

    real_h = torch.tanh(descriptor.hash_head(f.hashed))
    hash_loss = real_hash_loss(model, real_h, labels)
    if update >= c.synthetic_from:
        hash_loss = hash_loss + synthetic_hash_loss(
            model, real_h, f.near, f.negative, labels, others
        )
    total = total + hash_loss
    watched["hash"] = hash_loss

    if without != "category":
        category = c.category_weight * category_loss(descriptor.category_head(f.hashed), labels)
        if update >= c.synthetic_from:
            category = category + synthetic_category_loss(
                model, f.named, f.negative, labels, others
            )
        total = total + category
        watched["category"] = category
    return UpdateLoss(total, {name: value.detach() for name, value in watched.items()}, reteach)


@torch.no_grad()
def chained_pair(
    model: CoopHash, labels: Tensor, others: Tensor, source: torch.Generator, seed: int, update: int
) -> tuple[Tensor, Tensor, Tensor]:
    """x+ and x- of persistent chains under c and c-, and how far a pixel moved on average.

    The chains go on in `model.replay`, (classes, REPLAY, C, H, W), which is written to.
    """
    memory, under = replay.Memory(model.get_buffer("replay")), torch.cat([labels, others])
    places = memory.choose(under, source)
    start = memory.read(places)
    shape = (len(under), 1, 1, 1)
    anew = torch.rand(shape, generator=source, device=labels.device) < RESTART
    noise = 2 * torch.rand(start.shape, generator=source, device=labels.device) - 1
    start = torch.where(anew, noise, start)
    steps = model.config.langevin_steps
    revised: Tensor = model._revise(start, under, seed, first_step=update * steps)
    memory.write(places, revised)
    positive, negative = revised.chunk(2)
    return positive, negative, (revised - start).abs().mean()
