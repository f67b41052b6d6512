"""The demo, small: what it writes is what it computed, and every setting has its effect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.extras import MissingExtraError
from operators.grid import Grid
from pipelines.config.demo import DemoConfig
from pipelines.config.loading import ConfigError, load
from pipelines.demo import run
from pipelines.simulated_scan import simulated_scan
from workbench.io.nifti import read_nifti
from workbench.phantoms import chest_phantom

pytest.importorskip("nibabel", reason="the demo writes NIfTI: [io]")

# Few iterations are enough to see that every setting has its effect.
pytestmark = pytest.mark.filterwarnings("ignore:TotalVariation stopped at a residual")

SMALL = (
    "phantom.shape=[6, 32, 40]",
    "phantom.spacing=[8.0, 8.0, 8.0]",
    "scan.views=24",
    "cg.iterations=12",
    "tv.iterations=40",
)

Result = tuple[Path, dict[str, Any], list[str]]


def configured(*overrides: str) -> DemoConfig:
    return load(DemoConfig, env={}, overrides=[*SMALL, *overrides])


def small(folder: Path, *overrides: str) -> Result:
    said: list[str] = []
    return folder, run(configured(*overrides), folder, say=said.append), said


def image(result: Result, name: str) -> torch.Tensor:
    return read_nifti(result[0] / f"{name}.nii.gz").data


def of(result: Result, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = result[1]["reconstructions"][name]
    return facts


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return small(tmp_path_factory.mktemp("demo"))


def test_files_open_elsewhere_in_the_right_place(result: Result) -> None:
    import nibabel

    folder, record, _ = result
    expected = Grid.from_spacing((6, 32, 40), 8.0)
    for name in ("phantom", "cg", "tv"):
        stored = nibabel.load(folder / f"{name}.nii.gz")
        assert stored.shape == (40, 32, 6)
        assert np.allclose(stored.affine, expected.nifti_affine)
        assert np.isfinite(stored.get_fdata()).all()
        read = read_nifti(folder / f"{name}.nii.gz")
        assert (read.unit, read.space) == ("1/mm", "scanner")
    assert sorted(p.name for p in folder.iterdir()) == sorted(record["files"])


def test_the_errors_are_those_of_the_files(result: Result) -> None:
    truth = image(result, "phantom")
    for name, bound in (("cg", 0.2), ("tv", 0.17)):
        expected = ((image(result, name) - truth) ** 2).sum().sqrt() / (truth**2).sum().sqrt()
        assert of(result, name)["relative_error"] == pytest.approx(float(expected), rel=1e-5)
        assert expected < bound


def objective(result: Result, name: str, weight: float) -> float:
    """Return -log p(counts | image) + weight * TV, written out, of an image as it lies in its file."""
    config = configured()
    counts = simulated_scan(config).measurement.data.double().clamp(min=0.5)
    x = image(result, name).double()
    projector = ParallelBeamGeometry.around(Grid.from_spacing((6, 32, 40), 8.0), config.scan.views)
    m = projector.operator(Grid.from_spacing((6, 32, 40), 8.0))(x)
    misfit = counts * (m + (counts / config.scan.photons).log()) ** 2 - (counts / (2 * np.pi)).log()
    steps = [torch.diff(x, dim=axis, append=x.narrow(axis, -1, 1)) / 8.0 for axis in range(3)]
    return float(misfit.sum() / 2 + weight * torch.stack(steps).square().sum(0).sqrt().sum())


def test_total_variation_minimises_what_it_says(result: Result) -> None:
    mine = objective(result, "tv", 1000.0)
    assert of(result, "tv")["last_step"]["objective"] == pytest.approx(mine, rel=1e-3)
    assert mine < objective(result, "cg", 1000.0)
    assert image(result, "tv").min() >= 0 > image(result, "cg").min()


def test_the_two_solves_are_not_exchanged(result: Result, tmp_path: Path) -> None:
    flatter = small(tmp_path, "tv.weight=10000", "tv.iterations=80")
    assert torch.equal(image(flatter, "cg"), image(result, "cg"))
    before, after = (float(image(r, "tv").diff(dim=-1).abs().sum()) for r in (result, flatter))
    assert after < 0.9 * before
    assert (of(result, "cg")["steps_taken"], of(result, "tv")["steps_taken"]) == (12, 40)


def test_the_record_says_what_was_done(result: Result) -> None:
    folder, record, said = result
    assert json.loads((folder / "run.json").read_text()) == record
    assert record["seed"] == 0
    assert record["scan"]["source"] == "chest phantom"
    assert record["scan"]["engine"] in ("numba", "torch")
    assert record["scan"]["starved_rays"] == 0.0
    assert 0 <= record["scan"]["adjoint_mismatch"] < 1e-6
    for name, solver in (("cg", "ConjugateGradient(iterations=12"), ("tv", "TotalVariation(weight=1000.0")):
        facts = of(result, name)
        assert (facts["kind"], facts["unit"]) == ("point estimate", "1/mm")
        assert facts["solver"].startswith(solver)
        assert facts["ledger"]["forwards"] >= facts["steps_taken"]
        assert facts["environment"]["torch"] == str(torch.__version__)
    assert set(of(result, "cg")["last_step"]) == {"relative_residual"}
    assert any(line.endswith("against the phantom: point estimate") for line in said)
    assert any("not a medical device" in line for line in said)
    assert load(DemoConfig, folder / "config.toml", env={}) == configured()


def test_the_engine_tells_its_progress(result: Result) -> None:
    cg, tv = (next(line for line in result[2] if f"    {name} " in line) for name in ("CG  ", "TV  "))
    assert "step 12 of at most 12, relative_residual" in cg
    assert "of at most 40, objective" in tv


def test_it_may_arrive_before_the_limit(tmp_path: Path) -> None:
    facts = of(small(tmp_path, "tv.iterations=3000", "tv.tolerance=0.02"), "tv")
    assert facts["steps_taken"] < facts["plan"]["steps"] == 3000
    assert facts["last_step"]["residual"] <= 0.02


def test_the_engine_is_the_one_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.ct.engines.missing", lambda engine: engine.package is not None)
    assert simulated_scan(configured()).facts["engine"] == "torch"


def test_the_same_seed_gives_the_same_files(result: Result, tmp_path: Path) -> None:
    again = small(tmp_path)
    for path in result[0].iterdir():
        if path.name != "run.json":
            assert (again[0] / path.name).read_bytes() == path.read_bytes(), path.name
    for name in ("cg", "tv"):
        ours, theirs = ({**of(r, name), "ledger": None} for r in (result, again))
        assert ours == theirs


def test_counts_are_poisson_and_keyed_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Grid.from_spacing((6, 32, 40), 8.0).resample(shape=(6, 64, 80))
    chest = chest_phantom(fine)
    other = simulated_scan(configured("seed=1"))
    assert not torch.equal(other.truth.data, chest.downsample((1, 2, 2)).data)
    # From here on the same object: what differs is the noise.
    monkeypatch.setattr("pipelines.simulated_scan.chest_phantom", lambda grid, *, seed: chest)
    scans = [simulated_scan(configured("scan.photons=1000", f"seed={k}")).measurement for k in (0, 0, 1)]
    first, again, other_noise = (scan.data.double() for scan in scans)
    line = ParallelBeamGeometry.around(Grid.from_spacing((6, 32, 40), 8.0), 24).operator(fine)
    mean = 1000 * torch.exp(-line(chest.data).double())
    n = mean.numel()
    for counts in (first, other_noise):
        assert torch.equal(counts, counts.round())
        pull = (counts - mean) / mean.sqrt()
        # Mean 0 and variance 1; the variance of pull^2 is 2 + 1 / mean.
        assert abs(float(pull.mean())) < 5 / n**0.5
        assert abs(float(pull.square().mean()) - 1) < 5 * ((2 + float((1 / mean).mean())) / n) ** 0.5
    assert torch.equal(first, again)
    assert not torch.equal(first, other_noise)


def test_the_truth_is_the_fine_object_on_the_grid_of_the_reconstruction() -> None:
    truth = simulated_scan(configured()).truth
    direct = chest_phantom(Grid.from_spacing((6, 32, 40), 8.0))
    assert truth.grid == direct.grid
    assert float((truth.data - direct.data).norm() / direct.data.norm()) < 0.1


def test_fewer_photons_have_their_effect(result: Result, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="counted no photon"):
        dark = small(tmp_path, "scan.photons=100")
    assert of(dark, "cg")["relative_error"] > 1.2 * of(result, "cg")["relative_error"]
    assert 0 < dark[1]["scan"]["starved_rays"] < 0.5


def _never(*arguments: object, **options: object) -> None:
    raise AssertionError("the run began to compute")


@pytest.mark.parametrize("package", ["nibabel", "matplotlib"])
def test_a_missing_extra_stops_it_at_the_start(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.simulated_scan.simulated_scan", _never)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"The demo needs {package}.*\[io\]"):
        small(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_stops_it_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.simulated_scan.simulated_scan", _never)
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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cg.nii.gz", "phantom.nii.gz", "tv.nii.gz"]


def test_one_view_is_spelt_so(tmp_path: Path) -> None:
    said = small(tmp_path, "scan.views=1")[2]
    assert "1/3 scan        6 x 32 x 40 voxels, 1 view, 20000 photons per ray" in said


@pytest.mark.parametrize(
    "override",
    [
        "scan.photons=0.5",
        "scan.photons=1e13",
        "seed=9223372036854775808",
        "cg.iterations=0",
        "tv.weight=-1",
        "tv.iterations=0",
        "tv.tolerance=1.0",
    ],
)
def test_settings_that_cannot_work_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load(DemoConfig, env={}, overrides=[override])


@pytest.mark.parametrize("photons", ["1", "1e12"])
@pytest.mark.filterwarnings("ignore:.*counted no photon")
def test_the_extremes_of_light_are_survived(tmp_path: Path, photons: str) -> None:
    record = small(tmp_path, f"scan.photons={photons}")[1]
    assert np.isfinite(record["reconstructions"]["tv"]["relative_error"])
