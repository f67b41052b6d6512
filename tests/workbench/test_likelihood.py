import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from operators.base import Operator
from operators.blur import PeriodicBlur
from operators.diagonal import Diagonal
from operators.errors import ConvergenceWarning
from operators.fourier import Fourier
from operators.grid import Grid
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.space import Space
from operators.stack import BlockDiagonal
from tests.contracts import close
from tests.noise_contract import keys, real_inner
from tests.oracles import random_element
from workbench.likelihood import Likelihood
from workbench.noise.base import Noise
from workbench.noise.gaussian import CorrelatedGaussian, Gaussian
from workbench.noise.poisson import LogTransmission, PoissonTransmission
from workbench.noise.rician import Rician

GRID = Grid.from_spacing((1, 2, 4), 1.0)
FIELD = Space.field(GRID)
COMPLEX = Space.field(GRID, is_complex=True)
DATUM = torch.linspace(0.3, 1.4, 4, dtype=torch.float64)


def weights(space: Space, seed: int) -> Diagonal:
    """Return weights that vary, which a Fourier transform does not diagonalise."""
    return Diagonal(space, random_element(space, seed=seed) + (2.0 if not space.is_complex else 1.0))


class Bent(Operator):
    """x -> A (x + x^3 / 5), or of the square for a complex x: a small nonlinear operator."""

    def __init__(self, op: LinearOperator) -> None:
        super().__init__(op.domain, op.codomain)
        self.op = op

    def _apply(self, x: Tensor) -> Tensor:
        return self.op.apply(x + 0.3 * x * x if x.is_complex() else x + 0.2 * x**3)


def operators() -> dict[str, Operator]:
    linear: dict[str, LinearOperator] = {
        "real": weights(FIELD, 1) @ PeriodicBlur.gaussian(FIELD, 1.5),
        "real to complex": weights(COMPLEX, 2) @ Fourier(FIELD) @ weights(FIELD, 3),
        "complex": weights(COMPLEX, 2) @ Fourier(COMPLEX) @ weights(COMPLEX, 3),
    }
    return {**linear, **{f"bent {name}": Bent(op) for name, op in linear.items()}}


OPERATORS = operators()


def likelihood(kind: str, noise: Noise, *, offset: bool = False) -> Likelihood:
    """Return a likelihood whose data belong to some object."""
    op = OPERATORS[kind]
    shift = 0.3 * random_element(op.codomain, seed=8) if offset else None
    x = 0.3 * random_element(op.domain, seed=9)
    m = op(x) if shift is None else op(x) + shift
    (y,) = noise.draw(m[None], keys(1))
    return Likelihood(op, noise, y, shift)


def correlated(kind: str) -> CorrelatedGaussian:
    space = OPERATORS[kind].codomain
    return CorrelatedGaussian(weights(space, 5) @ Fourier(space) if space.is_complex else weights(space, 5))


STRAIGHT = ("real", "real to complex", "complex")
GAUSSIAN: list[tuple[str, Noise]] = [
    *((kind, noise) for kind in STRAIGHT for noise in (Gaussian(0.4), Gaussian(DATUM), correlated(kind))),
    ("real", LogTransmission(2000.0)),
    ("bent real", Gaussian(0.4)),
    ("bent complex", Gaussian(DATUM)),
    ("bent real to complex", correlated("bent real to complex")),
    ("bent real", LogTransmission(2000.0)),
]
OTHERS: list[tuple[str, Noise]] = [
    ("real", PoissonTransmission(30.0)),
    ("bent real", PoissonTransmission(30.0)),
    *((kind, Rician(0.5)) for kind in OPERATORS),
]
EVERY = GAUSSIAN + OTHERS
LINEAR = [(kind, noise) for kind, noise in GAUSSIAN if "bent" not in kind]
NEWTON = [(kind, noise) for kind, noise in EVERY if (kind, noise) not in LINEAR]


def name(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


def as_real(x: Tensor) -> Tensor:
    """Return the real coordinates of one element."""
    return (torch.view_as_real(x) if x.is_complex() else x).flatten()


def from_real(v: Tensor, space: Space) -> Tensor:
    return torch.view_as_complex(v.reshape(*space.shape, 2)) if space.is_complex else v.reshape(space.shape)


def dense_hessian(value: Likelihood, x: Tensor) -> Tensor:
    """Return the second derivative of log p over the real coordinates of x, by autograd."""
    hessian = torch.autograd.functional.hessian(
        lambda v: value.log_likelihood(from_real(v, value.domain)), as_real(x)
    )
    assert isinstance(hessian, Tensor)
    return hessian


@pytest.mark.parametrize(("kind", "noise"), EVERY, ids=name)
def test_gradient_and_curvature_against_autograd(kind: str, noise: Noise) -> None:
    value = likelihood(kind, noise, offset=True)
    x = 0.5 * random_element(value.domain, 2, 3, seed=1)
    leaf = x.clone().requires_grad_()
    got = value.log_likelihood(leaf)
    assert got.shape == (2, 3)
    assert got.dtype == torch.float64
    (gradient,) = torch.autograd.grad(got.sum(), leaf)
    assert close(value.gradient(x), gradient, 1e-10)
    v = random_element(value.domain, 2, 3, seed=2)
    m = value.predicted(x)
    image = value.operator.jvp(x, v)
    expected = value.operator.vjp(x, value.noise.curvature(m, value.data, image))
    assert close(value.curvature(x, v), expected, 1e-11)
    if value.is_linear:
        hessian = dense_hessian(value, x[0, 0])
        assert torch.allclose(hessian @ as_real(v[0, 0]), -as_real(expected[0, 0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "noise"), EVERY, ids=name)
def test_laplacian_against_the_dense_hessian(kind: str, noise: Noise) -> None:
    value = likelihood(kind, noise)
    x = 0.5 * random_element(value.domain, 2, seed=1)
    expected = torch.stack([dense_hessian(value, row).trace() for row in x])
    size = torch.stack([dense_hessian(value, row).abs().sum() for row in x])
    found = value.laplacian(x, probes=40, seed=4)
    assert found.value.shape == found.standard_error.shape == (2,)
    assert found.value.dtype == torch.float64
    assert ((found.value - expected).abs() <= 4.5 * found.standard_error + 1e-9 * size).all()
    assert (found.standard_error <= 0.1 * size).all()


@pytest.mark.parametrize(
    "noise", [Gaussian(DATUM), LogTransmission(1e3), PoissonTransmission(1e3), Rician(0.5)], ids=name
)
@pytest.mark.parametrize("op", [Diagonal(FIELD, DATUM), Bent(Diagonal(FIELD, DATUM))], ids=["linear", "bent"])
def test_laplacian_of_separate_pixels_is_exact(op: Operator, noise: Noise) -> None:
    """Random signs give the trace of a diagonal Hessian without an error."""
    value = Likelihood(op, noise, 30 * random_element(FIELD, seed=3).abs())
    x = random_element(FIELD, 2, seed=1)
    found = value.laplacian(x, probes=2)
    expected = torch.stack([dense_hessian(value, row).trace() for row in x])
    assert close(found.value, expected, 1e-10)
    assert (found.standard_error <= 1e-12 * expected.abs()).all()
    assert value.laplacian(x[0]).value.shape == ()


@pytest.mark.parametrize(
    ("op", "sigma"),
    [
        (Identity(FIELD), 0.3),
        (PeriodicBlur.gaussian(FIELD, 1.5), 0.3),
        (Fourier(FIELD), DATUM),
        (Fourier(COMPLEX), 0.3),
        (Fourier(COMPLEX), DATUM),
        (Diagonal(COMPLEX, DATUM) @ Fourier(COMPLEX), 0.3),
        (Diagonal(FIELD, DATUM > 0.5), DATUM),
        (2.0 * Diagonal(COMPLEX, DATUM > 0.5), 0.3),
    ],
)
def test_closed_forms_survive_the_whitening(op: LinearOperator, sigma: float | Tensor) -> None:
    value = Likelihood(op, Gaussian(sigma), random_element(op.codomain, seed=1))
    b, z = value.whitened
    assert b._gram_spectrum is not None
    assert close(z, value.data / sigma, 1e-14)
    x = random_element(op.domain, 2, seed=2)
    assert close(b(x), op(x) / sigma, 1e-13)
    found = value.laplacian(x)
    assert not found.standard_error.any()
    assert found.value[0].item() == pytest.approx(dense_hessian(value, x[0]).trace().item(), rel=1e-10)


def test_singular_values_survive_one_sigma() -> None:
    op = weights(COMPLEX, 2) @ Fourier(COMPLEX)
    assert Likelihood(op, Gaussian(0.3), random_element(COMPLEX)).whitened[0].has_svd


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
    tolerance = 1e-6 if "bent" in kind else None  # Gauss-Newton steps are slower there
    got = value.prox(c, r, tolerance=tolerance)
    for row, s, mine in zip(c, r, got, strict=True):

        def objective(v: np.ndarray, row: Tensor = row, s: Tensor = s) -> tuple[float, np.ndarray]:
            x = from_real(torch.from_numpy(v), value.domain)
            energy = as_real(x - row).square().sum() / (2 * s**2) - value.log_likelihood(x)
            return float(energy), as_real((x - row) / s**2 - value.gradient(x)).numpy()

        reached, slope = objective(as_real(mine).numpy())
        _, first = objective(as_real(row).numpy())
        assert np.linalg.norm(slope) <= 1.01 * (tolerance or 1e-8) * np.linalg.norm(first)
        best = optimize.minimize(objective, as_real(row).numpy(), jac=True, method="BFGS", tol=1e-9)
        assert reached <= best.fun + 1e-8 * abs(best.fun)


def test_prox_of_newton_in_single_precision_and_per_sample() -> None:
    value = likelihood("real", PoissonTransmission(1e4))
    c = random_element(FIELD, 2, 2, seed=3).abs()
    wide = value.prox(c, 0.3)
    assert close(value.prox(c.float(), 0.3).double(), wide, 1e-4)
    assert close(value.prox(c[1, 0], 0.3), wide[1, 0], 1e-7)
    far = torch.stack([torch.full(FIELD.shape, -20.0, dtype=torch.float64), c[0, 0]])
    assert torch.isfinite(value.prox(far, 1.0)).all()


def test_prox_says_where_it_stopped_short() -> None:
    value = likelihood("real", PoissonTransmission(1e4))
    c = random_element(FIELD, seed=3).abs() + 2
    with pytest.warns(
        ConvergenceWarning, match=r"the prox stopped with the gradient at .* Raise `max_iterations`"
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


def test_draws_of_data_follow_the_likelihood() -> None:
    value = likelihood("real to complex", Gaussian(0.4), offset=True)
    x = random_element(FIELD, seed=1)
    drawn = value.draw(x.expand(4000, *x.shape), keys(4000))
    chi2 = ((drawn - value.predicted(x)).abs() / 0.4).square().flatten(1).sum(1)
    assert chi2.mean().item() == pytest.approx(2 * COMPLEX.size, abs=5 * math.sqrt(4 * COMPLEX.size / 4000))


@pytest.mark.parametrize("offset", [0.0, -0.4, "element"])
@pytest.mark.parametrize(("kind", "noise"), EVERY, ids=name)
def test_rescaling_changes_nothing(kind: str, noise: Noise, offset: float | str) -> None:
    value = likelihood(kind, noise, offset=True)
    shift = random_element(value.domain, seed=6) if isinstance(offset, str) else offset
    other = value.rescaled(0.7, shift)
    u = random_element(value.domain, 2, seed=7)
    x = 0.7 * u + shift
    assert close(other.log_likelihood(u), value.log_likelihood(x), 1e-12)
    assert close(other.gradient(u), 0.7 * value.gradient(x), 1e-11)
    assert other.is_linear == value.is_linear
    if isinstance(noise, (Gaussian, CorrelatedGaussian)):
        assert other.offset is None
    if value.is_linear_gaussian:
        (b, z), (b_x, z_x) = other.whitened, value.whitened
        assert close(z - b(u), z_x - b_x(x), 1e-11)
        assert (b._gram_spectrum is None) == (b_x._gram_spectrum is None)


def test_rescaling_skips_what_is_no_change() -> None:
    value = likelihood("real", Gaussian(0.4))
    assert value.rescaled(1.0) is value
    assert value.rescaled(1.0, 0.5).operator is value.operator
    assert value.rescaled(2.0).data is not None
    for scale, offset, message in (
        (0.0, 0.0, "`scale` must be a finite number > 0"),
        (1.0, math.nan, "`offset` must be a finite number"),
        (1.0, torch.zeros(3), "`offset` must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            value.rescaled(scale, offset)


def test_a_value_that_can_be_replaced_and_moved() -> None:
    value = likelihood("real", Gaussian(DATUM), offset=True)
    x = random_element(FIELD, 2, seed=1)
    before = value.log_likelihood(x)
    _ = value.whitened, value.laplacian(x)
    twin = dataclasses.replace(value, data=value.data + 1)
    assert close(twin.whitened[1] - value.whitened[1], (1 / DATUM).expand(FIELD.shape), 1e-10)
    there = value.to("meta")
    assert (there.device, there.noise.sigma.device) == (torch.device("meta"),) * 2  # type: ignore[attr-defined]
    assert not [key for key in vars(there) if key.startswith("_memo_")]
    with pytest.raises(ValueError, match=r"`device` must be a torch\.device"):
        value.to("nowhere")
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.data = x  # type: ignore[misc]
    data = value.data.clone()
    copied = Likelihood(value.operator, value.noise, data, value.offset)
    data.zero_()
    assert torch.equal(copied.log_likelihood(x), before)
    assert (value.domain, value.grid, value.dtype, value.device.type) == (FIELD, GRID, torch.float64, "cpu")
    assert len(repr(value)) < 300


@pytest.mark.parametrize(("kind", "noise"), EVERY, ids=name)
def test_precision_follows_x(kind: str, noise: Noise) -> None:
    value = likelihood(kind, noise, offset=True)
    x = 0.5 * random_element(value.domain, 2, seed=1)
    narrow = x.to(value.domain.dtype_like(torch.empty(0, dtype=torch.float32)))
    assert value.predicted(narrow).dtype == value.operator.codomain.dtype_like(narrow)
    assert close(value.log_likelihood(narrow), value.log_likelihood(x), 1e-4)
    pairs = [
        (value.gradient(narrow), value.gradient(x)),
        (value.curvature(narrow, narrow), value.curvature(x, x)),
    ]
    if value.is_linear:
        pairs.append((value.prox(narrow, 0.3), value.prox(x, 0.3)))
    for got, expected in pairs:
        assert got.dtype == narrow.dtype
        assert close(got.to(x.dtype), expected, 1e-3)


def test_bad_arguments_are_named() -> None:
    op = OPERATORS["real"]
    y = random_element(FIELD)
    for arguments, error, message in (
        ((1.0, Gaussian(1.0), y), TypeError, "`operator` must be an Operator, got float"),
        ((op, 0.1, y), TypeError, r"`noise` must be a Noise, got float\. White noise"),
        ((op, Gaussian(1.0), y[None]), ValueError, "`data` must have the shape of the operator's values"),
        ((op, Gaussian(1.0), y, y[None]), ValueError, r"`offset` must have shape \(1, 2, 4\)"),
        ((op, Gaussian(1.0), y, y * math.nan), ValueError, "`offset` must hold finite values"),
        ((op, Gaussian(1.0), y, y.to(torch.complex64)), TypeError, "`offset` must be real"),
        ((op.to("meta"), Gaussian(1.0), y), ValueError, "`operator, noise and data` must live on one device"),
    ):
        with pytest.raises(error, match=message):
            Likelihood(*arguments)  # type: ignore[arg-type]
    value = Likelihood(op, PoissonTransmission(100.0), y.abs())
    x = random_element(FIELD, 2)
    for attempt, error, message in (
        (lambda: value.log_likelihood(x[..., :3]), ValueError, r"`x` must have shape \(\.\.\., 1, 2, 4\)"),
        (lambda: value.gradient(x.to(torch.complex64)), TypeError, "`x` must be real"),
        (lambda: value.predicted(x.to("meta")), ValueError, "`x` must be on the operator's device"),
        (lambda: value.curvature(x, x[0]), ValueError, r"`v` must have the shape of x, \(2, 1, 2, 4\)"),
        (lambda: value.laplacian(x, probes=1), ValueError, "`probes` must be an integer >= 2"),
        (lambda: value.prox(x, 0.0), ValueError, "`r` must be a finite number > 0"),
        (lambda: value.prox(x, torch.ones(3)), ValueError, r"`r` must be a number or broadcast to \(2,\)"),
        (lambda: value.prox(x, 1.0, max_iterations=0), ValueError, "`max_iterations` must be"),
        (lambda: value.prox(x, 1.0, tolerance=0.0), ValueError, "`tolerance` must be"),
        (
            lambda: value.whitened,
            TypeError,
            "`likelihood` must be linear-Gaussian, got .*Poisson.* Use gradient",
        ),
        (lambda: value.prox_draw(x, 1.0, keys(2)), TypeError, "`likelihood` must be linear-Gaussian"),
    ):
        with pytest.raises(error, match=message):
            attempt()
    gaussian = Likelihood(op, Gaussian(1.0), y)
    with pytest.raises(ValueError, match=r"`c` must have shape \(3, 1, 2, 4\), got \(2, 1, 2, 4\)"):
        gaussian.prox_draw(x, 1.0, keys(3))
