"""Faults planted in DAPS, PnP-DM, their inner chain, RED-Diff and the best of several: each cell falls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.verify.referee.cells import Cell, cell
from pipelines.verify.referee.entries import LEVELS, Entry, model_of
from pipelines.verify.referee.laws.chains import chain_of
from pipelines.verify.referee.problem import problem
from workbench.likelihood import Likelihood
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.alternating import langevin, pnp_dm
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.langevin import Langevin
from workbench.solvers.alternating.pnp_dm import PnPDM
from workbench.solvers.base import Info, Solver
from workbench.solvers.best_of import BestOf
from workbench.solvers.descent import denoiser
from workbench.solvers.variational import first_order, red_diff
from workbench.solvers.variational.first_order import Adam
from workbench.solvers.variational.red_diff import REDDiff, REDDiffState

DRAWS = {"P1": 600, "P2": 600, "P3": 100, "coils8": 60, "phase2": 100}
#: What has to show it: the chain's own law in three statistics, or the draws themselves.
FIGURES = {"own mean", "own variance", "own correlation", "own draws"}
PUBLISHED = DAPS(30, LEVELS, 3)
MATCHED = DAPS(30, LEVELS, 1, "matched")
CHAINED = DAPS(20, LEVELS, 1, "matched", Langevin(40))
BENT = DAPS(12, None, 2, inner=Langevin(30))
GIBBS = PnPDM(20, 8)
GIBBS_CHAINED = PnPDM(12, 5, inner=Langevin(30))
PAPER = REDDiff(120, LEVELS, "paper")
NORMALISED = REDDiff(120, LEVELS)
COMPLEX = REDDiff(60)
BEST = BestOf(DAPS(15, LEVELS, 1), 3)


def judged(right: Solver[Any], planted: Solver[Any], name: str) -> Cell:
    """Return the cell of `planted`, held against the law of what it should be."""
    held = problem(name)
    found = cell(Entry("planted", planted, None, chain_of(right), model_of(held)), held, DRAWS[name])
    assert isinstance(found, Cell), found
    return found


Patch = Callable[[pytest.MonkeyPatch], None]


def noise_of_the_level_before(patch: pytest.MonkeyPatch) -> None:
    """DAPS puts noise of this level back, not of the next one."""
    plain = DAPS.plan

    def plan(self: DAPS, posterior: Posterior) -> SolverPlan:
        columns = plain(self, posterior).columns
        pairs = zip(columns["noise"], columns["radius"], strict=True)
        late = tuple(radius if noise else noise for noise, radius in pairs)
        return SolverPlan({**columns, "noise": late})

    patch.setattr(DAPS, "plan", plan)


def draw_without_noise_on_the_data(patch: pytest.MonkeyPatch) -> None:
    """The prox of a point with noise, to the data as they are."""

    def prox_draw(
        self: Likelihood, c: Tensor, r: float, keys: Keys, purpose: str = "prox", **options: Any
    ) -> Tensor:
        white = keys.normals(self.domain.shape, f"{purpose}: point", like=c)
        return self.prox(c + r * white, r)

    patch.setattr(Likelihood, "prox_draw", prox_draw)


def draw_without_noise_on_the_point(patch: pytest.MonkeyPatch) -> None:
    """The prox of the point itself, to data with noise."""
    plain = Likelihood.prox_draw

    def prox_draw(
        self: Likelihood, c: Tensor, r: float, keys: Keys, purpose: str = "prox", **options: Any
    ) -> Tensor:
        white = keys.normals(self.domain.shape, f"{purpose}: point", like=c)
        return plain(self, c - r * white, r, keys, purpose, **options)

    patch.setattr(Likelihood, "prox_draw", prox_draw)


def radius_of_the_level(patch: pytest.MonkeyPatch) -> None:
    """The matched radius forgotten."""
    patch.setattr(DAPS, "_radius", lambda self, posterior, sigma: sigma)


def flow_that_is_shortened(patch: pytest.MonkeyPatch) -> None:
    """A tenth of the noise that a step of the equation keeps is lost."""
    plain = DAPS.moved

    def moved(self: DAPS, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        after = 0.9 * row.number("next_sigma")
        return plain(self, posterior, z, PlanRow(row.index, {**row.values, "next_sigma": after}), keys)

    patch.setattr(DAPS, "moved", moved)


def rho_not_used_in_the_draw(patch: pytest.MonkeyPatch) -> None:
    """x near z at the prior's spread, whatever rho is."""
    plain = langevin.draw_near

    def draw_near(posterior: Posterior, c: Tensor, r: float, *arguments: Any, **options: Any) -> Tensor:
        del r
        return plain(posterior, c, posterior.prior.data_sd or 1.0, *arguments, **options)

    patch.setattr(pnp_dm, "draw_near", draw_near)


def reverse_noise_of_the_estimate(patch: pytest.MonkeyPatch) -> None:
    """Ancestral steps around D, as if it were the image drawn."""
    patch.setattr(pnp_dm, "_noise", lambda sigma, after, spread: after * math.sqrt(1 - (after / sigma) ** 2))


def reverse_noise_of_the_whole_level(patch: pytest.MonkeyPatch) -> None:
    """Fresh noise of the next level's full variance, on top of what is kept."""
    patch.setattr(pnp_dm, "_noise", lambda sigma, after, spread: after)


@dataclass(frozen=True)
class Quiet(Keys):
    """Normals of half the variance."""

    def normals(self, shape: Any, purpose: str, *, like: Tensor, region: Any = ()) -> Tensor:
        return super().normals(shape, purpose, like=like, region=region) / math.sqrt(2)


def langevin_without_the_two(patch: pytest.MonkeyPatch) -> None:
    """sqrt(h) w in place of sqrt(2 h) w."""
    plain = Langevin.draw

    def draw(self: Langevin, posterior: Posterior, c: Tensor, r: float, keys: Keys, purpose: str) -> Tensor:
        return plain(self, posterior, c, r, Quiet(keys.seed, keys.draws, keys.step), purpose)

    patch.setattr(Langevin, "draw", draw)


def length_that_follows_x(patch: pytest.MonkeyPatch) -> None:
    """The curvature where the chain is, in place of the largest that it met."""

    class Here:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def maximum(self, before: Tensor, found: Tensor) -> Tensor:
            return found

    patch.setattr(langevin, "torch", Here())


def noise_with_the_wrong_sign(patch: pytest.MonkeyPatch) -> None:
    """e + w for e - w: e - w = (m - D) / sigma, and z - m = sigma w."""
    plain, held = REDDiff.step, dict[str, Tensor]()

    class Turned:
        def __init__(self, prior: Any) -> None:
            self.prior = prior

        def denoise(self, z: Tensor, sigma: float) -> Tensor:
            clean: Tensor = self.prior.denoise(z, sigma)
            return clean - 2 * (z - held.get("m", z))

    def step(
        self: REDDiff, posterior: Posterior, state: REDDiffState, row: PlanRow, keys: Keys
    ) -> tuple[REDDiffState, Info]:
        held["m"] = state.m
        return plain(self, posterior, state, row, keys)

    patch.setattr(REDDiff, "step", step)
    patch.setattr(red_diff, "denoiser", lambda posterior: Turned(denoiser(posterior)))


def adam_without_its_correction(patch: pytest.MonkeyPatch) -> None:
    """Means that begin at zero taken as they are."""
    plain = Adam.direction
    patch.setattr(Adam, "direction", lambda self, g, moments, index: plain(self, g, moments, 10**6))


def adam_of_moduli(patch: pytest.MonkeyPatch) -> None:
    """Of complex gradients one square for both components."""
    plain = first_order._parts

    def parts(x: Tensor) -> Tensor:
        both = plain(x)
        return both.mean(-1, keepdim=True).expand_as(both)

    patch.setattr(first_order, "_parts", parts)


def weight_of_sums(patch: pytest.MonkeyPatch) -> None:
    """Sums over components where the paper has means."""
    patch.setattr(red_diff, "components", lambda space: 1)


def rate_that_does_not_fade(patch: pytest.MonkeyPatch) -> None:
    """The published rate in place of the fading one."""
    patch.setattr(REDDiff, "chosen", property(lambda self: Adam()))


def worst_of_all(patch: pytest.MonkeyPatch) -> None:
    """The run of the largest misfit."""
    plain = Likelihood.log_likelihood
    patch.setattr(Likelihood, "log_likelihood", lambda self, u: -plain(self, u))


def runs_of_other_draws(patch: pytest.MonkeyPatch) -> None:
    """The best of runs 0, K, 2 K, ... in place of 0, 1, 2, ..."""

    def across(self: BestOf, rows: Tensor) -> Tensor:
        return rows.reshape(self.runs, -1, *rows.shape[1:]).transpose(0, 1)

    patch.setattr(BestOf, "_by_draw", across)


FAULTS: list[tuple[Patch, Solver[Any], str]] = [
    (noise_of_the_level_before, PUBLISHED, "P1"),
    (noise_of_the_level_before, PUBLISHED, "P3"),
    (draw_without_noise_on_the_data, PUBLISHED, "P3"),
    (draw_without_noise_on_the_data, GIBBS, "P3"),
    (draw_without_noise_on_the_point, MATCHED, "P1"),
    (radius_of_the_level, MATCHED, "P3"),
    (flow_that_is_shortened, PUBLISHED, "P3"),
    (rho_not_used_in_the_draw, GIBBS, "P1"),
    (reverse_noise_of_the_estimate, GIBBS, "P2"),
    (reverse_noise_of_the_whole_level, GIBBS, "P3"),
    (langevin_without_the_two, CHAINED, "P1"),
    (langevin_without_the_two, GIBBS_CHAINED, "P2"),
    (langevin_without_the_two, BENT, "phase2"),
    (length_that_follows_x, BENT, "phase2"),
    (noise_with_the_wrong_sign, PAPER, "P1"),
    (noise_with_the_wrong_sign, NORMALISED, "P3"),
    (adam_without_its_correction, PAPER, "P2"),
    (adam_without_its_correction, NORMALISED, "P1"),
    (adam_of_moduli, COMPLEX, "coils8"),
    (weight_of_sums, PAPER, "P2"),
    (rate_that_does_not_fade, NORMALISED, "P1"),
    (worst_of_all, BEST, "P1"),
    (runs_of_other_draws, BEST, "P1"),
]
SOUND = list(dict.fromkeys((solver, name) for _, solver, name in FAULTS))


@pytest.mark.parametrize(("solver", "name"), SOUND, ids=repr)
def test_without_a_fault_nothing_falls(solver: Solver[Any], name: str) -> None:
    found = judged(solver, solver, name)
    assert found.passed, found.fallen
    assert found.law in ("matrix recursion", "same numbers")


@pytest.mark.parametrize(
    ("fault", "solver", "name"), FAULTS, ids=[f"{fault.__name__}, {name}" for fault, _, name in FAULTS]
)
def test_a_planted_fault_makes_its_cell_fall(
    fault: Patch, solver: Solver[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    found = judged(solver, solver, name)
    assert not found.passed
    assert set(found.fallen) & FIGURES
