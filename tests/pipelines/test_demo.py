"""The demo, small: what it writes is what it computed, and every setting has its effect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from operators.extras import MissingExtraError
from operators.grid import Grid
from pipelines import demo
from pipelines.config.demo import DemoConfig
from pipelines.config.loading import ConfigError, load
from pipelines.demo import run
from workbench.io.nifti import read_nifti

pytest.importorskip("nibabel", reason="the demo writes NIfTI: [io]")

SMALL = (
    "phantom.shape=[6, 32, 40]",
    "phantom.spacing=[8.0, 8.0, 8.0]",
    "scan.views=24",
    "solve.iterations=5",
)

Result = tuple[Path, dict[str, Any], list[str]]


def small(folder: Path, *overrides: str) -> Result:
    said: list[str] = []
    config = load(DemoConfig, env={}, overrides=[*SMALL, *overrides])
    return folder, run(config, folder, say=said.append), said


def image(result: Result, name: str) -> torch.Tensor:
    return read_nifti(result[0] / f"{name}.nii.gz").data


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return small(tmp_path_factory.mktemp("demo"))


def test_files_open_elsewhere_in_the_right_place(result: Result) -> None:
    import nibabel

    folder, record, _ = result
    expected = Grid.from_spacing((6, 32, 40), 8.0)
    for name in ("phantom", "cg", "cg_penalty"):
        stored = nibabel.load(folder / f"{name}.nii.gz")
        assert stored.shape == (40, 32, 6)
        assert np.allclose(stored.affine, expected.nifti_affine)
        assert np.isfinite(stored.get_fdata()).all()
        assert read_nifti(folder / f"{name}.nii.gz").unit == "1/mm"
    assert sorted(p.name for p in folder.iterdir()) == sorted(record["files"])


def test_the_errors_are_those_of_the_files(result: Result) -> None:
    truth = image(result, "phantom")
    errors = result[1]["relative_error"]
    for name in ("cg", "cg_penalty"):
        expected = ((image(result, name) - truth) ** 2).sum().sqrt() / (truth**2).sum().sqrt()
        assert errors[name] == pytest.approx(float(expected), rel=1e-5)
    assert errors["cg"] < 0.5
    assert errors["cg_penalty"] < 0.35


def test_the_two_solves_are_not_exchanged(result: Result, tmp_path: Path) -> None:
    smoother = small(tmp_path, "solve.gradient_sd=6e-5")
    assert torch.equal(image(smoother, "cg"), image(result, "cg"))
    before, after = (image(r, "cg_penalty").diff(dim=-1).norm() for r in (result, smoother))
    assert after < 0.7 * before
    solves = result[1]["solves"]
    assert solves["cg"]["iterations"] == 5
    assert solves["cg_penalty"]["iterations"] > 5
    assert solves["cg_penalty"]["converged"] is True


def test_the_record_says_what_was_done(result: Result) -> None:
    folder, record, said = result
    assert json.loads((folder / "run.json").read_text()) == record
    assert (record["kind"], record["unit"], record["seed"]) == ("point estimate", "1/mm", 0)
    assert record["engine"] in ("numba", "torch")
    assert record["starved_rays"] == 0.0
    assert 0 <= record["adjoint_mismatch"] < 1e-6
    assert set(record["versions"]) == {"inverse-workbench", "python", "torch", "numpy"}
    for solve in record["solves"].values():
        kinds = {name: type(value) for name, value in solve.items()}
        assert kinds == {"stop": str, "iterations": int, "relative_residual": float, "converged": bool}
    assert any("not a medical device" in line for line in said)
    assert load(DemoConfig, folder / "config.toml", env={}) == load(DemoConfig, env={}, overrides=SMALL)


def test_the_engine_is_the_one_that_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.ct._numba_is_here", lambda: False)
    assert small(tmp_path)[1]["engine"] == "torch"


def test_the_same_seed_gives_the_same_images_and_another_does_not(result: Result, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again, other = small(tmp_path / "again"), small(tmp_path / "other", "seed=1")
    for name in ("phantom", "cg", "cg_penalty"):
        first = image(result, name)
        assert (first - image(again, name)).abs().max() <= 1e-5 * first.abs().max()
        assert (first - image(other, name)).abs().max() > 1e-2 * first.abs().max()
    assert other[1]["seed"] == 1


def test_counts_are_poisson_and_keyed_by_the_seed() -> None:
    integrals = torch.full((200, 200), 1.5)
    counts = demo._counts(integrals, 1000.0, seed=3)
    mean = 1000 * np.exp(-1.5)
    assert torch.equal(counts, counts.round())
    assert float(counts.mean()) == pytest.approx(mean, rel=0.01)
    assert float(counts.var()) == pytest.approx(mean, rel=0.05)
    assert torch.equal(counts, demo._counts(integrals, 1000.0, seed=3))
    assert not torch.equal(counts, demo._counts(integrals, 1000.0, seed=4))


def test_fewer_photons_and_a_loose_tolerance_have_their_effect(result: Result, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="counted no photon"):
        dark = small(tmp_path, "scan.photons=100", "solve.tolerance=0.3")[1]
    assert dark["relative_error"]["cg"] > 1.2 * result[1]["relative_error"]["cg"]
    assert 0 < dark["starved_rays"] < 0.5
    loose, tight = (record["solves"]["cg_penalty"] for record in (dark, result[1]))
    assert tight["relative_residual"] <= 1e-3 < loose["relative_residual"] <= 0.3
    assert loose["iterations"] < tight["iterations"]


def _never(*arguments: object, **options: object) -> None:
    raise AssertionError("the run began to compute")


@pytest.mark.parametrize("package", ["nibabel", "matplotlib"])
def test_a_missing_extra_stops_it_at_the_start(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.phantoms.chest_phantom", _never)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"The demo needs {package}.*\[io\]"):
        small(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_stops_it_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.phantoms.chest_phantom", _never)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        small(tmp_path / "file")
    with pytest.raises(OSError, match="/proc"):
        small(Path("/proc/self"))


def test_a_run_that_fails_leaves_no_record_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr("pipelines.montage.save_montage", fail)
    with pytest.raises(OSError, match="No space left"):
        small(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cg.nii.gz", "cg_penalty.nii.gz", "phantom.nii.gz"]


def test_one_view_is_spelt_so(tmp_path: Path) -> None:
    said = small(tmp_path, "scan.views=1")[2]
    assert "2/4 scan        1 view, 20000 photons per ray" in said


@pytest.mark.parametrize(
    "override",
    [
        "scan.photons=0.5",
        "scan.photons=1e13",
        "solve.tolerance=1.0",
        "seed=9223372036854775808",
        "solve.iterations=0",
    ],
)
def test_settings_that_cannot_work_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load(DemoConfig, env={}, overrides=[override])


@pytest.mark.parametrize("photons", ["1", "1e12"])
@pytest.mark.filterwarnings("ignore:.*counted no photon")
def test_the_extremes_of_light_are_survived(tmp_path: Path, photons: str) -> None:
    record = small(tmp_path, f"scan.photons={photons}")[1]
    assert np.isfinite(record["relative_error"]["cg_penalty"])
