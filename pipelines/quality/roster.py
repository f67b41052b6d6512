"""The solvers of the comparison, each with the one parameter that tuning moves.

At its class's defaults a solver stands under its name alone. Where these take more than FEW evaluations a
short form is named with its steps, so that methods can be compared at equal cost. Two sorts are not run at
their defaults everywhere: ensembles, whose 256 particles would take days, and solvers that ask for a prox to
four digits at every level, which takes seconds a step where it has no closed form; these have short forms
that limit its iterations or its accuracy. What a solver cannot work on it says itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pipelines.quality.subjects import Modality
from workbench.solvers.alternating import DAPS, PnPDM
from workbench.solvers.analytic import FilteredBackProjection
from workbench.solvers.base import Solver
from workbench.solvers.best_of import BestOf
from workbench.solvers.classical import (
    SIRT,
    ConjugateGradient,
    PlugAndPlay,
    Tikhonov,
    TotalVariation,
    WaveletSparsity,
)
from workbench.solvers.ensembles import AFDPS, TDS, MCGdiff
from workbench.solvers.guidance import DDNM, DDRM, DDS, DPS, DiffPIR, PiGDM
from workbench.solvers.variational import REDDiff

__all__ = ["BASELINE", "DEFAULT", "ENTRIES", "FEW", "TRIALS", "Entry", "entry"]

#: Evaluations per draw up to which a solver is run on all slices of a core cell.
FEW = 50
#: Values of its parameter that every solver is tried at.
TRIALS = 8

#: A solver with its parameter at a value, or at its default for None; `lower` bounds the physical image.
Make = Callable[[float | None, float | None], Solver[Any]]


@dataclass(frozen=True)
class Entry:
    """A solver under a name.

    `values` of `parameter` are those of tuning, empty where that cannot be afforded. `untuned` says that it
    has a default to be run at. Ensembles, named by particles and steps, give all `together` in one run.
    `closed` says that it is run where the prox has a closed form alone.

    For planning, records have what was counted: `evaluations` of the prior per answer, with backward passes
    or without; `products` with A^H A for each evaluation, or in all where there is none.
    """

    name: str
    make: Make
    evaluations: int = 0
    backward: bool = False
    parameter: str = ""
    values: tuple[float, ...] = ()
    untuned: bool = True
    together: int = 0
    products: int = 0
    closed: bool = False

    @property
    def learned(self) -> bool:
        """Whether it takes the trained prior."""
        return self.evaluations > 0

    @property
    def quick(self) -> bool:
        """Whether it is run on all slices of a core cell."""
        return self.evaluations <= FEW


def spaced(low: float, high: float) -> tuple[float, ...]:
    """Return as many values as there are trials, evenly in their logarithms."""
    ratio = math.log(high / low) / (TRIALS - 1)
    return tuple(float(f"{low * math.exp(i * ratio):.3g}") for i in range(TRIALS))


def _plain(solver: Callable[..., Solver[Any]], parameter: str, **form: Any) -> Make:
    """Return what makes a solver in this form, at its defaults but for one parameter."""

    def made(value: float | None, lower: float | None) -> Solver[Any]:
        del lower
        return solver(**form) if value is None else solver(**form, **{parameter: value})

    return made


def _fbp(value: float | None, lower: float | None) -> Solver[Any]:
    del lower
    return FilteredBackProjection() if value is None else FilteredBackProjection("hann", cutoff=value)


def _cg(value: float | None, lower: float | None) -> Solver[Any]:
    del lower
    return ConjugateGradient() if value is None else ConjugateGradient(iterations=round(value))


def _sirt(value: float | None, lower: float | None) -> Solver[Any]:
    return SIRT(100 if value is None else round(value), lower=lower)


def _tikhonov(value: float | None, lower: float | None) -> Solver[Any]:
    del lower
    return Tikhonov(1.0 if value is None else value, "slope")


def _wavelets(value: float | None, lower: float | None) -> Solver[Any]:
    del lower
    return WaveletSparsity(1.0 if value is None else value, iterations=300)


def _tv(value: float | None, lower: float | None) -> Solver[Any]:
    return TotalVariation(1.0 if value is None else value, lower=lower)


def _dds(value: float | None, lower: float | None) -> Solver[Any]:
    del lower
    return DDS() if value is None else DDS(iterations=round(value))


_ALL: tuple[Entry, ...] = (
    Entry("FBP", _fbp, parameter="cutoff, hann", values=spaced(0.2, 1.0), products=1),
    Entry("CG", _cg, parameter="iterations", values=(2, 3, 4, 6, 10, 16, 30, 60), products=30),
    Entry("TV", _tv, parameter="weight", values=spaced(1.0, 300.0), untuned=False, products=2000),
    Entry("SIRT", _sirt, parameter="iterations", values=spaced(10, 1000), untuned=False, products=200),
    Entry("Tikhonov", _tikhonov, parameter="weight", values=spaced(10, 1e5), untuned=False, products=300),
    Entry("Wavelets", _wavelets, parameter="weight", values=spaced(0.1, 100.0), untuned=False, products=300),
    Entry(
        "PlugAndPlay",
        _plain(PlugAndPlay, "sigma"),
        200,
        parameter="sigma",
        values=spaced(0.01, 0.3),
        products=30,
    ),
    Entry("DDS", _dds, 50, parameter="iterations", values=(2, 3, 5, 8, 12, 20, 40, 80), products=21),
    Entry("DDRM", _plain(DDRM, "eta"), 20, parameter="eta", values=spaced(0.1, 1.0)),
    Entry("DDNM, 50 steps", _plain(DDNM, "eta", steps=50), 50, parameter="eta", values=spaced(0.1, 1.0)),
    Entry(
        "DiffPIR, 50 steps",
        _plain(DiffPIR, "weight", steps=50, iterations=30),
        50,
        parameter="weight",
        values=spaced(0.1, 10.0),
        products=30,
    ),
    Entry("PiGDM, 50 steps", _plain(PiGDM, "spread", steps=50, iterations=30), 50, True, products=30),
    Entry("DiffPIR", _plain(DiffPIR, "weight"), 100, closed=True),
    Entry("DDNM", _plain(DDNM, "eta"), 100),
    Entry("PiGDM", _plain(PiGDM, "spread"), 200, True, closed=True),
    Entry("BestOf(DDS, 4)", _plain(BestOf, "runs", inner=DDS()), 200, products=21),
    Entry("DPS", _plain(DPS, "scale"), 1000, True, products=1),
    Entry("REDDiff", _plain(REDDiff, "weight"), 1000, products=1),
    Entry("DAPS", _plain(DAPS, "tolerance"), 1000, closed=True),
    Entry(
        "DAPS, 200 evaluations",
        _plain(DAPS, "steps", ode_steps=1, radius="matched", tolerance=0.1),
        200,
        products=100,
    ),
    Entry("PnPDM", _plain(PnPDM, "last"), 2000, closed=True),
    Entry(
        "PnPDM, 500 evaluations",
        _plain(PnPDM, "last", rounds=50, inner_steps=10, tolerance=0.1),
        500,
        products=30,
    ),
    Entry("AFDPS, 16 x 50", _plain(AFDPS, "threshold", count=16, steps=50), 51, together=16, products=6),
    Entry("TDS, 8 x 50", _plain(TDS, "threshold", count=8, steps=50), 51, True, together=8, products=50),
    Entry("MCGdiff, 16 x 50", _plain(MCGdiff, "threshold", count=16, steps=50), 51, together=16),
)
ENTRIES: Mapping[str, Entry] = MappingProxyType({one.name: one for one in _ALL})

#: What everything is compared with.
BASELINE = "TV"
#: The solver of each profile, at its class's defaults: named before the held-out subjects were looked at.
DEFAULT: Mapping[Modality, str] = MappingProxyType({"ct": "DDS", "mr": "DDS"})


def entry(name: str) -> Entry:
    """Return the entry of a name."""
    return ENTRIES[name]
