import math

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from operators.diagonal import Diagonal
from operators.errors import ConvergenceWarning, NonFiniteError
from operators.fourier import Fourier
from operators.grid import Grid
from operators.identity import Identity
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.patterns import variable_density
from operators.space import Space
from operators.stack import BlockDiagonal
from tests.contracts import close
from tests.likelihood_cases import (
    COMPLEX,
    DATUM,
    FIELD,
    LINEAR,
    NEWTON,
    OPERATORS,
    STRAIGHT,
    as_real,
    correlated,
    dense_hessian,
    from_real,
    likelihood,
    name,
)
from tests.noise_contract import keys, real_inner
from tests.oracles import random_element
from workbench.likelihood import Likelihood
from workbench.noise.base import Noise
from workbench.noise.gaussian import CorrelatedGaussian, Gaussian
from workbench.noise.poisson import PoissonTransmission
from workbench.noise.rician import Rician


def test_solves_of_blocks_survive_one_sigma() -> None:
    """A block diagonal solves each block in closed form, its multiples know nothing of that."""
    op = BlockDiagonal([Fourier(COMPLEX), Diagonal(COMPLEX, DATUM)])
    value = Likelihood(op, Gaussian(0.1), random_element(op.codomain)).rescaled(2.0)
    c = random_element(op.domain, 2, seed=2)
    expected = dense_prox(value, c, torch.tensor(0.3, dtype=torch.float64))
    assert close(value.prox(c, 0.3, max_iterations=1), expected, 1e-10)


def real_gram(value: Likelihood) -> tuple[Tensor, Tensor]:
    """Return B^H B and B^H z over the real coordinates of x, from the Hessian and gradient of autograd."""
    zero = torch.zeros(value.domain.shape, dtype=value.dtype)
    return -dense_hessian(value, zero), as_real(value.gradient(zero))


def dense_prox(value: Likelihood, c: Tensor, r: Tensor) -> Tensor:
    gram, side = real_gram(value)
    eye = torch.eye(len(gram), dtype=torch.float64)
    rows = [
        from_real(torch.linalg.solve(gram + eye / s**2, side + as_real(row) / s**2), value.domain)
        for row, s in zip(c, r.double().expand(len(c)), strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize(("kind", "noise"), LINEAR, ids=name)
def test_prox_against_a_dense_solve(kind: str, noise: Noise) -> None:
    value = likelihood(kind, noise, offset=True)
    c = random_element(value.domain, 3, seed=3)
    r = torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    assert value.is_linear_gaussian
    assert close(value.prox(c, r), dense_prox(value, c, r), 1e-7)
    assert close(
        value.prox(c[:2].reshape(2, 1, *c.shape[1:]), 0.5), dense_prox(value, c[:2], r[1])[:, None], 1e-7
    )


def test_prox_close_to_the_centre_keeps_its_digits() -> None:
    value = likelihood("real", Gaussian(0.4))
    c = 1000 + random_element(FIELD, 1, dtype=torch.float32, seed=3)
    expected = dense_prox(value, c.double(), torch.tensor(1e-3, dtype=torch.float64)) - c.double()
    got = value.prox(c, 1e-3) - c
    assert (got - expected).abs().max() <= 1.2e-4, "one rounding of 1000 in single precision"
    assert expected.abs().max() > 1e-3


def test_prox_is_differentiable_in_the_radius() -> None:
    value = likelihood("real", Gaussian(DATUM))
    c, probe = random_element(FIELD, 2, seed=3), random_element(FIELD, 2, seed=4)
    r = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(real_inner(value.prox(c, r), probe).sum(), r)
    step = 1e-4
    up, down = (value.prox(c, r.detach() + sign * step, tolerance=1e-13) for sign in (1, -1))
    assert torch.allclose(gradient, real_inner(up - down, probe) / (2 * step), rtol=1e-5)


def test_prox_is_differentiable_in_the_centre() -> None:
    value = likelihood("complex", Gaussian(DATUM))
    c = random_element(COMPLEX, 2, seed=3).requires_grad_()
    probe = random_element(COMPLEX, 2, seed=4)
    (gradient,) = torch.autograd.grad(real_inner(value.prox(c, 0.5), probe).sum(), c)
    gram, _ = real_gram(value)
    expected = torch.linalg.solve(gram + torch.eye(16, dtype=torch.float64) / 0.25, as_real(probe[0]) / 0.25)
    assert torch.allclose(as_real(gradient[0]), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("kind", "noise"), NEWTON, ids=name)
def test_prox_against_scipy(kind: str, noise: Noise) -> None:
    value = likelihood(kind, noise, offset=True)
    c, r = 0.5 * random_element(value.domain, 2, seed=3), torch.tensor([0.15, 0.4], dtype=torch.float64)
    tolerance = 1e-6 if "bent" in kind else 1e-8  # Gauss-Newton steps are slower there
    got = value.prox(c, r, tolerance=None if tolerance == 1e-8 else tolerance)
    for row, s, mine in zip(c, r, got, strict=True):

        def objective(v: np.ndarray, row: Tensor = row, s: Tensor = s) -> tuple[float, np.ndarray]:
            x = from_real(torch.from_numpy(v), value.domain)
            energy = as_real(x - row).square().sum() / (2 * s**2) - value.log_likelihood(x)
            return float(energy), as_real((x - row) / s**2 - value.gradient(x)).numpy()

        reached, slope = objective(as_real(mine).numpy())
        # As the tolerance is stated: (g^T H^-1 g / n)^1/2, in standard deviations of exp(-F), made convex.
        n, op = slope.size, value.operator
        axes = torch.stack([from_real(axis, value.domain) for axis in torch.eye(n, dtype=torch.float64)])
        x = mine.expand(n, *mine.shape)
        bent = noise.positive_curvature(value.predicted(x), value.data, op.apply_jvp(x, axes))
        curved = op.apply_vjp(x, bent)
        hessian = torch.stack([as_real(column) for column in curved]).numpy() + np.eye(n) / float(s) ** 2
        assert slope @ np.linalg.solve(hessian, slope) / n <= tolerance**2
        best = optimize.minimize(objective, as_real(row).numpy(), jac=True, method="BFGS", tol=1e-9)
        assert reached <= best.fun + 1e-8 * abs(best.fun)


def test_prox_of_newton_in_single_precision_and_per_sample() -> None:
    value = likelihood("real", PoissonTransmission(1e4))
    c = random_element(FIELD, 2, 2, seed=3).abs()
    wide = value.prox(c, 0.3)
    assert close(value.prox(c.float(), 0.3).double(), wide, 1e-4)
    assert close(value.prox(c[1, 0], 0.3), wide[1, 0], 1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prox_of_newton_from_far_away_reaches_the_minimum(dtype: torch.dtype) -> None:
    """At -20 the gradient is 1e8 times what it is anywhere near the minimum: it is no scale for a stop."""
    value = likelihood("real", PoissonTransmission(1e4))
    c = torch.stack([torch.full(FIELD.shape, -20.0), random_element(FIELD, seed=3).float().abs()]).to(dtype)
    got = value.prox(c, 1.0).double()
    pull = (got - c.double()) / 1.0
    force = value.gradient(got)
    scale = value.operator.adjoint(value.data).abs().max()
    assert (pull - force).abs().max() <= (1e-9 if dtype == torch.float64 else 1e-4) * scale


def test_prox_at_its_own_minimum_stays_and_says_nothing() -> None:
    value = likelihood("real", PoissonTransmission(1e4))
    best = value.prox(random_element(FIELD, 1, seed=3).abs(), 1e3)
    for dtype in (torch.float64, torch.float32):
        c = best.to(dtype)
        assert close(value.prox(c, 1e-3).double(), c.double(), 1e-4)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_prox_of_magnitudes_leaves_zero(kind: str) -> None:
    """At m = 0 the score of a Rician is zero, but the likelihood has its minimum there."""
    op = OPERATORS[kind]
    truth = random_element(op.domain, seed=2)
    noise = Rician(0.05)
    value = Likelihood(op, noise, noise.draw(op(truth)[None], keys(1))[0])
    c = torch.zeros(2, *op.domain.shape, dtype=truth.dtype)
    far = 10.0 if kind == "real" else 0.3  # weakly held, phases are found slowly
    left, kept = value.prox(c, torch.tensor([far, 1e-5], dtype=torch.float64), tolerance=1e-4)
    pull = as_real(left).square().sum() / (2 * far**2)
    assert pull - value.log_likelihood(left) < -value.log_likelihood(c[0]) - 10
    assert kept.abs().max() == 0, "a stiff pull to the centre leaves one minimum, at zero"


def test_prox_that_rounding_stops_ends() -> None:
    value = likelihood("real", PoissonTransmission(1e6))
    c = (1e3 + random_element(FIELD, 1, seed=3)).float()
    started = value.prox(c, 1e-4, tolerance=1e-12)
    assert torch.isfinite(started).all()


def test_prox_says_where_it_stopped_short() -> None:
    value = likelihood("real", PoissonTransmission(1e4))
    c = random_element(FIELD, seed=3).abs() + 2
    with pytest.warns(
        ConvergenceWarning, match=r"the prox stopped .* standard deviations .* Raise `max_iterations`"
    ):
        value.prox(c, 1.0, max_iterations=1)
    loose = value.prox(c, 1.0, tolerance=1e-2)
    assert not torch.equal(loose, value.prox(c, 1.0))


@pytest.mark.parametrize("kind", STRAIGHT)
@pytest.mark.parametrize("noise", [Gaussian(DATUM), CorrelatedGaussian], ids=["independent", "correlated"])
def test_exact_draws_from_the_prox(kind: str, noise: Noise | type[CorrelatedGaussian]) -> None:
    value = likelihood(kind, noise if isinstance(noise, Noise) else correlated(kind), offset=True)
    count, r = 10000, 0.7
    c = random_element(value.domain, seed=3).expand(count, *FIELD.shape)
    drawn = value.prox_draw(c, r, keys(count), tolerance=1e-6)
    rows = torch.stack([as_real(row) for row in drawn])
    gram, _ = real_gram(value)
    covariance = torch.linalg.inv(gram + torch.eye(len(gram), dtype=torch.float64) / r**2)
    mean = as_real(dense_prox(value, c[:1], torch.tensor(r, dtype=torch.float64))[0])
    spread = covariance.diagonal().sqrt()
    assert ((rows.mean(0) - mean).abs() <= 4.5 * spread / math.sqrt(count)).all()
    error = (torch.cov(rows.T) - covariance) / (spread[:, None] * spread)
    assert error.abs().max() <= 5 * math.sqrt(2 / count)
    again = value.prox_draw(c[5:8], r, keys(3, first=5), tolerance=1e-6)
    assert close(again, drawn[5:8], 1e-5)


def scan(sigma: float) -> Likelihood:
    """Return a CT scan in single precision, at a signal to noise of a few hundred where sigma is 1e-3."""
    grid = Grid.plane((16, 16), 1.0)
    op = ParallelBeamGeometry.around(grid, 12).operator(grid)
    x = torch.zeros(op.domain.shape)
    x[:, 4:12, 6:14] = 0.02
    noise = Gaussian(sigma)
    return Likelihood(op, noise, noise.draw(op(x)[None], keys(1))[0])


def test_draws_of_the_prox_are_exact_in_single_precision_at_a_high_signal_to_noise() -> None:
    """The right side grows with r B^H B: a stop relative to it left one direction 90 times too wide."""
    value, r, count = scan(1e-3), 1.0, 60
    b, z = value.whitened
    eye = torch.eye(256, dtype=torch.float64).reshape(256, 1, 16, 16)
    matrix = b(eye).reshape(256, -1).T
    hessian = matrix.T @ matrix + torch.eye(256, dtype=torch.float64) / r**2
    mean = torch.linalg.solve(hessian, matrix.T @ z.double().flatten())
    values, vectors = torch.linalg.eigh(hessian)
    c = torch.zeros(count, 1, 16, 16)
    drawn = ((value.prox_draw(c, r, keys(count)).double().flatten(1) - mean) @ vectors) * values.sqrt()
    variance = drawn.square().mean(0)
    assert float(variance.max()) < 1 + 5 * (2 / count) ** 0.5
    assert float(variance.min()) > 1 - 5 * (2 / count) ** 0.5
    off = value.prox(c[:1], r).double().flatten() - mean
    assert float((off @ hessian @ off / 256).sqrt()) < 2e-4


@pytest.mark.parametrize("r", [0.01, 1.0, 10.0])
def test_closed_forms_keep_what_nothing_was_measured_of_in_single_precision(r: float) -> None:
    """Of half of k-space: r^2 |B| times the rounding of the residual was 8e4 for an image of 200."""
    grid = Grid.plane((16, 16), 1.0)
    lines = variable_density(16, 2.0, seed=3, acs=4)
    geometry = SampledCartesianGeometry.lines(CartesianGeometry.around(grid), lines, zero_filled=False)
    op = geometry.operator(grid)
    data = op(random_element(op.domain, seed=2)).to(torch.complex64)
    c = 50 * random_element(op.domain, 1).to(torch.complex64)
    rough, fine = (Likelihood(op, Gaussian(1e-4), y) for y in (data, data.to(torch.complex128)))
    off = rough.prox(c, r).to(torch.complex128) - fine.prox(c.to(torch.complex128), r)
    # The rounding of the answer, and the accuracy that is promised where its standard deviation is r.
    assert float(off.abs().max()) <= torch.finfo(torch.float32).eps * float(c.abs().max()) + 1e-4 * r


def test_a_prox_that_is_not_reached_says_by_how_much() -> None:
    with pytest.warns(ConvergenceWarning, match=r"deviations from its minimum, not 0\.0001, after 20"):
        scan(1e-3).prox(torch.zeros(1, 1, 16, 16), 1.0, max_iterations=20)


def test_prox_is_differentiable_with_a_radius_per_sample_of_several_batch_axes() -> None:
    value = likelihood("real", Gaussian(DATUM))
    c = random_element(FIELD, 2, 3, seed=3)
    r = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    watched = c.clone().requires_grad_()
    assert close(value.prox(watched, r).detach(), value.prox(c, r), 1e-7)


def test_a_point_that_is_no_number_is_named() -> None:
    space = Space.field(Grid.plane((2, 2), 1.0))
    likelihood = Likelihood(Identity(space), Gaussian(1.0), torch.zeros(space.shape))
    c = torch.full(space.shape, torch.nan)
    with pytest.raises(NonFiniteError, match="`c` must hold finite values only"):
        likelihood.prox(c, 1.0)
