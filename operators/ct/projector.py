"""The CT projector: line integrals of attenuation (1/mm) along the rays of any scan, without a unit."""

from __future__ import annotations

import importlib
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_count
from operators.ct import plane_chunks
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

    `engine`: "numba" (CPU, compiled), "torch" (any device, slower), "matrix" (CPU, slices only, a matrix
    that is kept, of `matrix_bytes` at most), "astra" (CPU, single precision, slices only, adjoint as
    declared); "auto" takes the fastest that is installed.
    """

    def __init__(self, grid: Grid, views: Views, *, engine: str = "auto", matrix_bytes: int = 2**30) -> None:
        if Grid.require(grid).time is not None:
            raise value_error("grid", "have no time axis", grid, FRAMES_ARE_A_BATCH)
        if engine not in ("auto", *ENGINES):
            raise value_error("engine", f"be 'auto' or one of {', '.join(ENGINES)}", repr(engine))
        check_coverage(views, grid)
        super().__init__(Space.field(grid), Space(views.shape))
        self.engine, self.views = engine, views
        self.matrix_bytes = check_count(matrix_bytes, "matrix_bytes")
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
        if name == "matrix" and self.slices is not None:
            module = importlib.import_module(engine.module)
            module.check(self.slices.rays, torch.float32, self.matrix_bytes)
        return engine

    def workspace_bytes(
        self, batch: int = 1, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> int:
        """Return the most memory that either way takes for `batch` samples beside its input and output."""
        engine = self._fixed or engine_for(torch.device(device), self.layouts)[1]
        count = check_count(batch, "batch")
        if engine.layout == "volume" or self.slices is None:
            rays: object = self.rays
        elif not engine.stacks:
            return plane_chunks.workspace_bytes(self.slices, count, dtype)
        else:
            rays = self.slices
        return int(importlib.import_module(engine.module).workspace_bytes(rays, count, dtype))

    def _apply(self, x: Tensor) -> Tensor:
        engine = self._engine_on(x)
        if engine.layout == "volume" or self.slices is None:
            return self._run(engine, "forward", self.rays, x)
        return self._run(engine, "forward", self.slices, x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        engine = self._engine_on(y)
        if engine.layout == "volume" or self.slices is None:
            return self._run(engine, "adjoint", self.rays, y)
        return self._run(engine, "adjoint", self.slices, y)

    def _engine_on(self, x: Tensor) -> Engine:
        engine = self._fixed or engine_for(x.device, self.layouts)[1]
        if x.device.type not in engine.devices and x.device.type != "meta":
            expected = f"be on {' or '.join(engine.devices)} for the {self.engine} engine"
            raise value_error("x", expected, x.device, "Use engine='auto'.")
        if x.dtype not in engine.dtypes:
            raise type_error("x", f"come in {engine.dtypes[0]} for the {self.engine} engine", x.dtype)
        return engine

    def _run(self, engine: Engine, way: Way, rays: VolumeRays | Slices, x: Tensor) -> Tensor:
        if isinstance(rays, VolumeRays):
            return cast(Tensor, _called(engine, way, rays, x))
        shape = self.codomain.shape if way == "forward" else self.domain.shape
        return cast(Tensor, _called_on_slices(engine, way, rays, x, shape, self.matrix_bytes))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _called(engine: Engine, way: Way, rays: VolumeRays, x: Tensor) -> Tensor:
    return cast(Tensor, getattr(importlib.import_module(engine.module), way)(rays, x))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _called_on_slices(
    engine: Engine, way: Way, slices: Slices, x: Tensor, shape: tuple[int, ...], matrix_bytes: int
) -> Tensor:
    module, out = importlib.import_module(engine.module), _zeros((len(x), *shape), x)
    # Whole stacks: (batch, slices, nu, nv) and (batch, rows, views, columns), as they lie in memory.
    from_axis, to_axis = (slices.axis + 1, 2) if way == "forward" else (2, slices.axis + 1)
    stack, result = x.movedim(from_axis, 1), out.movedim(to_axis, 1)
    if not engine.stacks:
        getattr(plane_chunks, way)(getattr(module, way), slices, stack, result)
        return out
    if engine is ENGINES["matrix"]["plane"]:
        module.check(slices.rays, x.dtype, matrix_bytes)
    getattr(module, way)(slices, stack, result)
    return out


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return zeros; on a CPU in large pages, as numpy has them: torch's take as long as the projection."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(shape, dtype=str(like.dtype).removeprefix("torch.")))
