"""Tables in Markdown from the JSON of benchmarks that ran beside their peers.

python benchmarks/table.py benchmarks/results/NAME.json [benchmark file's stem]

A ratio is the peer's time over ours in the same round: median, and quartiles in brackets.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = ["benchmark", "bits", "codes", "k", "batch", "threads", "ours", "Gp/s", "peer", "Gp/s"]
TAIL = ["ratio", "share of the limit"]


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


def tables(results: dict[str, Any], only: str | None) -> str:
    machine = results["machine_info"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    ]
    names = [*HEAD, *TAIL]
    lines += ["", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for run in results["benchmarks"]:
        if "ratio" not in run["extra_info"] or (only and only not in run["fullname"]):
            continue
        lines.append("| " + " | ".join(row(run)) + " |")
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    path = Path(sys.argv[1])
    if not path.is_file():
        raise SystemExit(f"{path} is not there: run `make bench` first, or name a file of results/")
    print(tables(json.loads(path.read_text()), sys.argv[2] if len(sys.argv) == 3 else None))


if __name__ == "__main__":
    main()
