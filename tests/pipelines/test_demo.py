from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from operators.grid import Grid
from pipelines.config.demo import DemoConfig
from pipelines.config.loading import load
from pipelines.demo import run
from pipelines.montage import orthogonal_slices
from workbench.volume import Volume

pytest.importorskip("nibabel", reason="the demo writes NIfTI: [io]")

SMALL = (
    "phantom.shape=[6, 32, 40]",
    "phantom.spacing=[8.0, 8.0, 8.0]",
    "scan.views=24",
    "solve.iterations=5",
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], list[str]]:
    folder = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    config = load(DemoConfig, env={}, overrides=SMALL)
    return folder, run(config, folder, say=said.append), said


def test_files_open_elsewhere_in_the_right_place(result: tuple[Path, dict[str, object], list[str]]) -> None:
    import nibabel

    folder, record, _ = result
    expected = Grid.from_spacing((6, 32, 40), 8.0)
    for name in ("phantom", "cg", "cg_penalty"):
        image = nibabel.load(folder / f"{name}.nii.gz")
        assert image.shape == (40, 32, 6)
        assert np.allclose(image.affine, expected.nifti_affine)
        assert np.isfinite(image.get_fdata()).all()
    assert sorted(p.name for p in folder.iterdir()) == sorted(record["files"])  # type: ignore[call-overload]


def test_the_reconstructions_are_of_the_phantom(result: tuple[Path, dict[str, object], list[str]]) -> None:
    record = result[1]
    errors = record["relative_error"]
    assert isinstance(errors, dict)
    assert errors["cg"] < 0.5
    assert errors["cg_penalty"] < 0.35
    assert record["converged"]["cg_penalty"] is True  # type: ignore[index]


def test_the_record_says_what_kind_of_answer_it_is(result: tuple[Path, dict[str, object], list[str]]) -> None:
    folder, record, said = result
    stored = json.loads((folder / "run.json").read_text())
    assert stored == record
    assert stored["kind"] == "point estimate"
    assert stored["unit"] == "1/mm"
    assert any("not a medical device" in line for line in said)
    assert load(DemoConfig, folder / "config.toml", env={}) == load(DemoConfig, env={}, overrides=SMALL)


def test_the_same_seed_gives_the_same_images(
    result: tuple[Path, dict[str, object], list[str]], tmp_path: Path
) -> None:
    import nibabel

    run(load(DemoConfig, env={}, overrides=SMALL), tmp_path, say=lambda _: None)
    for name in ("cg", "cg_penalty"):
        first = nibabel.load(result[0] / f"{name}.nii.gz").get_fdata()
        again = nibabel.load(tmp_path / f"{name}.nii.gz").get_fdata()
        assert np.abs(first - again).max() <= 1e-5 * np.abs(first).max()


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
    (axial, _, _), (coronal, down, across), (sagittal, _, _) = orthogonal_slices(volume)
    assert np.argwhere(axial == 1).tolist() == [[2, 1]]
    assert np.argwhere(coronal == 2).tolist() == [[1, 1]]
    assert np.argwhere(sagittal == 3).tolist() == [[1, 2]]
    assert (down, across) == (3.0, 1.0)
