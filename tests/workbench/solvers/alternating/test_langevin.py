"""The inner chain against its own law, a chain written out again, densities on grids; where it diverges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from operators.identity import Identity
from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from pipelines.verify.referee.problem import problem
from tests.problems import Dense, posterior_of, real_matrix, reals, require_standard_normal
from workbench.driver import sample
from workbench.engine.counting import counted
from workbench.engine.guards import DivergedError
from workbench.integration import Karras
from workbench.ledger import Ledger
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.langevin import SAFETY, Langevin, draw_calls, draw_near
from workbench.solvers.alternating.pnp_dm import PnPDM
from workbench.solvers.base import Solver
from workbench.solvers.pull import curvature_norm

LIKE = torch.empty(0, dtype=torch.float64)


def keys_of(count: int, seed: int = 5) -> Keys:
    return Keys(seed, tuple(range(count)))


def one_number(scale: float, data: float, noise: float) -> Posterior:
    """Return y = scale u + noise for one real u."""
    space = Space((1,))
    operator = Matrix(space, space, torch.tensor([[scale]], dtype=torch.float64))
    likelihood = Likelihood(operator, GaussianNoise(noise), torch.tensor([data], dtype=torch.float64))
    return Posterior(Gaussian(0.0, Identity(space)), likelihood)


def chain_law(posterior: Posterior, inner: Langevin, c: Tensor, r: float) -> Dense:
    """Return mean and covariance of the last x of a linear-Gaussian chain begun at c."""
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    eye = torch.eye(matrix.shape[1], dtype=torch.float64)
    precision = matrix.T @ matrix + eye / r**2
    length = inner.fraction / (1 / r**2 + float(torch.linalg.matrix_norm(matrix, 2)) ** 2)
    mean, covariance = reals(c[None])[0], torch.zeros_like(eye)
    force = matrix.T @ data + mean / r**2
    step = eye - length * precision
    for _ in range(inner.steps):
        mean, covariance = step @ mean + length * force, step @ covariance @ step.T + 2 * length * eye
    return Dense(mean, (covariance + covariance.T) / 2)


@pytest.mark.parametrize("name", ["mask", "ct", "coils"])
@pytest.mark.parametrize("inner", [Langevin(12), Langevin(40, 0.7)], ids=repr)
def test_draws_follow_the_law_of_the_chain(name: str, inner: Langevin) -> None:
    posterior, keys = posterior_of(name, 6), keys_of(500)
    c = posterior.prior.draw(Keys(1, (0,)), like=posterior.like())
    x = inner.draw(posterior, c.expand(500, *c.shape[1:]), 0.8, keys, "test")
    law = chain_law(posterior, inner, c[0], 0.8)
    # Norms that are found by iteration are good to 1e-6.
    require_standard_normal(law.whitened(x))


@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_the_variance_comes_to_that_of_steps_of_finite_length(fraction: float) -> None:
    posterior, r, draws = one_number(2.0, 1.5, 0.5), 0.7, 20000
    x = Langevin(60, fraction).draw(posterior, torch.zeros(draws, 1).double(), r, keys_of(draws), "test")
    precision = 2.0**2 / 0.5**2 + 1 / r**2
    variance = 1 / (precision * (1 - fraction / 2))
    assert abs(float(x.var()) / variance - 1) < 5 * (2 / draws) ** 0.5
    mean = 2.0 * 1.5 / 0.5**2 / precision
    assert abs(float(x.mean()) - mean) < 5 * (variance / draws) ** 0.5


def test_no_inner_chain_is_the_exact_draw_where_there_is_one() -> None:
    posterior, keys = posterior_of("mask", 6), keys_of(3)
    c = keys.normals(posterior.space.shape, "test: c", like=LIKE)
    exact = posterior.measured.prox_draw(c, 0.5, keys, "test", tolerance=1e-6)
    assert torch.equal(draw_near(posterior, c, 0.5, keys, "test", tolerance=1e-6), exact)
    chained = draw_near(posterior, c, 0.5, keys, "test", inner=Langevin(3))
    assert torch.equal(chained, Langevin(3).draw(posterior, c, 0.5, keys, "test"))
    other = phase()
    c = keys.normals((3,), "test: c", like=LIKE)
    assert torch.equal(draw_near(other, c, 0.5, keys, "test"), Langevin().draw(other, c, 0.5, keys, "test"))


ROWS = Keys(3, (0,)).normals((6, 3), "test: phase", like=LIKE)[0]


def phase(noise: float = 0.2) -> Posterior:
    space = Space((3,))
    operator = PhaseRetrieval(Matrix(space, Space((6,)), ROWS))
    data = operator(torch.tensor([1.0, 0.6, 1.4], dtype=torch.float64))
    return Posterior(Gaussian(1.0, 0.5 * Identity(space)), Likelihood(operator, GaussianNoise(noise), data))


@pytest.mark.parametrize(("middle", "fraction"), [(1.0, 0.3), (0.0, 0.03)])
def test_a_chain_of_intensities_once_more_by_hand(middle: float, fraction: float) -> None:
    """J = 2 diag(M x) M, H = 1 / sigma^2, each draw by itself: v turned 10 times, then once or not at all.

    From the middle between two signs, where little is curved, L goes on rising after ten steps.
    """
    posterior, count, steps, r, noise = phase(), 4, 45, 0.6, 0.2
    keys = keys_of(count)
    c = middle + 0.5 * keys.normals((3,), "test: c", like=LIKE)
    data = posterior.measured.data
    found = Langevin(steps, fraction).draw(posterior, c, r, keys, "test")
    way, risen = keys.normals((3,), "test: curvature", like=LIKE), False
    noises = [keys.normals((3,), f"test {k}", like=LIKE) for k in range(steps)]
    for i in range(count):
        x, v, stiff = c[i], way[i], curvature_norm(posterior) ** 2
        for k in range(steps):
            jacobian = 2 * (ROWS @ x)[:, None] * ROWS
            turns = 10 if k == 0 else int(k < 10 or k in (10, 20, 30, 40))
            for _ in range(turns):
                v = jacobian.T @ jacobian @ v / v.norm() / noise**2
            if turns > 0 and SAFETY * float(v.norm()) > stiff:
                stiff, risen = SAFETY * float(v.norm()), risen or k > 10
            h = fraction / (1 / r**2 + stiff)
            slope = jacobian.T @ (data - (ROWS @ x).square()) / noise**2
            x = x + h * (slope - (x - c[i]) / r**2) + (2 * h) ** 0.5 * noises[k][i]
        assert torch.allclose(found[i], x, rtol=1e-9, atol=1e-9)
    assert risen or middle == 1


@pytest.mark.parametrize(("c", "r"), [((1.2, -0.6), 0.3), ((-0.9, 0.9), 0.1), ((0.0, 0.0), 0.3)])
def test_two_unknowns_seen_without_their_sign_follow_a_density_on_a_grid(
    c: tuple[float, float], r: float
) -> None:
    posterior, count = problem("phase2").posterior, 3000
    centre = torch.tensor(c, dtype=torch.float64)
    axis = (torch.arange(600, dtype=torch.float64) + 0.5) / 100 - 3
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    log_density = posterior.measured.log_likelihood(points.reshape(-1, 1, 1, 2))
    chances = torch.softmax(log_density - (points - centre).square().sum(1) / (2 * r * r), 0)
    mean = chances @ points
    covariance = (points - mean).T @ (chances[:, None] * (points - mean))
    start = centre.reshape(1, 1, 1, 2).expand(count, 1, 1, 2)
    x = Langevin(300).draw(posterior, start, r, keys_of(count), "test").flatten(1)
    # A tenth of a standard deviation is what chance makes of some hundred draws.
    assert float((x.mean(0) - mean).norm() / covariance.trace().sqrt()) < 0.07
    assert float((x.T.cov() - covariance).norm() / covariance.norm()) < 0.12


def test_counts_follow_their_density() -> None:
    """N ~ Poisson(100 exp(-x)) for each of four x by itself."""
    space, r, count = Space((4,)), 0.3, 4000
    data = torch.tensor([60.0, 40.0, 90.0, 5.0], dtype=torch.float64)
    likelihood = Likelihood(Identity(space), PoissonTransmission(100.0), data)
    posterior = Posterior(Gaussian(0.5, 0.3 * Identity(space)), likelihood)
    c = torch.full((count, 4), 0.5, dtype=torch.float64)
    x = Langevin(200).draw(posterior, c, r, keys_of(count), "test")
    axis = torch.linspace(-2, 4, 3001, dtype=torch.float64)[:, None]
    chances = torch.softmax(-100 * torch.exp(-axis) - data * axis - (axis - 0.5) ** 2 / (2 * r * r), 0)
    mean = (chances * axis).sum(0)
    variance = (chances * (axis - mean) ** 2).sum(0)
    assert float(((x.mean(0) - mean) / variance.sqrt()).abs().max()) < 0.1
    # 5 % for the length of the steps, and chance.
    assert float((x.var(0) / variance - 1.03).abs().max()) < 0.03 + 5 * (2 / count) ** 0.5


@pytest.mark.parametrize("c", [0.0, 1e-12])
def test_a_chain_that_begins_where_nothing_is_curved_leaves(c: float) -> None:
    posterior = phase()
    start = torch.full((40, 3), c, dtype=torch.float64)
    before = float(posterior.measured.log_likelihood(start[:1]))
    for r in (100.0, 1.0):
        x = Langevin().draw(posterior, start, r, keys_of(40), "test")
        after = posterior.measured.log_likelihood(x)
        assert float(after.min()) > 0.2 * before
        assert float(after.median()) > 0.05 * before


@pytest.mark.parametrize("name", ["phase", "coils"])
def test_a_draw_does_not_know_its_neighbours(name: str) -> None:
    posterior = phase() if name == "phase" else posterior_of(name, 6)
    keys = keys_of(3)
    c = keys.normals(posterior.space.shape, "test: c", like=posterior.like())
    c = c * torch.tensor([1.0, 6.0, 1e-3]).reshape(-1, *[1] * (c.ndim - 1))
    together = Langevin(30).draw(posterior, c, 0.5, keys, "test")
    for i in range(3):
        alone = Langevin(30).draw(posterior, c[i : i + 1], 0.5, Keys(5, (i,)), "test")
        assert torch.allclose(alone, together[i : i + 1], rtol=1e-9, atol=1e-9)


def test_single_precision_is_near() -> None:
    runs = []
    for dtype in (torch.float64, torch.float32):
        likelihood = phase().physical_likelihood
        assert likelihood is not None
        cast = Likelihood(likelihood.operator, likelihood.noise, likelihood.data.to(dtype))
        c = torch.ones(5, 3, dtype=dtype)
        runs.append(Langevin(50).draw(Posterior(phase().prior, cast), c, 0.5, keys_of(5), "test").double())
    assert runs[1].dtype == torch.float64
    assert float((runs[0] - runs[1]).abs().max()) < 1e-3


def test_calls_are_what_is_declared() -> None:
    for posterior, inner in (
        (posterior_of("mask", 6), None),
        (posterior_of("mask", 6), Langevin(7)),
        (phase(), None),
        (phase(), Langevin(7)),
        (phase(), Langevin(23)),
    ):
        ledger = Ledger()
        inside = counted(posterior, ledger)
        curvature_norm(inside)
        before = ledger.operator_calls
        c = torch.ones(3, *posterior.space.shape, dtype=torch.float64)
        draw_near(inside, c, 0.5, keys_of(3), "test", inner=inner)
        assert ledger.operator_calls - before == 3 * draw_calls(inside, inner)


def test_steps_that_are_too_long_end_the_run_and_say_where() -> None:
    linear = posterior_of("mask", 6)
    with pytest.raises(FloatingPointError, match=r"left its target at step \d+ of 100, of length .*r = 0.5"):
        c = torch.zeros(2, *linear.space.shape, dtype=torch.float64)
        Langevin(100, 4.0).draw(linear, c, 0.5, keys_of(2), "test")
    levels = Karras(2.0, 0.2)
    runs: tuple[tuple[Posterior, Solver[object], str], ...] = (
        (
            linear,
            DAPS(3, levels, ode_steps=2, inner=Langevin(fraction=5.0)),
            r"step 2 of 6, sigma = .*, r = 2",
        ),
        (
            phase(),
            DAPS(3, levels, ode_steps=1, inner=Langevin(fraction=60.0)),
            r"step 1 of 3, sigma = 2, r = 2",
        ),
        (linear, PnPDM(3, 4, 2.0, 0.2, inner=Langevin(fraction=5.0)), r"step 1 of 12, sigma = 2, rho = 2"),
    )
    for posterior, solver, place in runs:
        words = (
            place + r".*Lower the fraction.*Langevin\(fraction=.*\(the inner chain left its target at step "
        )
        with pytest.raises(DivergedError, match=words):
            sample(posterior, solver, draws=2)


def test_a_likelihood_that_gives_no_numbers_is_placed() -> None:
    class Broken(Identity):
        def _apply(self, x: Tensor) -> Tensor:
            return torch.where(x.abs() > 0.5, torch.nan, x)

    space = Space((2,))
    likelihood = Likelihood(Broken(space), GaussianNoise(0.1), torch.zeros(2, dtype=torch.float64))
    posterior = Posterior(Gaussian(0.0, Identity(space)), likelihood)
    with pytest.raises(FloatingPointError, match="left its target at step"):
        Langevin().draw(posterior, torch.ones(1, 2).double(), 0.5, keys_of(1), "test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be an integer >= 1"),
        ({"fraction": 0.0}, "`fraction` must be a finite number > 0"),
        ({"fraction": torch.nan}, "`fraction` must be a finite number > 0"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Langevin(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", [DAPS, PnPDM])
def test_what_is_no_inner_chain_is_refused(solver: type[DAPS] | type[PnPDM]) -> None:
    with pytest.raises(TypeError, match="`inner` must be a Langevin or None, got 100. Such as Langevin"):
        solver(inner=100)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`tolerance` must be a finite number > 0"):
        solver(tolerance=0.0)


def test_a_prior_of_unknown_spread_does_without_a_curvature_of_its_own() -> None:
    class Unknown(Gaussian):
        data_sd = None  # type: ignore[assignment]

    plain = phase()
    prior = Unknown(1.0, 0.5 * Identity(plain.space))
    posterior = Posterior(prior, plain.physical_likelihood)
    c = torch.ones(500, 3, dtype=torch.float64)
    one, other = (Langevin(200).draw(p, c, 0.3, keys_of(500), "test") for p in (plain, posterior))
    assert float(((one.mean(0) - other.mean(0)) / one.std(0)).abs().max()) < 0.3
