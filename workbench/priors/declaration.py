"""What a prior says of itself: where, in which units, at which scale and for which noise it holds."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from operators.space import Space
from workbench.paths.noise_law import NoiseLaw
from workbench.units import Units

__all__ = ["Declaration"]


@dataclass(frozen=True)
class Declaration:
    """The facts of a prior; None where it does not know or does not care.

    `spacing` (z, y, x) in mm and `dimensions` are those it was made or trained for, `data_range` and
    `data_sd` are in u, `noise_range` in sigma. Without `calibrated_score` its denoiser is no posterior
    mean: fit for plug-and-play, not for draws.
    """

    space: Space
    units: Units
    spacing: tuple[float, float, float] | None
    dimensions: int | None
    data_range: tuple[float, float] | None
    data_sd: float | None
    exact: bool
    calibrated_score: bool
    hash: str
    noise_range: tuple[float, float] | None = None
    law: NoiseLaw | None = None

    @property
    def is_complex(self) -> bool:
        """Whether u is complex; sigma is then the standard deviation of each real component."""
        return self.space.is_complex

    def with_(self, *, noise_range: tuple[float, float], law: NoiseLaw) -> Declaration:
        """Return the same facts with those that only priors of fields have."""
        return dataclasses.replace(self, noise_range=noise_range, law=law)

    def facts(self) -> dict[str, Any]:
        """Return them for a record: JSON-able, infinity as None."""
        units = self.units
        return {
            "shape": list(self.space.shape),
            "kind": self.space.kind,
            "units": {"scale": units.scale, "offset": units.offset, "unit": units.unit},
            "spacing": None if self.spacing is None else list(self.spacing),
            "dimensions": self.dimensions,
            "data_range": _interval(self.data_range),
            "data_sd": self.data_sd,
            "noise_range": _interval(self.noise_range),
            "noise_law": None if self.law is None else repr(self.law),
            "exact": self.exact,
            "calibrated_score": self.calibrated_score,
            "hash": self.hash,
        }


def _interval(ends: tuple[float, float] | None) -> list[float | None] | None:
    return None if ends is None else [None if math.isinf(end) else end for end in ends]
