"""Ensembles beside solvers of independent draws: images that leave two kinds, and data without phase.

    python -m pipelines.verify.comparison                     # all, as Markdown: twelve minutes on one core
    python -m pipelines.verify.comparison --problem views16 --seeds 1

images16, views16 and lines16 are the referee's: DRAWS independent draws, or PARTICLES with their weights, in
as many evaluations each as the solver asks for by itself; figures are the referee's, means over seeds.

phase2 and phase16 are intensities |M u|^2 with noise, at EVALUATIONS of the prior for each draw and particle.
phase2 is the referee's. phase16 is an image of 16 x 16 with the prior of images16 under coded diffraction,
the Fourier transform behind each of four masks of random signs, and noise of 3 %. Its posterior is next to a
point: `error` is |u -+ x| / |x| for the object x of either sign, of the draws' median, `solved` the share
of draws with chi^2 / n < 2, `upright` that of those with the sign that the prior tells and the data do not.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from operators.diagonal import Diagonal
from operators.errors import ConvergenceWarning
from operators.fourier import Fourier
from operators.phase_retrieval import PhaseRetrieval
from operators.stack import Stack
from pipelines.verify.referee.images import images_posterior
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.problem import problem
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.samples import Samples
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.pnp_dm import PnPDM
from workbench.solvers.base import Solver
from workbench.solvers.best_of import BestOf
from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.ensemble import DegeneracyWarning
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.tds import TDS
from workbench.solvers.guidance.diffpir import DiffPIR
from workbench.solvers.guidance.dps import DPS
from workbench.solvers.variational.red_diff import REDDiff

__all__ = ["Row", "linear_solvers", "phase_image", "phase_solvers", "row", "tables"]

DRAWS, PARTICLES, SEEDS = 100, 512, 3
EVALUATIONS = 1000
#: Of phase16: draws, particles, masks, noise over the root mean square of the intensities.
FEW_DRAWS, FEW_PARTICLES, MASKS, NOISE = 24, 256, 4, 0.03
LINEAR, PHASE = ("images16", "views16", "lines16"), ("phase2", "phase16")

Solvers = Mapping[str, Solver[Any]]
Judge = Callable[[Samples], dict[str, Any]]
#: Heads of the columns, what they show and its format.
COSTS = (("evaluations", "evaluations", ".0f"), ("backward", "backward", ".0f"), ("s", "seconds", ".1f"))
KNOWN = (
    ("draws", "draws", "d"),
    ("sliced W2", "sliced_wasserstein", ".2f"),
    ("wrong modes", "mode_error", ".2f"),
    ("mean error", "mean_error", ".2f"),
    ("variance", "variance_ratio", ".2f"),
    ("90 % hold", "coverage", ".0%"),
)
FIT = ("chi^2 / n", "misfit", ".3g")
OBJECT = (
    ("draws", "draws", "d"),
    ("error", "error", ".3f"),
    ("solved", "solved", ".0%"),
    ("upright", "upright", ".0%"),
)
COLUMNS = {name: (*KNOWN, *COSTS) for name in LINEAR} | {
    "phase2": (*KNOWN, FIT, *COSTS),
    "phase16": (*OBJECT, FIT, *COSTS),
}


@dataclass(frozen=True)
class Row:
    """A solver's figures, means over seeds; None where one says nothing, `refused` why there are none."""

    solver: str
    draws: int = 0
    sliced_wasserstein: float | None = None
    mode_error: float | None = None
    mean_error: float | None = None
    variance_ratio: float | None = None
    coverage: float | None = None
    misfit: float | None = None
    error: float | None = None
    solved: float | None = None
    upright: float | None = None
    evaluations: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0
    refused: str = ""


def linear_solvers(particles: int = PARTICLES) -> Solvers:
    """Return the solvers of the images, with their own numbers of steps."""
    return {
        "AFDPS": AFDPS(particles),
        "TDS": TDS(particles),
        "TDS, detached": TDS(particles, jacobian="detached"),
        "MCGdiff": MCGdiff(particles),
        "DPS": DPS(),
        'DPS(form="bayes")': DPS(form="bayes"),
        "DiffPIR": DiffPIR(),
        "RED-Diff, published": REDDiff(scaling="paper"),
        "RED-Diff": REDDiff(),
        "DAPS, published": DAPS(),
        "DAPS(ode_steps=1)": DAPS(ode_steps=1),
        "PnP-DM": PnPDM(),
    }


def phase_solvers(particles: int, evaluations: int = EVALUATIONS) -> Solvers:
    """Return the solvers of data without phase, at so many evaluations for each draw and particle."""
    levels = evaluations // 5
    return {
        "AFDPS": AFDPS(particles, evaluations),
        "TDS": TDS(particles, evaluations),
        "DPS": DPS(evaluations),
        'DPS(form="bayes")': DPS(evaluations, form="bayes"),
        "RED-Diff, published": REDDiff(evaluations, scaling="paper"),
        "RED-Diff": REDDiff(evaluations),
        "DAPS, published": DAPS(levels),
        "DAPS, best of 4": BestOf(DAPS(levels // 4), 4),
    }


def phase_image(size: float = NOISE) -> tuple[Posterior, Tensor]:
    """Return the posterior of phase16, noise of `size`, and the object its data are of."""
    prior = images_posterior().prior
    space, like = prior.space, torch.empty(0, dtype=torch.float64)
    white = Keys(1, tuple(range(MASKS))).normals(space.shape, "comparison: masks", like=like)
    inner = Stack([Fourier(space) @ Diagonal(space, mask.sign()) for mask in white])
    operator = PhaseRetrieval(inner)
    x = prior.draw(Keys(2, (0,)), like=like)
    clean = operator(x)
    noise = Gaussian(size * math.sqrt(float(clean.square().mean())))
    data = noise.draw(clean, Keys(3, (0,)))[0]
    return Posterior(prior, Likelihood(operator, noise, data)), x[0]


def row(name: str, solver: Solver[Any], posterior: Posterior, judge: Judge, draws: int, seeds: int) -> Row:
    """Return the figures of a solver over seeds; what it refuses it says."""
    found: list[Row] = []
    options: dict[str, Any] = {} if solver.particles is not None else {"draws": draws}
    for seed in range(seeds):
        began = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DegeneracyWarning)
                warnings.simplefilter("ignore", ConvergenceWarning)
                samples = sample(posterior, solver, seed=seed, **options)
        except (CapabilityError, FloatingPointError) as error:
            return Row(name, refused=" ".join(str(error).split()))
        ledger, count = samples.record["ledger"], len(samples)
        costs = {
            "draws": count,
            "evaluations": ledger["network_evaluations"] / count,
            "backward": ledger["backward_passes"] / count,
            "seconds": time.perf_counter() - began,
        }
        found.append(Row(name, **costs, **judge(samples)))
    return _mean(found)


def tables(names: Sequence[str], seeds: int = SEEDS) -> Iterator[str]:
    """Yield the lines of one table for each problem, as they come."""
    for name in names:
        columns = COLUMNS[name]
        yield from ("", f"{name}", "", f"| solver | {' | '.join(head for head, _, _ in columns)} |")
        yield "|---" * (len(columns) + 1) + "|"
        for one in _rows(name, seeds):
            if one.refused:
                yield f"| {one.solver} | refused: {one.refused} |"
                continue
            values = [(getattr(one, what), form) for _, what, form in columns]
            yield f"| {one.solver} | {' | '.join('' if v is None else format(v, f) for v, f in values)} |"


def _rows(name: str, seeds: int) -> Iterator[Row]:
    if name == "phase16":
        posterior, x = phase_image()
        for solver, value in phase_solvers(FEW_PARTICLES).items():
            yield row(solver, value, posterior, _beside(posterior, x), FEW_DRAWS, 1)
        return
    held, draws = problem(name), PARTICLES if name == "phase2" else DRAWS
    for count in sorted({draws, PARTICLES}):
        yield _exact(held, count, seeds)
    solvers = phase_solvers(PARTICLES) if name == "phase2" else linear_solvers()
    for solver, value in solvers.items():
        yield row(solver, value, held.posterior, _against(held), draws, seeds)


def _against(problem: Problem) -> Judge:
    """Return what judges samples by the truth."""

    def judge(samples: Samples) -> dict[str, Any]:
        rows = problem.rows(samples.tensor())
        metrics = vars(measure(rows, problem.truth, None if samples.log_weights is None else samples.weights))
        return {k: v for k, v in metrics.items() if k != "covariance_error"} | _misfit(
            problem.posterior, samples
        )

    return judge


def _beside(posterior: Posterior, x: Tensor) -> Judge:
    """Return what judges samples by the object of the data."""

    def judge(samples: Samples) -> dict[str, Any]:
        u = posterior.from_physical(samples.tensor())
        signs = torch.stack([(u - sign * x).flatten(1).norm(dim=1) for sign in (1, -1)]) / x.norm()
        chi = _chi_square(posterior, u)
        solved = chi < 2
        weights = samples.weights
        upright = (signs[0] < signs[1]).double()
        share = float(weights[solved].sum())
        order = signs.amin(0).argsort()
        middle = order[int((weights[order].cumsum(0) < 0.5).sum())]
        return {
            "error": float(signs.amin(0)[middle]),
            "solved": share,
            "upright": float((weights * upright)[solved].sum()) / share if share > 0 else None,
            **_misfit(posterior, samples),
        }

    return judge


def _misfit(posterior: Posterior, samples: Samples) -> dict[str, float]:
    chi = _chi_square(posterior, posterior.from_physical(samples.tensor()))
    return {"misfit": float(samples.weights @ chi)}


def _chi_square(posterior: Posterior, u: Tensor) -> Tensor:
    """Return the squared residual over the noise's variance, per number of the data."""
    likelihood = posterior.measured
    noise = likelihood.noise
    assert isinstance(noise, Gaussian)
    off = (likelihood.predicted(u) - likelihood.data).abs().square().flatten(1).double().mean(1)
    return off / (float(noise.sigma) ** 2 * (2 if likelihood.data.is_complex() else 1))


def _exact(problem: Problem, draws: int, seeds: int) -> Row:
    """Return the figures that exact draws have."""
    found = []
    for seed in range(seeds):
        rows = problem.truth.draw(draws, seed)
        assert rows is not None
        metrics = {k: v for k, v in vars(measure(rows, problem.truth)).items() if k != "covariance_error"}
        found.append(Row("exact draws", draws, **metrics))
    return _mean(found)


def _mean(rows: Sequence[Row]) -> Row:
    """Return the means of what is there."""
    first = rows[0]
    found: dict[str, Any] = {}
    for item in fields(Row):
        values = [v for r in rows if isinstance(v := getattr(r, item.name), float)]
        found[item.name] = sum(values) / len(values) if values else getattr(first, item.name)
    return Row(**found)


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.verify.comparison", description=__doc__)
    formatter = argparse.RawDescriptionHelpFormatter
    parser.formatter_class = formatter
    parser.add_argument(
        "--problem", action="append", choices=tuple(COLUMNS), help="A table alone (repeatable)."
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="Runs that are averaged.")
    chosen = parser.parse_args(arguments)
    for line in tables(chosen.problem or tuple(COLUMNS), chosen.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    _main()
