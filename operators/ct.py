"""Parallel-beam CT: line integrals of attenuation (1/mm) along parallel rays; the data have no unit.

Device coordinates, in mm: z is the rotation axis. At angle theta (rad) the detector columns run
along (cos theta, sin theta, 0), the rows along z, the rays along (-sin theta, cos theta, 0). The
rotation axis is seen at column `axis_column`, device z = 0 at row `middle_row`.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_count, check_number
from operators.ct_rays import ParallelRays
from operators.errors import type_error, value_error
from operators.extras import MissingExtraError, require
from operators.frame import DeviceFrame
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.space import Space

__all__ = ["ParallelBeamCT", "ParallelBeamGeometry"]

EngineName = Literal["auto", "numba", "torch", "astra"]


@dataclass(frozen=True, eq=False)
class ParallelBeamGeometry:
    """Where the rays of a parallel-beam scan ran, in device coordinates; see the module's head."""

    angles: NDArray[np.float64]
    columns: int
    column_pitch: float
    rows: int = 1
    row_pitch: float = 1.0
    axis_column: float | None = None
    middle_row: float | None = None
    frame: DeviceFrame = field(default_factory=DeviceFrame)

    def __post_init__(self) -> None:
        angles = np.array(self.angles, dtype=np.float64)
        if angles.ndim != 1 or angles.size == 0 or not np.isfinite(angles).all():
            raise value_error("angles", "be a list of finite angles in rad", f"shape {angles.shape}")
        angles.setflags(write=False)
        columns, rows = check_count(self.columns, "columns"), check_count(self.rows, "rows")
        axis = (columns - 1) / 2 if self.axis_column is None else self.axis_column
        middle = (rows - 1) / 2 if self.middle_row is None else self.middle_row
        values = {
            "angles": angles,
            "columns": columns,
            "rows": rows,
            "column_pitch": check_number(self.column_pitch, "column_pitch", positive=True),
            "row_pitch": check_number(self.row_pitch, "row_pitch", positive=True),
            "axis_column": check_number(axis, "axis_column"),
            "middle_row": check_number(middle, "middle_row"),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def around(
        cls, grid: Grid, views: int | Sequence[float], *, columns: int | None = None
    ) -> ParallelBeamGeometry:
        """Return a scan of `grid` about the axis of its slices, one detector row per slice.

        `views` is a number of views evenly spaced over half a turn, or their angles in rad. The pitch
        is the finer in-plane spacing; the detector covers the in-plane diagonal unless told otherwise.
        """
        if isinstance(views, int):
            views = (np.pi * np.arange(check_count(views, "views")) / views).tolist()
        slices, _, across = grid.directions.T
        frame = DeviceFrame.from_axes(across, np.cross(slices, across), slices, origin=grid.centre)
        pitch = min(grid.spacing[1:])
        extent = math.hypot(*(n * s for n, s in zip(grid.shape[1:], grid.spacing[1:], strict=True)))
        needed = math.ceil(extent / pitch) + 1
        return cls(
            angles=np.array(views),
            columns=needed if columns is None else columns,
            column_pitch=pitch,
            rows=grid.shape[0],
            row_pitch=grid.spacing[0],
            frame=frame,
        )

    def with_(self, **changes: object) -> ParallelBeamGeometry:
        """Return the same geometry with some values changed, such as axis_column half a pixel off."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def column_positions(self) -> NDArray[np.float64]:
        """Detector columns in mm from the rotation axis."""
        return (np.arange(self.columns, dtype=np.float64) - cast(float, self.axis_column)) * self.column_pitch

    def operator(self, grid: Grid, *, engine: EngineName = "auto") -> ParallelBeamCT:
        """Return the projector from images on `grid` (1/mm) to line integrals."""
        return ParallelBeamCT(grid, self, engine=engine)


class ParallelBeamCT(LinearOperator):
    """Line integrals (views, rows, columns) of an image of attenuation in 1/mm.

    The slices of the grid must be perpendicular to the rotation axis and lie on detector rows; in
    the slice the grid may be turned, shifted, anisotropic. Rows that see no slice read 0.

    `engine`: "numba" (CPU, compiled), "torch" (any device, slower), "astra" (CPU, single precision,
    adjoint as declared); "auto" takes numba on the CPU where installed, else torch.
    """

    def __init__(self, grid: Grid, geometry: ParallelBeamGeometry, *, engine: EngineName = "auto") -> None:
        shape = (len(geometry.angles), geometry.rows, geometry.columns)
        super().__init__(Space.field(grid.with_time(None)), Space(shape))
        self.geometry = geometry
        self._slice_axis, self._rows, self.rays = _lay_out(grid, geometry)
        if engine not in ("auto", "numba", "torch", "astra"):
            raise value_error("engine", "be 'auto', 'numba', 'torch' or 'astra'", repr(engine))
        self.engine = engine
        if engine in ("numba", "astra"):
            require(engine, feature=f"The {engine} projection engine", extra="ct")
        if engine == "astra":
            foreign = importlib.import_module("operators.ct_astra")
            self.adjoint_error, self.dtypes = foreign.ADJOINT_ERROR, foreign.DTYPES

    def _apply(self, x: Tensor) -> Tensor:
        image = x.movedim(self._slice_axis - 3, 1).permute(2, 3, 0, 1)
        flat = image.reshape(*self.rays.size, -1)
        values = self._run_engine("forward", flat).reshape(*self._view_shape, *image.shape[2:])
        out = x.new_zeros((x.shape[0], *self.codomain.shape))
        seen = self._rows >= 0
        out[:, :, self._rows[seen]] = values[..., seen].permute(2, 0, 3, 1)
        return out

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        # A slice no row sees gets the first row's data, times zero.
        seen = torch.as_tensor(self._rows >= 0, dtype=y.dtype, device=y.device)
        rows = y[:, :, self._rows.clip(min=0)] * seen[:, None]
        flat = rows.permute(1, 3, 0, 2).reshape(*self._view_shape, -1)
        image = self._run_engine("adjoint", flat).reshape(*self.rays.size, y.shape[0], len(self._rows))
        volume: Tensor = image.permute(2, 3, 0, 1).movedim(1, self._slice_axis - 3)
        return volume

    @cached_property
    def _view_shape(self) -> tuple[int, int]:
        return len(self.rays.base), self.rays.columns

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _run_engine(self, way: Literal["forward", "adjoint"], flat: Tensor) -> Tensor:
        name = self.engine
        if name == "auto":
            name = "numba" if flat.device.type == "cpu" and _numba_is_here() else "torch"
        if name != "torch" and flat.device.type != "cpu":
            raise value_error("x", f"be on the CPU for the {name} engine", flat.device, "Use engine='auto'.")
        if name == "astra" and flat.dtype != torch.float32:
            raise type_error("x", "be float32 for the astra engine", flat.dtype)
        module = importlib.import_module(f"operators.ct_{name}")
        return cast(Tensor, getattr(module, way)(self.rays, flat))


@cache
def _numba_is_here() -> bool:
    try:
        require("numba", feature="The numba projection engine", extra="ct")
    except MissingExtraError:
        return False
    return True


def _lay_out(grid: Grid, geometry: ParallelBeamGeometry) -> tuple[int, NDArray[np.intp], ParallelRays]:
    """Return the array axis of the slices, the detector row of each (-1: none), and the rays."""
    to_device = geometry.frame.grid_to_device(grid.affine)
    axes, origin = to_device[:3, :3], to_device[:3, 3]
    lengths = np.linalg.norm(axes, axis=0)
    along = int(np.argmax(np.abs(axes[2]) / lengths))
    u, v = (axis for axis in range(3) if axis != along)
    unit = np.abs(axes / lengths)
    tilt = max(unit[0, along], unit[1, along], unit[2, u], unit[2, v])
    if tilt > 1e-6:
        raise value_error(
            "grid",
            "have slices perpendicular to the rotation axis",
            f"a tilt of {np.degrees(np.arcsin(min(1.0, tilt))):.3g} degrees in {grid!r}",
            "Resample the volume on a grid whose slices follow the scanner: ParallelBeamGeometry.frame.",
        )
    slices = np.arange(grid.shape[along])
    height = (origin[2] + slices * axes[2, along]) / geometry.row_pitch + cast(float, geometry.middle_row)
    rows = np.round(height)
    if np.abs(height - rows).max() > 1e-3:
        raise value_error(
            "grid",
            f"have its slices on detector rows, every {geometry.row_pitch:g} mm",
            f"slices at rows {height[:3].round(3).tolist()}...",
            "Resample the volume along the rotation axis, or set row_pitch and middle_row.",
        )
    seen = np.where((rows >= 0) & (rows < geometry.rows), rows, -1).astype(np.intp)
    if not (seen >= 0).any():
        raise value_error("grid", f"be seen by the detector's {geometry.rows} rows", repr(grid))
    rays = ParallelRays.through(
        (grid.shape[u], grid.shape[v]),
        axes[:2, u],
        axes[:2, v],
        origin[:2],
        geometry.column_positions,
        geometry.angles,
    )
    return along, seen, rays
