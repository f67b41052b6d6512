"""Motion-resolved imaging: what each state of motion measured of one image.

    y_t = A_t W_t x,        (W_t x)(r) = x(r + u_t(r))

x is the image in the reference state, u_t(r) points from where something lies in state t to where it
lies in the reference. A_t holds the views or the k-space lines gated to state t.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from operators.deformation.pull import check_still
from operators.deformation.stencil import Boundary
from operators.deformation.warp import Warp
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.space import Space
from operators.stack import Stack

__all__ = ["motion_resolved"]


def motion_resolved(
    operators: Sequence[LinearOperator],
    fields: Sequence[Tensor | None],
    grid: Grid,
    *,
    boundary: Boundary = "zero",
) -> Stack:
    """Return x -> (A_1 W_1 x, A_2 W_2 x, ...), a linear operator on images on the reference `grid`.

    One field (3, *operators[t].grid.shape) in mm per operator, on that operator's own grid; None for a
    state that is the reference itself. The adjoint is exact where those of the operators are, and the
    data of each state are `split` and `join`ed as for any `Stack`.
    """
    check_still(grid)
    if not isinstance(operators, Sequence) or not isinstance(fields, Sequence):
        raise type_error("operators, fields", "be two lists", repr((operators, fields))[:80])
    if len(operators) != len(fields) or not operators:
        found = f"{len(operators)} operators and {len(fields)} fields"
        raise value_error("fields", "have one entry per operator, None for no motion", found)
    states: list[LinearOperator] = []
    for t, (op, field) in enumerate(zip(operators, fields, strict=True)):
        if not isinstance(op, LinearOperator):
            raise type_error(f"operators[{t}]", "be a LinearOperator", type(op).__name__)
        there = check_still(op.grid, f"operators[{t}].grid")
        lead = op.domain.shape[:-3]
        domain = Space((*lead, *grid.shape), op.domain.is_complex, grid, op.domain.is_vector)
        if field is None:
            domain.check_same(op.domain, f"operators[{t}].domain")
            states.append(op)
        else:
            name = f"fields[{t}]"
            states.append(op @ Warp(domain, field, grid=there, boundary=boundary, argument=name))
    return Stack(states)
