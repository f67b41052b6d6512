"""From chosen ISMRMRD readouts to k-space in its place; the equations are those of io/ismrmrd.py."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.errors import value_error
from operators.frame import DeviceFrame
from workbench.calibrate.acs import centred_box
from workbench.io.ismrmrd_header import EncodingHeader, damaged
from workbench.io.ismrmrd_readouts import REVERSED, Bools, Readouts
from workbench.io.raw_scan import RawScan, RawTrajectory, Shared

__all__ = [
    "TRAJECTORY_UNITS",
    "along_trajectory",
    "cartesian",
    "device_frame",
    "dwell",
    "noise_samples",
    "without_oversampling",
]

#: Units of trajectories, which no ISMRMRD file states: "1/fov" counts cycles per encoded field of view, up
#: to N / 2; "1/pixel" and "rad/pixel" per voxel of the encoded matrix, up to 1 / 2 and pi.
TRAJECTORY_UNITS = ("1/mm", "1/m", "1/fov", "1/pixel", "rad/pixel")

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
Ints = NDArray[np.int64]


def device_frame(readouts: Readouts, chosen: Bools) -> tuple[DeviceFrame, bool]:
    """Return the frame of the chosen readouts, and whether its third axis was turned round."""
    heads = readouts.heads[chosen]
    placed = {}
    for name in ("position", "read_dir", "phase_dir", "slice_dir"):
        values = heads[name].astype(np.float64)
        if not np.isfinite(values).all():
            raise damaged(readouts.source, f"its {name} holds NaN or infinity")
        if np.abs(values - values[0]).max() > (1e-2 if name == "position" else 1e-4):
            raise value_error(
                "path", f"hold readouts of one {name} in each slice", f"several in {readouts.source}"
            )
        placed[name] = values[0]
    axes = np.stack([placed["read_dir"], placed["phase_dir"], placed["slice_dir"]], axis=1)
    if not axes.any():
        warnings.warn(
            f"{readouts.source} states no directions: readout, first and second encoding are taken "
            "along the patient's left, posterior and superior.",
            UserWarning,
            stacklevel=3,
        )
        axes = np.eye(3)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise damaged(
            readouts.source, f"its directions are not perpendicular unit vectors: {axes.T.tolist()}"
        )
    # Single precision is no rotation yet: the nearest one.
    left, _, right = np.linalg.svd(LPS_TO_RAS[:, None] * axes)
    rotation = left @ right
    is_mirrored = bool(np.linalg.det(rotation) < 0)
    x, y, z = rotation.T
    origin = LPS_TO_RAS * placed["position"]
    return DeviceFrame.from_axes(x, y, -z if is_mirrored else z, origin=origin), is_mirrored


def noise_samples(readouts: Readouts, noise: Bools, chosen: Bools) -> Tensor | None:
    """Return the noise scan (coils, samples), None where there is none."""
    _coils(readouts, noise | chosen)
    if not noise.any():
        return None
    samples = [readout.samples for readout in readouts.samples(noise)]
    return torch.from_numpy(np.concatenate(samples, axis=1))


def dwell(readouts: Readouts, chosen: Bools) -> float | None:
    """Return the dwell time of the chosen readouts in s, None where the file does not say."""
    times = np.unique(readouts.heads["sample_time_us"][chosen])
    if len(times) > 1:
        warnings.warn(
            f"{readouts.source} states several dwell times, {times.tolist()} us: none is taken.",
            UserWarning,
            stacklevel=3,
        )
    return float(times[0]) * 1e-6 if len(times) == 1 and times[0] > 0 else None


def cartesian(
    readouts: Readouts,
    chosen: Bools,
    header: EncodingHeader,
    shared: Shared,
    is_mirrored: bool,
    zeros_are_data: bool | None,
) -> RawScan:
    """Return the k-space of the chosen readouts, the mean where several fill a sample."""
    coils, matrix = _coils(readouts, chosen), header.matrix
    slow = [_steps(readouts, chosen, header, axis) for axis in (0, 1)]
    if is_mirrored and matrix[0] > 1:
        # On the voxels, frequency -N/2 is frequency +N/2.
        slow[0] = (2 * (matrix[0] // 2) - slow[0]) % matrix[0]
    _warn_of_repeats(readouts, chosen, slow)
    kspace = np.zeros((coils, *matrix), np.complex64)
    averages = np.zeros(matrix, np.int64)
    reverse = readouts.flagged(REVERSED)
    for kz, ky, readout in zip(*slow, readouts.samples(chosen), strict=True):
        head = readouts.heads[readout.number]
        samples = readout.samples
        count = samples.shape[1]
        first, last = int(head["discard_pre"]), count - int(head["discard_post"])
        if reverse[readout.number]:
            samples, first, last = samples[:, ::-1], count - last, count - first
        start = first - int(head["center_sample"]) + matrix[2] // 2
        stop = start + last - first
        if not 0 <= start < stop <= matrix[2]:
            raise damaged(
                readouts.source,
                f"readout {readout.number}, of {count} samples with the centre at {head['center_sample']}, "
                f"does not fit its matrix of {matrix[2]} samples",
            )
        kspace[:, kz, ky, start:stop] += samples[:, first:last]
        averages[kz, ky, start:stop] += 1
    kspace /= np.maximum(averages, 1)
    if not zeros_are_data:
        empty = (averages > 0) & ~kspace.any(axis=0)
        if zeros_are_data is None and empty.any():
            warnings.warn(
                f"{empty.sum() / (averages > 0).sum():.1%} of the samples in {readouts.source} are exactly "
                "zero in every coil, which no receiver measures: they are taken as not measured. "
                "Say so, or not, by zeros_are_data.",
                UserWarning,
                stacklevel=3,
            )
        averages[empty] = 0
        if not averages.any():
            raise value_error("path", "hold a signal", f"zeros in {readouts.source}")
    return RawScan(**vars(shared), kspace=torch.from_numpy(kspace), averages=torch.from_numpy(averages))


def without_oversampling(scan: RawScan) -> RawScan:
    """Return the scan on the shown field of view along the readout."""
    n, extent, shown = scan.matrix[2], scan.field_of_view[2], scan.recon_field_of_view[2]
    kept = round(n * shown / extent)
    if abs(n * shown / extent - kept) > 1e-3 or not 1 <= kept <= n:
        raise value_error(
            "remove_oversampling",
            f"be False where the shown field of view, {shown} mm, is no whole number of the {n} voxels "
            f"of {extent / n:g} mm along the readout",
            True,
        )
    if kept == n:
        return scan
    for counts in (scan.averages, scan.calibration_averages):
        if counts is not None and bool((counts != counts[..., :1]).any()):
            raise value_error(
                "remove_oversampling",
                "be False for readouts that do not fill the matrix (asymmetric echoes)",
                True,
                "Reconstruct on the encoded grid and crop the image.",
            )
    length = extent * kept / n

    def cropped(kspace: Tensor | None) -> Tensor | None:
        if kspace is None:
            return None
        wide = torch.fft.ifft(torch.fft.ifftshift(kspace.to(torch.complex128), dim=-1), norm="ortho")
        image = torch.fft.fftshift(wide, dim=-1)[..., centred_box((n,), (kept,))[0]]
        narrow = torch.fft.fft(torch.fft.ifftshift(image, dim=-1), norm="ortho")
        shifted: Tensor = torch.fft.fftshift(narrow, dim=-1)
        return shifted.to(kspace.dtype)

    z, y, _ = scan.matrix
    steps = scan.provenance.then(f"removed the readout oversampling, {n} to {kept} samples")
    return scan.with_(
        matrix=(z, y, kept),
        field_of_view=(*scan.field_of_view[:2], length),
        kspace=cropped(scan.kspace),
        averages=scan.averages[..., :kept].clone(),
        calibration=cropped(scan.calibration),
        calibration_averages=None
        if scan.calibration_averages is None
        else scan.calibration_averages[..., :kept].clone(),
        provenance=steps,
    )


def along_trajectory(
    readouts: Readouts, chosen: Bools, shared: Shared, is_mirrored: bool, unit: str | None, axes: int | None
) -> RawTrajectory:
    """Return the chosen readouts with their trajectory in 1/mm, along the device axes."""
    stored = np.unique(readouts.heads["trajectory_dimensions"][chosen])
    lengths = np.unique(readouts.heads["number_of_samples"][chosen])
    if len(stored) > 1 or len(lengths) > 1 or stored[0] == 0:
        raise value_error(
            "path",
            "hold readouts of one length, each with its trajectory, unless they are Cartesian",
            f"{readouts.source}, {stored.tolist()} trajectory axes and {lengths.tolist()} samples",
        )
    if unit not in TRAJECTORY_UNITS:
        expected = f"be one of {', '.join(TRAJECTORY_UNITS)}: {readouts.source} does not state it"
        raise value_error("trajectory_unit", expected, repr(unit))
    used = int(stored[0]) if axes is None else axes
    if used not in (2, 3) or used > stored[0]:
        expected = f"be 2 or 3 and at most the {int(stored[0])} stored axes"
        raise value_error("trajectory_axes", expected, axes)
    coils = _coils(readouts, chosen)
    first = readouts.heads["discard_pre"][chosen]
    last = lengths[0] - readouts.heads["discard_post"][chosen].astype(np.int64)
    if len(np.unique(first)) > 1 or len(np.unique(last)) > 1 or not first[0] < last[0]:
        raise damaged(readouts.source, "its readouts discard samples, not all alike")
    kept = slice(int(first[0]), int(last[0]))
    samples, paths = [], []
    for readout in readouts.samples(chosen):
        samples.append(readout.samples[:, kept])
        paths.append(readout.trajectory[kept].astype(np.float64))
    path = np.stack(paths)
    if used == 3 and axes is None and shared.matrix[0] == 1 and path[..., 2].any():
        raise value_error(
            "trajectory_axes",
            "be given where one slice has three trajectory axes",
            "None",
            "2 where the third holds density weights, as some sequences store them.",
        )
    extent, count = np.array(shared.field_of_view[::-1]), np.array(shared.matrix[::-1])
    ones = np.ones(3)
    per_mm = {
        "1/mm": ones,
        "1/m": ones / 1000,
        "1/fov": 1 / extent,
        "1/pixel": count / extent,
        "rad/pixel": count / (2 * np.pi * extent),
    }[unit]
    if is_mirrored:
        per_mm = per_mm * [1, 1, -1]
    return RawTrajectory(
        **vars(shared),
        kspace=torch.from_numpy(np.stack(samples, axis=1).reshape(coils, len(paths), -1)),
        trajectory=torch.from_numpy(path[..., :used] * per_mm[:used]),
    )


def _coils(readouts: Readouts, chosen: Bools) -> int:
    found = np.unique(readouts.heads["active_channels"][chosen])
    if len(found) != 1 or found[0] < 1:
        expected = "hold readouts of one number of coils, the noise scan included"
        raise value_error("path", expected, f"{found.tolist()} in {readouts.source}")
    return int(found[0])


def _steps(readouts: Readouts, chosen: Bools, header: EncodingHeader, axis: int) -> Ints:
    """Return the indices along kz (axis 0) or ky (1) of the chosen readouts."""
    name = ("kspace_encode_step_2", "kspace_encode_step_1")[axis]
    steps, n, centre = readouts.counter(name)[chosen], header.matrix[axis], header.centres[axis]
    if centre is None:
        if n > 1:
            warnings.warn(
                f"{readouts.source} states no centre of {name}: it is taken as {n // 2} of {n}.",
                UserWarning,
                stacklevel=4,
            )
        centre = n // 2
    index = steps - centre + n // 2
    if index.min() < 0 or index.max() >= n:
        raise damaged(
            readouts.source,
            f"its {name} runs from {steps.min()} to {steps.max()} about {centre}, "
            f"which does not fit its matrix of {n} steps",
        )
    return np.asarray(index)


def _warn_of_repeats(readouts: Readouts, chosen: Bools, slow: list[Ints]) -> None:
    keys = np.stack([*slow, readouts.counter("average")[chosen]])
    repeated = keys.shape[1] - np.unique(keys, axis=1).shape[1]
    if repeated:
        warnings.warn(
            f"{readouts.source} repeats {repeated} encoding steps within one average: they are averaged too.",
            UserWarning,
            stacklevel=4,
        )
