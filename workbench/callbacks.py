"""What looks on while a run goes: progress with the time left, a live estimate, a trajectory.

A callback sees the run and cannot change it. What one has gathered is kept in the checkpoints, so
that a resumed run tells the same story.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import value_error
from workbench.ledger import Ledger
from workbench.plan import PlanRow
from workbench.posterior import Posterior
from workbench.solvers.base import Info

__all__ = ["Callback", "LiveEstimate", "ProgressLine", "StepEvent", "Trajectory"]


@dataclass(frozen=True)
class StepEvent:
    """A step that has just been done, of the draws first, first + 1, ... of which `wanted` are kept.

    `step` counts from 1 to `steps`, `done` and `total` count steps of the whole run.
    `seconds_left` is None until there is something to judge by.
    """

    posterior: Posterior
    first: int
    wanted: int
    step: int
    steps: int
    done: int
    total: int
    row: PlanRow
    info: Info
    ledger: Ledger
    seconds_left: float | None

    @cached_property
    def estimate(self) -> Tensor | None:
        """The estimate of these draws as it stands, in physical units, None if the solver has none."""
        estimate = self.info.estimate
        if estimate is None:
            return None
        u = estimate if isinstance(estimate, Tensor) else estimate()
        return self.posterior.to_physical(u[: self.wanted])


class Callback:
    """Something that looks on; override what is of interest."""

    def start(self, posterior: Posterior, draws: int, steps: int) -> None:
        """Look before the first step, also of a run that is resumed."""

    def step(self, event: StepEvent) -> None:
        """Look after each step."""

    def finish(self) -> None:
        """Look once the last draw is written."""

    def keep(self) -> dict[str, Any]:
        """Return what has been gathered, as `workbench.snapshot` can hold it."""
        return {}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what an earlier session gathered."""


class ProgressLine(Callback):
    """Hands a line of text to `say`, at most every `every` seconds."""

    def __init__(self, say: Callable[[str], None], *, every: float = 2.0) -> None:
        self._say = say
        self._every = check_number(every, "every", non_negative=True)
        self._last = time.monotonic()

    def step(self, event: StepEvent) -> None:
        """Say where the run is and how long it will take."""
        if event.done < event.total and time.monotonic() - self._last < self._every:
            return
        self._last = time.monotonic()
        left = "" if event.seconds_left is None else f", {_duration(event.seconds_left)} left"
        numbers = "".join(f", {name} {float(v.mean()):.3g}" for name, v in event.info.values.items())
        through = event.first + event.wanted - 1
        which = f"draw {event.first}" if event.wanted == 1 else f"draws {event.first}-{through}"
        self._say(f"{which}: step {event.step}/{event.steps}{numbers}{left}")


class LiveEstimate(Callback):
    """Hands the running estimate, physical (draws, ...), to `show` every `every` steps."""

    def __init__(self, show: Callable[[int, Tensor], None], *, every: int = 1) -> None:
        self._show = show
        self._every = check_count(every, "every")

    def step(self, event: StepEvent) -> None:
        """Show the estimate with the number of the step."""
        if event.step % self._every == 0 and event.estimate is not None:
            self._show(event.step, event.estimate)


@dataclass
class Trajectory(Callback):
    """Records each step's numbers, and how the estimate of each voxel moved over a window of steps.

    `window` = (first, last) are steps from 1, both included, None for all. Memory does not grow with
    steps times voxels: the movement is kept as running moments (Welford), pooled over the draws.
    """

    window: tuple[int, int] | None = None
    #: One entry per step and microbatch: step, draws, the row's values, calls so far, the info's means.
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.window is not None and not 1 <= self.window[0] <= self.window[1]:
            raise value_error("window", "be (first, last) with 1 <= first <= last", self.window)
        self._number = 0
        self._first: int | None = None
        self._mean: Tensor | None = None
        self._spread: Tensor | None = None
        self._pooled: Tensor | None = None
        self._degrees = 0

    def step(self, event: StepEvent) -> None:
        """Take the step in."""
        values = {name: float(v[: event.wanted].double().mean()) for name, v in event.info.values.items()}
        self.rows.append(
            {
                "step": event.step,
                "first_draw": event.first,
                "draws": event.wanted,
                **event.row.values,
                **values,
                "network_evaluations": event.ledger.network_evaluations,
                "operator_calls": event.ledger.operator_calls,
            }
        )
        first, last = self.window or (1, event.steps)
        if first <= event.step <= last and event.estimate is not None:
            self._take(event.estimate, event.first)

    @property
    def temporal_sd(self) -> Tensor | None:
        """Sd of each voxel's estimate over the steps of the window, per component, rms over draws."""
        pooled, degrees = self._closed()
        return None if pooled is None or degrees == 0 else (pooled / degrees).sqrt()

    def keep(self) -> dict[str, Any]:
        """Return rows and moments."""
        return {
            "rows": self.rows,
            "number": self._number,
            "first": self._first,
            "mean": self._mean,
            "spread": self._spread,
            "pooled": self._pooled,
            "degrees": self._degrees,
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Take rows and moments over."""
        self.rows = kept["rows"]
        self._number, self._first = kept["number"], kept["first"]
        self._mean, self._spread = kept["mean"], kept["spread"]
        self._pooled, self._degrees = kept["pooled"], kept["degrees"]

    def _take(self, estimate: Tensor, first: int) -> None:
        wide = estimate.to(torch.complex128 if estimate.is_complex() else torch.float64)
        if first != self._first:
            self._pooled, self._degrees = self._closed()
            self._first, self._number = first, 0
        if self._number == 0 or self._mean is None or self._spread is None:
            self._number, self._mean = 1, wide.clone()
            self._spread = torch.zeros_like(wide.real)
            return
        self._number += 1
        before = wide - self._mean
        self._mean = self._mean + before / self._number
        self._spread = self._spread + (before.conj() * (wide - self._mean)).real

    def _closed(self) -> tuple[Tensor | None, int]:
        """Return the squared movements summed over draws, and the degrees of freedom behind them."""
        if self._mean is None or self._spread is None or self._number < 2:
            return self._pooled, self._degrees
        components = 2 if self._mean.is_complex() else 1
        total = self._spread.sum(dim=0) / components
        pooled = total if self._pooled is None else self._pooled + total
        return pooled, self._degrees + self._mean.shape[0] * (self._number - 1)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
