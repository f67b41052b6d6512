"""Where a stack of DICOM slices lies: by ImagePositionPatient and ImageOrientationPatient, by nothing else.

With r along a row and c along a column of pixels, both unit vectors in LPS, slices are in the order of p . n
for n = r x c, so that the array's first axis runs along n. The affine, in array order (z, y, x), is

    LPS = p_0 + z s + y dy c + x dx r,      s = (p_last - p_first) / (N - 1),      (dy, dx) = PixelSpacing,

and RAS = diag(-1, -1, 1) LPS. Where s is not parallel to n (a tilted gantry) the affine has that shear: every
voxel is in its place, and nothing is resampled. Neither names of files nor InstanceNumber nor SliceLocation
have a say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.grid import RAS_TO_LPS, Grid, TimeAxis
from workbench.io.dicom_refusal import RefusalError

__all__ = ["Place", "along", "axes", "placed", "point"]

FloatArray = NDArray[np.float64]

#: Of the spacing: how far from its even place a slice may lie without a word, and with a warning.
EVEN, NEARLY_EVEN = 0.01, 0.1
#: Of a pixel: a sideways drift over the whole stack that is rounding of the positions.
STRAIGHT = 0.01
_ORTHONORMAL = 1e-3


@dataclass(frozen=True)
class Place:
    """The grid of a stack, the angle in degrees between its steps and its normal, and what to warn of."""

    grid: Grid
    tilt: float
    warnings: tuple[str, ...]


def axes(orientation: Sequence[float]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the unit vectors r along rows, c along columns and the normal r x c, in LPS."""
    r, c = np.array(orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.array([np.linalg.norm(r), np.linalg.norm(c)])
    if np.abs(lengths - 1).max() > _ORTHONORMAL or abs(r @ c) > _ORTHONORMAL:
        raise RefusalError(
            "an unusable orientation",
            "state two orthogonal unit vectors as ImageOrientationPatient",
            f"({', '.join(f'{cosine:g}' for cosine in orientation)})",
        )
    r = r / lengths[0]
    c = c - (c @ r) * r
    c /= np.linalg.norm(c)
    return r, c, np.cross(r, c)


def along(position: Sequence[float], orientation: Sequence[float]) -> float:
    """Return how far in mm a slice lies along the normal of `orientation`."""
    return float(np.array(position) @ axes(orientation)[2])


def point(position: Sequence[float]) -> str:
    """Return a position for a message."""
    return "(" + ", ".join(f"{coordinate + 0.0:.6g}" for coordinate in position) + ")"


def placed(
    positions: Sequence[Sequence[float]],
    orientation: Sequence[float],
    pixel_spacing: Sequence[float],
    shape: tuple[int, int],
    thickness: float | None,
    time: TimeAxis | None = None,
) -> Place:
    """Return the place of slices at `positions`, in order along the normal, or raise a RefusalError."""
    r, c, normal = axes(orientation)
    dy, dx = pixel_spacing
    where = np.array(positions, dtype=np.float64)
    count = len(where)
    notes: list[str] = []
    if count == 1:
        if thickness is None:
            notes.append("states no SliceThickness for its one slice: 1 mm is taken")
        step = normal * (1.0 if thickness is None else thickness)
    else:
        step, remark = _step(where, normal, min(dy, dx))
        notes += remark
    drift = step - (step @ normal) * normal
    if np.abs((count - 1) * drift).max() <= STRAIGHT * min(dy, dx):
        step = step - drift
    affine = np.eye(4)
    affine[:3, :3] = np.stack([step, dy * c, dx * r], axis=1)
    affine[:3, 3] = where[0]
    grid = Grid((count, *shape), RAS_TO_LPS @ affine, time)
    cosine = min(1.0, float(step @ normal) / float(np.linalg.norm(step)))
    # Of a straight step the cosine is 1 to rounding, of which arccos would make microradians.
    tilt = 0.0 if cosine > 1 - 1e-12 else math.degrees(math.acos(cosine))
    return Place(grid, tilt, tuple(notes))


def _step(where: FloatArray, normal: FloatArray, pixel: float) -> tuple[FloatArray, list[str]]:
    """Return the step from slice to slice in mm, and a remark where slices are not quite evenly spaced."""
    count = len(where)
    step: FloatArray = (where[-1] - where[0]) / (count - 1)
    spacing = float(step @ normal)
    error = where - (where[0] + np.arange(count)[:, None] * step)
    off = np.abs(error @ normal).max()
    aside = np.linalg.norm(error - (error @ normal)[:, None] * normal, axis=1)
    if off > NEARLY_EVEN * spacing:
        raise _uneven(where @ normal)
    if aside.max() > max(NEARLY_EVEN * pixel, 1e-3):
        worst = int(aside.argmax())
        raise RefusalError(
            "slices beside one another",
            "hold slices on one straight line",
            f"the slice at {point(where[worst])} mm (LPS) {aside[worst]:.3g} mm beside the line from the "
            "first to the last",
            "Read the files on each side of the step from folders of their own.",
        )
    if off > EVEN * spacing:
        far = f"up to {off:.3g} mm from even places {spacing:.4g} mm apart, on which they are put"
        return step, [f"has slices {far}"]
    return step, []


def _uneven(depths: FloatArray) -> RefusalError:
    gaps = np.diff(depths)
    share = gaps / gaps.min()
    if np.abs(share - share.round()).max() < NEARLY_EVEN:
        total = int(share.round().sum()) - len(gaps)
        return RefusalError(
            "missing slices",
            "hold every slice of its stack",
            f"{_gaps(depths, gaps.min())}: {total} {'slice is' if total == 1 else 'slices are'} missing "
            f"between the {len(depths)} that are there",
            "Find them, or read the files on one side of the gap from a folder of their own.",
        )
    return RefusalError(
        "uneven gaps",
        "hold slices at even distances",
        _gaps(depths, float(np.median(gaps))),
        "Read the files of one spacing from a folder of their own, and resample the volumes.",
    )


def _gaps(depths: FloatArray, usual: float) -> str:
    """Return the gaps that are not the usual one, for a message."""
    gaps = np.diff(depths)
    odd = [k for k, gap in enumerate(gaps) if abs(gap - usual) > NEARLY_EVEN * usual]
    if not odd:
        return f"gaps that wander from {gaps.min():.6g} to {gaps.max():.6g} mm"
    said = [f"{gaps[k]:.6g} mm from {depths[k]:.6g} to {depths[k + 1]:.6g} mm" for k in odd[:5]]
    more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
    return f"along the normal gaps of {', '.join(said)}{more}, where others are of {usual:.6g} mm"
