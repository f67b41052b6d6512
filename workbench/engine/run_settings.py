"""The numbers of a run."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.plan import SolverPlan

__all__ = ["RunSettings"]


@dataclass(frozen=True)
class RunSettings:
    """The numbers of a run: `count` draws are kept, `microbatch` computed at once."""

    plan: SolverPlan
    seed: int
    count: int
    microbatch: int
    #: Draws asked of interacting particles, None for all of them with their weights.
    wanted: int | None
    #: Seconds between checkpoints, and whether there is anywhere to keep them.
    every: float
    keep: bool
