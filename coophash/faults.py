"""What goes wrong in cooperative training, told from its record, and the setting to change.

A fault that cannot mend itself is a FloatingPointError. A slow one, which may pass or may be meant,
is a `TrainingWarning`, once in a run, when it has lasted for PATIENCE records on end (a record is
the mean of 20 updates).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from coophash.history import Record

PATIENCE = 5  # records; healthy runs stayed well away from each limit below (docs/LOG.md)
APART = 10.0  # distance of the mean energies of real and revised images; healthy: below 1
RUNAWAY = 1000.0  # of them too; nothing comes back from there
STILL = 1e-4  # mean move of a pixel by a chain without noise; healthy: 0.03 to 0.15
FAR = 0.5  # of it too: a quarter of the range
ROUNDING = 1e-4  # of an energy, at least of 1: TF32 moves its mean by 2e-5, float32 by 1e-7
COLLAPSED_KL = 0.1  # nats an image; healthy: 5 to 20
EQUAL = 0.02  # share of its bits that two codes differ in; healthy: 0.3 to 0.5
PARTED = 100  # updates after which codes should differ: those of new weights hardly do
SAME = 0.05  # diversity and pair_distance, over those of real images; healthy: 0.3 and above

_ENERGIES = (
    "lower energy_weight or energy_rate, raise energy_penalty, lower energy_gap (None does not "
    'damp), or set spectral_norm = "both" or a gradient_penalty'
)


class TrainingWarning(UserWarning):
    """A slow fault of a training that goes on."""


class FaultWatch:
    """Looks at the record of one run as it grows.

    Args:
        config: settings of the model: a `CoopHashConfig`, or another, whose only fault is a loss
            that is not finite.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.cooperative = bool(getattr(config, "cooperative", False))
        self.said: set[str] = set()

    def check(self, records: Sequence[Record], latest: Sequence[Mapping[str, Any]] = ()) -> None:
        """Raise or warn if the last record, or the last ones, say so.

        Args:
            records: of the run so far.
            latest: what was watched in each update of the last record, in order, as far as known.

        Raises:
            FloatingPointError: the training diverged.
        """
        record = records[-1]
        self.check_finite(record, latest)
        gap = _gap(record) if self.cooperative else None
        if gap is not None and abs(gap) > RUNAWAY:
            raise FloatingPointError(
                f"training diverged: energies of real and revised images have run {abs(gap):.3g} "
                f"apart near update {record['update']:.0f}. To mend it, {_ENERGIES}"
            )
        self.warn(records)

    def check_finite(self, record: Record, latest: Sequence[Mapping[str, Any]] = ()) -> None:
        """Raise FloatingPointError for a value that is not finite; arguments as `check`."""
        lost = [name for name, value in record.items() if not math.isfinite(value)]
        if lost:
            self._lost(lost, record, latest)

    def check_weights(self, model: nn.Module, update: int) -> None:
        """Raise FloatingPointError for a weight that is not finite after so many updates."""
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise FloatingPointError(
                    f"training diverged: {name} has a weight that is NaN or infinite after update "
                    f"{update}. Lower learning_rate"
                )

    def warn(self, records: Sequence[Record]) -> None:
        """Tell of the slow faults that the last records show."""
        for name, (sign, bad, words) in self._slow_faults().items():
            values = [value for value in map(sign, records) if value is not None][-PATIENCE:]
            if name not in self.said and len(values) == PATIENCE and all(map(bad, values)):
                self.said.add(name)
                warnings.warn(
                    words.format(value=abs(values[-1]), update=records[-1]["update"]),
                    TrainingWarning,
                    stacklevel=2,
                )

    def chain_broke(self, error: FloatingPointError, update: int) -> FloatingPointError:
        """What to raise for a chain that diverged within update number `update`, from 1."""
        if "before the first step" in str(error):
            mend = "the weights are NaN or infinite. Lower learning_rate"
        else:
            mend = f"the chain left its range. Lower langevin_step_size; or {_ENERGIES}"
        return FloatingPointError(f"training diverged in update {update}: {mend} ({error})")

    def _lost(
        self, lost: list[str], record: Record, latest: Sequence[Mapping[str, Any]]
    ) -> None:  # fmt: skip
        """Raise for values that are not finite, by those that were the first."""
        first = lost
        for watched in latest:
            now = [n for n, v in watched.items() if n in lost and not math.isfinite(float(v))]
            if now:
                first = now
                break
        where = f"{first[0]} is {record[first[0]]} near update {record['update']:.0f}"
        mend = "Lower learning_rate"
        if self.cooperative:
            mend = f"Lower learning_rate or langevin_step_size; or {_ENERGIES}"
            if all(n.startswith(("energy", "gradient_penalty")) for n in first):
                mend = f"To mend it, {_ENERGIES}; or lower learning_rate"
            elif all(n in ("kl", "reconstruction", "generator_gradient_norm") for n in first):
                mend = "Lower generator_learning_rate or learning_rate, or raise kl_weight"
        raise FloatingPointError(f"training diverged: {where}. {mend}")

    def _pulls_to_the_signs(self) -> str:
        """The settings that can fix the bits before they are learned."""
        pull = "quantization_weight or learning_rate"
        if getattr(self.config, "quantization_weight", None) is None:  # HashNet, OrthoHash
            pull = "learning_rate"
        return pull + (", or raise hash_weight" if hasattr(self.config, "hash_weight") else "")

    def _slow_faults(self) -> dict[str, tuple[_Sign, Callable[[float], bool], str]]:
        c = self.config
        faults: dict[str, tuple[_Sign, Callable[[float], bool], str]] = {
            "equal": (
                lambda record: record.get("code_distance") if record["update"] >= PARTED else None,
                lambda v: v < EQUAL,
                "codes of different images differ in a share of {value:.2g} of their bits "
                "(update {update:.0f}): nearly all images have one code. Lower "
                + self._pulls_to_the_signs(),
            ),
        }  # fmt: skip
        if not self.cooperative:
            return faults
        # What the noise alone moves a pixel by, on average, over the steps of a chain.
        noise = c.langevin_step_size * c.langevin_noise * math.sqrt(2 * c.langevin_steps / math.pi)
        still = min(max(STILL, 1.1 * noise), FAR)  # what is far does not stand still
        louder = 1.1 * noise > STILL  # it outweighs a gradient that there may be
        faults |= {
            "apart": (
                _gap, lambda v: abs(v) > APART,
                "energies of real and revised images stay {value:.3g} apart (update {update:.0f}): "
                f"the chain cannot follow. To mend it, {_ENERGIES}",
            ),
            "far": (
                _of("chain_move"), lambda v: v > FAR,
                "the Langevin chain moves a pixel by {value:.2g} on average, of a range of 2 "
                "(update {update:.0f}): x~ has little left of x+. Lower langevin_step_size"
                + (" or langevin_noise" if noise > 0.5 * FAR else ""),
            ),
            "collapsed": (
                _of("kl"), lambda v: v < COLLAPSED_KL,
                "the KL term has collapsed to {value:.2g} nats (update {update:.0f}): the latent "
                "says nothing of the image. Lower kl_weight or raise variational_weight",
            ),
            "label": (
                _of("pair_distance"), lambda v: v < SAME,
                "x+ and x- of different classes are {value:.2g} of the distance of real images "
                "apart (update {update:.0f}): the generator ignores its label. "
                + ("Raise observed_share or lower kl_weight" if c.centre_latent
                   else "Set centre_latent = true"),
            ),
            "latent": (
                _of("diversity"), lambda v: v < SAME,
                "synthetic images of a class are {value:.2g} of the distance of real ones apart "
                "(update {update:.0f}): the generator ignores its latent. Lower kl_weight or raise "
                "observed_share",
            ),
        }  # fmt: skip
        if c.langevin_steps:
            faults["still"] = (
                _of("chain_move"), lambda v: v < still,
                "the Langevin chain moves a pixel by {value:.2g} on average, no more than its "
                "noise (update {update:.0f}): x~ is x+. Raise langevin_step_size or energy_weight"
                + (", or lower langevin_noise" if louder else ""),
            )  # fmt: skip
            faults["climbing"] = (
                _drop(still), lambda v: v < 0,
                "the energy rises by {value:.2g} along the Langevin chain (update {update:.0f}): "
                "its steps are too long. Lower langevin_step_size or langevin_noise",
            )  # fmt: skip
        return faults


_Sign = Callable[[Record], "float | None"]


def _of(name: str) -> _Sign:
    return lambda record: record.get(name)


def _drop(still: float) -> _Sign:
    """chain_drop, with 0 for what says nothing of the step size.

    That is a drop or rise that rounding can make, and one of a chain that does not move by more
    than its noise, `still`: its steps are too short, if anything, and it is told so.
    """

    def sign(record: Record) -> float | None:
        drop = record.get("chain_drop")
        if drop is None:
            return None
        names = ("energy_generated", "energy_real", "energy_revised")
        size = max(1.0, *(abs(record.get(name, 0.0)) for name in names))
        moved = record.get("chain_move", math.inf) >= still
        return drop if moved and abs(drop) > ROUNDING * size else 0.0

    return sign


def _gap(record: Record) -> float | None:
    if "energy_real" not in record or "energy_revised" not in record:
        return None
    return record["energy_revised"] - record["energy_real"]
