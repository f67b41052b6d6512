"""Operators made of several: stacked data, block diagonals, one 2D operator on every slice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from operators.constant import single_device
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.linalg import TraceEstimate
from operators.linear import LinearOperator
from operators.solves import Stopping
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["BlockDiagonal", "SliceWise", "Stack"]


class Parts:
    """Several spaces laid end to end as one flat vector; real parts may sit in a complex vector."""

    def __init__(self, spaces: Sequence[Space]) -> None:
        self.spaces = tuple(spaces)
        self.space = Space((sum(s.size for s in spaces),), any(s.is_complex for s in spaces))

    def check(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return `parts` with common batch axes, or say what does not fit."""
        if not isinstance(parts, Sequence) or len(parts) != len(self.spaces):
            raise value_error("parts", f"be {len(self.spaces)} tensors, one per operator", repr(parts)[:80])
        for i, (part, space) in enumerate(zip(parts, self.spaces, strict=True)):
            space.check(part, f"parts[{i}]")
        precisions = {part.real.dtype if part.is_complex() else part.dtype for part in parts}
        if len(precisions) > 1:
            raise type_error("parts", "have one precision", [part.dtype for part in parts])
        leads = [part.shape[: part.ndim - space.ndim] for part, space in zip(parts, self.spaces, strict=True)]
        try:
            batch = np.broadcast_shapes(*leads)
        except ValueError as error:
            shapes = [tuple(part.shape) for part in parts]
            raise value_error("parts", "have batch axes that broadcast", shapes) from error
        return [part.expand(*batch, *space.shape) for part, space in zip(parts, self.spaces, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return one tensor (..., total) from one tensor (..., *shape) per space, batch axes alike."""
        flat = []
        for part, space in zip(parts, self.spaces, strict=True):
            row = part.reshape(*part.shape[: part.ndim - space.ndim], space.size)
            flat.append(row.to(self.space.dtype_like(row)))
        return torch.cat(flat, dim=-1)

    def split(self, joined: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor (..., *shape) per space from one tensor (..., total)."""
        parts = []
        pieces = torch.split_with_sizes(joined, [s.size for s in self.spaces], dim=-1)
        for piece, space in zip(pieces, self.spaces, strict=True):
            # Embedding the reals in the complex numbers has the real part as its adjoint.
            value = piece.real if piece.is_complex() and not space.is_complex else piece
            parts.append(value.reshape(*joined.shape[:-1], *space.shape))
        return tuple(parts)


class Stack(LinearOperator):
    """x -> (A1 x, A2 x, ...) as one flat vector; `split` and `join` go between it and its parts.

    Least squares with a quadratic penalty is the stack of A and sqrt(rho) D.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        self.operators = _checked(operators)
        first = self.operators[0].domain
        for i, op in enumerate(self.operators):
            first.check_same(op.domain, f"operators[{i}].domain")
        self._parts = Parts([op.codomain for op in self.operators])
        if first.is_complex and not all(op.codomain.is_complex for op in self.operators):
            raise type_error("operators", "all have complex values on a complex domain", self.operators)
        super().__init__(first, self._parts.space)
        self.adjoint_error = max(op.adjoint_error for op in self.operators)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return one vector of data from the data of each operator."""
        return self._parts.join(self._parts.check(parts))

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        """Return the data of each operator from one vector."""
        self.codomain.check(y, "y")
        return self._parts.split(y)

    @property
    def over_complex(self) -> bool:
        """Whether its parts are linear over the complex numbers."""
        return all(op.over_complex for op in self.operators)

    def _apply(self, x: Tensor) -> Tensor:
        return self._parts.join([op._apply(x) for op in self.operators])

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, self._parts.split(y), strict=True)
        return _total([op._apply_adjoint(part) for op, part in parts])

    def _apply_gram(self, x: Tensor) -> Tensor:
        return _total([op._apply_gram(x) for op in self.operators])

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        if not inner.is_scalar:
            return None
        total: Spectrum | None = None
        for op in self.operators:
            part = op._congruence(inner)
            if part is None:
                return None
            total = part if total is None else total.combined(part, torch.add)
            if total is None:
                return None
        return total


class BlockDiagonal(LinearOperator):
    """(x1, x2, ...) -> (A1 x1, A2 x2, ...), both sides as one flat vector."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        self.operators = _checked(operators)
        self._arguments = Parts([op.domain for op in self.operators])
        self._values = Parts([op.codomain for op in self.operators])
        kinds = {(op.domain.is_complex, op.codomain.is_complex) for op in self.operators}
        if len(kinds) > 1:
            raise type_error("operators", "be all real or all complex", self.operators)
        super().__init__(self._arguments.space, self._values.space)
        self.adjoint_error = max(op.adjoint_error for op in self.operators)
        self.is_unitary = all(op.is_unitary for op in self.operators)

    @property
    def H(self) -> LinearOperator:
        """The block diagonal of the adjoints."""
        return BlockDiagonal([op.H for op in self.operators])

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return one argument from the arguments of each operator."""
        return self._arguments.join(self._arguments.check(parts))

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        """Return the values of each operator from one value."""
        self.codomain.check(y, "y")
        return self._values.split(y)

    @property
    def over_complex(self) -> bool:
        """Whether its parts are linear over the complex numbers."""
        return all(op.over_complex for op in self.operators)

    def _apply(self, x: Tensor) -> Tensor:
        parts = zip(self.operators, self._arguments.split(x), strict=True)
        return self._values.join([op._apply(part) for op, part in parts])

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, self._values.split(y), strict=True)
        return self._arguments.join([op._apply_adjoint(part) for op, part in parts])

    def _apply_gram(self, x: Tensor) -> Tensor:
        parts = zip(self.operators, self._arguments.split(x), strict=True)
        return self._arguments.join([op._apply_gram(part) for op, part in parts])

    @property
    def has_closed_form(self) -> bool:
        """Whether normal_solve is exact, without iterations: every block's own is."""
        return all(op.has_closed_form for op in self.operators)

    def _solve_normal(self, b: Tensor, c: Tensor, start: Tensor | None, stopping: Stopping) -> Tensor:
        starts = [None] * len(self.operators) if start is None else self._arguments.split(start)
        solved = []
        for op, part, guess in zip(self.operators, self._arguments.split(b), starts, strict=True):
            shift = c.reshape(-1, *[1] * op.domain.ndim)
            solved.append(op._solve_normal(part, shift, guess, stopping))
        return self._arguments.join(solved)

    def _pseudo_solve(self, b: Tensor, cutoff: float) -> Tensor | None:
        solved = []
        for op, part in zip(self.operators, self._arguments.split(b), strict=True):
            block = op._pseudo_solve(part, cutoff)
            if block is None:
                return None
            solved.append(block)
        return self._arguments.join(solved)

    def norm(self, *, tolerance: float = 1e-6, max_iterations: int = 300, seed: int = 0) -> float:
        """Return the largest of the blocks' norms."""
        norms = [
            op.norm(tolerance=tolerance, max_iterations=max_iterations, seed=seed) for op in self.operators
        ]
        return max(norms)

    def gram_trace(self, *, probes: int = 16, seed: int = 0) -> TraceEstimate:
        """Return the sum of the blocks' traces."""
        parts = [op.gram_trace(probes=probes, seed=seed + i) for i, op in enumerate(self.operators)]
        error = math.hypot(*(part.standard_error for part in parts))
        return TraceEstimate(sum(part.value for part in parts), error)


class SliceWise(LinearOperator):
    """One operator of a single slice, applied to every slice of a volume in one call.

    `grid` is the volume's; `axis` the array axis along which it is cut. Values have the slice
    index in front: (slices, *op.codomain.shape).
    """

    def __init__(self, op: LinearOperator, grid: Grid, *, axis: int = 0) -> None:
        if not isinstance(op, LinearOperator):
            raise type_error("op", "be a LinearOperator", type(op).__name__)
        if Grid.require(grid).time is not None or op.grid.time is not None:
            raise value_error(
                "grid", "have no time axis", grid, "Pass frames as a batch axis: with_time(None)."
            )
        cut = grid.slice_at(axis, 0)
        # The operator's slice may lie anywhere along the slice axis, and nowhere else.
        offset = grid.world_to_index(op.grid.index_to_world([0, 0, 0]))
        offset[axis] = 0
        there = Grid(cut.shape, np.vstack([np.c_[op.grid.affine[:3, :3], cut.affine[:3, 3]], [0, 0, 0, 1]]))
        if op.grid.shape != cut.shape or not there.matches(cut) or abs(offset).max() > 1e-4:
            raise value_error("op", f"act on one slice of the grid, such as {cut!r}", repr(op.grid))
        components = op.domain.shape[:-3]
        domain = Space((*components, *grid.shape), op.domain.is_complex, grid)
        super().__init__(domain, Space((grid.shape[axis], *op.codomain.shape), op.codomain.is_complex))
        self.op = op
        self.axis = axis - 3
        self.adjoint_error = op.adjoint_error
        self.is_unitary = op.is_unitary

    @property
    def over_complex(self) -> bool:
        """Whether its parts are linear over the complex numbers."""
        return self.op.over_complex

    def _apply(self, x: Tensor) -> Tensor:
        values = self.op._apply(self._slices(x))
        return values.reshape(x.shape[0], *self.codomain.shape)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self._volume(self.op._apply_adjoint(y.reshape(-1, *self.op.codomain.shape)), y.shape[0])

    def _apply_gram(self, x: Tensor) -> Tensor:
        return self._volume(self.op._apply_gram(self._slices(x)), x.shape[0])

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        # The slice axis has length 1 in the slice's values: they broadcast over the volume as they are.
        return self.op._congruence(inner) if inner.is_scalar else None

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return self.op._dual_congruence(inner) if inner.is_scalar else None

    def _slices(self, x: Tensor) -> Tensor:
        return x.movedim(self.axis, 1).unsqueeze(self.axis).reshape(-1, *self.op.domain.shape)

    def _volume(self, slices: Tensor, batch: int) -> Tensor:
        parts = slices.reshape(batch, -1, *self.op.domain.shape)
        return parts.squeeze(self.axis).movedim(1, self.axis)


def _checked(operators: Sequence[LinearOperator]) -> tuple[LinearOperator, ...]:
    if not isinstance(operators, Sequence):
        raise type_error("operators", "be a list of LinearOperators", repr(operators))
    chosen = tuple(operators)
    if not chosen or not all(isinstance(op, LinearOperator) for op in chosen):
        names = [type(op).__name__ for op in chosen]
        raise type_error("operators", "be one or more LinearOperators", names)
    single_device(chosen, "operators")
    return chosen


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
