"""What a scan does not see is said: an error where nothing is right, a warning where a part is missing."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from operators.ct import (
    ConeBeamGeometry,
    CoverageWarning,
    FanBeamGeometry,
    OrbitGeometry,
    ParallelBeamGeometry,
)
from operators.grid import Grid

GRID = Grid.from_spacing((4, 16, 16), 1.0)


def cone(**changes: object) -> ConeBeamGeometry:
    scan = ConeBeamGeometry.around(GRID, 12, source_to_axis=40.0, source_to_detector=60.0)
    return scan.with_(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis_column": 400.0}, r"be seen by the detector's \d+ columns, got .* at columns"),
        ({"middle_row": 100.0}, r"be seen by the detector's \d+ rows, got .* at rows"),
        ({"source_to_axis": 5.0}, "lie outside the path of the source, got a source at index .* in view"),
        ({"heights": (500.0,) * 12}, "be seen by the detector's"),
    ],
)
def test_a_scan_that_cannot_see_the_grid_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cone(**changes).operator(GRID)


def test_a_fan_from_within_the_grid_is_refused() -> None:
    scan = FanBeamGeometry.around(GRID, 12, source_to_axis=40.0, source_to_detector=60.0)
    with pytest.raises(ValueError, match="lie outside the path of the source"):
        scan.with_(source_to_axis=5.0).operator(GRID)


def upwards(width: int) -> OrbitGeometry:
    """Return a view from y = -20 to a detector at y = 60."""
    return OrbitGeometry([[0, -20.0, 0]], [[0, 60.0, 0]], [[1.0, 0, 0]], [[0, 0, 1.0]], width, width)


def test_a_grid_behind_the_source_is_refused() -> None:
    """Rays are lines to a projector: drawn back through the source, they would meet it."""
    behind = Grid.from_spacing((4, 4, 4), 1.0, centre=(0, -60, 0))
    with pytest.raises(
        ValueError, match="be seen by the detector's 40 columns, got .* lies behind the source"
    ):
        upwards(40).operator(behind)
    upwards(40).operator(Grid.from_spacing((4, 4, 4), 1.0, centre=(0, 20, 0)))


def test_a_grid_that_reaches_behind_the_source_is_refused_where_rays_would_meet_it() -> None:
    # The source stands in a corner that the grid goes around, as a cone-beam source beside a long slab.
    long = Grid.from_spacing((4, 90, 8), 1.0, centre=(9.0, -10, 0))
    with pytest.raises(ValueError, match="lie in front of the source, got voxels behind it .* in view 0"):
        upwards(160).operator(long)
    # Ten millimetres behind it a narrower beam is still beside the slab.
    short = Grid.from_spacing((4, 64, 8), 1.0, centre=(9.0, 2.0, 0))
    with (
        pytest.warns(CoverageWarning, match="columns miss"),
        pytest.warns(CoverageWarning, match="seen in no view"),
    ):
        upwards(60).operator(short)


def test_a_fan_whose_rays_would_run_backwards_is_refused() -> None:
    """All rows of a fan rise with the source: so does what lies behind it."""
    flat = Grid.from_spacing((9, 6, 90), 1.0)
    scan = FanBeamGeometry(
        (0.3,), 900, 1.0, rows=9, row_pitch=1.0, source_to_axis=9.0, source_to_detector=60.0
    )
    with pytest.raises(ValueError, match="lie in front of the source, got voxels behind it"):
        scan.operator(flat)


def test_a_scan_around_a_grid_has_nothing_to_say() -> None:
    cone().operator(GRID)  # warnings are errors in the tests
    FanBeamGeometry.around(GRID, 12, source_to_axis=40.0, source_to_detector=60.0).operator(GRID)
    ParallelBeamGeometry.around(GRID, 12).operator(GRID)
    # The corners of a slice are seldom covered, and seldom missed.
    ParallelBeamGeometry.around(GRID, 12, columns=16).operator(GRID)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_truncation_is_said_with_its_share(share: float) -> None:
    """A detector as wide as a share of the disc sees 2 / pi (s sqrt(1 - s^2) + asin s) of it."""
    grid = Grid.from_spacing((1, 64, 64), 1.0)
    scan = ParallelBeamGeometry.around(grid, 12, columns=round(64 * share))
    with pytest.warns(CoverageWarning, match="columns miss") as found:
        scan.operator(grid)
    said = float(re.search(r"miss ([\d.]+)%", str(found[0].message))[1]) / 100  # type: ignore[index]
    missed = 1 - 2 / math.pi * (share * math.sqrt(1 - share**2) + math.asin(share))
    assert said == pytest.approx(missed, abs=0.02)


def test_a_grid_within_one_column_is_noticed() -> None:
    """A pitch in micrometres: a thousand times too wide."""
    scan = cone()
    with pytest.warns(CoverageWarning, match="within one column of the detector: are pitches and spacings"):
        scan.with_(column_pitch=1000 * scan.column_pitch).operator(GRID)


def test_an_offset_detector_is_truncated_in_each_view() -> None:
    with pytest.warns(CoverageWarning, match="columns miss"):
        cone(axis_column=4.0).operator(GRID)


def test_what_no_view_sees_is_said() -> None:
    tall = Grid.from_spacing((16, 16, 16), 1.0)
    with (
        pytest.warns(CoverageWarning, match=r"\d\d\.\d% of the grid are seen in no view"),
        pytest.warns(CoverageWarning, match="rows miss"),
    ):
        cone().operator(tall)


def test_what_rows_miss_in_some_views_is_said_with_its_share() -> None:
    """A voxel z above the plane of the source and d ahead is seen at z D / d: too high where it is near."""
    scan = cone(row_pitch=1.5, rows=3)
    z, y, x = (np.moveaxis(np.indices(GRID.shape), 0, -1) - (np.array(GRID.shape) - 1) / 2).reshape(-1, 3).T
    z, y, x = (values[np.hypot(y, x) <= 8] for values in (z, y, x))
    theta = np.array(scan.angles)[:, None]
    beyond = np.abs(z) * 60 / (40 - x * np.sin(theta) + y * np.cos(theta)) > 1.5 * 1.5
    partly = beyond[:, ~beyond.all(axis=0)]
    assert 0.1 < partly.mean() < 0.9
    with pytest.warns(CoverageWarning, match=f"rows miss {100 * partly.mean():.1f}% of what is seen"):
        scan.operator(GRID)
    # Where the source moves along, every voxel is out of sight for a while.
    cone(row_pitch=1.5, rows=6).helical(3.0).operator(GRID)


@pytest.mark.parametrize(
    "last",
    [0.0, 2 * math.pi, float(np.float32(2 * math.pi))],
    ids=["equal", "a turn on", "in single precision"],
)
def test_repeated_views_are_counted(last: float) -> None:
    scan = cone(angles=(0.0, 1.0, last, 2.0))
    with pytest.warns(CoverageWarning, match="1 of 4 views repeat another"):
        scan.operator(GRID)


def test_turns_of_a_helix_do_not_repeat() -> None:
    theta = np.linspace(0, 4 * math.pi, 12, endpoint=False)
    cone(angles=theta).helical(3.0).operator(GRID)


def test_opposite_views_of_a_parallel_beam_are_another_measurement() -> None:
    ParallelBeamGeometry.around(GRID, (0.0, 1.0, math.pi)).operator(GRID)


def test_one_row_of_pixels_sees_one_slice_of_a_volume() -> None:
    slices = Grid.from_spacing((21, 24, 24), 2.0)
    geometry = ParallelBeamGeometry.around(Grid.from_spacing((1, 24, 24), 2.0), [0.0, 0.7, 1.4])
    with pytest.warns(CoverageWarning, match=r"95\.2% of the grid are seen in no view"):
        geometry.operator(slices)
