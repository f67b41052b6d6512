"""One run of a solver: its steps, in order, with everything that may interrupt them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from operators.checks import all_finite
from operators.errors import NonFiniteError, value_error
from workbench.callbacks import Callback, StepEvent
from workbench.engine.costs import still_to_come
from workbench.engine.environment import environment
from workbench.engine.guards import DivergedError, diverged, diverged_rows
from workbench.engine.run_settings import RunSettings
from workbench.ledger import Ledger
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.snapshot import check_keepable, pack, unpack
from workbench.solvers.base import Info, Solver
from workbench.store import Header, Progress, Store, StoreFull

__all__ = ["Run"]


class Run:
    """Carries a solver through its plan, batch of draws by batch, from wherever the store has come to."""

    def __init__(
        self,
        posterior: Posterior,
        solver: Solver[Any],
        settings: RunSettings,
        ledger: Ledger,
        store: Store,
        like: Tensor,
        callbacks: tuple[Callback, ...],
    ) -> None:
        self.posterior, self.solver, self.settings = posterior, solver, settings
        self.ledger, self.store, self.like, self.callbacks = ledger, store, like, callbacks
        # First draw of the batch, steps done, state: in one, so that no interruption falls between them.
        self._place: tuple[int, int, Any] = (0, 0, None)
        self._log_weights: Tensor | None = None
        #: Batches finished in this session, and the steps they took: what the time left is judged by.
        self._finished = (0, 0)
        #: The most steps that a batch took, of those that the plan allows.
        self._taken = 0
        #: The largest of each number that the last steps told: what a solver says of its own accuracy.
        self._last: dict[str, float] = {}
        #: What the particles say of themselves at the end.
        self._told: dict[str, Any] = {}
        self._saved = time.monotonic()
        #: When this session began, with which batch, after how many of its steps.
        self._session = (time.monotonic(), 0, 0)

    def go(self, header: Header) -> tuple[dict[str, Any], Tensor | None]:
        """Do what is left to do; return the record and the log-weights."""
        try:
            return self._go(header)
        finally:
            self.store.leave()

    def _go(self, header: Header) -> tuple[dict[str, Any], Tensor | None]:
        progress = self.store.begin(header)
        if progress is not None:
            self._resume(progress)
            self.ledger.foresee(self._to_come())
            self.ledger.look(self.like.device, enforce=self._place[0] < self.settings.count)
        if self.settings.keep:
            for callback in self.callbacks:
                check_keepable(callback.keep(), dict, f"{type(callback).__name__}.keep()")
        self._session = (time.monotonic(), self._place[0] // self.settings.microbatch, self._place[1])
        for callback in self.callbacks:
            callback.start(self.posterior, self.settings.count, len(self.settings.plan))
        try:
            while self._place[0] < self.settings.count:
                if self.solver.particles is None:
                    self._batch()
                else:
                    self._ensemble()
        except BaseException as error:
            self._interrupted(error)
            raise
        self.ledger.look(self.like.device, enforce=False)
        record = self._record(header)
        self.store.finish(self._log_weights, record)
        for callback in self.callbacks:
            callback.finish()
        return record, self._log_weights

    # -- steps -----------------------------------------------------------------------------------

    def _batch(self) -> None:
        first, size = self._place[0], self.settings.microbatch
        wanted = min(size, self.settings.count - first)
        u = self._through(tuple(range(first, first + size)), wanted)
        self.store.write(first, self._checked(self.posterior.to_physical(u[:wanted])).cpu())
        self._place = (first + wanted, 0, None)
        self._save()

    def _ensemble(self) -> None:
        particles, wanted = self.solver.particles or 1, self.settings.wanted
        u = self._through(tuple(range(particles)), particles)
        x = self._checked(self.posterior.to_physical(u))
        log_weights = self.solver.log_weights(self._place[2])
        if log_weights is not None and not bool((log_weights > -math.inf).any() & ~log_weights.isnan().any()):
            raise self._diverged(len(self.settings.plan), "", "every particle has weight zero, or a NaN")
        if wanted is not None:
            even = torch.zeros(particles, dtype=torch.float64)
            weights = even if log_weights is None else log_weights.cpu().double()
            x, log_weights = x[self._chosen(torch.softmax(weights, dim=0), wanted).to(x.device)], None
        self._log_weights = None if log_weights is None else log_weights.double().cpu()
        self._told = self.solver.facts(self.posterior, self._place[2])
        self.store.write(0, x.cpu())
        self._place = (self.settings.count, 0, None)
        self._save()

    def _chosen(self, weights: Tensor, number: int) -> Tensor:
        """Return `number` indices drawn from `weights`, each keyed by the number of its draw alone."""
        keys = Keys(self.settings.seed, tuple(range(number)), len(self.settings.plan) + 1)
        u = keys.uniforms((1,), "driver.choose", like=torch.empty(0, dtype=torch.float64)).flatten()
        return torch.searchsorted(weights.cumsum(0), u).clamp(max=len(weights) - 1)

    def _through(self, draws: tuple[int, ...], wanted: int) -> Tensor:
        """Carry the draws through the plan and return their u."""
        plan = self.settings.plan
        keys = Keys(self.settings.seed, draws)
        first, done, state = self._place
        if state is None:
            state, _ = self._guarded(lambda: (self.solver.init(self.posterior, keys, self.like), Info()), 0)
            if self.settings.keep:
                check_keepable(state, self.solver.state_type, f"the state of {type(self.solver).__name__}")
            self._place = (first, 0, state)
        while done < len(plan):
            row = plan.row(done)
            act = partial(self.solver.step, self.posterior, state, row, keys.at(row.index + 1))
            state, info = self._guarded(act, row.index + 1)
            done = len(plan) if info.finished else done + 1
            self._tell(info, row.index + 1, wanted)
            # Once everybody knows of it: what comes in between has the step done and told again.
            self._place = (first, done, state)
            self.ledger.look(self.like.device, enforce=done < len(plan), memory=bool(self.callbacks))
            if done == len(plan):
                self._last |= _worst(self._last, info, wanted)
                self._taken = max(self._taken, row.index + 1)
                self._finished = (self._finished[0] + 1, self._finished[1] + row.index + 1)
            if time.monotonic() - self._saved >= self.settings.every:
                self._save()
        answer = self.solver.answer(self.posterior, state)
        expected = (len(draws), *self.posterior.space.shape)
        if tuple(answer.shape) != expected:
            where = f"{type(self.solver).__name__}.answer"
            raise value_error(where, f"return shape {expected}, a row per draw", tuple(answer.shape))
        return answer

    def _guarded(self, act: Callable[[], tuple[Any, Info]], step: int) -> tuple[Any, Info]:
        """Return what `act` gives, or say at which step and for which draws it gave no numbers."""
        try:
            state, info = act()
        except (NonFiniteError, FloatingPointError) as error:
            raise self._diverged(step, "", str(error)) from error
        batch = self.solver.particles or self.settings.microbatch
        wanted = batch if self.solver.particles else min(batch, self.settings.count - self._place[0])
        bad = diverged_rows(state, info, batch, wanted)
        if bad:
            which = ", ".join(str(self._place[0] + row) for row in bad[:8]) + (
                ", ..." if len(bad) > 8 else ""
            )
            raise self._diverged(step, f" in draw {which}" if len(bad) == 1 else f" in draws {which}", "")
        return state, info

    def _diverged(self, step: int, which: str, reason: str) -> DivergedError:
        where = "before its first step" if step == 0 else f"at step {step} of {len(self.settings.plan)}"
        if step > 0 and (place := self.solver.whereabouts(self.settings.plan.row(step - 1))):
            where = f"{where}, {place}" + ("," if which else "")
        return diverged(self.solver, where, which, reason)

    def _checked(self, x: Tensor) -> Tensor:
        if x.dtype != torch.int64 and not all_finite(x):
            raise self._diverged(len(self.settings.plan), "", "in the answer")
        return x

    def _tell(self, info: Info, step: int, wanted: int) -> None:
        if not self.callbacks:
            return
        plan = self.settings.plan
        event = StepEvent(
            posterior=self.posterior,
            first=self._place[0],
            wanted=wanted,
            step=step,
            steps=len(plan),
            done=self._done(step),
            total=self._batches * len(plan),
            row=plan.row(step - 1),
            info=info.copied(),
            ledger=copy(self.ledger),
            seconds_left=self._seconds_left(step),
            kind=self.solver.kind,
            open_ended=self.solver.plan_is_limit,
        )
        for callback in self.callbacks:
            callback.step(event)

    def _seconds_left(self, step: int) -> float | None:
        """Return the seconds that are left if batches go on as those of this session."""
        batches, taken = self._finished
        if batches == 0 and self.solver.plan_is_limit:
            return None
        usual = taken / batches if batches else len(self.settings.plan)
        began, place, skipped = self._session
        now = self._place[0] // self.settings.microbatch
        done = taken + step - (skipped if now == place else 0)
        left = max(usual - step, 0) + (self._batches - now - 1) * usual
        return (time.monotonic() - began) / done * left if done > 0 else None

    @property
    def _batches(self) -> int:
        return 1 if self.solver.particles else math.ceil(self.settings.count / self.settings.microbatch)

    def _done(self, step: int) -> int:
        return self._place[0] // self.settings.microbatch * len(self.settings.plan) + step

    # -- stopping and going on ---------------------------------------------------------------------

    def _save(self) -> None:
        if not self.settings.keep:
            return
        self.ledger.look(self.like.device, enforce=False)
        first, step, value = self._place
        state, tensors = pack(value, "state")
        kept = []
        for i, callback in enumerate(self.callbacks):
            skeleton, more = pack(callback.keep(), f"callback{i}")
            kept.append({"name": callback.name, "kept": skeleton})
            tensors |= more
        facts = {
            "first": first,
            "step": step,
            "count": self.settings.count,
            "state": state,
            "callbacks": kept,
            "weights": None if self._log_weights is None else self._log_weights.tolist(),
            "microbatch": self.settings.microbatch,
            "last": self._last,
            "told": self._told,
            "taken": self._taken,
            "ledger": self.ledger.facts(),
            "environment": environment(self.like.device),
        }
        self.store.save(Progress(facts, tensors))
        self._saved = time.monotonic()

    def _resume(self, progress: Progress) -> None:
        facts = progress.facts
        if facts["environment"] != (now := environment(self.like.device)):
            changed = {k: (v, now.get(k)) for k, v in facts["environment"].items() if now.get(k) != v}
            warnings.warn(
                f"this run was begun elsewhere: {changed} (then, now). It goes on, and agrees to rounding, "
                "not bit by bit.",
                UserWarning,
                stacklevel=4,
            )
        self.settings = replace(self.settings, microbatch=facts["microbatch"])
        tensors = {name: tensor.to(self.like.device) for name, tensor in progress.tensors.items()}
        first, state = facts["first"], unpack(facts["state"], tensors, self.solver.state_type)
        step, size = facts["step"], self.settings.microbatch
        if facts["count"] != self.settings.count and not self.solver.particles:
            # A batch that was short then, or would be now, is done again, whole, as it would have been.
            short = first + size > min(facts["count"], self.settings.count)
            first, step, state = first - first % size, 0 if short else step, None if short else state
        self._place = (first, step, state)
        self._last, self._taken = dict(facts["last"]), facts["taken"]
        self._told = facts.get("told", {})
        self.ledger.restore(facts["ledger"])
        self.ledger.start_clock()
        if facts["weights"] is not None:
            self._log_weights = torch.tensor(facts["weights"], dtype=torch.float64)
        memories = list(facts["callbacks"])
        for callback in self.callbacks:
            found = next((m for m in memories if m["name"] == callback.name), None)
            if found is not None:
                memories.remove(found)
                callback.restore(unpack(found["kept"], tensors, dict))

    def _to_come(self) -> dict[str, int]:
        """Return what the rest of the run costs at least, by the names of a Budget."""
        first, step, _ = self._place
        if first >= self.settings.count:
            return {}
        size = self.solver.particles or self.settings.microbatch
        left = self._batches - (0 if self.solver.particles else first // size)
        plan = self.settings.plan
        return still_to_come(self.posterior, self.solver, plan, size=size, batches=left, step=step)

    def _interrupted(self, error: BaseException) -> None:
        """Keep what is done, and say how to go on; the error itself is the caller's."""
        if isinstance(error, StoreFull):
            return  # it says so itself, and there is no room for more
        if not self.settings.keep:
            if not isinstance(error, Exception):
                error.add_note(
                    "The draws were kept in memory only. With store=ZarrStore(path) a run can go on."
                )
            return
        try:
            self._save()
        except Exception as also:
            error.add_note(f"The progress could not be saved either: {also}")
            return
        kept = f"{self._place[0]} draws are kept, and step {self._place[1]} of the next."
        kept = f"Step {self._place[1]} of the particles is kept." if self.solver.particles else kept
        again = "meets the same" if isinstance(error, DivergedError) else "goes on"
        error.add_note(f"{kept} The same call {again}.")

    def _record(self, header: Header) -> dict[str, Any]:
        plan = self.settings.plan
        return {
            "kind": str(self.solver.kind),
            "solver": repr(self.solver),
            "posterior": repr(self.posterior),
            "prior": self.posterior.prior.declared.facts(),
            "plan": plan.facts(),
            "steps_taken": self._taken,
            "seed": self.settings.seed,
            "draws": self.settings.count,
            "particles": self.solver.particles,
            "microbatch": self.settings.microbatch,
            "fingerprint": header.fingerprint,
            "last_step": self._last,
            "ensemble": self._told or None,
            "ledger": self.ledger.facts(),
            "environment": environment(self.like.device),
        }


def _worst(before: dict[str, float], info: Info, wanted: int) -> dict[str, float]:
    """Return the largest value of each number over the draws that are kept, and over earlier batches."""
    now = {name: float(value[:wanted].double().max()) for name, value in info.values.items()}
    return {name: max(value, before.get(name, value)) for name, value in now.items()}
