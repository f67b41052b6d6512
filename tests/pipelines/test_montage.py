"""The page of slices: where things are on it, and what is written beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from pipelines.montage import draw_montage, orthogonal_slices, save_montage
from workbench.volume import Volume

pytest.importorskip("matplotlib", reason="drawing needs [io]")


@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_slices_are_radiological_however_the_array_is_stored(
    flips: tuple[int, ...], order: tuple[int, ...]
) -> None:
    """A bright voxel to the patient's right, anterior and superior is left, up and up on the page."""
    grid = Grid.from_spacing((9, 9, 9), (3.0, 2.0, 1.0))
    data = torch.zeros(grid.shape)
    data[4, 6, 7] = 1  # on the middle axial slice: right and anterior
    data[7, 4, 7] = 2  # on the middle coronal slice: right and superior
    data[7, 6, 4] = 3  # on the middle sagittal slice: anterior and superior
    volume = Volume(data, grid).flip(*flips).permute(order)
    (axial, *axial_mm), (coronal, *coronal_mm), (sagittal, *sagittal_mm) = orthogonal_slices(volume)
    assert np.argwhere(axial == 1).tolist() == [[2, 1]]
    assert np.argwhere(coronal == 2).tolist() == [[1, 1]]
    assert np.argwhere(sagittal == 3).tolist() == [[1, 2]]
    assert (axial_mm, coronal_mm, sagittal_mm) == ([2.0, 1.0], [3.0, 1.0], [3.0, 2.0])


def figure_of(*volumes: Volume):  # matplotlib has no types
    named = {f"volume {i}": volume for i, volume in enumerate(volumes)}
    return draw_montage(named, window=(0.0, 2.0), unit="attenuation [1/mm]", title="two volumes, one scale")


def block(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    return Volume(torch.ones(shape), Grid.from_spacing(shape, spacing))


def test_titles_labels_aspect_and_scale() -> None:
    figure = figure_of(*[block((20, 40, 60), (4.0, 2.0, 3.0))] * 2)
    panels = figure.axes[:6]
    assert [panel.get_title() for panel in panels] == ["axial", "coronal", "sagittal", "", "", ""]
    assert figure.get_suptitle() == "two volumes, one scale"
    words = [[text.get_text() for text in panel.texts] for panel in panels]
    assert words == [["volume 0", "R", "50 mm"], [], [], ["volume 1", "R", "50 mm"], [], []]
    # mm down over mm across.
    assert [panel.get_aspect() for panel in panels[:3]] == pytest.approx([2 / 3, 4 / 3, 4 / 2])
    (bar,) = panels[0].lines
    assert np.ptp(bar.get_xdata()) == pytest.approx(50 / 3)
    assert {image.get_clim() for panel in panels for image in panel.images} == {(0.0, 2.0)}
    assert figure.axes[6].get_ylabel() == "attenuation [1/mm]"


def test_a_small_object_gets_a_shorter_bar() -> None:
    panel = figure_of(block((4, 20, 30), (1.0, 0.5, 0.5))).axes[0]
    assert panel.texts[2].get_text() == "1 mm"
    assert np.ptp(panel.lines[0].get_xdata()) == pytest.approx(1 / 0.5)


@pytest.mark.parametrize(
    "shape", [(1, 90, 90), (90, 90, 1), (90, 1, 90), (1, 1, 200), (200, 1, 1), (1, 1, 1)]
)
def test_nothing_is_cut_off_around_a_thin_volume(shape: tuple[int, int, int]) -> None:
    figure = figure_of(block(shape, (3.0, 3.0, 3.0)))
    figure.canvas.draw()
    wide, high = figure.canvas.get_width_height()
    assert wide < 2000
    assert high < 2000
    colours = figure.axes[3]
    texts = [figure._suptitle, colours.yaxis.label, *(panel.title for panel in figure.axes[:3])]
    texts += figure.axes[0].texts[:1]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= wide, text
        assert box.y1 <= high, text


def test_what_cannot_be_drawn_is_said() -> None:
    frames = Grid.from_spacing((2, 3, 4), 1.0).with_time(TimeAxis(2))
    with pytest.raises(ValueError, match="`volume` must have no time axis, got .* Take one frame"):
        figure_of(Volume(torch.zeros(frames.array_shape), frames))
    grid = frames.with_time(None)
    with pytest.raises(TypeError, match="`volume` must be real to be drawn, got torch.complex64"):
        figure_of(Volume(torch.zeros(grid.shape, dtype=torch.complex64), grid))
    with pytest.raises(ValueError, match="`volumes` must hold at least one"):
        figure_of()


def test_it_is_a_png_and_nothing_else(tmp_path: Path) -> None:
    volumes = {"a": block((2, 3, 4), (1.0, 1.0, 1.0))}
    path = save_montage(tmp_path / "a.png", volumes, window=(0, 1), unit="", title="")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
