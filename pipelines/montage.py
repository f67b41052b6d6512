"""A page of orthogonal slices: radiological orientation, one grey scale, a scale bar in mm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from operators.errors import type_error, value_error
from operators.extras import require
from workbench.io.whole import written_whole
from workbench.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_montage", "orthogonal_slices", "save_montage"]

PLANES = ("axial", "coronal", "sagittal")
# Inches: the largest and the smallest panel, so that titles and labels fit a thin volume too.
HIGHEST, WIDEST, LEAST = 2.6, 10.0, 1.1


def orthogonal_slices(volume: Volume) -> list[tuple[NDArray[np.float32], float, float]]:
    """Return the middle axial, coronal and sagittal slice with the mm per row and per column.

    Rows run down and columns to the right as a radiologist expects: anterior or superior up, the
    patient's right on the left of the page, anterior on the left of a sagittal slice.
    """
    grid = volume.grid
    if grid.time is not None:
        raise value_error("volume", "have no time axis", repr(grid), "Take one frame of it.")
    if volume.data.is_complex():
        raise type_error("volume", "be real to be drawn", volume.data.dtype, "Take .abs() or .angle().")
    turned = volume.canonical()
    data = turned.data.detach().cpu().float().numpy()
    dz, dy, dx = turned.grid.spacing
    k, j, i = (n // 2 for n in data.shape)
    return [
        (data[k, ::-1, ::-1], dy, dx),
        (data[::-1, j, ::-1], dz, dx),
        (data[::-1, ::-1, i], dz, dy),
    ]


def save_montage(
    path: Path, volumes: Mapping[str, Volume], *, window: tuple[float, float], unit: str, title: str
) -> Path:
    """Draw one row per volume and one column per plane into a PNG and return its path."""
    figure = draw_montage(volumes, window=window, unit=unit, title=title)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=110, facecolor=figure.get_facecolor(), format="png")
    return path


def draw_montage(
    volumes: Mapping[str, Volume], *, window: tuple[float, float], unit: str, title: str
) -> Figure:
    """Return the figure with one row per volume and one column per plane."""
    require("matplotlib", feature="Drawing a montage", extra="io")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not volumes:
        raise value_error("volumes", "hold at least one volume", "none")
    rows = {name: orthogonal_slices(volume) for name, volume in volumes.items()}
    first = next(iter(rows.values()))
    across = [image.shape[1] * mm for image, _, mm in first]
    down = [image.shape[0] * mm for image, mm, _ in first]
    scale = min(HIGHEST / max(down), WIDEST / sum(across))
    widths = [max(mm * scale, LEAST) for mm in across]
    height = max(max(down) * scale, LEAST)
    left, right, top, bottom, gap = 0.4, 1.1, 0.75, 0.15, 0.12
    wide = left + sum(widths) + 2 * gap + right
    high = top + len(rows) * (height + gap) + bottom
    figure = Figure(figsize=(wide, high), facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 3, squeeze=False, width_ratios=widths)
    figure.subplots_adjust(left / wide, bottom / high, 1 - right / wide, 1 - top / high)
    figure.subplots_adjust(wspace=gap / (sum(widths) / 3), hspace=gap / height)
    for panel, plane in zip(axes[0], PLANES, strict=True):
        panel.set_title(plane, color="0.75", fontsize=10)
    for (name, slices), row in zip(rows.items(), axes, strict=True):
        for (image, mm_down, mm_across), panel in zip(slices, row, strict=True):
            shown = panel.imshow(
                image, cmap="gray", vmin=window[0], vmax=window[1], aspect=mm_down / mm_across
            )
            panel.set_axis_off()
        axial = row[0]
        label = {"transform": axial.transAxes, "va": "center"}
        axial.text(-0.03, 0.5, name, color="white", fontsize=11, rotation=90, ha="right", **label)
        axial.text(0.015, 0.5, "R", color="0.7", fontsize=9, **label)
        _draw_scale_bar(axial, slices[0])
    # Over the full height of the panels, beside them.
    colours = figure.add_axes(
        (1 - (right - 0.12) / wide, bottom / high, 0.14 / wide, 1 - (top + bottom) / high)
    )
    bar = figure.colorbar(shown, cax=colours)
    bar.set_label(unit, color="0.8")
    bar.ax.tick_params(colors="0.8", labelsize=8)
    figure.suptitle(title, color="white", fontsize=12, y=1 - 0.12 / high)
    return figure


def _draw_scale_bar(panel: Axes, axial: tuple[NDArray[np.float32], float, float]) -> None:
    """Draw 50 mm, or the largest power of ten that fits half of a smaller image."""
    image, _, across = axial
    half = image.shape[1] * across / 2
    length = 50.0 if half >= 50 else 10.0 ** math.floor(math.log10(half))
    start, y = image.shape[1] * 0.05, image.shape[0] * 0.95
    panel.plot([start, start + length / across], [y, y], color="white", lw=2)
    panel.text(start, y * 0.975, f"{length:g} mm", color="white", fontsize=8, va="bottom")
