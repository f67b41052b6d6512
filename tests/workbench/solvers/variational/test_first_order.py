"""First-order optimisers: Adam against torch's own, rates that fade, averages, and mistakes by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from workbench.random import Keys
from workbench.solvers.variational.first_order import Adam, GradientDescent, averaged

KEYS = Keys(3, (0, 1, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_adam_is_that_of_torch(dtype: torch.dtype) -> None:
    like = torch.empty(0, dtype=dtype)
    v = KEYS.normals((4, 5), "test: v", like=like)
    theirs = v.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.07, betas=(0.8, 0.95), eps=1e-3)
    ours = Adam(0.07, betas=(0.8, 0.95), epsilon=1e-3)
    lengths, moments = ours.columns(6, lambda: math.nan)["length"], ours.begin(v)
    for i in range(6):
        g = KEYS.at(i).normals((4, 5), "test: g", like=like) * 10.0 ** (i - 3)
        theirs.grad = g
        optimiser.step()
        d, moments = ours.direction(g, moments, i)
        v = v - lengths[i] * d
        assert torch.allclose(v, theirs.detach(), rtol=0, atol=1e-12)


def test_rates_fade_and_the_last_steps_are_averaged() -> None:
    columns = GradientDescent(0.5, decay=2.0, averaged=0.4).columns(5, lambda: 4.0)
    assert columns["length"] == pytest.approx([0.125 * (1 - i / 5) ** 2 for i in range(5)])
    assert columns["share"] == pytest.approx([1, 1, 1, 1, 0.5])
    assert GradientDescent().columns(1, lambda: 2.0) == {"length": (0.5,), "share": (1.0,)}
    assert Adam(0.2).columns(2, lambda: math.nan) == {"length": (0.2, 0.2), "share": (1.0, 1.0)}
    assert all(share > 0 for share in Adam(averaged=1.0).columns(9, lambda: 1.0)["share"])


def test_averages_are_means_of_the_last_iterates() -> None:
    rows = KEYS.normals((6,), "test: path", like=torch.empty(0, dtype=torch.float64)).T
    shares = Adam(averaged=0.5).columns(6, lambda: 1.0)["share"]
    mean, before = None, torch.zeros(3, dtype=torch.float64)
    for row, share in zip(rows, shares, strict=True):
        mean, before = averaged(mean, before, row, share), row
    assert mean is not None
    assert torch.allclose(mean, rows[3:].mean(0), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0.0}, "`rate` must be"),
        ({"decay": -1.0}, "`decay` must be"),
        ({"averaged": 1.5}, "`averaged` must be between 0 and 1, got 1.5"),
        ({"betas": (0.9,)}, "`betas` must be two numbers in a tuple"),
        ({"betas": (0.9, 1.0)}, r"`betas\[1\]` must be at least 0 and below 1, got 1.0"),
        ({"epsilon": 0.0}, "`epsilon` must be"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        replace(Adam(), **arguments)  # type: ignore[arg-type]
