"""DDRM against the laws of its own chain, and what it counts, refuses and leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from tests.problems import (
    UNITS,
    Dense,
    dense_answer,
    grid_of,
    posterior_of,
    prior_on,
    reals,
    require_standard_normal,
)
from tests.solver_contract import SolverContract
from tests.workbench.solvers.guidance.singular_cases import (
    LEVELS,
    LIKE,
    Affine,
    Reals,
    against,
    case,
    drawn,
    in_single_precision,
    levels_of,
    poisoned_prior,
    tomography,
)
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.guidance.ddrm import DDRM
from workbench.solvers.singular import residual, singular, whitened_data
from workbench.units import Units


class TestDDRM(SolverContract):
    covers = (DDRM,)
    draws = 3

    def make(self) -> DDRM:
        return DDRM(5, LEVELS)

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        return posterior_of("blur", dtype=dtype, units=units)

    def posterior_complex(self) -> Posterior:
        return case("single coil")

    def poisoned(self, after: int) -> Posterior:
        return poisoned_prior(self.posterior(), after)


def own_law(posterior: Posterior, solver: DDRM) -> Dense:
    """Return mean and covariance of the chain, which a Gaussian prior makes affine."""
    parts = Reals.of(posterior, 1 / 3)
    u, s, v = parts.u, parts.s, parts.v
    levels = levels_of(solver.plan(posterior))
    first = levels[0][0]
    known, inverse = s > 0, torch.where(s > 0, 1 / s, 0.0)
    sharp = first * s > 1
    mean = torch.where(sharp, inverse * (u.T @ parts.z), 0.0)
    variance = first**2 - torch.where(sharp, inverse**2, 0.0)
    law = Dense(v @ mean, v @ torch.diag(variance) @ v.T)
    for sigma, after in levels:
        shrink, rest = parts.denoised(sigma)
        sharp, share = after * s >= 1, after * math.sqrt(1 - solver.eta**2)
        pull = torch.where(sharp, solver.eta_b * inverse, known * share)
        old = torch.full_like(s, share / sigma) * ~known
        fresh = torch.full_like(s, solver.eta * after)
        fresh[sharp] = (after**2 - (solver.eta_b * inverse[sharp]) ** 2).sqrt()
        a, b = v @ torch.diag(pull) @ u.T, v @ torch.diag(old) @ v.T
        eye = torch.eye(len(s), dtype=torch.float64)
        matrix = shrink - a @ parts.b @ shrink + b @ (eye - shrink)
        shift = rest + a @ (parts.z - parts.b @ rest) - b @ rest
        law = Affine(matrix, shift, v @ torch.diag(fresh)).of(law)
    return law


CASES = [
    ("mask", DDRM(8, LEVELS), 0.05),
    ("blur", DDRM(8, LEVELS, eta=0.6), 0.02),
    ("matrix", DDRM(8, LEVELS, eta_b=0.7), 0.02),
    ("single coil", DDRM(8, LEVELS), 0.01),
    ("mixed", DDRM(8, LEVELS), 0.01),
]


@pytest.mark.parametrize(("name", "solver", "share"), CASES)
def test_draws_follow_the_law_of_the_chain(name: str, solver: DDRM, share: float) -> None:
    posterior = case(name, share=share)
    s = Reals.of(posterior, 1 / 3).s
    sharp = torch.stack([after * s[s > 0] >= 1 for _, after in levels_of(solver.plan(posterior))[:-1]])
    assert bool(sharp.any())
    assert not bool(sharp.all())
    law = own_law(posterior, solver)
    require_standard_normal(law.whitened(drawn(posterior, solver, 500)))
    # A law like the posterior would not show that the chain is the one of its equations.
    assert against(law, dense_answer(posterior))[1] < 0.8


def test_the_start_is_the_data_where_they_are_better_than_noise() -> None:
    posterior = case("matrix", share=0.02)
    solver, parts = DDRM(8, LEVELS), Reals.of(posterior)
    z = solver.init(posterior, Keys(1, tuple(range(2000))), posterior.like()).z
    level = 20.0
    sharp = level * parts.s > 1
    assert 0 < int(sharp.sum()) < len(sharp)
    coefficients = reals(z) @ parts.v
    data = torch.where(sharp, (parts.u.T @ parts.z) / parts.s, 0.0)
    variance = torch.where(sharp, level**2 - 1 / parts.s**2, level**2)
    require_standard_normal((coefficients - data) / variance.sqrt())


@pytest.mark.parametrize("name", ["mask", "blur", "matrix", "single coil", "mixed", "turned"])
def test_coefficients_are_those_of_the_whitened_operator(name: str) -> None:
    """V V^H = I, q = U^H z - s V^H x, and white data give white q, whatever the fields are."""
    posterior = case(name)
    parts, dense = singular(posterior, None, 0.0), Reals.of(posterior)
    keys, like = Keys(0, tuple(range(1000))), LIKE.to(posterior.space.dtype_like(LIKE))
    x = keys.normals(posterior.space.shape, "test: x", like=like)[:3]
    coefficients = parts.turned(x)
    assert torch.allclose(parts.v.apply(coefficients), x, atol=1e-12)
    data = whitened_data(posterior, x)
    expected = parts.misfit(data[None]) - parts.s * coefficients
    q = parts.misfit(residual(posterior, x))
    known = parts.s > 0
    size = float(data.abs().max())
    assert float(torch.where(known, q - expected, 0.0).abs().max()) < 1e-9 * size
    noise = keys.normals(data.shape, "test: noise", like=data)
    white = reals(parts.image((known.double(), parts.misfit(noise))))
    rows = dense.v.T[dense.s > 0]
    require_standard_normal(white @ rows.T)
    assert torch.allclose(white @ rows.T @ rows, white, atol=1e-9)


@pytest.mark.parametrize("share", [0.05, 1e-9])
def test_what_is_measured_well_is_as_sure_as_the_data_and_the_last_level(share: float) -> None:
    posterior = case("blur", share=share)
    u, truth, parts = reals(drawn(posterior, DDRM(), 8)), dense_answer(posterior), Reals.of(posterior)
    best = parts.v[:, parts.s.argmax()]
    last = levels_of(DDRM().plan(posterior))[-1][0]
    sd = (float(best @ truth.covariance @ best) + last**2) ** 0.5
    assert float(((u - truth.mean) @ best).abs().max()) < 5 * sd


def test_a_step_is_one_evaluation_and_one_a() -> None:
    few, more = (sample(case("single coil"), DDRM(n, LEVELS), draws=3).record["ledger"] for n in (3, 8))
    assert (few["network_evaluations"], more["network_evaluations"]) == (9, 24)
    assert more["forwards"] - few["forwards"] == 15
    assert few["backward_passes"] == more["backward_passes"] == few["solves"] == 0


@pytest.mark.parametrize("name", ["mask", "mixed"])
def test_float32_follows_float64(name: str) -> None:
    posterior = case(name, share=0.01)
    wide, narrow = (drawn(p, DDRM(6, LEVELS), 3) for p in (posterior, in_single_precision(posterior)))
    assert narrow.dtype == torch.float32
    assert float((narrow - wide).abs().max()) < 1e-4 * float(wide.abs().max())


def test_a_cutoff_takes_small_singular_values_for_none() -> None:
    posterior = case("matrix")
    s = Reals.of(posterior).s
    kept = singular(posterior, 0.3, 1.0).s
    assert int((kept > 0).sum()) == int((s > 0.3 * s.max()).sum()) < int((s > 0).sum())
    # Without one it is what the data tell against what the prior knows.
    for worth in (0.3, 0.7, 1e9):
        left = singular(posterior, None, worth).s
        assert torch.equal(left > 0, singular(posterior, 0.0, 1.0).s * posterior.prior.data_sd >= worth)
        assert int((left > 0).sum()) == Reals.of(posterior, worth).known
    # The spread of this prior is not known.
    unknown = poisoned_prior(posterior, 10**9)
    assert int((singular(unknown, None, 1e9).s > 0).sum()) == len(s[s > 0])


def test_wide_blurs_are_solved_at_the_defaults() -> None:
    posterior = case("blur", 8)
    law, truth = own_law(posterior, DDRM()), dense_answer(posterior)
    assert 8 <= Reals.of(posterior, 1 / 3).known <= 16 < Reals.of(posterior).known
    mean, ratio = against(law, truth)
    assert mean < 0.3
    assert 0.4 < ratio < 0.75
    require_standard_normal(law.whitened(drawn(posterior, DDRM(), 100)))


def test_rounding_is_no_measurement() -> None:
    space = Space.field(grid_of(4))
    rows = Keys(3, (0,)).normals((8, 16), "test: rows", like=LIKE)[0]
    operator = Matrix(space, Space((16,)), torch.cat([rows, rows @ rows.T @ rows]))
    noise = GaussianNoise(0.1)
    posterior = Posterior(
        prior_on(space), Likelihood(operator, noise, operator(torch.ones(1, 4, 4).double()))
    )
    assert int((operator.svd().s > 0).sum()) > 8  # of a rank of 8
    assert int((singular(posterior, None, 0.0).s > 0).sum()) == 8


def test_the_declared_bias_is_the_bias() -> None:
    """At the defaults on a mask about half of the variance is there."""
    posterior = case("mask", 8)
    mean, ratio = against(own_law(posterior, DDRM()), dense_answer(posterior))
    assert 0.4 < ratio < 0.75
    assert mean < 0.3


def test_operators_without_singular_values_are_refused() -> None:
    with pytest.raises(CapabilityError, match="`operator` must know its singular values, got Projector"):
        sample(tomography(), DDRM(), draws=1)


def test_noise_that_hides_the_singular_values_is_named() -> None:
    posterior = case("mask", scales=True)
    match = "`noise` must let W A know its singular values, W its whitener, got Gaussian.* on Diagonal"
    with pytest.raises(CapabilityError, match=match):
        sample(posterior, DDRM(), draws=1)


def test_nonlinear_operators_are_refused() -> None:
    space = Space.field(grid_of(4))
    operator = PhaseRetrieval(Matrix(space, Space((16,)), torch.eye(16).double()))
    data = torch.ones(16, dtype=torch.float64)
    posterior = Posterior(prior_on(space), Likelihood(operator, GaussianNoise(0.1), data))
    with pytest.raises(CapabilityError, match="`likelihood` must be linear with Gaussian noise"):
        sample(posterior, DDRM(), draws=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eta": -0.1}, "`eta` must be a finite number >= 0"),
        ({"eta": 1.5}, "`eta` must be at most 1"),
        ({"eta_b": 2.0}, "`eta_b` must be at most 1"),
        ({"cutoff": 1.0}, "`cutoff` must be a share of the largest singular value"),
        ({"steps": 0}, "`steps` must be"),
        ({"levels": 20.0}, "`levels` must be Levels or None"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DDRM(**arguments)  # type: ignore[arg-type]
