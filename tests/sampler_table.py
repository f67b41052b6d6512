"""`make verify`: the solvers against closed forms on small linear-Gaussian problems, as Markdown tables.

Of K draws, with the posterior's mean m, standard deviations s and correlations R in closed form:

    mean error       rms over voxels of (mean of the draws - m) / s;      for exact draws about sqrt(1 / K)
    variance ratio   mean over voxels of (variance of the draws) / s^2;   about 1
    coverage         share of the posterior between the draws' 5 % and 95 % quantiles, voxel by voxel

The first two are weighted sums of chi-squares, whose weights are the eigenvalues of R: their bounds hold
with probability 1 - P each (Laurent and Massart 2000). A coverage is a Beta variable per voxel, and two
voxels' are correlated as the square of their correlation in R, for many draws. Draws that a solver calls
approximate may be off by `ALLOWED` on top of that. Point estimates have no spread, and an error alone.

Ends with status 1 if any row fails.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.problems import PROBLEMS, UNITS, Dense, coverage, dense_answer, posterior_of, real_matrix, reals
from tests.tv_oracle import duality_gap
from workbench.driver import sample
from workbench.kinds import Kind
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.samples import Samples
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.base import Solver
from workbench.solvers.conjugate_gradient import ConjugateGradient
from workbench.solvers.exact_gaussian import ExactGaussian
from workbench.solvers.total_variation import TotalVariation

DRAWS = 1000
LEVEL = 0.9
#: Probability that exact draws miss one side of a bound, and standard deviations that are as rare.
P, SIGMAS = 1e-4, 3.7
#: What the law of approximate draws may be off by: the mean in posterior sd, the variance ratio, coverage.
ALLOWED = (0.2, 0.15, 0.03)
TV_WEIGHT = 2.0


@dataclass(frozen=True)
class Figure:
    """A number and the interval that it has to lie in."""

    value: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether it does; a NaN does not."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class SamplerRow:
    """The figures of one sampler on one problem."""

    solver: str
    problem: str
    kind: Kind
    draws: int
    mean: Figure
    variance: Figure
    coverage: Figure
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all figures hold."""
        return self.mean.holds and self.variance.holds and self.coverage.holds

    def __str__(self) -> str:
        """Return the row of the table."""
        cells = [
            self.solver,
            self.problem,
            str(self.kind),
            str(self.draws),
            f"{self.mean.value:.4f} (<= {self.mean.high:.4f})",
            f"{self.draws**-0.5:.4f}",
            *(f"{f.value:.3f} ({f.low:.3f} to {f.high:.3f})" for f in (self.variance, self.coverage)),
            f"{self.seconds:.1f}",
            verdict(self.passed),
        ]
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class PointRow:
    """The error of one point estimate on one problem."""

    solver: str
    problem: str
    kind: Kind
    reference: str
    error: Figure
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the error holds."""
        return self.error.holds

    def __str__(self) -> str:
        """Return the row of the table."""
        numbers = f"{self.error.value:.1e} | {self.error.high:.0e} | {self.seconds:.1f}"
        cells = f"{self.solver} | {self.problem} | {self.kind} | {self.reference} | {numbers}"
        return f"| {cells} | {verdict(self.passed)} |"


def verdict(passed: bool) -> str:
    """Return the word for it."""
    return "PASS" if passed else "FAIL"


def judged(
    solver: str, problem: str, kind: Kind, u: Tensor, truth: Dense, seconds: float = 0.0
) -> SamplerRow:
    """Return the row of draws `u` (K, ...) that should follow `truth`."""
    count, n = u.shape[0], len(truth.mean)
    rows, sd = reals(u), truth.covariance.diagonal().sqrt()
    correlation = truth.covariance / sd / sd[:, None]
    spread, largest = float(correlation.norm()), float(torch.linalg.matrix_norm(correlation, 2))
    shift, ratio, lack = ALLOWED if kind is Kind.APPROXIMATE_SAMPLE else (0.0, 0.0, 0.0)
    # P(sum of l_i chi-square_k > k sum l + 2 |l|_2 sqrt(k t) + 2 max(l) t) <= exp(-t), and below likewise.
    t = -math.log(P)
    above = (2 * spread * t**0.5 + 2 * largest * t) / n
    mean = ((1 + ratio) * (1 + above) / count) ** 0.5
    wide, tail = 2 * spread * (t / (count - 1)) ** 0.5 / n, 2 * largest * t / (count - 1) / n
    expected = LEVEL * (count - 1) / (count + 1)
    error = SIGMAS * (expected * (1 - expected) / (count + 2)) ** 0.5 * spread / n + lack
    off = (rows.mean(0) - truth.mean) / sd
    return SamplerRow(
        solver,
        problem,
        kind,
        count,
        Figure(float(off.square().mean().sqrt()), 0.0, shift + mean),
        Figure(
            float((rows.var(0) / sd**2).mean()), (1 - ratio) * (1 - wide), (1 + ratio) * (1 + wide + tail)
        ),
        Figure(coverage(u, truth, LEVEL), expected - error, expected + error),
        seconds,
    )


def sampler_rows() -> Iterator[SamplerRow]:
    """Yield a row for every sampler and problem."""
    solvers: tuple[Solver[Any], ...] = (ExactGaussian(), AnnealedLangevin(sigma_max=3.0, sigma_min=0.01))
    for solver in solvers:
        for problem in PROBLEMS:
            posterior = posterior_of(problem)
            samples, u, seconds = answered(posterior, solver, DRAWS)
            truth = dense_answer(posterior)
            yield judged(type(solver).__name__, problem, samples.kind, u, truth, seconds)


def point_rows() -> Iterator[PointRow]:
    """Yield a row for every point estimate, prior and problem."""
    for problem in PROBLEMS:
        posterior = posterior_of(problem)
        samples, u, seconds = answered(posterior, ConjugateGradient(500, 1e-12))
        truth = dense_answer(posterior)
        off = (reals(u)[0] - truth.mean) / truth.covariance.diagonal().sqrt()
        error = Figure(float(off.square().mean().sqrt()), 0.0, 1e-8)
        reference = "posterior mean, in posterior sd"
        yield PointRow("ConjugateGradient", problem, samples.kind, reference, error, seconds)
    for problem in PROBLEMS:
        posterior = flat(posterior_of(problem))
        samples, u, seconds = answered(posterior, ConjugateGradient(2000, 1e-12))
        error = Figure(excess(posterior, u), -1e-12, 1e-8)
        reference = "least squares: misfit in excess, of \\|z\\|^2"
        yield PointRow("ConjugateGradient", problem, samples.kind, reference, error, seconds)
    for problem in PROBLEMS:
        posterior = flat(posterior_of(problem))
        samples, u, seconds = answered(posterior, TotalVariation(TV_WEIGHT, iterations=6000, tolerance=1e-6))
        # Where B is close to singular the certificate itself is good to 1e-9 or so.
        error = Figure(duality_gap(posterior, u, TV_WEIGHT), -1e-8, 1e-5)
        reference = "duality gap, of the objective"
        yield PointRow("TotalVariation", problem, samples.kind, reference, error, seconds)


def flat(posterior: Posterior) -> Posterior:
    """Return the posterior of the same data without a preference."""
    return Posterior(Flat(posterior.space, UNITS), posterior.physical_likelihood)


def answered(
    posterior: Posterior, solver: Solver[Any], draws: int | None = None
) -> tuple[Samples, Tensor, float]:
    """Return samples, their u and the seconds they took."""
    begun = time.perf_counter()
    samples = sample(posterior, solver, draws=draws, seed=0)
    return samples, posterior.from_physical(samples.tensor()), time.perf_counter() - begun


def excess(posterior: Posterior, u: Tensor) -> float:
    """Return (|B u - z|^2 - the least there is) / |z|^2."""
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    best = torch.linalg.pinv(matrix) @ data
    misfit, least = ((matrix @ v - data).square().sum() for v in (reals(u)[0], best))
    return float((misfit - least) / data.square().sum())


def main() -> int:
    """Print the tables, row by row, and return the exit status."""
    failed = 0
    print("| solver | problem | kind | draws | mean error [sd] | sqrt(1/K) | variance ratio | 90 % | s | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in sampler_rows():
        print(row, flush=True)
        failed += not row.passed
    print("\n| solver | problem | kind | reference | error | bound | s | |")
    print("|---|---|---|---|---|---|---|---|")
    for point in point_rows():
        print(point, flush=True)
        failed += not point.passed
    shift, ratio, lack = ALLOWED
    print(f"\nIn brackets: bounds that exact draws miss with a probability of {P:g}. Approximate samples may")
    print(
        f"be off by {shift:g} sd in the mean, {ratio:.0%} in the variance and {lack:g} in coverage besides."
    )
    print(f"Rows that failed: {failed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
