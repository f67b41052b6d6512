"""Rows of figures as a Markdown table."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Row", "printed"]


@dataclass(frozen=True)
class Row:
    """One comparison: what was done, by whom else, seconds of both, ratios, and the ratio that is wanted.

    `alone` is the ratio with one thread each; `setup` the seconds before the first call; `note` what else
    there is to know, such as the accuracy of both.
    """

    work: str
    peer: str
    ours: float
    theirs: float
    ratio: float
    alone: float | None = None
    wanted: float | None = None
    setup: float | None = None
    note: str = ""

    @property
    def held(self) -> bool:
        """Whether the ratio is the one wanted, where one is."""
        return self.wanted is None or self.ratio >= self.wanted


def printed(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = "| work | peer | ours | peer's | ratio | one thread | wanted | set-up | |"
    return "\n".join([head, "|---" * 9 + "|", *(_line(row) for row in rows)])


def _line(row: Row) -> str:
    ratio = f"{row.ratio:.2g}x" if row.ratio < 10 else f"{row.ratio:.0f}x"
    wanted = "" if row.wanted is None else f">= {row.wanted:g}x {'held' if row.held else 'MISSED'}"
    alone = "" if row.alone is None else f"{row.alone:.2g}x" if row.alone < 10 else f"{row.alone:.0f}x"
    setup = "" if row.setup is None else _time(row.setup)
    parts = (row.work, row.peer, _time(row.ours), _time(row.theirs), ratio, alone, wanted, setup, row.note)
    return "| " + " | ".join(parts) + " |"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
