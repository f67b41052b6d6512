"""Where particles collapse: ensembles on one problem at growing numbers of unknowns, and at falling noise.

    python -m pipelines.verify.collapse_figure --out docs/collapse.svg > collapse.csv

A smooth Gaussian field of sd 1 and correlation length two voxels, half of the voxels measured with noise of
0.2: what a datum says does not change with their number d. Along how many directions the data say more than
the prior is k, with nats of information in them, s the singular values of B R for a prior R R^H,

    k = sum s^2 / (1 + s^2),        nats = sum log(1 + s^2) / 2

`exact draws` are as many as would have a mean as far off, tr C / E |m' - m|^2: N draws of the posterior count
N, particles that all descend from one of its draws count one, from another place less. Means over seeds,
each with data of its own. A run says three things of itself: its least effective number, how many of the
first particles have descendants, and the log evidence, whose error is in nats.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from operators.grid import Grid
from operators.mask import Mask
from operators.mask_patterns import random_entries
from operators.space import Space
from pipelines.verify.referee.conditioning import conditioned
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.small import drawn_posterior
from pipelines.verify.referee.truth import Truth, reals
from workbench.driver import sample
from workbench.posterior import Posterior
from workbench.priors.gaussian import SpectralGaussian
from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.ensemble import DegeneracyWarning, Ensemble
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.tds import TDS

__all__ = ["SOLVERS", "Case", "Cell", "Run", "cell", "cells", "information", "posed", "run"]

#: Of the problem: correlation length in voxels, share of the voxels measured, noise.
LENGTH, SHARE, NOISE = 2.0, 0.5, 0.2
#: Numbers of unknowns, and the one at which the noise changes.
UNKNOWNS, FIXED = (2, 4, 8, 16, 32, 64, 128, 256, 512), 64
NOISES = (5.0, 2.0, 1.0, 0.5, 0.1, 0.05, 0.02)
PARTICLES, STEPS = (64, 256, 1024), 200
#: More of them where one datum that is far from the prior's mean decides.
SEEDS, FEW, MORE_SEEDS = 4, 16, 8
#: What is run with most particles too.
LARGE = ("AFDPS", "TDS")

#: Ensembles of so many particles and steps, by name.
SOLVERS: Mapping[str, Callable[[int, int], Ensemble]] = MappingProxyType(
    {
        "AFDPS": lambda count, steps: AFDPS(count, steps, proposal="exact"),
        "AFDPS, drift": lambda count, steps: AFDPS(count, steps, proposal="drift"),
        "TDS": lambda count, steps: TDS(count, steps),
        "TDS, detached": lambda count, steps: TDS(count, steps, jacobian="detached"),
        "MCGdiff": lambda count, steps: MCGdiff(count, steps),
    }
)


@dataclass(frozen=True)
class Case:
    """A solver by name with so many particles on the problem of so many unknowns and such noise."""

    solver: str
    particles: int
    unknowns: int
    noise: float = NOISE


@dataclass(frozen=True)
class Run:
    """What came of one seed: errors of the mean (squared, in posterior variances) and of the log evidence.

    `least`, the least effective number, and `families`, particles at the start that have descendants, are
    shares of all.
    """

    square_error: float
    variance_ratio: float
    least: float
    families: float
    resamplings: float
    evidence_error: float
    seconds: float


@dataclass(frozen=True)
class Cell:
    """The means of a case over seeds; `exact_draws` are tr C / E |m' - m|^2."""

    solver: str
    particles: int
    unknowns: int
    noise: float
    directions: float
    nats: float
    exact_draws: float
    variance_ratio: float
    least: float
    families: float
    resamplings: float
    evidence_error: float
    seconds: float


def posed(unknowns: int, noise: float = NOISE, seed: int = 0) -> Posterior:
    """Return the posterior for data drawn from it, on a plane of a power of two of voxels."""
    rows = 2 ** ((unknowns.bit_length() - 1) // 2)
    shape = (rows, unknowns // rows)
    space = Space.field(Grid.plane(shape, 1.0))
    prior = SpectralGaussian.smooth(space, sd=1.0, length=LENGTH)
    measured = Mask(space, random_entries((1, *shape), SHARE, seed=3), restrict=True)
    return drawn_posterior(prior, measured, noise, seed=10 * seed + 1)


def information(posterior: Posterior) -> tuple[float, float]:
    """Return k and the nats."""
    square = _spectrum(posterior)
    return float((square / (1 + square)).sum()), float(torch.log1p(square).sum() / 2)


def run(case: Case, steps: int, seed: int) -> Run:
    """Run one seed of a case."""
    posterior, truth, evidence = _known(case.unknowns, case.noise, seed)
    solver = SOLVERS[case.solver](case.particles, steps)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        samples = sample(posterior, solver, seed=seed)
    seconds = time.perf_counter() - began
    told, metrics = samples.record["ensemble"], measure(reals(samples.tensor()), truth, samples.weights)
    return Run(
        square_error=metrics.mean_error**2,
        variance_ratio=metrics.variance_ratio or 0.0,
        least=told["least_effective_number"] / case.particles,
        families=told["unique_ancestors"] / case.particles,
        resamplings=told["resamplings"],
        evidence_error=told["log_evidence"] - evidence,
        seconds=seconds,
    )


def cell(case: Case, steps: int = STEPS, seeds: int | None = None) -> Cell:
    """Return the means of a case over seeds."""
    if seeds is None:
        seeds = MORE_SEEDS if case.unknowns <= FEW else SEEDS
    runs = [run(case, steps, seed) for seed in range(seeds)]
    mean = {item.name: sum(getattr(r, item.name) for r in runs) / seeds for item in fields(Run)}
    directions, nats = information(posed(case.unknowns, case.noise))
    exact_draws = 1 / mean.pop("square_error")
    return Cell(**asdict(case), directions=directions, nats=nats, exact_draws=exact_draws, **mean)


def cells() -> Iterator[Cell]:
    """Yield the cells of the figure."""
    for unknowns in UNKNOWNS:
        for particles in PARTICLES:
            names = LARGE if particles == max(PARTICLES) else tuple(SOLVERS)
            yield from (cell(Case(name, particles, unknowns)) for name in names)
    for noise in NOISES:
        yield from (cell(Case(name, PARTICLES[1], FIXED, noise)) for name in SOLVERS)


def _prior_of(posterior: Posterior) -> SpectralGaussian:
    return cast(SpectralGaussian, posterior.prior)


def _spectrum(posterior: Posterior) -> Tensor:
    """Return s^2, the eigenvalues of B C B^H."""
    unit = torch.eye(posterior.space.size, dtype=torch.float64).reshape(-1, *posterior.space.shape)
    matrix = posterior.measured.whitened[0].apply(_prior_of(posterior).root.apply(unit)).flatten(1)
    square: Tensor = torch.linalg.svdvals(matrix).square()
    return square


@lru_cache(maxsize=MORE_SEEDS)
def _known(unknowns: int, noise: float, seed: int) -> tuple[Posterior, Truth, float]:
    """Return a posterior, the truth about it, and its log evidence."""
    posterior = posed(unknowns, noise, seed)
    truth = conditioned(posterior).truth
    # log p(y) = log p(y | u) + log p(u) - log p(u | y) at any u: at the posterior's mean.
    mean = truth.mean.reshape(1, *posterior.space.shape)
    joint = posterior.measured.log_likelihood(mean) + _prior_of(posterior).log_density(mean)
    peak = -(unknowns * math.log(2 * math.pi) + float(torch.logdet(truth.covariance))) / 2
    return posterior, truth, float(joint) - peak
