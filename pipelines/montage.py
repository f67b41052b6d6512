"""A page of orthogonal slices: radiological orientation, one grey scale, a scale bar in mm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from operators.errors import value_error
from operators.extras import require
from workbench.volume import Volume

__all__ = ["save_montage"]

PLANES = ("axial", "coronal", "sagittal")


def orthogonal_slices(volume: Volume) -> list[tuple[NDArray[np.float32], float, float]]:
    """Return the middle axial, coronal and sagittal slice with the mm per row and per column.

    Rows run down and columns to the right as a radiologist expects: anterior or superior up, the
    patient's right on the left of the page, anterior on the left of a sagittal slice.
    """
    grid = volume.grid
    nearest = np.abs(grid.directions).argmax(axis=0)  # world axis (R, A, S) of each array axis
    if sorted(nearest) != [0, 1, 2]:
        raise value_error("volume", "have axes near the world's", repr(grid), "Resample it first.")
    order = [int(np.flatnonzero(nearest == world)[0]) for world in (2, 1, 0)]
    turned = volume.permute(order)
    turned = turned.flip(*[a for a, world in enumerate((2, 1, 0)) if turned.grid.directions[world, a] < 0])
    data = turned.data.detach().float().numpy()  # now (S, A, R)
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
    require("matplotlib", feature="Drawing a montage", extra="io")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {name: orthogonal_slices(volume) for name, volume in volumes.items()}
    first = next(iter(rows.values()))
    widths = [image.shape[1] * across for image, _, across in first]
    height = max(image.shape[0] * down for image, down, _ in first)
    inches = 2.6 / height
    figure = Figure(figsize=(sum(widths) * inches + 1.3, (2.6 + 0.12) * len(rows) + 0.75), facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 3, squeeze=False, width_ratios=widths)
    figure.subplots_adjust(left=0.035, right=0.9, top=1 - 0.6 / figure.get_figheight(), bottom=0.02)
    figure.subplots_adjust(wspace=0.03, hspace=0.05)
    for (name, slices), row in zip(rows.items(), axes, strict=True):
        for (image, down, across), panel, plane in zip(slices, row, PLANES, strict=True):
            shown = panel.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], aspect=down / across)
            panel.set_axis_off()
            if row is axes[0]:
                panel.set_title(plane, color="0.75", fontsize=10)
            if plane == "axial":
                panel.text(-0.03, 0.5, name, color="white", fontsize=11, rotation=90, ha="right", va="center",
                           transform=panel.transAxes)  # fmt: skip
                panel.text(0.015, 0.5, "R", color="0.7", fontsize=9, va="center", transform=panel.transAxes)
                bar = 50 / across
                y = image.shape[0] * 0.95
                panel.plot([image.shape[1] * 0.05, image.shape[1] * 0.05 + bar], [y, y], color="white", lw=2)
                panel.text(image.shape[1] * 0.05, y * 0.975, "50 mm", color="white", fontsize=8, va="bottom")
    scale = figure.add_axes((0.915, 0.1, 0.012, 0.75))
    bar_axis = figure.colorbar(shown, cax=scale)
    bar_axis.set_label(unit, color="0.8")
    bar_axis.ax.tick_params(colors="0.8", labelsize=8)
    figure.suptitle(title, color="white", fontsize=12, y=1 - 0.12 / figure.get_figheight())
    figure.savefig(path, dpi=110, facecolor=figure.get_facecolor())
    return path
