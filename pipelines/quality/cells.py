"""The cells of the comparison: which solver, tuned or not, on which problem, on which slices, how many draws.

A cell is one file of JSON in the work folder. Its key is a hash of all that its figures follow from: the
problem, the solver with its parameters, the slices with the hashes of their files, draws, the weights' hash,
how the network is run, and VERSION. A cell whose file has another key is computed again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.quality.problems import CORE, PROBLEMS
from pipelines.quality.roster import BASELINE, ENTRIES, TRIALS, Entry
from pipelines.quality.subjects import Modality, Place, held_out, others

__all__ = ["VERSION", "Cell", "cells", "fast_cells", "key_of", "slug"]

#: To be raised by whoever changes what a cell computes: all cells are computed again then.
VERSION = 1
#: Slices and draws of core cells, of all others, and draws of the one with 90 % intervals.
MANY_SLICES, MANY_DRAWS = 24, 8
FEW_SLICES, FEW_DRAWS = 4, 2
INTERVALS = ("ct20", 64)
#: What an evaluation and its backward pass take, in evaluations.
BACKWARD = 2.4
#: Solvers of that one.
INTERVAL_SOLVERS = ("DDS", "DiffPIR, 50 steps", "PiGDM, 50 steps")
#: What runs in less than a minute.
FAST_PROBLEMS, FAST_SOLVERS = ("ct20", "mri4"), ("FBP", "CG", "TV", "DDS", "DDRM")


@dataclass(frozen=True)
class Cell:
    """One solver on one problem; `values` are what its parameter is tried at on the slices `tuned_on`."""

    problem: str
    solver: str
    places: tuple[Place, ...]
    draws: int
    values: tuple[float, ...] = ()
    tuned_on: tuple[Place, ...] = ()
    mark: str = ""

    @property
    def tuned(self) -> bool:
        """Whether the parameter is chosen on other slices."""
        return bool(self.values)

    @property
    def label(self) -> str:
        """How it is called in tables."""
        marks = [mark for mark in ("tuned" if self.tuned else "", self.mark) if mark]
        return f"{self.solver} ({', '.join(marks)})" if marks else self.solver

    @property
    def name(self) -> str:
        """The name of its file, without suffix."""
        return f"{self.problem}/{slug(self.label)}"

    @property
    def entry(self) -> Entry:
        """The solver."""
        return ENTRIES[self.solver]

    @property
    def modality(self) -> Modality:
        """Of the problem."""
        return PROBLEMS[self.problem].modality

    @property
    def answers(self) -> int:
        """How many images it makes, tuning included."""
        together = 1 if self.entry.make(None, None).deterministic else self.entry.together
        held = len(self.places) * (together or self.draws)
        return held + len(self.values) * len(self.tuned_on) * (together or FEW_DRAWS)

    @property
    def evaluations(self) -> float:
        """How many evaluations of the prior it takes about, backward passes among them."""
        return self.answers * self.entry.evaluations * (BACKWARD if self.entry.backward else 1)

    @property
    def products(self) -> int:
        """How many products with A^H A."""
        return self.answers * max(1, self.entry.evaluations) * self.entry.products

    def definition(self, identity: Callable[[Place], str], weights: str, execution: str) -> dict[str, Any]:
        """Return all that the figures follow from."""
        problem, entry = PROBLEMS[self.problem], self.entry
        made = [entry.make(value, None) for value in (self.values or (None,))]
        return {
            "version": VERSION,
            "problem": problem.facts(),
            "solver": [repr(solver) for solver in made],
            "draws": self.draws,
            "slices": [{**place.facts(), "data": identity(place)} for place in self.places],
            "tuned_on": [{**place.facts(), "data": identity(place)} for place in self.tuned_on],
            "weights": weights if entry.learned else "",
            "execution": execution if entry.learned else "",
        }


def cells(problems: Sequence[str] = (), solvers: Sequence[str] = ()) -> Iterator[Cell]:
    """Return the cells of the comparison, or of some problems and solvers."""
    for name in problems or PROBLEMS:
        modality = PROBLEMS[name].modality
        for entry in ENTRIES.values():
            if solvers and entry.name not in (*solvers, BASELINE):
                continue
            if (entry.closed and not PROBLEMS[name].closed) or (entry.form and name not in CORE):
                continue
            core = name in CORE and entry.quick
            places = held_out(modality)[: MANY_SLICES if core else FEW_SLICES]
            draws = MANY_DRAWS if core else FEW_DRAWS
            if entry.untuned:
                yield Cell(name, entry.name, places, draws)
            # Eight trials with a network can be afforded on core problems alone.
            if entry.values and (name in CORE or not entry.learned):
                if entry.backward:
                    places, draws = places[:FEW_SLICES], FEW_DRAWS
                yield Cell(name, entry.name, places, draws, entry.values, others(modality))
            if name == INTERVALS[0] and entry.name in INTERVAL_SOLVERS:
                few = held_out(modality)[:FEW_SLICES]
                yield Cell(name, entry.name, few, INTERVALS[1], mark=f"{INTERVALS[1]} draws")


def fast_cells(
    problems: Sequence[str],
    solvers: Sequence[str],
    held: Callable[[Modality], Sequence[Place]],
    tuned_on: Callable[[Modality], Sequence[Place]],
) -> Iterator[Cell]:
    """Return few cells of one slice and two draws, tuned by two trials."""
    for name in problems or FAST_PROBLEMS:
        modality = PROBLEMS[name].modality
        for solver in solvers or FAST_SOLVERS:
            entry = ENTRIES[solver]
            places = tuple(held(modality)[:1])
            if entry.untuned:
                yield Cell(name, solver, places, FEW_DRAWS)
            if solver == BASELINE:
                some = entry.values[TRIALS // 3 :: TRIALS // 3]
                yield Cell(name, solver, places, FEW_DRAWS, some, tuple(tuned_on(modality)[:1]))


def key_of(definition: dict[str, Any]) -> str:
    """Return the hash of a definition."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def slug(label: str) -> str:
    """Return a label as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
