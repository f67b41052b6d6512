import cmath
import math

import pytest
import torch

from operators.diagonal import Diagonal
from operators.fourier import Fourier
from operators.grid import Grid
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.mask import Mask
from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from operators.stack import Stack
from tests.contracts import OperatorContract
from tests.oracles import dense, random_element

GRID = Grid.plane((4, 5), 1.0)
REAL, COMPLEX = Space.field(GRID), Space.field(GRID, is_complex=True)


def coded(dtype: torch.dtype = torch.float64) -> LinearOperator:
    """Return coded diffraction: three phase masks, each in front of a far field."""
    angles = random_element(Space((3, *GRID.shape)), seed=6)
    masks = torch.polar(torch.ones_like(angles), angles)
    masks = masks.to(torch.complex64 if dtype == torch.float32 else torch.complex128)
    return Stack([Fourier(COMPLEX) @ Diagonal(COMPLEX, mask) for mask in masks])


class TestIntensitiesOfCodedDiffraction(OperatorContract):
    covers = (PhaseRetrieval,)

    def make(self, dtype: torch.dtype) -> PhaseRetrieval:
        return PhaseRetrieval(coded(dtype))


class TestMagnitudesOfRealImages(OperatorContract):
    covers = (PhaseRetrieval,)

    def make(self, dtype: torch.dtype) -> PhaseRetrieval:
        return PhaseRetrieval(Fourier(REAL), power=1)


@pytest.mark.parametrize("power", [1, 2])
def test_derivatives_are_those_of_the_dense_formula(power: int) -> None:
    """J v = Re(w conj(z) B v) with w = 2, or 1 / |z|; its transpose over the real directions."""
    inner = coded()
    op = PhaseRetrieval(inner, power=power)  # type: ignore[arg-type]
    matrix = dense(inner)
    x, v, r = random_element(COMPLEX), random_element(COMPLEX, seed=2), random_element(op.codomain, seed=3)
    z = matrix @ x.flatten()
    weight = 2 * z.conj() if power == 2 else z.conj() / z.abs()
    jacobian = weight[:, None] * matrix
    assert (op(x).flatten() - z.abs() ** power).abs().max() < 1e-12
    assert (op.jvp(x, v).flatten() - (jacobian @ v.flatten()).real).abs().max() < 1e-12
    expected = jacobian.conj().T @ r.flatten().to(jacobian.dtype)
    assert (op.vjp(x, r).flatten() - expected).abs().max() < 1e-12


def test_real_values_keep_their_sign_in_the_derivative() -> None:
    matrix = random_element(Space((7, 20)))
    x, v = random_element(REAL), random_element(REAL, seed=2)
    z, direction = matrix @ x.flatten(), matrix @ v.flatten()
    intensities, magnitudes = (
        PhaseRetrieval(Matrix(REAL, Space((7,)), matrix), power=power)  # type: ignore[arg-type]
        for power in (2, 1)
    )
    assert (intensities(x) - z**2).abs().max() < 1e-12
    assert (intensities.jvp(x, v) - 2 * z * direction).abs().max() < 1e-12
    assert (magnitudes.jvp(x, v) - z.sign() * direction).abs().max() < 1e-12


@pytest.mark.parametrize("space", [REAL, COMPLEX])
def test_the_derivative_of_a_magnitude_at_zero_is_zero(space: Space) -> None:
    op = PhaseRetrieval(Identity(space), power=1)
    x = random_element(space)
    x[0, 1] = 0
    v = random_element(space, seed=2)
    r = torch.ones(GRID.shape, dtype=torch.float64)
    assert not op.jvp(x, v)[0, 1].any() and not op.vjp(x, r)[0, 1].any()
    leaf = x.clone().requires_grad_()
    op(leaf).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad - op.vjp(x, r)).abs().max() < 1e-15
    zero = op.vjp(torch.zeros_like(x), r)
    assert torch.isfinite(zero.abs()).all() and not zero.any()


def test_a_global_phase_does_not_show() -> None:
    x = random_element(COMPLEX)
    for power in (1, 2):
        op = PhaseRetrieval(coded(), power=power)  # type: ignore[arg-type]
        assert (op(cmath.exp(0.7j) * x) - op(x)).abs().max() < 1e-12
        # ... so no data tell about it: J (i x) = 0.
        assert op.jvp(x, 1j * x).abs().max() < 1e-12


def test_a_fourier_transform_alone_hides_shifts_and_mirrored_conjugates() -> None:
    op = PhaseRetrieval(Fourier(COMPLEX, centred=False))
    x = random_element(COMPLEX)
    assert (op(x.roll((1, 2), (-2, -1))) - op(x)).abs().max() < 1e-12
    assert (op(x.flip(-2, -1).conj()) - op(x)).abs().max() < 1e-12


def test_an_image_is_found_from_coded_intensities_up_to_its_phase() -> None:
    """Wirtinger flow in miniature: Gauss-Newton steps with jvp and vjp from a start nearby."""
    op = PhaseRetrieval(coded())
    truth = random_element(COMPLEX)
    data = op(truth)
    x = truth + 0.1 * random_element(COMPLEX, seed=8)
    for _ in range(400):
        x = x - 0.02 * op.vjp(x, op(x) - data)
    overlap = torch.vdot(x.flatten(), truth.flatten())
    assert (overlap / overlap.abs() * x - truth).norm() < 1e-3 * truth.norm()


def test_data_on_a_grid_stay_there_and_masked_detectors_work() -> None:
    assert PhaseRetrieval(Identity(COMPLEX)).codomain == REAL
    far = Fourier(COMPLEX)
    beamstop = torch.ones(GRID.shape, dtype=torch.bool)
    beamstop[0, 2, 2] = False
    op = PhaseRetrieval(Mask(far.codomain, beamstop, restrict=True) @ far)
    x = random_element(COMPLEX)
    assert (op(x) - far(x)[beamstop].abs() ** 2).abs().max() < 1e-13


@pytest.mark.parametrize("power", [0, 3, True, 1.5, math.nan])
def test_other_powers_are_refused(power: float) -> None:
    with pytest.raises(ValueError, match="`power` must be 1 for magnitudes or 2 for intensities"):
        PhaseRetrieval(Fourier(COMPLEX), power=power)  # type: ignore[arg-type]


def test_what_is_inside_must_be_linear() -> None:
    with pytest.raises(TypeError, match="`inner` must be a LinearOperator"):
        PhaseRetrieval(PhaseRetrieval(Fourier(COMPLEX)))  # type: ignore[arg-type]
