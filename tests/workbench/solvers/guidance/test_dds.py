"""DDS against Krylov spaces by dense algebra, the laws of its own chains, its counts and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from operators.identity import Identity
from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from tests.problems import Dense, dense_answer, posterior_of, real_matrix, reals, require_standard_normal
from tests.solver_contract import PoisonedDenoiser, SolverContract
from tests.workbench.solvers.affine_chain import Level, Step, errors, law_of
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.noise.poisson import PoissonTransmission
from workbench.plan import PlanRow
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.guidance.dds import DDS

LEVELS = Karras(20.0, 0.05)
LIKE = torch.empty(0, dtype=torch.float64)
KEYS = Keys(3, (0, 1, 2))


class TestDDS(SolverContract):
    covers = (DDS,)

    def make(self) -> DDS:
        return DDS(4, LEVELS)

    def posterior(self, dtype: torch.dtype = torch.float64, **options: object) -> Posterior:
        return posterior_of("ct", 6, dtype=dtype, **options)  # type: ignore[arg-type]


def answer(posterior: Posterior, solver: DDS, draws: int, seed: int = 4) -> Tensor:
    return posterior.from_physical(sample(posterior, solver, draws=draws, seed=seed).tensor())


def step_of(posterior: Posterior, solver: DDS) -> Callable[[Level], Step]:
    """Return the step whose conjugate gradients have converged."""

    def step(at: Level) -> Step:
        gamma = at.left
        if not isinstance(solver.gamma, str):
            gamma = solver.gamma / float(torch.linalg.svdvals(at.matrix)[0]) ** 2
        m, c = at.prox(gamma)
        keep = (1 - solver.eta**2) ** 0.5 * at.after / at.sigma
        return m + keep * (at.eye - at.shrink), c - keep * at.rest, at.after * solver.eta

    return step


def own_law(posterior: Posterior, solver: DDS) -> Dense:
    return law_of(posterior, solver, step_of(posterior, solver))


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("mask", DDS(15, LEVELS)),
        ("mask", DDS(15, LEVELS, eta=0.5, gamma=1.0)),
        ("ct", DDS(4, LEVELS, iterations=36)),
        ("coils", DDS(6, LEVELS, iterations=36, gamma=3.0)),
        ("coils", DDS(6, LEVELS, iterations=36, eta=1.0)),
    ],
    ids=repr,
)
def test_draws_follow_the_law_of_the_chain(name: str, solver: DDS) -> None:
    posterior = posterior_of(name, 6)
    law = own_law(posterior, solver)
    require_standard_normal(law.whitened(answer(posterior, solver, 500)))
    mean, ratio = errors(posterior, law)
    assert mean > 0.1 or ratio < 0.9


def corrected(
    posterior: Posterior, iterations: int, gamma: float, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return D and x = D + delta after one step to sigma = 0, as real rows."""
    like = torch.empty(0, dtype=posterior.space.dtype_like(torch.empty(0, dtype=dtype)))
    z = 0.8 * KEYS.normals(posterior.space.shape, "test: z", like=like)
    row = PlanRow(0, {"sigma": 0.8, "next_sigma": 0.0, "gamma": gamma})
    moved, _ = DDS(iterations=iterations).moved(posterior, z, row, KEYS)
    return reals(posterior.prior.denoise(z, 0.8)), reals(moved)


@pytest.mark.parametrize("name", ["blur", "ct", "coils"])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_n_iterations_minimise_over_the_krylov_space_of_n(name: str, iterations: int) -> None:
    """|delta - exact|_G over the span of b, G b, ..., G^(n-1) b, of each sample its own."""
    posterior, gamma = posterior_of(name, 6), 0.3
    estimate, x = corrected(posterior, iterations, gamma)
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    g = gamma * matrix.T @ matrix + torch.eye(matrix.shape[1], dtype=torch.float64)
    for start, found in zip(estimate, x, strict=True):
        side = gamma * matrix.T @ (data - matrix @ start)
        basis = [side / side.norm()]
        for _ in range(iterations - 1):
            last = g @ basis[-1]
            for _ in range(2):
                for other in basis:
                    last = last - (other @ last) * other
            basis.append(last / last.norm())
        q = torch.stack(basis, dim=1)
        best = q @ torch.linalg.solve(q.T @ g @ q, q.T @ side)
        assert float((found - start - best).abs().max()) < 1e-9 * float(best.abs().max())
        exact = torch.linalg.solve(g, side)
        assert float((best - exact).norm()) > 1e-6 * float(exact.norm()) or name == "blur"


@pytest.mark.parametrize("name", ["mask", "blur", "ct", "coils"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_nothing_was_measured_of_stays(name: str, dtype: torch.dtype) -> None:
    posterior = posterior_of(name, 6, dtype=dtype)
    estimate, x = corrected(posterior, 5, 0.3, dtype)
    _, values, vectors = torch.linalg.svd(real_matrix(posterior_of(name, 6).measured.whitened[0]))
    null = vectors[int((values > 1e-9 * values[0]).sum()) :]
    delta = x - estimate
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    assert float((delta @ null.T).norm()) <= bound * float(estimate.norm())
    assert float(delta.norm()) > 0.05 * float(estimate.norm())


def ranked(noise: float = 0.2) -> Posterior:
    """Return three numbers measured of eight."""
    space = Space((8,))
    matrix = Keys(1, (0,)).normals((3, 8), "test: matrix", like=LIKE)[0]
    data = torch.tensor([1.5, -0.7, 0.4], dtype=torch.float64)
    likelihood = Likelihood(Matrix(space, Space((3,)), matrix), GaussianNoise(noise), data)
    return Posterior(Gaussian(0.3, 1.2 * Identity(space)), likelihood)


def test_as_many_iterations_as_the_rank_solve_it() -> None:
    posterior = ranked()
    estimate, x = corrected(posterior, 3, 0.7)
    prox = posterior.measured.prox(estimate, 0.7**0.5)
    assert torch.allclose(x, prox, rtol=0, atol=1e-12)
    # Without a hold by D: the nearest of all that meet the data.
    matrix, data = real_matrix(posterior.measured.operator), posterior.measured.data
    met = estimate + (data - estimate @ matrix.T) @ torch.linalg.pinv(matrix).T
    assert torch.allclose(corrected(posterior, 3, 1e7)[1], met, rtol=0, atol=1e-6)
    assert not torch.allclose(corrected(posterior, 2, 0.7)[1], prox, rtol=0, atol=1e-4)


def test_gamma_is_the_spread_left_or_a_multiple_of_the_norm() -> None:
    posterior = posterior_of("coils", 6)
    for row in DDS(6, LEVELS).plan(posterior):
        sigma = row.number("sigma")
        assert row.number("gamma") == pytest.approx(sigma**2 / (1 + sigma**2), rel=1e-6)
    largest = float(torch.linalg.svdvals(real_matrix(posterior.measured.whitened[0]))[0])
    for row in DDS(6, LEVELS, gamma=2.0).plan(posterior):
        assert row.number("gamma") == pytest.approx(2 / largest**2, rel=1e-4)


def test_nothing_measured_leaves_the_prior() -> None:
    space = Space((3,))
    operator = Matrix(space, Space((2,)), torch.zeros(2, 3, dtype=torch.float64))
    likelihood = Likelihood(operator, GaussianNoise(0.1), torch.zeros(2, dtype=torch.float64))
    posterior = Posterior(Gaussian(1.0, Identity(space)), likelihood)
    for gamma in ("posterior", 1.0):
        u = answer(posterior, DDS(60, eta=1.0, gamma=gamma), 400)  # type: ignore[arg-type]
        assert float((u.mean() - 1).abs()) < 4 * (1 / 1200) ** 0.5


def test_the_spread_is_too_small_at_any_number_of_steps() -> None:
    posterior = posterior_of("ct", 6)
    ratios = [errors(posterior, own_law(posterior, DDS(steps)))[1] for steps in (50, 400)]
    assert 0.4 < ratios[0] < ratios[1] < 0.85
    # One gamma at all levels fits the noise: its last is that of a spread never left.
    assert errors(posterior, own_law(posterior, DDS(50, gamma=10.0)))[1] < ratios[0]


def test_a_step_counts_its_evaluation_and_its_products() -> None:
    posterior = posterior_of("ct", 6)
    few, more = (sample(posterior, DDS(n, LEVELS, iterations=5), draws=3).record["ledger"] for n in (7, 17))
    assert (few["network_evaluations"], few["backward_passes"]) == (21, 0)
    assert [more[n] - few[n] for n in ("forwards", "adjoints", "grams")] == [30, 30, 150]


def test_a_draw_does_not_know_its_neighbours() -> None:
    posterior = posterior_of("coils", 6)
    z = KEYS.normals(posterior.space.shape, "test: z", like=torch.empty(0, dtype=torch.complex128))
    z = z * torch.tensor([1.0, 300.0, 1e-3])[:, None, None, None]
    solver = DDS(9, LEVELS)
    row = solver.plan(posterior).row(4)
    together, _ = solver.moved(posterior, z, row, KEYS)
    for i in range(3):
        alone, _ = solver.moved(posterior, z[i : i + 1], row, Keys(3, (i,)))
        assert torch.allclose(alone, together[i : i + 1], rtol=1e-9, atol=1e-9)


def test_single_precision_survives_a_high_signal_to_noise() -> None:
    runs = []
    for dtype in (torch.float64, torch.float32):
        likelihood = posterior_of("coils", 6, sigma=1e-4 * 0.005).physical_likelihood
        assert likelihood is not None
        kind = torch.complex128 if dtype == torch.float64 else torch.complex64
        cast = Likelihood(likelihood.operator, likelihood.noise, likelihood.data.to(kind))
        u = answer(Posterior(posterior_of("coils", 6).prior, cast), DDS(30), 4)
        runs.append(u.to(torch.complex128))
    assert float((runs[0] - runs[1]).abs().max()) < 1e-3


def test_multi_coil_images_are_found() -> None:
    """At defaults: within the prior, and nearer to the posterior mean than its spread."""
    posterior = posterior_of("coils")
    u = answer(posterior, DDS(), 40)
    truth = dense_answer(posterior)
    off = (reals(u).mean(0) - truth.mean).norm() / truth.covariance.trace().sqrt()
    assert u.is_complex()
    assert float(off) < 0.6


def test_nonlinear_operators_and_other_noise_are_refused() -> None:
    space = Space((3,))
    prior, data = Gaussian(1.0, Identity(space)), torch.ones(3, dtype=torch.float64)
    for likelihood in (
        Likelihood(PhaseRetrieval(Identity(space)), GaussianNoise(0.1), data),
        Likelihood(Identity(space), PoissonTransmission(100.0), data),
    ):
        with pytest.raises(CapabilityError, match="`likelihood` must be linear with Gaussian noise"):
            sample(Posterior(prior, likelihood), DDS(5), draws=1)


def test_a_prior_without_a_spread_needs_a_gamma_and_levels() -> None:
    posterior = ranked()
    unknown = Posterior(PoisonedDenoiser(posterior.prior, 10**9), posterior.physical_likelihood)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`gamma` must be a number for a PoisonedDenoiser without a data_sd"):
        sample(unknown, DDS(5, LEVELS), draws=1)
    assert bool(torch.isfinite(answer(unknown, DDS(5, LEVELS, gamma=1.0), 2)).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eta": -0.1}, "`eta` must be"),
        ({"eta": 1.1}, "`eta` must be between 0 and 1, got 1.1"),
        ({"iterations": 0}, "`iterations` must be"),
        ({"gamma": 0.0}, "`gamma` must be"),
        ({"gamma": "paper"}, "`gamma` must be 'posterior' or a number > 0, got 'paper'"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DDS(), **arguments)  # type: ignore[arg-type]
