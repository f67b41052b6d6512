"""What all particle solvers share: every kind of operator, memory, degeneracy, failures, chosen draws."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.deformation import Warp
from operators.diagonal import Diagonal
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.mri.coils import Coils
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.trajectories import radial
from operators.space import Space
from pipelines.verify.referee.conditioning import conditioned
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.truth import GaussianTruth
from tests.problems import dense_answer, grid_of, operator_of, posterior_of, prior_on, reals
from tests.workbench.solvers.ensembles.ensemble_cases import LEVELS, LIKE, evidence, loud, vague
from workbench.capabilities import Capabilities
from workbench.driver import sample
from workbench.engine.guards import DivergedError
from workbench.integration import Karras
from workbench.io.zarr_store import ZarrStore
from workbench.kinds import Kind
from workbench.ledger import Budget, BudgetError, peak_memory
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import CorrelatedGaussian
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.plan import PlanRow
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.ensemble import DegeneracyWarning, Ensemble, Moved
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.tds import TDS
from workbench.units import Units

CPU = torch.device("cpu")


def radial_coils(size: int) -> LinearOperator:
    """Return k-space of two coils along spokes."""
    grid = grid_of(size)
    space = Space.field(grid, is_complex=True)
    index = torch.arange(size, dtype=torch.float64) / size
    maps = torch.stack([1 - index, index]).sqrt()[:, None, None, :] * torch.ones(1, 1, size, 1)
    scan = NonCartesianGeometry(radial(3, size, grid.spacing[2]))
    return scan.operator(grid, components=(2,)) @ Coils(space, maps.to(torch.complex128))


def warped(size: int) -> LinearOperator:
    """Return an image pulled along a field that bends."""
    grid = grid_of(size)
    row = torch.arange(size, dtype=torch.float64) / size
    field = torch.zeros(3, 1, size, size, dtype=torch.float64)
    field[0] = 1.5 * torch.sin(2 * math.pi * row)[:, None]
    field[1] = 1.0 * torch.cos(2 * math.pi * row)[None, :]
    return Warp(Space.field(grid), field)


OPERATORS = {"radial": radial_coils, "warp": warped}


def seen_by(name: str, size: int = 4, share: float = 0.5) -> Posterior:
    """Return data with noise of `share` of their largest."""
    operator = OPERATORS[name](size) if name in OPERATORS else operator_of(name, size)
    prior = prior_on(operator.domain, Units())
    like = LIKE.to(operator.domain.dtype_like(LIKE))
    clean = operator(prior.draw(Keys(1, (0,)), like=like))
    noise = GaussianNoise(share * float(clean.abs().max()))
    return Posterior(prior, Likelihood(operator, noise, noise.draw(clean, Keys(2, (0,)))[0]))


@pytest.mark.filterwarnings("ignore::workbench.solvers.ensembles.ensemble.DegeneracyWarning")
@pytest.mark.parametrize("solver", [AFDPS(400, 80), TDS(150, 60)], ids=["AFDPS", "TDS"])
@pytest.mark.parametrize("name", ["ct", "coils", "radial", "blur", "warp"])
def test_any_linear_operator_has_its_posterior_and_evidence(name: str, solver: Ensemble) -> None:
    """Steps of the prior leave a tenth of the variance out, and a share of a nat for each real dimension."""
    posterior = seen_by(name)
    solver = replace(solver, count=60) if name == "radial" and isinstance(solver, TDS) else solver
    truth = conditioned(posterior)
    samples = sample(posterior, solver, seed=3)
    metrics = measure(reals(samples.tensor()), GaussianTruth(truth.mean, truth.covariance), samples.weights)
    assert metrics.mean_error < 0.35
    assert metrics.variance_ratio == pytest.approx(0.93, abs=0.18)
    assert samples.record["ensemble"]["log_evidence"] == pytest.approx(evidence(posterior), abs=1.0)


# -- memory ------------------------------------------------------------------------------------------


def test_a_budget_of_memory_sets_how_many_are_computed_at_once() -> None:
    posterior = posterior_of("mask", 32)
    solver = TDS(64, 2, threshold=0.0)
    element = 32 * 32 * 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        # The process itself counts: a little above what it has had at most, and room for seven.
        limit = peak_memory(CPU) + 2**28
        roomy = sample(posterior, solver, seed=1, budget=Budget(memory_bytes=limit))
        assert roomy.record["ensemble"]["at_once"] == 64
    from workbench.engine.costs import WORKING, particles_at_once

    for fit in (1, 7):
        least = peak_memory(CPU) + solver.held * 64 * element
        tight = Budget(memory_bytes=least + fit * WORKING * element + 2**16)
        found = particles_at_once(posterior, solver, 64, False, tight, posterior.like())
        assert 1 <= found <= fit + 1


def test_a_budget_below_one_particle_is_refused_before_the_run() -> None:
    posterior = posterior_of("mask", 32)
    with pytest.raises(
        BudgetError,
        match=r"must allow at least \d+: \d+\.\d [MG]iB that the process .* 64 particles of 8\.0 KiB",
    ):
        sample(posterior, TDS(64, 2), budget=Budget(memory_bytes=2**20))
    # A part that was chosen and does not fit.
    room = Budget(memory_bytes=peak_memory(CPU) + 2**26)
    with pytest.raises(BudgetError, match="or lower `microbatch` to"):
        sample(posterior, TDS(512, 2), microbatch=512, budget=room)


def test_more_particles_than_memory_are_refused_by_their_number() -> None:
    with pytest.raises(
        BudgetError, match=r"`count` must let 7 copies of its particles fit .* At most \d+: all"
    ):
        sample(vague("ct"), AFDPS(10**10, 2), draws=3, microbatch=10)


def test_too_many_evaluations_are_refused_before_the_run() -> None:
    with pytest.raises(BudgetError, match="`budget.network_evaluations` must allow at least 320"):
        sample(vague("ct"), AFDPS(32, 10), budget=Budget(network_evaluations=100))


# -- degeneracy and failures -------------------------------------------------------------------------


def test_too_few_particles_are_told_in_the_run_and_at_its_end() -> None:
    with pytest.warns(DegeneracyWarning) as caught:
        samples = sample(loud("mask", 0.3), AFDPS(12, 20), seed=1)
    during, after = (str(one.message) for one in caught)
    assert re.match(
        r"AFDPS: 12 particles count as \d\.\d at step \d+ of 20, sigma = .* in 36 unknowns", during
    )
    assert re.match(
        r"AFDPS: the 12 particles count as \d\.\d, at some step as \d\.\d, and descend from 1", after
    )
    assert samples.record["ensemble"]["least_effective_number"] < 12**0.5


def test_weights_that_were_evened_out_do_not_hide_one_ancestor(tmp_path: Path) -> None:
    """Also of draws that are taken by weight, and of a run that is read back."""
    posterior, solver = loud("mask", 0.3), AFDPS(12, 20, threshold=1.0)
    for _ in range(2):
        with pytest.warns(DegeneracyWarning) as caught:
            samples = sample(posterior, solver, draws=5, seed=1, store=ZarrStore(tmp_path / "run"))
        assert "known from no more. The 5 draws are taken from them" in str(caught[-1].message)
    told = samples.record["ensemble"]
    assert told["effective_families"] < 2 < told["effective_number"]


@pytest.mark.parametrize("solver", [TDS(100, 50), AFDPS(100, 50)], ids=["TDS", "AFDPS"])
def test_the_error_of_the_evidence_is_that_of_its_spread_over_seeds(solver: Ensemble) -> None:
    posterior = vague("ct")
    told = [sample(posterior, solver, seed=seed).record["ensemble"] for seed in range(16)]
    spread = float(torch.tensor([one["log_evidence"] for one in told]).std())
    stated = sum(one["log_evidence_standard_error"] for one in told) / 16
    assert 0.5 * spread < stated < 2 * spread


def test_without_drawing_anew_the_weights_degenerate() -> None:
    """Thirty data: renewed particles follow, others end on a handful."""
    posed = problem("mask8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        kept, renewed = (sample(posed.posterior, TDS(400, 100, threshold=t), seed=2) for t in (0.0, 0.5))
    assert kept.record["ensemble"]["resamplings"] == 0
    assert kept.effective_size < 0.05 * 400 < 0.3 * 400 < renewed.effective_size
    errors = [
        measure(posed.rows(s.tensor()), posed.truth, s.weights).covariance_error for s in (kept, renewed)
    ]
    assert errors[0] > 1.5 * errors[1]  # type: ignore[operator]


@dataclass(frozen=True)
class Hopeless(Ensemble):
    """A solver whose particles lose all weight in their third step."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    def begun(self, posterior: Posterior, row: PlanRow, keys: Keys, like: Tensor) -> Moved:
        z = keys.normals(posterior.space.shape, "test: start", like=like)
        return Moved(z, torch.zeros(len(z), dtype=torch.float64), {})

    def moved(
        self, posterior: Posterior, z: Tensor, carried: Mapping[str, Tensor], row: PlanRow, keys: Keys
    ) -> Moved:
        lost = -math.inf if row.index == 2 else 0.0
        return Moved(z, torch.full((len(z),), lost, dtype=torch.float64), {}, z)


def test_particles_that_lose_all_weight_end_the_run_with_a_remedy() -> None:
    with pytest.raises(DivergedError, match=r"at step 3 of 9, sigma = .* Take more particles.*weight zero"):
        sample(vague("ct"), Hopeless(8, 9, LEVELS), microbatch=3)


def test_some_may_lose_theirs() -> None:
    """A state that the data exclude weighs nothing, and is not drawn again."""
    space = Space((2,))

    class Halved(GaussianNoise):
        """Gaussian noise on predictions above zero; none give anything else."""

        name: ClassVar[str] = "halved"

        def log_likelihood(self, predicted: Tensor, data: Tensor) -> Tensor:
            inside = (predicted > 0).flatten(1).all(1)
            return torch.where(inside, super().log_likelihood(predicted, data), -math.inf)

        def gaussian_form(self, data: Tensor, space: Space) -> None:
            return None

    likelihood = Likelihood(Identity(space), Halved(1.0), torch.tensor([0.5, 0.2]).double())
    posterior = Posterior(posterior_prior(space), likelihood)
    samples = sample(posterior, AFDPS(200, 40, Karras(10.0, 0.02)), seed=1)
    alive = samples.weights > 0
    assert bool((samples.tensor()[alive] > 0).all())
    assert 20 < int(alive.sum()) <= 200


def posterior_prior(space: Space) -> Any:
    from workbench.priors.gaussian import DenseGaussian

    return DenseGaussian(space, torch.zeros(space.shape).double(), torch.eye(space.size).double())


# -- answers -----------------------------------------------------------------------------------------


def test_draws_chosen_by_weight_have_none_left() -> None:
    posterior = vague("ct")
    whole = sample(posterior, AFDPS(64, 20), seed=1)
    assert whole.kind is Kind.WEIGHTED_ENSEMBLE
    chosen = sample(posterior, AFDPS(64, 20), draws=5, seed=1)
    assert chosen.log_weights is None
    rows = {tuple(row.flatten().tolist()) for row in whole.tensor()}
    assert all(tuple(row.flatten().tolist()) in rows for row in chosen.tensor())


def test_noise_without_its_constant_has_no_evidence() -> None:
    posterior = vague("mask")
    likelihood = posterior.physical_likelihood
    assert likelihood is not None
    space = likelihood.operator.codomain
    sd = 10.0
    whitener = Hidden(Diagonal(space, torch.full(space.shape, 1 / sd, dtype=torch.float64)))
    unknown = Likelihood(likelihood.operator, CorrelatedGaussian(whitener), likelihood.data)
    samples = sample(Posterior(posterior.prior, unknown), AFDPS(16, 5), seed=1)
    assert samples.record["ensemble"]["log_evidence"] is None


class Hidden(LinearOperator):
    """An operator that knows no closed form."""

    def __init__(self, op: LinearOperator) -> None:
        super().__init__(op.domain, op.codomain)
        self.op = op

    def _apply(self, x: Tensor) -> Tensor:
        return self.op._apply(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self.op._apply_adjoint(y)


def test_default_levels_end_where_the_data_resolve_no_more() -> None:
    """sigma^2 tr B^H B = 0.3^2 at the last level, where that is below a hundredth of the prior's spread."""
    for name, share in (("mask8", 1.0), ("blur8", 1.0)):
        posterior = problem(name).posterior
        last = AFDPS(8, 10).plan(posterior).row(9).number("sigma")
        b, _ = posterior.measured.whitened
        matrix = reals(b(torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)))
        trace = float(matrix.square().sum())
        assert last == pytest.approx(min(0.3 / trace**0.5, 0.01 * share, 0.3 / b.norm()), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1}, "`count` must be"),
        ({"steps": 0}, "`steps` must be"),
        ({"levels": 3.0}, "`levels` must be Levels or None"),
        ({"threshold": 1.5}, "`threshold` must be between 0 and 1, got 1.5"),
    ],
)
@pytest.mark.parametrize("kind", [AFDPS, TDS, MCGdiff])
def test_bad_arguments_are_refused(kind: type[Ensemble], options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        kind(**options)


def test_a_mean_over_particles_counts_their_weights() -> None:
    posterior = vague("ct")
    samples = sample(posterior, AFDPS(200, 30), seed=1)
    by_hand = np.tensordot(samples.weights.numpy(), samples.tensor().numpy(), 1)
    assert np.allclose(samples.mean().data.numpy(), by_hand)  # type: ignore[union-attr]
    truth = dense_answer(posterior)
    off = reals(posterior.from_physical(samples.mean().data[None]))[0] - truth.mean  # type: ignore[union-attr]
    assert float(off.norm() / truth.covariance.trace().sqrt()) < 0.3
