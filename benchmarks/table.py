"""Tables in Markdown from the JSON of benchmarks that ran beside their peers.

python benchmarks/table.py benchmarks/results/NAME.json [benchmark file's stem]

A ratio is the peer's time over ours in the same round: median, and quartiles in brackets. Kernels
on a GPU have a table of their own, where "of copy" is the speed as a share of a plain copy's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = ["benchmark", "bits", "codes", "k", "batch", "threads", "ours", "Gp/s", "peer", "Gp/s"]
TAIL = ["ratio", "share of the limit"]
ON_GPU = ["search on a GPU", "bits", "codes", "k", "batch", "way", "ms", "Tp/s", "GB/s"]
ON_GPU += ["of copy", "peers' time over ours"]
KERNELS = ["kernel", "us", "GB/s", "of copy", "peers' time over ours"]


def quartiles(values: list[float] | None, form: str) -> str:
    if not values:
        return ""
    low, middle, high = (format(value, form) for value in values)
    return f"{middle} ({low} - {high})"


def row(run: dict[str, Any]) -> list[str]:
    info = run["extra_info"]
    ours, peer = (f"{value:.3g}" for value in info["Gp/s"])
    name = run["name"].partition("[")[0].removeprefix("test_")
    known = [str(info.get(key, "")) for key in ("bits", "kind", "k", "batch", "threads")]
    return [
        *[name, *known, str(info.get("isa", "")), ours, info["peer"], peer],
        *[quartiles(info["ratio"], ".2f"), quartiles(info.get("of_limit"), ".0%")],
    ]


def kernel_row(run: dict[str, Any]) -> list[str]:
    """Of a run of the fixture `gpu_turns`."""
    info = run["extra_info"]
    peers = (f"{name} {quartiles(ratio, '.2f')}" for name, ratio in info["ratios"].items())
    return [
        *[run["name"].removeprefix("test_"), quartiles(info["us"]["ours"], ".1f")],
        *[f"{info['GB/s']:.0f}", quartiles(info["of_copy"], ".0%"), ", ".join(peers)],
    ]


def gpu_row(run: dict[str, Any]) -> list[str]:
    """Of a run of bench_cuda_search.py."""
    info = run["extra_info"]
    pairs = info.get("Tp/s")  # a number, or one for each that ran
    pairs = pairs["ours"] if isinstance(pairs, dict) else pairs
    peers = (f"{name} {quartiles(ratio, '.2f')}" for name, ratio in info["over_ours"].items())
    return [
        run["name"].partition("[")[0].removeprefix("test_"),
        *[str(info.get(key, "")) for key in ("bits", "rows", "k", "batch", "path")],
        quartiles([1e3 * value for value in info["seconds"]["ours"]], ".3g"),
        *["" if value is None else f"{value:.3g}" for value in (pairs, info.get("GB/s"))],
        *[quartiles(info.get("of_copy_bandwidth"), ".0%"), ", ".join(peers)],
    ]


def table(names: list[str], rows: list[list[str]]) -> list[str]:
    """Lines in Markdown; none without rows."""
    if not rows:
        return []
    head = ["", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return head + ["| " + " | ".join(row) + " |" for row in rows]


def tables(results: dict[str, Any], only: str | None) -> str:
    machine = results["machine_info"]
    versions = (f"{name} {version}" for name, version in machine["versions"].items() if version)
    device = machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores"
    runs = [run for run in results["benchmarks"] if not only or only in run["fullname"]]
    searches = [row(run) for run in runs if "ratio" in run["extra_info"]]
    kernels = [kernel_row(run) for run in runs if "of_copy" in run["extra_info"]]
    on_gpu = [gpu_row(run) for run in runs if "over_ours" in run["extra_info"]]
    return "\n".join(
        [
            f"{device}; {', '.join(versions)}",
            *table([*HEAD, *TAIL], searches),
            *table(KERNELS, kernels),
            *table(ON_GPU, on_gpu),
        ]
    )


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    path = Path(sys.argv[1])
    if not path.is_file():
        raise SystemExit(f"{path} is not there: run `make bench` first, or name a file of results/")
    print(tables(json.loads(path.read_text()), sys.argv[2] if len(sys.argv) == 3 else None))


if __name__ == "__main__":
    main()
