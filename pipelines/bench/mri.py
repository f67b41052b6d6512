"""MRI normal operators: radial beside sigpy's and torchkbnufft's, Cartesian beside its bare FFTs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.extras import require
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mri import trajectories
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.coils import Coils
from operators.mri.noncartesian import NonCartesianGeometry
from operators.space import Space
from pipelines.bench.session import PEERS, Session, attempted
from pipelines.bench.table import Quality, Row, Timing, Wanted
from pipelines.bench.timing import LocalTask, compared
from pipelines.bench.worker import RemoteTask
from workbench.random import Keys

__all__ = ["cartesian_rows", "radial_rows"]

Array = NDArray[Any]
#: Of each peer the operations that it has, what they are, and how many times faster ours is to be.
THEIRS: dict[str, tuple[tuple[str, str, float | None], ...]] = {
    "sigpy": (("gram", "A then A^H", 6.0), ("toeplitz", "toeplitz=True", None)),
    "torchkbnufft": (("gram", "Toeplitz", 1.0),),
}


@dataclass(frozen=True)
class Radial:
    """A radial scan of n x n voxels by several coils, with random maps and image in single precision."""

    n: int
    coils: int
    spokes: int

    @property
    def trajectory(self) -> NDArray[np.float64]:
        """k-space places (spokes, samples, 2), (kx, ky) in cycles per voxel."""
        return trajectories.radial(self.spokes, 2 * self.n, 1.0)

    def maps(self) -> Tensor:
        """Return maps (coils, 1, n, n)."""
        return _complex((self.coils, 1, self.n, self.n), "maps")

    def image(self) -> Tensor:
        """Return an image (1, n, n)."""
        return _complex((1, self.n, self.n), "image")

    def operator(self) -> LinearOperator:
        """Return A."""
        grid = Grid.plane((self.n, self.n), 1.0)
        space = Space.field(grid, is_complex=True)
        encoding = NonCartesianGeometry(self.trajectory).operator(grid, components=(self.coils,))
        return encoding @ Coils(space, self.maps())

    def arrays(self) -> dict[str, Array]:
        """Return what a peer is given: frequencies (samples, 2) along the array axes, (y, x)."""
        frequency = np.ascontiguousarray(self.trajectory[..., ::-1].reshape(-1, 2))
        maps, image = self.maps()[:, 0].numpy(), self.image()[0].numpy()
        return {"frequency": frequency, "maps": maps, "image": image}

    def exact(self) -> Array:
        """Return A^H A of the image in double precision, to 14 digits, by finufft without our operators."""
        finufft = require("finufft", feature="The exact normal operator", extra="mri")
        given = self.arrays()
        turns = [np.ascontiguousarray(2 * math.pi * axis) for axis in given["frequency"].T]
        maps = given["maps"].astype(np.complex128)
        seen = np.ascontiguousarray(maps * given["image"].astype(np.complex128))
        samples = finufft.nufft2d2(*turns, seen, eps=1e-14, isign=-1)
        back: Array = finufft.nufft2d1(*turns, samples, (self.n, self.n), eps=1e-14, isign=1)
        total: Array = (maps.conj() * back).sum(axis=0) / self.n**2
        return total


def radial_rows(session: Session, case: str, scan: Radial) -> Iterator[Row]:
    """Yield A^H A of one radial scan beside the peers, and the error of each."""
    session.say(f"{case}: {scan.spokes} spokes")
    work = f"radial {scan.spokes} x {2 * scan.n}, {scan.coils} coils of {scan.n}^2, A^H A"
    begun = time.perf_counter()
    operator, image = scan.operator(), scan.image()
    task = LocalTask(lambda: operator.gram(image))
    task.seconds(0.0)
    first, exact = time.perf_counter() - begun, scan.exact()
    error = float(np.linalg.norm(operator.gram(image).numpy()[0] - exact) / np.linalg.norm(exact))
    theirs: dict[str, float] = {}
    for name in THEIRS:
        rows = _beside(session, case, name, work, scan, task, first, exact, theirs)
        yield from attempted(rows, case, work, PEERS[name].name)
    bound = min(theirs.values()) if theirs else None
    yield Quality(case, work, "ours", "error", error, bound, "wanted: the best peer's")
    mine, other = operator.gram(image), _complex(tuple(image.shape), "other")
    apart = (mine.conj() * other).sum() - (image.conj() * operator.gram(other)).sum()
    value = float(apart.abs() / (mine.norm() * other.norm()))
    yield Quality(case, work, "ours", "adjointness", value, 1e-6, "of A^H A, its own adjoint")


def _beside(
    session: Session,
    case: str,
    name: str,
    work: str,
    scan: Radial,
    task: LocalTask,
    first: float,
    exact: Array,
    error: dict[str, float],
) -> Iterator[Row]:
    """Yield the rows of one peer; note its error under its name."""
    peer = PEERS[name]
    with session.worker(peer, {"n": scan.n}, scan.arrays()) as worker:
        for operation, how, bound in THEIRS[name]:
            who = f"{peer.name}, {how}"
            session.say(f"{case}: beside {who}")
            times = first, worker.prepared + worker.seconds(operation, least=0.0)
            found = compared(task, RemoteTask(worker, operation), session.plan)
            yield Timing(case, work, who, found, () if bound is None else (Wanted(bound),), times)
            error[who] = _scaled_error(worker.result(operation), exact)
            yield Quality(case, work, who, "error", error[who], None, "up to one factor: its scale differs")


def cartesian_rows(session: Session, case: str, coils: int, slices: int, n: int) -> Iterator[Row]:
    """Yield the Cartesian normal operator beside the two Fourier transforms of all coil images in it."""
    session.say(f"{case}: {coils} coils of {slices} x {n}^2")
    grid = Grid.from_spacing((slices, n, n), 1.0)
    space = Space.field(grid, is_complex=True)
    maps, image = _complex((coils, *grid.shape), "maps"), _complex(grid.shape, "image")
    lines = Keys(7, (0,)).uniforms((n,), "lines", like=torch.empty(0, dtype=torch.float32))[0] < 0.3
    for multislice, axes in ((True, (-2, -1)), (False, (-3, -2, -1))):
        begun = time.perf_counter()
        encoding = CartesianGeometry.around(grid, multislice=multislice)
        scan = SampledCartesianGeometry.lines(encoding, lines)
        operator = scan.operator(grid, components=(coils,)) @ Coils(space, maps)

        def bare(axes: tuple[int, ...] = axes) -> Tensor:
            back: Tensor = torch.fft.ifftn(torch.fft.fftn(maps, dim=axes), dim=axes)
            return back

        def gram(operator: LinearOperator = operator) -> Tensor:
            return operator.gram(image)

        task = LocalTask(gram)
        task.seconds(0.0)
        first = time.perf_counter() - begun
        work = f"Cartesian {coils} x {slices} x {n}^2, {'2D slices' if multislice else '3D'}, A^H A"
        session.say(f"{case}: {work}")
        found = compared(task, LocalTask(bare), session.plan)
        yield Timing(case, work, "its bare FFTs", found, (Wanted(1 / 1.3),), (first, None))


def _complex(shape: tuple[int, ...], purpose: str) -> Tensor:
    return Keys(7, (0,)).normals(shape, purpose, like=torch.empty(0, dtype=torch.complex64))[0]


def _scaled_error(found: Array, exact: Array) -> float:
    """Return the relative error up to one factor: conventions of scale differ."""
    values = found.reshape(exact.shape).astype(np.complex128)
    scale = np.vdot(values, exact) / np.vdot(values, values)
    return float(np.linalg.norm(scale * values - exact) / np.linalg.norm(exact))
