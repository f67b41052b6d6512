"""The table of `make verify`: right draws pass, draws that are a little wrong fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests import sampler_table
from tests.problems import Dense, posterior_of
from tests.sampler_table import DRAWS, TV_WEIGHT, Figure, PointRow, SamplerRow, answered, excess, flat, judged
from tests.tv_oracle import duality_gap
from workbench.kinds import Kind
from workbench.random import Keys
from workbench.solvers.conjugate_gradient import ConjugateGradient
from workbench.solvers.total_variation import TotalVariation

LIKE = torch.empty(0, dtype=torch.float64)


def law(correlation: float) -> Dense:
    """Return a law of 64 voxels whose neighbours are correlated."""
    apart = (torch.arange(64)[:, None] - torch.arange(64)).abs().double()
    sd = torch.linspace(0.5, 2, 64, dtype=torch.float64)
    return Dense(torch.linspace(-1, 1, 64, dtype=torch.float64), correlation**apart * sd * sd[:, None])


def whites(seed: int) -> Tensor:
    return Keys(seed, tuple(range(DRAWS))).normals((64,), "test", like=LIKE)


def drawn(truth: Dense, white: Tensor) -> Tensor:
    return truth.mean + white @ torch.linalg.cholesky(truth.covariance).T


def row(truth: Dense, u: Tensor, kind: Kind = Kind.EXACT_SAMPLE) -> SamplerRow:
    return judged("Solver", "problem", kind, u, truth)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_right_draws_pass(correlation: float) -> None:
    truth = law(correlation)
    for seed in range(10):
        found = row(truth, drawn(truth, whites(seed)))
        assert found.passed, str(found)
        assert "| PASS |" in str(found)


def heavy(white: Tensor) -> Tensor:
    """Return numbers of variance 1 with longer tails: a mixture of two normals."""
    narrow = torch.arange(white.numel()).reshape(white.shape) % 2 == 0
    return torch.where(narrow, 0.5 * white, (2 - 0.25) ** 0.5 * white)


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        (lambda u: u + 0.05, "mean"),
        (lambda u: 1.03 * u, "variance"),
        (lambda u: 0.97 * u, "variance"),
        (heavy, "coverage"),
        (lambda u: torch.nan * u, "mean"),
    ],
)
def test_draws_that_are_a_little_wrong_fail(change: Callable[[Tensor], Tensor], figure: str) -> None:
    truth = law(0.3)
    found = row(truth, drawn(truth, change(whites(0))))
    assert not getattr(found, figure).holds
    assert "| FAIL |" in str(found)


def test_approximate_draws_may_be_off_but_not_by_anything() -> None:
    truth, kind = law(0.3), Kind.APPROXIMATE_SAMPLE
    sd = truth.covariance.diagonal().sqrt()
    u = drawn(truth, 1.04 * whites(0)) + 0.15 * sd
    assert row(truth, u, kind).passed
    assert not row(truth, u).passed
    assert not row(truth, u + 0.15 * sd, kind).mean.holds
    assert not row(truth, drawn(truth, 1.1 * whites(0)), kind).variance.holds


def test_a_point_estimate_of_something_else_fails() -> None:
    posterior = flat(posterior_of("ct"))
    _, squares, _ = answered(posterior, ConjugateGradient(500, 1e-12))
    _, varies, _ = answered(posterior, TotalVariation(TV_WEIGHT, tolerance=1e-6, warm=1))
    assert 0 <= duality_gap(posterior, varies, TV_WEIGHT) < 1e-5 < duality_gap(posterior, squares, TV_WEIGHT)
    assert duality_gap(posterior, varies, 1.01 * TV_WEIGHT) > 1e-5
    assert excess(posterior, squares) < 1e-8 < excess(posterior, varies)


def test_it_ends_with_1_if_a_row_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = law(0.0)
    good = row(truth, drawn(truth, whites(1)))
    point = PointRow("Solver", "problem", Kind.POINT_ESTIMATE, "reference", Figure(1e-9, 0, 1e-8), 0.1)
    bad = replace(point, error=Figure(1e-7, 0, 1e-8))
    for points, status in (([point], 0), ([point, bad], 1)):
        monkeypatch.setattr(sampler_table, "sampler_rows", lambda: iter([good]))
        monkeypatch.setattr(sampler_table, "point_rows", lambda points=points: iter(points))
        assert sampler_table.main() == status
        assert f"Rows that failed: {status}\n" in capsys.readouterr().out
