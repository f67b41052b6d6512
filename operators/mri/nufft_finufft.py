"""The sums by finufft: plans with sorted points, kept for each number of images and of threads."""

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


class FinufftSums:
    """Forward is finufft's type 2, adjoint its type 1, with the same kernel: an exact pair."""

    def __init__(
        self, frequency: FloatArray, shape: tuple[int, ...], accuracy: float, dtype: torch.dtype
    ) -> None:
        single = dtype == torch.float32
        self._dtype = np.dtype(np.complex64 if single else np.complex128)
        # In one turn, [-pi, pi), before it is rounded to the precision of the data.
        angle = 2 * math.pi * (frequency - np.floor(frequency + 0.5))
        self._points = [np.ascontiguousarray(a, np.float32 if single else np.float64) for a in angle.T]
        self._shape = shape
        self._accuracy = asked(accuracy, single=single)
        # The small upsampling is 2 to 5 times faster. Its window falls off towards the edges of the image,
        # where the adjoint divides by it: that amplifies single-precision rounding, to an adjoint that is
        # 4e-5 off for a smooth image seen along 400 spokes.
        enough = 1e-3 if single else 1e-9
        self._upsampling = 1.25 if accuracy >= enough else 2.0
        self._plans = KeptPlans()

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, samples) from images (batch, *shape)."""
        return self._run(2, x, (len(self._points[0]),))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return images (batch, *shape) from (batch, samples)."""
        return self._run(1, y, self._shape)

    def _run(self, kind: int, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        source = np.ascontiguousarray(values.detach().numpy())
        out = np.empty((len(source), *shape), self._dtype)
        # torch's number, not the machine's: threads beyond the cores make it 6 to 17 times slower.
        threads = torch.get_num_threads()
        first = 0
        while first < len(source):
            count = min(TOGETHER, len(source) - first)
            if kind == 1 and count > threads:
                count -= count % threads
            part = slice(first, first + count)
            # Threads that spread one image together add in any order: each takes an image of its own, so
            # that the result is bit by bit the same every time.
            used = min(count, threads) if kind == 1 else threads
            self._plan(kind, count, used).execute(source[part], out[part])
            first += count
        return torch.from_numpy(out)

    def _plan(self, kind: int, count: int, threads: int) -> Any:
        return self._plans.get((kind, count, threads), lambda: self._made(kind, count, threads))

    def _made(self, kind: int, count: int, threads: int) -> Any:
        package = require("finufft", feature="The finufft engine", extra="mri")
        plan = package.Plan(
            kind,
            self._shape,
            count,
            self._accuracy,
            -1 if kind == 2 else 1,
            dtype=self._dtype.name,
            nthreads=threads,
            upsampfac=self._upsampling,
            spread_thread=2,
            maxbatchsize=threads,
            showwarn=0,
            modeord=0,
        )
        plan.setpts(*self._points)
        return plan


def make(
    frequency: FloatArray, shape: tuple[int, ...], accuracy: float, dtype: torch.dtype, device: torch.device
) -> FinufftSums:
    """Return the sums; `device` is the CPU."""
    del device
    return FinufftSums(frequency, shape, accuracy, dtype)
