"""The solvers of the table, as they are run on each problem.

On the vectors P1 to P3 with the levels and numbers of steps of the published figures; on images as anybody
would run them, with the defaults that follow from prior and measurement.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.phase_retrieval import PhaseRetrieval
from pipelines.verify.referee.decoupled import decoupled
from pipelines.verify.referee.laws.chains import Chain, chain_of, unguided
from pipelines.verify.referee.laws.dense import DenseModel
from pipelines.verify.referee.laws.field import FieldModel
from pipelines.verify.referee.laws.flock import Flock
from pipelines.verify.referee.laws.flocks import flock_of
from pipelines.verify.referee.laws.model import Model
from pipelines.verify.referee.laws.phase import PhaseModel
from pipelines.verify.referee.points import points
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.truth import MixtureTruth, Truth
from workbench.integration import Karras, ancestral
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.priors.mixture import GaussianMixture
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.base import Solver
from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.tds import TDS
from workbench.solvers.exact_gaussian import ExactGaussian
from workbench.solvers.guidance.ddnm import DDNM
from workbench.solvers.guidance.ddrm import DDRM
from workbench.solvers.guidance.dds import DDS
from workbench.solvers.guidance.diffpir import DiffPIR
from workbench.solvers.guidance.dps import DPS
from workbench.solvers.guidance.pigdm import PiGDM
from workbench.solvers.integrator import Integrator

__all__ = ["Entry", "entries", "lawful", "loaded", "reference"]

#: Levels of the published figures, for priors of sd about 1.
LEVELS = Karras(20.0, 0.01)
#: Steps of the reference that knows the score of the posterior.
REFERENCE_STEPS = 200
#: Accuracy of a prox, in its own standard deviations: far below what chance does to the draws of a table.
ACCURATE = 1e-5
#: What takes too long on images for any table, and on a field for the fast one.
NEVER = ("PiGDM, exact covariance", "DiffPIR, zeta 1")
SLOW = (
    "DPS norm",
    "DPS bayes",
    "DPS bayes, detached",
    "AnnealedLangevin",
    "PiGDM",
    "PiGDM, detached",
    "TV",
    "wavelet-L1 (FISTA)",
)
#: Components up to which all solvers are run, and up to which everything is written out as matrices.
SMALL, DENSE = 200, 600
#: Of the particle solvers.
PARTICLES = 500


@dataclass(frozen=True)
class Entry:
    """A solver under a name; `posterior` is what it is run on, the problem's own where it is None.

    `chain` or, of interacting particles, `flock`, and `model` are what its law is made of, None where none is
    known. `answer` is a point estimate's
    by other means, from which it may be `allowed` posterior sd (rms) away.
    """

    name: str
    solver: Solver[Any]
    posterior: Posterior | None = None
    chain: Chain | None = None
    model: Model | None = None
    answer: Callable[[], Tensor] | None = None
    allowed: float = 0.0
    flock: Flock | None = None


def entries(problem: Problem, *, fast: bool = False) -> list[Entry]:
    """Return the solvers of the table for one problem; what cannot work on it says so when it is run.

    The fast table leaves out what is slow on a field: a thousand steps, and a solve in each of many.
    """
    vectors = problem.name in ("P1", "P2", "P3")
    levels = LEVELS if vectors else None
    # Compared on intensities at as many evaluations as the others have.
    proxes = 100 if problem.posterior.measured.is_linear or fast else 1000
    named: list[tuple[str, Solver[Any]]] = [
        ("ExactGaussian", ExactGaussian()),
        ("AnnealedLangevin", AnnealedLangevin(sigma_max=3.0, sigma_min=0.01)),
        ("DPS norm", DPS(levels=levels)),
        ("DPS bayes", DPS(levels=levels, form="bayes")),
        ("DPS bayes, detached", DPS(levels=levels, form="bayes", jacobian="detached")),
        ("PiGDM", PiGDM(200, levels, tolerance=ACCURATE)),
        ("PiGDM, detached", PiGDM(200, levels, jacobian="detached", tolerance=ACCURATE)),
        ("PiGDM, exact covariance", PiGDM(200, levels, covariance="exact", tolerance=1e-8)),
        ("DDRM", DDRM(100 if vectors else 20, levels)),
        ("DDNM+", DDNM(100, levels)),
        ("DDNM+ scalar", DDNM(100, levels, weights="scalar")),
        ("DiffPIR", DiffPIR(proxes, levels, tolerance=ACCURATE)),
        ("DiffPIR, zeta 1", DiffPIR(100, levels, zeta=1.0, tolerance=ACCURATE)),
        ("DDS", DDS(100 if vectors else 50, levels)),
    ]
    named += decoupled(problem, levels, ACCURATE, small=SMALL, dense=DENSE, fast=fast)
    if problem.truth.size <= DENSE:
        named += ensembles(levels)
    found = [lawful(Entry(name, solver), problem) for name, solver in named]
    own = reference(problem, REFERENCE_STEPS)
    found = [*found[:1], own, *found[1:]] if own is not None else found
    model = model_of(problem)
    if problem.prior_is_gaussian and not vectors and model is not None and problem.truth.size > 2:
        classical = points(problem, model)
        found += [Entry(p.name, p.solver, p.posterior, answer=p.answer, allowed=p.allowed) for p in classical]
    left_out: tuple[str, ...] = NEVER if problem.truth.size > SMALL else ()
    if fast and problem.truth.size > DENSE:
        left_out += SLOW
    return [entry for entry in found if entry.name not in left_out]


def ensembles(levels: Karras | None) -> list[tuple[str, Solver[Any]]]:
    """Return the particle solvers; of a field they would need more particles than there is time for."""
    return [
        ("AFDPS", AFDPS(PARTICLES, 200, levels)),
        ("AFDPS, drift", AFDPS(PARTICLES, 200, levels, proposal="drift")),
        ("AFDPS, continuous", AFDPS(PARTICLES, 400, levels, weights="continuous")),
        ("AFDPS, ODE", AFDPS(PARTICLES, 200, levels, variant="ode")),
        ("TDS", TDS(PARTICLES, 200, levels, tolerance=1e-9)),
        ("TDS, detached", TDS(PARTICLES, 200, levels, jacobian="detached", tolerance=1e-9)),
        ("MCGdiff", MCGdiff(PARTICLES, 200, levels)),
    ]


def lawful(entry: Entry, problem: Problem) -> Entry:
    """Return the entry with the law of its solver on a problem, if one is known."""
    flock = flock_of(entry.solver, problem.posterior)
    return replace(entry, chain=chain_of(entry.solver), flock=flock, model=model_of(problem))


def model_of(problem: Problem) -> Model | None:
    """Return what the laws on a problem are made of, None where the measurement is not linear."""
    posterior = problem.posterior
    if isinstance(posterior.measured.operator, PhaseRetrieval):
        return posterior.kept("referee: model", lambda: PhaseModel.of(posterior))
    if not posterior.measured.is_linear_gaussian:
        return None
    if problem.truth.size <= DENSE:
        return posterior.kept("referee: model", lambda: DenseModel.of(posterior))
    return posterior.kept("referee: model", lambda: FieldModel(posterior))


def reference(problem: Problem, steps: int) -> Entry | None:
    """Return ancestral steps with the true score of the posterior, a mixture in closed form."""
    posterior, truth = problem.posterior, problem.truth
    small = truth.size <= DENSE and not posterior.space.is_complex
    if not small or not posterior.measured.is_linear_gaussian:
        return None
    prior = posterior.prior
    mixture = GaussianMixture((1.0,), (prior,)) if isinstance(prior, Gaussian) else prior
    if not isinstance(mixture, GaussianMixture):
        return None
    left = Posterior(mixture.conditioned(posterior.measured), units=posterior.units)
    levels = LEVELS if problem.name in ("P1", "P2", "P3") else Karras(100.0, 0.01)
    solver = Integrator(ancestral(levels.times(steps)))
    return Entry(f"true score, {steps} steps", solver, left, unguided(steps, levels), model_of_truth(truth))


def model_of_truth(truth: Truth) -> DenseModel:
    """Return a model of the posterior itself, with nothing measured."""
    nothing = torch.zeros(1, truth.size, dtype=torch.float64)
    if isinstance(truth, MixtureTruth):
        return DenseModel(nothing, nothing[0, :1], truth.mode_weights, truth.means, truth.covariances)
    one = torch.ones(1, dtype=torch.float64)
    return DenseModel(nothing, nothing[0, :1], one, truth.mean[None], truth.covariance[None])


def loaded(path: str) -> Entry:
    """Return the entry of a user's solver, "module:Class" or "module:instance"."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise value_error(
            "solver", "be module:Class", repr(path), "Such as --solver mylab.samplers:MySampler."
        )
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        own = f"{module}.".startswith(f"{error.name}.")
        got = repr(module) if own else f"{module!r}, which needs {error.name!r}"
        remedy = "Run from the folder that holds it, or install it."
        raise value_error("solver", "name a module that can be imported", got, remedy) from error
    except Exception as error:
        got = f"{module!r}: {type(error).__name__}: {error}"
        raise value_error("solver", "name a module that can be imported", got) from error
    if not hasattr(found, name):
        raise value_error("solver", f"name a member of {module}", repr(name))
    member = getattr(found, name)
    try:
        solver = member() if isinstance(member, type) else member
    except TypeError as error:
        remedy = "Give every field a default, or name an instance: module:instance."
        raise type_error("solver", "be made without arguments", f"{path}: {error}", remedy) from error
    except Exception as error:
        got = f"{path}: {type(error).__name__}: {error}"
        raise value_error("solver", "be made without an error", got) from error
    if not isinstance(solver, Solver):
        remedy = "It has to subclass workbench.solvers.base.Solver."
        raise type_error("solver", "be a Solver", type(solver).__name__, remedy)
    for name in ("kind", "capabilities"):
        if not hasattr(solver, name):
            raise value_error(
                "solver", f"declare its `{name}`", path, "A class variable: see CONTRIBUTING.md."
            )
    return Entry(path, solver)
