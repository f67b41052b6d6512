"""Slices that were read one by one, as one scan: each keeps its own k-space, none is interpolated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.frame import DeviceFrame
from workbench.io.raw_scan import RawScan

__all__ = ["stack_slices"]

CLOSE = 1e-2  # mm


def stack_slices(scans: Sequence[RawScan]) -> RawScan:
    """Return parallel slices as a multislice scan (coils, slices, ky, kx), in the order of device z.

    They must be as far from one another, which becomes the spacing of the grid, whatever their
    thickness, and alike in all else. The noise scan is the first one's.
    """
    if not isinstance(scans, Sequence) or not all(isinstance(scan, RawScan) for scan in scans):
        remedy = 'Such as [read_ismrmrd(path, slice=s) for s in ismrmrd_counters(path)["slice"]].'
        raise type_error("scans", "be a sequence of RawScans", repr(type(scans).__name__), remedy)
    if not scans or any(scan.matrix[0] != 1 or scan.multislice for scan in scans):
        found = [scan.matrix for scan in scans]
        raise value_error("scans", "be single slices, at least one", found, "Volumes are read whole.")
    first = scans[0]
    for i, scan in enumerate(scans):
        alike = scan.matrix == first.matrix and scan.kspace.shape == first.kspace.shape
        extents = np.allclose(scan.field_of_view, first.field_of_view, rtol=1e-6)
        if not alike or not extents or (scan.calibration is None) != (first.calibration is None):
            expected = "have the coils, matrix, field of view and kind of calibration of the first slice"
            raise value_error(f"scans[{i}]", expected, f"{tuple(scan.kspace.shape)}, {scan.field_of_view} mm")
    places = np.stack([first.frame.points_to_device(scan.frame.to_world[:3, 3]) for scan in scans])
    turns = np.stack([scan.frame.to_world[:3, :3] for scan in scans])
    if np.abs(places[:, :2]).max() > CLOSE or np.abs(turns - turns[0]).max() > 1e-4:
        raise value_error("scans", "be parallel slices, one above the other", f"places {places.tolist()} mm")
    order = np.argsort(places[:, 2])
    steps = np.diff(places[order, 2])
    spacing = float(steps.mean()) if len(steps) else first.field_of_view[0]
    if len(steps) and (np.abs(steps - spacing).max() > CLOSE or spacing < CLOSE):
        raise value_error(
            "scans",
            "be slices as far from one another",
            f"{steps.round(3).tolist()} mm apart",
            "Stack the groups of equal spacing apart.",
        )
    sorted_scans = [scans[i] for i in order]
    count = len(scans)
    frame = first.frame.to_world.copy()
    frame[:3, 3] = sorted_scans[count // 2].frame.to_world[:3, 3]
    _, y, x = first.matrix
    counters = {name: value for name, value in first.counters.items() if name != "slice"}
    thickness = first.field_of_view[0]
    _, shown_y, shown_x = first.recon_field_of_view
    return first.with_(
        matrix=(count, y, x),
        field_of_view=(count * spacing, *first.field_of_view[1:]),
        recon_matrix=(count, *first.recon_matrix[1:]),
        recon_field_of_view=(count * spacing, shown_y, shown_x),
        frame=DeviceFrame(frame),
        multislice=True,
        counters=counters,
        kspace=torch.cat([scan.kspace for scan in sorted_scans], dim=1),
        averages=torch.cat([scan.averages for scan in sorted_scans]),
        calibration=_joined([scan.calibration for scan in sorted_scans], 1),
        calibration_averages=_joined([scan.calibration_averages for scan in sorted_scans], 0),
        provenance=first.provenance.then(
            f"stacked {count} slices of {thickness:g} mm, {spacing:g} mm from one to the next"
        ),
    )


def _joined(parts: list[Tensor | None], axis: int) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given, dim=axis) if given else None
