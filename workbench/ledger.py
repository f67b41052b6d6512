"""What a run has cost, counted as it happens, and budgets that are enforced, not reported afterwards.

Everything is counted per sample: one network call on a batch of 8 is 8 evaluations, as is A on a
batch of 8. Rows that only fill a microbatch up are computed, and counted.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error

__all__ = ["Budget", "BudgetError", "BudgetExhausted", "Ledger", "peak_memory", "reset_peak_memory"]

#: What a ledger counts one by one.
COUNTS = ("network_evaluations", "backward_passes", "forwards", "adjoints", "grams", "solves")


class BudgetError(ValueError):
    """A budget that cannot be met; said before the run."""


class BudgetExhausted(RuntimeError):
    """A budget was reached during the run; with a store, a larger one goes on from there."""


@dataclass(frozen=True)
class Budget:
    """Limits of a run, None for none; `operator_calls` counts A, A^H, and A^H A as two."""

    network_evaluations: int | None = None
    backward_passes: int | None = None
    operator_calls: int | None = None
    seconds: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if item.name == "seconds":
                check_number(value, "seconds", positive=True)
            else:
                check_count(value, item.name)

    @staticmethod
    def require(value: object) -> Budget:
        """Return `value` if it is a Budget."""
        if not isinstance(value, Budget):
            raise type_error("budget", "be a Budget", type(value).__name__, "Budget(seconds=60).")
        return value


@dataclass
class Ledger:
    """Counters of one run."""

    network_evaluations: int = 0
    backward_passes: int = 0
    forwards: int = 0
    adjoints: int = 0
    grams: int = 0
    solves: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    def __post_init__(self) -> None:
        self._budget = Budget()
        self._begun: float | None = None

    @property
    def operator_calls(self) -> int:
        """A, A^H, and A^H A as two."""
        return self.forwards + self.adjoints + 2 * self.grams

    @property
    def budget(self) -> Budget:
        """The limits that are enforced."""
        return self._budget

    def enforce(self, budget: Budget) -> None:
        """Raise BudgetExhausted from the call that would go beyond `budget`."""
        self._budget = budget

    def count(self, name: str, number: int) -> None:
        """Count `number` calls of `name`, one of `COUNTS`, unless that is beyond the budget."""
        calls = {"forwards": number, "adjoints": number, "grams": 2 * number}.get(name, 0)
        wanted = {"operator_calls": self.operator_calls + calls} if calls else {}
        if name in ("network_evaluations", "backward_passes"):
            wanted[name] = getattr(self, name) + number
        for limit_name, total in wanted.items():
            limit = getattr(self._budget, limit_name)
            if limit is not None and total > limit:
                self._exhausted(limit_name, f"{total} are needed now", limit)
        setattr(self, name, getattr(self, name) + number)

    def foresee(self, needed: Mapping[str, int]) -> None:
        """Raise BudgetError if the budget does not have left what is `needed`, by its names."""
        for name, more in needed.items():
            limit, spent = getattr(self._budget, name), getattr(self, name)
            if limit is not None and spent + more > limit:
                wanted = f"allow at least {spent + more}: {spent} are spent, and {more} or more are to come"
                raise BudgetError(str(value_error(f"budget.{name}", wanted, limit, "Raise it.")))

    def start_clock(self) -> None:
        """Let the seconds run, after those of earlier sessions of the same run."""
        self._begun = time.perf_counter() - self.seconds

    def look(self, device: torch.device, *, enforce: bool = True, memory: bool = True) -> None:
        """Bring seconds and peak memory up to date; with `enforce`, raise if either is beyond the budget.

        Without `memory` that is asked for only where there is a budget of it: it takes longer than a small
        step, and what it says is the highest mark so far, whenever it is asked.
        """
        if self._begun is not None:
            self.seconds = time.perf_counter() - self._begun
        if memory or self._budget.memory_bytes is not None:
            self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory(device))
        if not enforce:
            return
        if self._budget.seconds is not None and self.seconds > self._budget.seconds:
            self._exhausted("seconds", f"{_short(self.seconds)} have passed", self._budget.seconds)
        limit = self._budget.memory_bytes
        if limit is not None and self.peak_memory_bytes > limit:
            self._exhausted("memory_bytes", f"{self.peak_memory_bytes} were in use", limit)

    def facts(self) -> dict[str, int | float]:
        """Return the counters for a record."""
        return asdict(self) | {"operator_calls": self.operator_calls}

    def restore(self, facts: Mapping[str, int | float]) -> None:
        """Go on from the counters of an earlier session, with what this one has counted on top."""
        for item in fields(self):
            before, now = facts.get(item.name, 0), getattr(self, item.name)
            setattr(self, item.name, before + now if item.name in COUNTS else before)

    @staticmethod
    def _exhausted(name: str, state: str, limit: float) -> None:
        shown = _short(limit) if name == "seconds" else str(limit)
        raise BudgetExhausted(
            f"the budget of {shown} {name} is exhausted: {state}. "
            "Raise it and call again with the same store to go on, or draw less."
        )


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes since the last reset: of tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    high = _high_water()
    if high is not None:
        return high
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak begin anew from what is in use now; on a CPU only Linux can, elsewhere nothing happens."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # 5 resets VmHWM, see proc(5). A container may forbid it: the peak is then the process's lifetime's.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _high_water() -> int | None:
    """Return VmHWM of this process in bytes, None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


def _short(seconds: float) -> str:
    """Return three significant digits, all of them where there are more in front of the point."""
    return f"{seconds:.3g}" if seconds < 999.5 else f"{seconds:.0f}"
