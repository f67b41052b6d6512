"""One cell computed, with what a process keeps between cells: volumes, data, priors."""

from __future__ import annotations

import contextlib
import io
import json
import math
import subprocess
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.errors import value_error
from operators.grid import Grid
from pipelines.quality.cells import FEW_DRAWS, Cell, key_of
from pipelines.quality.evaluation import Outcome, RefusedError, evaluated
from pipelines.quality.posed import Case
from pipelines.quality.problems import PROBLEMS
from pipelines.quality.subjects import ENERGY, Library, Modality, Place
from workbench.engine.guards import DivergedError
from workbench.io.slice_prior import read_slice_prior
from workbench.io.weights import read_card
from workbench.io.whole import written_whole
from workbench.priors.base import Denoiser
from workbench.priors.network import Execution
from workbench.shipped import SHIPPED, shipped_path

__all__ = ["Bench", "Folder", "commit"]

#: Slices whose data a process keeps.
KEPT = 32
#: What a figure follows from, beside data and weights.
SOURCES = [Path(__file__).resolve().parents[2] / name for name in ("operators", "workbench", "pipelines")]
#: Warnings that a record has room for.
WARNINGS = 6


@dataclass(frozen=True)
class Folder:
    """Where cells, pictures and tuning lie; files appear whole."""

    path: Path

    def cell(self, name: str) -> Path:
        """Return the file of a cell."""
        return self.path / "cells" / f"{name}.json"

    def tuning(self, name: str) -> Path:
        """Return the file of the trials of a solver on a problem."""
        return self.path / "tuning" / f"{name}.json"

    def pictures(self, name: str) -> Path:
        """Return the file of a cell's pictures."""
        return self.path / "pictures" / f"{name}.npz"

    def read(self, path: Path, key: str = "") -> dict[str, Any] | None:
        """Return what is in a file, None where there is none or it has another key."""
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None  # cut short by a full disk or a loss of power
        if not isinstance(found, dict):
            return None
        return found if not key or found.get("key") == key else None

    def write(self, path: Path, content: dict[str, Any]) -> None:
        """Write a file of JSON."""
        self._bytes(path, json.dumps(content, indent=1).encode())

    def write_pictures(self, path: Path, pictures: dict[str, Tensor]) -> None:
        """Write pictures in single precision: attenuation is of thousandths, magnitudes of hundreds."""
        held = io.BytesIO()
        arrays: dict[str, Any] = {name: x.float().numpy() for name, x in pictures.items()}
        np.savez_compressed(held, **arrays)
        self._bytes(path, held.getvalue())

    def read_pictures(self, path: Path) -> dict[str, Tensor]:
        """Return what `write_pictures` wrote, nothing where it is not there or damaged."""
        if not path.exists():
            return {}
        with contextlib.suppress(ValueError, EOFError, zipfile.BadZipFile), path.open("rb") as file:
            return {name: torch.from_numpy(array) for name, array in np.load(file).items()}
        return {}

    def _bytes(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        marker = self.path / ".gitignore"
        if not marker.exists():
            marker.write_text("*\n", encoding="utf-8")
        with written_whole(path) as partial:
            partial.write_bytes(content)


@dataclass(frozen=True)
class Bench:
    """Where data, weights and results lie, and how networks are run; the same in every process.

    `weights` hold a file for each modality that is not the shipped one.
    """

    data: Path
    folder: Folder
    weights: dict[Modality, Path] = field(default_factory=dict)
    bfloat16: bool = False

    @property
    def library(self) -> Library:
        """The volumes."""
        return _library(self.data)

    @property
    def execution(self) -> Execution | None:
        """How networks are run; None for the default."""
        if not self.bfloat16:
            return None
        return Execution(microbatch=16, autocast=torch.bfloat16, channels_last=True)

    def file_of(self, modality: Modality) -> Path:
        """Return the file of a modality's weights; an error where none is given and none shipped."""
        return self.weights.get(modality) or shipped_path(f"{modality}-slice")

    def has(self, modality: Modality) -> bool:
        """Return whether there are weights of a modality."""
        if modality not in self.weights and f"{modality}-slice" not in SHIPPED:
            return False
        return self.file_of(modality).exists()

    def key(self, cell: Cell) -> str:
        """Return the key of a cell."""
        return key_of(self.definition(cell))

    def definition(self, cell: Cell) -> dict[str, Any]:
        """Return all that a cell's figures follow from."""
        weights = read_card(self.file_of(cell.modality)).sha256 if cell.entry.learned else ""
        return cell.definition(self.library.identity, weights, "bfloat16" if self.bfloat16 else "default")

    def done(self, cell: Cell) -> dict[str, Any] | None:
        """Return the record of a cell that was computed, None where it has to be."""
        return self.folder.read(self.folder.cell(cell.name), self.key(cell))

    def settled(self, cell: Cell) -> bool:
        """Return whether a cell need not be computed; what failed for want of memory, say, is tried again."""
        found = self.done(cell)
        return found is not None and found["status"] != "failed"

    def computed(self, cell: Cell) -> dict[str, Any]:
        """Return the record of a cell: the one in its file, or a new one, which is written."""
        found = self.done(cell)
        if found is not None and self.settled(cell):
            return found
        began = time.perf_counter()
        try:
            told = self._slices(cell)
        except RefusedError as error:
            told = {"status": "refused", "reason": str(error)}
        except DivergedError as error:
            told = {"status": "diverged", "reason": str(error)}
        except Exception as error:
            # A mistake, or too little memory: a row says so, and the others go on.
            told = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        return self.recorded(cell, {**told, "wall_seconds": time.perf_counter() - began})

    def recorded(self, cell: Cell, told: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record of a cell, which was computed unless `told` has another status."""
        definition = self.definition(cell)
        record = {
            "key": key_of(definition),
            "problem": cell.problem,
            "solver": cell.label,
            "entry": cell.solver,
            "tuned": cell.tuned,
            "draws": cell.draws,
            "commit": commit(),
            "definition": definition,
            "status": "done",
            **told,
        }
        self.folder.write(self.folder.cell(cell.name), record)
        return record

    def case(self, problem: str, place: Place) -> Case:
        """Return the data of a slice, made once."""
        return _case(self.data, problem, place)

    def prior(self, modality: Modality, grid: Grid) -> Denoiser:
        """Return the prior over a slice, as its users have it."""
        path = self.file_of(modality)
        # The hash is a part of what is kept: the file may change while a process runs.
        sha256 = read_card(path).sha256
        return _prior(path, sha256, ENERGY if modality == "ct" else None, grid, self.execution)

    def _slices(self, cell: Cell) -> dict[str, Any]:
        told: dict[str, Any] = {}
        value = None
        if cell.tuned:
            told["tuning"] = self._tuning(cell)
            value = told["tuning"]["value"]
        rows, lost, said = [], list[str](), set[str]()
        for place in cell.places:
            try:
                outcome = self._outcome(cell, place, value)
            except DivergedError as error:
                lost.append(f"{place.volume}, {place.axis} {place.share:.2f}: {error}")
                continue
            figures = dict(outcome.figures)
            said.update(figures.pop("warnings", ()))
            rows.append(figures)
            if place == cell.places[0]:
                self.folder.write_pictures(self.folder.pictures(cell.name), outcome.pictures)
        if not rows:
            raise DivergedError(lost[0])
        # Numbers differ from slice to slice: a few tell what was warned of.
        told |= {"slices": rows, "warnings": sorted(said)[:WARNINGS]}
        return told | {"lost": lost} if lost else told

    def _outcome(self, cell: Cell, place: Place, value: float | None) -> Outcome:
        case = self.case(cell.problem, place)
        prior = self.prior(cell.modality, case.grid) if cell.entry.learned else None
        solver = cell.entry.make(value, case.posed.lower)
        return evaluated(case, place, solver, case.posed.posterior(prior), cell.draws)

    def _tuning(self, cell: Cell) -> dict[str, Any]:
        """Return the value whose posterior means have the highest mean PSNR on other slices."""
        part = Cell(cell.problem, cell.solver, (), FEW_DRAWS, cell.values, cell.tuned_on)
        path, key = self.folder.tuning(part.name), self.key(part)
        found = self.folder.read(path, key)
        if found is None:
            reasons: dict[float, Exception] = {}
            scores = [self._score(part, value, reasons) for value in part.values]
            best = max(range(len(scores)), key=scores.__getitem__)
            if scores[best] == -math.inf:
                raise reasons[part.values[best]]
            found = {
                "key": key,
                "parameter": cell.entry.parameter,
                "values": list(part.values),
                "without": {f"{value:g}": str(reason).splitlines()[-1] for value, reason in reasons.items()},
                "psnr": [None if score == -math.inf else score for score in scores],
                "value": part.values[best],
            }
            self.folder.write(path, found)
        return {name: entry for name, entry in found.items() if name != "key"}

    def _score(self, cell: Cell, value: float, reasons: dict[float, Exception]) -> float:
        """Return the mean PSNR at a value; where there is none the reason, and minus infinity."""
        total = 0.0
        for place in cell.tuned_on:
            try:
                outcome = self._outcome(cell, place, value)
            except (RefusedError, DivergedError) as error:
                reasons[value] = error
                return -math.inf
            total += outcome.figures["mean"]["psnr"]
        return total / len(cell.tuned_on)


@lru_cache(maxsize=1)
def commit() -> str:
    """Return the last commit of what is run, with a + where that was changed; nothing outside git."""

    def told(*command: str) -> str:
        where = ["git", "-C", str(SOURCES[0].parent), *command, "--", *map(str, SOURCES)]
        return subprocess.run(where, capture_output=True, text=True, check=False).stdout.strip()

    with contextlib.suppress(OSError):
        return told("log", "-1", "--format=%h", "--abbrev=10") + "+" * bool(told("status", "--porcelain"))
    return ""


@lru_cache(maxsize=2)
def _library(root: Path) -> Library:
    return Library(root)


@lru_cache(maxsize=KEPT)
def _case(root: Path, problem: str, place: Place) -> Case:
    return PROBLEMS[problem].case(_library(root).fine(place), place.number)


@lru_cache(maxsize=8)
def _prior(
    path: Path, sha256: str, energy: float | None, grid: Grid, execution: Execution | None
) -> Denoiser:
    if read_card(path).sha256 != sha256:
        raise value_error("weights", "stay what they are while they are read", str(path))
    return read_slice_prior(path, grid, energy=energy, execution=execution)
