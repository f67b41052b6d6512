"""The table as a page that needs nothing else: a picture of all cells, the tables, the records."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from operators.extras import require
from pipelines.verify.referee.cells import Cell, Refused
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.table import FIGURES, records, report, verdict

__all__ = ["picture", "write_page"]

#: Panels of the picture: metric, title, the value that exact draws have, the difference that is full colour.
PANELS = (
    ("mean_error", "mean error, sd", 0.0, 0.5),
    ("variance_ratio", "variance ratio", 1.0, 1.0),
    ("coverage", "90 % intervals hold", 0.9, 0.5),
)
STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #ddd } img { max-width: 100% }
td:first-child, th:first-child, .text, .said { text-align: left }
.text, td:first-child { white-space: nowrap } .fell { background: #fbd0d0 }
.refused { color: #777 } small { color: #555 }
"""


def write_page(results: Sequence[Cell | Refused], folder: Path) -> list[Path]:
    """Write verify.html, verify.png and verify.json into `folder`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    image = picture(results)
    written = {
        "verify.png": image,
        "verify.json": json.dumps(records(results), indent=2).encode(),
        "verify.html": _page(results, image).encode(),
    }
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in written]


def picture(results: Sequence[Cell | Refused]) -> bytes:
    """Return a PNG: a square per cell and panel, white where exact draws would be."""
    require("matplotlib", feature="The picture of `workbench verify`", extra="io")
    from matplotlib.figure import Figure

    done = [result for result in results if isinstance(result, Cell)]
    solvers = list(dict.fromkeys(cell.solver for cell in done))
    problems = list(dict.fromkeys(cell.problem for cell in done))
    figure = Figure(
        figsize=(4 + 1.5 * len(problems), 1.4 + 0.3 * len(solvers)), dpi=110, layout="constrained"
    )
    panels = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
    for axes, (metric, title, right, full) in zip(panels, PANELS, strict=True):
        values = [[math.nan] * len(problems) for _ in solvers]
        for cell in done:
            value = getattr(cell.metrics, metric)
            row, column = solvers.index(cell.solver), problems.index(cell.problem)
            if value is None:
                continue
            values[row][column] = (value - right) / full
            dark = abs(value - right) > 0.7 * full
            weight = "normal" if cell.passed else "bold"
            text = f"{value:.2f}" + ("" if cell.passed else " !")
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=7,
                weight=weight,
                color="white" if dark else "black",
            )
        if done:
            axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(problems)), problems, rotation=60, fontsize=8)
        axes.set_yticks(range(len(solvers)), solvers, fontsize=8)
        axes.tick_params(length=0)
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _page(results: Sequence[Cell | Refused], image: bytes) -> str:
    done = [result for result in results if isinstance(result, Cell)]
    judged = [cell for cell in done if cell.law != "none"]
    fallen = sum(not cell.passed for cell in judged)
    failed = sum(isinstance(result, Refused) and result.failed for result in results)
    told = f"{fallen} fell." + (f" {failed} more failed on the way." if failed else "")
    encoded = base64.b64encode(image).decode()
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>workbench verify</title>",
        f"<style>{STYLE}</style><h1>Samplers against posteriors that are known</h1>",
        f"<p>{len(done)} cells, {len(judged)} of them with a law to hold them against; {told}</p>",
        f"<img alt='all cells' src='data:image/png;base64,{encoded}'>",
        "<h2>What kind of answer each gives</h2><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in report(results)),
        "</ul>",
    ]
    for name in dict.fromkeys(result.problem for result in results):
        parts.append(f"<h2>{name}</h2><p>{html.escape(problem(name).note)}</p>{_table(results, name)}")
    parts.append(
        "<p><small>Mean errors are in posterior standard deviations. A band comes from the law of the "
        "solver's own equations, not from its output; a figure outside its band is marked.</small></p>"
    )
    return "\n".join(parts)


def _table(results: Sequence[Cell | Refused], name: str) -> str:
    heads = ["solver", "kind", *FIGURES.values(), "NFE", "backward", "seconds", "law", ""]
    sides = ((" class='text'" if head in ("kind", "law") else "", html.escape(head)) for head in heads)
    lines = ["<table><tr>", *(f"<th{side}>{head}</th>" for side, head in sides), "</tr>"]
    for result in results:
        if result.problem != name:
            continue
        if isinstance(result, Refused):
            mark = "fell" if result.failed else "refused"
            lines.append(
                f"<tr class='{mark}'><td>{html.escape(result.solver)}</td>"
                f"<td class='said' colspan='{len(heads) - 1}'>{html.escape(verdict(result))}</td></tr>"
            )
            continue
        lines.append(f"<tr><td>{html.escape(result.solver)}</td><td class='text'>{result.kind}</td>")
        for metric in FIGURES:
            value, band = getattr(result.metrics, metric), result.bands.get(metric)
            mark = " class='fell'" if metric in result.fallen else ""
            title = "" if band is None else f" title='{band.low:.4g} to {band.high:.4g}'"
            lines.append(f"<td{mark}{title}>{'' if value is None else f'{value:.3f}'}</td>")
        counts = f"{result.network_evaluations:.0f}", f"{result.backward_passes:.0f}", f"{result.seconds:.1f}"
        lines += [f"<td>{count}</td>" for count in counts]
        lines.append(
            f"<td class='text'>{result.law}</td><td class='said'>{html.escape(verdict(result))}</td></tr>"
        )
    return "".join([*lines, "</table>"])
