"""Intensities in the referee: a measurement whose prox has several minima."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipelines.verify.referee.cells import Cell, cell
from pipelines.verify.referee.entries import entries
from pipelines.verify.referee.laws.chains import chain_of
from pipelines.verify.referee.laws.phase import PhaseModel
from pipelines.verify.referee.problem import problem
from workbench.random import Keys
from workbench.solvers.guidance.diffpir import DiffPIR


@pytest.mark.parametrize("r", [0.05, 0.5, 5.0])
def test_the_closest_point_is_a_minimum_downhill(r: float) -> None:
    posterior = problem("phase2").posterior
    model = PhaseModel.of(posterior)
    assert not model.convex
    c = 2 * Keys(11, tuple(range(50))).normals((2,), "test: rows", like=torch.empty(0).double())
    found = model.closest(c, r)
    flat = (found - c) / r**2 - model.force(found)
    assert float(flat.abs().max()) < 1e-6 * float(model.force(c).abs().max())

    def height(rows: Tensor) -> Tensor:
        density = posterior.measured.log_likelihood(rows.reshape(-1, *posterior.space.shape))
        return (rows - c).square().sum(1) / (2 * r**2) - density

    assert bool((height(found) <= height(c)).all())
    for way in torch.eye(2, dtype=c.dtype):
        for step in (1e-3, -1e-3):
            assert bool((height(found + step * way) > height(found)).all())


@pytest.mark.slow
def test_a_prox_with_several_minima_is_held_against_another_chain() -> None:
    held = problem("phase2")
    mine = [entry for entry in entries(held, fast=True) if isinstance(entry.solver, DiffPIR)]
    assert [entry.name for entry in mine] == ["DiffPIR", "DiffPIR, zeta 1"]
    for entry in mine:
        found = cell(entry, held, 60)
        assert isinstance(found, Cell)
        assert (found.law, found.passed) == ("own chain", True), found.fallen
    # Its law without a prox to speak of: the draws of the solver are not that.
    other = cell(replace(mine[0], chain=chain_of(DiffPIR(100, weight=1e3, tolerance=1e-5))), held, 150)
    assert isinstance(other, Cell)
    assert not other.passed
