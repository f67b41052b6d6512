"""A solver's plan: the numbers of each step as rows of data, with a hash that names them.

What a step may vary (a noise level, a step length, an order) stands in its row and nowhere else, so
that a plan can be searched, distilled, written to a file and replayed. The driver counts rows and
never reads them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operators.checks import check_count
from operators.errors import type_error, value_error

__all__ = ["PlanRow", "SolverPlan", "Value"]

Value = bool | int | float | str

#: Characters of a plan that records hold; file formats bound their attributes.
LONGEST = 20_000


@dataclass(frozen=True)
class PlanRow:
    """The numbers of one step; `index` counts from 0."""

    index: int
    values: Mapping[str, Value]

    def __getitem__(self, column: str) -> Value:
        return self.values[column]

    def number(self, column: str) -> float:
        """Return the value of `column` as a float."""
        return float(self.values[column])


@dataclass(frozen=True)
class SolverPlan:
    """Columns of equal length by name; row i holds what step i needs.

    `length` is needed where there are no columns: steps that are all alike.
    """

    columns: Mapping[str, tuple[Value, ...]]
    length: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.columns, Mapping):
            raise type_error("columns", "map names to sequences of numbers", type(self.columns).__name__)
        columns = {name: _checked(name, values) for name, values in self.columns.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if self.length != -1:
            lengths["length"] = check_count(self.length, "length")
        if len(set(lengths.values())) != 1:
            raise value_error("columns", "have one common length, or a `length` without columns", lengths)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "length", next(iter(lengths.values())))

    @classmethod
    def steps(cls, length: int) -> SolverPlan:
        """Return a plan of `length` steps that are all alike."""
        return cls({}, check_count(length, "length"))

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[PlanRow]:
        return (self.row(index) for index in range(self.length))

    def row(self, index: int) -> PlanRow:
        """Return row `index`, from 0."""
        if not 0 <= index < self.length:
            raise value_error("index", f"be a row, 0 <= index < {self.length}", index)
        return PlanRow(index, {name: values[index] for name, values in self.columns.items()})

    def part(self, start: int, stop: int) -> SolverPlan:
        """Return the rows `start` <= index < `stop`, counted from 0 again."""
        if not 0 <= start < stop <= self.length:
            raise value_error("start, stop", f"be 0 <= start < stop <= {self.length}", (start, stop))
        return SolverPlan({name: values[start:stop] for name, values in self.columns.items()}, stop - start)

    def to_json(self) -> str:
        """Return the plan as text: the same plan gives the same text."""
        facts = {"length": self.length, "columns": {k: list(v) for k, v in sorted(self.columns.items())}}
        return json.dumps(facts, separators=(",", ":"), allow_nan=False)

    def facts(self) -> dict[str, Any]:
        """Return it for a record: name and length, and the text that replays it where that is short."""
        text = self.to_json()
        return {"sha256": self.hash, "steps": len(self), "text": text if len(text) <= LONGEST else None}

    @classmethod
    def from_json(cls, text: str) -> SolverPlan:
        """Return the plan that `to_json` wrote."""
        try:
            facts = json.loads(text)
            return cls({name: tuple(values) for name, values in facts["columns"].items()}, facts["length"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise value_error("text", "be what SolverPlan.to_json wrote", repr(text[:80])) from error

    def __hash__(self) -> int:
        """Return a hash of the plan's text: its columns have none."""
        return hash(self.to_json())

    @property
    def hash(self) -> str:
        """SHA-256 of the plan's text: the name it goes by in records."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _checked(name: object, values: object) -> tuple[Value, ...]:
    if not isinstance(name, str):
        raise type_error("columns", "have names that are text", repr(name))
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) == 0:
        raise type_error(f"columns[{name!r}]", "be a sequence of one or more values", repr(values))
    for value in values:
        if not isinstance(value, (bool, int, float, str)):
            raise type_error(f"columns[{name!r}]", "hold numbers or text", repr(value), "Use .tolist().")
        if isinstance(value, float) and not math.isfinite(value):
            raise value_error(f"columns[{name!r}]", "hold finite numbers", value)
    return tuple(values)
