"""Pictures of answers: a page that needs nothing else, and one small picture for the documentation."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.extras import require
from pipelines.quality.bench import Bench
from pipelines.quality.cells import Cell
from pipelines.quality.posed import Reference
from pipelines.quality.problems import PROBLEMS
from pipelines.quality.summary import ABOUT, HEADS, Row, entries_of, floor_line, floors, truth_line

__all__ = ["montage", "page", "shade"]

Image = NDArray[np.uint8]
#: What is shown of each answer: from black to white, in shares of the range that PSNR refers to.
WINDOWS: Mapping[str, tuple[float, float]] = {
    "mean": (0.0, 0.8),
    "draw": (0.0, 0.8),
    "sd": (0.0, 0.1),
    "error": (-0.15, 0.15),
}
#: Of magnitudes, whose range is their own.
BRIGHT = 1.25
STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 90rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .5rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } .wide { overflow-x: auto }
.shown td, .shown th { text-align: center; border: 0; font-size: 12px; padding: 1px 3px; white-space: nowrap }
.refused { color: #777 }
"""


def shade(image: Tensor, window: tuple[float, float], data_range: float) -> Image:
    """Return an image (y, x) as shades of grey, anterior or superior above."""
    low, high = (end * data_range for end in window)
    shown = ((image.float() - low) / (high - low)).clamp(0, 1).flip(0, 1)
    return (255 * shown).round().to(torch.uint8).numpy()


def page(bench: Bench, cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    """Return the tables with pictures of the first slice of every problem."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>make bench-quality</title>",
        f"<style>{STYLE}</style><h1>Solvers on held-out subjects</h1>",
        *(f"<p>{html.escape(part)}</p>" for part in ABOUT.split("\n\n")),
        "<ul>",
        *(f"<li>{one['problem']}: {html.escape(floor_line(one))}</li>" for one in floors(rows)),
        "</ul>",
    ]
    for name in dict.fromkeys(row["problem"] for row in rows):
        parts.append(f"<h2>{name}: {html.escape(PROBLEMS[name].title)}</h2>")
        parts.append(f"<p>{html.escape(truth_line(rows, name))}</p>")
        parts.append(_shown(bench, [cell for cell in cells if cell.problem == name]))
        parts.append(_table([row for row in rows if row["problem"] == name]))
    return "\n".join(parts)


def montage(bench: Bench, cells: Sequence[Cell], chosen: Sequence[tuple[str, Sequence[str]]]) -> bytes:
    """Return a PNG: for each problem the truth, answers by label, and below them their errors."""
    require("matplotlib", feature="Pictures of the comparison", extra="io")
    from matplotlib.figure import Figure

    found = []
    for problem, labels in chosen:
        some = [cell for cell in cells if cell.problem == problem and cell.label in labels]
        answers = list(_answers(bench, some))
        if answers:
            found.append((problem, answers))
    wide = max((len(answers) for _, answers in found), default=0) + 1
    figure = Figure(figsize=(1.5 * wide, 3.25 * len(found) or 1), dpi=90, layout="constrained")
    panels = figure.subplots(2 * max(len(found), 1), wide, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for row, (problem, answers) in enumerate(found):
        upper, lower = panels[2 * row], panels[2 * row + 1]
        truth = answers[0][1].truth[0]
        _draw(
            upper[0],
            f"{problem}: truth",
            shade(truth, _window("mean", answers[0][0]), answers[0][1].data_range),
        )
        for column, (cell, reference, images) in enumerate(answers, start=1):
            for axes, kind in ((upper[column], "mean"), (lower[column], "error")):
                shown = shade(images[kind], _window(kind, cell), reference.data_range)
                _draw(axes, cell.label if kind == "mean" else "", shown)
    written = io.BytesIO()
    figure.savefig(written, format="png", pil_kwargs={"optimize": True})
    return written.getvalue()


def _draw(axes: Any, title: str, image: Image) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, fontsize=8)


def _window(kind: str, cell: Cell) -> tuple[float, float]:
    low, high = WINDOWS[kind]
    # Attenuation reaches from air to bone; magnitudes up to their own range.
    return (low, high) if cell.modality == "ct" or kind in ("sd", "error") else (low, high * BRIGHT)


def _answers(bench: Bench, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Reference, dict[str, Tensor]]]:
    for cell in cells:
        record = bench.done(cell)
        if record is None or record["status"] != "done":
            continue
        images = bench.folder.read_pictures(bench.folder.pictures(cell.name))
        if "mean" not in images:
            continue  # the first slice was lost, or the file was
        reference = bench.case(cell.problem, cell.places[0]).reference
        images["error"] = images["mean"] - reference.truth[0]
        yield cell, reference, images


def _shown(bench: Bench, cells: Sequence[Cell]) -> str:
    answers = list(_answers(bench, cells))
    if not answers:
        return ""
    first, reference, _ = answers[0]
    columns = [("truth", {"mean": reference.truth[0]})]
    columns += [(cell.label, images) for cell, _, images in answers]
    lines = ["<div class='wide'><table class='shown'><tr><th></th>"]
    lines += [f"<th>{html.escape(label)}</th>" for label, _ in columns]
    for kind in WINDOWS:
        lines.append(f"</tr><tr><th>{kind}</th>")
        for _, images in columns:
            content = ""
            if kind in images:
                shown = shade(images[kind], _window(kind, first), reference.data_range)
                content = f"<img alt='{kind}' src='data:image/png;base64,{_png(shown)}'>"
            lines.append(f"<td>{content}</td>")
    return "".join([*lines, "</tr></table></div>"])


def _png(image: Image) -> str:
    require("matplotlib", feature="Pictures of the comparison", extra="io")
    from matplotlib.image import imsave

    written = io.BytesIO()
    imsave(written, image, cmap="gray", vmin=0, vmax=255, format="png")
    return base64.b64encode(written.getvalue()).decode()


def _table(rows: Sequence[Row]) -> str:
    lines = ["<div class='wide'><table><tr>", *(f"<th>{html.escape(head)}</th>" for head in HEADS), "</tr>"]
    for row in rows:
        if row["status"] == "done":
            lines.append("<tr>" + "".join(f"<td>{html.escape(e)}</td>" for e in entries_of(row)) + "</tr>")
        else:
            said = html.escape(f"{row['status']}: {row['reason']}")
            lines.append(
                f"<tr class='refused'><td>{html.escape(row['solver'])}</td>"
                f"<td colspan='{len(HEADS) - 1}' style='text-align:left'>{said}</td></tr>"
            )
    return "".join([*lines, "</table></div>"])
