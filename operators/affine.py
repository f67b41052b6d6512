"""The affine map x -> scale x + offset of one space: a change of units in front of a nonlinear operator."""

from __future__ import annotations

from torch import Tensor

from operators.base import Operator
from operators.checks import check_finite, check_number
from operators.constant import Constant
from operators.errors import value_error
from operators.space import Space

__all__ = ["Affine"]


class Affine(Operator):
    """x -> scale x + offset for a real `scale` and an `offset` that is a number or one element of `space`."""

    def __init__(self, space: Space, scale: float, offset: float | Tensor = 0.0) -> None:
        super().__init__(space, space)
        self.scale = check_number(scale, "scale")
        if not isinstance(offset, Tensor):
            self.offset: float | Constant = check_number(offset, "offset")
            return
        space.check(offset, "offset")
        if tuple(offset.shape) != space.shape:
            raise value_error("offset", f"be a number or have shape {space.shape}", tuple(offset.shape))
        check_finite(offset, "offset")
        self.offset = Constant(offset, "offset")

    def _apply(self, x: Tensor) -> Tensor:
        offset = self.offset
        return self.scale * x + (offset.like(x) if isinstance(offset, Constant) else offset)
