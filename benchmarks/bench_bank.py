"""UCCH's contrast against its memory bank, and the bank's update: ours beside the literal forms.

    pytest benchmarks/bench_bank.py --benchmark-only
    python benchmarks/bench_bank.py --memory literal 18015 4096 256    # peak of one step, in bytes

Batch 256, 128 bits, two modalities, 4,096 and 65,536 drawn negatives; banks as large as the
training sets of Wikipedia (2,173), MIRFlickr (18,015) and NUS-WIDE (186,557). A step is the draw,
both losses and the gradient.

literal         the formula, as in the authors' code: keys of shape (B, K + 1, L), gathered, signs
                taken, a batched product for each modality, log-softmax
all rows        a product with the whole bank, then the drawn logits gathered
torch.compile   of literal

Every provider first gives the losses and gradients of the op's reference in float64, for the same
negatives. Literal keys of 65,536 negatives take 8.6 GB, so that case has a batch of 32.
"""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from coophash import pack, unpack  # noqa: E402
from coophash.kernels import bank_contrast, bank_contrast_reference, bank_update  # noqa: E402
from coophash.kernels._backend import triton_missing  # noqa: E402

BITS, TEMPERATURE, MOMENTUM = 128, 0.9, 0.4
# rows of the bank, negatives, batch
CASES = {
    "wiki K=4096": (2173, 4096, 256),
    "mirflickr K=4096": (18015, 4096, 256),
    "nuswide K=4096": (186557, 4096, 256),
    "mirflickr K=65536": (18015, 65536, 32),
    "nuswide K=65536": (186557, 65536, 32),
}


class Problem:
    def __init__(self, rows, count, batch, device="cpu", dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        values = F.normalize(torch.randn(rows, BITS, generator=generator), dim=1)
        outputs = F.normalize(torch.randn(2, batch, BITS, generator=generator), dim=2)
        self.codes = pack(values).to(device)
        self.positives = torch.randperm(rows, generator=generator)[:batch].to(device)
        self.values = values.to(device)
        self.outputs = outputs.to(device, dtype).requires_grad_()
        self.rows, self.count, self.batch = rows, count, batch

    def draw(self):
        return torch.randint(self.rows, (self.batch, self.count), device=self.values.device)


def literal(outputs, values, codes, positives, negatives):
    keys = values[torch.cat([positives[:, None], negatives], dim=1)].sign()
    scale = 1 / (TEMPERATURE * math.sqrt(BITS))
    logits = torch.stack([torch.bmm(keys, h[:, :, None])[..., 0] * scale for h in outputs])
    return -logits.log_softmax(2)[:, :, 0]


def all_rows(outputs, values, codes, positives, negatives):
    signs = unpack(codes, BITS).to(outputs.dtype)
    logits = outputs @ signs.T * (1 / (TEMPERATURE * math.sqrt(BITS)))
    drawn = torch.cat([positives[:, None], negatives], dim=1).expand(2, -1, -1)
    return -logits.gather(2, drawn).log_softmax(2)[:, :, 0]


def coophash(outputs, values, codes, positives, negatives):
    return bank_contrast(outputs, codes, positives, negatives, temperature=TEMPERATURE)


PROVIDERS = {"coophash": coophash, "literal": literal, "all rows": all_rows}


def make(provider):
    if provider != "torch.compile":
        return PROVIDERS[provider]
    torch._dynamo.reset()
    return torch.compile(literal, fullgraph=True)


def step(function, p, negatives):
    """Loss and gradient. `negatives` None: drawn first, by ours in the op."""
    if negatives is None:
        negatives = p.count if function is coophash else p.draw()
    loss = function(p.outputs, p.values, p.codes, p.positives, negatives)
    (slope,) = torch.autograd.grad(loss.mean(1).sum(), p.outputs)
    return loss, slope


def gate(function, p):
    """Refuse to time wrong losses or gradients. By a part of the batch, which is its own batch."""
    part = Problem(p.rows, p.count, 4, p.values.device, p.outputs.dtype)
    negatives = part.draw()
    loss, slope = step(function, part, negatives)
    expected, slopes = bank_contrast_reference(
        part.outputs.detach().double().cpu(), part.codes.cpu(), part.positives.cpu(),
        negatives.cpu(), TEMPERATURE,
    )  # fmt: skip
    half = p.outputs.dtype != torch.float32
    torch.testing.assert_close(loss.detach().double().cpu(), expected, rtol=0,
                               atol=0.05 if half else 2e-5)  # fmt: skip
    torch.testing.assert_close(slope.double().cpu(), slopes / 4, rtol=0.02 if half else 0,
                               atol=1e-3 if half else 5e-6)  # fmt: skip


def peak_memory(provider, rows, count, batch) -> int | None:
    """Bytes of resident memory that a step adds at its peak, in a process of its own (Linux)."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", provider, str(rows), str(count), str(batch)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int(done.stdout) if done.returncode == 0 else None


def _resident(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _measure_memory(provider, rows, count, batch) -> int:
    function, p = make(provider), Problem(rows, count, batch)
    step(function, Problem(50, 5, 3), None)  # what is loaded on first use
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts from here
    before = _resident("VmRSS")
    step(function, p, None)
    return _resident("VmHWM") - before


@pytest.mark.parametrize("provider", [*PROVIDERS, "torch.compile"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.benchmark(group="bank contrast, draw + loss + gradient, CPU")
def test_contrast(benchmark, provider, case):
    benchmark.group += f", {case}"
    p = Problem(*CASES[case])
    function = make(provider)
    gate(function, p)
    benchmark.pedantic(lambda: step(function, p, None), rounds=7, warmup_rounds=1)
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.extra_info["peak"] = peak_memory(provider, *CASES[case])


@pytest.mark.parametrize("provider", ["coophash", "eager"])
@pytest.mark.benchmark(group="bank update, CPU")
def test_update(benchmark, provider):
    p = Problem(*CASES["mirflickr K=4096"])
    update = {"coophash": fused_update, "eager": plain_update}[provider]
    gate_update(update)
    benchmark.pedantic(lambda: update(p), rounds=100, warmup_rounds=5)
    benchmark.extra_info["threads"] = torch.get_num_threads()


def fused_update(p):
    bank_update(p.values, p.codes, p.positives, p.outputs, momentum=MOMENTUM)


@torch.no_grad()
def plain_update(p):
    u = F.normalize((p.outputs[0] + p.outputs[1]) / 2, dim=1)
    v = F.normalize(MOMENTUM * p.values[p.positives] + (1 - MOMENTUM) * u, dim=1)
    p.values[p.positives] = v
    p.codes[p.positives] = pack(v)


def gate_update(update, device="cpu"):
    ours, plain = Problem(500, 1, 64, device), Problem(500, 1, 64)
    update(ours)
    plain_update(plain)
    torch.testing.assert_close(ours.values.cpu(), plain.values, rtol=0, atol=1e-6)
    assert torch.equal(ours.codes.cpu(), pack(ours.values.cpu()))


def needs_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    if triton_missing("cuda"):
        pytest.skip(triton_missing("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.benchmark(group="bank contrast, draw + loss + gradient, GPU")
def test_contrast_gpu(gpu_turns, case, dtype):
    needs_gpu()
    rows, count, batch = CASES[case]
    p = Problem(rows, count, batch, "cuda", getattr(torch, dtype))
    if dtype == "bfloat16":
        p.values = p.values.bfloat16()
    calls = {}
    for name in (*PROVIDERS, "torch.compile"):
        function = make(name)
        if dtype == "float32":
            gate(function, p)
        calls[name] = lambda function=function: step(function, p, None)
    # Keys as packed bits, from the caches; their 32 bytes at a time are not all of use.
    gpu_turns(calls.pop("coophash"), calls, moved=batch * count * BITS // 8)


@pytest.mark.gpu
@pytest.mark.benchmark(group="bank update, GPU")
def test_update_gpu(gpu_turns):
    needs_gpu()
    gate_update(fused_update, "cuda")
    p = Problem(*CASES["mirflickr K=4096"], device="cuda")
    torch._dynamo.reset()
    moved = p.batch * (4 * p.outputs.element_size() * BITS + BITS // 8 + 8)
    gpu_turns(lambda: fused_update(p), {"eager": lambda: plain_update(p)}, moved=moved)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--memory"] or len(sys.argv) != 6:
        raise SystemExit(__doc__)
    print(_measure_memory(sys.argv[2], *map(int, sys.argv[3:])))
