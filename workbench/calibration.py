"""What is known of the instrument beside its geometry: each a value that changes a geometry.

Geometries and calibrations chain: a calibrated geometry is a geometry, with the values of the one
inside it to be changed. The order does not matter: a field and coil maps are factors of the image. An
alternative calibration (a centre of rotation half a pixel off) is another value of the same class.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from operators.base import Operator
from operators.checks import check_finite, check_number, check_tensor, replaced
from operators.diagonal import Diagonal
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.mri.coils import Coils
from operators.space import Space

__all__ = ["Calibration", "CentreOfRotation", "CoilMaps", "Field", "calibrations"]


class Calibration(ABC):
    """Something measured or estimated of the instrument."""

    @abstractmethod
    def applied(self, geometry: Any) -> Any:
        """Return `geometry` with this calibration in it: something with operator(grid)."""

    def with_(self, **changes: object) -> Self:
        """Return the same calibration with some values changed."""
        return replaced(self, changes)  # type: ignore[type-var]  # subclasses are dataclasses


def calibrations(value: object) -> tuple[Calibration, ...]:
    """Return one Calibration, or a sequence of them, as a tuple."""
    if isinstance(value, Calibration):
        return (value,)
    if not isinstance(value, Sequence) or isinstance(value, str):
        expected = "be a Calibration or a sequence of them"
        raise type_error("calibration", expected, type(value).__name__, "Of none: ().")
    for i, part in enumerate(value):
        if not isinstance(part, Calibration):
            raise type_error(f"calibration[{i}]", "be a Calibration", type(part).__name__)
    return tuple(value)


@dataclass(frozen=True)
class CentreOfRotation(Calibration):
    """The detector column, possibly fractional, at which the rotation axis is seen."""

    column: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", check_number(self.column, "column"))

    def applied(self, geometry: Any) -> Any:
        """Return the geometry with its axis there."""
        if not hasattr(geometry, "axis_column"):
            remedy = "A centre of rotation belongs to a CT geometry."
            raise type_error("geometry", "have an axis of rotation", _named(geometry), remedy)
        return geometry.with_(axis_column=self.column)


@dataclass(frozen=True, eq=False)
class CoilMaps(Calibration):
    """Complex sensitivities of receiver coils, (coils, z, y, x) on `grid`.

    On a grid without a time axis they are those of every frame.
    """

    maps: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        _check_on_grid(self.maps, self.grid, "maps", leading=1)
        if not self.maps.is_complex():
            raise type_error("maps", "be complex", self.maps.dtype)

    def applied(self, geometry: Any) -> Any:
        """Return the geometry of every coil at once, behind the maps."""
        if isinstance(geometry, _Shaded):
            # The same product, with one image to shade instead of one per coil.
            return replace(geometry, geometry=self.applied(geometry.geometry))
        if isinstance(geometry, _Received):
            remedy = "Give one CoilMaps; multiply the maps where one corrects the other."
            raise value_error("geometry", "be seen through one CoilMaps", "two", remedy)
        if "components" not in inspect.signature(geometry.operator).parameters:
            remedy = "Coil maps belong to an MRI geometry."
            raise type_error("geometry", "have operator(grid, components=(coils,))", _named(geometry), remedy)
        return _Received(geometry, self)


@dataclass(frozen=True, eq=False)
class Field(Calibration):
    """A known factor per voxel, (z, y, x) on `grid`: a receive bias, an illumination profile.

    On a grid without a time axis it is that of every frame.
    """

    values: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        _check_on_grid(self.values, self.grid, "values", leading=0)

    def applied(self, geometry: Any) -> Any:
        """Return the geometry behind the field."""
        return _Shaded(geometry, self)


@dataclass(frozen=True, eq=False)
class _Calibrated:
    """A geometry inside another, whose values can still be read and changed."""

    geometry: Any

    @property
    def axis_column(self) -> float | None:
        """That of the geometry inside; an AttributeError, hence no attribute, where it has none."""
        return self.geometry.axis_column  # type: ignore[no-any-return]

    def with_(self, **changes: object) -> Self:
        """Return the same with some values of the geometry inside changed."""
        return replace(self, geometry=self.geometry.with_(**changes))


@dataclass(frozen=True, eq=False)
class _Received(_Calibrated):
    calibration: CoilMaps

    def operator(self, grid: Grid) -> Operator:
        """Return x -> the transform of maps * x, coil by coil."""
        maps = self.calibration.maps
        _check_same_place(self.calibration.grid, grid, "CoilMaps.grid")
        coils = Coils(Space.field(grid, is_complex=True), maps)
        return self.geometry.operator(grid, components=(maps.shape[0],)) @ coils  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class _Shaded(_Calibrated):
    calibration: Field

    def operator(self, grid: Grid, *, components: Sequence[int] = ()) -> Operator:
        """Return x -> A(field * x), the same field for each of the `components` that the geometry takes."""
        _check_same_place(self.calibration.grid, grid, "Field.grid")
        # Not every geometry has components.
        make = self.geometry.operator
        inner: Operator = make(grid, components=components) if components else make(grid)
        return inner @ Diagonal(inner.domain, self.calibration.values)


def _named(geometry: Any) -> str:
    while isinstance(geometry, _Calibrated):
        geometry = geometry.geometry
    return type(geometry).__name__


def _check_on_grid(values: Tensor, grid: Grid, argument: str, *, leading: int) -> None:
    check_tensor(values, argument)
    check_finite(values, argument)
    shape = Grid.require(grid).array_shape
    if values.ndim != len(shape) + leading or tuple(values.shape[leading:]) != shape:
        expected = f"have shape ({'coils, ' if leading else ''}{', '.join(str(n) for n in shape)})"
        raise value_error(argument, expected, tuple(values.shape))


def _check_same_place(own: Grid, grid: Grid, argument: str) -> None:
    # One without a time axis serves every frame.
    if not own.matches(grid if own.time is not None else grid.with_time(None)):
        remedy = "Resample the calibration on the grid of the reconstruction."
        raise value_error(argument, f"be the grid of the reconstruction, {grid!r}", own, remedy)
