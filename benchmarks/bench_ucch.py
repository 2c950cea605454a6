"""A training step of UCCH beside the literal one with keys (B, K + 1, bits): time and memory.

pytest benchmarks/bench_ucch.py --benchmark-only
python benchmarks/bench_ucch.py ours|literal NEGATIVES BATCH     bytes of one step, by itself

Networks of 512 units, features of MIRFlickr's widths, 128 bits, a bank of 18,015 rows: everything
but the contrast is the same in both. Memory is what the process grows by in one step, each in a
process of its own; on a GPU, what one step allocates.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import coophash as ch
from coophash import ucch
from coophash.kernels import bank_draws

BITS, ITEMS = 128, 18_015
# At K 65,536 the literal keys take 33.6 MB a pair: 32 pairs fit in most machines, 256 do not.
CASES = [(4_096, 256), (65_536, 32)]


def literal_contrast(queries, codes, positives, negatives, *, temperature, **_):
    """Each key gathered for each pair, as the authors' code has it; one gradient for both sets."""
    signs = ch.unpack(codes, BITS).to(queries.dtype)
    if isinstance(negatives, int):
        negatives = torch.randint(len(codes), (len(positives), negatives), device=codes.device)
    rows = torch.cat([positives[:, None], negatives], 1)
    keys = signs.index_select(0, rows.view(-1)).view(len(rows), -1, BITS)  # (B, K + 1, bits)
    scale = temperature * BITS**0.5
    logits = [torch.bmm(keys, one[:, :, None])[:, :, 0] / scale for one in queries]
    return torch.stack([-one.log_softmax(1)[:, 0] for one in logits])


def make_step(negatives, batch, device="cpu"):
    """A function that does one step, with the number of negatives that it is called with."""
    source = torch.Generator().manual_seed(0)
    model = ch.UCCH(
        BITS, 4096, 1386, image_hidden=(512, 512), text_hidden=(512,), negatives=negatives
    ).to(device)
    bank = ucch.MemoryBank(ITEMS, BITS).to(device)
    images = torch.randn(batch, 4096, generator=source).to(device)
    texts = (torch.rand(batch, 1386, generator=source) < 0.01).float().to(device)
    rows = torch.randperm(ITEMS, generator=source)[:batch].to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def step(negatives=negatives):
        model.config = dataclasses.replace(model.config, negatives=negatives)
        ucch.ucch_step(model, bank, rows, images, texts, optimizer, seed=0, update=0)

    return step


def as_provider(name, step):
    """The step with the contrast of one of the two."""

    def run(*negatives):
        kept = ucch.bank_contrast
        ucch.bank_contrast = literal_contrast if name == "literal" else kept
        try:
            step(*negatives)
        finally:
            ucch.bank_contrast = kept

    return run


def check_equal(device):
    """The gate: both give the same loss and gradient for the same rows."""
    source = torch.Generator().manual_seed(1)
    bank = ucch.MemoryBank(500, BITS).to(device)
    drawn = torch.from_numpy(bank_draws(9, 300, 500, seed=3)).to(device)
    positives, found = torch.arange(9, device=device), []
    queries = torch.randn(2, 9, BITS, generator=source)
    for contrast in (ucch.bank_contrast, literal_contrast):
        asked = (queries / 10).to(device).requires_grad_()
        loss = contrast(asked, bank.codes, positives, drawn, temperature=0.9)
        found.append((loss, torch.autograd.grad(loss.sum(), asked)[0]))
    for ours, literal in zip(*found, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-4, atol=1e-5)


def bytes_of_a_step(name, negatives, batch):
    """Bytes that a process grows by in one step: of a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, name, str(negatives), str(batch)],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads(done.stdout)["bytes"]


@pytest.mark.parametrize(("negatives", "batch"), CASES)
def test_step(benchmark, beside_peers, negatives, batch):
    check_equal("cpu")
    step = make_step(negatives, batch)
    memory = {name: bytes_of_a_step(name, negatives, batch) for name in ("ours", "literal")}
    beside_peers(
        as_provider("ours", step), {"literal": as_provider("literal", step)},
        pairs=2 * batch * (negatives + 1), rounds=5,
    )  # fmt: skip
    benchmark.extra_info |= {
        "bytes": memory, "bytes_ratio": memory["literal"] / memory["ours"],
        "negatives": negatives, "batch": batch, "bits": BITS, "items": ITEMS,
    }  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize(("negatives", "batch"), [(4_096, 256), (65_536, 256)])
def test_step_gpu(benchmark, gpu_turns, negatives, batch):
    check_equal("cuda")
    step = make_step(negatives, batch, "cuda")
    # What the contrast must read at least: the codes of the keys, once for both modalities.
    moved = batch * (negatives + 1) * BITS // 8
    gpu_turns(as_provider("ours", step), {"literal": as_provider("literal", step)}, moved=moved)
    benchmark.extra_info |= {"negatives": negatives, "batch": batch, "bits": BITS}


def _status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}: memory is measured on Linux alone")


def _measure(name, negatives, batch):
    """A small step first, so that libraries and optimiser are there; then the one that counts."""
    step = as_provider(name, make_step(negatives, batch))
    step(8)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    step()
    print(json.dumps({"bytes": _status("VmHWM") - before}))


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
