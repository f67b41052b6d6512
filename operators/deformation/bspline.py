"""Free-form deformation: a dense field from the coefficients of cubic B-splines, a linear map.

    u(r) = sum_k c_k b(i_z - k_z) b(i_y - k_y) b(i_x - k_x)

where i is the fractional index of r in the control grid and b the cubic B-spline of support (-2, 2).
Along an axis with one control point the field is constant. Beyond the outer control points the
coefficients are zero: for a spline that is free on all of a grid, the control grid reaches a node
beyond it on each side, which `BSplineField.control_grid` sees to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_spacing
from operators.deformation.pull import check_still
from operators.errors import value_error
from operators.grid import Grid
from operators.separable import Separable
from operators.space import Space

__all__ = ["BSplineField"]


class BSplineField(Separable):
    """Coefficients (3, *control_grid.shape) in mm -> displacements (3, *grid.shape) in mm.

    The control grid's axes run along those of the grid, one way or the other. `pinv` gives the
    coefficients of the spline nearest to a dense field; solves and singular values are exact.
    """

    def __init__(self, control_grid: Grid, grid: Grid) -> None:
        control, dense = check_still(control_grid, "control_grid"), check_still(grid)
        matrix = np.linalg.solve(control.affine[:3, :3], dense.affine[:3, :3])
        steps = np.diagonal(matrix)
        if np.abs(matrix - np.diag(steps)).max() > 1e-6 * np.abs(steps).min():
            raise value_error(
                "control_grid",
                "have its axes along those of the grid",
                repr(control),
                "Make it by BSplineField.control_grid(grid, spacing), or permute it.",
            )
        start = control.world_to_index(dense.affine[:3, 3])
        matrices = {}
        for axis in range(3):
            index = start[axis] + steps[axis] * np.arange(dense.shape[axis])
            matrices[axis - 3] = _basis(index, control.shape[axis])
        super().__init__(Space.vectors(control), Space.vectors(dense), matrices)

    @staticmethod
    def control_grid(grid: Grid, spacing: Sequence[float] | float) -> Grid:
        """Return nodes every `spacing` mm (z, y, x) around the grid's centre, one beyond it on each side.

        An axis of one voxel gets one node.
        """
        wanted = check_spacing(spacing, "spacing")
        shape, affine = [], np.eye(4)
        for n, side, step in zip(check_still(grid).shape, grid.spacing, wanted, strict=True):
            # Between the outer voxel centres; the spline also needs the node after its last interval.
            intervals = math.ceil((n - 1) * side / step - 1e-9)
            shape.append(1 if n == 1 else max(intervals, 1) + 3)
        affine[:3, :3] = grid.directions * np.array(wanted)
        affine[:3, 3] = grid.centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return Grid((shape[0], shape[1], shape[2]), affine)


def _basis(index: np.ndarray[tuple[int], np.dtype[np.float64]], count: int) -> Tensor:
    """Return b(i - k) for positions i and nodes k = 0 .. count - 1."""
    if count == 1:
        return torch.ones(len(index), 1, dtype=torch.float64)
    t = torch.from_numpy(index)[:, None] - torch.arange(count, dtype=torch.float64)
    t = t.abs()
    near = 2 / 3 - t**2 + t**3 / 2
    far = (2 - t).clamp(min=0) ** 3 / 6
    return torch.where(t < 1, near, far)
