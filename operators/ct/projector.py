"""The CT projector: line integrals of attenuation (1/mm) along the rays of any scan, without a unit."""

from __future__ import annotations

import importlib
from typing import Literal, cast

import torch
from torch import Tensor

from operators.ct.coverage import check_coverage
from operators.ct.engines import ENGINES, Engine, Layout, engine_for
from operators.ct.rays import Slices, VolumeRays
from operators.ct.views import Views
from operators.errors import type_error, value_error
from operators.extras import require
from operators.grid import FRAMES_ARE_A_BATCH, Grid
from operators.linear import LinearOperator
from operators.space import Space

__all__ = ["Projector"]

Way = Literal["forward", "adjoint"]


class Projector(LinearOperator):
    """Line integrals (views, rows, columns) of an image of attenuation in 1/mm on a grid anywhere.

    Where every detector row sees one slice of the grid, all slices are projected at once ("plane"); else
    rays walk through the volume ("volume"). Both interpolate alike, and agree where both apply.

    `engine`: "numba" (CPU, compiled), "torch" (any device, slower), "astra" (CPU, single precision, slices
    only, adjoint as declared); "auto" takes the fastest that is installed.
    """

    def __init__(self, grid: Grid, views: Views, *, engine: str = "auto") -> None:
        if Grid.require(grid).time is not None:
            raise value_error("grid", "have no time axis", grid, FRAMES_ARE_A_BATCH)
        if engine not in ("auto", *ENGINES):
            raise value_error("engine", f"be 'auto' or one of {', '.join(ENGINES)}", repr(engine))
        check_coverage(views, grid)
        super().__init__(Space.field(grid), Space(views.shape))
        self.engine = engine
        self.rays = VolumeRays.through(grid, views)
        found = Slices.of(self.rays)
        self.slices = found if isinstance(found, Slices) else None
        self._fixed: Engine | None = None
        if engine != "auto":
            self._fixed = self._chosen(engine, "" if isinstance(found, Slices) else found)
            self.adjoint_error, self.dtypes = self._fixed.adjoint_error, self._fixed.dtypes

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """How the scan can be projected, the faster way first."""
        return ("volume",) if self.slices is None else ("plane", "volume")

    def engine_for(self, device: torch.device | str) -> str:
        """Return the name of the engine that runs on `device`."""
        return self.engine if self._fixed is not None else engine_for(torch.device(device), self.layouts)[0]

    def _chosen(self, name: str, reason: str) -> Engine:
        known = ENGINES[name]
        layout = next((layout for layout in self.layouts if layout in known), None)
        if layout is None:
            remedy = "Use engine='auto', or a grid whose slices the rows see."
            raise value_error("engine", f"project volumes, since {reason}", repr(name), remedy)
        engine = known[layout]
        if engine.package is not None:
            require(engine.package, feature=f"The {name} projection engine", extra="ct")
        return engine

    def _apply(self, x: Tensor) -> Tensor:
        engine = self._engine_on(x)
        if engine.layout == "volume" or self.slices is None:
            return self._run(engine, "forward", self.rays, x)
        slices = self.slices
        image = x.movedim(slices.axis - 3, 1).permute(2, 3, 0, 1)
        seen = torch.as_tensor(slices.of_row >= 0)
        chosen = image[..., torch.as_tensor(slices.of_row)[seen]]
        flat = chosen.reshape(*slices.rays.size, -1)
        values = self._run(engine, "forward", slices.rays, flat)
        out = x.new_zeros((x.shape[0], *self.codomain.shape))
        out[:, :, seen] = values.reshape(*slices.rays.shape, *chosen.shape[2:]).permute(2, 0, 3, 1)
        return out

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        engine = self._engine_on(y)
        if engine.layout == "volume" or self.slices is None:
            return self._run(engine, "adjoint", self.rays, y)
        slices = self.slices
        seen = torch.as_tensor(slices.of_row >= 0)
        rows = y[:, :, seen].permute(1, 3, 0, 2)
        image = self._run(engine, "adjoint", slices.rays, rows.reshape(*slices.rays.shape, -1))
        volume = y.new_zeros((y.shape[0], *self.domain.shape)).movedim(slices.axis - 3, 1)
        parts = image.reshape(*slices.rays.size, y.shape[0], -1).permute(2, 3, 0, 1)
        volume[:, torch.as_tensor(slices.of_row)[seen]] = parts
        return volume.movedim(1, slices.axis - 3)

    def _engine_on(self, x: Tensor) -> Engine:
        engine = self._fixed or engine_for(x.device, self.layouts)[1]
        if x.device.type not in engine.devices and x.device.type != "meta":
            expected = f"be on {' or '.join(engine.devices)} for the {self.engine} engine"
            raise value_error("x", expected, x.device, "Use engine='auto'.")
        if x.dtype not in engine.dtypes:
            raise type_error("x", f"come in {engine.dtypes[0]} for the {self.engine} engine", x.dtype)
        return engine

    @staticmethod
    def _run(engine: Engine, way: Way, rays: object, x: Tensor) -> Tensor:
        return cast(Tensor, _called(engine, way, rays, x))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _called(engine: Engine, way: Way, rays: object, x: Tensor) -> Tensor:
    return cast(Tensor, getattr(importlib.import_module(engine.module), way)(rays, x))
