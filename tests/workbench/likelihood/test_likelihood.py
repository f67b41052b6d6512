import dataclasses
import math

import pytest
import torch
from torch import Tensor

from operators.base import Operator
from operators.blur import Blur, GaussianPSF
from operators.diagonal import Diagonal
from operators.fourier import Fourier
from operators.identity import Identity
from operators.linear import LinearOperator
from tests.contracts import close
from tests.likelihood_cases import (
    COMPLEX,
    DATUM,
    EVERY,
    FIELD,
    GRID,
    OPERATORS,
    Bent,
    as_real,
    dense_hessian,
    likelihood,
    name,
    weights,
)
from tests.noise_contract import keys
from tests.oracles import random_element
from workbench.likelihood import Likelihood
from workbench.noise.base import Noise
from workbench.noise.gaussian import CorrelatedGaussian, Gaussian
from workbench.noise.poisson import LogTransmission, PoissonTransmission
from workbench.noise.rician import Rician


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
        (Blur(FIELD, GaussianPSF(1.5), "periodic"), 0.3),
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
