from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from operators.grid import Grid, TimeAxis
from operators.slice_profile import (
    BoxProfile,
    Downsample,
    GaussianProfile,
    Profile,
    SampledProfile,
    SliceProfile,
)
from operators.space import Space
from operators.stack import Stack
from tests.contracts import LinearOperatorContract
from tests.oracles import dense, random_element

THIN = Grid.from_spacing((12, 2, 3), (1.0, 0.8, 0.9), centre=(5, 6, 7))
FIELD = Space.field(THIN)


def thick(shape: int, spacing: float, *, shift: float = 0.0) -> Grid:
    centre = (5.0, 6.0, 7.0 + shift)
    return Grid.from_spacing((shape, 2, 3), (spacing, 0.8, 0.9), centre=centre)


class TestOverlappingGaussianSlices(LinearOperatorContract):
    covers = (SliceProfile,)

    def make(self, dtype: torch.dtype) -> SliceProfile:
        space = Space.field(THIN, is_complex=True)
        return SliceProfile(space, thick(4, 2.7), GaussianProfile(4.0), edges="zero")


class TestDownsample(LinearOperatorContract):
    covers = (Downsample,)

    def make(self, dtype: torch.dtype) -> Downsample:
        return Downsample(Space.field(THIN, components=(2,)), (3, 2, 1))


PROFILES: list[tuple[Profile, Callable[[float], float]]] = [
    (BoxProfile(3.3), lambda z: float(abs(z) <= 1.65) / 3.3),
    (GaussianProfile(3.0), lambda z: float(stats.norm.pdf(z, scale=3 / 2.3548200450309493))),
    (
        SampledProfile((-2.0, -1.0, 0.5, 2.5), (-0.1, 1.0, 0.8, 0.0)),
        lambda z: float(np.interp(z, (-2, -1, 0.5, 2.5), (-0.1, 1, 0.8, 0), left=0, right=0) / 2.6),
    ),
]


@pytest.mark.parametrize(("profile", "density"), PROFILES)
@pytest.mark.parametrize("reverse", [False, True])
def test_weights_are_the_integrals_over_thin_voxels(
    profile: Profile, density: Callable[[float], float], reverse: bool
) -> None:
    """Also where the thick slices run the other way: an uneven profile then turns with them."""
    grid = thick(4, 2.7, shift=0.3)
    op = SliceProfile(FIELD, grid.flip(0) if reverse else grid, profile, edges="zero")
    got = op.matrices[0].value.flip(0) if reverse else op.matrices[0].value
    way = -1 if reverse else 1
    for i in range(4):
        centre = 5.5 + 0.3 + (i - 1.5) * 2.7
        for j in range(12):
            low, high = sorted((way * (j - 0.5 - centre), way * (j + 0.5 - centre)))
            breaks = [b for b in (-2, -1.65, -1, 0.5, 1.65, 2.5) if low < b < high] or None
            expected, _ = integrate.quad(density, low, high, points=breaks)
            assert got[i, j].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("profile", [None, *(p for p, _ in PROFILES)])
def test_a_constant_volume_stays_constant_and_with_zero_outside_only_inside(profile: Profile | None) -> None:
    ones = torch.ones(THIN.shape, dtype=torch.float64)
    grid = thick(6, 2.2)
    assert (SliceProfile(FIELD, grid, profile)(ones) - 1).abs().max() < 1e-14
    dark = SliceProfile(FIELD, grid, profile, edges="zero")(ones)
    assert (dark[2:4] - 1).abs().max() < 1e-3  # a Gaussian of 3 mm is 4e-5 beyond 5 mm
    assert dark[0].max() < 1


def test_aligned_boxes_are_block_means() -> None:
    x = random_element(FIELD, 2)
    sliced, mean = SliceProfile(FIELD, THIN.downsample((3, 1, 1))), Downsample(FIELD, (3, 1, 1))
    assert (sliced(x) - mean(x)).abs().max() < 1e-15
    assert (mean(x) - x.unflatten(1, (4, 3)).mean(2)).abs().max() < 1e-15
    assert mean.codomain.grid == THIN.downsample((3, 1, 1))


def test_slices_may_run_along_any_axis_of_films_of_coils() -> None:
    grid = Grid.from_spacing((2, 12, 3), (2.0, 1.0, 0.9)).with_time(TimeAxis(2))
    space = Space.field(grid, is_complex=True, components=(2,))
    coarse = Grid.from_spacing((2, 3, 3), (2.0, 4.0, 0.9)).with_time(TimeAxis(2))
    op = SliceProfile(space, coarse, axis=1)
    x = random_element(space)
    assert op.codomain.shape == (2, 2, 2, 3, 3)
    assert (op(x) - x.unflatten(3, (3, 4)).mean(4)).abs().max() < 1e-15


def test_noiseless_thick_slices_that_overlap_give_the_thin_ones_back() -> None:
    """Two interleaved stacks determine what one cannot."""
    stacks = [SliceProfile(FIELD, thick(6, 2.0, shift=s), BoxProfile(2.0), edges="zero") for s in (0, 1)]
    x = random_element(FIELD)
    both = Stack([*stacks])
    solved = both.normal_solve(both.adjoint(both(x)), 1e-6, tolerance=1e-12, max_iterations=5000)
    assert (solved - x).norm() < 1e-3 * x.norm()
    alone = stacks[0].pinv(stacks[0](x))
    assert (alone - x).norm() > 0.5 * x.norm()
    assert (stacks[0](alone) - stacks[0](x)).abs().max() < 1e-12


def test_the_pseudo_inverse_of_a_block_mean_repeats_it() -> None:
    op = Downsample(FIELD, (3, 2, 1))
    y = random_element(op.codomain)
    repeated = y.repeat_interleave(3, 0).repeat_interleave(2, 1)
    assert (op.pinv(y) - repeated).abs().max() < 1e-14
    assert op.norm() == pytest.approx(6**-0.5)
    assert (op.measurement_solve(y, 0.5) - y / (1 / 6 + 0.5)).abs().max() < 1e-14
    with pytest.raises(ValueError, match=r"`c` must be larger here"):
        op.normal_solve(random_element(FIELD), 0.0)
    assert Downsample(FIELD, 1).is_unitary
    assert (dense(Downsample(FIELD, 1)) - torch.eye(FIELD.size)).abs().max() == 0


def tilted() -> Grid:
    affine = thick(4, 3.0).affine.copy()
    affine[0, 0] = 0.1
    return Grid((4, 2, 3), affine)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SliceProfile(FIELD, tilted()), ValueError, "`thick` must be coaxial with the thin grid"),
        (
            lambda: SliceProfile(FIELD, THIN.crop((0, 0, 0), (4, 2, 2))),
            ValueError,
            "`thick` must have the shape",
        ),
        (
            lambda: SliceProfile(FIELD, thick(4, 3.0).with_time(TimeAxis(2))),
            ValueError,
            "`thick` must have the sh",
        ),
        (
            lambda: SliceProfile(FIELD, Grid.from_spacing((4, 2, 3), (3.0, 0.8, 1.0))),
            ValueError,
            "`thick` must be coaxial",
        ),
        (
            lambda: SliceProfile(FIELD, thick(5, 3.1)),
            ValueError,
            "`thick` must have the centre of every slice",
        ),
        (
            lambda: SliceProfile(FIELD, thick(1, 3.0, shift=-6.0), SampledProfile((-9.0, 0.1), (1.0, 1.0))),
            ValueError,
            "`thick` must have a tenth of every profile",
        ),
        (lambda: SliceProfile(Space((4, 4)), THIN), ValueError, "`domain` must lie on a Grid"),
        (lambda: SliceProfile(FIELD, None), TypeError, "`thick` must be a Grid"),  # type: ignore[arg-type]
        (lambda: SliceProfile(FIELD, THIN, "box"), TypeError, "`profile` must be a Profile"),  # type: ignore[arg-type]
        (lambda: SliceProfile(FIELD, THIN, axis=3), ValueError, "`axis` must name array axes"),
        (lambda: SliceProfile(FIELD, THIN, edges="air"), ValueError, "`edges` must be 'renormalise'"),  # type: ignore[arg-type]
        (lambda: BoxProfile(0.0), ValueError, "`thickness` must be a finite number > 0"),
        (lambda: GaussianProfile(-1.0), ValueError, "`fwhm` must be a finite number > 0"),
        (lambda: SampledProfile((0.0,), (1.0,)), ValueError, "`offsets` must be two numbers or more"),
        (lambda: SampledProfile((0.0, 1.0), (1.0, 2.0, 3.0)), ValueError, "`weights` must be as many as off"),
        (lambda: SampledProfile((1.0, 0.0), (1.0, 1.0)), ValueError, "`offsets` must rise"),
        (
            lambda: SampledProfile((0.0, 1.0), (1.0, -1.0)),
            ValueError,
            "`weights` must have a positive integral",
        ),
        (lambda: Downsample(FIELD, (5, 1, 1)), ValueError, "`factor` must divide the shape"),
        (lambda: Downsample(Space((4, 4)), 2), ValueError, "`domain` must lie on a Grid"),
    ],
)
def test_bad_slices(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
