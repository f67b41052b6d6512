"""Particle solvers against their laws: the same states and weights, and faults that make cells fall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.verify.referee import cells
from pipelines.verify.referee.cells import Cell, cell
from pipelines.verify.referee.entries import LEVELS, Entry, entries, lawful, model_of
from pipelines.verify.referee.laws.flocks import flock_of
from pipelines.verify.referee.problem import problem
from workbench.integration import Karras
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.base import Solver
from workbench.solvers.ensembles import afdps, ensemble, mcgdiff, particles, tds
from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.ensemble import Ensemble
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.particles import Particles
from workbench.solvers.ensembles.tds import TDS

GUIDED = AFDPS(150, 40, LEVELS)
DRIFTING = AFDPS(150, 40, LEVELS, proposal="drift")
FLOWING = AFDPS(150, 60, LEVELS, weights="continuous")
SERVED = AFDPS(150, 40, LEVELS, variant="ode")
TWISTED = TDS(150, 40, LEVELS)
DETACHED = TDS(150, 40, LEVELS, jacobian="detached")
MET = MCGdiff(150, 40, LEVELS)
ALL: tuple[Ensemble, ...] = (GUIDED, DRIFTING, FLOWING, SERVED, TWISTED, DETACHED, MET)


def judged(right: Solver[Any], planted: Solver[Any], name: str) -> Cell:
    """Return the cell of `planted`, held against the law of what it should be."""
    held = problem(name)
    entry = Entry("planted", planted, model=model_of(held), flock=flock_of(right, held.posterior))
    found = cell(entry, held, 100)
    assert isinstance(found, Cell), found
    return found


@pytest.mark.parametrize("solver", ALL, ids=repr)
@pytest.mark.parametrize("name", ["P2", "P3", "blur8"])
def test_states_and_weights_are_those_of_the_equations(name: str, solver: Ensemble) -> None:
    own = solver if name.startswith("P") else replace(solver, levels=None)
    found = judged(own, own, name)
    assert found.law == "same numbers"
    assert found.passed, (found.fallen, found.off)
    assert found.off["draws"] < 1e-6
    assert found.effective is not None
    assert 1 <= found.effective <= 150


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("ct8", AFDPS(100, 30)),
        ("ct8", AFDPS(100, 60, weights="continuous")),
        ("coils8", TDS(60, 30, tolerance=1e-9)),
        ("phase2", AFDPS(200, 40)),
        ("phase2", TDS(200, 40)),
        ("phase2", AFDPS(200, 40, variant="ode")),
    ],
    ids=repr,
)
def test_so_they_are_without_closed_forms_and_on_intensities(name: str, solver: Ensemble) -> None:
    found = judged(solver, solver, name)
    assert (found.law, found.fallen) == ("same numbers", ())


def test_a_law_with_random_probes_is_none() -> None:
    assert flock_of(AFDPS(weights="continuous"), problem("phase2").posterior) is None


def test_where_rounding_decides_other_ensembles_of_the_law_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that is changed by as much as it takes to have other particles drawn anew."""
    monkeypatch.setattr(cells, "NUDGE", 1e-2)
    monkeypatch.setattr(cells, "SAME", 1e-15)
    found = judged(TWISTED, TWISTED, "P2")
    assert found.law == "own chain"
    assert set(found.bands) >= {"mean_error", "variance_ratio"}


Patch = Callable[[pytest.MonkeyPatch], None]


def proposal_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The guided step weighed as if the prior had made it."""
    patch.setattr(tds, "dots", lambda a, b: torch.zeros(len(a), dtype=torch.float64))


def weights_kept(patch: pytest.MonkeyPatch) -> None:
    """Particles drawn anew that weigh what they weighed before."""
    plain = particles.resampled

    def kept(state: Particles, keys: Keys) -> Particles:
        return replace(plain(state, keys), log_weights=state.log_weights)

    patch.setattr(ensemble, "resampled", kept)


def weights_unsorted(patch: pytest.MonkeyPatch) -> None:
    """States drawn anew, and what they carry left where it was."""
    plain = particles.resampled

    def unsorted(state: Particles, keys: Keys) -> Particles:
        return replace(plain(state, keys), carried=state.carried)

    patch.setattr(ensemble, "resampled", unsorted)


def power_of_the_last_level(patch: pytest.MonkeyPatch) -> None:
    """Every level asked for what the one before it was asked for."""
    plain = afdps.powers

    def late(posterior: Posterior, sigmas: Sequence[float], spread: float | None) -> tuple[float, ...]:
        found = plain(posterior, sigmas, spread)
        return (found[0], *found[:-2], 1.0)

    patch.setattr(afdps, "powers", late)


def likelihood_twice(patch: pytest.MonkeyPatch) -> None:
    """The likelihood of an exact draw in its weight, beside the integral that has it already."""
    patch.setattr(AFDPS, "_draws_exactly", _once(AFDPS._draws_exactly))


def _once(plain: Callable[[AFDPS, Posterior], bool]) -> Callable[[AFDPS, Posterior], bool]:
    asked = [0]

    def answer(self: AFDPS, posterior: Posterior) -> bool:
        # Asked for the draw, and then for the weight.
        asked[0] += 1
        return plain(self, posterior) and asked[0] % 2 == 1

    return answer


def noiseless_data(patch: pytest.MonkeyPatch) -> None:
    """Coefficients taken for states without noise, as in the form for noiseless data."""
    plain = mcgdiff._met

    def met(data: Any, mean: Tensor, variance: float, level: float, white: Tensor) -> tuple[Tensor, Tensor]:
        # An infinite t stays what it is: nothing known.
        t = torch.where(torch.isfinite(data.t), 0.0, data.t)
        return plain(replace(data, t=t), mean, variance, level, white)

    patch.setattr(mcgdiff, "_met", met)


def one_step_less_drift(patch: pytest.MonkeyPatch) -> None:
    """The drift of another estimate, weighed by its own rule: right in the limit, and not this solver."""
    plain = afdps.climb

    def less(*asked: Any, **options: Any) -> tuple[Tensor, Tensor]:
        d, half = plain(*asked, **options)
        return 0.9 * d, half

    patch.setattr(afdps, "climb", less)


def trusted_too_far(patch: pytest.MonkeyPatch) -> None:
    """Steps towards intensities in full, from the first level on."""
    patch.setattr(tds, "trusted", lambda posterior, sigmas, *others: (1.0,) * len(sigmas))


@pytest.mark.parametrize(
    ("plant", "solver", "name"),
    [
        (proposal_forgotten, TWISTED, "P2"),
        (weights_kept, GUIDED, "P2"),
        (weights_unsorted, GUIDED, "P2"),
        (power_of_the_last_level, DRIFTING, "P2"),
        (likelihood_twice, GUIDED, "P2"),
        (noiseless_data, MET, "P2"),
        (one_step_less_drift, DRIFTING, "P3"),
        (trusted_too_far, TDS(200, 40), "phase2"),
    ],
)
def test_a_fault_makes_the_cell_fall(
    plant: Patch, solver: Ensemble, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = judged(solver, solver, name)
    assert "own draws" in found.fallen, (found.law, found.off)


def test_the_table_has_particles_where_they_can_be() -> None:
    names = {entry.name for entry in entries(problem("P1"))}
    assert {"AFDPS", "AFDPS, continuous", "AFDPS, ODE", "TDS", "TDS, detached", "MCGdiff"} <= names
    assert not {"AFDPS", "TDS"} & {entry.name for entry in entries(problem("mask64"))}
    assert lawful(Entry("own", TDS(8, 4, Karras(3.0, 0.1))), problem("P1")).flock is not None
