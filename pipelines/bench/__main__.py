"""`python -m pipelines.bench`: ours beside the peers, as tables and as a JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.bench import machine
from pipelines.bench.cases import CASES
from pipelines.bench.environment import Environment
from pipelines.bench.report import Report
from pipelines.bench.session import Session, attempted
from pipelines.bench.timing import Plan
from pipelines.bench.worker import PeerFailedError

ABOUT = """\
Ours beside the peers, measured in turn in one run: ours, theirs, ours, theirs. Ratios say how many times
faster ours is: the median over the pairs, with their range, and once more with one thread each. Peers run in
processes of their own and time themselves. The machine should be idle; the first lines say whether it was."""

CASES_TEXT = "cases (all by default; about 15 minutes on two cores):\n" + "\n".join(
    f"  {name:<18}{case.title}" for name, case in CASES.items()
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases that are named, or all; return 1 where a wanted bound was missed."""
    chosen = _chosen(arguments)
    load = machine.Load()
    plan = Plan(pairs=2, alone=1, least=0.02, quick=True) if chosen.quick else Plan()
    if chosen.pairs is not None:
        plan = dataclasses.replace(plan, pairs=chosen.pairs, alone=min(plan.alone, chosen.pairs))
    session = Session(plan, Environment(chosen.folder), _say)
    if chosen.install and not session.environment.is_made:
        _install(session.environment)
    report = Report(session, load, chosen.json or chosen.folder / "figures.json")
    print(report.head(), end="\n\n", flush=True)
    for name in chosen.cases or CASES:
        rows = CASES[name].rows(session, name)
        try:
            report.rows += attempted(rows, name, CASES[name].title, "all")
        finally:
            report.write()
    print(report.body())
    passed = time.perf_counter() - report.begun
    print(f"{passed:.0f} s; written to {report.where} and {report.where.with_suffix('.md')}")
    return 1 if report.missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.bench",
        description=ABOUT,
        epilog=CASES_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="what to measure, see below")
    parser.add_argument("--quick", action="store_true", help="small problems: does everything run?")
    parser.add_argument("--pairs", type=int, metavar="N", help="pairs of runs (default 7; slow peers 3)")
    parser.add_argument(
        "--install",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="make the environment of deepinv and torchkbnufft if it is not there: pip, about 1.3 GB",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(".bench"),
        help="where that environment and the figures lie (.bench)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures (FOLDER/figures.json)")
    return parser


def _chosen(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.cases if name not in CASES]
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; the cases are {', '.join(CASES)}")
    if chosen.pairs is not None and chosen.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {chosen.pairs}")
    return chosen


def _install(environment: Environment) -> None:
    _say(f"making {environment.folder / 'peers'}: pip brings deepinv and torchkbnufft; a few minutes")
    try:
        environment.make()
    except PeerFailedError as error:
        _say(f"that failed; their rows will say so. {error}")


def _say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
