"""The nonuniform sum against the defining sum over world positions, for each engine."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from operators.frame import DeviceFrame
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mri import engines, nufft, nufft_torch
from operators.mri.cartesian import CartesianGeometry
from operators.mri.coils import Coils
from operators.mri.engines import DEFAULT_ACCURACY, ENGINES
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.nufft import NUFFT
from operators.mri.trajectories import kooshball, radial
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.operators.mri.kspace_oracle import FRAME, defining_sum, inside_nyquist, oblique, relative
from tests.oracles import adjoint_mismatch, random_element

ON_CPU = ("finufft", "torch")
SHAPES = [(3, 4, 5), (1, 7, 6), (3, 1, 5), (1, 1, 8)]


def scan(shape: tuple[int, int, int], *samples: int) -> tuple[Grid, NonCartesianGeometry]:
    grid = oblique(shape)
    k = inside_nyquist(grid, FRAME, *samples)
    return grid, NonCartesianGeometry(k, zero_phase=(3.0, -4.0, 5.0), frame=FRAME)


class TestFinufft(LinearOperatorContract):
    covers = (NUFFT,)
    traceable = False

    def make(self, dtype: torch.dtype) -> LinearOperator:
        grid, geometry = scan((1, 4, 5), 3, 9)
        return geometry.operator(grid, components=(2,), engine="finufft")


class TestGridding(LinearOperatorContract):
    covers = (NUFFT,)
    traceable = False

    def make(self, dtype: torch.dtype) -> LinearOperator:
        grid, geometry = scan((2, 4, 3), 40)
        return geometry.operator(grid, engine="torch")


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_defining_sum_wherever_the_grid_lies(engine: str, shape: tuple[int, int, int]) -> None:
    grid, geometry = scan(shape, 4, 9)
    x = random_element(Space.field(grid, is_complex=True))
    expected = defining_sum(geometry.trajectory, grid, FRAME, geometry.zero_phase, x)
    op = geometry.operator(grid, engine=engine)
    assert relative(op(x), expected) < 1e-11
    single = op(x.to(torch.complex64))
    # Rounding of the frequencies, of their phases and of the sum beside the accuracy of the kernel.
    assert relative(single.to(torch.complex128), expected) < 2 * DEFAULT_ACCURACY[torch.float32]


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("accuracy", [1e-2, 1e-4, 1e-7, 1e-10])
def test_the_accuracy_asked_for_is_met_and_the_adjoint_exact(engine: str, accuracy: float) -> None:
    grid, geometry = scan((4, 20, 18), 300)
    op = geometry.operator(grid, engine=engine, accuracy=accuracy)
    x = random_element(op.domain)
    expected = defining_sum(geometry.trajectory, grid, FRAME, geometry.zero_phase, x)
    # finufft states its accuracy to a factor of a few, in three dimensions more.
    assert relative(op(x), expected) < 5 * accuracy
    assert adjoint_mismatch(op, torch.float64, "correlated") < 1e-14
    assert adjoint_mismatch(op, torch.float32, "correlated") < 1e-6


@pytest.mark.parametrize("engine", ON_CPU)
def test_the_adjoint_stays_exact_in_single_precision_at_the_size_of_a_scan(engine: str) -> None:
    op = NonCartesianGeometry(radial(200, 256, 1.0)).operator(Grid.plane((128, 128), 1.0), engine=engine)
    x = torch.ones(op.domain.shape, dtype=torch.complex64)  # nearly all of its energy at the crowded centre
    y = op(x)
    energy = y.to(torch.complex128).abs().square().sum()
    back = torch.vdot(x.flatten().to(torch.complex128), op.adjoint(y).flatten().to(torch.complex128))
    assert (back - energy).abs() < 1e-6 * energy


@pytest.mark.parametrize("engine", ON_CPU)
def test_single_precision_survives_a_crowded_centre(engine: str) -> None:
    # Thousands of samples at k = 0 swamp the rounding of what the window holds at the image's corners.
    grid = Grid.from_spacing((24, 24, 24), 2.0)
    geometry = NonCartesianGeometry(kooshball(200, 48, 2.0))
    op = geometry.operator(grid, engine=engine)
    y = random_element(op.codomain)
    expected = geometry.operator(grid, engine="finufft").adjoint(y)
    single = op.adjoint(y.to(torch.complex64)).to(torch.complex128)
    assert relative(single, expected) < 2 * DEFAULT_ACCURACY[torch.float32]


@pytest.mark.parametrize("engine", ON_CPU)
def test_on_the_frequencies_of_a_box_it_is_the_cartesian_encoding(engine: str) -> None:
    grid = oblique((3, 4, 5))
    geometry = CartesianGeometry.around(grid)
    m = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in grid.shape], indexing="ij"), axis=-1)
    k = (m / np.array(geometry.field_of_view))[..., ::-1]
    op = NonCartesianGeometry(k.reshape(-1, 3), frame=geometry.frame).operator(grid, engine=engine)
    x = random_element(op.domain)
    assert relative(op(x).reshape(grid.shape), geometry.operator(grid)(x)) < 1e-11


@pytest.mark.parametrize("stored", [0, 30_000_000])
def test_gridding_in_parts_is_gridding_at_once(monkeypatch: pytest.MonkeyPatch, stored: int) -> None:
    grid, geometry = scan((1, 8, 9), 70)
    expected = geometry.operator(grid, engine="torch")
    monkeypatch.setattr(nufft_torch, "STORED", stored)
    monkeypatch.setattr(nufft_torch, "PART", 3000)
    op = geometry.operator(grid, engine="torch")
    x, y = random_element(op.domain, 2), random_element(op.codomain, 2)
    assert relative(op(x), expected(x)) < 1e-14
    assert relative(op.adjoint(y), expected.adjoint(y)) < 1e-14


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("shape", [(1, 11, 6), (3, 4, 5), (1, 13, 1)])  # 11 and 13: FFTs of another size
def test_the_filters_are_the_normal_operator(engine: str, shape: tuple[int, int, int]) -> None:
    grid, geometry = scan(shape, 50)
    direct = geometry.operator(grid, engine=engine, gram="direct")
    filters = geometry.operator(grid, engine=engine, gram="toeplitz")
    assert isinstance(direct, NUFFT)
    x = random_element(direct.domain, 2)
    assert direct._gram_filters(x) is None
    assert relative(filters.gram(x), direct.gram(x)) < 1e-11
    single = filters.gram(x.to(torch.complex64)).to(torch.complex128)
    # As accurate as single precision, whatever that of the sums.
    assert relative(single, direct.gram(x)) < 2e-6


@pytest.mark.parametrize("engine", ON_CPU)
def test_coils_are_summed_one_by_one(engine: str) -> None:
    grid, geometry = scan((1, 6, 7), 60)
    space = Space.field(grid, is_complex=True)
    maps = random_element(Space((3, *grid.shape), is_complex=True))
    op = geometry.operator(grid, components=(3,), engine=engine) @ Coils(space, maps)
    x = random_element(space, 2)
    assert relative(op.gram(x), op.adjoint(op(x))) < 1e-11


def test_huge_kernels_are_left_to_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nufft, "LARGEST_KERNEL", 10)
    grid, geometry = scan((1, 6, 7), 20)
    op = geometry.operator(grid)
    assert isinstance(op, NUFFT)
    x = random_element(op.domain)
    assert op._gram_filters(x) is None
    assert relative(op.gram(x), op.adjoint(op(x))) < 1e-14


@pytest.mark.parametrize("engine", ON_CPU)
def test_a_shift_of_the_grid_is_a_phase(engine: str) -> None:
    grid, geometry = scan((1, 6, 7), 30)
    moved = grid.pad((0, 0, 2), 0).crop((0, 0, 0), (1, 6, 7))
    x = torch.zeros(grid.shape, dtype=torch.complex128)
    x[:, 1:5, :5] = random_element(Space((1, 4, 5), is_complex=True))
    same_object = x.roll(2, dims=-1)
    assert relative(geometry.operator(moved, engine=engine)(same_object), geometry.operator(grid)(x)) < 1e-11


def test_a_planar_path_serves_a_slice_of_any_thickness() -> None:
    grid = Grid.plane((8, 10), (2.0, 1.5), thickness=5.0, centre=(1.0, 2.0, 30.0))
    k = radial(7, 12, 2.0)
    op = NonCartesianGeometry(k, allow_folding=False).operator(grid)
    x = random_element(op.domain)
    assert relative(op(x), defining_sum(k, grid, DeviceFrame(), (0.0, 0.0, 0.0), x)) < 1e-11
    with pytest.raises(ValueError, match=r"`grid` must lie in the plane of a trajectory \(kx, ky\)"):
        NonCartesianGeometry(k).operator(Grid.from_spacing((2, 8, 10), (5.0, 2.0, 1.5)))


def test_samples_beyond_nyquist_are_refused_or_fold() -> None:
    grid = Grid.plane((8, 8), 2.0)
    k = np.array([[[0.1, 0.0], [0.26, 0.1], [0.25, -0.25], [0.2, -0.4]]])
    with pytest.raises(ValueError, match=r"`trajectory` must lie inside the Nyquist box .* 50\.0% of the"):
        NonCartesianGeometry(k).operator(grid)
    op = NonCartesianGeometry(k, allow_folding=True).operator(grid)
    x = random_element(op.domain)
    assert relative(op(x), defining_sum(k, grid, DeviceFrame(), (0.0, 0.0, 0.0), x)) < 1e-11
    rounded = k.clip(-0.25, 0.25).astype(np.float32) * np.float32(1 + 2e-7)
    NonCartesianGeometry(rounded).operator(grid)  # what single precision does to the edge is no folding


@pytest.mark.parametrize("engine", ON_CPU)
def test_copies_work_by_themselves(engine: str) -> None:
    grid, geometry = scan((1, 6, 7), 20)
    op = geometry.operator(grid, engine=engine)
    x = random_element(op.domain)
    expected = op(x)
    for twin in (copy.copy(op), copy.deepcopy(op), pickle.loads(pickle.dumps(op)), op.to("cpu")):
        assert torch.equal(twin(x), expected)


def test_large_batches_go_in_parts() -> None:
    grid, geometry = scan((1, 4, 5), 12)
    op = geometry.operator(grid, engine="finufft")
    x = random_element(op.domain, 70)
    assert relative(op(x), torch.stack([op(row) for row in x])) < 1e-14


def test_without_a_package_for_it_the_sums_are_gridded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_is_here", lambda name: False)
    grid, geometry = scan((1, 4, 5), 12)
    op = geometry.operator(grid)
    assert isinstance(op, NUFFT)
    assert op.engine_for("cpu") == "torch"
    x = random_element(op.domain)
    expected = defining_sum(geometry.trajectory, grid, FRAME, geometry.zero_phase, x)
    assert relative(op(x), expected) < 1e-11


def test_engines_name_where_they_run() -> None:
    grid, geometry = scan((1, 4, 5), 12)
    op = geometry.operator(grid)
    assert isinstance(op, NUFFT)
    assert op.engine_for("cpu") == "finufft"
    assert op.engine_for("meta") == "torch"
    assert set(ENGINES) == {"finufft", "cufinufft", "torch"}
    forced = geometry.operator(grid, engine="finufft")
    assert isinstance(forced, NUFFT)
    with pytest.raises(ValueError, match="`x` must be on cpu for the finufft engine, got cuda"):
        forced.engine_for("cuda")


TRAJECTORY = np.zeros((2, 3, 3))
PHASES = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: NonCartesianGeometry("a"), TypeError, "`trajectory` must be numbers"),
        (lambda: NonCartesianGeometry(TRAJECTORY[0, 0]), ValueError, "`trajectory` must have shape"),
        (lambda: NonCartesianGeometry(TRAJECTORY[..., :1]), ValueError, "`trajectory` must have shape"),
        (lambda: NonCartesianGeometry(TRAJECTORY * 1j), TypeError, "`trajectory` must be numbers"),
        (lambda: NonCartesianGeometry(TRAJECTORY + np.nan), ValueError, "hold finite values only, in 1/mm"),
        (lambda: NonCartesianGeometry(TRAJECTORY, frame=3), TypeError, "`frame` must be a DeviceFrame"),
        (lambda: NonCartesianGeometry(TRAJECTORY, allow_folding=1), TypeError, "`allow_folding` must be"),
        (lambda: scan((1, 4, 5), 9)[1].operator(None), TypeError, "`grid` must be a Grid"),
        (lambda: build(engine="fftw"), ValueError, "`engine` must be 'auto' or one of finufft, cufinufft"),
        (lambda: build(accuracy=0.5), ValueError, "`accuracy` must lie between"),
        (lambda: build(gram="fast"), ValueError, "`gram` must be one of auto, toeplitz, direct"),
        (
            lambda: NUFFT(Space((1, 2, 3), True), TRAJECTORY, TRAJECTORY[..., 0]),
            ValueError,
            "`domain` must be",
        ),
        (
            lambda: NUFFT(Space.field(oblique((1, 4, 5)), is_complex=True), TRAJECTORY, TRAJECTORY),
            ValueError,
            "`frequency` must have shape",
        ),
    ],
)
def test_bad_arguments(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


def build(**options: object) -> LinearOperator:
    grid, geometry = scan((1, 4, 5), 9)
    return geometry.operator(grid, **options)  # type: ignore[arg-type]


def test_values_of_the_geometry_are_its_own() -> None:
    path = np.zeros((2, 3))
    geometry = NonCartesianGeometry(path)
    path[:] = 9.0
    assert not geometry.trajectory.any()
    with pytest.raises(ValueError, match="read-only"):
        geometry.trajectory[0, 0] = 1.0
    assert geometry.with_(zero_phase=(1.0, 2.0, 3.0)).zero_phase == (1.0, 2.0, 3.0)
    assert math.prod(geometry.shape) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_adjoint_is_the_same_bit_by_bit_on_several_threads(count: int) -> None:
    geometry = NonCartesianGeometry(radial(200, 256, 1.0))
    op = geometry.operator(Grid.plane((128, 128), 1.0), engine="finufft")
    y = random_element(op.codomain, count, dtype=torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = op.adjoint(y)
        assert all(torch.equal(op.adjoint(y), first) for _ in range(4))
    finally:
        torch.set_num_threads(threads)
