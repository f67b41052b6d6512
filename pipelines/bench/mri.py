"""MRI normal operators beside sigpy's, torchkbnufft's and beside their own bare Fourier transforms."""

from __future__ import annotations

import importlib
import importlib.util
import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from operators.extras import require
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mri import trajectories
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.coils import Coils
from operators.mri.noncartesian import NonCartesianGeometry
from operators.space import Space
from pipelines.bench.table import Row
from pipelines.bench.timing import Work, paired, threads
from workbench.random import Keys

__all__ = ["cartesian_rows", "radial_rows"]

SIZE, COILS, SLICES = 256, 8, 32


def radial_rows() -> Iterator[Row]:
    """Yield the normal operator of radial scans beside sigpy's pair and torchkbnufft's Toeplitz."""
    grid = Grid.plane((SIZE, SIZE), 1.0)
    space = Space.field(grid, is_complex=True)
    maps, x = _complex((COILS, 1, SIZE, SIZE), "maps"), _complex((1, SIZE, SIZE), "image")
    for spokes in (64, 400):
        trajectory = trajectories.radial(spokes, 2 * SIZE, 1.0)
        geometry = NonCartesianGeometry(trajectory)
        begun = time.perf_counter()
        operator = geometry.operator(grid, components=(COILS,)) @ Coils(space, maps)
        operator.gram(x)
        setup = time.perf_counter() - begun
        exact = _exact(geometry, grid, space, maps, x)
        mine = _error(operator.gram(x).numpy(), exact)
        for peer, work, answer, wanted in _peers(trajectory, maps, x):
            found = paired(lambda op=operator: op.gram(x), work)  # type: ignore[misc]
            with threads(1):
                alone = paired(lambda op=operator: op.gram(x), work, pairs=3).ratio  # type: ignore[misc]
            note = f"error {mine:.0e} against {_error(answer(), exact):.0e}"
            name = f"radial {spokes} x {2 * SIZE}, {COILS} coils of {SIZE}^2: A^H A"
            yield Row(name, peer, found.ours, found.theirs, found.ratio, alone, wanted, setup, note)


def cartesian_rows() -> Iterator[Row]:
    """Yield the Cartesian normal operator beside the two Fourier transforms of all coil images in it."""
    grid = Grid.from_spacing((SLICES, SIZE, SIZE), 1.0)
    space = Space.field(grid, is_complex=True)
    maps, x = _complex((COILS, *grid.shape), "maps"), _complex(grid.shape, "image")
    lines = Keys(7, (0,)).uniforms((SIZE,), "lines", like=torch.empty(0, dtype=torch.float32))[0] < 0.3
    for multislice, axes in ((True, (-2, -1)), (False, (-3, -2, -1))):
        encoding = CartesianGeometry.around(grid, multislice=multislice)
        scan = SampledCartesianGeometry.lines(encoding, lines)
        operator = scan.operator(grid, components=(COILS,)) @ Coils(space, maps)

        def bare(axes: tuple[int, ...] = axes) -> Tensor:
            back: Tensor = torch.fft.ifftn(torch.fft.fftn(maps, dim=axes), dim=axes)
            return back

        found = paired(lambda op=operator: op.gram(x), bare)  # type: ignore[misc]
        with threads(1):
            alone = paired(lambda op=operator: op.gram(x), bare, pairs=3).ratio  # type: ignore[misc]
        name = f"Cartesian {COILS} x {SLICES} x {SIZE}^2, {'2D slices' if multislice else '3D'}: A^H A"
        yield Row(name, "its bare FFTs", found.ours, found.theirs, found.ratio, alone, wanted=1 / 1.3)


def _complex(shape: tuple[int, ...], purpose: str) -> Tensor:
    return Keys(7, (0,)).normals(shape, purpose, like=torch.empty(0, dtype=torch.complex64))[0]


def _exact(
    geometry: NonCartesianGeometry, grid: Grid, space: Space, maps: Tensor, x: Tensor
) -> np.ndarray[tuple[int, ...], np.dtype[np.complex128]]:
    """Return A^H A x in double precision, to twelve digits."""
    accurate = geometry.operator(grid, components=(COILS,), accuracy=1e-12)
    operator: LinearOperator = accurate @ Coils(space, maps.to(torch.complex128))
    wide = x.to(torch.complex128)
    return operator.adjoint(operator(wide)).numpy()


def _error(found: object, exact: np.ndarray[tuple[int, ...], np.dtype[np.complex128]]) -> float:
    """Return the relative error, up to one factor: conventions of scale differ."""
    values = np.asarray(found).reshape(exact.shape)
    scale = np.vdot(values, exact) / np.vdot(values, values)
    return float(np.linalg.norm(scale * values - exact) / np.linalg.norm(exact))


def _peers(
    trajectory: np.ndarray[tuple[int, ...], np.dtype[np.float64]], maps: Tensor, x: Tensor
) -> Iterator[tuple[str, Work, Work, float]]:
    """Yield name, work, its answer as an array and the ratio that is wanted."""
    linop = require("sigpy.linop", feature="The comparison with sigpy", extra="mri")
    places = (trajectory[..., ::-1] * SIZE).reshape(-1, 2).astype(np.float32)
    sense = linop.Multiply((SIZE, SIZE), maps[:, 0].numpy())
    pair = linop.NUFFT((COILS, SIZE, SIZE), places) * sense
    image = x[0].numpy()
    yield "sigpy, A then A^H", lambda: pair.H(pair(image)), lambda: pair.H(pair(image)), 6.0
    if importlib.util.find_spec("torchkbnufft") is None:
        return
    torchkbnufft = importlib.import_module("torchkbnufft")
    angles = torch.from_numpy((2 * math.pi * trajectory[..., ::-1]).reshape(-1, 2).T.copy()).float()
    kernel = torchkbnufft.calc_toeplitz_kernel(angles, (SIZE, SIZE))
    toeplitz = torchkbnufft.ToepNufft()

    def work() -> Tensor:
        result: Tensor = toeplitz(x[None], kernel, smaps=maps[:, 0][None])
        return result

    yield "torchkbnufft, Toeplitz", work, lambda: work().numpy(), 1.0
