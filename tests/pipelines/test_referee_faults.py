"""Ten faults that people make in samplers, planted one at a time: the referee sees each, and no others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from operators.cg import cg_start, cg_step
from pipelines.verify.referee.cells import Cell, cell
from pipelines.verify.referee.entries import LEVELS, Entry, model_of
from pipelines.verify.referee.laws.chains import chain_of
from pipelines.verify.referee.problem import problem
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers import pull as guidance
from workbench.solvers.base import Info, Solver
from workbench.solvers.guidance import diffpir, dps
from workbench.solvers.guidance.ddrm import DDRM
from workbench.solvers.guidance.dds import DDS
from workbench.solvers.guidance.diffpir import DiffPIR
from workbench.solvers.guidance.dps import DPS
from workbench.solvers.guidance.pigdm import PiGDM

DRAWS = {"P1": 800, "P2": 800, "coils8": 200}
#: What has to show it: the chain's own law in three statistics, or the draws themselves.
FIGURES = {"own mean", "own variance", "own correlation", "own draws"}
BAYES = DPS(100, LEVELS, "bayes", 0.5)
NORM = DPS(100, LEVELS)
PIR = DiffPIR(60, LEVELS)
GUIDED = PiGDM(60, LEVELS)
RESTORED = DDRM(40, LEVELS)
DECOMPOSED = DDS(40, LEVELS, iterations=2)
COMPLEX = DiffPIR(12)


def judged(right: Solver[Any], planted: Solver[Any], name: str) -> Cell:
    """Return the cell of `planted`, held against the law of what it should be."""
    held = problem(name)
    found = cell(Entry("planted", planted, None, chain_of(right), model_of(held)), held, DRAWS[name])
    assert isinstance(found, Cell), found
    return found


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (BAYES, "P1"),
        (NORM, "P1"),
        (PIR, "P2"),
        (GUIDED, "P2"),
        (RESTORED, "P1"),
        (DECOMPOSED, "P2"),
        (COMPLEX, "coils8"),
    ],
)
def test_without_a_fault_nothing_falls(solver: Solver[Any], name: str) -> None:
    found = judged(solver, solver, name)
    assert found.passed, found.fallen
    assert found.law in ("matrix recursion", "same numbers")


Patch = Callable[[pytest.MonkeyPatch], None]


def wrong_step_variance(patch: pytest.MonkeyPatch) -> None:
    """Fresh noise of the next level's full variance, on top of what is kept."""

    def ancestral(z: Tensor, x: Tensor, row: PlanRow, keys: Keys, purpose: str) -> Tensor:
        after = row.number("next_sigma")
        keep = (after / row.number("sigma")) ** 2
        return x + keep * (z - x) + after * keys.normals(x.shape[1:], purpose, like=x)

    patch.setattr(dps, "ancestral", ancestral)


def missing_factor(patch: pytest.MonkeyPatch) -> None:
    """The derivative of |e|^2 / 2 taken for that of |e|^2."""
    plain = dps.guided
    patch.setattr(dps, "guided", lambda *arguments: (lambda x, pull: (x, 2 * pull))(*plain(*arguments)))


def batch_coupled_norm(patch: pytest.MonkeyPatch) -> None:
    """One norm over all draws, as in the official code."""
    plain = dps.pulled_residual

    def coupled(posterior: Posterior, x: Tensor) -> tuple[Tensor, Tensor]:
        misfit, pull = plain(posterior, x)
        return misfit.square().sum().sqrt().expand_as(misfit), pull

    patch.setattr(dps, "pulled_residual", coupled)


def swapped_sigma(patch: pytest.MonkeyPatch) -> None:
    """The prox weighed by the next level in place of this one."""
    plain = DiffPIR.moved

    def moved(
        self: DiffPIR, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys
    ) -> tuple[Tensor, Info]:
        swapped = max(row.number("next_sigma"), 1e-3) / math.sqrt(self.weight)
        return plain(self, posterior, z, PlanRow(row.index, {**row.values, "r": swapped}), keys)

    patch.setattr(DiffPIR, "moved", moved)


def unnormalised_adjoint(patch: pytest.MonkeyPatch) -> None:
    """A^H (y - A x) without the noise's variance."""
    plain = dps.guided

    def guided(posterior: Posterior, *arguments: Any) -> tuple[Tensor, Tensor]:
        x, pull = plain(posterior, *arguments)
        return x, posterior.measured.noise.sigma**2 * pull  # type: ignore[attr-defined]

    patch.setattr(dps, "guided", guided)


def dropped_noise(patch: pytest.MonkeyPatch) -> None:
    """Steps without fresh noise."""

    @dataclass(frozen=True)
    class Silent(Keys):
        def normals(self, shape: Any, purpose: str, *, like: Tensor, region: Any = ()) -> Tensor:
            return torch.zeros_like(super().normals(shape, purpose, like=like, region=region))

    plain = DDRM.moved

    def moved(self: DDRM, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        return plain(self, posterior, z, row, Silent(keys.seed, keys.draws, keys.step))

    patch.setattr(DDRM, "moved", moved)


def off_by_one_schedule(patch: pytest.MonkeyPatch) -> None:
    """Every step told the level of the step before."""
    plain = PiGDM.plan

    def plan(self: PiGDM, posterior: Posterior) -> SolverPlan:
        columns = dict(plain(self, posterior).columns)
        sigmas = columns["sigma"]
        return SolverPlan({**columns, "sigma": (sigmas[0], *sigmas[:-1])})

    patch.setattr(PiGDM, "plan", plan)


def wrong_complex_convention(patch: pytest.MonkeyPatch) -> None:
    """Fresh complex noise of unit variance in all, half of it in each component."""
    plain = diffpir.ddim

    def ddim(x: Tensor, noise: Tensor, row: PlanRow, eta: float, keys: Keys, purpose: str) -> Tensor:
        after = row.number("next_sigma")
        if after == 0:
            return plain(x, noise, row, eta, keys, purpose)
        white = keys.normals(x.shape[1:], purpose, like=x) / math.sqrt(2)
        return x + after * (math.sqrt(1 - eta**2) * noise + eta * white)

    patch.setattr(diffpir, "ddim", ddim)


def stale_start(patch: pytest.MonkeyPatch) -> None:
    """Conjugate gradients that begin where those of the step before ended."""
    kept: dict[str, Tensor] = {}

    def correction(self: DDS, posterior: Posterior, estimate: Tensor, gamma: float) -> Tensor:
        b, data = posterior.measured.whitened
        apart = data - b.apply(estimate)

        def system(v: Tensor) -> Tensor:
            return v + gamma * b.gram.apply(v)

        solve = cg_start(system, gamma * b.apply_adjoint(apart), start=kept.get("delta"), tolerance=1e-15)
        while not solve.finished and solve.iteration < self.iterations:
            solve = cg_step(system, solve)
        kept["delta"] = solve.solution
        return solve.solution

    patch.setattr(DDS, "_correction", correction)


def clipped_estimate(patch: pytest.MonkeyPatch) -> None:
    """The estimate clipped to the range of images that the prior is not one of."""
    plain = guidance.denoiser

    class Clipped:
        def __init__(self, prior: Any) -> None:
            self.prior = prior

        def __getattr__(self, name: str) -> Any:
            return getattr(self.prior, name)

        def denoise(self, z: Tensor, sigma: float) -> Tensor:
            return self.prior.denoise(z, sigma).clamp(-1, 1)

    patch.setattr(guidance, "denoiser", lambda posterior: Clipped(plain(posterior)))


FAULTS: list[tuple[Patch, Solver[Any], str]] = [
    (wrong_step_variance, BAYES, "P1"),
    (missing_factor, BAYES, "P2"),
    (batch_coupled_norm, NORM, "P1"),
    (swapped_sigma, PIR, "P2"),
    (unnormalised_adjoint, BAYES, "P1"),
    (dropped_noise, RESTORED, "P1"),
    (off_by_one_schedule, GUIDED, "P2"),
    (wrong_complex_convention, COMPLEX, "coils8"),
    (stale_start, DECOMPOSED, "P2"),
    (clipped_estimate, GUIDED, "P2"),
]


@pytest.mark.parametrize(("fault", "solver", "name"), FAULTS, ids=[fault.__name__ for fault, *_ in FAULTS])
def test_a_planted_fault_makes_its_cell_fall(
    fault: Patch, solver: Solver[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    found = judged(solver, solver, name)
    assert not found.passed
    assert set(found.fallen) & FIGURES


def test_there_are_ten() -> None:
    assert len(FAULTS) == 10
    assert {name for *_, name in FAULTS} == {"P1", "P2", "coils8"}
