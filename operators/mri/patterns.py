"""Sampling patterns of Cartesian phase encodes: which of them to take, out of all.

A pattern is a boolean `mask` over the phase-encode axes, its zero frequency at index N // 2, and says how
far it accelerates: all samples over those taken. What is random is keyed by `seed` (numpy's Philox) and
the same on every machine. `acs` is the number of samples around k = 0 that are taken in any case, per axis:
the calibration region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from operators.mri.cartesian import HasMask, as_mask

__all__ = [
    "SamplingPattern",
    "acs_box",
    "equispaced",
    "interleaved",
    "partial_fourier",
    "variable_density",
]

Array = NDArray[np.float64]
Counts = Sequence[int] | int


@dataclass(frozen=True, eq=False)
class SamplingPattern:
    """A boolean `mask`, True where a sample is taken; & and | combine patterns of one shape."""

    mask: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", as_mask(self.mask))
        if not bool(self.mask.any()):
            raise value_error("mask", "take at least one sample", "a mask that takes none")

    @property
    def acceleration(self) -> float:
        """All samples over those taken."""
        return self.mask.numel() / int(self.mask.sum())

    def __and__(self, other: SamplingPattern) -> SamplingPattern:
        return SamplingPattern(self.mask & _beside(self, other))

    def __or__(self, other: SamplingPattern) -> SamplingPattern:
        return SamplingPattern(self.mask | _beside(self, other))


def variable_density(
    shape: Counts,
    acceleration: float,
    *,
    seed: int,
    acs: Counts = 0,
    law: Literal["polynomial", "gaussian"] = "polynomial",
    strength: float = 3.0,
) -> SamplingPattern:
    """Return random samples, denser towards k = 0, of exactly round(size / acceleration) samples.

    With rho the distance from k = 0, 1 at the middle of the edges, the odds of a sample are
    (1 - rho / sqrt(axes))^strength for "polynomial", exp(-(strength rho)^2 / 2) for "gaussian".
    """
    sizes, block = _sizes(shape, acs)
    wanted = _wanted(sizes, block, acceleration)
    power = check_number(strength, "strength", non_negative=True)
    rho = radius(sizes)
    if law == "polynomial":
        odds = np.clip(1 - rho / math.sqrt(len(sizes)), 0, None) ** power
    elif law == "gaussian":
        odds = np.exp(-0.5 * (power * rho) ** 2)
    else:
        raise value_error("law", "be 'polynomial' or 'gaussian'", repr(law))
    taken = central(sizes, block)
    # Without replacement: the largest of log(u) / odds (Efraimidis and Spirakis, 2006).
    uniform = stream(seed).random(sizes)
    keys = np.log(np.clip(uniform, np.finfo(float).tiny, None)) / np.clip(odds, 1e-12, None)
    keys[taken] = np.inf
    taken.ravel()[np.argsort(-keys, axis=None, kind="stable")[:wanted]] = True
    return SamplingPattern(torch.from_numpy(taken))


def equispaced(shape: Counts, step: Counts, *, acs: Counts = 0, offset: Counts = 0) -> SamplingPattern:
    """Return every `step`-th sample along each axis, index `offset` the first, and the ACS block."""
    sizes, block = _sizes(shape, acs)
    steps = _per_axis(step, len(sizes), "step", minimum=1)
    starts = _per_axis(offset, len(sizes), "offset", minimum=0)
    taken = np.ones(sizes, dtype=bool)
    for axis, (n, every, start) in enumerate(zip(sizes, steps, starts, strict=True)):
        if start >= every:
            raise value_error(f"offset[{axis}]", f"lie below the step, {every}", start)
        line = (np.arange(n) - start) % every == 0
        taken &= line.reshape(-1, *[1] * (len(sizes) - axis - 1))
    return SamplingPattern(torch.from_numpy(taken | central(sizes, block)))


def partial_fourier(size: int, fraction: float, *, side: Literal["low", "high"] = "low") -> SamplingPattern:
    """Return ceil(fraction * size) samples in a row, those at the `side` left out; over half of all."""
    count = check_count(size, "size")
    share = check_number(fraction, "fraction", positive=True)
    if not 0.5 < share <= 1:
        remedy = "The rest is estimated by conjugate symmetry, for which the centre must be there."
        raise value_error("fraction", "lie above 0.5 and at most at 1", share, remedy)
    if side not in ("low", "high"):
        raise value_error("side", "be 'low' or 'high'", repr(side))
    kept = math.ceil(share * count)
    index = np.arange(count)
    return SamplingPattern(torch.from_numpy(index >= count - kept if side == "low" else index < kept))


def interleaved(
    frames: int, size: int, step: int, *, acs: int = 0, shift: int | None = None
) -> SamplingPattern:
    """Return k-t sampling (frames, 1, size): every `step`-th line, moved on by `shift` at each frame.

    The axes are (t, kz, ky), as `SampledCartesianGeometry.lines` takes them. By default the shift is the
    number nearest to step / golden ratio that shares no factor with the step: `step` successive frames
    together hold every line, and neighbours in time are far apart.
    """
    count, every = check_count(frames, "frames"), check_count(step, "step")
    if shift is None:
        near = sorted(range(1, every + 1), key=lambda s: abs(s - every * (math.sqrt(5) - 1) / 2))
        shift = next(s for s in near if math.gcd(s, every) == 1)
    move = check_count(shift, "shift", minimum=0)
    rows = [equispaced(size, every, acs=acs, offset=t * move % every).mask for t in range(count)]
    return SamplingPattern(torch.stack(rows)[:, None])


def acs_box(mask: Tensor | HasMask, *, minimum: Counts = 2) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (start, stop) of the fully sampled block around k = 0, index N // 2, of a mask.

    It grows side by side as long as a whole slab is sampled. An error says where there is none of at
    least `minimum` samples along each axis longer than one: what calibration needs.
    """
    taken = as_mask(mask).numpy()
    least = _per_axis(minimum, taken.ndim, "minimum", minimum=1)
    start = [n // 2 for n in taken.shape]
    stop = [s + 1 for s in start]
    if taken[tuple(start)]:
        grown = True
        while grown:
            grown = False
            for axis, high in ((a, h) for a in range(taken.ndim) for h in (False, True)):
                edge = stop[axis] if high else start[axis] - 1
                if not 0 <= edge < taken.shape[axis]:
                    continue
                slab = [slice(a, b) for a, b in zip(start, stop, strict=True)]
                slab[axis] = slice(edge, edge + 1)
                if taken[tuple(slab)].all():
                    grown = True
                    stop[axis] += high
                    start[axis] -= not high
    centre = tuple(n // 2 for n in taken.shape)
    size = [b - a if taken[centre] else 0 for a, b in zip(start, stop, strict=True)]
    wanted = [min(m, n) for m, n in zip(least, taken.shape, strict=True)]
    if any(s < w for s, w in zip(size, wanted, strict=True)):
        raise value_error(
            "mask",
            f"have a fully sampled block (ACS) of at least {tuple(wanted)} samples around k = 0",
            f"one of {tuple(size)}",
            "Take a pattern with acs=..., or calibrate from another scan.",
        )
    return tuple(start), tuple(stop)


def radius(sizes: tuple[int, ...]) -> Array:
    """Return the distance from k = 0 of each sample, 1 at the middle of the edges."""
    axes = np.meshgrid(*[(np.arange(n) - n // 2) / max(n / 2, 0.5) for n in sizes], indexing="ij")
    distance: Array = np.sqrt(sum(a**2 for a in axes))
    return distance


def central(sizes: tuple[int, ...], block: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask of `block` samples around k = 0, of none where an axis has 0."""
    taken = np.zeros(sizes, dtype=bool)
    starts = [n // 2 - b // 2 for n, b in zip(sizes, block, strict=True)]
    taken[tuple(slice(s, s + b) for s, b in zip(starts, block, strict=True))] = True
    return taken


def stream(seed: int) -> np.random.Generator:  # noqa: TID251  Philox, keyed by the caller
    """Return the numbers of `seed`."""
    number = check_count(seed, "seed", minimum=0)
    return np.random.Generator(np.random.Philox(key=number))  # noqa: TID251  the same


def _sizes(shape: Counts, acs: Counts) -> tuple[tuple[int, ...], tuple[int, ...]]:
    axes = 1 if isinstance(shape, (int, np.integer)) else len(shape)
    sizes = _per_axis(shape, axes, "shape", minimum=1)
    block = _per_axis(acs, axes, "acs", minimum=0)
    if not 1 <= axes <= 3 or any(b > n for b, n in zip(block, sizes, strict=True)):
        raise value_error("acs", f"fit into the shape {sizes} of one to three axes", block)
    return sizes, block


def _wanted(sizes: tuple[int, ...], block: tuple[int, ...], acceleration: float) -> int:
    factor = check_number(acceleration, "acceleration", positive=True)
    if factor < 1:
        raise value_error("acceleration", "be at least 1", factor)
    wanted = round(math.prod(sizes) / factor)
    if wanted < max(1, math.prod(block)):
        raise value_error(
            "acceleration",
            f"leave at least one sample and the calibration block, {math.prod(block)} samples",
            f"{factor:g}: {wanted} of {math.prod(sizes)}",
            "Lower it, or shrink `acs`.",
        )
    return wanted


def _per_axis(values: Counts, axes: int, name: str, *, minimum: int) -> tuple[int, ...]:
    listed = [values] * axes if isinstance(values, (int, np.integer)) else list(values)
    if len(listed) != axes:
        raise value_error(name, f"be one integer or {axes}, one per axis", tuple(listed))
    return tuple(check_count(v, f"{name}[{i}]", minimum=minimum) for i, v in enumerate(listed))


def _beside(first: SamplingPattern, second: object) -> Tensor:
    if not isinstance(second, SamplingPattern):
        raise type_error("other", "be a SamplingPattern", type(second).__name__)
    if first.mask.shape != second.mask.shape:
        raise value_error("other", f"have shape {tuple(first.mask.shape)}", tuple(second.mask.shape))
    return second.mask
