"""DiffPIR against the laws of its own chains, its prox on any noise and operator, its counts and refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from operators.errors import ConvergenceWarning
from operators.grid import Grid
from operators.identity import Identity
from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from tests.problems import Dense, posterior_of, require_standard_normal
from tests.solver_contract import SolverContract
from tests.workbench.solvers.affine_chain import Level, Step, errors, law_of
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.priors.gaussian import Gaussian, SpectralGaussian
from workbench.random import Keys
from workbench.solvers.guidance.diffpir import DiffPIR

LEVELS = Karras(20.0, 0.05)
LIKE = torch.empty(0, dtype=torch.float64)
KEYS = Keys(3, (0, 1, 2))


class TestDiffPIR(SolverContract):
    covers = (DiffPIR,)

    def make(self) -> DiffPIR:
        return DiffPIR(3, Karras(2.0, 0.2))

    def posterior(self, dtype: torch.dtype = torch.float64, **options: object) -> Posterior:
        return posterior_of("ct", 6, dtype=dtype, **options)  # type: ignore[arg-type]


def answer(posterior: Posterior, solver: DiffPIR, draws: int, seed: int = 4) -> Tensor:
    return posterior.from_physical(sample(posterior, solver, draws=draws, seed=seed).tensor())


def step_of(solver: DiffPIR) -> Callable[[Level], Step]:
    def step(at: Level) -> Step:
        m, c = at.prox(at.sigma**2 / solver.weight)
        keep = (1 - solver.zeta) ** 0.5 * at.after / at.sigma
        return (1 - keep) * m + keep * at.eye, (1 - keep) * c, at.after * solver.zeta**0.5

    return step


def own_law(posterior: Posterior, solver: DiffPIR) -> Dense:
    return law_of(posterior, solver, step_of(solver))


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("mask", DiffPIR(15, LEVELS)),
        ("mask", DiffPIR(15, LEVELS, weight=3.0, zeta=1.0)),
        ("ct", DiffPIR(3, LEVELS, zeta=0.6)),
        ("coils", DiffPIR(5, LEVELS, weight=0.5)),
    ],
    ids=repr,
)
def test_draws_follow_the_law_of_the_chain(name: str, solver: DiffPIR) -> None:
    posterior = posterior_of(name, 6)
    law = own_law(posterior, solver)
    require_standard_normal(law.whitened(answer(posterior, solver, 500)))
    mean, ratio = errors(posterior, law)
    assert mean > 0.1 or abs(ratio - 1) > 0.1


def test_without_fresh_noise_a_draw_follows_from_its_start() -> None:
    """zeta = 0: z' = x + s' (z - x) / sigma, by hand."""
    posterior = posterior_of("mask", 6)
    solver = DiffPIR(6, LEVELS, zeta=0.0)
    z = solver.init(posterior, KEYS, LIKE).z
    for row in solver.plan(posterior):
        sigma, after = row.number("sigma"), row.number("next_sigma")
        x = posterior.measured.prox(posterior.prior.denoise(z, sigma), sigma)
        z = x + after / sigma * (z - x)
    assert torch.allclose(answer(posterior, solver, 3, seed=3), z, rtol=0, atol=1e-12)


def test_the_spread_is_that_of_zeta_and_not_of_the_steps() -> None:
    posterior = posterior_of("mask", 6)
    for steps, bounds in ((100, (0.8, 0.92)), (400, (0.85, 0.95))):
        low, high = bounds
        mean, ratio = errors(posterior, own_law(posterior, DiffPIR(steps)))
        assert low < ratio < high
        assert mean < 0.15
        assert errors(posterior, own_law(posterior, DiffPIR(steps, zeta=1.0)))[1] < 0.55


def phase(noise: float, mean: float = 1.0) -> Posterior:
    """Return intensities of random combinations of a 4 x 4 image."""
    space = Space.field(Grid.plane((4, 4), 2.0))
    matrix = Keys(3, (0,)).normals((64, 16), "test: phase", like=LIKE)[0] / 4
    operator = PhaseRetrieval(Matrix(space, Space((64,)), matrix))
    prior = SpectralGaussian.smooth(space, sd=0.5, length=2.0, mean=mean)
    truth = prior.draw(Keys(7, (0,)), like=LIKE)
    data = GaussianNoise(noise).draw(operator(truth), Keys(2, (0,)))[0]
    return Posterior(prior, Likelihood(operator, GaussianNoise(noise), data))


def counts() -> Posterior:
    space = Space((4,))
    data = torch.tensor([60.0, 40.0, 90.0, 70.0])
    likelihood = Likelihood(Identity(space), PoissonTransmission(100.0), data)
    return Posterior(Gaussian(0.5, 0.3 * Identity(space)), likelihood)


@pytest.mark.parametrize("posterior", [phase(0.2), counts()], ids=["phase", "counts"])
def test_the_last_step_ends_at_a_stationary_point_of_its_prox(posterior: Posterior) -> None:
    """The gradient of log p(y | x) is weight (x - D) / sigma^2."""
    solver = DiffPIR(8, LEVELS, weight=2.0, iterations=50)
    rows = list(solver.plan(posterior))
    z = 0.5 + rows[3].number("sigma") * KEYS.normals(posterior.space.shape, "test: z", like=LIKE)
    x, info = solver.moved(posterior, z, replace(rows[3], values={**rows[3].values, "next_sigma": 0.0}), KEYS)
    sigma = rows[3].number("sigma")
    pull = 2 * (x - posterior.prior.denoise(z, sigma)) / sigma**2
    assert torch.equal(x, info.estimate)  # type: ignore[arg-type]
    assert torch.allclose(posterior.measured.gradient(x), pull, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mean", "found"), [(1.0, 4), (0.0, 2)])
def test_images_are_found_from_data_without_phase(mean: float, found: int) -> None:
    """Where the prior does not tell the sign, other minima keep some draws."""
    posterior = phase(0.05, mean)
    likelihood = posterior.measured
    u = answer(posterior, DiffPIR(15), 4)
    misfit = ((likelihood.predicted(u) - likelihood.data) / 0.05).square().mean(1)
    # Chi-square of 64 less 16 to 64, over 64: at most 1 and five deviations of 0.18 above it.
    assert int((misfit < 1.9).sum()) >= found
    plain = posterior.prior.draw(Keys(1, (0, 1, 2, 3)), like=LIKE)
    assert float(((likelihood.predicted(plain) - likelihood.data) / 0.05).square().mean(1).min()) > 10


def test_a_prox_cut_short_on_purpose_does_not_warn() -> None:
    posterior = posterior_of("ct", 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short = answer(posterior, DiffPIR(4, LEVELS, iterations=2), 2)
        assert not torch.allclose(short, answer(posterior, DiffPIR(4, LEVELS), 2), rtol=1e-3)
        answer(phase(0.2), DiffPIR(4, LEVELS), 2)


def test_a_prox_that_should_have_been_solved_warns_once_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = Likelihood._solved

    def hurried(self: Likelihood, c: Tensor, z: Tensor, r: float, tolerance: None, limit: None) -> Tensor:
        del limit
        warnings.warn("something else", UserWarning, stacklevel=1)
        return solve(self, c, z, r, tolerance, 2)

    monkeypatch.setattr(Likelihood, "_solved", hurried)
    with pytest.warns(UserWarning) as caught:
        sample(posterior_of("ct", 6), DiffPIR(4, LEVELS), draws=2)
    texts = [str(w.message) for w in caught if issubclass(w.category, ConvergenceWarning)]
    assert len(texts) == 1
    assert texts[0].startswith("DiffPIR, at one level or more: the prox stopped")
    assert sum("something else" in str(w.message) for w in caught) == 4


def test_a_step_is_one_evaluation_and_one_prox_without_backward_passes() -> None:
    ledger = sample(posterior_of("mask", 6), DiffPIR(7, LEVELS), draws=3).record["ledger"]
    assert (ledger["network_evaluations"], ledger["backward_passes"]) == (21, 0)
    assert ledger["forwards"] == ledger["adjoints"] == ledger["solves"] == 21
    short = sample(posterior_of("ct", 6), DiffPIR(7, LEVELS, iterations=2), draws=3).record["ledger"]
    assert short["backward_passes"] == 0
    # Levels need the norm of B: its products with A^H A are of no draw.
    more = sample(posterior_of("ct", 6), DiffPIR(9, LEVELS, iterations=2), draws=3).record["ledger"]
    assert [more[n] - short[n] for n in ("forwards", "adjoints", "grams")] == [6, 6, 12]


def test_a_draw_does_not_know_its_neighbours() -> None:
    posterior = posterior_of("coils", 6)
    z = KEYS.normals(posterior.space.shape, "test: z", like=torch.empty(0, dtype=torch.complex128))
    z = z * torch.tensor([1.0, 300.0, 1e-3])[:, None, None, None]
    solver = DiffPIR(9, LEVELS)
    row = solver.plan(posterior).row(4)
    together, _ = solver.moved(posterior, z, row, KEYS)
    for i in range(3):
        alone, _ = solver.moved(posterior, z[i : i + 1], row, Keys(3, (i,)))
        assert torch.allclose(alone, together[i : i + 1], rtol=1e-7, atol=1e-7)


def test_single_precision_survives_a_high_signal_to_noise() -> None:
    runs = []
    for dtype in (torch.float64, torch.float32):
        likelihood = posterior_of("mask", 6, sigma=1e-4 * 0.005).physical_likelihood
        assert likelihood is not None
        cast = Likelihood(likelihood.operator, likelihood.noise, likelihood.data.to(dtype))
        runs.append(answer(Posterior(posterior_of("mask", 6).prior, cast), DiffPIR(30), 4).double())
    assert float((runs[0] - runs[1]).abs().max()) < 1e-4


def test_the_plan_tells_how_far_the_prox_reaches() -> None:
    for row in DiffPIR(5, LEVELS, weight=4.0).plan(posterior_of("mask", 6)):
        assert row.number("r") == pytest.approx(row.number("sigma") / 2)


def test_priors_without_scores_are_refused() -> None:
    posterior = posterior_of("mask", 6)
    with pytest.raises(CapabilityError, match="`prior` must"):
        sample(Posterior(Flat(posterior.space), posterior.physical_likelihood), DiffPIR(5), draws=1)
    with pytest.raises(CapabilityError, match="`posterior` must have a likelihood"):
        sample(Posterior(posterior.prior), DiffPIR(5), draws=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 0.0}, "`weight` must be"),
        ({"zeta": -0.1}, "`zeta` must be"),
        ({"zeta": 1.5}, "`zeta` must be between 0 and 1, got 1.5"),
        ({"iterations": 0}, "`iterations` must be"),
        ({"steps": 0}, "`steps` must be"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DiffPIR(), **arguments)  # type: ignore[arg-type]
