"""One cooperative update of CoopHash, beside the same update in plain PyTorch.

    OMP_NUM_THREADS=1 pytest benchmarks/bench_training.py --benchmark-only
    OMP_NUM_THREADS=1 python benchmarks/bench_training.py        # where the time goes, as a table

    plain            as one writes it from the paper: a chain by autograd, the two objectives one
                     after the other, each image through the descriptor when it is needed
    plain, one pass  the same with all images in one pass of the descriptor, and one decoding for
                     both objectives

Losses and gradients of all three are first made sure to be equal, on the same draws and without the
chain's noise. Every update is a cooperative one; by default (`cooperate_every`) each second is.
"""

from __future__ import annotations

import copy
import time

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.profiler import ProfilerActivity, profile, record_function  # noqa: E402

import coophash as ch  # noqa: E402
from coophash.coop import CooperativeOptimizers, cooperative_step  # noqa: E402
from coophash.coop_terms import random_source  # noqa: E402

SIZES = [(1, 28), (3, 32)]
BATCH, CLASSES, BITS = 64, 10, 32
FROM = 100  # an update at which synthetic images count


def base_features(base, x):
    for layer in base.convolutions:
        x = F.leaky_relu(
            F.conv2d(x, layer.weight, layer.bias, stride=2, padding=layer.padding), 0.1
        )
    return F.leaky_relu(base.dense(x.flatten(1)), 0.1)


def plain_ranking(h, labels, centers, temperature):
    """-log softmax of the images of the same class and its centre among all others: (B, B + C)."""
    points = torch.cat([h, centers])
    classes = torch.cat([labels, torch.arange(len(centers), device=h.device)])
    similarity = h @ points.T / h.shape[1] / temperature
    itself = torch.zeros_like(similarity, dtype=torch.bool).fill_diagonal_(True)
    log_share = similarity - similarity.masked_fill(itself, -1e9).logsumexp(1, keepdim=True)
    alike = ((labels[:, None] == classes[None, :]) & ~itself).float()
    return -((alike * log_share).sum(1) / alike.sum(1)).mean()


class Plain:
    """A cooperative update with the default settings of `CoopHashConfig`."""

    def __init__(self, model, optimizers, one_pass):
        self.model, self.optimizers, self.one_pass = model, optimizers, one_pass
        self.c, self.d, self.g = model.config, model.descriptor, model.generator

    def energy(self, features, labels):
        return self.d.energy_head(features).gather(1, labels[:, None])[:, 0]

    def chain(self, x, labels):
        delta = self.c.langevin_step_size
        for _ in range(self.c.langevin_steps):
            x = x.detach().requires_grad_()
            energy = self.energy(base_features(self.d.base, x), labels).sum()
            (grad,) = torch.autograd.grad(energy, x)
            noise = delta * self.c.langevin_noise * torch.randn_like(x)
            x = (x - 0.5 * delta**2 * grad + noise).clamp(-1, 1)
        return x.detach()

    def centred(self, mean, labels):
        out = []
        for label, z in zip(labels, mean, strict=True):
            mates = mean[labels == label]
            out.append(z - mates.mean(0) * (1 - 1 / len(mates)))
        return torch.stack(out)

    def losses(self, x, labels, seed, update):
        """Losses of descriptor and generator."""
        c, d, g = self.c, self.d, self.g
        source = random_source(x.device, seed, update)
        z = torch.randn(len(x), c.latent_dim, generator=source, device=x.device)
        shift = torch.randint(1, c.classes, labels.shape, generator=source, device=x.device)
        others = (labels + shift) % c.classes
        with torch.no_grad():
            both = g(torch.cat([labels, others]), torch.cat([z, z]))
            positive, negative = both[: len(x)], both[len(x) :]
        revised = self.chain(positive, labels)

        images = [x, revised, negative]
        if self.one_pass:
            features = base_features(d.base, torch.cat(images)).chunk(3)
        else:
            features = [base_features(d.base, image) for image in images]
        real_f, revised_f, negative_f = features

        real, synthetic = self.energy(real_f, labels), self.energy(revised_f, labels)
        energy = real.mean() - synthetic.mean()
        wide = F.relu(synthetic.mean() - real.mean()).detach()
        energy = energy * 2 * torch.sigmoid(-wide / c.energy_gap)
        energy = energy + c.energy_penalty * (real.square().mean() + synthetic.square().mean())

        means, stds = [], []
        for f in (revised_f, real_f):
            mean, log_std = d.inference_head(f).chunk(2, dim=1)
            means.append(self.centred(mean, labels) if not self.one_pass else mean)
            stds.append(log_std)
        if self.one_pass:  # the means of all classes at once
            hot = F.one_hot(labels, c.classes).float()
            count = hot.sum(0).clamp_min(1)
            share = (hot / count) @ (hot * (1 - 1 / count)).T
            means = [mean - share.T @ mean for mean in means]
        kl = [0.5 * (m**2 + (2 * s).exp() - 1 - 2 * s).sum(1).mean()
              for m, s in zip(means, stds, strict=True)]  # fmt: skip
        mean, log_std = torch.cat(means), torch.cat(stds)
        noise = torch.randn(mean.shape, generator=source, device=x.device)
        inferred, twice = mean + log_std.exp() * noise, torch.cat([labels, labels])

        def reconstruction(made):
            first, second = made.chunk(2)
            own = [(a - b).square().flatten(1).sum(1).mean()
                   for a, b in ((revised, first), (x, second))]  # fmt: skip
            return (1 - c.observed_share) * own[0] + c.observed_share * own[1]

        kl = (1 - c.observed_share) * kl[0] + c.observed_share * kl[1]
        if self.one_pass:  # one decoding; its gradient to z~ is weighted on the way
            if inferred.requires_grad:
                inferred.register_hook(lambda grad: c.variational_weight * grad)
            teacher = reconstruction(g(twice, inferred))
            taught = c.variational_weight * c.kl_weight * kl
        else:  # the generator held for the descriptor's loss, z~ held for the generator's
            teacher = reconstruction(g(twice, inferred.detach()))
            for p in g.parameters():
                p.requires_grad_(False)
            shown = reconstruction(g(twice, inferred))
            for p in g.parameters():
                p.requires_grad_(True)
            taught = c.variational_weight * (shown + c.kl_weight * kl)

        h, near, far = (torch.tanh(d.hash_head(f)) for f in features)
        ranking = self.model.centers, c.temperature
        hashing = plain_ranking(h, labels, *ranking)
        hashing = hashing + c.quantization_weight * c.bits * (h.abs() - 1).square().mean()
        every = torch.cat([h, near, far]), torch.cat([labels, labels, others])
        hashing = hashing + c.synthetic_weight * plain_ranking(*every, *ranking)
        category = F.cross_entropy(d.category_head(real_f), labels)
        category = category + c.synthetic_category_weight * (
            F.cross_entropy(d.category_head(revised_f), labels)
            + F.cross_entropy(d.category_head(negative_f), others)
        )
        loss = c.energy_weight * energy + hashing + category + taught
        watched = {
            "energy_real": real.mean(), "energy_revised": synthetic.mean(), "kl": kl,
            "reconstruction": teacher, "hash": hashing, "category": category,
        }  # fmt: skip
        return loss, teacher, watched

    def __call__(self, x, labels, seed, update):
        loss, teacher, watched = self.losses(x, labels, seed, update)
        self.optimizers.descriptor.zero_grad()
        self.optimizers.generator.zero_grad()
        if self.one_pass:
            (loss + teacher).backward()
        else:
            loss.backward()
            teacher.backward()
        nn.utils.clip_grad_norm_(self.d.parameters(), self.c.gradient_clip)
        self.optimizers.descriptor.step()
        self.optimizers.generator.step()
        return {name: value.detach() for name, value in watched.items()}


class Update:
    """Updates of a model of its own: ours, or one of the plain ones."""

    def __init__(self, model, device, kind="ours"):
        self.model = copy.deepcopy(model).to(device).train()
        self.optimizers = CooperativeOptimizers(
            torch.optim.Adam(self.model.descriptor.parameters(), 1e-4, betas=(0.5, 0.999)),
            torch.optim.Adam(self.model.generator.parameters(), 1e-4, betas=(0.5, 0.999)),
        )
        shape, source = model.config.image_shape, torch.Generator().manual_seed(1)
        self.images = (torch.rand(BATCH, *shape, generator=source) * 2 - 1).to(device)
        self.labels = (torch.arange(BATCH) % CLASSES).to(device)
        self.number = FROM
        one_pass = kind == "plain, one pass"
        self.plain = None if kind == "ours" else Plain(self.model, self.optimizers, one_pass)

    def __call__(self):
        arguments = self.images, self.labels
        if self.plain is not None:
            found = self.plain(*arguments, 0, self.number)
        else:
            found = cooperative_step(self.model, *arguments, self.optimizers, 0, self.number)
        self.number += 1
        return found


KINDS = ("plain", "plain, one pass")


def make(channels, side, **options):
    return ch.CoopHash(BITS, CLASSES, (channels, side, side), cooperate_every=1, **options)


def gate(channels, side, device):
    """Refuse to time another update: all losses and gradients must be those of ours."""
    model = make(channels, side, langevin_noise=0.0)
    ours, *others = (Update(model, device, kind) for kind in ("ours", *KINDS))
    first = ours()
    assert first["chain_move"] > 1e-5
    for other in others:
        found = other()
        for name, value in found.items():
            torch.testing.assert_close(first[name], value, rtol=2e-3, atol=1e-4, msg=name)
        for (name, one), two in zip(
            ours.model.named_parameters(), other.model.parameters(), strict=True
        ):
            # A bias in front of a batch norm has the gradient 0, to rounding.
            off, allowed = float((one.grad - two.grad).norm()), 0.01 * float(one.grad.norm())
            assert off < max(allowed, 1e-4), (name, off, allowed)


def measure(benchmark, turns, channels, side, device):
    gate(channels, side, device)
    model = make(channels, side)
    ours, *others = (Update(model, device, kind) for kind in ("ours", *KINDS))
    peers = dict(zip(KINDS, others, strict=True))
    turns(ours, peers, moved=12 * ours.images.numel(), device=device, rounds=15, turn=0.3)
    benchmark.extra_info |= {
        "threads": torch.get_num_threads(), "parts_ms": parts(Update(model, device))
    }  # fmt: skip


@pytest.mark.parametrize("channels, side", SIZES)
@pytest.mark.benchmark(group="one cooperative update beside plain PyTorch, CPU, batch 64")
def test_training(benchmark, gpu_turns, channels, side):
    measure(benchmark, gpu_turns, channels, side, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("channels, side", SIZES)
@pytest.mark.benchmark(group="one cooperative update beside plain PyTorch, GPU, batch 64")
def test_training_gpu(benchmark, gpu_turns, channels, side):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    measure(benchmark, gpu_turns, channels, side, "cuda")


def named(name, call):
    """The call, under a name in the profile."""

    def within(*arguments, **options):
        with record_function(name):
            result = call(*arguments, **options)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return result

    return within


PARTS = (
    "contrastive pair: generator", "Langevin chain", "descriptor forward", "decoding: generator",
    "backward of descriptor and heads", "clip and Adam",
)  # fmt: skip
INNER = "backward of the generator"


def parts(update, times=10):
    """Milliseconds of an update by part, and of all, from torch's profiler.

    The device is waited for after each part, so that the host's time is that of the part.
    """
    model, d = update.model, update.model.descriptor
    model._pair = named(PARTS[0], model._pair)
    model.revise = named(PARTS[1], model.revise)
    d.base.forward = named(PARTS[2], d.base.forward)
    generate, inner = model.generator.forward, []

    def decode(labels, latent):
        if not torch.is_grad_enabled():  # the pair
            return generate(labels, latent)
        made = named(PARTS[3], generate)(labels, latent)
        for tensor in (made, latent):  # the gradient comes to the one first, to the other last
            tensor.register_hook(lambda grad: inner.append(time.perf_counter()))
        return made

    model.generator.forward = decode
    for optimizer in update.optimizers:
        optimizer.step = named(PARTS[5], optimizer.step)
    backward, clip = torch.Tensor.backward, nn.utils.clip_grad_norm_
    torch.Tensor.backward = named(PARTS[4], backward)
    nn.utils.clip_grad_norm_ = named(PARTS[5], clip)
    try:
        for _ in range(3):
            update()
        inner.clear()
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            for _ in range(times):
                with record_function("update"):
                    update()
    finally:
        torch.Tensor.backward, nn.utils.clip_grad_norm_ = backward, clip
    totals = {event.key: event.cpu_time_total / times / 1e3 for event in watched.key_averages()}
    found = {name: totals[name] for name in PARTS}
    found[INNER] = sum(b - a for a, b in zip(inner[::2], inner[1::2], strict=True)) / times * 1e3
    found[PARTS[4]] -= found[INNER]
    found["losses and the rest"] = totals["update"] - sum(found.values())
    return {name: round(value, 2) for name, value in (found | {"all": totals["update"]}).items()}


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    columns = {f"{c} x {s} x {s}": parts(Update(make(c, s), device)) for c, s in SIZES}
    print(f"| ms of an update, batch {BATCH}, {device} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in next(iter(columns.values())):
        cells = (f"{v[name]:.1f} ({v[name] / v['all']:.0%})" for v in columns.values())
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
