"""`python -m pipelines.bench`: every comparison, as a table; status 1 where a wanted ratio is missed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from pipelines.bench import ct, mri
from pipelines.bench.machine import described
from pipelines.bench.table import Row, printed

#: By name, what can be measured.
PARTS: dict[str, Callable[[], Iterable[Row]]] = {
    "ct256": lambda: ct.parallel_rows(256, 180),
    "ct512": lambda: ct.parallel_rows(512, 360),
    "cone": ct.cone_rows,
    "radial": mri.radial_rows,
    "cartesian": mri.cartesian_rows,
}


def main() -> int:
    """Measure the parts that are named, or all, and print them."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all by default")
    chosen = parser.parse_args().parts or list(PARTS)
    print("\n".join(described()), end="\n\n", flush=True)
    rows = [row for name in chosen for row in PARTS[name]()]
    print(printed(rows))
    missed = sum(not row.held for row in rows)
    print(f"\nRatios are medians over pairs of runs in turn. Wanted ratios that were missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
