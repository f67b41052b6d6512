import math

import pytest
import torch

from operators.blur import PeriodicBlur
from operators.grid import Grid
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import random_element

GRID = Grid.from_spacing((3, 6, 7), (4.0, 2.0, 1.0))


def kernel(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return random_element(Space(shape), dtype=torch.float64, seed=5).to(dtype)


class TestBlur(LinearOperatorContract):
    covers = (PeriodicBlur,)

    def make(self, dtype: torch.dtype) -> PeriodicBlur:
        return PeriodicBlur(Space.field(GRID), kernel(3, 4, 5, dtype=dtype))


class TestBlurInPlaneOfComplexImages(LinearOperatorContract):
    covers = (PeriodicBlur,)

    def make(self, dtype: torch.dtype) -> PeriodicBlur:
        return PeriodicBlur(Space.field(GRID, is_complex=True, components=(2,)), kernel(3, 4, dtype=dtype))


class TestGaussianBlur(LinearOperatorContract):
    covers = (PeriodicBlur,)

    def make(self, dtype: torch.dtype) -> PeriodicBlur:
        return PeriodicBlur.gaussian(Space.field(GRID), (0.0, 3.0, 2.0))


def test_is_the_circular_convolution() -> None:
    psf = kernel(3, 3)
    space = Space.field(Grid.plane((5, 6), 1.0))
    x = random_element(space)
    expected = torch.zeros_like(x)
    for i in range(3):
        for j in range(3):
            # The centre of three samples is index 1: entry (i, j) moves the image by (i - 1, j - 1).
            expected += psf[i, j] * x.roll((i - 1, j - 1), (-2, -1))
    assert (PeriodicBlur(space, psf)(x) - expected).abs().max() < 1e-13


def test_gaussian_has_the_stated_width_in_mm_and_keeps_the_mean() -> None:
    grid = Grid.plane((64, 128), (2.0, 1.0))
    point = torch.zeros(grid.shape, dtype=torch.float64)
    point[0, 32, 64] = 1
    spread = PeriodicBlur.gaussian(Space.field(grid), (0.0, 12.0, 12.0))(point)[0]
    assert spread.sum().item() == pytest.approx(1.0)
    for profile, spacing in ((spread.sum(1), 2.0), (spread.sum(0), 1.0)):
        position = torch.arange(len(profile)) * spacing
        mean = (profile * position).sum()
        sd = ((profile * (position - mean) ** 2).sum()).sqrt().item()
        assert sd == pytest.approx(12.0 / (2 * math.sqrt(2 * math.log(2))), rel=1e-3)


@pytest.mark.parametrize(
    ("psf", "error", "message"),
    [
        (torch.ones(1, 7, 7), ValueError, r"`psf` must have at most the shape of the field"),
        (torch.ones(1, 1, 1, 1), ValueError, "`psf` must have at most"),
        (torch.full((3,), math.inf), ValueError, "`psf` must hold finite values"),
        (torch.ones(3) * 1j, TypeError, "`psf` must be real"),
    ],
)
def test_bad_kernels(psf: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PeriodicBlur(Space.field(GRID), psf)


def test_negative_width_and_missing_grid() -> None:
    with pytest.raises(ValueError, match=r"`fwhm\[1\]` must be a finite number >= 0, got -1"):
        PeriodicBlur.gaussian(Space.field(GRID), (0, -1, 0))
    with pytest.raises(ValueError, match="`domain` must lie on a Grid"):
        PeriodicBlur.gaussian(Space((4, 4)), 1.0)
