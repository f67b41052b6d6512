"""The engines: who can project what, on which device, and which one is taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from operators.checks import REAL_DTYPES
from operators.extras import MissingExtraError, require

__all__ = ["ENGINES", "MATRIX_BYTES", "Engine", "Layout", "engine_for", "missing"]

Layout = Literal["plane", "volume"]

#: Memory that the pair of matrices of the "matrix" engine may take unless the limit is raised.
MATRIX_BYTES = 2**30


@dataclass(frozen=True)
class Engine:
    """A module with `forward`, `adjoint` and `workspace_bytes`, and what it declares of them.

    A volume engine takes volumes, (batch, z, y, x) to (batch, views, rows, columns). A plane engine takes
    images, (nu, nv, batch) to (views, columns, batch); one that takes `stacks` finds its slices and rows in
    (batch, slices, nu, nv) and (batch, rows, views, columns) itself, adds to a tensor that it is given, and
    knows in `kept_bytes` what it keeps between calls.
    """

    module: str
    layout: Layout
    devices: tuple[str, ...]
    package: str | None = None
    dtypes: tuple[torch.dtype, ...] = REAL_DTYPES
    adjoint_error: float = 0.0
    stacks: bool = False


CPU, CUDA = ("cpu",), ("cuda",)

#: By name, the plane engine and the volume engine of that name, those that there are.
ENGINES: dict[str, dict[Layout, Engine]] = {
    "numba": {
        "plane": Engine("operators.ct.numba_plane", "plane", CPU, "numba", stacks=True),
        "volume": Engine("operators.ct.numba_volume", "volume", CPU, "numba"),
    },
    "torch": {
        "plane": Engine("operators.ct.torch_plane", "plane", CPU + CUDA),
        "volume": Engine("operators.ct.torch_volume", "volume", CPU + CUDA),
    },
    "triton": {"volume": Engine("operators.ct.triton_volume", "volume", CUDA, "triton")},
    # Never taken by "auto": with 1 to 32 slices of 32^2 to 256^2 it was measured to take 0.6 (adjoint, tiny
    # scans) to 1.4 times as long as "numba", which has nothing to build and to keep.
    "matrix": {"plane": Engine("operators.ct.matrix_plane", "plane", CPU, "numba", stacks=True)},
    # ASTRA's CPU pair shares its weights; its bound allows for single-precision sums in another order.
    "astra": {
        "plane": Engine(
            "operators.ct.astra_plane", "plane", CPU, "astra", dtypes=(torch.float32,), adjoint_error=1e-5
        ),
    },
}

#: What "auto" takes, the first that is installed, on each kind of device.
PREFERRED = {"cpu": ("numba", "torch"), "cuda": ("triton", "torch")}


def engine_for(device: torch.device, layouts: tuple[Layout, ...]) -> tuple[str, Engine]:
    """Return the name and the engine that "auto" takes on `device` for a scan of these layouts."""
    for name in PREFERRED.get(device.type, ("torch",)):
        for layout in layouts:
            engine = ENGINES[name].get(layout)
            if engine is not None and not missing(engine):
                return name, engine
    return "torch", ENGINES["torch"][layouts[0]]


@cache
def missing(engine: Engine) -> bool:
    """Tell whether the package that `engine` needs is not installed."""
    if engine.package is None:
        return False
    try:
        require(engine.package, feature="A projection engine", extra="ct")
    except MissingExtraError:
        return True
    return False
