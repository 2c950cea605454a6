"""What a training run leaves behind: its settings, its curve and its best update."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, float]


@dataclass
class History:
    """The record of one `fit`.

    Attributes:
        settings: everything that the run was started with, the model's config among it.
        records: one dict per logging interval, in order: "update" (updates done), "seconds" (of
            training so far, stops not counted), the interval's mean of what `cooperative_step`
            watches; at every `validate_every` what `generator_signs` returns, and
            "validation_map" where the model was validated.
        kept_update: the update whose weights the model ended with; None without validation.
        update: updates done.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    kept_update: int | None = None
    update: int = 0

    @property
    def finished(self) -> bool:
        """Whether all updates were done, and the run not stopped by a time limit."""
        wanted = self.settings.get("updates")  # fit_pairs counts epochs and has no time limit
        return wanted is None or bool(self.update >= wanted)

    @property
    def seconds(self) -> float:
        """Training time so far, in seconds."""
        return self.records[-1]["seconds"] if self.records else 0.0

    @property
    def validation(self) -> list[tuple[int, float]]:
        """(update, mAP) of every validation."""
        return [
            (int(record["update"]), record["validation_map"])
            for record in self.records
            if "validation_map" in record
        ]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Updates and values of one watched quantity, e.g. "energy_real"."""
        points = [(int(r["update"]), r[name]) for r in self.records if name in r]
        return [update for update, _ in points], [value for _, value in points]

    @staticmethod
    def load(path: str | Path) -> History:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no history.
        """
        try:
            return History(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is no history of a training: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write the history as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
