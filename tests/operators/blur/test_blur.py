import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from operators.blur import Blur, Boundary, convolution
from operators.blur.psf import BoxPSF, GaussianPSF
from operators.diagonal import Diagonal
from operators.grid import Grid, TimeAxis
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import TOLERANCE, adjoint_mismatch, dense, random_element

GRID = Grid.from_spacing((3, 6, 7), (4.0, 2.0, 1.0))


def kernel(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return random_element(Space(shape), dtype=torch.float64, seed=5).to(dtype)


def mild(psf: torch.Tensor) -> torch.Tensor:
    """Return the kernel with a large centre: one whose normal equations are soon solved."""
    psf = psf / psf.abs().sum()
    psf[tuple(k // 2 for k in psf.shape)] += 1
    return psf


def even(*shape: int) -> torch.Tensor:
    """Return a random kernel that is even along each axis, and no product of profiles."""
    values = kernel(*shape)
    for axis in range(values.ndim):
        values = values + values.flip(axis)
    return values


class TestReflectingBlurByTaps(LinearOperatorContract):
    covers = (Blur,)

    def make(self, dtype: torch.dtype) -> Blur:
        return Blur(Space.field(GRID), mild(kernel(1, 3, 4, dtype=dtype)), "reflect")


class TestReflectingBlurByFFTOfComplexImages(LinearOperatorContract):
    covers = (Blur,)

    def make(self, dtype: torch.dtype) -> Blur:
        space = Space.field(GRID, is_complex=True, components=(2,))
        return Blur(space, mild(kernel(6, 7, dtype=dtype)), "reflect")


class TestReflectingBlurOfAnEvenKernel(LinearOperatorContract):
    covers = (Blur,)

    def make(self, dtype: torch.dtype) -> Blur:
        return Blur(Space.field(GRID), even(1, 3, 3).to(dtype), "reflect")


class TestZeroBlurByProfilesOfComplexImages(LinearOperatorContract):
    covers = (Blur,)

    def make(self, dtype: torch.dtype) -> Blur:
        product = kernel(3, 1, dtype=dtype) * kernel(4, dtype=dtype)
        return Blur(Space.field(GRID, is_complex=True), product, "zero", axes=(-3, -1))


class TestValidBlurByFFT(LinearOperatorContract):
    covers = (Blur,)

    def make(self, dtype: torch.dtype) -> Blur:
        return Blur(Space.field(GRID), mild(kernel(3, 4, 5, dtype=dtype)), "valid")


class TestPeriodicBlurWiderThanTheField(LinearOperatorContract):
    covers = (Blur,)

    def make(self, dtype: torch.dtype) -> Blur:
        return Blur(Space.field(GRID, components=(2,)), kernel(5, 9, dtype=dtype), "periodic", axes=(-3, -1))


class TestPeriodicBlur(LinearOperatorContract):
    covers = (Blur,)

    def make(self, dtype: torch.dtype) -> Blur:
        return Blur(Space.field(GRID), kernel(3, 4, 5, dtype=dtype), "periodic")


class TestPeriodicBlurInPlaneOfComplexImages(LinearOperatorContract):
    covers = (Blur,)

    def make(self, dtype: torch.dtype) -> Blur:
        space = Space.field(GRID, is_complex=True, components=(2,))
        return Blur(space, kernel(3, 4, dtype=dtype), "periodic")


def test_is_the_circular_convolution() -> None:
    psf = kernel(3, 3)
    space = Space.field(Grid.plane((5, 6), 1.0))
    x = random_element(space)
    expected = torch.zeros_like(x)
    for i in range(3):
        for j in range(3):
            # The centre of three samples is index 1: entry (i, j) moves the image by (i - 1, j - 1).
            expected += psf[i, j] * x.roll((i - 1, j - 1), (-2, -1))
    assert (Blur(space, psf, "periodic")(x) - expected).abs().max() < 1e-13


def test_gaussian_has_the_stated_width_in_mm_and_keeps_the_mean() -> None:
    grid = Grid.plane((64, 128), (2.0, 1.0))
    point = torch.zeros(grid.shape, dtype=torch.float64)
    point[0, 32, 64] = 1
    spread = Blur(Space.field(grid), GaussianPSF((0.0, 12.0, 12.0)), "periodic")(point)[0]
    assert spread.sum().item() == pytest.approx(1.0)
    for profile, spacing in ((spread.sum(1), 2.0), (spread.sum(0), 1.0)):
        position = torch.arange(len(profile)) * spacing
        mean = (profile * position).sum()
        sd = ((profile * (position - mean) ** 2).sum()).sqrt().item()
        assert sd == pytest.approx(12.0 / (2 * math.sqrt(2 * math.log(2))), rel=1e-3)


BOUNDARIES: list[Boundary] = ["periodic", "reflect", "zero", "valid"]
#: What scipy.ndimage calls the same ends.
SCIPY = {"periodic": "wrap", "reflect": "reflect", "zero": "constant"}


def by_scipy(x: np.ndarray, psf: np.ndarray, boundary: str) -> np.ndarray:
    """Return the convolution with the centre of each axis of `psf` at index k // 2."""
    if boundary == "valid":
        return signal.convolve(x, psf, mode="valid", method="direct")
    return ndimage.convolve(x, psf, mode=SCIPY[boundary])


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 3, 3), (2, 4, 2), (1, 5, 6), (3, 6, 7), (2, 1, 1)])
def test_is_scipys_convolution(shape: tuple[int, ...], boundary: Boundary) -> None:
    psf, space = kernel(*shape), Space.field(GRID)
    op, x = Blur(space, psf, boundary), random_element(space, 2)
    for row, got in zip(x, op(x), strict=True):
        expected = by_scipy(row.numpy(), psf.numpy(), boundary)
        assert np.abs(got.numpy() - expected).max() < 1e-12 * float(psf.abs().sum())


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(3, 4), (4, 5), (1, 3), (7, 1), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_taps_and_fft_agree_and_are_adjoint(
    shape: tuple[int, ...], boundary: Boundary, dtype: torch.dtype
) -> None:
    psf = kernel(*shape)
    field = (2, 7, 8)
    x = random_element(Space(field), dtype=dtype)
    one, other = (convolution.plan(psf, field, boundary, taps=taps) for taps in (True, False))
    bound = TOLERANCE[dtype] * float(psf.abs().sum())
    assert (one.forward(x) - other.forward(x)).abs().max() <= bound
    y = random_element(Space(tuple(one.forward(x).shape)), dtype=dtype, seed=3)
    assert (one.backward(y) - other.backward(y)).abs().max() <= bound


@pytest.mark.parametrize("boundary", ["periodic", "reflect", "zero"])
def test_kernels_may_exceed_the_field(boundary: Boundary) -> None:
    psf, space = kernel(9, 25), Space((4, 5))
    x = random_element(space)
    expected = by_scipy(x.numpy(), psf.numpy(), boundary)
    assert np.abs(Blur(space, psf, boundary)(x).numpy() - expected).max() < 1e-11
    assert adjoint_mismatch(Blur(space, psf, boundary), torch.float64, "correlated") < 1e-12


def test_valid_values_lie_where_their_grid_says() -> None:
    """A point stays at its world position, for odd and even kernels, in space and in time."""
    grid = Grid.from_spacing((5, 8, 9), (4.0, 2.0, 1.0), centre=(3, 4, 5)).with_time(TimeAxis(6, 0.5, 2.0))
    psf = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    psf[1, 1, 2, 2] = 1  # the centre of each
    op = Blur(Space.field(grid), psf, "valid")
    there = op.codomain.grid
    assert there is not None
    assert op.codomain.shape == there.array_shape == (5, 3, 5, 5)
    world = there.index_to_world(np.stack(np.meshgrid(*map(np.arange, there.shape), indexing="ij"), -1))
    index = np.rint(grid.world_to_index(world)).astype(int)
    assert np.abs(grid.index_to_world(index) - world).max() < 1e-12
    times = there.time
    assert times is not None
    frames = np.rint((times.start + times.step * np.arange(times.count) - 2.0) / 0.5).astype(int)
    x = random_element(op.domain)
    assert torch.equal(op(x), x[frames][:, index[..., 0], index[..., 1], index[..., 2]])


@pytest.mark.parametrize("boundary", ["periodic", "reflect", "zero", "valid"])
@pytest.mark.parametrize(
    ("psf", "exact"),
    [
        (GaussianPSF((5.0, 3.0, 2.0), reach=2), {"periodic", "reflect", "zero", "valid"}),
        (kernel(3, 1, 1) * kernel(4, 1) * kernel(2), {"periodic", "reflect", "zero", "valid"}),
        (even(3, 3, 3), {"periodic", "reflect"}),
        (kernel(3, 3, 3), {"periodic"}),
        (torch.tensor([0.5]), {"periodic", "reflect", "zero", "valid"}),
    ],
)
def test_which_solves_are_exact(psf: GaussianPSF | torch.Tensor, exact: set[str], boundary: Boundary) -> None:
    op = Blur(Space.field(GRID), psf, boundary)
    assert op.has_closed_form == op.has_svd == (boundary in exact)
    if op.has_svd:
        values = torch.linalg.svdvals(dense(op))
        stated = op.svd().s.flatten().sort(descending=True).values
        assert (stated[: len(values)] - values).abs().max() <= 1e-12 * values[0]


def test_a_constant_stays_constant_where_the_ends_allow_it() -> None:
    space = Space.field(GRID)
    for boundary in ("periodic", "reflect", "valid"):
        op = Blur(space, GaussianPSF((0, 2.5, 1.5), reach=2), boundary)
        assert (op(torch.ones(space.shape, dtype=torch.float64)) - 1).abs().max() < 1e-14
    zero = Blur(space, GaussianPSF((4.0, 2.5, 1.5)), "zero")(torch.ones(space.shape, dtype=torch.float64))
    assert zero.max() < 1 and zero.min() > 0.1


def test_frames_are_blurred_one_by_one() -> None:
    moving = GRID.with_time(TimeAxis(3))
    x = random_element(Space.field(moving))
    for boundary in BOUNDARIES:
        still = Blur(Space.field(GRID), BoxPSF((8.0, 5.0, 3.0)), boundary)
        film = Blur(Space.field(moving), BoxPSF((8.0, 5.0, 3.0)), boundary)
        assert (film(x) - still(x)).abs().max() < 1e-14
        assert film.codomain.grid is not None
        assert film.codomain.grid.time == TimeAxis(3)


def test_products_with_a_periodic_blur_keep_the_closed_form() -> None:
    space = Space.field(GRID)
    blur = Blur(space, kernel(3, 3), "periodic")
    assert (blur @ Blur(space, GaussianPSF(2.0), "periodic")).has_closed_form
    assert (Diagonal(space, torch.tensor(2.0)) @ blur).has_closed_form
    assert blur.H.has_closed_form


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda s: Blur(s, kernel(3, 3), "mirror"),
            ValueError,
            "`boundary` must be one of periodic, reflect",
        ),
        (lambda s: Blur(s, kernel(4, 3, 3), "valid"), ValueError, "`psf` must have at most the shape of the"),
        (lambda s: Blur(s, kernel(1, 1, 1, 1)), ValueError, "`psf` must have 1 to 3 axes"),
        (lambda s: Blur(s, torch.zeros(3)), ValueError, "`psf` must have an entry that is not zero"),
        (lambda s: Blur(s, torch.full((3,), math.nan)), ValueError, "`psf` must hold finite values"),
        (lambda s: Blur(s, torch.ones(3) * 1j), TypeError, "`psf` must be real"),
        (lambda s: Blur(s, torch.ones(3, requires_grad=True)), ValueError, "`psf` must not require a grad"),
        (lambda s: Blur(s, [1.0, 2.0]), TypeError, "`psf` must be a PSF .* got list. Use"),
        (lambda s: Blur(s, kernel(3, 3), axes=(-1,)), ValueError, "`axes` must name one axis for each of"),
        (lambda s: Blur(s, kernel(3, 3), axes=(-1, -3)), ValueError, "`axes` must be in ascending order"),
        (lambda s: Blur(s, kernel(3), axes=(3,)), ValueError, r"`axes` must name axes of \(3, 6, 7\)"),
        (lambda s: Blur(s, kernel(3), axes=(0.5,)), TypeError, "`axes` must be integers"),
        (lambda s: Blur(s, GaussianPSF(2.0), axes=(0,)), ValueError, "`axes` must be left out for a PSF"),
        (lambda _: Blur(Space((4, 4)), GaussianPSF(2.0)), ValueError, "`domain` must lie on a Grid"),
        (lambda _: Blur(Space.tokens(GRID, 3), kernel(3)), TypeError, "`domain` must be a field of numbers"),
        (lambda _: Blur(GRID, kernel(3)), TypeError, "`domain` must be a Space"),
    ],
)
def test_bad_blurs(make: Callable[[Space], Blur], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(Space.field(GRID))
