"""`workbench train`: what it keeps, and where it begins."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from operators.errors import NonFiniteError
from operators.grid import Grid
from pipelines.config.loading import config_hash, load
from pipelines.config.training import TrainConfig
from pipelines.quality.subjects import Library, stand_in
from pipelines.train import run
from pipelines.training.ablation import places_of, reconstructed, table
from pipelines.training.data import read_manifests
from tests.pipelines.train_cases import (
    config,
    entry,
    folder,
    manifest,
    one_thread,
    quietly,
)
from workbench.io.slice_prior import read_slice_prior
from workbench.io.tensor_file import open_tensors
from workbench.io.weights import read_card
from workbench.shipped import shipped_path
from workbench.training.slices import SliceSource

__all__ = ["folder", "one_thread"]  # fixtures


def test_a_run_leaves_what_it_says_and_a_prior_in_one_line(folder: Path) -> None:
    lines: list[str] = []
    record = run(config(folder), folder, folder / "run", say=lines.append)
    out = folder / "run"
    assert (record["step"], record["steps"]) == (12, 12)
    assert json.loads((out / "run.json").read_text()) == record
    losses = (out / "losses.csv").read_text().splitlines()
    assert losses[0] == "step,loss,norm,rate"
    assert [int(line.split(",")[0]) for line in losses[1:]] == list(range(1, 13))
    assert [*json.loads((out / "curves.json").read_text())] == ["6", "12"]
    assert sorted(path.name for path in (out / "samples").iterdir()) == [
        "step-0000006.png",
        "step-0000012.png",
    ]
    assert any("left" in line and "ms a step" in line for line in lines)
    card = read_card(out / "prior.safetensors")
    assert (card.provenance.steps, card.dtype) == (12, "float16")
    assert card.provenance.attribution == "nobody (CC0-1.0)"
    assert "A" in card.provenance.data
    assert "B" not in card.provenance.data.replace("subjects", "")
    assert card.provenance.metrics["denoising rmse at 1"] > 0
    grid = Grid.plane((16, 16), (2.5, 2.5))
    prior = read_slice_prior(out / "prior.safetensors", grid, energy=70.0)
    assert (prior.units.unit, prior.noise_range) == ("1/mm", (0.002, 80.0))
    assert prior.denoise(torch.zeros(1, 1, 16, 16), 1.0).shape == (1, 1, 16, 16)
    plain = read_slice_prior(out / "prior.safetensors", grid)
    assert plain.units.unit == "HU"
    # Of voxels of 3 mm no finer slices can be cut than of 2.4 mm, whatever the settings would have.
    for spacing in (2.0, 4.0):
        with pytest.raises(ValueError, match=rf"`grid` must have voxels of 2.4 to 3 mm.* got {spacing:g} mm"):
            read_slice_prior(out / "prior.safetensors", Grid.plane((16, 16), (spacing, spacing)))
    notes = card.provenance.notes
    assert notes["metrics_measured"] == {"step": 12, "on": "1 measured volumes of 1 subjects"}
    assert (notes["subjects"], notes["generated_share"]) == (["A"], 0.0)


def test_a_loss_that_is_not_finite_names_step_and_image_and_keeps_the_last_state(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SliceSource.batch

    def broken(self, step, rows, whole):
        batch = plain(self, step, rows, whole)
        if step == 7:
            batch.images[2] = math.nan
        return batch

    monkeypatch.setattr(SliceSource, "batch", broken)
    said: list[str] = []
    with pytest.raises(NonFiniteError, match=r"the loss of step 7 is not finite in 1 of 4 rows \(a, "):
        run(config(folder), folder, folder / "run", say=said.append)
    assert "the last state that was kept is untouched: begin anew with --out NEW --from" in said[-1]
    assert int(open_tensors(folder / "run" / "state.safetensors").tensors()["step"]) == 4
    with pytest.raises(NonFiniteError):
        run(config(folder, "report.keep=50"), folder, folder / "none", say=said.append)
    assert said[-1] == "no state was kept before it"
    monkeypatch.undo()
    # The remedy: a lower rate from the last weights, in another folder.
    weights = folder / "run" / "prior.safetensors"
    run(config(folder, "optimiser.rate=1e-4"), folder, folder / "new", warm=weights, say=quietly)


def test_runs_begin_from_weights_and_say_so(folder: Path) -> None:
    first = run(config(folder), folder, folder / "first", say=quietly)
    weights = folder / "first" / "prior.safetensors"
    manifest(folder, entry("b", "B", path="b.nii"))
    record = run(config(folder), folder, folder / "second", warm=weights, say=quietly)
    assert record["first_weights"] == read_card(weights).sha256
    assert record["metrics"]["denoising rmse at 1"] < first["metrics"]["denoising rmse at 1"]
    # Who trained the first weights trained these, too.
    told = read_card(folder / "second" / "prior.safetensors").provenance
    assert (told.steps, told.notes["subjects"]) == (24, ["A", "B"])
    assert told.data == "1 measured volumes of 1 subjects: B. Before: 1 measured volumes of 1 subjects: A"
    (stage,) = told.notes["stages"]
    assert stage["steps"] == 12
    assert stage["weights_sha256"] == read_card(weights).sha256
    assert stage["config_sha256"] == config_hash(config(folder))
    manifest(folder, entry(split="test"), entry("b", "B", path="b.nii"))
    with pytest.raises(ValueError, match="`from` must know nobody who is .* tested on, got weights .* on A"):
        run(config(folder), folder, folder / "third", warm=weights, say=quietly)
    with pytest.raises(ValueError, match=r"`from` must be weights with the output EDMOutput\(.*0.1"):
        run(config(folder, "objective.data_sd=0.1"), folder, folder / "third", warm=weights, say=quietly)


def test_levels_of_a_narrow_range_are_drawn_within_it(folder: Path) -> None:
    narrow = ("objective.noise_range=[0.02, 10]", "optimiser.steps=2")
    run(config(folder, *narrow), folder, folder / "run", say=quietly)
    assert read_card(folder / "run" / "prior.safetensors").training.noise_range == (0.02, 10.0)


def test_the_workbenchs_manifests_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [m.name for m in read_manifests(("data_manifests/ct.toml",))] == ["ct"]


def test_runs_are_compared_on_subjects_that_they_hold_out(folder: Path) -> None:
    manifest(folder, entry(), entry("b", "B", "train", "b.nii"))
    held = ('data.hold_out=["B"]', "report.split=validate")
    for name, more in (("base", ()), ("more", ("network.widths=[32, 16]",))):
        run(config(folder, *held, *more), folder, folder / name, say=quietly)
    assert "B" not in read_card(folder / "base" / "prior.safetensors").provenance.data.split(": ")[1]
    lines = table([folder / "base", folder / "more"])
    assert lines[0] == "| run | weights | steps | 0.1 | 1 |"
    assert [line.split(" | ")[2] for line in lines[2:]] == ["6", "12", "6", "12"]
    assert lines[3].count("(100 %)") == 2
    scanned = table([folder / "base"], {folder / "base": 31.234})
    assert [line.split(" | ")[-1] for line in scanned[2:]] == [" |", "31.23 |"]
    with pytest.raises(ValueError, match="`folders` must be runs that hold out a subject of the manifests"):
        places_of(config(folder, *held), Library(folder))
    run(config(folder), folder, folder / "other", say=quietly)
    with pytest.raises(ValueError, match="`folders` must be runs that look at the same images"):
        table([folder / "base", folder / "other"])
    with pytest.raises(ValueError, match="`data.hold_out` must name subjects that train: A, B, got C"):
        run(config(folder, 'data.hold_out=["C"]'), folder, folder / "c", say=quietly)


def test_what_a_run_reconstructs_is_part_of_the_comparison() -> None:
    found = reconstructed(shipped_path("ct-slice"), Library(Path()), [stand_in("ct", 1)])
    assert 20 < found < 60


def test_the_verb_shows_its_settings(folder: Path) -> None:
    program = [sys.executable, "-m", "pipelines.cli", "train", "ct-slice", "--show"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    (folder / "shown.toml").write_text(shown)
    again = load(TrainConfig, folder / "shown.toml", env={})
    assert again.name == "ct-slice"
    assert again.data.manifests == ("data_manifests/ct.toml",)
