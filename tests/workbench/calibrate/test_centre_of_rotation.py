"""The centre of rotation, found on phantoms whose axis is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from tests.workbench.solvers.analytic.ct_cases import chords
from workbench.calibrate.centre_of_rotation import find_centre, mirror_centre
from workbench.calibration import CentreOfRotation

MIDDLE = 50.0


def sinogram(offset: float, angles: object) -> Tensor:
    scan = ParallelBeamGeometry(tuple(angles), 101, 1.0, axis_column=MIDDLE + offset)  # type: ignore[arg-type]
    whole = chords(scan, 25.0, (8.0, 3.0, 0.0), ball=False)
    dense, hole = (chords(scan, r, c, ball=False) for r, c in ((5.0, (-8.0, 15.0, 0)), (8.0, (10.0, 5.0, 0))))
    return whole + 1.5 * dense - 0.6 * hole


HALF = np.arange(120) * math.pi / 120
TURN = np.arange(90) * math.tau / 90


@pytest.mark.parametrize("offset", [0.0, 3.37, -6.21])
def test_without_noise_it_is_found_to_a_tenth_of_a_column(offset: float) -> None:
    found = find_centre(sinogram(offset, HALF), tuple(HALF))
    assert abs(found.column - MIDDLE - offset) < 0.1
    assert found.depth > 0.3
    assert found.calibration == CentreOfRotation(found.column)


def test_full_turns_both_ends_and_a_guess() -> None:
    assert abs(find_centre(sinogram(2.6, TURN), tuple(TURN)).column - MIDDLE - 2.6) < 0.1
    ends = np.linspace(0, math.pi, 121)
    data = sinogram(2.6, ends)
    assert abs(mirror_centre(data, ends) - MIDDLE - 2.6) < 0.05
    part = slice(0, 100)  # 150 degrees: nothing is opposed
    with pytest.raises(ValueError, match="`angles` must hold views half a turn apart"):
        find_centre(data[part], tuple(ends[part]))
    # What is missing outweighs what a shift of the axis changes.
    with pytest.raises(ValueError, match="`line_integrals` must tell where the axis is"):
        find_centre(data[part], tuple(ends[part]), guess=MIDDLE + 1)
    found = find_centre(data[:-2], tuple(ends[:-2]), guess=MIDDLE + 14)
    assert abs(found.column - MIDDLE - 2.6) < 0.1
    with pytest.raises(ValueError, match="give a better `guess`"):
        find_centre(data, tuple(ends), guess=MIDDLE + 40)


def test_over_a_full_turn_the_axis_may_be_near_an_end() -> None:
    data = sinogram(-35.4, TURN)  # the object, which reaches 34 columns from the axis, is cut off
    assert abs(find_centre(data, tuple(TURN)).column - MIDDLE + 35.4) < 0.1


def test_with_noise_it_is_as_far_off_as_it_says() -> None:
    errors = []
    clean = sinogram(3.37, HALF[::2])
    for seed in range(8):
        noise = np.random.Generator(np.random.Philox(seed)).normal(size=clean.shape)
        found = find_centre(clean + 0.03 * torch.from_numpy(noise), tuple(HALF[::2]))
        errors.append((found.column - MIDDLE - 3.37) / found.sd)
        assert 0.01 < found.sd < 0.05
    # The root mean square of eight normal numbers is below 0.33 or above 1.81 in 2 of 1000 cases.
    assert 0.33 < np.sqrt(np.mean(np.square(errors))) < 1.81


@pytest.mark.parametrize("span", [math.pi, math.tau])
def test_angles_with_an_end_left_out_are_told(span: float) -> None:
    ends = np.linspace(0, span, 91)
    data, wrong = sinogram(3.37, ends), np.arange(91) * span / 91
    with pytest.warns(
        UserWarning, match="views that mirror each other are 17[78].* degrees apart by `angles`"
    ):
        found = find_centre(data, tuple(wrong))
    assert abs(found.column - MIDDLE - 3.37) < 0.1


def test_wide_detectors_are_binned() -> None:
    data = sinogram(3.0, HALF)
    # Each column in four: their middle lies 1.5 of the new ones on.
    wide = data.repeat_interleave(4, dim=-1)
    found = find_centre(wide, tuple(HALF))
    assert abs(found.column - (4 * (MIDDLE + 3.0) + 1.5)) < 0.4


def test_data_that_cannot_tell_are_refused() -> None:
    noise = torch.from_numpy(np.random.Generator(np.random.Philox(1)).normal(size=(60, 1, 61)))
    angles = tuple(np.arange(60) * math.pi / 60)
    with pytest.raises(ValueError, match="`line_integrals` must tell where the axis is"):
        find_centre(noise, angles)
    with pytest.raises(ValueError, match="opposed views without contrast"):
        find_centre(torch.ones(60, 1, 61), angles)


@pytest.mark.parametrize(
    ("data", "angles", "options", "message"),
    [
        (
            torch.ones(4, 5),
            (0.0,) * 4,
            {},
            r"be real, of shape \(views, rows, columns\)",
        ),
        (torch.ones(4, 1, 5), (0.0,) * 3, {}, "`angles` must be 4 finite angles in rad"),
        (torch.full((4, 1, 5), torch.nan), (0.0,) * 4, {}, "must hold finite values"),
        (torch.ones(12, 1, 5), (0.0,) * 12, {"guess": 7.0}, "`guess` must be one of the columns 0 to 4"),
        (torch.ones(9, 1, 5), (0.0,) * 9, {}, "have 10 views or more, got 9"),
    ],
)
def test_mistakes_are_named(data: Tensor, angles: object, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_centre(data, angles, **options)  # type: ignore[arg-type]
