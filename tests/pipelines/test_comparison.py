"""The comparison of solvers: rows, refusals, the image without phase."""

from __future__ import annotations

import pytest
import torch

from pipelines.verify import comparison
from pipelines.verify.comparison import Row, phase_image, phase_solvers, row, tables
from pipelines.verify.referee.problem import problem
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.tds import TDS


def test_a_row_counts_what_a_draw_costs_and_how_far_it_is_off() -> None:
    held = problem("P3")
    judge = comparison._against(held)
    weighted = row("TDS", TDS(64, 20), held.posterior, judge, 100, 2)
    # 32 evaluations before the first step, for all particles together.
    assert (weighted.draws, weighted.evaluations, weighted.backward) == (64, 20 + 32 / 64, 20.0)
    assert weighted.mode_error is not None
    drawn = row("DAPS", DAPS(10), held.posterior, judge, 100, 1)
    assert (drawn.draws, drawn.evaluations, drawn.backward) == (100, 50.0, 0.0)
    assert drawn.misfit == pytest.approx(1.0, abs=1.0)


def test_what_a_solver_refuses_stands_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "phase_solvers", lambda _: {"MCGdiff": MCGdiff(8, 4)})
    lines = list(tables(["phase2"], seeds=1))
    assert lines[-1].startswith("| MCGdiff | refused: ")
    assert lines[-2].startswith("| exact draws | 512 |")


def test_phase_solvers_have_the_evaluations_they_are_given() -> None:
    held = problem("phase2")
    judge = comparison._against(held)
    for name, solver in phase_solvers(16, 40).items():
        found: Row = row(name, solver, held.posterior, judge, 4, 1)
        # What precedes the first step is shared by all draws.
        assert 0 <= (found.evaluations - 40) * found.draws < 110, name


def test_the_image_without_phase_fits_its_data_up_to_its_sign() -> None:
    posterior, x = phase_image()
    chi = comparison._chi_square(posterior, torch.stack([x, -x, 0.5 * x]))
    assert chi[0] == pytest.approx(1.0, abs=0.15)
    assert chi[1] == pytest.approx(float(chi[0]))
    assert chi[2] > 10
