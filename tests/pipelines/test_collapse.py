"""The figure of collapse: its problems, what a run says, what more information does, and the picture."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.verify.collapse import SOLVERS, Case, Cell, cell, information, posed, run
from pipelines.verify.collapse_figure import save_figure
from tests.problems import real_matrix
from tests.workbench.solvers.ensembles.ensemble_cases import evidence
from workbench.driver import sample
from workbench.priors.gaussian import SpectralGaussian
from workbench.solvers.ensembles.ensemble import DegeneracyWarning


def test_information_is_that_of_the_determinant() -> None:
    """log det(I + B C B^T) / 2, and the trace of what the data take of the prior."""
    posterior = posed(16)
    assert isinstance(posterior.prior, SpectralGaussian)
    b, root = real_matrix(posterior.measured.whitened[0]), real_matrix(posterior.prior.root)
    seen = (b @ root) @ (b @ root).T
    directions, nats = information(posterior)
    assert nats == pytest.approx(float(torch.logdet(torch.eye(len(seen)) + seen)) / 2)
    share = torch.linalg.solve(torch.eye(len(seen), dtype=torch.float64) + seen, seen)
    assert directions == pytest.approx(float(share.trace()))


def test_a_run_says_how_far_it_is_off() -> None:
    case = Case("TDS", 32, 8)
    found = run(case, 30, seed=1)
    posterior = posed(8, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        told = sample(posterior, SOLVERS["TDS"](32, 30), seed=1).record["ensemble"]
    assert found.evidence_error == pytest.approx(told["log_evidence"] - evidence(posterior), abs=1e-6)
    assert found.families == told["unique_ancestors"] / 32
    assert 0 < found.least <= 1


def test_more_information_leaves_fewer() -> None:
    few, many = (cell(Case("TDS", 64, unknowns), steps=60, seeds=4) for unknowns in (4, 64))
    assert few.nats < many.nats
    assert few.families > 3 * many.families
    assert few.exact_draws > many.exact_draws


def test_cells_are_drawn_into_a_picture_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib")
    one = Cell("TDS", 64, 16, 0.2, 5.0, 7.0, 30.0, 0.9, 0.4, 0.3, 2.0, -0.1, 0.5)
    cells = [replace(one, solver=name, particles=count) for name in SOLVERS for count in (64, 256)]
    cells.append(replace(one, exact_draws=math.inf))
    first, second = (save_figure(cells, tmp_path / f"{name}.svg").read_bytes() for name in "ab")
    assert first == second
    assert b"exact draws with the same error" in first
    with pytest.raises(ValueError, match=r"`path` must end in \.svg or \.png, got .*figure\.pdf"):
        save_figure(cells, tmp_path / "figure.pdf")
