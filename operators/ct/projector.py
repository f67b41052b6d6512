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
from operators.ct.engines import ENGINES, MATRIX_BYTES, Engine, Layout, engine_for
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

    `engine`: "numba" (CPU, compiled), "triton" (CUDA, compiled), "torch" (any device, slower), "matrix" (CPU,
    slices only, a matrix and its transpose that are kept, of `matrix_bytes` at most together), "astra" (CPU,
    single precision, slices only, adjoint as declared); "auto" takes the fastest that is installed.
    """

    def __init__(
        self, grid: Grid, views: Views, *, engine: str = "auto", matrix_bytes: int = MATRIX_BYTES
    ) -> None:
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
        """Return the most memory that either way takes for `batch` samples beside its input and output.

        What stays from call to call is not in it, see `kept_bytes`; nor is what an allocator holds back.
        """
        engine, count = self._engine(device, dtype, "dtype"), check_count(batch, "batch")
        if engine.layout == "volume" or self.slices is None:
            rays: object = self.rays
        elif not engine.stacks:
            return plane_chunks.workspace_bytes(self.slices, count, dtype)
        else:
            rays = self.slices
        return int(importlib.import_module(engine.module).workspace_bytes(rays, count, dtype))

    def kept_bytes(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> int:
        """Return the most memory that stays from call to call: the rays of slices; matrices if asked for."""
        engine = self._engine(device, dtype, "dtype")
        if self.slices is None:
            return 0
        rays = self.slices.rays
        own = sum(part.nbytes for part in (rays.along_u, rays.start, rays.slope, rays.length))
        if not engine.stacks:
            return own
        return own + int(importlib.import_module(engine.module).kept_bytes(rays, dtype))

    def _apply(self, x: Tensor) -> Tensor:
        return self._split("forward", x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self._split("adjoint", y)

    def _split(self, way: Way, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            from operators.ct.untraced import untraced

            return cast(Tensor, untraced(self._projected, way, x))
        return self._projected(way, x)

    def _projected(self, way: Way, x: Tensor) -> Tensor:
        engine = self._engine_on(x, "x" if way == "forward" else "y")
        module, slices = importlib.import_module(engine.module), self.slices
        if engine.layout == "volume" or slices is None:
            return cast(Tensor, getattr(module, way)(self.rays, x))
        if engine is ENGINES["matrix"]["plane"]:
            module.check(slices.rays, x.dtype, self.matrix_bytes)
        target = self.codomain if way == "forward" else self.domain
        out = _zeros((len(x), *target.shape), x)
        # Whole stacks: (batch, slices, nu, nv) and (batch, rows, views, columns), as they lie in memory.
        from_axis, to_axis = (slices.axis + 1, 2) if way == "forward" else (2, slices.axis + 1)
        stack, result = x.movedim(from_axis, 1), out.movedim(to_axis, 1)
        if engine.stacks:
            getattr(module, way)(slices, stack, result)
        else:
            getattr(plane_chunks, way)(getattr(module, way), slices, stack, result)
        return out

    def _engine_on(self, x: Tensor, argument: str) -> Engine:
        engine = self._engine(x.device, x.dtype, argument)
        if x.device.type not in engine.devices:
            expected = f"be on {' or '.join(engine.devices)} for the {self.engine} engine"
            raise value_error(argument, expected, x.device, "Use engine='auto'.")
        return engine

    def _engine(self, device: torch.device | str, dtype: torch.dtype, argument: str) -> Engine:
        engine = self._fixed or engine_for(torch.device(device), self.layouts)[1]
        if dtype not in engine.dtypes:
            known = " or ".join(str(kind) for kind in engine.dtypes)
            raise type_error(argument, f"be {known} for the {self.engine} engine", dtype)
        return engine


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return zeros; on a CPU in large pages, as numpy has them: torch's take as long as the projection."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(shape, dtype=str(like.dtype).removeprefix("torch.")))
