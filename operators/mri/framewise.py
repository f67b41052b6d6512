"""One encoding per frame of a time series: images (t, z, y, x) -> data (t, ...)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.mri.coils import KSpaceOperator
from operators.mri.filters import FilterTerm, ModulatedFilters
from operators.space import Space

__all__ = ["Framewise"]


class Framewise(KSpaceOperator):
    """Frame t of the images through operator t; all of them have data of the same shape.

    Frames with different numbers of samples: one geometry each, through operators.stack.
    """

    def __init__(self, grid: Grid, operators: Sequence[KSpaceOperator]) -> None:
        self.operators = tuple(operators)
        time = Grid.require(grid).time
        if not self.operators or not all(isinstance(op, KSpaceOperator) for op in self.operators):
            names = [type(op).__name__ for op in self.operators]
            raise type_error("operators", "be k-space operators, one per frame", names)
        if time is None or time.count != len(self.operators):
            raise value_error("grid", f"have {len(self.operators)} frames, one per operator", repr(grid))
        first = self.operators[0]
        for i, op in enumerate(self.operators):
            first.domain.check_same(op.domain, f"operators[{i}].domain")
            if op.codomain.shape != first.codomain.shape:
                raise value_error(
                    f"operators[{i}].codomain", f"have shape {first.codomain.shape}", op.codomain.shape
                )
        if first.grid != grid.with_time(None):
            raise value_error("grid", f"be that of the operators, {first.grid!r}, with time", repr(grid))
        components = first.domain.shape[:-3]
        data = first.codomain.shape[len(components) :]
        if first.codomain.shape[: len(components)] != components:
            raise value_error("operators", f"keep the components {components}", first.codomain.shape)
        domain = Space.field(grid, is_complex=True, components=components)
        super().__init__(domain, Space((*components, len(self.operators), *data), is_complex=True))
        self._axis = 1 + len(components)

    def _apply(self, x: Tensor) -> Tensor:
        frames = zip(self.operators, x.unbind(self._axis), strict=True)
        return torch.stack([op._apply(frame) for op, frame in frames], dim=self._axis)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        frames = zip(self.operators, y.unbind(self._axis), strict=True)
        return torch.stack([op._apply_adjoint(frame) for op, frame in frames], dim=self._axis)

    def _apply_gram(self, x: Tensor) -> Tensor:
        frames = zip(self.operators, x.unbind(self._axis), strict=True)
        return torch.stack([op._apply_gram(frame) for op, frame in frames], dim=self._axis)

    def _gram_filters(self, x: Tensor) -> ModulatedFilters | None:
        name = f"_memo_filters_{x.dtype}_{x.device}"
        if name not in self.__dict__:
            self.__dict__[name] = self._stacked_filters(x)
        return self.__dict__[name]  # type: ignore[no-any-return]

    def _stacked_filters(self, x: Tensor) -> ModulatedFilters | None:
        """Return the frames' filters as one that varies along time, where they are alike but for values."""
        found = [op._gram_filters(x) for op in self.operators]
        filters = [one for one in found if one is not None]
        first = filters[0] if len(filters) == len(found) else None
        alike = first is not None and all((f.axes, f.sizes) == (first.axes, first.sizes) for f in filters)
        if first is None or not alike:
            return None
        terms = []
        for parts in zip(*(one.terms for one in filters), strict=True):
            shaped = [
                part.values.reshape(*[1] * (3 - part.values.ndim), *part.values.shape) for part in parts
            ]
            terms.append(FilterTerm(torch.stack(shaped), parts[0].odd))
        return ModulatedFilters(first.axes, first.sizes, tuple(terms))
