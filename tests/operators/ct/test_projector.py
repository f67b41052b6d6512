import math

import numpy as np
import pytest
import torch

from operators.ct import ParallelBeamGeometry, Projector
from operators.errors import InexactAdjointError
from operators.frame import DeviceFrame
from operators.grid import Grid
from tests.operators.ct.engine_contract import EngineContract
from tests.oracles import random_element

# The oblique scan sees a part of its grid only, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::operators.ct.coverage.CoverageWarning")

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def oblique_scan() -> tuple[Grid, ParallelBeamGeometry]:
    """Return a grid turned in its plane, anisotropic, shifted, in a scanner turned in the world."""
    frame = DeviceFrame.from_axes(*ROTATION.T, origin=(5, -3, 11))
    turn = math.radians(25)
    in_device = np.eye(4)
    in_device[:3, 0] = (0, 0, -2.0)  # slices run against the rotation axis
    in_device[:3, 1] = 1.3 * np.array([-math.sin(turn), math.cos(turn), 0])
    in_device[:3, 2] = 0.8 * np.array([math.cos(turn), math.sin(turn), 0])
    in_device[:3, 3] = (-4.0, -2.0, 2.0)
    grid = Grid((3, 6, 7), frame.to_world @ in_device)
    geometry = ParallelBeamGeometry(
        angles=np.linspace(0.1, 3.5, 5),
        columns=13,
        column_pitch=0.9,
        rows=4,
        row_pitch=2.0,
        middle_row=1,
        frame=frame,
    )
    return grid, geometry


class ObliqueContract(EngineContract):
    def make(self, dtype: torch.dtype) -> Projector:
        grid, geometry = oblique_scan()
        return geometry.operator(grid, engine=self.engine)


class TestTorchEngine(ObliqueContract):
    engine = "torch"


class TestNumbaEngine(ObliqueContract):
    engine = "numba"


class TestAstraEngine(ObliqueContract):
    engine = "astra"
    dtypes = (torch.float32,)


@pytest.mark.parametrize("engine", ["numba", "astra"])
def test_engines_agree_with_the_reference(engine: str) -> None:
    pytest.importorskip(engine)
    grid, geometry = oblique_scan()
    reference, other = geometry.operator(grid, engine="torch"), geometry.operator(grid, engine=engine)
    x = random_element(reference.domain, 2, dtype=torch.float32).abs()
    y = random_element(reference.codomain, 2, dtype=torch.float32).abs()
    bound = 1e-6 if engine == "numba" else 1e-4  # ASTRA walks in single precision
    assert (other(x) - reference(x)).abs().max() <= bound * reference(x).abs().max()
    back = reference.adjoint(y)
    assert (other.adjoint(y) - back).abs().max() <= bound * back.abs().max()


def test_more_slices_than_a_block() -> None:
    pytest.importorskip("numba")
    grid = Grid.from_spacing((5, 8, 9), 1.0)
    scan = ParallelBeamGeometry.around(grid, 7)
    x = random_element(scan.operator(grid).domain, 30)
    y = random_element(scan.operator(grid).codomain, 30)
    compiled, plain = scan.operator(grid, engine="numba"), scan.operator(grid, engine="torch")
    assert (compiled(x) - plain(x)).abs().max() < 1e-12
    assert (compiled.adjoint(y) - plain.adjoint(y)).abs().max() < 1e-12


def test_a_disc_off_centre_has_its_analytic_line_integrals() -> None:
    """2 sqrt(R^2 - (s - s0)^2) mu, with s0 the projection of the centre, in device coordinates."""
    grid = Grid.from_spacing((2, 128, 128), (2.0, 0.5, 0.5), centre=(3.0, 1.0, 0.0))
    frame = DeviceFrame()
    scan = ParallelBeamGeometry(np.linspace(0, np.pi, 24), 180, 0.5, rows=2, row_pitch=2.0, frame=frame)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    world = grid.index_to_world(index)
    radius, mu, centre = 20.0, 0.02, np.array([8.0, -5.0])
    fine = torch.from_numpy(mu * (radius > np.hypot(*(world[..., :2] - centre).T).T).astype(np.float64))
    got = scan.operator(grid)(fine)
    angles = np.array(scan.angles)
    s0 = centre[0] * np.cos(angles) + centre[1] * np.sin(angles)
    s = scan.column_positions[None, :] - s0[:, None]
    expected = torch.from_numpy(2 * mu * np.sqrt(np.clip(radius**2 - s**2, 0, None)))[:, None, :]
    # Edge voxels are counted whole or not at all: 1% of the longest chord in the mean.
    assert (got - expected).abs().mean() < 0.01 * 2 * radius * mu
    assert (got.sum(-1) * 0.5 - math.pi * radius**2 * mu).abs().max() < 0.01 * math.pi * radius**2 * mu


def test_the_scan_does_not_depend_on_how_the_array_is_stored() -> None:
    grid, geometry = oblique_scan()
    x = random_element(geometry.operator(grid).domain)
    expected = geometry.operator(grid)(x)
    for axes in ((0,), (1,), (1, 2)):
        got = geometry.operator(grid.flip(*axes))(x.flip(axes))
        assert (got - expected).abs().max() < 1e-12
    for order in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        got = geometry.operator(grid.permute(order))(x.permute(order))
        # In-plane axes may trade the roles of row and column: the same rays, walked the same way.
        assert (got - expected).abs().max() < 1e-12


def test_rows_that_see_no_slice_read_zero() -> None:
    grid, geometry = oblique_scan()
    data = geometry.operator(grid)(torch.ones(grid.shape))
    heights = (np.arange(4) - 1) * 2.0
    device = geometry.frame.points_to_device(grid.index_to_world([[k, 0, 0] for k in range(3)]))[:, 2]
    for row, height in enumerate(heights):
        seen = np.abs(device - height).min() < 1e-6
        assert bool(data[:, row].any()) == seen


def test_an_inexact_engine_is_refused_by_what_needs_an_exact_adjoint() -> None:
    pytest.importorskip("astra")
    grid, geometry = oblique_scan()
    foreign = geometry.operator(grid, engine="astra")
    for attempt in (
        lambda: (2.0 * foreign).normal_solve(torch.ones(grid.shape), 1.0),
        lambda: foreign.norm(),
        lambda: foreign.gram,
    ):
        with pytest.raises(InexactAdjointError, match=r"declares an adjoint error of 1e-05"):
            attempt()
    with pytest.raises(
        TypeError, match=r"`x` must come in torch\.float32 for Projector.*, got torch\.float64"
    ):
        foreign(torch.ones(grid.shape, dtype=torch.float64))


def test_rows_that_see_no_slices_of_their_own_are_projected_through_the_volume() -> None:
    grid, geometry = oblique_scan()
    assert geometry.operator(grid).layouts == ("plane", "volume")
    tilted = Grid.from_spacing((3, 6, 7), 2.0, centre=(5, -3, 11))
    for scan, other, reason in (
        (geometry, tilted, "its rays are not parallel to slices of the grid"),
        (geometry.with_(row_pitch=3.0), grid, "its rows lie between slices of the grid"),
    ):
        assert scan.operator(other).layouts == ("volume",)
        pytest.importorskip("astra")
        with pytest.raises(ValueError, match=f"`engine` must project volumes, since {reason}, got 'astra'"):
            scan.operator(other, engine="astra")


@pytest.mark.parametrize("layout", ["plane", "volume"])
def test_a_compiled_graph_is_split_where_the_engine_is_chosen_and_nowhere_else(layout: str) -> None:
    grid, geometry = oblique_scan()
    projector = geometry.with_(row_pitch=2.0 if layout == "plane" else 1.9).operator(grid)
    assert projector.layouts[0] == layout
    x = random_element(projector.domain, 2)
    torch._dynamo.reset()
    found = torch._dynamo.explain(lambda z: 3 * projector(2 * z))(x)
    assert found.break_reasons
    assert all("untraced" in each.reason for each in found.break_reasons)
    compiled = torch.compile(lambda z: 3 * projector(2 * z), backend="eager")
    assert torch.equal(compiled(x), 3 * projector(2 * x))


def test_what_it_cannot_do_is_named() -> None:
    grid, geometry = oblique_scan()
    with pytest.raises(ValueError, match="be seen by the detector's 4 rows"):
        geometry.with_(middle_row=50.0).operator(grid)
    with pytest.raises(ValueError, match="`engine` must be"):
        geometry.operator(grid, engine="cuda")


def test_projecting_leaves_the_number_of_threads_alone() -> None:
    grid, before = Grid.plane((24, 24), 1.0), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            operator = ParallelBeamGeometry.around(grid, 5).operator(grid)
            operator.adjoint(operator(torch.ones(operator.domain.shape)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
