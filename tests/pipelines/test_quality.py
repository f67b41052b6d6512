"""The comparison on held-out subjects: what solvers are told, which cells there are, and that runs go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from operators.grid import Grid
from pipelines.quality import bench as bench_module
from pipelines.quality import subjects
from pipelines.quality.__main__ import main
from pipelines.quality.bench import Bench, Folder
from pipelines.quality.cells import Cell
from pipelines.quality.evaluation import RefusedError
from pipelines.quality.problems import PROBLEMS
from pipelines.quality.queue import Costs, run
from pipelines.quality.subjects import Library, Place, held_out, others, stand_in
from pipelines.quality.summary import markdown, rows_of
from workbench.io.weights import write_network
from workbench.priors.network import Architecture, Card, EDMOutput, Labelled, Provenance, Training
from workbench.priors.slice_frame import LABELS
from workbench.priors.unet import UNet, UNetSettings
from workbench.solvers.classical import ConjugateGradient
from workbench.units import Units

pytest.importorskip("astra", reason="data come from ASTRA's projector: [ct]")
pytest.importorskip("skimage", reason="SSIM is scikit-image's: [image]")
pytest.importorskip("scipy", reason="slices are interpolated by scipy: [io]")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NOTHING = Path("no-such-folder")


def weights(folder: Path, *, is_complex: bool = False, seed: int = 2, spread: float = 0.5) -> Path:
    """Return a file of weights of no meaning, which nearly leave the image as it is."""
    channels = 2 if is_complex else 1
    settings = UNetSettings(
        in_channels=channels, out_channels=channels, widths=(8, 8), blocks=(1, 1), attention=(),
        groups=4, labels=LABELS,
    )  # fmt: skip
    network = UNet(settings, seed=seed)
    training = Training(
        dimensions=2,
        is_complex=is_complex,
        units=Units() if is_complex else Units(1000.0, 0.0, "HU"),
        data_sd=spread,
        noise_range=(0.002, 80.0),
    )
    notes = {"slices": {"frame": 1, "spacing": [1.0, 20.0], "sizes": [[32, 32]], "axes": ["axial"]}}
    card = Card(
        Architecture.of(network), EDMOutput(spread), Labelled(LABELS), training, Provenance(notes=notes)
    )
    return write_network(folder / f"{'mr' if is_complex else 'ct'}.safetensors", network, card)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let phantoms stand in on grids of 64 x 64: what is tested does not depend on it."""
    monkeypatch.setattr(subjects, "FINE", 64)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(NOTHING, Folder(tmp_path / "work"), {"ct": weights(tmp_path)})


def phantom_cell(solver: str, **changes: Any) -> Cell:
    cell = Cell("ct20", solver, (stand_in("ct", 0),), 2)
    return dataclasses.replace(cell, **changes)


# -- what solvers are told -----------------------------------------------------------------------------


DATA_OF = {"ct20": ("counts",), "mri4": ("kspace", "noise"), "blur": ("data", "noise")}


@pytest.mark.parametrize("name", DATA_OF)
def test_what_is_posed_follows_from_the_data_alone(name: str) -> None:
    """The scan of one object with the data of another is posed as that of the other."""
    if name == "mri4":
        pytest.importorskip("sigpy", reason="coil maps are sigpy's: [mri]")
    problem = PROBLEMS[name]
    (scan, _), (other, _) = (
        problem.measured(Library(NOTHING).fine(stand_in(problem.modality, i)), bench_keys(i)) for i in (3, 4)
    )
    theirs = other.posed()
    ours = dataclasses.replace(scan, **{part: getattr(other, part) for part in DATA_OF[name]}).posed()  # type: ignore[type-var]
    forward, data = ours.likelihood.whitened
    expected, expected_data = theirs.likelihood.whitened
    x = torch.ones(forward.domain.shape, dtype=ours.likelihood.dtype)[None]
    assert torch.equal(data, expected_data)
    assert torch.equal(forward.apply(x), expected.apply(x))
    for part in ("units", "lower", "numbers", "told"):
        assert getattr(ours, part) == getattr(theirs, part)
    assert not torch.equal(scan.posed().likelihood.whitened[1], data)


def test_scale_and_noise_level_of_mri_come_with_the_data() -> None:
    pytest.importorskip("sigpy", reason="coil maps are sigpy's: [mri]")
    fine = Library(NOTHING).fine(stand_in("mr", 3))
    scan, reference = PROBLEMS["mri4"].measured(fine, bench_keys(3))
    louder, brighter = PROBLEMS["mri4"].measured(fine.with_data(7.0 * fine.data), bench_keys(3))
    # A brighter object under as much noise, relative to it, is the same scan in another unit.
    assert torch.allclose(louder.kspace, 7 * scan.kspace, rtol=1e-4)  # type: ignore[attr-defined]
    first, second = scan.posed(), louder.posed()
    assert second.units.scale == pytest.approx(7 * first.units.scale, rel=1e-4)
    sd = [float(posed.likelihood.noise.sigma.mean()) for posed in (first, second)]  # type: ignore[attr-defined]
    assert sd[1] == pytest.approx(7 * sd[0], rel=1e-4)
    # And what is found is near what is true.
    inside = reference.truth[reference.inside]
    assert first.units.scale == pytest.approx(float(torch.quantile(inside, 0.99)), rel=0.2)
    assert brighter.data_range == pytest.approx(7 * reference.data_range, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "least", "most"), [("blur", 0.9, 1.3), ("missing", 0.9, 1.3), ("ct20", 0.3, 2.5)]
)
def test_the_truth_explains_the_data(name: str, least: float, most: float) -> None:
    case = PROBLEMS[name].case(Library(NOTHING).fine(stand_in("ct", 1)), 1)
    assert least < case.posed.misfit(case.reference.truth) < most


def test_what_the_grid_cannot_represent_is_told_without_the_object() -> None:
    """Torsos tell it: another object on the same grid behind the same geometry has the same."""
    laws = [
        PROBLEMS["ct20"]
        .measured(Library(NOTHING).fine(stand_in("ct", i)), bench_keys(i))[0]
        .posed()
        .likelihood.noise
        for i in (1, 2)
    ]
    assert laws[0].excess == laws[1].excess > 0.003


def test_noise_is_that_of_the_slice_whoever_asks() -> None:
    fine = Library(NOTHING).fine(stand_in("ct", 1))
    first, again, other = (PROBLEMS["ct20"].case(fine, number) for number in (1, 1, 2))
    assert torch.equal(first.posed.likelihood.data, again.posed.likelihood.data)
    assert not torch.equal(first.posed.likelihood.data, other.posed.likelihood.data)


def bench_keys(number: int) -> Any:
    from workbench.random import Keys

    return Keys(8, (number,))


# -- runs ----------------------------------------------------------------------------------------------


def costs() -> Costs:
    return Costs({"ct": 0.01})


def test_a_cell_is_computed_once_and_again_where_it_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    computed: list[str] = []
    real = bench_module.evaluated

    def counted(*arguments: Any) -> Any:
        computed.append(type(arguments[2]).__name__)
        return real(*arguments)

    monkeypatch.setattr(bench_module, "evaluated", counted)
    cell = phantom_cell("CG")
    first = bench.computed(cell)
    assert bench.computed(cell) == first
    assert len(computed) == 1
    more = dataclasses.replace(cell, places=(stand_in("ct", 5),))
    assert bench.done(more) is None
    bench.computed(more)
    assert len(computed) == 2
    # Other weights change the cells of learned solvers alone.
    other = dataclasses.replace(bench, bfloat16=True)
    assert other.done(more) is not None
    assert other.key(phantom_cell("DDS")) != bench.key(phantom_cell("DDS"))


def test_a_run_that_was_stopped_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [phantom_cell("FBP"), phantom_cell("CG"), phantom_cell("CG", draws=3, mark="more")]
    real = bench_module.evaluated
    calls = 0

    def stopped(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(bench_module, "evaluated", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(bench, wanted, costs(), jobs=1, say=lambda text: None)
    assert [bench.done(cell) is not None for cell in wanted] == [True, False, False]
    said: list[str] = []
    records = run(bench, wanted, costs(), jobs=1, say=said.append)
    assert len(records) == 3
    assert "3 cells, 1 of them done" in said[0]
    assert calls == 4


def test_no_cell_is_begun_after_the_time(bench: Bench) -> None:
    said: list[str] = []
    records = run(bench, [phantom_cell("CG")], costs(), jobs=1, minutes=1e-9, say=said.append)
    assert records == []
    assert "1 cells are left" in said[-1]


def test_who_refuses_is_a_row_with_its_reason(bench: Bench) -> None:
    records = [bench.computed(phantom_cell(name)) for name in ("DDRM", "CG")]
    assert [record["status"] for record in records] == ["refused", "done"]
    assert "singular values" in records[0]["reason"]
    rows = rows_of(records)
    text = markdown(rows, {})
    assert "DDRM refused: " in text
    assert "| CG | 1 |" in text


def test_a_solver_that_breaks_down_is_a_row_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise FloatingPointError("no numbers")

    monkeypatch.setattr(bench_module, "evaluated", broken)
    record = bench.computed(phantom_cell("CG"))
    assert (record["status"], record["reason"]) == ("failed", "FloatingPointError: no numbers")


def test_tuning_takes_the_value_with_the_best_mean(bench: Bench) -> None:
    places = (stand_in("ct", 1001), stand_in("ct", 1002))
    record = bench.computed(phantom_cell("CG", values=(1.0, 8.0, 30.0), tuned_on=places))
    told = record["tuning"]
    assert told["value"] == told["values"][told["psnr"].index(max(told["psnr"]))]
    assert told["value"] > 1
    assert bench.folder.tuning("ct20/cg-tuned").exists()


def test_a_value_that_is_refused_is_never_the_best(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_module.evaluated

    def choosy(case: Any, place: Any, solver: Any, *rest: Any) -> Any:
        if solver.iterations > allowed:
            raise RefusedError(f"`iterations` must be at most {allowed}")
        return real(case, place, solver, *rest)

    monkeypatch.setattr(bench_module, "evaluated", choosy)
    cell = phantom_cell("CG", values=(1.0, 8.0, 30.0), tuned_on=(stand_in("ct", 1001),))
    allowed = 1
    told = bench.computed(cell)["tuning"]
    assert (told["value"], told["psnr"][1:]) == (1.0, [None, None])
    assert told["without"] == {"8": "`iterations` must be at most 1", "30": "`iterations` must be at most 1"}
    allowed = 0
    record = bench.computed(dataclasses.replace(cell, values=(1.0, 8.0)))
    assert (record["status"], record["reason"]) == ("refused", "`iterations` must be at most 0")


@pytest.mark.parametrize(
    ("message", "status"), [("`steps` must be at least 3, got 2.", "refused"), ("sizes differ", "failed")]
)
def test_a_mistake_in_a_plan_is_no_refusal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, message: str, status: str
) -> None:
    def plan(*arguments: Any) -> Any:
        raise ValueError(message)

    monkeypatch.setattr(ConjugateGradient, "plan", plan)
    assert bench.computed(phantom_cell("CG"))["status"] == status


def test_other_weights_under_the_same_name_are_read_again(bench: Bench, tmp_path: Path) -> None:
    cell = phantom_cell("DDS")
    first = bench.computed(cell)
    grid = bench.case("ct20", cell.places[0]).grid
    z = torch.ones(1, *grid.shape)
    before = bench.prior("ct", grid).denoise(z, 1.0)
    (tmp_path / "ct.safetensors").unlink()
    weights(tmp_path, seed=3, spread=0.8)
    assert bench.done(cell) is None
    assert not torch.equal(bench.prior("ct", grid).denoise(z, 1.0), before)
    assert bench.computed(cell)["slices"][0]["mean"] != first["slices"][0]["mean"]


# -- the command ---------------------------------------------------------------------------------------


def test_fast_runs_from_end_to_end_on_a_phantom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="pictures: [io]")
    pytest.importorskip("sigpy", reason="coil maps are sigpy's: [mri]")
    arguments = [
        "--fast", "--jobs", "1", "--data", str(NOTHING), "--folder", str(tmp_path / "work"),
        "--ct-weights", str(weights(tmp_path)), "--mr-weights", str(weights(tmp_path, is_complex=True)),
        "--solvers", "CG,DDS,DDRM",
    ]  # fmt: skip
    assert main(arguments) == 0
    folder = tmp_path / "work" / "fast"
    told = json.loads((folder / "quality.json").read_text())
    assert {(row["problem"], row["solver"]) for row in told["rows"]} == {
        (problem, solver) for problem in ("ct20", "mri4") for solver in ("CG", "DDS", "DDRM")
    }
    assert {row["status"] for row in told["rows"]} == {"done", "refused"}
    assert (folder / "quality.html").read_text().count("data:image/png") >= 8
    assert (folder / "quality.png").read_bytes().startswith(b"\x89PNG")
    first = capsys.readouterr()
    assert "a phantom stands in" in first.err
    assert "## ct20" in first.out
    assert main(arguments) == 0
    assert "6 cells, 6 of them done" in capsys.readouterr().err


def test_without_the_data_the_full_run_says_where_they_come_from(tmp_path: Path) -> None:
    arguments = ["--data", str(NOTHING), "--folder", str(tmp_path), "--ct-weights", str(weights(tmp_path))]
    with pytest.raises(ValueError, match="data_manifests"):
        main([*arguments, "--only", "ct20"])
    with pytest.raises(SystemExit):
        main(["--only", "ct21"])


@pytest.mark.skipif(not (DATA / "ct").exists(), reason=f"the real data are not in {DATA}")
@pytest.mark.parametrize("place", [held_out("ct")[1], others("ct")[1], held_out("mr")[1], others("mr")[0]])
def test_real_slices_lie_on_a_fine_grid_with_the_body_in_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    fine = Library(DATA).fine(place)
    assert fine.grid.shape == (1, 256, 256)
    assert fine.grid.spacing[1:] == pytest.approx((place.spacing, place.spacing))
    bright = fine.data > (-500.0 if place.modality == "ct" else 0.1 * fine.data.max())
    assert 0.05 < float(bright.float().mean()) < 0.8
    # Superior, anterior and right go up with the indices, and the frame is that of the volume.
    assert isinstance(fine.grid, Grid)
    assert fine.grid.orientation[1:] in ("AR", "SR", "SA")
