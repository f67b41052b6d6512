"""Off-resonance: a field map that turns the phase during the readout.

    y(k_j) = N^-1/2 sum_n x_n exp(-2 pi i (k_j . (r_n - r_0) + f_n t_j))

f_n is the frequency offset in Hz, t_j the time of sample j in s since the spins were in phase. It is
separated by time segments,

    exp(-2 pi i f t) ~ sum_l b_l(t) exp(-2 pi i f tau_l),    A ~ sum_l diag(b_l) F diag(exp(-2 pi i f tau_l))

tau_l evenly over the readout, b_l(t) by least squares over the frequencies that occur (Sutton, Noll and
Fessler, IEEE TMI 22 (2003) 178). The number of segments is the smallest whose largest error over times and
frequencies stays below `accuracy`. The sum is the operator; its adjoint is exact.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from operators.checks import check_count, check_finite, check_number, check_tensor, replaced
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mri.coils import KSpaceOperator

__all__ = ["OffResonance", "SegmentedReadout"]

Array = NDArray[np.complex128]

#: Frequencies of a map, sorted into this many bins, stand for all of them.
BINS = 400
MOST_SEGMENTS = 200


@dataclass(frozen=True, eq=False)
class OffResonance:
    """A `geometry` scanned in a field of `field` Hz, (z, y, x) on `grid`, with samples at `times` in s.

    `times` broadcasts against the data of one coil: (samples,) for readouts (shots, samples), (kx,) for
    Cartesian lines. `segments` sets their number by hand; otherwise `accuracy` does, relative to 1.
    """

    geometry: Any
    field: Tensor
    grid: Grid
    times: NDArray[np.float64]
    accuracy: float = 1e-4
    segments: int | None = None

    def __post_init__(self) -> None:
        if not callable(getattr(self.geometry, "operator", None)):
            remedy = "Such as NonCartesianGeometry(...)."
            raise type_error("geometry", "have operator(grid)", type(self.geometry).__name__, remedy)
        check_tensor(self.field, "field")
        if self.field.is_complex():
            raise type_error("field", "be real, in Hz", self.field.dtype)
        if tuple(self.field.shape) != Grid.require(self.grid).shape:
            raise value_error("field", f"have shape {self.grid.shape}, in Hz", tuple(self.field.shape))
        check_finite(self.field, "field")
        object.__setattr__(self, "times", _checked_times(self.times))
        object.__setattr__(self, "accuracy", check_number(self.accuracy, "accuracy", positive=True))
        if self.segments is not None:
            object.__setattr__(self, "segments", check_count(self.segments, "segments"))

    def with_(self, **changes: object) -> OffResonance:
        """Return the same scan with some values changed."""
        return replaced(self, changes)

    def operator(self, grid: Grid, *, components: Sequence[int] = ()) -> SegmentedReadout:
        """Return the transform from complex images on `grid` to data, the field included."""
        if not self.grid.matches(Grid.require(grid).with_time(None)):
            remedy = "Resample the field map on the grid of the reconstruction."
            raise value_error("grid", f"be the field map's, {self.grid!r}", repr(grid), remedy)
        if "components" not in inspect.signature(self.geometry.operator).parameters:
            remedy = "A field map belongs to an MRI geometry."
            raise type_error("geometry", "have operator(grid, components=...)", repr(self.geometry), remedy)
        inner: LinearOperator = self.geometry.operator(grid, components=components)
        data = inner.codomain.shape[len(components) :]
        shape = self.times.shape
        short = len(shape) > len(data)
        if short or any(t not in (1, n) for t, n in zip(shape[::-1], data[::-1], strict=False)):
            raise value_error("times", f"broadcast to the data of one coil, {data}", shape)
        taus, weights = segmented(self.field, self.times, self.accuracy, self.segments)
        return SegmentedReadout(inner, self.field, torch.from_numpy(taus), torch.from_numpy(weights))


class SegmentedReadout(KSpaceOperator):
    """sum_l diag(b_l) F diag(exp(-2 pi i f tau_l)) for F = `inner`.

    `field` f (z, y, x) in Hz, `taus` (segments,) in s, `weights` b (segments, ...) broadcast to the data.
    One segment at a time: the memory is that of F.
    """

    def __init__(self, inner: LinearOperator, field: Tensor, taus: Tensor, weights: Tensor) -> None:
        super().__init__(inner.domain, inner.codomain)
        self.inner = inner
        self.adjoint_error = inner.adjoint_error
        self.field = Constant(field, "field")
        self.taus = tuple(float(t) for t in taus)
        self.weights = Constant(weights, "weights")
        if weights.shape[0] != len(self.taus):
            raise value_error("weights", f"have one row per segment, {len(self.taus)}", tuple(weights.shape))

    def _apply(self, x: Tensor) -> Tensor:
        total = x.new_zeros((x.shape[0], *self.codomain.shape))
        weights = self.weights.like(x)
        for segment in range(len(self.taus)):
            total += weights[segment] * self.inner._apply(x * self._phase(segment, x))
        return total

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        total = y.new_zeros((y.shape[0], *self.domain.shape))
        weights = self.weights.like(y)
        for segment in range(len(self.taus)):
            part = self.inner._apply_adjoint(y * weights[segment].conj())
            total += part * self._phase(segment, y).conj()
        return total

    def _phase(self, segment: int, like: Tensor) -> Tensor:
        turns = self.field.value.double() * self.taus[segment]
        phase = torch.polar(torch.ones_like(turns), -2 * math.pi * (turns - turns.round()))
        return phase.to(like.dtype)


def segmented(
    field: Tensor, times: NDArray[np.float64], accuracy: float, segments: int | None
) -> tuple[NDArray[np.float64], Array]:
    """Return the times tau (segments,) and the interpolators b (segments, *times.shape)."""
    frequencies = _occurring(field.detach().cpu().double().numpy().ravel())
    moments, member = np.unique(times, return_inverse=True)
    wanted = np.exp(-2j * math.pi * np.outer(frequencies, moments))
    tries = range(1, MOST_SEGMENTS + 1) if segments is None else (segments,)
    for count in tries:
        ends = (moments[0], moments[-1]) if count > 1 else (moments.mean(), moments.mean())
        taus = np.linspace(*ends, count)
        basis = np.exp(-2j * math.pi * np.outer(frequencies, taus))
        weights = np.linalg.lstsq(basis, wanted, rcond=1e-13)[0]
        error = float(np.abs(basis @ weights - wanted).max())
        if segments is not None or error <= accuracy:
            return taus, weights[:, member.reshape(times.shape)]
    raise value_error(
        "accuracy",
        f"be reached with {MOST_SEGMENTS} segments",
        f"an error of {error:.1e} for {accuracy:g}",
        "Relax it: the field turns the phase too often during the readout, or 1e-12 was asked for.",
    )


def _occurring(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least and the greatest frequency in each bin that holds any."""
    low, high = float(values.min()), float(values.max())
    width = max(high - low, np.finfo(float).tiny)
    bins = np.minimum(((values - low) / width * BINS).astype(np.int64), BINS - 1)
    least, greatest = np.full(BINS, np.inf), np.full(BINS, -np.inf)
    np.minimum.at(least, bins, values)
    np.maximum.at(greatest, bins, values)
    held = least < np.inf
    return np.unique(np.concatenate([least[held], greatest[held]]))


def _checked_times(values: ArrayLike) -> NDArray[np.float64]:
    try:
        times = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type_error("times", "be numbers, in s", repr(values)) from error
    if times.ndim == 0 or times.size == 0 or not np.isfinite(times).all():
        raise value_error("times", "be finite times in s, one per sample of a readout", repr(values))
    times.setflags(write=False)
    return times
