"""What a scanner measured: data, geometry, noise, calibration and where it all comes from.

A measurement is a value. It does not estimate anything of itself: what was estimated from it
(coil maps, a centre of rotation) is given as its calibration, by whoever estimated it.

    measurement.operator(grid) -> measurement.likelihood(grid) -> Posterior(prior, likelihood)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from operators.base import Operator
from operators.checks import check_finite, check_tensor, replaced
from operators.errors import type_error, value_error
from operators.grid import Grid
from workbench.calibration import Calibration, calibrations
from workbench.likelihood import Likelihood
from workbench.noise.base import Noise, counted

__all__ = ["Geometry", "Measurement", "Provenance"]


@runtime_checkable
class Geometry(Protocol):
    """Where the data were taken; knows its own physics."""

    def operator(self, grid: Grid) -> Operator:
        """Return the operator from images on `grid` to data."""


@dataclass(frozen=True)
class Provenance:
    """Where data come from: a `source` to be found again, and what was done to them since, in order.

    `details` are free facts such as a scanner's name or a protocol; never a patient's.
    """

    source: str = ""
    steps: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.steps, str):
            raise type_error("steps", "be a sequence of texts", repr(self.steps), "Use (step,).")
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "details", dict(self.details))

    def then(self, step: str) -> Provenance:
        """Return the same provenance with one more step."""
        return dataclasses.replace(self, steps=(*self.steps, step))

    def facts(self) -> dict[str, object]:
        """Return it for a record."""
        return {"source": self.source, "steps": list(self.steps), "details": dict(self.details)}


@dataclass(frozen=True, eq=False)
class Measurement:
    """`data` taken in a `geometry` under a law of `noise`; `calibration` is applied in order.

    Integer data, such as counts, are kept as floats that hold them exactly.
    """

    data: Tensor
    geometry: Geometry
    noise: Noise
    calibration: tuple[Calibration, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if isinstance(self.data, Tensor):
            object.__setattr__(self, "data", counted(self.data))
        check_tensor(self.data, "data")
        check_finite(self.data, "data")
        if not isinstance(self.geometry, Geometry):
            remedy = "Such as ParallelBeamGeometry(...), not an operator made from one."
            raise type_error("geometry", "have operator(grid)", type(self.geometry).__name__, remedy)
        if not isinstance(self.noise, Noise):
            raise type_error(
                "noise", "be a Noise", type(self.noise).__name__, "White noise: Gaussian(sigma)."
            )
        object.__setattr__(self, "calibration", calibrations(self.calibration))
        if not isinstance(self.provenance, Provenance):
            raise type_error("provenance", "be a Provenance", type(self.provenance).__name__)

    def with_(self, **changes: object) -> Measurement:
        """Return the same measurement with some parts changed."""
        return replaced(self, changes)

    def operator(self, grid: Grid) -> Operator:
        """Return the calibrated operator from images on `grid` to these data."""
        geometry: Geometry = self.geometry
        for part in self.calibration:
            geometry = part.applied(geometry)
        operator = geometry.operator(Grid.require(grid))
        if operator.codomain.shape != tuple(self.data.shape):
            raise value_error(
                "data",
                f"have the shape that the geometry predicts, {operator.codomain.shape}",
                tuple(self.data.shape),
                "Check the order of the axes and the number of views, rows or coils.",
            )
        return operator.to(self.data.device)

    def likelihood(self, grid: Grid) -> Likelihood:
        """Return p(data | image) as a function of images on `grid`."""
        unit = getattr(self.geometry, "image_unit", "")
        return Likelihood(self.operator(grid), self.noise, self.data, unit=unit)
