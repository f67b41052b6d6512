"""Integrators on a Gaussian mixture whose denoiser is exact: error per number of evaluations, and orders.

flows        root mean square distance of the images from those that the same noise leads to in the limit of
             short steps, over the standard deviation of the mixture
orders       the slope of that distance against the number of steps, 40 to 320, evenly spaced in log sigma
diffusions   error of the covariance of the images, relative in Frobenius norm, beside that of as many
             draws from the mixture itself: below that, nothing can be told
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from pipelines.verify.methods import DIFFUSIONS, FLOWS, SIGMA_MIN
from workbench.driver import sample
from workbench.integration import LogUniform, dpm_solver_plus_plus
from workbench.paths import AffinePath
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.priors.mixture import GaussianMixture
from workbench.random import Keys
from workbench.solvers.integrator import Integrator

__all__ = ["EVALUATIONS", "ORDER_STEPS", "Cell", "Order", "cells", "mixture", "orders"]

EVALUATIONS = (5, 10, 20, 40)
ORDER_STEPS = (40, 80, 160, 320)
#: How far a slope may be from the order that is claimed.
ORDER_BOUND = 0.2
FLOW_DRAWS, DIFFUSION_DRAWS = 256, 20000
#: Steps of the reference, of third order: about 1e-9 of error.
REFERENCE_STEPS, REFERENCE_MIN = 3000, 1e-4
#: From here on slopes are those of rounding.
ROUNDING = 1e-11


@dataclass(frozen=True)
class Cell:
    """The error of one integrator at one number of evaluations; `floor` is what exact draws would show."""

    solver: str
    problem: str
    kind: str
    evaluations: int
    metric: str
    error: float
    floor: float
    seconds: float


@dataclass(frozen=True)
class Order:
    """The slope of an integrator's error, and the order that it claims."""

    solver: str
    claimed: int
    slope: float
    errors: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether the slope is the order, within the bound."""
        return abs(self.slope - self.claimed) <= ORDER_BOUND


def mixture() -> GaussianMixture:
    """Return five modes of unequal weight and width in eight dimensions."""
    space = Space.field(Grid.plane((2, 4), 1.0))
    keys = Keys(11, tuple(range(5)))
    means = 0.5 * keys.normals(space.shape, "verify: modes", like=torch.empty(0, dtype=torch.float64))
    return GaussianMixture.isotropic(space, (0.35, 0.25, 0.2, 0.15, 0.05), means, (0.5, 0.4, 0.6, 0.45, 0.35))


def cells(evaluations: tuple[int, ...] = EVALUATIONS) -> Iterator[Cell]:
    """Yield the cells of both tables, method by method."""
    prior = mixture()
    for method in FLOWS:
        for number in evaluations:
            plan = method.plan(number)
            if plan is None:
                continue
            began = time.perf_counter()
            images = _images(plan, method.path, FLOW_DRAWS)
            seconds = time.perf_counter() - began
            error = _distance(images, reference(plan.row(0).number("time"), REFERENCE_MIN, to_zero=True))
            yield Cell(method.name, "mixture", "flow", len(plan), "endpoint / sd", error, 0.0, seconds)
    keys = Keys(5, tuple(range(DIFFUSION_DRAWS)))
    floor = _covariance_error(prior.draw(keys, like=torch.empty(0, dtype=torch.float64)), prior)
    for method in DIFFUSIONS:
        for number in evaluations:
            plan = method.plan(number)
            if plan is None:
                continue
            began = time.perf_counter()
            error = _covariance_error(_images(plan, method.path, DIFFUSION_DRAWS), prior)
            seconds = time.perf_counter() - began
            name = "relative covariance error"
            yield Cell(method.name, "mixture", "law", len(plan), name, error, floor, seconds)


def orders(steps: tuple[int, ...] = ORDER_STEPS) -> Iterator[Order]:
    """Yield the slope of every integrator that claims an order."""
    for method in FLOWS:
        if method.order is None:
            continue
        errors = []
        for number in steps:
            plan = method.fine_plan(number)
            images = _images(plan, method.path, FLOW_DRAWS)
            errors.append(_distance(images, reference(plan.row(0).number("time"), SIGMA_MIN, to_zero=False)))
        yield Order(method.name, method.order, _slope(steps, errors), tuple(errors))


@lru_cache
def reference(first: float, sigma_min: float, *, to_zero: bool) -> Tensor:
    """Return where the same noise leads to with very short steps from the time `first`."""
    sigma_max = first / (1 - first)
    levels = LogUniform(sigma_max, sigma_min, to_zero=to_zero)
    plan = dpm_solver_plus_plus(levels.times(REFERENCE_STEPS), order=3)
    return _images(plan, AffinePath.flow(), FLOW_DRAWS)


def _images(plan: SolverPlan, path: AffinePath, draws: int) -> Tensor:
    samples = sample(
        Posterior(mixture()),
        Integrator(plan, path),
        draws=draws,
        seed=3,
        dtype=torch.float64,
        microbatch=draws,
    )
    return samples.tensor()


def _distance(images: Tensor, expected: Tensor) -> float:
    return float((images - expected).square().mean().sqrt()) / mixture().data_sd


def _covariance_error(images: Tensor, prior: GaussianMixture) -> float:
    rows = images.flatten(1)
    expected = _covariance(prior)
    return float((torch.cov(rows.T) - expected).norm() / expected.norm())


def _covariance(prior: GaussianMixture) -> Tensor:
    """Return sum_k w_k (S_k + m_k m_k^T) - m m^T, from means and deviations alone."""
    size, mean = prior.space.size, prior.mean.flatten()
    total = -mean[:, None] * mean
    for weight, component in zip(prior.weights, prior.components, strict=True):
        centre, sd = component.mean.flatten().double(), component.data_sd or 0.0
        total = total + weight * (centre[:, None] * centre + sd**2 * torch.eye(size, dtype=torch.float64))
    return total


def _slope(steps: tuple[int, ...], errors: list[float]) -> float:
    """Return minus the slope of log error against log steps, where errors are above rounding."""
    pairs = [(math.log(n), math.log(e)) for n, e in zip(steps, errors, strict=True) if e > ROUNDING]
    if len(pairs) < 2:
        return math.nan
    x, y = (torch.tensor(values, dtype=torch.float64) for values in zip(*pairs, strict=True))
    x = x - x.mean()
    return -float((x * y).sum() / x.square().sum())


def facts(item: Cell | Order) -> dict[str, Any]:
    """Return a record, JSON-able."""
    if isinstance(item, Order):
        return {**vars(item), "errors": list(item.errors), "passed": item.passed}
    return dict(vars(item))
