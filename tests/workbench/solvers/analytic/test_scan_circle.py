"""What analytical inverses are made of: the ramp, gaps between angles, the circle of a scan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from operators.ct import ConeBeamGeometry, FanBeamGeometry, OrbitGeometry, ParallelBeamGeometry
from operators.frame import DeviceFrame
from workbench.solvers.analytic.angular_coverage import AngularCoverage
from workbench.solvers.analytic.ramp_filter import extended, ramp_filtered, smoothed
from workbench.solvers.analytic.scan_circle import ScanCircle

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
FRAME = DeviceFrame.from_axes(*ROTATION.T, origin=(5, -3, 11))


def impulse(columns: int) -> torch.Tensor:
    data = torch.zeros(columns, dtype=torch.float64)
    data[columns // 2] = 1
    return data


def test_the_ramp_is_its_kernel() -> None:
    q = ramp_filtered(impulse(65), 0.5) / 0.5
    lag = np.arange(65) - 32
    kernel = np.where(lag % 2 == 0, 0.0, -1 / (math.pi * np.where(lag == 0, 1, lag) * 0.5) ** 2)
    kernel[32] = 1 / (4 * 0.5**2)
    assert np.allclose(q.numpy(), kernel, atol=1e-12)


def test_the_window_of_shepp_and_logan_is_theirs() -> None:
    q = ramp_filtered(impulse(513), 1.0, window="shepp-logan").numpy()
    lag = np.arange(513) - 256
    kernel = -2 / (math.pi**2 * (4.0 * lag**2 - 1))
    # The kernel is cut off at half of the padded width, 1024: what is missing falls as 1 / lag.
    assert np.abs(q - kernel).max() < 1e-3 * kernel.max()


def test_a_cutoff_lets_nothing_through_beyond_it() -> None:
    wave = torch.cos(math.pi * 0.8 * torch.arange(64, dtype=torch.float64))
    # A wave of 0.8 of the highest frequency: what its ends make of it is all that is left.
    assert ramp_filtered(wave, 1.0, cutoff=0.5)[20:44].abs().max() < 0.02 < wave.abs().max()


def test_a_disc_that_is_cut_off_is_continued_as_one() -> None:
    place = torch.arange(-40, 41, dtype=torch.float64)
    whole = 0.04 * (42.0**2 - place**2).clamp(min=0).sqrt()
    kept = extended(whole[6:-6].expand(2, 1, 69), 6)
    assert (kept - whole).abs().max() < 0.1 * whole.max()
    assert torch.equal(extended(torch.zeros(2, 1, 9), 3), torch.zeros(2, 1, 15))


def test_smooth_data_keep_their_sum_and_lose_what_is_beyond_the_cutoff() -> None:
    spike = torch.zeros(1, 1, 65, dtype=torch.float64)
    spike[..., 32] = 1
    assert torch.allclose(smoothed(spike), spike, atol=1e-12)
    smooth = smoothed(spike, window="hann", cutoff=0.5)
    assert float(smooth.sum()) == pytest.approx(1, abs=1e-3)  # what has spread beyond the detector is cut
    # A Hann window up to half of the highest frequency: a mean of 0.5 over a half of all frequencies.
    assert float(smooth[..., 32]) == pytest.approx(0.25, abs=0.01)
    every_other = torch.tensor([1.0, -1.0]).double().repeat(100)[None, None]
    assert smoothed(every_other, window="hann", cutoff=0.5)[..., 50:150].abs().max() < 1e-3


def test_views_stand_for_the_gaps_about_them() -> None:
    even = AngularCoverage.of(np.arange(8) * math.pi / 4, 2 * math.pi)
    assert even.is_closed
    assert np.allclose(even.weights, math.pi / 4)
    # 0 and pi are one direction of parallel beams, and share; so do all that are measured twice.
    twice = AngularCoverage.of(np.linspace(0, math.pi, 5), math.pi)
    assert np.allclose(twice.weights, [math.pi / 8, math.pi / 4, math.pi / 4, math.pi / 4, math.pi / 8])
    uneven = AngularCoverage.of(np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9]), 1.0)
    assert np.allclose(uneven.weights, [0.1, 0.15, 0.2, 0.2, 0.2, 0.15])


def test_a_wide_gap_was_not_measured() -> None:
    arc = AngularCoverage.of(np.deg2rad(np.arange(350, 470, 2.0)), 2 * math.pi)
    assert not arc.is_closed
    assert math.degrees(arc.start) == pytest.approx(349)
    assert math.degrees(arc.length) == pytest.approx(120)
    assert np.allclose(np.degrees(arc.weights), 2)
    assert np.allclose(arc.inside(np.deg2rad([355.0, 50.0, 120.0, 349.0]), 0.0), [1, 1, 0, 1])
    assert AngularCoverage.of(np.array([1.0]), math.pi).length == 0


def test_angles_at_random_leave_no_gap() -> None:
    for seed in range(40):
        for views in (60, 720):
            angles = np.random.Generator(np.random.Philox(seed)).uniform(0, math.pi, views)
            found = AngularCoverage.of(angles, math.pi)
            assert found.is_closed
            assert found.weights.sum() == pytest.approx(math.pi)
    # Two wedges that are missing are two gaps, both wide.
    two = np.r_[np.arange(0, 80), np.arange(110, 150)]
    assert not AngularCoverage.of(np.deg2rad(two), math.pi).is_closed


def test_shares_of_one_line_sum_to_one() -> None:
    fan = FanBeamGeometry(
        tuple(np.deg2rad(np.arange(0, 230, 0.5))), 101, 1.0, source_to_axis=200, source_to_detector=300
    )
    circle = ScanCircle.of(fan.views())
    share = circle.weights() / math.radians(0.5)
    assert float(share.min()) >= 0
    # The line of view i, angle g lies at beta + pi + 2 g, on the column that mirrors it.
    matched = 0
    for view in range(0, 100, 7):
        for column in range(0, 101, 10):
            at = circle.angles + math.pi + 2 * circle.beside[view, column]
            other = np.flatnonzero(np.abs(np.mod(at[view] - circle.angles + 0.004, math.tau)) < 0.008)
            if len(other) and 5 < other[0] < 455:
                matched += 1
                assert share[view, column] + share[other[0], 100 - column] == pytest.approx(1, abs=0.02)
    assert matched > 20


def as_orbit(scan: ConeBeamGeometry | ParallelBeamGeometry) -> OrbitGeometry:
    views, place = scan.views(), FRAME.points_to_device
    middle = views.centre + views.across.mean() * views.columns + views.up.mean() * views.rows
    turn = FRAME.to_world[:3, :3]
    return OrbitGeometry(
        sources=views.through @ turn if views.parallel else place(views.through),
        centres=place(middle),
        column_steps=views.pitch[0] * views.columns @ turn,
        row_steps=views.pitch[1] * views.rows @ turn,
        columns=scan.columns,
        rows=scan.rows,
        parallel=views.parallel,
        frame=FRAME,
    )


ANGLES = tuple(np.deg2rad(np.arange(0, 360, 4.0)))


@pytest.mark.parametrize("parallel", [True, False])
def test_a_circle_is_found_in_rays_alone(parallel: bool) -> None:
    sizes = {"angles": ANGLES, "columns": 40, "column_pitch": 1.2, "rows": 3, "axis_column": 14.0}
    scan: ConeBeamGeometry | ParallelBeamGeometry
    if parallel:
        scan = ParallelBeamGeometry(frame=FRAME, **sizes)  # type: ignore[arg-type]
    else:
        scan = ConeBeamGeometry(
            frame=FRAME,
            source_to_axis=100,
            source_to_detector=150,
            **sizes,  # type: ignore[arg-type]
        )
    made, found = ScanCircle.of(scan.views()), ScanCircle.of(as_orbit(scan).views())
    for circle in (made, found):
        assert np.allclose(circle.axis, ROTATION[:, 2], atol=1e-9)
        offset = circle.centre - FRAME.to_world[:3, 3]
        across = offset - (offset @ circle.axis) * circle.axis
        assert np.abs(across).max() < 1e-8
        assert circle.one_sided == 1
    assert np.allclose(made.beside, found.beside, atol=1e-9)
    assert np.allclose(made.weights(), found.weights(), atol=1e-9)


def test_paths_that_are_no_circle_are_refused() -> None:
    sizes = {"columns": 40, "column_pitch": 1.2, "source_to_axis": 100, "source_to_detector": 150}
    two = FanBeamGeometry((0.0, 1.0), **sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="have sources that tell their circle, got 2 views"):
        ScanCircle.of(two.views())
    wobble = ConeBeamGeometry(
        ANGLES,
        source_shifts=tuple((0.0, 4.0 * (k % 2), 0.0) for k in range(len(ANGLES))),
        **sizes,  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match="have its sources on a circle about the axis"):
        ScanCircle.of(wobble.views())
    with pytest.raises(ValueError, match="have its sources in one plane"):
        ScanCircle.of(ConeBeamGeometry(ANGLES, **sizes).helical(20.0).views())  # type: ignore[arg-type]
    tilted = ParallelBeamGeometry(ANGLES, 40, 1.2, tilt=0.1)
    with pytest.raises(ValueError, match="have detector rows along the axis of rotation"):
        ScanCircle.of(tilted.views())
