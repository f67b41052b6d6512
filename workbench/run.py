"""One run of a solver: its steps, in order, with everything that may interrupt them."""

from __future__ import annotations

import math
import platform
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from operators.errors import NonFiniteError
from workbench.callbacks import Callback, StepEvent
from workbench.guards import DivergedError, diverged_rows
from workbench.ledger import Ledger
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.snapshot import pack, unpack
from workbench.solvers.base import Info, Solver
from workbench.store import Header, Progress, Store

__all__ = ["Run", "RunSettings"]


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


class Run:
    """Carries a solver through its plan, batch of draws by batch, from wherever the store has come to."""

    def __init__(
        self,
        posterior: Posterior,
        solver: Solver,
        settings: RunSettings,
        ledger: Ledger,
        store: Store,
        like: Tensor,
        callbacks: tuple[Callback, ...],
    ) -> None:
        self.posterior, self.solver, self.settings = posterior, solver, settings
        self.ledger, self.store, self.like, self.callbacks = ledger, store, like, callbacks
        self._first = 0
        self._step = 0
        self._state: Any = None
        self._saved = time.monotonic()
        self._session = (time.monotonic(), 0)

    def go(self, header: Header) -> tuple[dict[str, Any], Tensor | None]:
        """Do what is left to do; return the record and the log-weights."""
        progress = self.store.begin(header)
        if progress is not None:
            self._resume(progress)
        self._session = (time.monotonic(), self._done)
        if self.like.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.like.device)
        self.ledger.start_clock()
        for callback in self.callbacks:
            callback.start(self.posterior, self.settings.count, len(self.settings.plan))
        log_weights = None
        try:
            if self.solver.particles is not None:
                log_weights = self._ensemble()
            else:
                while self._first < self.settings.count:
                    self._batch()
        except BaseException as error:
            self._interrupted(error)
            raise
        self.ledger.look(self.like.device)
        record = self._record(header)
        self.store.finish(log_weights, record)
        for callback in self.callbacks:
            callback.finish()
        return record, log_weights

    # -- steps -----------------------------------------------------------------------------------

    def _batch(self) -> None:
        wanted = min(self.settings.microbatch, self.settings.count - self._first)
        u = self._through(tuple(range(self._first, self._first + self.settings.microbatch)), wanted)
        self.store.write(self._first, self._checked(self.posterior.to_physical(u))[:wanted].cpu())
        self._first, self._step, self._state = self._first + wanted, 0, None
        self._save()

    def _ensemble(self) -> Tensor | None:
        particles = self.solver.particles or 1
        u = self._through(tuple(range(particles)), particles)
        x = self._checked(self.posterior.to_physical(u))
        log_weights = self.solver.log_weights(self._state)
        if self.settings.wanted is not None:
            weights = torch.ones(particles) if log_weights is None else log_weights.cpu()
            chosen = self._chosen(torch.softmax(weights.double(), dim=0), self.settings.wanted)
            x, log_weights = x[chosen.to(x.device)], None
        self.store.write(0, x.cpu())
        return None if log_weights is None else log_weights.double().cpu()

    def _chosen(self, weights: Tensor, number: int) -> Tensor:
        """Return `number` indices drawn from `weights`, each keyed by the number of its draw alone."""
        keys = Keys(self.settings.seed, tuple(range(number)), len(self.settings.plan) + 1)
        u = keys.uniforms((1,), "driver.choose", like=torch.empty(0, dtype=torch.float64)).flatten()
        return torch.searchsorted(weights.cumsum(0), u).clamp(max=len(weights) - 1)

    def _through(self, draws: tuple[int, ...], wanted: int) -> Tensor:
        """Carry the draws through the plan and return their u."""
        plan = self.settings.plan
        keys = Keys(self.settings.seed, draws)
        if self._state is None:
            self._state = self._guarded(lambda: (self.solver.init(self.posterior, keys, self.like), Info()), 0)[0]
        finished = False
        while self._step < len(plan) and not finished:
            row, at, state = plan.row(self._step), keys.at(self._step + 1), self._state
            state, info = self._guarded(lambda: self.solver.step(self.posterior, state, row, at), row.index + 1)  # noqa: B023
            self._state, self._step, finished = state, self._step + 1, info.finished
            self.ledger.look(self.like.device)
            self._tell(info, row.index + 1, wanted)
            if finished:
                self._step = len(plan)
            if time.monotonic() - self._saved >= self.settings.every:
                self._save()
        return self.solver.answer(self.posterior, self._state)
