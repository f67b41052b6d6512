"""What a prior's numbers mean: physical = scale * u + offset, in a unit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from operators.checks import check_number
from operators.errors import type_error

__all__ = ["Units"]


@dataclass(frozen=True)
class Units:
    """physical = scale * u + offset; `unit` names the physical one, such as "1/mm" or "HU".

    The default is the identity: u is physical already.
    """

    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_number(self.scale, "scale", positive=True))
        object.__setattr__(self, "offset", check_number(self.offset, "offset"))
        if not isinstance(self.unit, str):
            raise type_error("unit", "be text, empty for none", repr(self.unit))

    @staticmethod
    def require(value: object) -> Units:
        """Return `value` if it is a Units."""
        if not isinstance(value, Units):
            raise type_error("units", "be a Units", type(value).__name__, "Units(scale, offset, unit).")
        return value

    @property
    def is_identity(self) -> bool:
        """Whether u is physical already."""
        return self.scale == 1 and self.offset == 0

    def then(self, other: Units) -> Units:
        """Return the units of the same u in which `other` reads what these lead to: HU, then attenuation."""
        Units.require(other)
        return Units(other.scale * self.scale, other.scale * self.offset + other.offset, other.unit)

    def physical(self, u: Tensor) -> Tensor:
        """Return scale * u + offset."""
        return u if self.is_identity else self.scale * u + self.offset

    def normalised(self, x: Tensor) -> Tensor:
        """Return the u of a physical x."""
        return x if self.is_identity else (x - self.offset) / self.scale
