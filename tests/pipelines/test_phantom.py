"""`workbench phantom`: what it writes is what the library draws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.cli import main
from workbench.anatomy import Brain, Torso

pytest.importorskip("nibabel", reason="phantoms are NIfTI: [io]")
pytest.importorskip("typer", reason="a verb: [cli]")

from workbench.io.nifti import read_nifti


def test_a_torso_with_lesions_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "here"
    options = ["--seed", "3", "--count", "2", "--spacing", "14", "--lesions", "2", "--contrast", "venous"]
    assert main(["phantom", "torso", *options, "--out", str(out)]) == 0
    ends = (".nii.gz", "-labels.nii.gz", "-lesions.nii.gz", ".json")
    names = [f"torso-000{seed}{end}" for seed in (3, 4) for end in ends]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)  # and no partial file
    torso = Torso.draw(3, contrast="venous", lesions=2)
    rendered = torso.render(torso.grid(14.0), supersample=1)
    image, labels = read_nifti(out / "torso-0003.nii.gz"), read_nifti(out / "torso-0003-labels.nii.gz")
    assert torch.equal(image.data, rendered.image.data)
    assert torch.equal(labels.data, rendered.labels.data)
    assert (image.unit, image.kind, labels.data.dtype) == ("HU", None, torch.int16)
    assert image.grid.matches(torso.grid(14.0))
    record = json.loads((out / "torso-0003.json").read_text())
    assert (record["subject"], record["seed"], record["unit"]) == ("torso", 3, "HU")
    assert record["parameters"]["contrast"] == "venous"
    assert record["parameters"]["habitus"]["fat"] == torso.habitus.fat
    assert record["label_names"]["16"] == torso.label_names[16]
    assert [tuple(lesion["centre"]) for lesion in record["lesions"]] == [x.centre for x in torso.lesions]
    assert record["lesions"][0]["kind"] == "lung nodule"
    sha256 = hashlib.sha256(image.data.numpy().tobytes()).hexdigest()
    assert record["voxels_sha256"]["torso-0003.nii.gz"] == sha256


@pytest.mark.parametrize(("motion", "plane", "thin"), [("breathing", "coronal", 1), ("beating", "axial", 0)])
def test_motion_has_frames_and_their_displacements(
    tmp_path: Path, motion: str, plane: str, thin: int
) -> None:
    options = ["--motion", motion, "--plane", plane, "--frames", "3", "--spacing", "12"]
    assert main(["phantom", "--seed", "1", *options, "--out", str(tmp_path)]) == 0
    frames = read_nifti(tmp_path / "torso-0001-frames.nii.gz")
    assert frames.data.shape[0] == 3
    assert frames.grid.shape[thin] == 1
    field = torch.stack([read_nifti(tmp_path / f"torso-0001-displacement-{c}.nii.gz").data for c in "RAS"])
    assert field.shape == (3, *frames.data.shape)
    assert field[:, 0].abs().max() == 0
    record = json.loads((tmp_path / "torso-0001.json").read_text())
    assert record["motion"]["kind"] == motion
    assert frames.grid.time is not None
    assert frames.grid.time.step == pytest.approx(record["motion"]["period"] / 3)
    still = frames.grid.with_time(None)
    points = torch.from_numpy(still.index_to_world(np.argwhere(np.ones(still.shape))))
    values, _ = Torso.draw(1).values(points + field[:, 1].reshape(3, -1).T.double())
    assert ((values - frames.data[1].flatten()).abs() < 2).float().mean() > 0.98


def test_lesions_are_numbered_and_of_the_kind_that_is_asked_for(tmp_path: Path) -> None:
    options = ["--lesions", "3", "--lesion-kind", "liver metastasis", "--lesion-kind", "lung nodule"]
    assert main(["phantom", *options, "--seed", "2", "--spacing", "4,5,5", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "torso-0002.json").read_text())
    assert record["spacing_mm"] == [4.0, 5.0, 5.0]
    kinds = [lesion["kind"] for lesion in record["lesions"]]
    assert kinds == ["lung nodule", "liver metastasis", "liver metastasis"]
    labels = read_nifti(tmp_path / "torso-0002-labels.nii.gz")
    numbers = read_nifti(tmp_path / "torso-0002-lesions.nii.gz")
    assert numbers.grid.spacing == pytest.approx((4.0, 5.0, 5.0))
    for lesion in record["lesions"]:
        mine = numbers.data == lesion["number"]
        assert int(mine.sum()) == lesion["voxels"]
        assert (labels.data[mine] == lesion["label"]).all()
        if lesion["voxels"]:
            at = numbers.grid.index_to_world(mine.nonzero().double().numpy())
            assert np.linalg.norm(at - lesion["centre"], axis=1).max() < 1.3 * lesion["radius"] + 1
    assert int((numbers.data > 0).sum()) == sum(lesion["voxels"] for lesion in record["lesions"])


def test_both_movements_at_once(tmp_path: Path) -> None:
    options = ["--motion", "both", "--frames", "2", "--spacing", "14", "--lesions", "1"]
    assert main(["phantom", "--seed", "1", *options, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "torso-0001.json").read_text())
    assert (record["motion"]["kind"], record["motion"]["period"]) == ("both", 4.0)
    assert record["motion"]["inner"]["contraction"] == 0.2
    assert record["lesions"][0]["place"] == "at rest"
    assert record["lesions"][0]["voxels"] >= 0


def test_a_slice_of_a_movement_lies_where_it_is_asked_for(tmp_path: Path) -> None:
    (lesion,) = Torso.draw(1, lesions=1).lesions
    options = ["--motion", "breathing", "--frames", "2", "--spacing", "4", "--lesions", "1"]
    for at, folder in ((lesion.centre[1], tmp_path / "through"), (lesion.centre[1] + 60, tmp_path / "past")):
        assert main(["phantom", "--seed", "1", *options, "--at", str(at), "--out", str(folder)]) == 0
        record = json.loads((folder / "torso-0001.json").read_text())
        assert record["motion"]["at_mm"] == pytest.approx(at)
        assert record["motion"]["frames"] == 2
        assert (record["lesions"][0]["voxels"] > 0) == (folder.name == "through")


def test_a_brain_may_have_a_phase(tmp_path: Path) -> None:
    assert main(["phantom", "brain", "--seed", "2", "--spacing", "8", "--phase", "--out", str(tmp_path)]) == 0
    image = read_nifti(tmp_path / "brain-0002.nii.gz").data
    assert image.is_complex()
    brain = Brain.draw(2)
    assert torch.allclose(image.abs(), brain.render(brain.grid(8.0), supersample=1).image.data, atol=1e-5)
    assert float(image.angle()[image.abs() > 0.1].std()) > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["torso", "--phase"], "`phase` must be left out: only a brain at rest has one, got torso"),
        (["--plane", "axial"], "`plane` must be left out of what does not move, got axial"),
        (["brain", "--motion", "breathing"], "`motion` must be left out: only a torso breathes and beats"),
    ],
)
def test_what_does_not_go_together_is_refused_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["phantom", *options, "--spacing", "14", "--out", str(tmp_path / "made")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        ("0.01", "`spacing` must give at most 1073741824 voxels, got "),
        ("600", "`spacing` must give two voxels or more along each axis, got 600, 600, 600 mm"),
        ("fine", "`spacing` must be a number in mm, or three: z,y,x, got 'fine'"),
        ("1,2", "`spacing`"),
    ],
)
def test_spacings_of_no_use_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spacing: str, message: str
) -> None:
    assert main(["phantom", "--spacing", spacing, "--out", str(tmp_path / "made")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_a_brain_with_a_lesion_round_trips(tmp_path: Path) -> None:
    options = ["--seed", "2", "--spacing", "12", "--lesions", "1", "--contrast", "flair"]
    assert main(["phantom", "brain", *options, "--out", str(tmp_path)]) == 0
    brain = Brain.draw(2, contrast="flair", lesions=1)
    rendered = brain.render(brain.grid(12.0), supersample=1)
    assert torch.equal(read_nifti(tmp_path / "brain-0002.nii.gz").data, rendered.image.data)
    assert torch.equal(read_nifti(tmp_path / "brain-0002-labels.nii.gz").data, rendered.labels.data)
    record = json.loads((tmp_path / "brain-0002.json").read_text())
    assert (record["subject"], record["unit"], record["label_names"]["16"]) == ("brain", "", "white")
    assert tuple(record["lesions"][0]["centre"]) == brain.lesions[0].centre
    assert record["parameters"]["inner"]["cortex"]["thickness"] == brain.inner.cortex.thickness


def test_a_brain_does_not_breathe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", "brain", "--motion", "breathing", "--out", str(tmp_path)]) == 2
    assert "`motion` must be left out: only a torso breathes and beats" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "`seed` must be an integer >= 0, got -1"),
        (["--count", "0"], "`count` must be an integer >= 1, got 0"),
        (["--spacing", "0"], "`spacing[0]` must be a finite number > 0, got 0.0"),
        (["--lesions", "-2"], "`lesions` must be an integer >= 0, got -2"),
        (["--contrast", "late"], "`contrast` must be one of none, arterial, venous, got 'late'"),
        (["--motion", "breathing", "--frames", "0"], "`frames` must be an integer >= 1, got 0"),
    ],
)
def test_bad_input_is_said_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", *options, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
