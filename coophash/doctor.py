"""What works on this machine, and for the rest why not and what to do. Needs NumPy alone.

`coophash doctor` prints it, as does `python -m coophash.doctor` where the command line's own extra
is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from coophash.environment import cores, cpu_name, installed_version

State = Literal["ok", "missing", "unused", "broken"]

# extra -> modules that it brings, beside what other extras of the same line bring
EXTRAS = {
    "train": ("torch", "safetensors", "tqdm", "PIL", "scipy"),
    "data": ("scipy", "h5py", "PIL"),
    "cli": ("typer", "rich", "tqdm"),
    "report": ("matplotlib", "jinja2", "PIL"),
    "demo": ("mlxtend", "sklearn"),
    "timm": ("timm",),
    "faiss": ("faiss",),
    "ray": ("ray",),
    "torchmetrics": ("torch", "torchmetrics"),
}
_USE = {
    "train": "learning and using models",
    "data": ".mat and .h5 files",
    "cli": "the command line",
    "report": "HTML reports",
    "demo": "the digits of `coophash demo`",
    "timm": "features of raw images by a large backbone",
    "faiss": "comparing with faiss",
    "ray": "an index over many machines",
    "torchmetrics": "the metrics as torchmetrics classes",
}
VARIABLES = {
    "COOPHASH_BACKEND": ("auto", "reference", "native", "triton", "cuda"),
    "COOPHASH_ISA": ("serial", "avx2", "avx512", "neon"),
    "COOPHASH_DEBUG": (),
    "TRITON_INTERPRET": (),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One part.

    Attributes:
        part: what it is.
        state: "ok"; "missing" or "broken", to be mended where it is wanted; "unused", which this
            machine cannot have or does not need.
        detail: version, or why it is not there.
        mend: the command, or the one thing to do; "" where there is nothing to mend.
        needed: whether coophash is of no use without it.
    """

    part: str
    state: State
    detail: str
    mend: str = ""
    needed: bool = False


def examine() -> list[Finding]:
    """Look at every part. Raises nothing: what is broken is a finding."""
    return [
        *_search(),
        *_training(),
        *_extras(),
        *_variables(),
    ]


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether everything that coophash cannot do without is there, and nothing is broken."""
    return not any(
        finding.state == "broken" or (finding.needed and finding.state != "ok")
        for finding in findings
    )


def render(findings: Sequence[Finding]) -> str:
    """The findings as text, one part a paragraph."""
    from coophash import __version__

    lines = [
        f"coophash {__version__}   Python {platform.python_version()}   NumPy "
        f"{installed_version('numpy') or 'missing'}",
        f"{platform.system()} {platform.machine()}   {cpu_name()}   {cores()} cores",
        "",
    ]
    width = max(len(finding.part) for finding in findings)
    for finding in findings:
        head = f"{finding.state:8} {finding.part:{width}}  "
        lines += textwrap.wrap(
            finding.detail, 100, initial_indent=head, subsequent_indent=" " * len(head),
            break_long_words=False, break_on_hyphens=False,
        ) or [head]  # fmt: skip
        if finding.mend:
            # a command stays on one line, to be copied
            lines.append(" " * len(head) + "-> " + finding.mend)
    return "\n".join(lines)


def _search() -> Iterator[Finding]:
    """The compiled extension, its instruction sets and its CUDA part."""
    try:
        from coophash import _native

        info = _native.build_info()
    except Exception as error:  # a library that does not load fails in many ways
        yield Finding(
            "search, compiled", "broken", str(error).split(": install the package")[0],
            "pip install --force-reinstall --no-cache-dir coophash   (in a checkout: pip install "
            "-e .)", needed=True,
        )  # fmt: skip
        return
    yield Finding("search, compiled", "ok", f"by {info['compiler']}", needed=True)
    runs = [name for name, reason in info["isas"].items() if not reason]
    forced = os.environ.get("COOPHASH_ISA", "")
    used = forced if forced in runs else runs[0]
    for name, reason in info["isas"].items():
        note = "in use" if name == used else "available"
        yield Finding(f"  {name}", "unused" if reason else "ok", reason or note)
    if not info["cuda"]:
        yield Finding(
            "search on CUDA, built", "missing", info["cuda_reason"],
            "COOPHASH_CUDA=1 pip install --force-reinstall --no-cache-dir coophash   (with nvcc on "
            "PATH)",
        )  # fmt: skip
        return
    yield Finding(
        "search on CUDA, built", "ok", f"by nvcc {info['nvcc_version']}, for {info['cuda_archs']}"
    )
    reason = _native.cuda_status()
    if reason:
        yield Finding(
            "search on CUDA, device", "missing", reason,
            "needs an NVIDIA GPU and its driver: `nvidia-smi` must list it",
        )  # fmt: skip
        return
    for number, device in enumerate(_native.cuda().cuda_devices()):
        major, minor = device["compute_capability"]
        yield Finding(
            f"search on CUDA, cuda:{number}", "ok",
            f"{device['name']}, {major}.{minor}, {device['memory_bytes'] / 1e9:.0f} GB; "
            f"{_tensor_cores(number)}",
        )  # fmt: skip


def _tensor_cores(device: int) -> str:
    """Which one-bit tensor cores batches of queries take on a device, and why none."""
    from coophash import _native

    why = {path: _native.cuda().cuda_try_path(path, device) for path in ("wgmma", "mma")}
    for path, reason in why.items():
        if not reason:
            return f"batches on tensor cores ({path})"
    return f"no tensor cores for batches: {why['mma']}"


def _training() -> Iterator[Finding]:
    """torch, its GPU and Triton."""
    if importlib.util.find_spec("torch") is None:
        yield Finding(
            "training, torch", "missing", "not installed", 'pip install "coophash[train]"'
        )
        return
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken install raises OSError, RuntimeError, ...
        yield Finding(
            "training, torch", "broken", f"it does not load: {' '.join(str(error).split())}",
            "pip install --force-reinstall torch",
        )  # fmt: skip
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding("training, torch", "ok", f"{torch.__version__}, {build}")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        yield Finding("training, GPU", "ok", ", ".join(names))
    elif torch.version.cuda:
        yield Finding(
            "training, GPU", "missing", "torch finds no CUDA device",
            "needs an NVIDIA GPU and its driver: `nvidia-smi` must list it",
        )  # fmt: skip
    else:
        yield Finding(
            "training, GPU", "missing", "this torch is a CPU build; training runs on the CPU",
            "pip install --force-reinstall torch   (the default build, on a machine with an NVIDIA "
            "GPU)",
        )  # fmt: skip
    from coophash.kernels._backend import triton_missing

    version = installed_version("triton")
    why = triton_missing("cuda" if torch.cuda.is_available() else "cpu")
    if version is None:
        yield Finding(
            "training, Triton", "missing", "not installed; the PyTorch reference is used",
            "pip install triton",
        )  # fmt: skip
    elif why:
        yield Finding("training, Triton", "unused", f"{version}; the PyTorch reference is used")
    else:
        yield Finding("training, Triton", "ok", version)


def _extras() -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        part = f"extra [{extra}]"
        if not absent:
            yield Finding(part, "ok", _USE[extra])
        else:
            yield Finding(
                part, "missing", f"{_USE[extra]}: {', '.join(absent)} not installed",
                f'pip install "coophash[{extra}]"',
            )  # fmt: skip


def _variables() -> Iterator[Finding]:
    for name, choices in VARIABLES.items():
        value = os.environ.get(name, "")
        if not value:
            continue
        if choices and value not in choices:
            yield Finding(
                name, "broken", f"is {value!r}, not one of {', '.join(choices)}", f"unset {name}"
            )
        else:
            yield Finding(name, "ok", f"is set to {value!r}")


def main() -> int:
    """Print the findings; 0 when coophash works here."""
    findings = examine()
    print(render(findings))
    return 0 if healthy(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
