"""`make verify`: the dot-product error of every operator under contract, as a Markdown table.

    |<Ax, y> - <x, A^H y>| / (|Ax| |y|)

for a random pair, for y = Ax plus noise (a wrong scale cannot hide there) and for positive x and y.
Ends with status 1 if any error exceeds its bound.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

from operators.errors import describe
from operators.linear import LinearOperator
from tests.contracts import LinearOperatorContract
from tests.oracles import TOLERANCE, adjoint_mismatch

PAIRS = ("random", "correlated", "positive")


def contracts() -> list[type[LinearOperatorContract]]:
    """Return every contract test of a linear operator, in the order of the files."""
    found = []
    root = Path(__file__).parents[1]
    for path in sorted((root / "tests" / "operators").rglob("test_*.py")):
        module = importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
        for name, member in inspect.getmembers(module, inspect.isclass):
            own = member.__module__ == module.__name__ and name.startswith("Test")
            if own and issubclass(member, LinearOperatorContract):
                found.append(member)
    return found


def rows() -> list[tuple[str, str, str, list[float], float]]:
    """Return (operator, contract, precision, errors of the pairs, bound) for each combination."""
    table = []
    for contract in contracts():
        for dtype in contract.dtypes:
            op = contract().make(dtype)
            if not isinstance(op, LinearOperator):
                raise TypeError(describe("make", "return a LinearOperator", repr(op)))
            errors = [adjoint_mismatch(op, dtype, pair) for pair in PAIRS]
            precision = str(dtype).removeprefix("torch.")
            bound = max(TOLERANCE[dtype], op.adjoint_error)
            table.append((type(op).__name__, contract.__name__, precision, errors, bound))
    return table


def main() -> int:
    """Print the table and return the exit status."""
    print(f"| operator | contract | precision | {' | '.join(PAIRS)} | bound |")
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for operator, contract, precision, errors, bound in rows():
        worst = max(worst, *[error / bound for error in errors])
        cells = " | ".join(f"{error:.1e}" for error in errors)
        print(f"| {operator} | {contract} | {precision} | {cells} | {bound:.0e} |")
    print(f"\nLargest error over its bound: {worst:.2g}")
    return int(worst > 1)


if __name__ == "__main__":
    sys.exit(main())
