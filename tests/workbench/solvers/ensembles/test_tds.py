"""TDS against closed forms of posterior and evidence: exact and detached, linear or not; its refusals."""

from __future__ import annotations

import math

import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from operators.identity import Identity
from operators.space import Space
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.problem import problem
from tests.problems import posterior_of, real_matrix
from tests.solver_contract import PoisonedDenoiser
from tests.workbench.solvers.ensembles.ensemble_cases import (
    LEVELS,
    LIKE,
    EnsembleContract,
    errors_over_seeds,
    evidence,
    law_alone,
    vague,
)
from workbench.driver import sample
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian, SpectralGaussian
from workbench.random import Keys
from workbench.solvers.ensembles.tds import TDS
from workbench.solvers.pull import spread_seen


class TestTDS(EnsembleContract):
    covers = (TDS,)

    def make(self) -> TDS:
        return TDS(24, 8, Karras(20.0, 0.1))


@pytest.mark.parametrize("jacobian", ["exact", "detached"])
@pytest.mark.parametrize("name", ["P1", "P2", "P3"])
def test_mean_and_evidence_are_those_of_closed_forms(name: str, jacobian: str) -> None:
    solver = TDS(300, 100, LEVELS, jacobian=jacobian)  # type: ignore[arg-type]
    error, off, chance = errors_over_seeds(problem(name), solver, range(4))
    assert error < 0.12
    assert abs(off) < 0.1
    assert chance < 0.1


@pytest.mark.parametrize("name", ["mask", "blur", "coils"])
def test_images_have_their_evidence(name: str) -> None:
    """Thirty data and more at 5 % noise: more than particles guided by p(y | z) could do."""
    error, off, _ = errors_over_seeds(problem(f"{name}8"), TDS(200, 200), range(2))
    assert error < 0.2
    assert abs(off) < 1.0


def test_the_drift_is_the_gradient_of_the_twist() -> None:
    """By autograd through the prior; a climb to the end says the same of Gaussian noise as the inverse."""
    posterior = problem("P3").posterior
    climbing = Posterior(posterior.prior, law_alone(posterior.measured))
    solver = TDS(8, 20, LEVELS, iterations=200)
    row = solver.plan(posterior).row(7)
    keys = Keys(1, tuple(range(5)))
    sigma, r, power = (row.number(name) for name in ("sigma", "r", "power"))
    z = keys.normals(posterior.space.shape, "test: z", like=posterior.like())
    b, data = posterior.measured.whitened
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        off = data - b(posterior.prior.denoise(leaf, sigma))  # type: ignore[attr-defined]
        solved = b.measurement_solve(off / r**2, 1 / r**2)
        value = -(off * solved).flatten(1).sum(1) / 2
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    for each in (posterior, climbing):
        looked = solver._looked(each, z, sigma, r, power)
        assert torch.allclose(looked.carried["pull"], gradient, rtol=1e-6, atol=1e-9)
        # Up to what all particles have in common.
        shift = looked.gained - value.detach()
        assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-8)


def test_signs_that_the_data_do_not_tell_are_both_found() -> None:
    posed = problem("phase2")
    found = [sample(posed.posterior, TDS(1000, 100), seed=seed) for seed in range(4)]
    rows = torch.cat([posed.rows(samples.tensor()) for samples in found])
    metrics = measure(rows, posed.truth, torch.cat([samples.weights for samples in found]))
    assert metrics.mode_error is not None
    assert metrics.mode_error < 0.08


def test_counts_of_photons() -> None:
    """Four unknowns, each with its own count: the posterior is a product of densities on a line."""
    space = Space((4,))
    data = torch.tensor([60.0, 40.0, 90.0, 70.0])
    likelihood = Likelihood(Identity(space), PoissonTransmission(100.0), data.double())
    posterior = Posterior(Gaussian(0.5, 0.3 * Identity(space)), likelihood)
    x = torch.linspace(-1.5, 2.5, 4001, dtype=torch.float64)[:, None]
    logs = data * torch.log(100 * torch.exp(-x)) - 100 * torch.exp(-x) - torch.lgamma(data + 1.0)
    prior = -((x - 0.5) ** 2) / (2 * 0.3**2) - math.log(0.3) - math.log(2 * math.pi) / 2
    weights = torch.softmax(logs + prior, 0)
    mean = (weights * x).sum(0)
    sd = (weights * (x - mean) ** 2).sum(0).sqrt()
    whole = float((torch.logsumexp(logs + prior, 0) + math.log(1e-3)).sum())
    samples = sample(posterior, TDS(1000, 100), seed=2)
    found = samples.weights @ samples.tensor()
    assert float(((found - mean) / sd).abs().max()) < 0.1
    told = samples.record["ensemble"]
    assert told["log_evidence"] == pytest.approx(whole, abs=0.1)
    # The curvature is seen from the start: the data come in early, and most first particles stay.
    assert told["effective_families"] > 0.4 * 1000


def test_detached_it_goes_without_the_prior_s_derivative() -> None:
    posterior = vague("mask")
    ledger = sample(posterior, TDS(16, 5, jacobian="detached", threshold=0.0)).record["ledger"]
    assert ledger["backward_passes"] == 0
    assert sample(posterior, TDS(16, 5, threshold=0.0)).record["ledger"]["backward_passes"] == 16 * 5


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="`jacobian` must be one of 'exact', 'detached', got 'none'"):
        TDS(jacobian="none")  # type: ignore[arg-type]
    posterior = posterior_of("mask", 4)
    unknown = PoisonedDenoiser(posterior.prior, 10**9)  # type: ignore[arg-type]
    blind = Posterior(unknown, posterior.physical_likelihood)
    with pytest.raises(ValueError, match="`spread` must be chosen for a .* without a data_sd.*spread=1.0"):
        sample(blind, TDS(8, 4, LEVELS))
    with pytest.raises(ValueError, match="`iterations`"):
        TDS(iterations=0)


def test_the_spread_is_that_of_what_the_data_see_most() -> None:
    """Quotients of C along K C K n, K = B^T B, which large eigenvalues of K C decide."""
    for name in ("P2", "blur8", "ct8"):
        posterior = problem(name).posterior
        b, root = real_matrix(posterior.measured.whitened[0]), real_matrix(posterior.prior.root)  # type: ignore[attr-defined]
        k, c = b.T @ b, root @ root.T
        twice = k @ c @ k
        # Over many n: tr (K C K)^T C (K C K) / tr (K C K)^T (K C K).
        seen = float(torch.trace(twice.T @ c @ twice) / torch.trace(twice.T @ twice)) ** 0.5
        assert spread_seen(posterior) == pytest.approx(seen, rel=0.1)
        assert spread_seen(posterior) > posterior.prior.data_sd  # type: ignore[operator]
    for name in ("P1", "phase2"):
        posterior = problem(name).posterior
        assert spread_seen(posterior) == pytest.approx(posterior.prior.data_sd, rel=2e-2)


def test_a_smooth_prior_behind_sums_keeps_its_families() -> None:
    """Four views of an image as smooth as it is large, 3 nats: the plain spread leaves a few of 256."""
    grid = Grid.from_spacing((1, 8, 8), (5.0, 5.0, 5.0))
    scan, noise = ParallelBeamGeometry.around(grid, views=4), GaussianNoise(0.1)
    prior = SpectralGaussian.smooth(scan.operator(grid).domain, sd=0.01, length=80.0)
    image = prior.draw(Keys(0, (0,)), like=LIKE)
    likelihood = Likelihood(
        scan.operator(grid), noise, noise.draw(scan.operator(grid)(image), Keys(1, (0,)))[0]
    )
    posterior = Posterior(prior, likelihood)
    told = sample(posterior, TDS(256, 100), seed=1).record["ensemble"]
    assert told["effective_families"] > 80
    assert told["log_evidence"] == pytest.approx(evidence(posterior), abs=0.3)
