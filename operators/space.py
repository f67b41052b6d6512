"""What an operator maps from and to: shape, kind of values, and the grid it lies on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from operators.checks import check_count, check_tensor
from operators.errors import type_error, value_error
from operators.grid import Grid


@dataclass(frozen=True)
class Space:
    """Elements of one `shape`, real, complex or tokens; on a `grid` the last axes are the grid's.

    A tensor of this space may have any leading batch axes before `shape`. A vector field has three
    components in front of the grid's axes: displacements in mm along world (R, A, S), whatever way the
    array is stored. A token field holds integers 0 <= token < `classes`.
    """

    shape: tuple[int, ...]
    is_complex: bool = False
    grid: Grid | None = None
    is_vector: bool = False
    classes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.shape, Sequence):
            raise type_error("shape", "be a sequence of integers", repr(self.shape))
        shape = tuple(check_count(n, f"shape[{i}]") for i, n in enumerate(self.shape))
        object.__setattr__(self, "shape", shape)
        if not isinstance(self.is_complex, bool):
            raise type_error("is_complex", "be True or False", repr(self.is_complex))
        if not shape:
            raise value_error("shape", "have at least one axis", shape)
        if self.grid is not None:
            tail = self.grid.array_shape
            if shape[-len(tail) :] != tail:
                raise value_error("shape", f"end in the grid's array shape {tail}", shape)
        if self.classes is not None:
            object.__setattr__(self, "classes", check_count(self.classes, "classes", minimum=2))
        if self.is_vector:
            wanted = None if self.grid is None else (3, *self.grid.array_shape)
            if shape != wanted:
                raise value_error("shape", f"be (3, *grid) = {wanted} for a vector field", shape)
        if self.is_complex + self.is_vector + (self.classes is not None) > 1:
            raise value_error("is_complex, is_vector, classes", "be one at most", self.kind)

    @classmethod
    def field(cls, grid: Grid, *, is_complex: bool = False, components: Sequence[int] = ()) -> Space:
        """Return the space of images on `grid`, with `components` axes before the grid's own."""
        if not isinstance(components, Sequence):
            raise type_error("components", "be a sequence of integers", repr(components))
        Grid.require(grid)
        return cls((*components, *grid.array_shape), is_complex, grid)

    @classmethod
    def vectors(cls, grid: Grid) -> Space:
        """Return the space of displacement fields on `grid`: (3, ...), mm along world R, A, S."""
        return cls((3, *Grid.require(grid).array_shape), grid=grid, is_vector=True)

    @classmethod
    def tokens(cls, grid: Grid, classes: int) -> Space:
        """Return the space of label maps on `grid`: int64, one of `classes` per voxel."""
        return cls(Grid.require(grid).array_shape, grid=grid, classes=classes)

    @staticmethod
    def require(value: object, argument: str) -> Space:
        """Return `value` if it is a Space."""
        if not isinstance(value, Space):
            raise type_error(
                argument, "be a Space", type(value).__name__, "Images on a grid: Space.field(grid)."
            )
        return value

    @property
    def kind(self) -> str:
        """What its elements are: one of the names that solvers declare."""
        if self.classes is not None:
            return "token field"
        if self.is_vector:
            return "vector field"
        return "complex field" if self.is_complex else "scalar field"

    @property
    def ndim(self) -> int:
        """Number of axes of one element."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries of one element."""
        return math.prod(self.shape)

    def dtype_like(self, x: Tensor) -> torch.dtype:
        """Return the dtype of this space in the precision of `x`; tokens are int64."""
        if self.classes is not None:
            return torch.int64
        single = x.dtype in (torch.float32, torch.complex64)
        if self.is_complex:
            return torch.complex64 if single else torch.complex128
        return torch.float32 if single else torch.float64

    def check(self, x: Tensor, argument: str) -> None:
        """Raise if `x` is not a tensor of this space: type, dtype, then shape; of tokens, also the values."""
        if self.classes is not None:
            self._check_tokens(x, argument)
            return
        check_tensor(x, argument)
        if x.is_complex() != self.is_complex:
            kind = "complex (complex64 or complex128)" if self.is_complex else "real (float32 or float64)"
            remedy = (
                f"Convert it: {argument}.to(torch.complex64)."
                if self.is_complex
                else "Build the operator on a complex domain, or pass the real part or the magnitude."
            )
            raise type_error(argument, f"be {kind}", x.dtype, remedy)
        self._check_shape(x, argument)

    def _check_tokens(self, x: object, argument: str) -> None:
        if not isinstance(x, Tensor) or x.dtype != torch.int64:
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise type_error(argument, "be a torch.Tensor of tokens, int64", found, "Convert it: .long().")
        self._check_shape(x, argument)
        low, high = (int(v) for v in torch.aminmax(x))
        if low < 0 or high >= cast(int, self.classes):
            raise value_error(argument, f"hold tokens 0 <= token < {self.classes}", f"{low} to {high}")

    def _check_shape(self, x: Tensor, argument: str) -> None:
        if tuple(x.shape[x.ndim - self.ndim :]) != self.shape or x.ndim < self.ndim:
            expected = ", ".join(str(n) for n in self.shape)
            raise value_error(
                argument, f"have shape (..., {expected})", tuple(x.shape), "Leading axes are batch axes."
            )

    def check_same(self, other: Space, argument: str) -> None:
        """Raise unless elements of `other` are elements of this space, in the same place."""
        alike = other.is_complex == self.is_complex and other.classes == self.classes
        if other.shape != self.shape or not alike:
            raise value_error(argument, f"be {self}", other)
        if self.grid is not None and other.grid is not None and not self.grid.matches(other.grid):
            raise value_error(
                argument,
                f"lie on the same grid, {self.grid!r}",
                repr(other.grid),
                "Resample one of the two: equal shapes in different places would be silently misaligned.",
            )

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return <a, b> per batch element: complex over a complex space, conjugate on `a`.

        The sum runs in double precision, so that it can judge single-precision operators.
        """
        if self.classes is not None:
            raise type_error("space", "have an inner product", self.kind)
        wide = torch.complex128 if self.is_complex else torch.float64
        product = a.to(wide).conj() * b.to(wide)
        return product.sum(dim=tuple(range(-self.ndim, 0)))

    def norm(self, a: Tensor) -> Tensor:
        """Return the Euclidean norm per batch element, in double precision."""
        return self.inner(a, a).real.sqrt()

    def __repr__(self) -> str:
        kind = "complex" if self.is_complex else "real"
        kind = f"tokens of {self.classes} classes" if self.classes is not None else kind
        kind = "vectors in mm" if self.is_vector else kind
        where = "" if self.grid is None else f" on {self.grid!r}"
        return f"Space({self.shape}, {kind}{where})"
