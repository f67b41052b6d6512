"""PiGDM against the laws of its own chains and the posteriors that it goes to, its counts and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from operators.diagonal import Diagonal
from operators.errors import ConvergenceWarning
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
from workbench.priors.gaussian import DenseGaussian, Gaussian
from workbench.random import Keys
from workbench.solvers.guidance.pigdm import PiGDM, shifted

LEVELS = Karras(20.0, 0.05)
LIKE = torch.empty(0, dtype=torch.float64)
KEYS = Keys(3, (0, 1, 2))


class TestPiGDM(SolverContract):
    covers = (PiGDM,)

    def make(self) -> PiGDM:
        return PiGDM(3, Karras(5.0, 0.1), tolerance=1e-4)

    def posterior(self, dtype: torch.dtype = torch.float64, **options: object) -> Posterior:
        return posterior_of("ct", 6, dtype=dtype, **options)  # type: ignore[arg-type]


class TestPiGDMWithTheExactCovariance(SolverContract):
    covers = (PiGDM,)

    def make(self) -> PiGDM:
        return PiGDM(3, LEVELS, covariance="exact")

    def posterior(self, dtype: torch.dtype = torch.float64, **options: object) -> Posterior:
        return posterior_of("mask", 6, dtype=dtype, **options)  # type: ignore[arg-type]


def answer(posterior: Posterior, solver: PiGDM, draws: int, seed: int = 4) -> Tensor:
    return posterior.from_physical(sample(posterior, solver, draws=draws, seed=seed).tensor())


def step_of(solver: PiGDM) -> Callable[[Level], Step]:
    def step(at: Level) -> Step:
        jacobian = at.shrink if solver.jacobian == "exact" else at.left / at.sigma**2 * at.eye
        covariance = at.sigma**2 * jacobian if solver.covariance == "exact" else at.left * at.eye
        b = at.matrix
        inner = b @ covariance @ b.T + torch.eye(len(b), dtype=torch.float64)
        gain = jacobian.T @ b.T @ torch.linalg.inv(inner)
        keep, weight = (at.after / at.sigma) ** 2, at.sigma**2 - at.after**2
        fresh = at.after * (1 - keep) ** 0.5
        if solver.form == "paper":
            keep, weight, fresh = 0.96**0.5 * at.after / at.sigma, at.left, 0.2 * at.after
        elif solver.covariance == "isotropic" and solver.jacobian == "exact":
            weight = min(weight, at.left)
        m = at.shrink + keep * (at.eye - at.shrink) - weight * gain @ b @ at.shrink
        return m, (1 - keep) * at.rest + weight * gain @ (at.data - b @ at.rest), fresh

    return step


def own_law(posterior: Posterior, solver: PiGDM) -> Dense:
    return law_of(posterior, solver, step_of(solver))


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("mask", PiGDM(15, LEVELS)),
        ("mask", PiGDM(15, LEVELS, jacobian="detached")),
        ("mask", PiGDM(15, LEVELS, form="paper")),
        ("ct", PiGDM(5, LEVELS, covariance="exact")),
        ("coils", PiGDM(8, LEVELS)),
        ("coils", PiGDM(8, LEVELS, covariance="exact", form="paper")),
    ],
    ids=repr,
)
def test_draws_follow_the_law_of_the_chain(name: str, solver: PiGDM) -> None:
    posterior = posterior_of(name, 6)
    law = own_law(posterior, solver)
    require_standard_normal(law.whitened(answer(posterior, solver, 500)))
    # A law like the posterior would not show that the chain is the one of its equations.
    mean, ratio = errors(posterior, law)
    assert mean > 0.1 or ratio < 0.9


def hermitian() -> Posterior:
    """Return a complex problem whose prior and operator are complex matrices without structure."""
    space, values = Space((4,), True), Space((3,), True)
    like = torch.empty(0, dtype=torch.complex128)
    mixing, matrix = (Keys(s, (0,)).normals((n, 4), "test", like=like)[0] for s, n in ((1, 4), (2, 3)))
    prior = DenseGaussian(space, 0.5 - 0.2j, mixing @ mixing.mH)
    operator = Matrix(space, values, matrix)
    data = operator(prior.draw(Keys(4, (0,)), like=like))[0]
    return Posterior(prior, Likelihood(operator, GaussianNoise(0.5), data))


@pytest.mark.parametrize("name", ["mask", "ct", "coils", "hermitian"])
@pytest.mark.parametrize("sigma", [20.0, 0.5])
def test_the_exact_covariance_gives_the_mean_of_x_given_z_and_data(name: str, sigma: float) -> None:
    """Of a Gaussian prior: precision S^-1 + B^H B + 1 / sigma^2."""
    posterior = hermitian() if name == "hermitian" else posterior_of(name, 6)
    like = torch.empty(0, dtype=torch.complex128 if posterior.space.is_complex else torch.float64)
    z = sigma * KEYS.normals(posterior.space.shape, "test: z", like=like)
    row = PlanRow(0, {"sigma": sigma, "next_sigma": 0.0, "r": 1.0, "pull": sigma**2})
    solver = PiGDM(covariance="exact", tolerance=1e-9, iterations=200)
    moved, info = solver.moved(posterior, z, row, KEYS)
    truth = dense_answer(posterior)
    precision = torch.linalg.inv(truth.covariance)
    gain = torch.linalg.inv(precision + torch.eye(len(precision), dtype=torch.float64) / sigma**2)
    mean = (precision @ truth.mean + reals(z) / sigma**2) @ gain
    assert float((reals(moved) - mean).abs().max()) < 1e-7
    assert float(info.values["accuracy"].max()) <= 1e-9


def test_the_residual_bounds_the_error_in_standard_deviations() -> None:
    posterior, sigma = posterior_of("ct", 6), 1.5
    z = sigma * KEYS.normals(posterior.space.shape, "test: z", like=LIKE)
    row = PlanRow(0, {"sigma": sigma, "next_sigma": 0.0, "r": 1.0, "pull": sigma**2})
    truth = dense_answer(posterior)
    precision = torch.linalg.inv(truth.covariance) + torch.eye(36, dtype=torch.float64) / sigma**2
    best, _ = PiGDM(covariance="exact", tolerance=1e-9).moved(posterior, z, row, KEYS)
    seen = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        moved, _ = PiGDM(covariance="exact", tolerance=tolerance).moved(posterior, z, row, KEYS)
        off = reals(moved - best)
        seen.append(float(((off @ precision * off).sum(1) / 36).sqrt().max()))
        assert 0 < seen[-1] <= tolerance
    assert seen[0] > 3 * seen[2]


def white(sd: float = 1.0, mean: float = 0.3) -> Posterior:
    """Return three numbers measured of an isotropic Gaussian in eight dimensions, mixed."""
    space = Space((8,))
    turn, _ = torch.linalg.qr(Keys(1, (0,)).normals((8, 8), "test: turn", like=LIKE)[0])
    matrix = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)[:, None] * turn[:3] / sd
    operator = Matrix(space, Space((3,)), matrix)
    data = torch.tensor([1.5, -0.7, 0.4], dtype=torch.float64)
    return Posterior(Gaussian(mean, sd * Identity(space)), Likelihood(operator, GaussianNoise(0.2), data))


def test_more_steps_go_to_the_posterior_of_an_isotropic_prior() -> None:
    posterior, draws = white(5.0), 1500
    truth = dense_answer(posterior)
    total = float(truth.covariance.trace())
    gaps = []
    for steps in (25, 100):
        u = answer(posterior, PiGDM(steps), draws)
        off = float((u.mean(0) - truth.mean).norm()) / total**0.5
        # The start at 100 spreads and the bound on w leave some hundredths at few steps.
        assert off < 0.02 + 4 / draws**0.5
        gaps.append(1 - float(u.var(0).sum()) / total)
        law = own_law(posterior, PiGDM(steps))
        assert abs(1 - gaps[-1] - errors(posterior, law)[1]) < 5 * (2 / (8 * draws)) ** 0.5
    assert gaps[0] > 0.2
    assert gaps[0] > 2.5 * gaps[1]
    law = own_law(posterior, PiGDM(1500))
    assert float((law.covariance - truth.covariance).norm() / truth.covariance.norm()) < 0.01
    assert errors(posterior, law)[0] < 0.002


def test_with_the_exact_covariance_more_steps_go_to_the_posterior_of_any_gaussian() -> None:
    posterior = posterior_of("ct", 6)
    ratios = []
    for steps in (25, 75, 225):
        mean, ratio = errors(posterior, own_law(posterior, PiGDM(steps, covariance="exact")))
        # What is left is the start, which neglects x / sigma_0.
        assert mean < 1e-3
        ratios.append(ratio)
    assert ratios[0] < 0.75
    assert 1 - ratios[0] > 2 * (1 - ratios[1]) > 4 * (1 - ratios[2])


def test_the_isotropic_covariance_trusts_data_too_much_where_the_prior_is_wide() -> None:
    space = Space((8,))
    sd = torch.tensor([2.5, 0.8, 0.6, 0.4, 0.3, 0.2, 0.2, 0.2], dtype=torch.float64)
    data = torch.linspace(-1, 1, 8, dtype=torch.float64)
    posterior = Posterior(
        Gaussian(0.0, Diagonal(space, sd)), Likelihood(Identity(space), GaussianNoise(0.5), data)
    )
    truth = dense_answer(posterior)
    isotropic, exact = (own_law(posterior, PiGDM(800, covariance=c)) for c in ("isotropic", "exact"))
    variances = isotropic.covariance.diagonal() / truth.covariance.diagonal()
    assert float(variances[0]) < 0.9 < 0.97 < float(exact.covariance.trace() / truth.covariance.trace())
    # Towards the data in the widest direction, away from them in the narrowest.
    pull = (isotropic.mean / truth.mean)[[0, -1]]
    assert float(pull[0]) > 1.01
    assert float(pull[1]) < 0.99


@pytest.mark.parametrize("steps", [20, 100])
def test_directions_far_wider_than_the_spread_do_not_overshoot(steps: int) -> None:
    """Without the bound on w the first coordinate, of 30 spreads, grows without end."""
    space = Space((1000,))
    sd = torch.full((1000,), 0.1, dtype=torch.float64)
    sd[0] = 100.0
    data = torch.full((1000,), 50.0, dtype=torch.float64)
    posterior = Posterior(
        Gaussian(50.0, Diagonal(space, sd)), Likelihood(Identity(space), GaussianNoise(1.0), data)
    )
    u = answer(posterior, PiGDM(steps), 40)
    assert float((u[:, 0] - 50).abs().max()) < 4
    assert float((u[:, 1:] - 50).abs().max()) < 0.6


def test_detached_is_exact_where_the_prior_is_isotropic() -> None:
    """Up to the bound on w, which makes sigma^2 of the last row r^2."""
    posterior = white()
    solver = PiGDM(60, Karras(0.8, 0.02))
    one, other = (answer(posterior, replace(solver, jacobian=kind), 20) for kind in ("exact", "detached"))
    row = solver.plan(posterior).row(0)
    assert row.number("pull") == row.number("sigma") ** 2 - row.number("next_sigma") ** 2
    assert torch.allclose(one, other, rtol=0, atol=1e-3)


def test_a_given_spread_takes_the_place_of_the_priors_own() -> None:
    posterior = white(2.0)
    one, other, same = (answer(posterior, PiGDM(10, LEVELS, spread=s), 4) for s in (None, 3.0, 2.0))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, rtol=1e-3)
    row = PiGDM(10, LEVELS, spread=3.0).plan(posterior).row(2)
    assert row.number("r") == pytest.approx((1 / (1 / 9 + 1 / row.number("sigma") ** 2)) ** 0.5)
    unknown = Posterior(PoisonedDenoiser(posterior.prior, 10**9), posterior.physical_likelihood)  # type: ignore[arg-type]
    assert torch.equal(answer(unknown, PiGDM(10, LEVELS, spread=2.0), 4), one)
    with pytest.raises(ValueError, match="`spread` must be given for a PoisonedDenoiser without a data_sd"):
        sample(unknown, PiGDM(10, LEVELS), draws=1)


@pytest.mark.parametrize("covariance", ["isotropic", "exact"])
def test_single_precision_survives_a_high_signal_to_noise(covariance: str) -> None:
    """At 1e4: r^2 is divided by what rounding leaves of prox(D, r) - D."""
    runs = []
    for dtype in (torch.float64, torch.float32):
        posterior = posterior_of("mask", 6, dtype=torch.float64, sigma=1e-4 * 0.005)
        likelihood = posterior.physical_likelihood
        assert likelihood is not None
        cast = Likelihood(likelihood.operator, likelihood.noise, likelihood.data.to(dtype))
        solver = PiGDM(40, covariance=covariance)  # type: ignore[arg-type]
        runs.append(answer(Posterior(posterior.prior, cast), solver, 4).double())
    assert float((runs[0] - runs[1]).abs().max()) < 1e-4
    kept = real_matrix(posterior.measured.operator).abs().sum(0) > 0
    truth = dense_answer(posterior).mean
    assert float((reals(runs[1]) - truth)[:, kept].abs().max()) < 1e-3


def test_a_draw_does_not_know_its_neighbours() -> None:
    posterior = posterior_of("coils", 6)
    z = KEYS.normals(posterior.space.shape, "test: z", like=torch.empty(0, dtype=torch.complex128))
    z = z * torch.tensor([1.0, 300.0, 1e-3])[:, None, None, None]
    for solver in (PiGDM(9, LEVELS), PiGDM(9, LEVELS, covariance="exact")):
        row = solver.plan(posterior).row(4)
        together, _ = solver.moved(posterior, z, row, KEYS)
        for i in range(3):
            alone, _ = solver.moved(posterior, z[i : i + 1], row, Keys(3, (i,)))
            assert torch.allclose(alone, together[i : i + 1], rtol=1e-9, atol=1e-9)


def test_a_step_is_one_evaluation_one_backward_pass_one_a_and_one_adjoint() -> None:
    posterior = posterior_of("mask", 6)
    for solver, backward in ((PiGDM(7, LEVELS), 21), (PiGDM(7, LEVELS, jacobian="detached"), 0)):
        ledger = sample(posterior, solver, draws=3).record["ledger"]
        assert (ledger["network_evaluations"], ledger["backward_passes"]) == (21, backward)
        assert ledger["forwards"] == ledger["adjoints"] == ledger["solves"] == 21


def test_an_iteration_with_the_exact_covariance_is_a_backward_pass() -> None:
    posterior = posterior_of("ct", 6)
    solver = PiGDM(7, LEVELS, covariance="exact", iterations=3, tolerance=1e-12)
    with pytest.warns(ConvergenceWarning, match="PiGDM's solve stopped .*3 iterations allowed") as caught:
        ledger = sample(posterior, solver, draws=3).record["ledger"]
    # Once per run, not once per level.
    assert len(caught) == 1
    assert ledger["network_evaluations"] == ledger["forwards"] == ledger["adjoints"] == 21
    assert (ledger["backward_passes"], ledger["grams"]) == (4 * 21, 3 * 21)


def test_a_covariance_that_is_none_stops_the_solve_and_is_told() -> None:
    side = KEYS.normals((5,), "test: side", like=LIKE)
    signs = torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
    for covariance in (lambda u: signs * u, torch.neg):
        shift, _, short = shifted(lambda v: 0.5 * v, covariance, side, 1e-6, 50)
        assert bool(torch.isfinite(shift).all())
        assert bool(short.any())
    with pytest.raises(FloatingPointError, match="met a NaN or an infinity"):
        shifted(lambda v: v * torch.nan, torch.clone, side, 1e-6, 50)


def test_a_prox_of_limited_iterations_warns() -> None:
    with pytest.warns(ConvergenceWarning, match="the prox stopped"):
        sample(posterior_of("ct", 6), PiGDM(3, LEVELS, iterations=1), draws=1)
    sample(posterior_of("ct", 6), PiGDM(3, LEVELS, iterations=1, tolerance=100.0), draws=1)


def test_nonlinear_operators_and_other_noise_are_refused() -> None:
    space = Space((3,))
    prior = Gaussian(1.0, Identity(space))
    data = torch.ones(3, dtype=torch.float64)
    for likelihood in (
        Likelihood(PhaseRetrieval(Identity(space)), GaussianNoise(0.1), data),
        Likelihood(Identity(space), PoissonTransmission(100.0), data),
    ):
        with pytest.raises(CapabilityError, match="`likelihood` must be linear with Gaussian noise"):
            sample(Posterior(prior, likelihood), PiGDM(5), draws=1)


def test_a_prior_without_a_derivative_is_refused_unless_detached() -> None:
    posterior = white()
    posterior.prior.differentiable = False
    with pytest.raises(TypeError, match="`prior` must be differentiable.*jacobian='detached'"):
        sample(posterior, PiGDM(5), draws=1)
    sample(posterior, PiGDM(5, jacobian="detached"), draws=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"covariance": "full"}, "`covariance` must be one of 'isotropic', 'exact'"),
        ({"jacobian": "none"}, "`jacobian` must be one of"),
        ({"form": "ddim"}, "`form` must be one of 'bayes', 'paper'"),
        ({"spread": 0.0}, "`spread` must be"),
        ({"iterations": 0}, "`iterations` must be"),
        ({"tolerance": -1.0}, "`tolerance` must be"),
        (
            {"covariance": "exact", "jacobian": "detached"},
            "`jacobian` must be 'exact' for covariance='exact'",
        ),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        replace(PiGDM(), **arguments)  # type: ignore[arg-type]
