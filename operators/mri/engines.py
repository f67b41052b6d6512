"""What sums over nonuniform frequencies: finufft on the CPU, cufinufft on CUDA, torch anywhere.

    forward  y_j = sum_n x_n exp(-2 pi i f_j . (n - N // 2))        adjoint  x_n = sum_j y_j exp(+2 pi i ...)

f in cycles per voxel, |f| <= 1/2. Each engine is an exact adjoint pair; it approximates the sum to its
`accuracy`, the relative error in the l2 norm. Single precision itself ends at about 1e-5: that is the
rounding of f.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_number
from operators.errors import value_error
from operators.extras import MissingExtraError, require

__all__ = ["DEFAULT_ACCURACY", "ENGINES", "Sums", "check_accuracy", "engine_for", "make_sums"]

FloatArray = NDArray[np.float64]
DEFAULT_ACCURACY = {torch.float32: 3e-5, torch.float64: 1e-12}


class Sums(Protocol):
    """Both sums for complex tensors of one precision on one device."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, samples) from images (batch, *shape)."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Return images (batch, *shape) from (batch, samples)."""


@dataclass(frozen=True)
class Engine:
    """A module with `make`, and the package and kind of device it needs."""

    module: str
    package: str | None = None
    device: str | None = None


ENGINES = {
    "finufft": Engine("operators.mri.nufft_finufft", "finufft", "cpu"),
    "cufinufft": Engine("operators.mri.nufft_cufinufft", "cufinufft", "cuda"),
    "torch": Engine("operators.mri.nufft_torch"),
}


def check_engine(engine: str) -> str:
    """Return the name of an engine or "auto"; ask for its package."""
    if engine not in ("auto", *ENGINES):
        raise value_error("engine", f"be 'auto' or one of {', '.join(ENGINES)}", repr(engine))
    if engine != "auto" and (package := ENGINES[engine].package) is not None:
        require(package, feature=f"The {engine} engine", extra="mri")
    return engine


def check_accuracy(accuracy: float | None) -> float | None:
    """Return a relative accuracy between 1e-14 and 0.1, or None for the default of each precision."""
    if accuracy is None:
        return None
    number = check_number(accuracy, "accuracy", positive=True)
    if not 1e-14 <= number <= 0.1:
        raise value_error("accuracy", "lie between 1e-14 and 0.1", number)
    return number


def engine_for(engine: str, device: torch.device | str) -> str:
    """Return the engine that runs on `device`, where `engine` leaves the choice open."""
    kind = torch.device(device).type
    if engine == "auto":
        installed = [name for name, known in ENGINES.items() if known.device == kind and _is_here(name)]
        return installed[0] if installed else "torch"
    if ENGINES[engine].device not in (None, kind):
        raise value_error(
            "x", f"be on {ENGINES[engine].device} for the {engine} engine", device, "Use engine='auto'."
        )
    return engine


def make_sums(
    engine: str,
    frequency: FloatArray,
    shape: tuple[int, ...],
    *,
    accuracy: float | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Sums:
    """Return the sums over `frequency` (samples, axes) and images of `shape`, for real precision `dtype`."""
    make = cast(Callable[..., Sums], importlib.import_module(ENGINES[engine_for(engine, device)].module).make)
    wanted = DEFAULT_ACCURACY[dtype] if accuracy is None else accuracy
    return make(frequency, shape, wanted, dtype, device)


@cache
def _is_here(engine: str) -> bool:
    try:
        require(cast(str, ENGINES[engine].package), feature=f"The {engine} engine", extra="mri")
    except MissingExtraError:
        return False
    except (OSError, RuntimeError):  # installed, but its CUDA libraries do not load
        return False
    return True
