"""Receive coils: one image seen through the sensitivity of each coil.

    y_c(r) = m_c(r) x(r),      A^H y = sum_c conj(m_c) y_c,      A^H A = sum_c |m_c|^2

Multi-coil imaging is `geometry.operator(grid, components=(coils,)) @ Coils(domain, maps)`.
"""

from __future__ import annotations

from torch import Tensor

from operators.checks import check_finite, check_tensor
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.linear import LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["Coils"]


class Coils(LinearOperator):
    """Complex image -> coil images (coils, *domain.shape), for sensitivity `maps` of that shape.

    Maps are used as given, with no unit of their own; noise that the coils share is the noise's.
    """

    def __init__(self, domain: Space, maps: Tensor) -> None:
        grid = Space.require(domain, "domain").grid
        if not domain.is_complex:
            raise type_error("domain", "be complex", domain, "Space.field(grid, is_complex=True).")
        if grid is None or domain.shape != grid.array_shape:
            raise value_error("domain", "be a field on a Grid without component axes", domain)
        check_tensor(maps, "maps")
        if maps.ndim != domain.ndim + 1 or tuple(maps.shape[1:]) != domain.shape:
            expected = ", ".join(str(n) for n in domain.shape)
            raise value_error("maps", f"have shape (coils, {expected})", tuple(maps.shape))
        check_finite(maps, "maps")
        super().__init__(domain, Space(tuple(maps.shape), is_complex=True, grid=grid))
        self.maps = Constant(maps, "maps")

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
