"""The integrators that are verified, each with the noise levels that it is usually run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.integration import (
    Karras,
    Levels,
    LogUniform,
    PathUniform,
    ancestral,
    ddim,
    deis,
    dpm_solver,
    dpm_solver_plus_plus,
    euler,
    heun,
    multistep,
    pndm,
    s_pndm,
    unipc,
)
from workbench.paths import AffinePath
from workbench.plan import SolverPlan

__all__ = ["DIFFUSIONS", "FLOWS", "SIGMA_MAX", "SIGMA_MIN", "Method"]

SIGMA_MAX, SIGMA_MIN = 80.0, 0.02
FLOW, VP = AffinePath.flow(), AffinePath.vp()
LOG = LogUniform(SIGMA_MAX, SIGMA_MIN)
KARRAS = Karras(SIGMA_MAX, SIGMA_MIN)
#: Even and quadratic in the time of the variance-preserving path, on which the last level is not 0.
EVEN = PathUniform(VP, 1.0, SIGMA_MAX, SIGMA_MIN)
QUADRATIC = PathUniform(VP, 2.0, SIGMA_MAX, SIGMA_MIN)

Build = Callable[[Sequence[float]], SolverPlan]


@dataclass(frozen=True)
class Method:
    """A method by name; `order` is the one it claims, None where no order is claimed or gated.

    A step takes `per_step` evaluations and a run `extra` besides; a last step to the image takes one.
    """

    name: str
    build: Build
    levels: Levels = LOG
    order: int | None = None
    per_step: int = 1
    extra: int = 0
    path: AffinePath = FLOW

    def plan(self, evaluations: int) -> SolverPlan | None:
        """Return the plan of at most so many evaluations, None where there is none."""
        steps = (evaluations - self.extra - 1) // self.per_step + 1
        return None if steps < 2 else self.build(self.levels.times(steps))

    def fine_plan(self, steps: int) -> SolverPlan:
        """Return the plan of `steps` steps, evenly spaced in log sigma, that ends at sigma_min."""
        return self.build(LogUniform(SIGMA_MAX, SIGMA_MIN, to_zero=False).times(steps))


#: Of the probability flow: the same noise leads to the same image.
FLOWS = (
    Method("DDIM", ddim, order=1),
    Method("Euler (EDM)", euler, KARRAS, order=1),
    Method("Heun (EDM)", heun, KARRAS, order=2, per_step=2),
    Method("DPM-Solver-2", lambda t: dpm_solver(t, order=2), order=2, per_step=2),
    Method("DPM-Solver-3", lambda t: dpm_solver(t, order=3), order=3, per_step=3),
    Method("DPM-Solver++ 2M", lambda t: dpm_solver_plus_plus(t, order=2), order=2),
    Method("DPM-Solver++ 3M", lambda t: dpm_solver_plus_plus(t, order=3), order=3),
    Method("noise form 2M", lambda t: multistep(t, order=2, prediction="noise"), order=2),
    Method("noise form 3M", lambda t: multistep(t, order=3, prediction="noise"), order=3),
    Method("DEIS rhoAB-2", lambda t: deis(t, order=2, variable="sigma"), KARRAS, order=2),
    Method("DEIS rhoAB-3", lambda t: deis(t, order=3, variable="sigma"), KARRAS, order=3),
    Method("DEIS tAB-3", lambda t: deis(t, order=3), QUADRATIC, order=3, path=VP),
    Method("UniPC-2", lambda t: unipc(t, order=2), order=3),
    Method("UniPC-3", lambda t: unipc(t, order=3), order=4),
    Method("S-PNDM", lambda t: s_pndm(t, path=VP), EVEN, extra=1, path=VP),
    Method("PNDM", lambda t: pndm(t, path=VP), EVEN, extra=9, path=VP),
)

#: Of reverse diffusions: fresh noise at each step, so that only the law of the images can be compared.
DIFFUSIONS = (
    Method("ancestral (DDPM)", ancestral),
    Method("SDE DPM-Solver++ 2M", lambda t: dpm_solver_plus_plus(t, order=2, tau=1.0)),
    Method("SDE DPM-Solver++ 3M", lambda t: dpm_solver_plus_plus(t, order=3, tau=1.0)),
    Method("DDIM", ddim),
    Method("DPM-Solver++ 2M", lambda t: dpm_solver_plus_plus(t, order=2)),
)
