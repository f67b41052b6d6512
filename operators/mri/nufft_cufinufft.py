"""The sums by cufinufft on CUDA tensors, on torch's current stream.

Its adjoint adds with atomics: results agree to rounding from run to run, not bit by bit. For draws that
must repeat bit by bit use engine="torch".
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.extras import require

FloatArray = NDArray[np.float64]

TOGETHER = 32
KEPT = 8


class CufinufftSums:
    """Forward is type 2, adjoint type 1, with the same kernel: an exact pair up to rounding."""

    def __init__(
        self,
        frequency: FloatArray,
        shape: tuple[int, ...],
        accuracy: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        single = dtype == torch.float32
        self._dtype = torch.complex64 if single else torch.complex128
        self._device = device
        angle = torch.from_numpy(2 * math.pi * (frequency - np.floor(frequency + 0.5)))
        self._points = [a.to(device=device, dtype=dtype).contiguous() for a in angle.T]
        self._shape = shape
        self._accuracy = max(accuracy, 1e-6 if single else 1e-15)
        self._plans: OrderedDict[tuple[int, int, int], Any] = OrderedDict()

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, samples) from images (batch, *shape)."""
        return self._run(2, x, (len(self._points[0]),))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return images (batch, *shape) from (batch, samples)."""
        return self._run(1, y, self._shape)

    def _run(self, kind: int, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        source = values.detach().contiguous()
        out = torch.empty((len(source), *shape), dtype=self._dtype, device=source.device)
        for first in range(0, len(source), TOGETHER):
            part = slice(first, first + TOGETHER)
            self._plan(kind, len(source[part])).execute(source[part], out[part])
        return out

    def _plan(self, kind: int, count: int) -> Any:
        stream = int(torch.cuda.current_stream(self._device).cuda_stream)
        key = (kind, count, stream)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        index = self._device.index
        package = require("cufinufft", feature="The cufinufft engine", extra="mri")
        plan = package.Plan(
            kind,
            self._shape,
            count,
            self._accuracy,
            -1 if kind == 2 else 1,
            dtype=str(self._dtype).removeprefix("torch."),
            gpu_device_id=torch.cuda.current_device() if index is None else index,
            gpu_stream=stream,
            modeord=0,
        )
        plan.setpts(*self._points)
        self._plans[key] = plan
        if len(self._plans) > KEPT:
            self._plans.popitem(last=False)
        return plan

    def __getstate__(self) -> dict[str, object]:
        # Plans belong to this process: a copy makes its own.
        return {**self.__dict__, "_plans": OrderedDict()}


def make(
    frequency: FloatArray, shape: tuple[int, ...], accuracy: float, dtype: torch.dtype, device: torch.device
) -> CufinufftSums:
    """Return the sums on the CUDA `device`."""
    return CufinufftSums(frequency, shape, accuracy, dtype, device)
