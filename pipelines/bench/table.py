"""Rows of figures, as Markdown tables and as plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from pipelines.bench.timing import Compared

__all__ = ["Absent", "Quality", "Row", "Timing", "Wanted", "plain", "printed"]


@dataclass(frozen=True)
class Wanted:
    """A bound that a figure has to keep."""

    bound: float
    what: Literal["ratio at least", "ratio at most", "ours at most"] = "ratio at least"

    def held(self, compared: Compared) -> bool:
        """Whether the comparison keeps it."""
        found = compared.together
        if self.what == "ours at most":
            return found.ours <= self.bound
        return found.ratio >= self.bound if self.what == "ratio at least" else found.ratio <= self.bound

    def __str__(self) -> str:
        if self.what == "ours at most":
            return f"ours <= {_time(self.bound)}"
        return f"{'>=' if self.what == 'ratio at least' else '<='} {self.bound:.3g}x"


@dataclass(frozen=True)
class Timing:
    """One piece of work, by us and by someone else.

    `first` is the seconds until the first result of each: making, and one call. Both are named beside it.
    """

    case: str
    work: str
    peer: str
    compared: Compared
    wanted: tuple[Wanted, ...] = ()
    first: tuple[float | None, float | None] = (None, None)
    note: str = ""

    @property
    def held(self) -> bool | None:
        """Whether all wanted bounds are kept, where there are any."""
        return all(one.held(self.compared) for one in self.wanted) if self.wanted else None


@dataclass(frozen=True)
class Quality:
    """One property of what someone computes: smaller is better, `at_most` is wanted."""

    case: str
    work: str
    who: str
    what: str
    value: float
    at_most: float | None = None
    note: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the wanted bound is kept, where there is one."""
        return None if self.at_most is None else self.value <= self.at_most


@dataclass(frozen=True)
class Absent:
    """What could not be measured, and why: never left out in silence."""

    case: str
    work: str
    peer: str
    reason: str

    @property
    def held(self) -> bool | None:
        """Nothing was measured."""
        return None


Row = Timing | Quality | Absent

TIMES = (
    "work",
    "peer",
    "ours",
    "peer's",
    "ratio (range)",
    "one thread",
    "wanted",
    "first result, ours; peer's",
    "memory, ours; peer's",
    "",
)
QUALITIES = ("work", "who", "what", "value", "wanted", "")


def printed(rows: Sequence[Row], *, judged: bool = True) -> str:
    """Return the rows as Markdown: times, properties, and what was not measured; the bounds if `judged`."""
    blocks = [
        _table("Times", TIMES, [_timing(row, judged) for row in rows if isinstance(row, Timing)]),
        _table("Properties", QUALITIES, [_quality(row, judged) for row in rows if isinstance(row, Quality)]),
        _table("Not measured", ("work", "peer", "why"), [_absent(r) for r in rows if isinstance(r, Absent)]),
    ]
    return "\n\n".join(block for block in blocks if block)


def plain(row: Row) -> dict[str, object]:
    """Return the row as values that JSON can hold."""
    return {"kind": type(row).__name__.lower(), **asdict(row), "held": row.held}


def _table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    width = [max(len(line[k]) for line in (head, *lines)) for k in range(len(head))]

    def joined(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(w) for cell, w in zip(cells, width, strict=True)) + " |"

    return "\n".join(
        [f"### {title}", "", joined(head), joined(["-" * w for w in width]), *map(joined, lines)]
    )


def _timing(row: Timing, judged: bool) -> tuple[str, ...]:
    found, alone = row.compared.together, row.compared.alone
    return (
        row.work,
        row.peer,
        _time(found.ours),
        _time(found.theirs),
        f"{_ratio(found.ratio)} ({_ratio(found.low)}-{_ratio(found.high)})",
        "" if alone is None else _ratio(alone.ratio),
        "; ".join(_wanted(one, one.held(row.compared), judged) for one in row.wanted) if judged else "",
        _both(_time, row.first),
        _both(_bytes, row.compared.memory),
        "; ".join(part for part in (f"{found.pairs} pairs", row.note) if part),
    )


def _quality(row: Quality, judged: bool) -> tuple[str, ...]:
    bound = None if row.at_most is None else f"<= {row.at_most:.2g}"
    wanted = _wanted(bound, row.held, judged)
    return row.work, row.who, row.what, f"{row.value:.2g}", wanted, row.note


def _wanted(bound: object, held: bool | None, judged: bool) -> str:
    return f"{bound} {'held' if held else 'MISSED'}" if judged and bound is not None else ""


def _absent(row: Absent) -> tuple[str, ...]:
    return row.work, row.peer, row.reason


def _both(shown: Callable[[float], str], pair: tuple[float | None, float | None]) -> str:
    if pair == (None, None):
        return ""
    return "; ".join("-" if value is None else shown(value) for value in pair)


def _ratio(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _bytes(number: float) -> str:
    return f"{number / 2**20:.3g} MiB" if number < 2**30 else f"{number / 2**30:.2g} GiB"
