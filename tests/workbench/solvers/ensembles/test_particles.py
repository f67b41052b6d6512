"""Particles by themselves: effective numbers, evidence, drawing anew."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.random import Keys
from workbench.solvers.ensembles.particles import (
    Particles,
    effective_number,
    log_mean_exp,
    resampled,
    systematic,
)

LOGS = torch.tensor([0.1, 0.2, 0.0, 0.5, 0.2], dtype=torch.float64).log()


def test_the_effective_number_is_that_of_equal_weights() -> None:
    assert effective_number(torch.zeros(7, dtype=torch.float64)) == pytest.approx(7)
    assert effective_number(torch.tensor([0.0, -math.inf], dtype=torch.float64)) == pytest.approx(1)
    assert effective_number(LOGS + 800) == pytest.approx(1 / (0.01 + 0.04 + 0.25 + 0.04))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-math.inf, "every particle has weight zero: none of these"),
        (math.nan, "a weight is no number"),
        (math.inf, "a weight is no number"),
    ],
)
def test_weights_that_are_none_are_an_error(value: float, message: str) -> None:
    with pytest.raises(FloatingPointError, match=message):
        effective_number(torch.full((3,), value, dtype=torch.float64))


def test_the_mean_of_weights_survives_large_logarithms() -> None:
    assert log_mean_exp(LOGS - 5000) == pytest.approx(-5000 - math.log(5))


def test_systematic_resampling_keeps_each_as_often_as_it_weighs() -> None:
    """J w_i rounded down or up, and w_i J on average over u."""
    shares = LOGS.exp()
    mean = torch.zeros(5, dtype=torch.float64)
    for step in range(1000):
        counts = torch.bincount(systematic(LOGS, (step + 0.5) / 1000), minlength=5).double()
        assert bool(((counts - 5 * shares).abs() < 1).all())
        mean += counts / 1000
    assert torch.allclose(mean, 5 * shares, atol=2e-3)


@pytest.mark.parametrize("u", [1e-16, 1 - 1e-16])
def test_the_ends_of_the_unit_interval_stay_inside(u: float) -> None:
    logs = torch.tensor([-math.inf, 0.0, -40.0, -math.inf], dtype=torch.float64)
    assert set(systematic(logs, u).tolist()) <= {1, 2}


def test_drawing_anew_keeps_evidence_and_descent() -> None:
    z = torch.arange(5, dtype=torch.float64)[:, None]
    begun = Particles.begun(z, {"twice": 2 * z}, LOGS - 3)
    again = resampled(begun, Keys(4, tuple(range(5)), 9))
    assert again.log_evidence == pytest.approx(begun.log_evidence)
    assert torch.equal(again.log_weights, torch.zeros(5, dtype=torch.float64))
    assert torch.equal(again.z[:, 0].long(), again.ancestors)
    assert torch.equal(again.carried["twice"], 2 * again.z)
    assert again.resamplings == 1
    assert again.least == begun.least
    assert 2 not in again.ancestors
    sizes = torch.bincount(again.ancestors).double() / 5
    assert again.effective_families == pytest.approx(1 / float(sizes.square().sum()))
    assert begun.effective_families == pytest.approx(begun.least)
    # The same keys, the same particles.
    assert torch.equal(resampled(begun, Keys(4, tuple(range(5)), 9)).z, again.z)
    twice = resampled(again, Keys(4, tuple(range(5)), 10))
    assert twice.families <= again.families
