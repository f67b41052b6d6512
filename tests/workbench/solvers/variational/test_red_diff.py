"""RED-Diff against the linear system it should come to rest at, and against its loss by autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.truth import MixtureTruth
from tests.problems import Dense, dense_answer, posterior_of, real_matrix, reals
from tests.solver_contract import PoisonedDenoiser, SolverContract, close
from tests.workbench.solvers.guidance.test_diffpir import counts, phase
from workbench.driver import sample
from workbench.engine.guards import DivergedError
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.noise.poisson import LogTransmission
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.flat import Flat
from workbench.priors.gaussian import DenseGaussian, Gaussian
from workbench.random import Keys
from workbench.solvers.variational.first_order import Adam, GradientDescent
from workbench.solvers.variational.red_diff import REDDiff, REDDiffState, mean_square
from workbench.units import Units

LEVELS = Karras(20.0, 0.01)
LIKE = torch.empty(0, dtype=torch.float64)
KEYS = Keys(3, (0, 1, 2))
F: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "sqrt": lambda x: x**0.5,
    "square": lambda x: x**2,
    "log": lambda x: math.log(1 + x),
    "min": lambda x: min(x, 1),
    "two thirds": lambda x: math.exp(2 / 3 * math.log(x)),
    "constant": lambda x: 1,
}
SETTLED = REDDiff(1000, LEVELS, weighting="linear", order="random", optimiser=GradientDescent())


class TestREDDiff(SolverContract):
    covers = (REDDiff,)

    def make(self) -> REDDiff:
        return REDDiff(6, Karras(2.0, 0.2), order="random", optimiser=Adam(0.1, 1.0, 0.5))


class Watched(Denoiser):
    """The same prior, which keeps the levels it was asked for and refuses to be part of a graph."""

    calibrated_score = True

    def __init__(self, prior: Denoiser) -> None:
        super().__init__(prior.space, prior.units)
        self.prior, self._memo_levels = prior, list[Tensor]()

    @property
    def data_sd(self) -> float | None:
        return self.prior.data_sd

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not z.requires_grad
        self._memo_levels.append(sigma.flatten())
        return self.prior._denoise(z, sigma)


def answer(posterior: Posterior, solver: REDDiff, draws: int) -> Tensor:
    return posterior.from_physical(sample(posterior, solver, draws=draws, seed=4).tensor())


def gaussian(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the prior."""
    assert isinstance(posterior.prior, Gaussian)
    root = real_matrix(posterior.prior.root)
    return reals(posterior.prior.mean[None])[0], root @ root.T


def linear(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Return A and y."""
    assert isinstance(posterior.measured.operator, LinearOperator)
    return real_matrix(posterior.measured.operator), posterior.measured.data


def measured(a: Tensor, y: Tensor, sd: float, *, scale: float = 1.0, mean: float = 0.3) -> Posterior:
    """Return the covariance of P2's prior around a mean, in units `scale` times smaller, seen by a matrix."""
    space, s = problem("P2").posterior.space, gaussian(problem("P2").posterior)[1]
    prior = DenseGaussian(space, torch.full(space.shape, scale * mean, dtype=torch.float64), scale**2 * s)
    return Posterior(prior, Likelihood(Matrix(space, Space((len(a),)), a / scale), GaussianNoise(sd), y))


def levels_of(posterior: Posterior, solver: REDDiff) -> list[float]:
    return [row.number("sigma") for row in solver.plan(posterior)]


def heard(posterior: Posterior, solver: REDDiff, size: int) -> list[float]:
    """Return what multiplies <e - w, m> in L at each level, for `size` real components."""
    f, s, levels = F[solver.heard], posterior.prior.data_sd or 0.0, levels_of(posterior, solver)
    if solver.scaling == "paper":
        return [solver.factor * f(x) / size for x in levels]
    c = sum(f(x / s) * (x / s) / (1 + (x / s) ** 2) for x in levels) / len(levels)
    return [solver.factor * f(x / s) / c / s for x in levels]


def resting_point(posterior: Posterior, solver: REDDiff, sd: float = 0.2) -> Tensor:
    """Return the m of (B^H B + R) m = B^H z + R mu for noise of `sd`."""
    (a, y), (mu, covariance) = linear(posterior), gaussian(posterior)
    x = torch.tensor(levels_of(posterior, solver), dtype=torch.float64)[:, None]
    pulls = torch.tensor(heard(posterior, solver, len(mu)), dtype=torch.float64)[:, None]
    values, basis = torch.linalg.eigh(covariance)
    r = basis * (pulls * x / (values + x * x)).mean(0) @ basis.T
    m: Tensor = torch.linalg.solve(a.T @ a / sd**2 + r, a.T @ y / sd**2 + r @ mu)
    return m


def distance(m: Tensor, truth: Dense) -> float:
    return float((m - truth.mean).norm() / truth.covariance.trace().sqrt())


@pytest.mark.parametrize(
    ("mean", "changes"),
    [(0.0, {}), (0.0, {"weighting": "square"}), (1.0, {"weight": 3.0}), (0.0, {"scaling": "paper"})],
    ids=repr,
)
def test_random_levels_come_to_rest_at_the_linear_system(mean: float, changes: dict[str, object]) -> None:
    posterior = measured(*linear(problem("P2").posterior), 0.2, mean=mean)
    solver = replace(SETTLED, **changes)  # type: ignore[arg-type]
    expected = resting_point(posterior, solver, 3**0.5 if solver.scaling == "paper" else 0.2)
    found = reals(answer(posterior, solver, 256))
    assert float((found.mean(0) - expected).norm() / expected.norm()) < 5e-3
    assert float((found - expected).norm(dim=1).max() / expected.norm()) < 0.1
    # It is not the posterior's mean, which is its mode.
    assert 0.2 < distance(expected, dense_answer(posterior)) < 1.0


@pytest.mark.parametrize("weighting", F)
def test_weight_one_is_right_for_a_white_prior_alone(weighting: str) -> None:
    solver = replace(SETTLED, weighting=weighting)  # type: ignore[arg-type]
    white, coloured = problem("P1").posterior, problem("P2").posterior
    for at in (solver, replace(solver, levels=None)):
        assert distance(resting_point(white, at), dense_answer(white)) < 1e-12
        assert distance(resting_point(coloured, at), dense_answer(coloured)) > 0.1


def loss(posterior: Posterior, solver: REDDiff, m: Tensor, places: Tensor, w: Tensor) -> Tensor:
    """Return L of each draw at levels by their place, whatever the prior says held constant."""
    likelihood, prior = posterior.measured, posterior.prior
    assert isinstance(prior, Denoiser)
    sigma = torch.tensor(levels_of(posterior, solver), dtype=torch.float64)[places]
    wide = sigma.reshape(-1, *[1] * posterior.space.ndim)
    z = m.detach() + wide * w
    products = reals((z - prior.denoise(z, sigma)) / wide - w) * reals(m)
    pulls = torch.tensor(heard(posterior, solver, products.shape[1]), dtype=torch.float64)
    told = pulls[places] * products.sum(1)
    if solver.scaling == "paper":
        return reals(likelihood.data - likelihood.predicted(m)).square().mean(1) / 2 + told
    return told - likelihood.log_likelihood(m)


@pytest.mark.parametrize("weighting", F)
@pytest.mark.parametrize(
    ("name", "scaling"),
    [(name, scaling) for name in ("ct", "coils", "phase") for scaling in ("normalised", "paper")]
    + [("counts", "normalised")],
)
def test_a_step_goes_down_the_gradient_of_the_loss(name: str, scaling: str, weighting: str) -> None:
    posterior = phase(0.2) if name == "phase" else counts() if name == "counts" else posterior_of(name, 6)
    order = "random" if weighting == "sqrt" else "descending"
    solver = REDDiff(7, LEVELS, scaling, None, weighting, order, GradientDescent(0.1))  # type: ignore[arg-type]
    row, keys = solver.plan(posterior).row(3), KEYS.at(4)
    like = torch.empty(0, dtype=posterior.space.dtype_like(LIKE))
    m = 0.3 + 0.5 * KEYS.normals(posterior.space.shape, "test: m", like=like)
    with torch.no_grad():
        state, info = solver.step(posterior, REDDiffState(m, None, None), row, keys)
    assert torch.allclose(info.values["misfit"], -posterior.measured.log_likelihood(m), rtol=1e-9)
    places = torch.full((3,), 3)
    if order == "random":
        places = (keys.uniforms((1,), "red_diff: level", like=LIKE).flatten() * 7).long()
    point, w = m.clone().requires_grad_(), keys.normals(m.shape[1:], "red_diff: noise", like=m)
    (gradient,) = torch.autograd.grad(loss(posterior, solver, point, places, w).sum(), point)
    spread = posterior.prior.data_sd
    assert spread is not None
    assert close(m - state.m, spread**2 * row.number("length") * gradient, 1e-6)


@pytest.mark.parametrize("order", ["random", "descending"])
def test_no_graph_goes_through_the_prior_and_levels_come_in_order(order: str) -> None:
    given = posterior_of("ct", 6) if order == "random" else phase(0.2)
    assert isinstance(given.prior, Denoiser)
    prior = Watched(given.prior)
    # Phases, in other units, are nonlinear by composition, whose derivative is autograd's.
    units = given.units if order == "random" else Units(0.9, 0.1)
    posterior = Posterior(prior, given.physical_likelihood, units=units)
    solver = REDDiff(60, LEVELS, order=order)  # type: ignore[arg-type]
    ledger = sample(posterior, solver, draws=5).record["ledger"]
    assert (ledger["network_evaluations"], ledger["backward_passes"]) == (301, 0)
    assert (ledger["forwards"], ledger["adjoints"]) == (300, 300)
    asked = torch.stack(prior._memo_levels[1:])
    pool = torch.tensor(levels_of(posterior, solver), dtype=torch.float64)
    assert bool((pool.diff() < 0).all())
    if order == "descending":
        assert torch.equal(asked, pool[:, None].expand(60, 5))
        return
    place = (asked.flatten()[:, None] - pool).abs().argmin(1)
    assert torch.equal(pool[place], asked.flatten())
    assert all(len(set(row.tolist())) > 1 for row in asked)
    assert abs(float(place.double().mean()) - 29.5) < 5 * 60 / (12 * 300) ** 0.5


def test_starts_seek_modes_and_their_spread_is_none_of_the_posterior() -> None:
    given = problem("P3")
    assert isinstance(given.truth, MixtureTruth)
    rows = reals(answer(given.posterior, REDDiff(levels=LEVELS), 256))
    nearer = given.truth.mode_chances(rows).argmax(1)
    assert abs(float((nearer == 0).double().mean()) - 0.585) < 0.15
    covariances = given.truth.covariances
    for k in (0, 1):
        around = torch.cov(rows[nearer == k].T).trace() / covariances[k].trace()
        assert 0.01 < float(around) < 0.2
    # All at one point between the modes: no draw of the posterior lies there.
    middle = reals(answer(given.posterior, replace(SETTLED, steps=600), 64))
    n = given.truth.means[0] - given.truth.means[1]
    place = (middle - given.truth.means[1]) @ n / (n @ n)
    assert 0.35 < float(place.min()) < float(place.max()) < 0.65


def test_published_rates_leave_more_error_than_fading_ones() -> None:
    posterior, truth = problem("P1").posterior, dense_answer(problem("P1").posterior)
    faded, steady = (
        float((reals(answer(posterior, solver, 16)) - truth.mean).norm(dim=1).mean())
        for solver in (REDDiff(levels=LEVELS), REDDiff(levels=LEVELS, optimiser=Adam()))
    )
    assert 0.1 * float(truth.covariance.trace().sqrt()) < faded < 0.6 * steady


def test_the_last_steps_are_averaged() -> None:
    posterior = problem("P2").posterior
    solver = REDDiff(5, LEVELS, optimiser=Adam(0.1, averaged=0.4))
    state = solver.init(posterior, KEYS, LIKE)
    path = []
    for row in solver.plan(posterior):
        state, info = solver.step(posterior, state, row, KEYS.at(row.index + 1))
        path.append(state.m)
        assert torch.equal(info.estimate, state.m)  # type: ignore[arg-type]
    assert torch.allclose(solver.answer(posterior, state), (path[3] + path[4]) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", ["data", "prior"])
def test_images_are_found_from_data_without_phase(start: str) -> None:
    """As in the test of DiffPIR: chi-square over its number, at most 1 and five deviations above."""
    posterior = phase(0.05)
    u = answer(posterior, REDDiff(300, start=start), 4)  # type: ignore[arg-type]
    misfit = ((posterior.measured.predicted(u) - posterior.measured.data) / 0.05).square().mean(1)
    assert float(misfit.max()) < 1.9


def test_starts_are_what_they_are_called() -> None:
    posterior = posterior_of("mask", 6)
    assert isinstance(posterior.prior, Denoiser)
    guess = posterior.prior.denoise(torch.zeros(1, 1, 6, 6, dtype=torch.float64), 20.0)
    start, spread = REDDiff(9, LEVELS).init(posterior, KEYS, LIKE).m, posterior.prior.data_sd or 0.0
    assert torch.allclose(start, guess + spread * KEYS.normals((1, 6, 6), "red_diff: start", like=LIKE))
    start = REDDiff(9, LEVELS, start="prior").init(posterior, KEYS, LIKE).m
    assert torch.equal(start, guess.expand(3, 1, 6, 6))
    start = REDDiff(9, LEVELS, start="data").init(posterior, KEYS, LIKE).m
    assert close(start, posterior.measured.prox(guess, spread).expand(3, 1, 6, 6), 1e-2)


def test_the_normalised_weight_is_the_same_for_any_unit_and_number_of_data() -> None:
    a, y = linear(problem("P2").posterior)
    for solver in (REDDiff(12), REDDiff(12, optimiser=GradientDescent(), order="random", weight=0.3)):
        plain = answer(measured(a, y, 0.2), solver, 3)
        assert close(answer(measured(1000 * a, 1000 * y, 200.0), solver, 3), plain, 1e-9)
        twice = measured(torch.cat([a, a]), torch.cat([y, y]), 0.2 * 2**0.5)
        assert close(answer(twice, solver, 3), plain, 1e-9)
        assert close(answer(measured(a, y, 0.2, scale=1000.0), solver, 3), 1000 * plain, 1e-9)


def test_the_paper_weight_is_another_for_any_unit_and_hears_nothing_of_noise() -> None:
    a, y = linear(problem("P2").posterior)
    paper = REDDiff(12, LEVELS, "paper")
    assert (paper.factor, paper.heard, paper.chosen) == (0.25, "linear", Adam(0.1, 0.0, 0.0, (0.9, 0.99)))
    plain = answer(measured(a, y, 0.2), paper, 3)
    assert torch.equal(answer(measured(a, y, 2.0), paper, 3), plain)
    assert not close(answer(measured(1000 * a, 1000 * y, 200.0), paper, 3), plain, 0.1)
    logs = Posterior(counts().prior, replace(counts().measured, noise=LogTransmission(100.0)))
    assert torch.allclose(mean_square(logs).measured.data, -(logs.measured.data / 100).log())


def test_a_draw_does_not_know_its_neighbours() -> None:
    posterior = posterior_of("coils", 6)
    m = KEYS.normals(posterior.space.shape, "test: m", like=torch.empty(0, dtype=torch.complex128))
    m = m * torch.tensor([1.0, 300.0, 1e-3])[:, None, None, None]
    for solver in (REDDiff(9, LEVELS), REDDiff(9, LEVELS, order="random", optimiser=GradientDescent())):
        row, begin = solver.plan(posterior).row(4), solver.chosen.begin
        together, _ = solver.step(posterior, REDDiffState(m, None, begin(m)), row, KEYS)
        for i in range(3):
            one = m[i : i + 1]
            alone, _ = solver.step(posterior, REDDiffState(one, None, begin(one)), row, Keys(3, (i,)))
            assert torch.allclose(alone.m, together.m[i : i + 1], rtol=1e-9, atol=1e-12)


def test_steps_that_are_too_long_end_the_run_with_a_remedy() -> None:
    steep = replace(SETTLED, steps=200, order="descending", optimiser=GradientDescent(20.0))
    for solver in (steep, REDDiff(9, optimiser=Adam(1e6))):
        with pytest.raises(DivergedError, match=r"at step \d+ of .*, sigma = .*Lower .*: a step of"):
            sample(problem("P2").posterior, solver, draws=2)


def test_what_it_cannot_work_on_is_refused() -> None:
    posterior = posterior_of("mask", 6)
    with pytest.raises(TypeError, match="cannot work on this posterior"):
        sample(Posterior(Flat(posterior.space), posterior.physical_likelihood), REDDiff(5), draws=1)
    with pytest.raises(TypeError, match="`noise` must be Gaussian .*, got Poi.* Use scaling='normalised'"):
        sample(counts(), REDDiff(5, LEVELS, "paper"), draws=1)
    unknown = Posterior(PoisonedDenoiser(phase(0.2).prior, 10**9), phase(0.2).physical_likelihood)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`spread` must be given for a PoisonedDenoiser without a data_sd"):
        sample(unknown, REDDiff(5, LEVELS), draws=1)
    with pytest.raises(ValueError, match="`optimiser` must be Adam where neither .*, got GradientDescent"):
        sample(unknown, REDDiff(5, LEVELS, optimiser=GradientDescent(), spread=0.5), draws=1)
    assert sample(unknown, REDDiff(5, LEVELS, spread=0.5), draws=1).tensor().isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be"),
        ({"levels": (2.0, 1.0)}, "`levels` must be Levels or None"),
        ({"scaling": "mean"}, "`scaling` must be one of 'normalised', 'paper', got 'mean'"),
        ({"weight": 0}, "`weight` must be a finite number > 0"),
        ({"weighting": "cubic"}, "`weighting` must be one of 'linear', .*, got 'cubic'"),
        ({"order": "up"}, "`order` must be one of 'descending', 'random'"),
        ({"optimiser": "adam"}, "`optimiser` must be a FirstOrder or None, got 'adam'. Such as Adam"),
        ({"start": "zero"}, "`start` must be one of 'data', 'prior', 'noise'"),
        ({"spread": -1.0}, "`spread` must be"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        replace(REDDiff(), **arguments)  # type: ignore[arg-type]
