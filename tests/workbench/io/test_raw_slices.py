"""Slices stacked into one scan lie where they lay, in whatever order they were read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from operators.mri.cartesian import CartesianGeometry
from tests.workbench.io.ismrmrd_cases import COILS, GAINS, header, lines, point, readout, seeded, written
from workbench.io.ismrmrd import ismrmrd_counters, read_ismrmrd
from workbench.io.raw_scan import RawScan
from workbench.io.raw_slices import stack_slices

MATRIX, EXTENT = (1, 12, 16), (3.0, 24.0, 32.0)
HEIGHTS = [8.0, -2.0, 18.0, 3.0, 13.0]  # mm along the slice direction, 5 mm apart


def scans(path: Path) -> list[RawScan]:
    found = [read_ismrmrd(path, slice=s) for s in ismrmrd_counters(path)["slice"]]
    return [scan for scan in found if isinstance(scan, RawScan)]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_point_in_one_slice_is_found_there(tmp_path: Path, mirrored: bool) -> None:
    turn = np.linalg.qr(seeded(3, 3, seed=2).real.astype(np.float64))[0]
    axes = turn * (np.sign(np.linalg.det(turn)) * (-1 if mirrored else 1))
    made = []
    for s, height in enumerate(HEIGHTS):
        position = tuple(height * axes[2] + [1.0, 2.0, 3.0])
        place = np.array(position) + 4.0 * axes[0] - 6.0 * axes[1]
        line = point(MATRIX, EXTENT, axes, position, place)
        gain = 1.0 if height == 3.0 else 0.1
        made += lines(
            lambda kz, ky, g=gain, f=line: g * f(kz, ky), MATRIX, axes=axes, position=position, slice=s
        )
    stack = stack_slices(scans(written(tmp_path / "a.h5", header(MATRIX, EXTENT), made)))
    assert stack.matrix == (5, 12, 16) and stack.multislice
    assert stack.grid.spacing == pytest.approx((5.0, 2.0, 2.0))
    assert stack.provenance.steps[-1] == "stacked 5 slices of 3 mm, 5 mm from one to the next"
    assert "slice" not in stack.counters
    assert isinstance(stack.geometry, CartesianGeometry)
    images = stack.geometry.operator(stack.grid, components=(COILS,)).H(stack.kspace)
    peak = np.unravel_index(int(images[0].abs().argmax()), stack.matrix)
    expected = 3.0 * axes[2] + [1.0, 2.0, 3.0] + 4.0 * axes[0] - 6.0 * axes[1]
    assert np.allclose(stack.grid.index_to_world(peak), expected * [-1, -1, 1], atol=1e-4)
    height = np.sqrt(12 * 16)
    assert np.allclose(images[(slice(None), *peak)].numpy(), GAINS * height, atol=1e-4 * height)


def test_sampling_and_calibration_are_stacked(tmp_path: Path) -> None:
    data = seeded(3, COILS, 12, 16)
    made = [
        readout(
            data[s, :, ky], ky=ky, slice=s, position=(0.0, 0.0, 4.0 * s), flags=[21] if ky in (5, 6) else []
        )
        for s in range(3)
        for ky in range(0, 12, 1 + s)
    ]
    one_by_one = scans(written(tmp_path / "a.h5", header(), made))
    stack = stack_slices(one_by_one[::-1])
    assert torch.equal(stack.kspace, torch.cat([scan.kspace for scan in one_by_one], 1))
    assert stack.sampled[:, :, 0].sum(1).tolist() == [12, 6, 4]
    assert stack.calibration is not None and stack.calibration.shape == (COILS, 3, 12, 16)
    assert stack.averages.shape == (3, 12, 16)
    single = stack_slices(one_by_one[:1])
    assert single.grid.matches(one_by_one[0].grid)


def test_slices_that_make_no_stack(tmp_path: Path) -> None:
    def made(*positions: tuple[float, float, float]) -> list[RawScan]:
        readouts = [
            readout(seeded(COILS, 16), ky=ky, slice=s, position=position)
            for s, position in enumerate(positions)
            for ky in range(12)
        ]
        return scans(written(tmp_path / "a.h5", header(), readouts))

    with pytest.raises(
        ValueError, match=r"`scans` must be slices as far from one another, got \[4\.0, 5\.0\] mm"
    ):
        stack_slices(made((0, 0, 0), (0, 0, 4), (0, 0, 9)))
    with pytest.raises(ValueError, match="as far from one another"):
        stack_slices(made((0, 0, 1), (0, 0, 1)))
    with pytest.raises(ValueError, match="`scans` must be parallel slices, one above the other"):
        stack_slices(made((0, 0, 0), (3, 0, 4)))
    whole = made((0, 0, 0), (0, 0, 4))
    with pytest.raises(ValueError, match=r"`scans\[1\]` must have the coils, matrix, field of view"):
        stack_slices([whole[0], whole[1].with_(kspace=whole[1].kspace[:2])])
    with pytest.raises(ValueError, match="`scans` must be single slices, at least one, got"):
        stack_slices([stack_slices(whole)])
    with pytest.raises(ValueError, match="`scans` must be single slices"):
        stack_slices([])
    with pytest.raises(TypeError, match="`scans` must be a sequence of RawScans"):
        stack_slices(whole[0])  # type: ignore[arg-type]
