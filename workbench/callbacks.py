"""What looks on while a run goes: progress with the time left, a live estimate, a trajectory.

A callback is handed copies: it sees the run and cannot change it. What one has gathered is kept in the
checkpoints, so that a resumed run tells the same story. A step that an interruption cut short is told
again, and so are the steps of a short last batch that is done again, whole, when draws are added.
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
from workbench.kinds import Kind
from workbench.ledger import Ledger
from workbench.plan import PlanRow
from workbench.posterior import Posterior
from workbench.solvers.base import Info

__all__ = ["Callback", "LiveEstimate", "ProgressLine", "StepEvent", "Trajectory"]


@dataclass(frozen=True)
class StepEvent:
    """A step that has just been done, of the draws first, first + 1, ... of which `wanted` are kept.

    `step` counts from 1 to `steps`, which is a limit where `open_ended`; `done` and `total` count steps of
    the whole run. `seconds_left` is None until there is something to judge by.
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
    kind: Kind
    open_ended: bool = False

    @cached_property
    def estimate(self) -> Tensor | None:
        """The estimate of these draws as it stands, in physical units, None if the solver has none."""
        estimate = self.info.estimate
        if estimate is None:
            return None
        u = estimate if isinstance(estimate, Tensor) else estimate()
        return self.posterior.to_physical(u[: self.wanted]).clone()


class Callback:
    """Something that looks on; override what is of interest."""

    @property
    def name(self) -> str:
        """What its memory goes by in a checkpoint; two of one name are told apart by their order."""
        return type(self).__qualname__

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
        self._draws = 0

    def start(self, posterior: Posterior, draws: int, steps: int) -> None:
        """Remember whether there is more than one draw to name."""
        del posterior, steps
        self._draws = draws

    def step(self, event: StepEvent) -> None:
        """Say where the run is and how long it will take."""
        if event.done < event.total and time.monotonic() - self._last < self._every:
            return
        self._last = time.monotonic()
        left = "" if event.seconds_left is None else f", {_duration(event.seconds_left)} left"
        values = {name: v[: event.wanted].double().mean() for name, v in event.info.values.items()}
        numbers = "".join(f", {name} {float(v):.3g}" for name, v in values.items())
        through = event.first + event.wanted - 1
        which = f" {event.first}" if event.wanted == 1 else f"s {event.first}-{through}"
        steps = (
            f"{event.step} of at most {event.steps}" if event.open_ended else f"{event.step}/{event.steps}"
        )
        self._say(f"{event.kind}{which if self._draws > 1 else ''}: step {steps}{numbers}{left}")


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
    #: One entry per step and microbatch: step, draws, calls so far, the plan's columns, the info's means.
    #: A name that is taken already goes by "plan.name" or "info.name".
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.window is not None and not 1 <= self.window[0] <= self.window[1]:
            raise value_error("window", "be (first, last) with 1 <= first <= last", self.window)
        self._open = _Movement()
        self._pooled: Tensor | None = None
        self._degrees = 0

    @property
    def name(self) -> str:
        """The window is part of it: another one is another memory."""
        return f"Trajectory({self.window})"

    def step(self, event: StepEvent) -> None:
        """Take the step in, once."""
        values = {name: float(v[: event.wanted].double().mean()) for name, v in event.info.values.items()}
        row: dict[str, Any] = {
            "step": event.step,
            "first_draw": event.first,
            "draws": event.wanted,
            "network_evaluations": event.ledger.network_evaluations,
            "operator_calls": event.ledger.operator_calls,
        }
        for source, found in (("plan", event.row.values), ("info", values)):
            row |= {f"{source}.{name}" if name in row else name: value for name, value in found.items()}
        # What is told again takes the place of what was told before.
        if self.rows and _key(self.rows[-1]) >= _key(row):
            self.rows = [before for before in self.rows if _key(before) < _key(row)]
        self.rows.append(row)
        first, last = self.window or (1, event.steps)
        if first <= event.step <= last and event.estimate is not None:
            self._take(event, event.estimate)

    @property
    def temporal_sd(self) -> Tensor | None:
        """Sd of each voxel's estimate over the steps of the window, per component, rms over draws."""
        pooled, degrees = self._closed()
        return None if pooled is None or degrees == 0 else (pooled / degrees).sqrt()

    def keep(self) -> dict[str, Any]:
        """Return rows and moments."""
        return {"rows": self.rows, "open": vars(self._open), "pooled": self._pooled, "degrees": self._degrees}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Take rows and moments over."""
        self.rows, self._open = kept["rows"], _Movement(**kept["open"])
        self._pooled, self._degrees = kept["pooled"], kept["degrees"]

    def _take(self, event: StepEvent, estimate: Tensor) -> None:
        wide = estimate.to(torch.complex128 if estimate.is_complex() else torch.float64)
        now = self._open
        if event.first != now.first:
            (self._pooled, self._degrees), now = self._closed(), _Movement(event.first)
        if now.wanted not in (0, event.wanted):
            now = _Movement(event.first)  # a short batch, done again whole
        if event.step > now.step:
            self._open = now.then(wide, event)

    def _closed(self) -> tuple[Tensor | None, int]:
        """Return the squared movements summed over draws, and the degrees of freedom behind them."""
        now = self._open
        if now.mean is None or now.spread is None or now.number < 2:
            return self._pooled, self._degrees
        components = 2 if now.mean.is_complex() else 1
        total = now.spread.sum(dim=0) / components
        pooled = total if self._pooled is None else self._pooled + total
        return pooled, self._degrees + now.mean.shape[0] * (now.number - 1)


@dataclass(frozen=True)
class _Movement:
    """Running moments of one batch's estimates: replaced whole, so that no interruption splits them."""

    first: int = -1
    wanted: int = 0
    step: int = 0
    number: int = 0
    mean: Tensor | None = None
    spread: Tensor | None = None

    def then(self, wide: Tensor, event: StepEvent) -> _Movement:
        """Return the moments with one more estimate (Welford)."""
        if self.mean is None or self.spread is None:
            return _Movement(
                event.first, event.wanted, event.step, 1, wide.clone(), torch.zeros_like(wide.real)
            )
        number = self.number + 1
        before = wide - self.mean
        mean = self.mean + before / number
        spread = self.spread + (before.conj() * (wide - mean)).real
        return _Movement(event.first, event.wanted, event.step, number, mean, spread)


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["first_draw"], row["step"]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
