"""Parallel-beam CT: line integrals of attenuation (1/mm) along parallel rays; the data have no unit.

Device coordinates, in mm: z is the rotation axis. At angle theta (rad) the detector columns run
along (cos theta, sin theta, 0), the rows along z, the rays along (-sin theta, cos theta, 0). The
rotation axis is seen at column `axis_column`, device z = 0 at row `middle_row`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import REAL_DTYPES, check_count, check_number, replaced
from operators.ct_rays import ParallelRays
from operators.errors import type_error, value_error
from operators.extras import MissingExtraError, require
from operators.frame import DeviceFrame, require_orthogonal
from operators.grid import FRAMES_ARE_A_BATCH, Grid
from operators.linear import LinearOperator
from operators.space import Space

__all__ = ["ENGINES", "ParallelBeamCT", "ParallelBeamGeometry"]


@dataclass(frozen=True)
class Engine:
    """A module with `forward` and `adjoint`, and what it declares of them."""

    module: str
    package: str | None = None
    dtypes: tuple[torch.dtype, ...] = REAL_DTYPES
    cpu_only: bool = True
    adjoint_error: float = 0.0


#: ASTRA's CPU pair shares its weights; its bound allows for single-precision sums in another order.
ENGINES = {
    "numba": Engine("operators.ct_numba", "numba"),
    "torch": Engine("operators.ct_torch", cpu_only=False),
    "astra": Engine("operators.ct_astra", "astra", dtypes=(torch.float32,), adjoint_error=1e-5),
}


@dataclass(frozen=True)
class ParallelBeamGeometry:
    """Where the rays of a parallel-beam scan ran, in device coordinates; see the module's head.

    `axis_column` and `middle_row` are the middle of the detector unless given.
    """

    angles: tuple[float, ...]
    columns: int
    column_pitch: float
    rows: int = 1
    row_pitch: float = 1.0
    axis_column: float | None = None
    middle_row: float | None = None
    frame: DeviceFrame = field(default_factory=DeviceFrame)

    def __post_init__(self) -> None:
        try:
            angles = np.asarray(self.angles, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise type_error("angles", "be a list of angles in rad", repr(self.angles)) from error
        if angles.ndim != 1 or angles.size == 0 or not np.isfinite(angles).all():
            raise value_error("angles", "be a list of finite angles in rad", repr(self.angles))
        if not isinstance(self.frame, DeviceFrame):
            raise type_error("frame", "be a DeviceFrame", type(self.frame).__name__)
        for name in ("axis_column", "middle_row"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_number(getattr(self, name), name))
        object.__setattr__(self, "angles", tuple(angles.tolist()))
        object.__setattr__(self, "columns", check_count(self.columns, "columns"))
        object.__setattr__(self, "rows", check_count(self.rows, "rows"))
        for name in ("column_pitch", "row_pitch"):
            object.__setattr__(self, name, check_number(getattr(self, name), name, positive=True))

    @classmethod
    def around(
        cls, grid: Grid, views: int | Sequence[float], *, columns: int | None = None
    ) -> ParallelBeamGeometry:
        """Return a scan of `grid` about the axis of its slices, one detector row per slice.

        `views` is a number of views evenly spaced over half a turn, or their angles in rad. The pitch
        is the finer in-plane spacing; the detector covers the in-plane diagonal unless told otherwise.
        """
        if isinstance(views, (int, np.integer)):
            angles = (np.pi * np.arange(check_count(views, "views")) / int(views)).tolist()
        elif isinstance(views, (Sequence, np.ndarray)):
            angles = list(views)
        else:
            raise type_error("views", "be a number of views or a list of angles in rad", repr(views))
        slices, _, across = require_orthogonal(Grid.require(grid)).T
        frame = DeviceFrame.from_axes(across, np.cross(slices, across), slices, origin=grid.centre)
        pitch = min(grid.spacing[1:])
        extent = math.hypot(*(n * s for n, s in zip(grid.shape[1:], grid.spacing[1:], strict=True)))
        return cls(
            angles=tuple(angles),
            columns=math.ceil(extent / pitch) + 1 if columns is None else columns,
            column_pitch=pitch,
            rows=grid.shape[0],
            row_pitch=grid.spacing[0],
            frame=frame,
        )

    def with_(self, **changes: object) -> ParallelBeamGeometry:
        """Return the same geometry with some values changed, such as axis_column half a pixel off."""
        return replaced(self, changes)

    @property
    def axis_at(self) -> float:
        """Detector column, possibly fractional, at which the rotation axis is seen."""
        return (self.columns - 1) / 2 if self.axis_column is None else self.axis_column

    @property
    def middle_at(self) -> float:
        """Detector row, possibly fractional, at device z = 0."""
        return (self.rows - 1) / 2 if self.middle_row is None else self.middle_row

    @property
    def column_positions(self) -> NDArray[np.float64]:
        """Detector columns in mm from the rotation axis."""
        return (np.arange(self.columns, dtype=np.float64) - self.axis_at) * self.column_pitch

    def operator(self, grid: Grid, *, engine: str = "auto") -> ParallelBeamCT:
        """Return the projector from images on `grid` (1/mm) to line integrals."""
        return ParallelBeamCT(grid, self, engine=engine)


class ParallelBeamCT(LinearOperator):
    """Line integrals (views, rows, columns) of an image of attenuation in 1/mm.

    The slices of the grid must be perpendicular to the rotation axis and lie on detector rows; in
    the slice the grid may be turned, shifted, anisotropic. Rows that see no slice read 0.

    `engine`: "numba" (CPU, compiled), "torch" (any device, slower), "astra" (CPU, single precision,
    adjoint as declared); "auto" takes numba on the CPU where installed, else torch.
    """

    def __init__(self, grid: Grid, geometry: ParallelBeamGeometry, *, engine: str = "auto") -> None:
        if Grid.require(grid).time is not None:
            raise value_error("grid", "have no time axis", grid, FRAMES_ARE_A_BATCH)
        shape = (len(geometry.angles), geometry.rows, geometry.columns)
        super().__init__(Space.field(grid), Space(shape))
        if engine not in ("auto", *ENGINES):
            raise value_error("engine", f"be 'auto' or one of {', '.join(ENGINES)}", repr(engine))
        self.engine = engine
        if engine != "auto":
            chosen = ENGINES[engine]
            self.adjoint_error, self.dtypes = chosen.adjoint_error, chosen.dtypes
            if chosen.package is not None:
                require(chosen.package, feature=f"The {engine} projection engine", extra="ct")
        self.geometry = geometry
        self._slice_axis, self._rows, self.rays = _lay_out(grid, geometry)

    def engine_for(self, device: torch.device | str) -> str:
        """Return the engine that runs on `device`, where `engine` leaves the choice open."""
        if self.engine != "auto":
            return self.engine
        return "numba" if torch.device(device).type == "cpu" and _numba_is_here() else "torch"

    def _apply(self, x: Tensor) -> Tensor:
        image = x.movedim(self._slice_axis - 3, 1).permute(2, 3, 0, 1)
        flat = image.reshape(*self.rays.size, -1)
        values = self._run_engine("forward", flat).reshape(*self.rays.data_shape, *image.shape[2:])
        out = x.new_zeros((x.shape[0], *self.codomain.shape))
        seen = self._rows >= 0
        out[:, :, self._rows[seen]] = values[..., seen].permute(2, 0, 3, 1)
        return out

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        # A slice no row sees gets the first row's data, times zero.
        seen = torch.as_tensor(self._rows >= 0, dtype=y.dtype, device=y.device)
        rows = y[:, :, self._rows.clip(min=0)] * seen[:, None]
        flat = rows.permute(1, 3, 0, 2).reshape(*self.rays.data_shape, -1)
        image = self._run_engine("adjoint", flat).reshape(*self.rays.size, y.shape[0], len(self._rows))
        volume: Tensor = image.permute(2, 3, 0, 1).movedim(1, self._slice_axis - 3)
        return volume

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _run_engine(self, way: Literal["forward", "adjoint"], flat: Tensor) -> Tensor:
        name = self.engine_for(flat.device)
        engine = ENGINES[name]
        if engine.cpu_only and flat.device.type != "cpu":
            raise value_error("x", f"be on the CPU for the {name} engine", flat.device, "Use engine='auto'.")
        if flat.dtype not in engine.dtypes:
            raise type_error("x", f"come in {engine.dtypes[0]} for the {name} engine", flat.dtype)
        return cast(Tensor, getattr(importlib.import_module(engine.module), way)(self.rays, flat))


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
    unit = np.abs(axes / np.linalg.norm(axes, axis=0))
    along = int(np.argmax(unit[2]))
    u, v = (axis for axis in range(3) if axis != along)
    tilt = max(unit[0, along], unit[1, along], unit[2, u], unit[2, v])
    if tilt > 1e-6:
        raise value_error(
            "grid",
            "have slices perpendicular to the rotation axis",
            f"a tilt of {np.degrees(np.arcsin(min(1.0, tilt))):.3g} degrees in {grid!r}",
            "Resample the volume on a grid whose slices follow the scanner: ParallelBeamGeometry.frame.",
        )
    slices = np.arange(grid.shape[along])
    height = (origin[2] + slices * axes[2, along]) / geometry.row_pitch + geometry.middle_at
    rows = np.round(height)
    if np.abs(height - rows).max() > 1e-3 or len(np.unique(rows)) < len(rows):
        raise value_error(
            "grid",
            f"have its slices on detector rows, one each, every {geometry.row_pitch:g} mm",
            f"slices at rows {height[:3].round(3).tolist()}...",
            "Resample the volume along the rotation axis, or set row_pitch and middle_row.",
        )
    seen = np.where((rows >= 0) & (rows < geometry.rows), rows, -1).astype(np.intp)
    if not (seen >= 0).any():
        raise value_error("grid", f"be seen by the detector's {geometry.rows} rows", repr(grid))
    size = (grid.shape[u], grid.shape[v])
    angles = np.array(geometry.angles)
    rays = ParallelRays.through(size, axes[:2, u], axes[:2, v], origin[:2], geometry.column_positions, angles)
    if not rays.meet_the_slice():
        raise value_error(
            "grid",
            f"be seen by the detector's {geometry.columns} columns",
            repr(grid),
            "Check the frame of the geometry, column_pitch and axis_column.",
        )
    return along, seen, rays
