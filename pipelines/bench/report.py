"""What a run leaves: a text for a person and the same as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.bench import machine
from pipelines.bench.session import Session
from pipelines.bench.table import Row, plain, printed

__all__ = ["Report"]

LEGEND = """\
ratio: how many times faster ours is, the median over pairs of runs (range).
one thread: the same with one thread each.
first result: the set-up, which is making it, and one call, which loads or compiles what is not there yet.
memory: the most that one call and its result take beside its input; a peer's of the slices timed.
adjointness: |<A x, y> - <x, B y>| / (|A x| |y|) in single precision, x and y normal noise.
error: in the 2-norm, relative; on ellipses from their exact integrals, of A^H A from double precision."""


@dataclass
class Report:
    """The rows of a run and what they belong to; `where` is the JSON file, the text lies beside it as .md."""

    session: Session
    load: machine.Load
    where: Path
    machine: dict[str, object] = field(default_factory=machine.described)
    begun: float = field(default_factory=time.perf_counter)
    rows: list[Row] = field(default_factory=list)

    @property
    def missed(self) -> int:
        """How many wanted bounds were missed; a quick run judges none."""
        return 0 if self.session.plan.quick else sum(row.held is False for row in self.rows)

    def head(self) -> str:
        """Return what was known before the run."""
        return "\n".join(machine.lines_of(self.machine, self.load))

    def body(self) -> str:
        """Return the tables and what belongs to them."""
        quick = self.session.plan.quick
        lines = [printed(self.rows, judged=not quick), "", LEGEND, ""]
        lines.append(f"During the run other processes took {self.load.others():.0%} of the cores.")
        for name, versions in self.session.versions.items():
            lines.append(f"{name}: {', '.join(f'{p} {v}' for p, v in versions.items())}")
        lines.append(
            "Quick: small problems, which tell that everything runs; no bound is judged."
            if quick
            else f"Bounds that were missed: {self.missed}"
        )
        return "\n".join(lines)

    def values(self) -> dict[str, object]:
        """Return all of it as values that JSON can hold."""
        return {
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - self.begun,
            "plan": dataclasses.asdict(self.session.plan),
            "machine": self.machine,
            "load_before": {
                "average": self.load.average,
                "busy": self.load.busy,
                "warning": self.load.warning,
            },
            "others_during": self.load.others(),
            "peers": self.session.versions,
            "rows": [plain(row) for row in self.rows],
        }

    def write(self) -> None:
        """Write both files: after each case, so that what was measured stays when a later one is stopped."""
        self.where.parent.mkdir(parents=True, exist_ok=True)
        self.where.write_text(json.dumps(self.values(), indent=1), encoding="utf-8")
        text = f"{self.head()}\n\n{self.body()}\n"
        self.where.with_suffix(".md").write_text(text, encoding="utf-8")
