"""The figure of pipelines/verify/collapse.py: six panels, a colour for each solver."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from operators.errors import value_error
from operators.extras import require
from pipelines.verify.collapse import FIXED, NOISE, SOLVERS, Cell, cells
from workbench.io.whole import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_figure", "save_figure"]

COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73")
MARKS = ("o", "s", "D", "v", "^")
#: Unknowns at which the number of particles is varied in the figure.
SHOWN = (16, 64, 256)
ALIKE = "exact draws with the same error"

Value = Callable[[Cell], float]


def save_figure(cells: Sequence[Cell], path: Path) -> Path:
    """Draw `cells` into an .svg or a .png and return its path."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise value_error("path", "end in .svg or .png", str(path))
    require("matplotlib", feature="Drawing the figure", extra="io")
    import matplotlib

    # The same cells give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "collapse"}), written_whole(path) as partial:
        metadata = {"Date": None} if kind == "svg" else {}
        draw_figure(cells).savefig(partial, format=kind, dpi=110, metadata=metadata)
    return path


def draw_figure(cells: Sequence[Cell]) -> Figure:
    """Return the figure."""
    require("matplotlib", feature="Drawing the figure", extra="io")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    (draws, ratio, told), (noise, number, families) = figure.subplots(2, 3)
    sizes = sorted({cell.particles for cell in cells})
    usual, most = sizes[min(1, len(sizes) - 1)], sizes[-1]
    grown = [cell for cell in cells if cell.noise == NOISE]
    for axes, value in ((draws, _draws), (ratio, lambda cell: cell.variance_ratio)):
        _lines(axes, [cell for cell in grown if cell.particles == usual], _unknowns, value)
        large = [cell for cell in grown if cell.particles == most > usual]
        _lines(axes, large, _unknowns, value, style="--", filled=False)
    _titled(draws, f"Error of the mean: {usual} particles, {most} dashed", "unknowns", ALIKE)
    _titled(ratio, "Variance of the answer over the posterior's", "unknowns", "variance ratio", "linear")
    ratio.set_ylim(0, 1.2)
    _levels(draws, 1.0)
    _levels(ratio, 1.0, 0.9, 0.5)

    mine = [cell for cell in grown if cell.particles == usual]
    _lines(told, mine, _unknowns, lambda cell: cell.families)
    _lines(told, mine, _unknowns, lambda cell: cell.least, style=":", filled=False)
    title = f"What a run of {usual} says: first particles with\ndescendants; least effective number dotted"
    _titled(told, title, "unknowns", "share of the particles")
    _levels(told, 1 / usual)

    _lines(noise, mine, _nats, _draws, style=":", filled=False)
    fixed = [cell for cell in cells if cell.unknowns == FIXED and cell.particles == usual]
    _lines(noise, fixed, _nats, _draws)
    _titled(
        noise, f"{FIXED} unknowns, noise from 5 to 0.02;\nmore unknowns dotted", "nats in the data", ALIKE
    )
    _levels(noise, 1.0)

    _titled(number, "More particles: AFDPS and TDS", "particles", ALIKE)
    for unknowns, shade in zip(SHOWN, (1.0, 0.7, 0.4), strict=True):
        some = [cell for cell in grown if cell.unknowns == unknowns and cell.solver in ("AFDPS", "TDS")]
        _lines(number, some, lambda cell: cell.particles, _draws, alpha=shade)
        for solver, end, side in (("AFDPS", sizes[0], "right"), ("TDS", most, "left")):
            for cell in (c for c in some if c.solver == solver and c.particles == end):
                at, text = (cell.particles, _draws(cell)), f"  {cell.nats:.0f} nats  "
                number.annotate(text, at, fontsize=8, va="center", ha=side)
    number.margins(x=0.25)
    _levels(number, 1.0)

    for name, colour, mark in zip(SOLVERS, COLOURS, MARKS, strict=True):
        some = [cell for cell in cells if cell.solver == name]
        found = [cell.families * cell.particles for cell in some]
        families.plot(found, [_draws(cell) for cell in some], mark, color=colour, ms=4, alpha=0.7)
    _titled(families, "All runs: descent tells who errs", "first particles with descendants", ALIKE)
    ends = [1.0, float(most)]
    families.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
    handles, labels = draws.get_legend_handles_labels()
    count = len(set(labels))
    figure.legend(handles[:count], labels[:count], loc="outside lower center", ncols=count, frameon=False)
    return figure


def _draws(cell: Cell) -> float:
    return cell.exact_draws


def _unknowns(cell: Cell) -> float:
    return cell.unknowns


def _nats(cell: Cell) -> float:
    return cell.nats


def _lines(
    axes: Axes,
    cells: Sequence[Cell],
    across: Value,
    value: Value,
    *,
    style: str = "-",
    filled: bool = True,
    alpha: float = 1.0,
) -> None:
    """Draw one line per solver."""
    for name, colour, mark in zip(SOLVERS, COLOURS, MARKS, strict=True):
        mine = sorted((cell for cell in cells if cell.solver == name), key=across)
        points = [(across(cell), value(cell)) for cell in mine if math.isfinite(value(cell))]
        if points:
            face = colour if filled else "white"
            axes.plot(
                *zip(*points, strict=True),
                style,
                marker=mark,
                ms=4,
                lw=1.4,
                color=colour,
                mfc=face,
                alpha=alpha,
                label=name,
            )


def _titled(axes: Axes, title: str, across: str, up: str, high: str = "log") -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_yscale(high)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _levels(axes: Axes, *values: float) -> None:
    for value in values:
        axes.axhline(value, color="0.6", lw=0.8, zorder=0)


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.verify.collapse_figure", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="Draw the figure: .svg or .png.")
    chosen = parser.parse_args(arguments)
    writer = csv.DictWriter(sys.stdout, [item.name for item in fields(Cell)])
    writer.writeheader()
    found: list[Cell] = []
    for one in cells():
        found.append(one)
        writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(one).items()})
        sys.stdout.flush()
    if chosen.out is not None:
        print(f"wrote {save_figure(found, chosen.out)}", file=sys.stderr)


if __name__ == "__main__":
    _main()
