"""One run of a solver: its steps, in order, with everything that may interrupt them."""

from __future__ import annotations

import math
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from operators.checks import all_finite
from operators.errors import NonFiniteError
from workbench.callbacks import Callback, StepEvent
from workbench.guards import DivergedError, diverged, diverged_rows
from workbench.ledger import Ledger
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.snapshot import pack, unpack
from workbench.solvers.base import Info, Solver
from workbench.store import Header, Progress, Store, StoreFull

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
                while self._place[0] < self.settings.count:
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
        first, size = self._place[0], self.settings.microbatch
        wanted = min(size, self.settings.count - first)
        u = self._through(tuple(range(first, first + size)), wanted)
        self.store.write(first, self._checked(self.posterior.to_physical(u))[:wanted].cpu())
        self._place = (first + wanted, 0, None)
        self._save()

    def _ensemble(self) -> Tensor | None:
        particles = self.solver.particles or 1
        u = self._through(tuple(range(particles)), particles)
        x = self._checked(self.posterior.to_physical(u))
        log_weights = self.solver.log_weights(self._place[2])
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
        first, done, state = self._place
        if state is None:
            state, _ = self._guarded(lambda: (self.solver.init(self.posterior, keys, self.like), Info()), 0)
            self._place = (first, 0, state)
        while done < len(plan):
            row = plan.row(done)
            act = partial(self.solver.step, self.posterior, state, row, keys.at(row.index + 1))
            state, info = self._guarded(act, row.index + 1)
            done = len(plan) if info.finished else done + 1
            self._place = (first, done, state)
            self.ledger.look(self.like.device)
            self._tell(info, row.index + 1, wanted)
            if time.monotonic() - self._saved >= self.settings.every:
                self._save()
        return self.solver.answer(self.posterior, state)

    def _guarded(self, act: Callable[[], tuple[Any, Info]], step: int) -> tuple[Any, Info]:
        """Return what `act` gives, or say at which step and for which draws it gave no numbers."""
        try:
            state, info = act()
        except (NonFiniteError, FloatingPointError) as error:
            raise self._diverged(step, "", str(error)) from error
        bad = diverged_rows(state, info, self.settings.microbatch)
        if bad:
            which = ", ".join(str(self._place[0] + row) for row in bad[:8]) + (
                ", ..." if len(bad) > 8 else ""
            )
            raise self._diverged(step, f" in draw {which}" if len(bad) == 1 else f" in draws {which}", "")
        return state, info

    def _diverged(self, step: int, which: str, reason: str) -> DivergedError:
        where = "before its first step" if step == 0 else f"at step {step} of {len(self.settings.plan)}"
        return diverged(self.solver, where, which, reason)

    def _checked(self, x: Tensor) -> Tensor:
        if x.dtype != torch.int64 and not all_finite(x):
            raise self._diverged(len(self.settings.plan), "", "in the answer")
        return x

    def _tell(self, info: Info, step: int, wanted: int) -> None:
        if not self.callbacks:
            return
        plan, total = self.settings.plan, self._total
        seconds, steps = time.monotonic() - self._session[0], self._done - self._session[1]
        left = None if steps <= 0 else seconds / steps * (total - self._done)
        event = StepEvent(
            posterior=self.posterior,
            first=self._place[0],
            wanted=wanted,
            step=step,
            steps=len(plan),
            done=self._done,
            total=total,
            row=plan.row(step - 1),
            info=info,
            ledger=self.ledger,
            seconds_left=left,
        )
        for callback in self.callbacks:
            callback.step(event)

    @property
    def _total(self) -> int:
        batches = 1 if self.solver.particles else math.ceil(self.settings.count / self.settings.microbatch)
        return batches * len(self.settings.plan)

    @property
    def _done(self) -> int:
        return math.ceil(self._place[0] / self.settings.microbatch) * len(self.settings.plan) + self._place[1]

    # -- stopping and going on ---------------------------------------------------------------------

    def _save(self) -> None:
        if not self.settings.keep:
            return
        first, step, value = self._place
        state, tensors = pack(value, "state")
        kept = []
        for i, callback in enumerate(self.callbacks):
            skeleton, more = pack(callback.keep(), f"callback{i}")
            kept.append({"class": type(callback).__qualname__, "kept": skeleton})
            tensors |= more
        facts = {
            "first": first,
            "step": step,
            "state": state,
            "callbacks": kept,
            "microbatch": self.settings.microbatch,
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
        if state is None and first < self.settings.count:
            # More draws than before: a batch that was cut short is done again, whole, as it would have been.
            first -= first % self.settings.microbatch
        self._place = (first, facts["step"], state)
        self.ledger.restore(facts["ledger"])
        by_class = {entry["class"]: entry["kept"] for entry in facts["callbacks"]}
        for callback in self.callbacks:
            if (skeleton := by_class.get(type(callback).__qualname__)) is not None:
                callback.restore(unpack(skeleton, tensors, dict))

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
        error.add_note(
            f"{self._place[0]} draws are kept, and step {self._place[1]} of the next. The same call goes on."
        )

    def _record(self, header: Header) -> dict[str, Any]:
        plan = self.settings.plan
        return {
            "kind": str(self.solver.kind),
            "solver": repr(self.solver),
            "posterior": repr(self.posterior),
            "plan": {"sha256": plan.hash, "steps": len(plan)},
            "seed": self.settings.seed,
            "draws": self.settings.count,
            "particles": self.solver.particles,
            "microbatch": self.settings.microbatch,
            "fingerprint": header.fingerprint,
            "ledger": self.ledger.facts(),
            "environment": environment(self.like.device),
        }


def environment(device: torch.device) -> dict[str, Any]:
    """Return what decides the last bits of a result: versions, device, number of threads."""
    try:
        ours = version("inverse-workbench")
    except PackageNotFoundError:  # a checkout that was never installed
        ours = None
    return {
        "inverse-workbench": ours,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
