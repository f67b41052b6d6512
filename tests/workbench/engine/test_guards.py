"""The look at numbers after each step: what is refused, what passes, and that a quick look misses nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from workbench.engine.guards import diverged_rows
from workbench.solvers.base import Info

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class State:
    z: Tensor
    log_weights: Tensor
    count: int = 3


def rows(z: Tensor, weights: list[float] | None = None, estimate: Tensor | None = None) -> list[int]:
    state = State(z, torch.tensor([0.0] * len(z) if weights is None else weights, dtype=torch.float64))
    return diverged_rows(state, Info(estimate), len(z), len(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nan_of_the_state_and_anything_unbounded_of_the_estimate_names_its_row(
    dtype: torch.dtype, bad: float
) -> None:
    fine, broken = torch.ones(3, 2, 2, dtype=dtype), torch.ones(3, 2, 2, dtype=dtype)
    broken[1, 0, 1] = complex(0, bad) if dtype.is_complex else bad
    assert rows(fine, estimate=fine) == []
    assert rows(broken) == ([1] if math.isnan(bad) else [])
    assert rows(fine, estimate=broken) == [1]


def test_infinities_that_cancel_or_sums_that_overflow_are_looked_at_one_by_one() -> None:
    z = torch.ones(3, 4)
    assert rows(z, [0.0, -math.inf, math.inf]) == []
    z[2, 0] = math.nan
    assert rows(z, [0.0, -math.inf, math.inf]) == [2]
    assert rows(torch.full((3, 4), LARGEST)) == []
    opposite = torch.tensor([[LARGEST, LARGEST], [-LARGEST, -LARGEST]])
    assert rows(opposite, estimate=opposite) == []
    assert rows(torch.full((2, 2), complex(1e308, 1e308), dtype=torch.complex128)) == []


def test_rows_that_fill_the_batch_up_do_not_matter() -> None:
    z = torch.ones(4, 2)
    z[3] = math.nan
    state = State(z, torch.zeros(4))
    assert diverged_rows(state, Info(), 4, 3) == []
    assert diverged_rows(state, Info(), 4, 4) == [3]
