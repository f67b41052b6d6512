"""Of several answers to each draw the one that fits the data best.

    u_k = argmax log p(y | u) over draws runs k, ..., runs k + runs - 1 of the inner solver

Where a solver ends in a minimum that does not explain the data, as in phase retrieval, another start may find
one that does: if a share p of its draws is wrong and their misfit tells, of these it is p^runs. A third of
24 answers of RED-Diff to intensities of 4 x 4 images was, and none of the best of 4.

What it is off by: it meets the data better than a draw does, the more so the more runs there are, and the
spread of several says nothing. Its kind tells so, and `Samples` refuses an sd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from operators.checks import all_finite, check_count
from operators.errors import type_error, value_error
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.snapshot import pack, unpack
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["BestOf"]

#: Kinds of which the best is a best-of and nothing else besides.
CHOSEN_FROM = (Kind.EXACT_SAMPLE, Kind.APPROXIMATE_SAMPLE, Kind.POINT_ESTIMATE)


@dataclass(frozen=True)
class BestOf(Solver[Any]):
    """The best of `runs` draws of `inner` by log p(y | u), for each draw that is asked for.

    Its state is the inner solver's, with tensors (draws, runs, ...). It costs `runs` times as much, and a
    microbatch holds as many times more.
    """

    inner: Solver[Any]
    runs: int = 4

    kind: ClassVar[Kind] = Kind.BEST_OF  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Solver):
            remedy = "Such as BestOf(DAPS(), runs=4)."
            raise type_error("inner", "be a Solver's instance", repr(self.inner), remedy)
        name, inner = type(self.inner).__name__, self.inner
        object.__setattr__(
            self, "runs", check_count(self.runs, "runs", minimum=2, remedy=f"One run is {name} itself.")
        )
        if inner.deterministic:
            raise value_error("inner", "be a solver whose draws differ", name)
        if inner.particles is not None:
            remedy = "Particles have weights: draw by them, draws=K."
            raise value_error("inner", "be a solver of independent draws", name, remedy)
        if inner.kind not in CHOSEN_FROM:
            remedy = "Raise `runs`." if inner.kind is Kind.BEST_OF else "Its answers are to be called that."
            wanted = f"give one of {', '.join(CHOSEN_FROM)}"
            raise value_error("inner", wanted, f"{name}, a {inner.kind}", remedy)
        if inner.capabilities.prior_only:
            raise value_error("inner", "look at a measurement, to choose by", name)

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """The inner solver's demands, and a measurement to choose by."""
        return replace(self.inner.capabilities, likelihood=True)

    @property
    def width(self) -> int:
        """As many states as runs, each as wide as the inner solver's."""
        return self.runs * self.inner.width

    @property
    def state_type(self) -> type[Any]:  # type: ignore[override]
        """The inner solver's."""
        return self.inner.state_type

    @property
    def remedy(self) -> str:  # type: ignore[override]
        """The inner solver's."""
        return self.inner.remedy

    @property
    def plan_is_limit(self) -> bool:  # type: ignore[override]
        """The inner solver's."""
        return self.inner.plan_is_limit

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return the inner solver's."""
        return self.inner.plan(posterior)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> Any:
        """Return the states of all runs, side by side."""
        return self._folded(self.inner.init(posterior, _of_runs(keys, self.runs), like))

    def step(self, posterior: Posterior, state: Any, row: PlanRow, keys: Keys) -> tuple[Any, Info]:
        """Do the step of all runs; tell the estimate of the best, and of each number the largest."""
        moved, info = self.inner.step(posterior, self._flat(state), row, _of_runs(keys, self.runs))
        return self._folded(moved), self._told(posterior, info)

    def answer(self, posterior: Posterior, state: Any) -> Tensor:
        """Return the best u of each draw."""
        return self._best(posterior, self.inner.answer(posterior, self._flat(state)))

    def whereabouts(self, row: PlanRow) -> str:
        """Return where the inner solver is."""
        return self.inner.whereabouts(row)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return what the runs take, and one A each to choose by."""
        each = self.inner.cost(posterior, plan)
        return Cost(
            self.runs * each.network_evaluations,
            self.runs * each.backward_passes,
            self.runs * (each.operator_calls + 1),
        )

    def _best(self, posterior: Posterior, u: Tensor) -> Tensor:
        """Return of each draw the u that fits best, or one that is no number: what diverged is not hidden."""
        fits = posterior.measured.log_likelihood(u).nan_to_num(nan=-torch.inf)
        spoilt = ~torch.isfinite(u.flatten(1)).all(1)
        chosen = self._by_draw(torch.where(spoilt, torch.inf, fits)).argmax(1)
        runs = self._by_draw(u)
        return runs[torch.arange(len(runs), device=u.device), chosen]

    def _told(self, posterior: Posterior, info: Info) -> Info:
        """Return what there is to tell of each draw: which run is the best costs an A, if somebody looks."""
        values = {name: self._by_draw(value).amax(1) for name, value in info.values.items()}
        made = info.estimate
        if made is None:
            return Info(None, values, info.finished)
        if isinstance(made, Tensor) and not all_finite(made):
            return Info(self._best(posterior, made), values, info.finished)

        def best() -> Tensor:
            return self._best(posterior, made if isinstance(made, Tensor) else made())

        return Info(best, values, info.finished)

    def _by_draw(self, rows: Tensor) -> Tensor:
        """Return rows of all runs as (draws, runs, ...)."""
        return rows.reshape(-1, self.runs, *rows.shape[1:])

    def _folded(self, state: Any) -> Any:
        """Return a state of the inner solver with a row for each draw: so the guard against NaN names it."""
        return _mapped(state, self.state_type, lambda t: self._by_draw(t) if t.ndim > 0 else t)

    def _flat(self, state: Any) -> Any:
        """Return the inner solver's state as it wants it, a row for each run."""
        return _mapped(state, self.state_type, lambda t: t.flatten(0, 1) if t.ndim > 0 else t)


def _mapped(state: Any, state_type: type[Any], change: Callable[[Tensor], Tensor]) -> Any:
    skeleton, tensors = pack(state)
    return unpack(skeleton, {name: change(tensor) for name, tensor in tensors.items()}, state_type)


def _of_runs(keys: Keys, runs: int) -> Keys:
    """Return the keys of the runs of each draw, in order."""
    return _numbered(keys.seed, keys.draws, runs).at(keys.step)


@lru_cache(maxsize=8)
def _numbered(seed: int, draws: tuple[int, ...], runs: int) -> Keys:
    # Kept for all steps: as many numbers are looked at as there are rows.
    return Keys(seed, tuple(runs * draw + run for draw in draws for run in range(runs)))
