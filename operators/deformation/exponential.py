"""The exponential of a stationary velocity as an operator: what diffeomorphic registration fits."""

from __future__ import annotations

from torch import Tensor

from operators.base import Operator
from operators.checks import check_count
from operators.deformation.fields import flow
from operators.deformation.pull import check_still
from operators.deformation.stencil import Boundary, Placement
from operators.grid import Grid
from operators.space import Space

__all__ = ["Exponential"]


class Exponential(Operator):
    """v (3, *grid.shape) in mm -> the displacements of exp(v) in mm, by scaling and squaring.

    As `exponentiate`, with a number of `squarings` that does not depend on the argument: 7 steps of
    2^-7 keep from folding wherever |v| stays below 128 / (4 n) voxels, 10 in three dimensions and 16 in
    two; for more, ask `squarings_for`.
    """

    def __init__(self, grid: Grid, *, squarings: int = 7, boundary: Boundary = "edge") -> None:
        space = Space.vectors(check_still(grid))
        super().__init__(space, space)
        self.squarings = check_count(squarings, "squarings", minimum=0)
        self._place = Placement.of_grid(grid, grid, boundary, None)

    def _apply(self, x: Tensor) -> Tensor:
        return flow(x, self._place, self.squarings)
