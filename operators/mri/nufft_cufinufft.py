"""The sums by cufinufft on CUDA tensors, on torch's current stream.

Its adjoint adds with atomics: results agree to rounding from run to run, not bit by bit. For draws that
must repeat bit by bit use engine="torch".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.extras import require
from operators.mri.plans import TOGETHER, KeptPlans, asked

FloatArray = NDArray[np.float64]


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
        self._accuracy = asked(accuracy, single=single)
        self._plans = KeptPlans()

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
        return self._plans.get((kind, count, stream), lambda: self._made(kind, count, stream))

    def _made(self, kind: int, count: int, stream: int) -> Any:
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
        return plan


def make(
    frequency: FloatArray, shape: tuple[int, ...], accuracy: float, dtype: torch.dtype, device: torch.device
) -> CufinufftSums:
    """Return the sums on the CUDA `device`."""
    return CufinufftSums(frequency, shape, accuracy, dtype, device)
