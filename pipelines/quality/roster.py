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
from dataclasses import dataclass, replace
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

__all__ = ["BASELINE", "DEFAULT", "ENTRIES", "FEW", "TRIALS", "Entry"]

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
    `closed` says that it is run where the prox has a closed form alone, `form` that it is another form of a
    method, run on core problems alone.

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
    form: bool = False

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


def _at_defaults(solver: Solver[Any]) -> Make:
    """Return what makes this solver, whatever is asked."""

    def made(value: float | None, lower: float | None) -> Solver[Any]:
        del value, lower
        return solver

    return made


def _moving(solver: Solver[Any], parameter: str) -> Make:
    """Return what makes this solver, with one parameter at another value."""

    def made(value: float | None, lower: float | None) -> Solver[Any]:
        del lower
        # A solver is a dataclass, which its base cannot say.
        return solver if value is None else replace(solver, **{parameter: value})  # type: ignore[type-var]

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
        _moving(PlugAndPlay(), "sigma"),
        200,
        parameter="sigma",
        values=spaced(0.01, 0.3),
        products=30,
    ),
    Entry("DDS", _dds, 50, parameter="iterations", values=(2, 3, 5, 8, 12, 20, 40, 80), products=21),
    Entry("DDRM", _moving(DDRM(), "eta"), 20, parameter="eta", values=spaced(0.1, 1.0)),
    Entry("DDNM, 50 steps", _moving(DDNM(steps=50), "eta"), 50, parameter="eta", values=spaced(0.1, 1.0)),
    Entry(
        "DiffPIR, 50 steps",
        _moving(DiffPIR(steps=50, iterations=30), "weight"),
        50,
        parameter="weight",
        values=spaced(0.1, 10.0),
        products=30,
    ),
    Entry(
        "PiGDM, 50 steps",
        _moving(PiGDM(steps=50, iterations=30), "spread"),
        50,
        True,
        parameter="spread",
        values=spaced(0.1, 2.0),
        products=30,
    ),
    Entry("DiffPIR", _at_defaults(DiffPIR()), 100, closed=True),
    Entry("DDNM", _at_defaults(DDNM()), 100),
    Entry("PiGDM", _at_defaults(PiGDM()), 200, True, closed=True),
    Entry("BestOf(DDS, 4)", _at_defaults(BestOf(DDS())), 200, products=21),
    Entry("DPS", _at_defaults(DPS()), 1000, True, products=1),
    Entry("REDDiff", _at_defaults(REDDiff()), 1000, products=1),
    Entry("DAPS", _at_defaults(DAPS()), 1000, closed=True),
    Entry(
        "DAPS, 100 evaluations",
        _at_defaults(DAPS(steps=100, ode_steps=1, radius="matched", tolerance=0.1)),
        100,
        products=100,
    ),
    Entry("PnPDM", _at_defaults(PnPDM()), 2000, closed=True),
    Entry(
        "PnPDM, 500 evaluations",
        _at_defaults(PnPDM(rounds=50, inner_steps=10, tolerance=0.1)),
        500,
        products=30,
    ),
    Entry("AFDPS, 16 x 50", _at_defaults(AFDPS(count=16, steps=50)), 51, together=16, products=6),
    Entry("TDS, 8 x 50", _at_defaults(TDS(count=8, steps=50)), 51, True, together=8, products=50),
    Entry("MCGdiff, 16 x 50", _at_defaults(MCGdiff(count=16, steps=50)), 51, together=16),
    # Other forms of the same methods, on core problems alone.
    Entry("DPS, Bayes", _at_defaults(DPS(form="bayes")), 1000, True, products=1, form=True),
    Entry("DPS, detached", _at_defaults(DPS(jacobian="detached")), 1000, products=1, form=True),
    Entry(
        "PiGDM, exact, 50 steps",
        _at_defaults(PiGDM(steps=50, covariance="exact", iterations=10)),
        550,
        True,
        products=1,
        form=True,
    ),
    Entry("REDDiff, paper", _at_defaults(REDDiff(scaling="paper")), 1000, products=1, form=True),
    Entry(
        "AFDPS, ODE, 16 x 50",
        _at_defaults(AFDPS(variant="ode", count=16, steps=50)),
        51,
        together=16,
        form=True,
    ),
    Entry(
        "AFDPS, continuous, 16 x 200",
        _at_defaults(AFDPS(weights="continuous", count=16, steps=200)),
        201,
        together=16,
        form=True,
    ),
)
ENTRIES: Mapping[str, Entry] = MappingProxyType({one.name: one for one in _ALL})

#: What everything is compared with.
BASELINE = "TV"
#: The solver of each profile, at its class's defaults: named before this comparison was run. One trial while
#: the first prior was trained had seen it on a single held-out slice, 28.1 dB beside 26.0 of TV.
DEFAULT: Mapping[Modality, str] = MappingProxyType({"ct": "DDS", "mr": "DDS"})
