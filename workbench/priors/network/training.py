"""What a network was trained on: the facts that decide where its answers hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from operators.checks import check_count, check_lengths, check_number, replaced
from operators.errors import type_error, value_error
from workbench.units import Units

__all__ = ["Training"]


@dataclass(frozen=True)
class Training:
    """Size, voxels, units and noise of the training data; None where it is not known.

    What is stated here is enforced: a prior on another size or spacing needs a policy that says what to
    do, other units or another kind of numbers are refused.

    Parameters
    ----------
    size
        Voxels of the images, ([z,] y, x): two entries for slices, three for volumes.
    spacing
        Voxel sizes in mm, (z, y, x); a network of slices may leave the thickness out: (y, x).
    dimensions
        2 or 3; follows from `size` where that is given.
    is_complex
        Whether the images were complex, each a pair of channels (real, imaginary).
    units
        What the numbers mean: physical = scale * u + offset, in a unit.
    data_range
        The interval that the u lie in.
    data_sd
        Root mean square over voxels of the standard deviation of u, per real component.
    noise_range
        The levels sigma that it was trained at, in u; None: all that its output knows.
    calibrated_score
        Whether it was trained to give posterior means (a squared error, or what amounts to it), so that
        its scores are scores: not so after distillation to few steps, or for an adversarial loss.
    """

    size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    dimensions: int | None = None
    is_complex: bool | None = None
    units: Units | None = None
    data_range: tuple[float, float] | None = None
    data_sd: float | None = None
    noise_range: tuple[float, float] | None = None
    calibrated_score: bool = True

    def __post_init__(self) -> None:
        for name, known in (("dimensions", (None, 2, 3)), ("is_complex", (None, False, True))):
            value = getattr(self, name)
            if value not in known or type(value) not in map(type, known):
                raise value_error(name, f"be one of {', '.join(map(str, known))}", repr(value))
        if not isinstance(self.calibrated_score, bool):
            raise type_error("calibrated_score", "be True or False", repr(self.calibrated_score))
        if self.size is not None:
            _put(self, "size", _counts(self.size))
            if self.dimensions not in (None, len(self.size)):
                raise value_error("size", f"have {self.dimensions} entries", self.size)
            _put(self, "dimensions", len(self.size))
        if self.spacing is not None:
            self._check_spacing(self.spacing)
        if self.units is not None:
            Units.require(self.units)
        if self.data_range is not None:
            _put(self, "data_range", _interval(self.data_range, "data_range"))
        if self.data_sd is not None:
            _put(self, "data_sd", check_number(self.data_sd, "data_sd", positive=True))
        if self.noise_range is not None:
            low, high = _interval(self.noise_range, "noise_range")
            if low < 0:
                raise value_error("noise_range", "begin at a level >= 0", low)
            _put(self, "noise_range", (low, high))

    def with_(self, **changes: object) -> Training:
        """Return the same facts with some of them changed."""
        return replaced(self, changes)

    def _check_spacing(self, spacing: Sequence[float]) -> None:
        allowed = (2, 3) if self.dimensions == 2 else (3,) if self.dimensions == 3 else (2, 3)
        if not isinstance(spacing, Sequence) or len(spacing) not in allowed:
            expected = "have three lengths (z, y, x) in mm, of slices three or two (y, x)"
            raise value_error("spacing", expected, repr(spacing))
        _put(self, "spacing", check_lengths(spacing, len(spacing), "spacing"))
        if len(spacing) == 2:
            _put(self, "dimensions", 2)


def _put(value: Training, name: str, entry: object) -> None:
    object.__setattr__(value, name, entry)


def _counts(size: object) -> tuple[int, ...]:
    if not isinstance(size, Sequence) or len(size) not in (2, 3):
        raise value_error("size", "have two entries (y, x) or three (z, y, x)", repr(size))
    return tuple(check_count(n, f"size[{i}]") for i, n in enumerate(size))


def _interval(ends: object, argument: str) -> tuple[float, float]:
    if not isinstance(ends, Sequence) or len(ends) != 2:
        raise value_error(argument, "be two numbers (low, high)", repr(ends))
    low = check_number(ends[0], f"{argument}[0]")
    high = math.inf if ends[1] == math.inf else check_number(ends[1], f"{argument}[1]")
    if not low < high:
        raise value_error(argument, "be two numbers low < high", (low, high))
    return low, high
