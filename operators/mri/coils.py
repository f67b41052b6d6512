"""Receive coils: one image seen through the sensitivity of each coil.

    y_c(r) = m_c(r) x(r),      A^H y = sum_c conj(m_c) y_c,      A^H A = sum_c |m_c|^2

Multi-coil imaging is `geometry.operator(grid, components=(coils,)) @ Coils(domain, maps)`. Its normal
operator sum_c conj(m_c) F^H F m_c goes coil by coil and block by block where F^H F is a filter: the
images of all coils are never held at once.
"""

from __future__ import annotations

from typing import overload

from torch import Tensor

from operators.base import Operator
from operators.checks import check_finite, check_tensor
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.linear import LinearOperator, Product
from operators.mri.filters import ModulatedFilters
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["CoilImaging", "Coils", "KSpaceOperator"]


class Coils(LinearOperator):
    """Complex image -> coil images (coils, *domain.shape), for sensitivity `maps` of that shape.

    On a grid with a time axis maps (coils, z, y, x) serve every frame. Maps are used as given, with no
    unit of their own; noise that the coils share is the noise's.
    """

    def __init__(self, domain: Space, maps: Tensor) -> None:
        grid = Space.require(domain, "domain").grid
        if not domain.is_complex:
            raise type_error("domain", "be complex", domain, "Space.field(grid, is_complex=True).")
        if grid is None or domain.shape != grid.array_shape:
            raise value_error("domain", "be a field on a Grid without component axes", domain)
        check_tensor(maps, "maps")
        static = grid.time is not None and tuple(maps.shape[1:]) == grid.shape
        if not static and (maps.ndim != domain.ndim + 1 or tuple(maps.shape[1:]) != domain.shape):
            expected = ", ".join(str(n) for n in domain.shape)
            raise value_error("maps", f"have shape (coils, {expected})", tuple(maps.shape))
        check_finite(maps, "maps")
        super().__init__(domain, Space((maps.shape[0], *domain.shape), is_complex=True, grid=grid))
        self.maps = Constant(maps.unsqueeze(1) if static else maps, "maps")

    def _apply(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) * self.maps.like(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return (self.maps.like(y).conj() * y).sum(dim=1)

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        # A^H diag(g) A = sum_c |m_c|^2 g_c
        if inner.axes and not inner.is_scalar:
            return None
        energy = self.maps.value.abs().double().square()
        return Spectrum((energy * inner.values.double()).sum(dim=0))


class KSpaceOperator(LinearOperator):
    """Image or coil images -> k-space; its product with `Coils` has a normal operator of its own."""

    def _gram_filters(self, x: Tensor) -> ModulatedFilters | None:
        """Return A^H A as filters of a single image in the precision of `x`, if it is made of such."""
        del x
        return None

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: object) -> Operator: ...
    def __matmul__(self, other: object) -> Operator:
        """Return the product self other; behind coils, the one that works coil by coil."""
        return CoilImaging(self, other) if isinstance(other, Coils) else super().__matmul__(other)


class CoilImaging(Product):
    """`outer` @ `inner`: the k-space of every coil, with the normal operator summed coil by coil."""

    def __init__(self, outer: KSpaceOperator, inner: Coils) -> None:
        coils, wanted = inner.codomain.shape[0], outer.domain.shape
        if len(wanted) == inner.domain.ndim + 1 and wanted[0] != coils:
            remedy = "The coils of the maps are those of the data: operator(grid, components=(coils,))."
            raise value_error("maps", f"have {wanted[0]} coils", f"{coils} coils", remedy)
        super().__init__(outer, inner)
        self.encoding = outer
        self.coils = inner

    def _apply_gram(self, x: Tensor) -> Tensor:
        if self._gram_spectrum is None and (filters := self.encoding._gram_filters(x)) is not None:
            return filters.through(x, self.coils.maps.like(x))
        return super()._apply_gram(x)
