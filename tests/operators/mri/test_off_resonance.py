"""A field map against the direct sum with its phase, on spirals and on Cartesian readouts."""

import numpy as np
import pytest
import torch

from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mri.cartesian import CartesianGeometry
from operators.mri.coils import CoilImaging, Coils
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.off_resonance import OffResonance, SegmentedReadout
from operators.mri.trajectories import spiral
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.operators.mri.kspace_oracle import FRAME, defining_sum, inside_nyquist, oblique, relative
from tests.oracles import random_element

GRID = Grid.plane((9, 10), 4.0, centre=(2.0, -3.0, 0.0))
TIMES = np.linspace(2e-3, 20e-3, 25)


def field_on(grid: Grid) -> torch.Tensor:
    """Return -40 to 120 Hz, smooth, with a step."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    return torch.from_numpy(40 * np.sin(y / 2.0) + 8 * x * (x > 4) + 2.0 * z)


def spirals() -> NonCartesianGeometry:
    return NonCartesianGeometry(spiral(2, 25, 4.0, 40.0))


class TestSegmentedReadout(LinearOperatorContract):
    covers = (SegmentedReadout,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        grid = Grid.plane((3, 4), 4.0)
        encoding = CartesianGeometry.around(grid)
        scan = OffResonance(encoding, field_on(grid), grid, np.linspace(0, 0.01, 4), segments=3)
        return scan.operator(grid, components=(2,))


@pytest.mark.parametrize("accuracy", [1e-1, 1e-3, 1e-6, 1e-9])
def test_a_spiral_sees_the_field(accuracy: float) -> None:
    geometry, field = spirals(), field_on(GRID)
    op = OffResonance(geometry, field, GRID, TIMES, accuracy).operator(GRID)
    x = random_element(op.domain)
    turns = np.tile(TIMES, 2)[:, None] * field.numpy().ravel()
    expected = defining_sum(geometry.trajectory, GRID, geometry.frame, geometry.zero_phase, x, turns=turns)
    # The error per voxel and sample is below the accuracy; with random phases their sum does not exceed it.
    assert relative(op(x), expected) < accuracy
    assert relative(geometry.operator(GRID)(x), expected) > 0.5


def test_fewer_segments_for_less_accuracy_and_one_for_no_field() -> None:
    geometry, field = spirals(), field_on(GRID)
    counts = [
        len(OffResonance(geometry, field, GRID, TIMES, a).operator(GRID).taus) for a in (1e-1, 1e-3, 1e-6)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] < len(TIMES)
    still = OffResonance(geometry, 0 * field, GRID, TIMES).operator(GRID)
    assert len(still.taus) == 1
    x = random_element(still.domain)
    assert relative(still(x), geometry.operator(GRID)(x)) < 1e-12
    shifted = OffResonance(geometry, 0 * field + 30.0, GRID, TIMES).operator(GRID)
    phase = torch.from_numpy(np.exp(-2j * np.pi * 30.0 * TIMES))
    assert len(shifted.taus) == 1
    assert relative(shifted(x), geometry.operator(GRID)(x) * phase) < 1e-10


def test_a_cartesian_readout_is_distorted_along_its_axis() -> None:
    grid = oblique((2, 4, 6))
    encoding = CartesianGeometry.around(grid)
    field = field_on(grid)
    times = 5e-3 + 4e-4 * np.arange(6)
    op = OffResonance(encoding, field, grid, times, accuracy=1e-8).operator(grid)
    x = random_element(op.domain)
    m = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in grid.shape], indexing="ij"), axis=-1)
    k = (m / np.array(encoding.field_of_view))[..., ::-1]
    turns = np.broadcast_to(times, grid.shape).reshape(-1, 1) * field.numpy().ravel()
    expected = defining_sum(k, grid, encoding.frame, encoding.zero_phase, x, turns=turns)
    assert relative(op(x), expected) < 1e-8


def test_each_shot_may_have_times_of_its_own_and_coils_see_it_alike() -> None:
    grid = oblique((1, 5, 6))
    path = inside_nyquist(grid, FRAME, 2, 7)
    times = np.stack([np.linspace(0, 0.01, 7), np.linspace(0.02, 0.03, 7)])
    scan = OffResonance(NonCartesianGeometry(path, frame=FRAME), field_on(grid), grid, times, 1e-8)
    x = random_element(scan.operator(grid).domain)
    turns = times.reshape(-1, 1) * field_on(grid).numpy().ravel()
    expected = defining_sum(path, grid, FRAME, (0.0, 0.0, 0.0), x, turns=turns)
    assert relative(scan.operator(grid)(x), expected) < 1e-7
    maps = random_element(Space((3, *grid.shape), is_complex=True))
    coils = scan.operator(grid, components=(3,)) @ Coils(Space.field(grid, is_complex=True), maps)
    assert isinstance(coils, CoilImaging)
    assert relative(coils(x)[1], scan.operator(grid)(maps[1] * x)) < 1e-12
    assert relative(coils.gram(x), coils.adjoint(coils(x))) < 1e-12


class WithoutComponents:
    def operator(self, grid: Grid) -> None: ...


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"geometry": 3}, TypeError, r"`geometry` must have operator\(grid\)"),
        ({"geometry": WithoutComponents()}, TypeError, "have operator.grid, components"),
        ({"field": field_on(GRID)[0]}, ValueError, r"`field` must have shape \(1, 9, 10\), in Hz"),
        ({"field": field_on(GRID) * 1j}, TypeError, "`field` must be real, in Hz, got torch.complex"),
        ({"field": field_on(GRID) * float("nan")}, ValueError, "`field` must hold finite values"),
        ({"times": "a"}, TypeError, "`times` must be numbers, in s"),
        ({"times": [0.0, float("nan")]}, ValueError, "`times` must be finite times in s"),
        ({"times": TIMES[:7]}, ValueError, r"`times` must broadcast to the data of one coil, \(2, 25\)"),
        ({"times": np.zeros((3, 2, 25))}, ValueError, "`times` must broadcast to the data"),
        ({"accuracy": 0.0}, ValueError, "`accuracy` must be a finite number > 0"),
        ({"segments": 0}, ValueError, "`segments` must be an integer >= 1"),
        ({"times": 100 * TIMES, "accuracy": 1e-17}, ValueError, "`accuracy` must be reached with"),
        ({"grid": GRID.flip(1)}, ValueError, "`grid` must be the field map's"),
    ],
)
def test_bad_field_maps(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = OffResonance(spirals(), field_on(GRID), GRID, TIMES)
    with pytest.raises(error, match=message):
        good.with_(**change).operator(GRID)
