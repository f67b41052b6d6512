"""ISMRMRD raw data: k-space on its matrix, in its place, with noise and calibration readouts apart.

    kx index = i - center_sample + Nx // 2               i: sample of the readout
    ky index = kspace_encode_step_1 - centre + Ny // 2   (kz alike, by step 2)

A readout marked as reversed is turned round first; its centre sample counts in the turned one. Positions
and directions in the file are LPS mm, here the world is RAS mm. Of directions that make a left-handed
triad the third is turned round, and with it the order of kz.

What the file does not say is asked for, or taken with a warning; never guessed silently.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from operators.checks import check_count, check_spacing
from operators.errors import value_error
from workbench.io.checks import checked_path
from workbench.io.ismrmrd_header import EncodingHeader, read_header
from workbench.io.ismrmrd_kspace import (
    TRAJECTORY_UNITS,
    along_trajectory,
    cartesian,
    device_frame,
    dwell,
    noise_samples,
    without_oversampling,
)
from workbench.io.ismrmrd_readouts import BOTH, CALIBRATION, COUNTERS, NOISE, OTHER, Bools, Readouts
from workbench.io.raw_scan import RawScan, RawTrajectory, Shared
from workbench.measurement import Provenance

__all__ = ["TRAJECTORY_UNITS", "ismrmrd_counters", "read_ismrmrd"]

ENCODED = ("cartesian", "epi")


def read_ismrmrd(
    path: str | Path,
    *,
    encoding: int | None = None,
    slice: int | None = None,
    contrast: int | None = None,
    phase: int | None = None,
    repetition: int | None = None,
    set: int | None = None,
    average: int | None = None,
    remove_oversampling: bool = False,
    field_of_view: Sequence[float] | None = None,
    embedded_calibration: bool | None = None,
    zeros_are_data: bool | None = None,
    trajectory_unit: str | None = None,
    trajectory_axes: int | None = None,
    group: str = "dataset",
) -> RawScan | RawTrajectory:
    """Return one k-space of an ISMRMRD file: a RawTrajectory where readouts follow one, else a RawScan.

    Parameters
    ----------
    path
        Of the file, HDF5.
    encoding, slice, contrast, phase, repetition, set
        Which; each must be chosen where the file holds several (`ismrmrd_counters` lists them).
    average
        One of the averages; by default the mean of all, their number kept for the noise.
    remove_oversampling
        Whether the image is cropped along the readout from the encoded to the shown field of view, which
        leaves white noise white and its sd as it is. It needs whole readouts.
    field_of_view
        Of the encoding, (z, y, x) in mm, in place of the header's where that is not the true one.
    embedded_calibration
        Whether readouts for calibration alone belong to the image as well. By default as the header says:
        yes for "embedded", no for "separate" and "external", asked for otherwise.
    zeros_are_data
        Whether samples that are exactly zero in every coil were measured. By default they were not, with a
        warning: so converters fill in what was left out.
    trajectory_unit, trajectory_axes
        One of `TRAJECTORY_UNITS`, and how many of the stored axes are frequencies, for a file with
        trajectories: it states neither.
    group
        Of the HDF5 file.
    """
    source = checked_path(path)
    with Readouts(source, group) as readouts:
        stated, number = read_header(readouts.document, source, encoding)
        header = _with_field_of_view(stated, field_of_view, source)
        own = _of_object(readouts, number)
        imaging = own & _imaging(readouts, own, header, embedded_calibration)
        if not imaging.any():
            raise value_error("path", f"hold readouts of an image in encoding {number}", source)
        wanted = dict(zip(COUNTERS, (slice, contrast, phase, repetition, set), strict=True))
        chosen, counters = readouts.chosen(imaging, wanted)
        if average is not None:
            chosen, _ = readouts.chosen(chosen, {"average": check_count(average, "average", minimum=0)})
        frame, is_mirrored = device_frame(readouts, chosen)
        noise = readouts.flagged(NOISE)
        named = ", ".join(f"{name} {value}" for name, value in {"encoding": number, **counters}.items())
        others = int(readouts.flagged(*OTHER).sum())
        left = (f"left out {others} navigators, corrections and the like",) if others else ()
        shared = Shared(
            matrix=header.matrix,
            field_of_view=header.field_of_view,
            frame=frame,
            recon_matrix=header.recon_matrix,
            recon_field_of_view=header.recon_field_of_view,
            counters={"encoding": number, **counters},
            noise_scan=noise_samples(readouts, noise, chosen),
            noise_dwell=dwell(readouts, noise),
            dwell=dwell(readouts, chosen),
            receiver_bandwidth=header.receiver_bandwidth,
            provenance=Provenance(str(source), (f"read {named}", *left), header.details),
        )
        stored = readouts.heads["trajectory_dimensions"][chosen]
        if header.trajectory not in ENCODED:
            return along_trajectory(readouts, chosen, shared, is_mirrored, trajectory_unit, trajectory_axes)
        if stored.any() or header.trajectory == "epi":
            what = "a trajectory" if stored.any() else "the trajectory 'epi'"
            _warn(
                f"{source} states {what}, and Cartesian encoding steps, which are followed: nothing is "
                "regridded, and odd and even lines are not aligned."
            )
        scan = cartesian(readouts, chosen, header, shared, is_mirrored, zeros_are_data)
        scan = _calibrated(scan, readouts, own, header, is_mirrored)
    return without_oversampling(scan) if remove_oversampling else scan


def ismrmrd_counters(
    path: str | Path, *, encoding: int | None = None, group: str = "dataset"
) -> dict[str, tuple[int, ...]]:
    """Return the values that each counter takes in the readouts of an encoding, averages included."""
    source = checked_path(path)
    with Readouts(source, group) as readouts:
        _, number = read_header(readouts.document, source, encoding)
        own = _of_object(readouts, number)
        return {name: readouts.values(name, own) for name in (*COUNTERS, "average")}


def _of_object(readouts: Readouts, encoding: int) -> Bools:
    """Return which readouts measured the object in this encoding."""
    mine: Bools = readouts.heads["encoding_space_ref"] == encoding
    return mine & ~readouts.flagged(NOISE, *OTHER)


def _imaging(readouts: Readouts, own: Bools, header: EncodingHeader, embedded: bool | None) -> Bools:
    alone = own & readouts.flagged(CALIBRATION) & ~readouts.flagged(BOTH)
    if not alone.any():
        return own
    if embedded is None:
        known = {"embedded": True, "separate": False, "external": False}
        if header.calibration not in known:
            raise value_error(
                "embedded_calibration",
                f"say whether the image includes the {int(alone.sum())} readouts for calibration alone "
                f"in {readouts.source}",
                f"None, where the header states the mode {header.calibration!r}",
                "True for lines of the same scan, False for a scan of their own.",
            )
        embedded = known[header.calibration]
    return own if embedded else own & ~alone


def _calibrated(
    scan: RawScan, readouts: Readouts, own: Bools, header: EncodingHeader, is_mirrored: bool
) -> RawScan:
    """Return the scan with the k-space of its calibration readouts, where there are any."""
    marked = own & readouts.flagged(CALIBRATION, BOTH)
    if not marked.any():
        return scan
    for name in COUNTERS:
        value = scan.counters[name]
        of_scan = marked & (readouts.counter(name) == value)
        if not of_scan.any():
            _warn(
                f"{readouts.source} has no calibration readouts of {name} {value}: those of others are left."
            )
            return scan
        marked = of_scan
    found = cartesian(readouts, marked, header, scan.shared, is_mirrored, True)
    return replace(scan, calibration=found.kspace, calibration_averages=found.averages)


def _with_field_of_view(
    header: EncodingHeader, field_of_view: Sequence[float] | None, source: Path
) -> EncodingHeader:
    """Return the header with the encoded field of view as given, the shown one in proportion."""
    stated, shown = header.field_of_view, header.recon_field_of_view
    if field_of_view is None and not min(stated) > 0:
        raise value_error(
            "field_of_view",
            f"be given for {source}, whose header states none",
            f"{stated} mm (z, y, x)",
            "field_of_view=(z, y, x) in mm, of the encoding.",
        )
    lengths = stated if field_of_view is None else check_spacing(field_of_view, "field_of_view")
    if not min(shown) > 0:
        _warn(f"{source} states no field of view to be shown: the encoded one is taken.")
        return replace(header, field_of_view=lengths, recon_field_of_view=lengths)
    share = [r / e if e > 0 else 1.0 for r, e in zip(shown, stated, strict=True)]
    z, y, x = (length * s for length, s in zip(lengths, share, strict=True))
    return replace(header, field_of_view=lengths, recon_field_of_view=(z, y, x))


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
