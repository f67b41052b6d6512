"""What `workbench train` refuses: settings, manifests, volumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config.loading import ConfigError
from pipelines.train import run
from pipelines.training.given import refuse_manifest
from tests.pipelines.train_cases import (
    GENERATED,
    blobs,
    config,
    entry,
    folder,
    manifest,
    one_thread,
    quietly,
)
from workbench.io.nifti import write_nifti

__all__ = ["folder", "one_thread"]  # fixtures


def test_a_run_of_other_settings_or_data_is_refused(folder: Path) -> None:
    run(config(folder, "optimiser.steps=2"), folder, folder / "run", say=quietly)
    with pytest.raises(ValueError, match="`out` must be new, or hold a run of the same settings and data"):
        run(config(folder, "optimiser.rate=1e-5"), folder, folder / "run", say=quietly)
    write_nifti(folder / "a.nii", blobs(3))
    with pytest.raises(ValueError, match="`out` must be new"):
        run(config(folder), folder, folder / "run", say=quietly)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(), entry("b", "A", "test", "b.nii")], "the subject 'a' must be in one split, got test and"),
        ([entry(), entry("b", " a  ", "test", "b.nii")], "the subject 'a' must be in one split"),
        ([entry(), entry("b", "B", "test", "./a.nii")], "the file 'a.nii' must be in one split"),
        ([entry(), entry("b", "B", "test", "a.nii")], "the file 'a.nii' must be in one split"),
        ([entry(), entry("a", "B")], "names must each be used once, got a more often"),
        (
            [entry("c", split="other")],
            r'`volumes\[0\].split` must be one of "train", "validate", "test", got "other" \(c\)',
        ),
    ],
)
def test_manifests_that_share_or_confuse_are_refused(folder: Path, entries: list[str], message: str) -> None:
    manifest(folder, *entries)
    with pytest.raises(ConfigError, match=message):
        run(config(folder), folder, folder / "run", say=quietly)


def test_subjects_shared_between_two_manifests_are_refused(folder: Path) -> None:
    other = manifest(folder, entry("b", "A", "test", "b.nii"), name="other.toml")
    both = f'data.manifests=["{folder / "m.toml"}", "{other}"]'
    with pytest.raises(ValueError, match="`data.manifests` must have splits that share nobody"):
        run(config(folder, both), folder, folder / "run", say=quietly)


def test_mixed_units_empty_splits_missing_and_changed_files_are_refused(folder: Path) -> None:
    manifest(folder, entry(), entry("b", "B", "train", "b.nii", unit=""))
    with pytest.raises(ValueError, match="`data.manifests` must hold values of one unit, got '', 'HU'"):
        run(config(folder), folder, folder / "run", say=quietly)
    manifest(folder, entry(split="test"))
    with pytest.raises(ValueError, match="`report.split` must name a split that somebody is in, got 'train'"):
        run(config(folder), folder, folder / "run", say=quietly)
    manifest(folder, entry(path="gone.nii"))
    with pytest.raises(FileNotFoundError, match=r"gone.nii does not exist: a of the manifest"):
        run(config(folder), folder, folder / "run", say=quietly)
    manifest(folder, entry() + f'sha256 = "{"0" * 64}"\n')
    with pytest.raises(ValueError, match="`a` must have the SHA-256 0000"):
        run(config(folder), folder, folder / "run", say=quietly)
    write_nifti(folder / "mm.nii", blobs(1).with_data(blobs(1).data, unit="1/mm"))
    manifest(folder, entry(path="mm.nii"))
    with pytest.raises(
        ValueError, match="`a` must hold values in HU, as its manifest says, got mm.nii in 1/mm"
    ):
        run(config(folder), folder, folder / "run", say=quietly)


def test_a_manifest_is_no_recipe(folder: Path) -> None:
    with pytest.raises(ValueError, match="`recipe` must be settings of a training, got .*m.toml, a manifest"):
        refuse_manifest(folder / "m.toml")
    refuse_manifest(folder / "recipe.toml")


def test_values_of_another_contrast_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="`data.manifests` must hold values in no unit, .* got 'HU'"):
        run(config(folder, "data.contrast=magnetisation"), folder, folder / "run", say=quietly)
    manifest(folder, entry(unit=""))
    with pytest.raises(ValueError, match="`data.manifests` must hold values in HU, got ''"):
        run(config(folder), folder, folder / "run", say=quietly)
    manifest(folder, GENERATED.replace('"HU"', '""'))
    with pytest.raises(ConfigError, match="the unit of a torso must be 'HU', got ''"):
        run(config(folder), folder, folder / "run", say=quietly)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective.noise_range=[80, 0.002]", "objective.noise_range must rise, got 80, 0.002"),
        ("data.spacing=[3.0, 1.5]", "data.spacing must rise, got 3, 1.5"),
        ("report.levels=[]", "report.levels"),
        ("data.sizes=[]", "data.sizes"),
        ("data.sizes=[[16, 18]]", "data.sizes must be multiples of 4 for 2 levels, got 16 x 18"),
        ("report.split=test", "report.split"),
    ],
)
def test_settings_that_cannot_be_carried_out_are_refused_before_anything_is_read(
    folder: Path, setting: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(folder, setting)


def test_spacings_that_no_volume_has_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"`data.spacing` must reach 2.4 mm, .* got 0.1 to 0.2 mm"):
        run(config(folder, "data.spacing=[0.1, 0.2]"), folder, folder / "run", say=quietly)


def test_copies_of_tested_files_are_refused(folder: Path) -> None:
    (folder / "copy.nii").write_bytes((folder / "b.nii").read_bytes())
    manifest(folder, entry(path="copy.nii"), entry("b", "B", "test", "b.nii"))
    with pytest.raises(ValueError, match=r"share no file, got copy.nii in train, and its copy b.nii in test"):
        run(config(folder), folder, folder / "run", say=quietly)
