"""Geometries put source, rays and detector where their documentation says, however they are written."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from operators.ct import ConeBeamGeometry, FanBeamGeometry, OrbitGeometry, ParallelBeamGeometry
from operators.ct.geometry import RotationGeometry
from operators.frame import DeviceFrame
from operators.grid import Grid
from tests.oracles import random_element

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
FRAME = DeviceFrame.from_axes(*ROTATION.T, origin=(5, -3, 11))
ANGLES = (0.3, 1.9, 4.0)
GRID = Grid.from_spacing((2, 7, 6), (1.5, 1.0, 1.2))


def cone(**changes: object) -> ConeBeamGeometry:
    scan = ConeBeamGeometry(
        ANGLES, 9, 1.5, rows=4, row_pitch=2.0, source_to_axis=50.0, source_to_detector=80.0, frame=FRAME
    )
    return scan.with_(**changes)


def fan(**changes: object) -> FanBeamGeometry:
    scan = FanBeamGeometry(
        ANGLES, 9, 1.5, rows=4, row_pitch=2.0, source_to_axis=50.0, source_to_detector=80.0, frame=FRAME
    )
    return scan.with_(**changes)


def parallel(**changes: object) -> ParallelBeamGeometry:
    return ParallelBeamGeometry(ANGLES, 9, 1.5, rows=4, row_pitch=2.0, frame=FRAME).with_(**changes)


@pytest.mark.parametrize(
    "scan", [parallel(), parallel(tilt=0.4), fan(), cone(), cone(detector="cylindrical")]
)
@pytest.mark.parametrize("shift", [0.0, 1.25])
def test_the_axis_is_seen_at_its_column(scan: RotationGeometry, shift: float) -> None:
    moved = scan.with_(axis_column=4.0 + shift, middle_row=1.0)
    column, row = moved.views().seen_at(FRAME.points_to_world([[0.0, 0.0, 0.0]]))
    assert np.allclose(column, 4.0 + shift, atol=1e-12)
    assert np.allclose(row, 1.0, atol=1e-12)


def test_parallel_rays_run_where_it_is_said() -> None:
    views = parallel(axis_column=2.0, middle_row=0.0).views()
    for k, theta in enumerate(ANGLES):
        point, direction = views.rays(k)
        device = FRAME.points_to_device(point)
        beam = direction @ FRAME.to_world[:3, :3]
        assert np.allclose(beam, (-math.sin(theta), math.cos(theta), 0))
        for row, column in ((0, 0), (3, 7)):
            expected = (column - 2.0) * 1.5 * np.array([math.cos(theta), math.sin(theta), 0])
            assert np.allclose(device[row, column], expected + np.array([0, 0, 2.0 * row]))


@pytest.mark.parametrize("detector", ["flat", "cylindrical"])
def test_cone_rays_start_at_the_source_and_end_on_the_detector(detector: str) -> None:
    scan = cone(detector=detector, axis_column=3.0, middle_row=1.0)
    for k, theta in enumerate(ANGLES):
        source, direction = scan.views().rays(k)
        outwards = np.array([-math.sin(theta), math.cos(theta), 0])
        assert np.allclose(FRAME.points_to_device(source), -50.0 * outwards)
        pixel = FRAME.points_to_device(source + direction)
        along = np.array([math.cos(theta), math.sin(theta), 0])
        for row, column in ((0, 0), (3, 8), (1, 3)):
            step = (column - 3.0) * 1.5
            if detector == "flat":
                expected = 30.0 * outwards + step * along
            else:
                expected = -50.0 * outwards + 80.0 * (
                    math.cos(step / 80) * outwards + math.sin(step / 80) * along
                )
            assert np.allclose(pixel[row, column], expected + np.array([0, 0, 2.0 * (row - 1)]))


def test_fan_rays_stay_at_the_height_of_their_row() -> None:
    source, direction = fan().views().rays(1)
    axis = FRAME.to_world[:3, 2]
    assert np.abs(direction @ axis).max() < 1e-12
    heights = FRAME.points_to_device(source)[..., 2]
    assert np.allclose(heights, (np.arange(4) - 1.5)[:, None] * 2.0)


@pytest.mark.parametrize("detector", ["flat", "cylindrical"])
@pytest.mark.parametrize("kind", ["fan", "cone", "parallel"])
def test_what_lies_on_a_ray_is_seen_at_its_pixel(kind: str, detector: str) -> None:
    scan = {"fan": fan, "cone": cone, "parallel": parallel}[kind]()
    if kind != "parallel":
        scan = scan.with_(detector=detector, axis_column=3.25)
    views = scan.views()
    rows, columns = np.meshgrid(np.arange(4), np.arange(9), indexing="ij")
    for k in range(3):
        point, direction = views.rays(k)
        for share in (0.4, 0.9):
            column, row = views.seen_at((point + share * direction).reshape(-1, 3))
            assert np.allclose(column[k], columns.ravel(), atol=1e-9)
            assert np.allclose(row[k], rows.ravel(), atol=1e-9)


def test_what_lies_behind_the_source_is_not_seen() -> None:
    views = cone().views()
    point, direction = views.rays(0)
    column, row = views.seen_at((point - 0.5 * direction).reshape(-1, 3))
    assert np.isnan(column[0]).all()
    assert np.isnan(row[0]).all()


def test_a_helix_rises_by_its_advance_per_turn() -> None:
    theta = np.linspace(0, 4 * math.pi, 9)
    scan = cone(angles=theta).helical(20.0)
    source = FRAME.points_to_device(scan.views().through)
    assert np.allclose(source[:, 2], 20.0 * theta / (2 * math.pi) - 20.0)
    assert scan.helical(20.0, middle=0.0).heights[0] == 0.0
    _, row = scan.views().seen_at(FRAME.points_to_world([[0.0, 0.0, 20.0]]))
    assert row[-1, 0] == pytest.approx(1.5)  # at the height of the source, in the middle of the rows
    assert row[0, 0] > row[-1, 0]


def test_shifts_are_along_column_ray_and_axis() -> None:
    shifts = ((0.5, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, -1.0))
    moved, still = cone(source_shifts=shifts).views(), cone().views()
    apart = (moved.through - still.through) @ FRAME.to_world[:3, :3]
    assert np.allclose(np.linalg.norm(apart, axis=1), [0.5, 2.0, 1.0])
    assert np.allclose(apart[0], 0.5 * np.array([math.cos(0.3), math.sin(0.3), 0]))
    assert np.allclose(apart[1], 2.0 * np.array([-math.sin(1.9), math.cos(1.9), 0]))
    assert np.allclose(apart[2], [0, 0, -1])
    assert np.array_equal(moved.centre, still.centre)
    sagging = cone(detector_shifts=shifts).views()
    assert np.allclose((sagging.centre - still.centre), moved.through - still.through)


@pytest.mark.parametrize(
    "scan", [parallel(), parallel(tilt=0.3), cone(axis_column=3.5), cone(heights=(-1, 0, 1))]
)
def test_the_same_scan_written_as_an_orbit_has_the_same_data(scan: RotationGeometry) -> None:
    views = scan.views()
    middle = views.centre + views.across.mean() * views.columns + views.up.mean() * views.rows
    orbit = OrbitGeometry(
        views.through, middle, 1.5 * views.columns, 2.0 * views.rows, 9, 4, parallel=views.parallel
    )
    place = FRAME.to_world @ np.array([[1.0, 0, 0, -1], [0, 1.2, 0, -1.8], [0, 0, 0.9, -1.8], [0, 0, 0, 1]])
    grid = Grid((3, 4, 5), place)
    here, there = scan.operator(grid, engine="torch"), orbit.operator(grid, engine="torch")
    x = random_element(here.domain)
    assert torch.allclose(here(x), there(x), rtol=0, atol=1e-12)


def test_a_tilted_beam_is_a_scan_about_a_tilted_axis() -> None:
    """At one angle a tilt is a rotation of the whole device about the columns."""
    tilt = 0.35
    straight = ParallelBeamGeometry([0.0], 9, 1.5, rows=4, row_pitch=2.0)
    turn = np.eye(4)
    turn[:3, :3] = [[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)], [0, math.sin(tilt), math.cos(tilt)]]
    turned, tilted = straight.with_(frame=DeviceFrame(turn)).views(), straight.with_(tilt=tilt).views()
    for k in range(1):
        for a, b in zip(turned.rays(k), tilted.rays(k), strict=True):
            assert np.allclose(a, b)


@pytest.mark.parametrize("detector", ["flat", "cylindrical"])
def test_a_scan_around_a_grid_sees_all_of_its_cylinder(detector: str) -> None:
    grid = Grid((6, 20, 14), FRAME.to_world @ np.diag([2.0, 1.0, 1.5, 1.0]))
    for make in (FanBeamGeometry, ConeBeamGeometry):
        scan = make.around(grid, 12, source_to_axis=60.0, source_to_detector=90.0, detector=detector)
        corners = np.array([[z, y, x] for z in (0, 5) for y in (0, 19) for x in (0, 13)])
        column, row = scan.views().seen_at(grid.index_to_world(corners))
        assert column.min() >= -0.5
        assert column.max() <= scan.columns - 0.5
        if make is ConeBeamGeometry:
            assert row.min() >= -0.5
            assert row.max() <= scan.rows - 0.5
        assert scan.operator(grid).layouts[0] == ("plane" if make is FanBeamGeometry else "volume")
        assert make.around(grid, 12, source_to_axis=60.0, source_to_detector=90.0, columns=7).columns == 7


def test_geometries_are_values() -> None:
    assert cone() == cone()
    assert hash(cone()) == hash(cone())
    assert cone() != cone(axis_column=4.5)
    views = cone().views()
    same = [OrbitGeometry(views.through, views.centre, views.columns, views.rows, 9, 4) for _ in range(2)]
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    assert same[0] != same[0].with_(rows=5)
    assert same[0] != cone()


BAD = [
    (cone, {"source_to_axis": 0.0}, "`source_to_axis` must be a finite number > 0, got 0.0"),
    (cone, {"detector": "round"}, "`detector` must be one of flat, cylindrical, got 'round'"),
    (
        cone,
        {"heights": (1.0, 2.0)},
        r"`heights` must be finite, of shape \(3,\), one per view, got shape \(2,\)",
    ),
    (cone, {"heights": (1.0, 2.0, math.nan)}, "`heights` must be finite"),
    (cone, {"source_shifts": ((1.0, 2.0),) * 3}, r"`source_shifts` must be finite, of shape \(3, 3\)"),
    (cone, {"source_shifts": "abc"}, "`source_shifts` must be numbers of shape"),
    (cone, {"source_shifts": 5.0}, r"`source_shifts` must be finite, of shape \(3, 3\).*got shape \(\)"),
    (
        fan,
        {"source_to_axis": 80.0, "source_to_detector": 50.0},
        "`source_to_detector` must be at least source_to_axis = 80 mm, got 50.0.*are the two swapped",
    ),
    (
        cone,
        {"detector": "cylindrical", "column_pitch": 40.0},
        "`column_pitch` must keep all columns within 90",
    ),
    (parallel, {"tilt": 1.6}, "`tilt` must lie between -pi/2 and pi/2, got 1.6"),
    (parallel, {"angles": []}, "`angles` must be a list of finite angles"),
    (parallel, {"angles": [0.0, math.inf]}, "`angles` must be a list of finite angles"),
    (parallel, {"columns": 0}, "`columns` must be an integer >= 1, got 0"),
    (parallel, {"column_pitch": -1.0}, "`column_pitch` must be a finite number > 0"),
    (parallel, {"axis_column": math.nan}, "`axis_column` must be a finite number"),
    (parallel, {"frame": np.eye(4)}, "`frame` must be a DeviceFrame"),
]


@pytest.mark.parametrize(("make", "changes", "message"), BAD)
def test_mistakes_are_named(make: object, changes: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make(**changes)  # type: ignore[operator]


def orbit(**changes: object) -> OrbitGeometry:
    along = np.tile([[1.0, 0, 0]], (2, 1))
    scan = OrbitGeometry([[0, -9, 0], [0, -9, 1]], [[0, 9, 0]] * 2, along, [[0, 0, 1.0]] * 2, 5, 3)
    return scan.with_(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [[0, -9, 0]]}, r"`centres` must have shape \(views = 1, 3\), got \(2, 3\)"),
        ({"sources": [0, -9, 0]}, r"`sources` must have shape \(views, 3\), got \(3,\)"),
        ({"column_steps": [[1, 0, 0], [2, 0, 0]]}, "`column_steps` must have one length > 0.*got 1 to 2 mm"),
        ({"row_steps": [[0.5, 0, 1]] * 2}, "`row_steps` must be perpendicular to column_steps"),
        ({"sources": [[3, 9, 0]] * 2}, "`sources` must lie off the plane of the detector, got view 0"),
        ({"parallel": 1}, "`parallel` must be True or False, got 1"),
        ({"frame": None}, "`frame` must be a DeviceFrame"),
        ({"columns": 0}, "`columns` must be an integer >= 1"),
    ],
)
def test_mistakes_of_an_orbit_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        orbit(**changes)


def test_an_around_that_would_put_the_source_inside_is_named() -> None:
    grid = Grid.from_spacing((1, 20, 20), 1.0)
    with pytest.raises(ValueError, match=r"`source_to_axis` must be larger than 14\.\d* mm, got 12"):
        FanBeamGeometry.around(grid, 4, source_to_axis=12.0, source_to_detector=30.0)


@pytest.mark.parametrize("views", ["many", 2.5, [[0.1, 0.2]], None])
def test_views_are_a_number_or_angles(views: object) -> None:
    with pytest.raises(TypeError, match="`views` must be a number of views or a list of angles"):
        ParallelBeamGeometry.around(GRID, views)  # type: ignore[arg-type]


def test_angles_may_come_as_any_list() -> None:
    given = [0.0, 0.5, 1.25]
    made = [
        ParallelBeamGeometry.around(GRID, angles) for angles in (given, np.array(given), torch.tensor(given))
    ]
    assert made[0] == made[1] == made[2]
    assert made[0].angles == tuple(given)


@pytest.mark.parametrize(
    "chosen",
    [slice(0, 4), slice(None, None, 5), slice(0, 6), slice(0, 8), slice(3, 4)],
    ids=["limited", "sparse", "half a turn", "short", "one view"],
)
@pytest.mark.parametrize("kind", ["parallel", "fan", "cone"])
def test_a_part_of_a_scan_is_its_views(kind: str, chosen: slice) -> None:
    lengths = {"source_to_axis": 30.0, "source_to_detector": 45.0}
    whole = {
        "parallel": lambda: ParallelBeamGeometry.around(GRID, 12),
        "fan": lambda: FanBeamGeometry.around(GRID, 12, **lengths),
        "cone": lambda: ConeBeamGeometry.around(GRID, 12, **lengths),
    }[kind]()
    part = whole.with_(angles=whole.angles[chosen])
    x = random_element(whole.operator(GRID).domain)
    # A dot product of its own: which rays are walked together changes the last digit only.
    assert torch.allclose(part.operator(GRID)(x), whole.operator(GRID)(x)[chosen], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["parallel", "fan", "curved fan", "cone", "curved cone"])
def test_the_centre_of_rotation_moves_the_data(kind: str) -> None:
    lengths = {"source_to_axis": 30.0, "source_to_detector": 45.0}
    detector = "cylindrical" if kind.startswith("curved") else "flat"
    scan = {
        "parallel": lambda: ParallelBeamGeometry.around(GRID, 5, columns=25),
        "fan": lambda: FanBeamGeometry.around(GRID, 5, columns=25, detector=detector, **lengths),
        "cone": lambda: ConeBeamGeometry.around(GRID, 5, columns=25, detector=detector, **lengths),
    }[kind.removeprefix("curved ")]()
    data, moved = (
        made.operator(GRID)(random_element(made.operator(GRID).domain))
        for made in (scan, scan.with_(axis_column=scan.axis_at + 2))
    )
    assert torch.allclose(moved[..., 2:], data[..., :-2], rtol=0, atol=1e-11)
