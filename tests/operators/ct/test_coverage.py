"""What a scan does not see is said: an error where nothing is right, a warning where a part is missing."""

from __future__ import annotations

import math

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


def test_a_source_behind_the_grid_is_refused() -> None:
    away = OrbitGeometry([[0, 20.0, 0]], [[0, 60.0, 0]], [[1.0, 0, 0]], [[0, 0, 1.0]], 40, 40)
    assert away.operator(Grid.from_spacing((4, 4, 4), 1.0, centre=(0, 40, 0))) is not None


def test_a_scan_around_a_grid_has_nothing_to_say() -> None:
    cone().operator(GRID)  # warnings are errors in the tests
    FanBeamGeometry.around(GRID, 12, source_to_axis=40.0, source_to_detector=60.0).operator(GRID)
    ParallelBeamGeometry.around(GRID, 12).operator(GRID)
    # The corners of a slice are seldom covered, and seldom missed.
    ParallelBeamGeometry.around(GRID, 12, columns=16).operator(GRID)


def test_truncation_is_said_with_its_share() -> None:
    """A detector half as wide as the disc: 2/pi (1/2 sqrt(3)/2 + asin 1/2) = 61 % of it is seen."""
    scan = ParallelBeamGeometry.around(GRID, 12, columns=8)
    with pytest.warns(CoverageWarning, match=r"columns miss (3\d|4\d)\.\d% of the grid"):
        scan.operator(GRID)


def test_an_offset_detector_is_truncated_in_each_view() -> None:
    with pytest.warns(CoverageWarning, match="columns miss"):
        cone(axis_column=4.0).operator(GRID)


def test_what_no_view_sees_is_said() -> None:
    tall = Grid.from_spacing((16, 16, 16), 1.0)
    with pytest.warns(CoverageWarning, match=r"\d\d\.\d% of the grid are seen in no view"):
        cone().operator(tall)


@pytest.mark.parametrize(
    "scan", [cone(angles=(0.0, 1.0, 0.0, 2.0)), cone(angles=(0.0, 1.0, 2 * math.pi, 2.0))]
)
def test_repeated_views_are_counted(scan: ConeBeamGeometry) -> None:
    with pytest.warns(CoverageWarning, match="1 of 4 views repeat another"):
        scan.operator(GRID)


def test_turns_of_a_helix_do_not_repeat() -> None:
    theta = np.linspace(0, 4 * math.pi, 12, endpoint=False)
    cone(angles=theta).helical(3.0).operator(GRID)


def test_opposite_views_of_a_parallel_beam_are_another_measurement() -> None:
    ParallelBeamGeometry.around(GRID, (0.0, 1.0, math.pi)).operator(GRID)
