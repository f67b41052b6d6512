"""ISMRMRD files for tests, written with the ismrmrd package: a point source at a known place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import ismrmrd
import numpy as np
from numpy.typing import NDArray

NOISE, CALIBRATION, BOTH, REVERSED, NAVIGATOR = 19, 20, 21, 22, 23
COILS = 3
GAINS = np.array([1.0, 0.5j, -0.25 + 0.25j])

Vector = tuple[float, float, float]


def header(
    matrix: tuple[int, int, int] = (1, 12, 16),
    field_of_view: Vector = (5.0, 24.0, 32.0),
    *,
    shown: Vector | None = None,
    recon_matrix: tuple[int, int, int] | None = None,
    trajectory: str = "cartesian",
    centres: tuple[int, int] | None = (0, 0),
    calibration: str | None = None,
    encodings: int = 1,
) -> bytes:
    """Return a header; `centres` (kz, ky) are the middle where 0, not stated where None."""

    def space(counts: tuple[int, int, int], lengths: Vector) -> str:
        z, y, x = counts
        c, b, a = lengths
        return (
            f"<matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>"
            f"<fieldOfView_mm><x>{a}</x><y>{b}</y><z>{c}</z></fieldOfView_mm>"
        )

    limits = ""
    if centres is not None:
        middle = [c or n // 2 for c, n in zip(centres, matrix[:2], strict=True)]
        for step, n, centre in ((1, matrix[1], middle[1]), (2, matrix[0], middle[0])):
            limits += (
                f"<kspace_encoding_step_{step}><minimum>0</minimum><maximum>{n - 1}</maximum>"
                f"<center>{centre}</center></kspace_encoding_step_{step}>"
            )
    parallel = ""
    if calibration is not None:
        parallel = (
            "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
            "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
            f"<calibrationMode>{calibration}</calibrationMode></parallelImaging>"
        )
    encoding = (
        f"<encoding><encodedSpace>{space(matrix, field_of_view)}</encodedSpace>"
        f"<reconSpace>{space(recon_matrix or matrix, shown or field_of_view)}</reconSpace>"
        f"<encodingLimits>{limits}</encodingLimits><trajectory>{trajectory}</trajectory>{parallel}</encoding>"
    )
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<subjectInformation><patientName>Nobody</patientName></subjectInformation>"
        "<acquisitionSystemInformation><systemVendor>ACME</systemVendor>"
        "<relativeReceiverNoiseBandwidth>0.79</relativeReceiverNoiseBandwidth>"
        "</acquisitionSystemInformation><experimentalConditions>"
        "<H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"{encoding * encodings}</ismrmrdHeader>"
    ).encode()


def point(
    matrix: tuple[int, int, int],
    field_of_view: Vector,
    axes: NDArray[np.float64],
    position: Vector,
    place: NDArray[np.float64],
) -> Callable[[int, int], NDArray[np.complex64]]:
    """Return (kz, ky) -> samples (coils, kx) of a unit point at `place`, LPS mm as the file's own vectors.

    `axes` are the readout, first and second encoding directions, in rows.
    """
    offset = axes @ (np.asarray(place) - np.asarray(position))  # along x, y, z of the encoding
    z, y, x = matrix

    def line(kz: int, ky: int) -> NDArray[np.complex64]:
        turns = (kz - z // 2) / field_of_view[0] * offset[2] + (ky - y // 2) / field_of_view[1] * offset[1]
        turns = turns + (np.arange(x) - x // 2) / field_of_view[2] * offset[0]
        return (GAINS[:, None] * np.exp(-2j * np.pi * turns)).astype(np.complex64)

    return line


def readout(
    samples: NDArray[np.complex64],
    *,
    ky: int = 0,
    kz: int = 0,
    flags: Iterable[int] = (),
    axes: NDArray[np.float64] | None = None,
    position: Vector = (0.0, 0.0, 0.0),
    centre: int | None = None,
    trajectory: NDArray[np.float32] | None = None,
    dwell_us: float = 5.0,
    discard: tuple[int, int] = (0, 0),
    encoding: int = 0,
    **counters: int,
) -> ismrmrd.Acquisition:
    """Return one readout."""
    made = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples), trajectory)
    made.center_sample = samples.shape[1] // 2 if centre is None else centre
    made.sample_time_us = dwell_us
    made.discard_pre, made.discard_post = discard
    made.encoding_space_ref = encoding
    directions = np.eye(3) if axes is None else axes
    for name, vector in zip(("read_dir", "phase_dir", "slice_dir"), directions, strict=True):
        getattr(made, name)[:] = vector
    made.position[:] = position
    made.idx.kspace_encode_step_1, made.idx.kspace_encode_step_2 = ky, kz
    for name, value in counters.items():
        setattr(made.idx, name, value)
    for flag in flags:
        made.set_flag(flag)
    return made


def lines(
    line: Callable[[int, int], NDArray[np.complex64]], matrix: tuple[int, int, int], **settings: object
) -> list[ismrmrd.Acquisition]:
    """Return the readouts of a whole matrix."""
    steps = itertools.product(range(matrix[0]), range(matrix[1]))
    return [readout(line(kz, ky), kz=kz, ky=ky, **settings) for kz, ky in steps]  # type: ignore[arg-type]


def written(path: Path, document: bytes, readouts: list[ismrmrd.Acquisition]) -> Path:
    """Return `path`, with a file there."""
    import h5py

    with ismrmrd.File(str(path), "w") as file:
        file["dataset"].acquisitions = readouts
    with h5py.File(path, "a") as raw:
        raw["dataset"].create_dataset(
            "xml", data=np.array([document], dtype=object), dtype=h5py.special_dtype(vlen=bytes)
        )
    return path


def seeded(*shape: int, seed: int = 0) -> NDArray[np.complex64]:
    """Return complex normals, sd 1 per component."""
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) + 1j * generator.standard_normal(shape)).astype(np.complex64)
