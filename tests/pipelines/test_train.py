"""`workbench train`: what it keeps, how it goes on, and what it refuses."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from operators.errors import NonFiniteError
from operators.grid import Grid
from pipelines.config.loading import ConfigError, load
from pipelines.config.training import TrainConfig
from pipelines.train import run
from pipelines.training.ablation import table
from workbench.io import tensor_file
from workbench.io.nifti import write_nifti
from workbench.io.slice_prior import read_slice_prior
from workbench.io.tensor_file import open_tensors
from workbench.io.weights import read_card
from workbench.random import Keys
from workbench.training.slices import SliceSource
from workbench.volume import Volume

RECIPE = """
name = "tiny"
licence = "Apache-2.0"
[data]
manifests = ["{manifest}"]
procedural = 0.0
sizes = [[16, 16]]
[network]
widths = [16, 16]
blocks = [1, 1]
attention = []
[optimiser]
steps = 12
rows = 4
warmup = 3
[report]
every = 5
keep = 4
pictures = 6
split = "train"
images = 4
levels = [0.1, 1.0]
"""
VOLUME = """
[[volumes]]
name = "{name}"
subject = "{subject}"
split = "{split}"
kind = "nifti"
path = "{path}"
unit = "{unit}"
attribution = "nobody"
licence = "CC0-1.0"
"""


def blobs(seed: int) -> Volume:
    """Return a body of soft values in air."""
    grid = Grid.from_spacing((48, 48, 48), 3.0)
    at = (torch.arange(48) - 23.5) / 24
    radius = (at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).sqrt()
    noise = Keys(seed, draws=(0,)).normals((48, 48, 48), "blobs", like=torch.empty(0))[0]
    return Volume(torch.where(radius < 0.8, 40 + 20 * noise, torch.tensor(-1000.0)), grid, "HU")


def manifest(folder: Path, *volumes: str, name: str = "m.toml") -> Path:
    path = folder / name
    path.write_text('name = "test"\n' + "\n".join(volumes))
    return path


def entry(name: str = "a", subject: str = "A", split: str = "train", path: str = "a.nii", unit: str = "HU"):
    return VOLUME.format(name=name, subject=subject, split=split, path=path, unit=unit)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_nifti(tmp_path / "a.nii", blobs(1))
    write_nifti(tmp_path / "b.nii", blobs(2))
    manifest(tmp_path, entry(), entry("b", "B", "test", "b.nii"))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(manifest=tmp_path / "m.toml"))
    return tmp_path


def config(folder: Path, *overrides: str) -> TrainConfig:
    return load(TrainConfig, folder / "recipe.toml", overrides=overrides, env={})


def quietly(text: str) -> None:
    del text


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    grid = Grid.plane((16, 16), (2.0, 2.0))
    prior = read_slice_prior(out / "prior.safetensors", grid, energy=70.0)
    assert (prior.units.unit, prior.noise_range) == ("1/mm", (0.002, 80.0))
    assert prior.denoise(torch.zeros(1, 1, 16, 16), 1.0).shape == (1, 1, 16, 16)
    plain = read_slice_prior(out / "prior.safetensors", grid)
    assert plain.units.unit == "HU"
    with pytest.raises(ValueError, match=r"`grid` must have voxels of 1.5 to 3 mm.* got 4 mm"):
        read_slice_prior(out / "prior.safetensors", Grid.plane((16, 16), (4.0, 4.0)))


def test_a_run_that_was_stopped_goes_on_with_the_losses_it_would_have_had(folder: Path) -> None:
    run(config(folder), folder, folder / "whole", say=quietly)
    # Steps and what is reported may change from call to call.
    run(config(folder, "optimiser.steps=7", "report.keep=3"), folder, folder / "parts", say=quietly)
    run(config(folder), folder, folder / "parts", say=quietly)
    same = [(folder / name / "losses.csv").read_text() for name in ("whole", "parts")]
    assert same[0] == same[1]
    states = [open_tensors(folder / name / "state.safetensors").tensors() for name in ("whole", "parts")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def command(folder: Path, out: str, *more: str) -> list[str]:
    program = [sys.executable, "-m", "pipelines.cli", "train", str(folder / "recipe.toml")]
    return [*program, "--data", str(folder), "--out", str(folder / out), "--device", "cpu", *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_with_identical_losses(folder: Path, how: signal.Signals) -> None:
    longer = config(folder, "optimiser.steps=40")
    run(longer, folder, folder / "whole", say=quietly)

    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        command(folder, "killed", "--set", "optimiser.steps=40"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=interruptible,
    )
    state = folder / "killed" / "state.safetensors"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    code = process.wait(timeout=60)
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    kept = int(open_tensors(state).tensors()["step"])
    assert 4 <= kept < 40
    run(longer, folder, folder / "killed", say=quietly)
    same = [(folder / name / "losses.csv").read_text() for name in ("whole", "killed")]
    assert same[0] == same[1]


def test_two_ranks_have_the_losses_of_one(folder: Path) -> None:
    run(config(folder), folder, folder / "one", say=quietly)
    program = command(folder, "two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, *program[1:]], env=environment(), check=True, capture_output=True, timeout=200)
    values = [
        [float(line.split(",")[1]) for line in (folder / name / "losses.csv").read_text().splitlines()[1:]]
        for name in ("one", "two")
    ]
    assert values[1] == pytest.approx(values[0], rel=2e-3)  # bfloat16 rounds parts of a batch otherwise
    assert len(values[1]) == 12


def test_a_full_disk_leaves_the_state_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config(folder, "optimiser.steps=4"), folder, folder / "run", say=quietly)
    state = folder / "run" / "state.safetensors"
    before = state.read_bytes()
    library = tensor_file._library("test")

    class Full:
        safe_open, SafetensorError = library.safe_open, library.SafetensorError

        class torch:
            @staticmethod
            def save_file(tensors: object, path: str, metadata: object) -> None:
                Path(path).write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensor_file, "_library", lambda feature: Full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(config(folder), folder, folder / "run", say=quietly)
    assert str(caught.value.filename) == str(state)
    monkeypatch.undo()
    assert state.read_bytes() == before
    assert not list((folder / "run").glob(".partial*"))
    run(config(folder), folder, folder / "run", say=quietly)
    run(config(folder), folder, folder / "whole", say=quietly)
    assert (folder / "run" / "losses.csv").read_text() == (folder / "whole" / "losses.csv").read_text()


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
    assert "the last state that was kept is untouched" in said[-1]
    assert int(open_tensors(folder / "run" / "state.safetensors").tensors()["step"]) == 4
    monkeypatch.undo()
    run(config(folder), folder, folder / "run", say=quietly)


def test_runs_begin_from_weights_and_say_so(folder: Path) -> None:
    first = run(config(folder), folder, folder / "first", say=quietly)
    weights = folder / "first" / "prior.safetensors"
    record = run(config(folder), folder, folder / "second", warm=weights, say=quietly)
    assert record["first_weights"] == read_card(weights).sha256
    assert record["metrics"]["denoising rmse at 1"] < first["metrics"]["denoising rmse at 1"]


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
        ([entry(), entry("b", "A", "test", "b.nii")], "the subject 'A' must be in one split, got test and"),
        ([entry(), entry("b", "B", "test", "a.nii")], "the file 'a.nii' must be in one split"),
        ([entry(), entry("a", "B")], "names must each be used once, got a more often"),
        ([entry("c", split="other")], "'train', 'validate' or 'test'"),
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
    with pytest.raises(ValueError, match="`data` must hold one volume or more"):
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
    run(config(folder), folder, folder / "other", say=quietly)
    with pytest.raises(ValueError, match="`folders` must be runs that look at the same images"):
        table([folder / "base", folder / "other"])
    with pytest.raises(ValueError, match="`data.hold_out` must name subjects that train: A, B, got C"):
        run(config(folder, 'data.hold_out=["C"]'), folder, folder / "c", say=quietly)


def test_the_verb_shows_its_settings(folder: Path) -> None:
    program = [sys.executable, "-m", "pipelines.cli", "train", "ct-slice", "--show"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    (folder / "shown.toml").write_text(shown)
    again = load(TrainConfig, folder / "shown.toml", env={})
    assert again.name == "ct-slice"
    assert again.data.manifests == ("data_manifests/ct.toml",)
