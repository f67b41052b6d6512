"""Stacks of stars and time series are taken apart, and stay the sums they are."""

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from operators.linear import LinearOperator
from operators.mri.cartesian import CartesianGeometry
from operators.mri.coils import CoilImaging, Coils
from operators.mri.framewise import Framewise
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.nufft import NUFFT
from operators.mri.stacked import StackedNUFFT
from operators.mri.trajectories import radial, stack
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.operators.mri.kspace_oracle import FRAME, defining_sum, inside_nyquist, oblique, relative
from tests.oracles import random_element

GRID = Grid.from_spacing((3, 4, 5), (3.0, 2.0, 2.0), centre=(1.0, 2.0, 3.0))
EVEN = (np.arange(3) - 1) / 9.0
POSITIONS = {
    "even": EVEN,
    "two of them": EVEN[:2],
    "twice": np.repeat(EVEN, 2),
    "uneven": np.array([-0.1, 0.06]),
}


def stars(kz: np.ndarray) -> NonCartesianGeometry:
    return NonCartesianGeometry(stack(radial(3, 6, 2.0), kz), zero_phase=(1.0, -2.0, 3.0))


class TestStackOfStars(LinearOperatorContract):
    covers = (StackedNUFFT,)
    traceable = False

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return stars(POSITIONS["uneven"]).operator(GRID.crop((0, 0, 1), (2, 3, 4)), components=(2,))


class TestFrames(LinearOperatorContract):
    covers = (Framewise,)
    traceable = False

    def make(self, dtype: torch.dtype) -> LinearOperator:
        grid = Grid.plane((3, 2), 2.0).with_time(TimeAxis(2))
        path = np.stack([radial(5, 6, 2.0, angles="golden", first=5 * t) for t in range(2)])
        return NonCartesianGeometry(path).operator(grid, components=(2,))


@pytest.mark.parametrize("kz", POSITIONS.values(), ids=POSITIONS.keys())
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_a_stack_is_the_defining_sum_on_any_storage(kz: np.ndarray, order: tuple[int, int, int]) -> None:
    grid = GRID.permute(order).flip(0)
    geometry = stars(kz)
    op = geometry.operator(grid)
    assert isinstance(op, StackedNUFFT)
    x = random_element(op.domain)
    expected = defining_sum(geometry.trajectory, grid, geometry.frame, geometry.zero_phase, x)
    assert relative(op(x), expected) < 1e-11
    assert relative(op.gram(x), op.adjoint(op(x))) < 1e-11
    maps = random_element(Space((3, *grid.shape), is_complex=True))
    coils = geometry.operator(grid, components=(3,)) @ Coils(op.domain, maps)
    assert relative(coils.gram(x), coils.adjoint(coils(x))) < 1e-11


def test_what_is_no_stack_is_not_taken_apart() -> None:
    path = stack(radial(3, 6, 2.0), EVEN)
    turned = path.copy()
    turned[1, ..., :2] = turned[1, ..., 1::-1]  # another plane in the second partition
    for other in (turned, path[:, 0], path[:1]):
        assert isinstance(NonCartesianGeometry(other).operator(GRID), NUFFT)


def test_frames_of_a_series_go_each_their_way() -> None:
    grid = oblique((1, 5, 6)).with_time(TimeAxis(3))
    still = grid.with_time(None)
    path = inside_nyquist(still, FRAME, 3, 2, 7)
    geometry = NonCartesianGeometry(path, frame=FRAME)
    op = geometry.operator(grid, components=(2,))
    x = random_element(op.domain, 2)
    y = op(x)
    assert y.shape == (2, 2, 3, 2, 7)
    for t in range(3):
        alone = defining_sum(path[t], still, FRAME, geometry.zero_phase, x[1, 0, t])
        assert relative(y[1, 0, t], alone) < 1e-11
    space = Space.field(grid, is_complex=True)
    coils = op @ Coils(space, random_element(Space((2, *still.shape), is_complex=True)))
    assert isinstance(coils, CoilImaging)
    series = random_element(space, 2)
    assert op._gram_filters(series) is not None
    assert relative(coils.gram(series), coils.adjoint(coils(series))) < 1e-11


def test_frames_that_are_not_alike_are_summed_one_by_one() -> None:
    grid = Grid.plane((4, 3), 2.0)
    sums = NonCartesianGeometry(radial(2, 6, 2.0))
    op = Framewise(grid.with_time(TimeAxis(2)), [sums.operator(grid), sums.operator(grid, gram="direct")])
    x = random_element(op.domain)
    assert op._gram_filters(x) is None
    assert relative(op.gram(x), op.adjoint(op(x))) < 1e-11


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: stars(EVEN).operator(GRID.with_time(TimeAxis(2))),
            "`grid` must have the frames",
        ),
        (
            lambda: Framewise(GRID, [stars(EVEN).operator(GRID)]),
            "`grid` must have 1 frames",
        ),
        (
            lambda: Framewise(
                GRID.with_time(TimeAxis(2)), [stars(EVEN).operator(GRID), stars(EVEN[:2]).operator(GRID)]
            ),
            r"`operators\[1\]\.codomain` must have shape \(3, 3, 6\)",
        ),
        (
            lambda: Framewise(
                GRID.flip(0).with_time(TimeAxis(1)), [CartesianGeometry.around(GRID).operator(GRID)]
            ),
            "`grid` must be that of the operators",
        ),
        (
            lambda: StackedNUFFT(
                Space.field(GRID, is_complex=True), np.zeros((2, 3, 3)), np.zeros((2, 3)), 0
            ),
            "`frequency` must be a stack along axis 0",
        ),
    ],
)
def test_bad_stacks(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_frames_are_of_k_space() -> None:
    with pytest.raises(TypeError, match="`operators` must be k-space operators"):
        Framewise(GRID.with_time(TimeAxis(1)), [3])  # type: ignore[list-item]
