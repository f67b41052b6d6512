"""Which cells the comparison has, and how their records become tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.config.loading import load
from pipelines.config.manifest import Manifest
from pipelines.quality.cells import cells, fast_cells
from pipelines.quality.problems import CORE
from pipelines.quality.roster import BASELINE, DEFAULT, ENTRIES, FEW, TRIALS
from pipelines.quality.subjects import MANIFESTS, held_out, others, stand_in
from pipelines.quality.summary import HEADS, committed, entries_of, floor_line, floors, rows_of


def splits() -> dict[str, tuple[str, str]]:
    found = {}
    for modality in ("ct", "mr"):
        manifest = load(Manifest, MANIFESTS / f"{modality}.toml", env={})
        found |= {entry.name: (entry.split, entry.subject) for entry in manifest.volumes}
    return found


def test_nothing_is_tuned_on_who_is_tested() -> None:
    known = splits()
    for cell in cells():
        assert {known[place.volume][0] for place in cell.places} == {"test"}
        assert {known[place.volume][0] for place in cell.tuned_on} <= {"train"}
        tested = {known[place.volume][1] for place in cell.places}
        assert not tested & {known[place.volume][1] for place in cell.tuned_on}
        assert cell.tuned == bool(cell.tuned_on)
        assert len(cell.values) in (0, TRIALS)


def test_core_cells_are_large_for_quick_solvers_alone() -> None:
    found = list(cells())
    assert len({cell.name for cell in found}) == len(found)
    for cell in found:
        assert not cell.entry.closed or cell.problem in ("blur", "missing")
        assert not cell.entry.form or cell.problem in CORE
        if cell.mark:
            assert (cell.problem, len(cell.places), cell.draws) == ("ct20", 4, 64)
        elif cell.tuned and cell.entry.backward:
            assert cell.problem in CORE
            assert (len(cell.places), cell.draws) == (4, 2)
        elif cell.problem in CORE and cell.entry.evaluations <= FEW:
            assert (len(cell.places), cell.draws) == (24, 8)
        else:
            assert (len(cell.places), cell.draws) == (4, 2)
    for modality in ("ct", "mr"):
        places = held_out(modality)
        assert len(places) == 24
        assert len({(place.volume, place.axis, place.share) for place in places}) == 24
        assert len({place.number for place in (*places, *others(modality))}) == 26


def test_the_default_solver_is_one_at_its_defaults() -> None:
    for name in DEFAULT.values():
        solver = ENTRIES[name].make(None, 0.0)
        assert solver == type(solver)()
    assert ENTRIES[BASELINE].values
    assert not ENTRIES[BASELINE].untuned  # it has no default weight


def test_fast_cells_are_few() -> None:
    found = list(fast_cells((), (), lambda m: (stand_in(m, 0),) * 3, lambda m: (stand_in(m, 1000),)))
    assert all(len(cell.places) == 1 and cell.draws == 2 for cell in found)
    assert {cell.problem for cell in found} == {"ct20", "mri4"}


def record(entry: str, levels: list[float], *, tuned: bool = False) -> dict[str, Any]:
    figures = [{"psnr": level, "ssim": 0.9, "nrmse": 0.1, "chi2": 1.0} for level in levels]
    slices = [
        {
            "volume": "v", "axis": "axial", "share": i, "mean": one, "draw": one,
            "kind": "approximate sample", "rows": 8, "evaluations": 50.0, "backward": 0.0, "seconds": 1.0,
        }
        for i, one in enumerate(figures)
    ]  # fmt: skip
    tuning = {"tuning": {"parameter": "weight", "value": 3.0}} if tuned else {}
    name = f"{entry} (tuned)" if tuned else entry
    return {
        "problem": "ct20", "solver": name, "entry": entry, "tuned": tuned, "status": "done", "draws": 8,
        "slices": slices, "key": "", **tuning,
    }  # fmt: skip


def test_rows_compare_the_slices_that_both_have_and_judge_the_floor() -> None:
    baseline = record("TV", [20.0, 30.0, 25.0, 40.0], tuned=True)
    rows = {row["solver"]: row for row in rows_of([baseline, record("DDS", [22.0, 31.0, 27.0])])}
    assert rows["DDS"]["mean_psnr"] == 27.0
    assert rows["DDS"]["mean_psnr_worst"] == 22.0
    mean, low, high = rows["DDS"]["beside"]
    assert mean == pytest.approx(5 / 3)
    assert (low, high) == pytest.approx((5 / 3 - 4.303 / 3, 5 / 3 + 4.303 / 3), abs=1e-3)  # sd 1 / sqrt(3)
    assert "beside" not in rows["TV (tuned)"]
    for levels, verdict in (
        ([22.0, 32.0, 27.1], "above"),
        ([19.0, 31.0, 25.0], "level"),
        ([19.0, 29.0, 23.9], "below"),
    ):
        found, *others = floors(rows_of([baseline, record("DDS", levels)]))
        assert (found["verdict"], found["held"]) == (verdict, verdict != "below")
        assert {(one["verdict"], one["held"]) for one in others} == {("not measured", False)}
    lost = {**record("DDS", []), "status": "diverged", "reason": "sigma"}
    for default, verdict in ((record("DDS", [float("nan"), 31.0]), "not measured"), (lost, "diverged")):
        found = floors(rows_of([baseline, default]))[0]
        assert (found["verdict"], found["held"]) == (verdict, False)
    assert "the aim is +5 dB" in floor_line(floors(rows_of([baseline, record("DDS", [22.0, 31.0, 27.0])]))[0])
    told = committed([baseline], {"torch": "x"})
    assert json.loads(json.dumps(told))["cells"][0]["tuning"]["value"] == 3.0


def test_ensembles_tell_the_evaluations_of_all_particles() -> None:
    plain, ensemble = record("DDS", [30.0]), record("AFDPS, 16 x 50", [30.0])
    ensemble["slices"][0] |= {"rows": 16, "evaluations": 51.0, "effective_number": 9.0, "seconds": 8.0}
    told = {
        row["entry"]: dict(zip(HEADS, entries_of(row), strict=True)) for row in rows_of([plain, ensemble])
    }
    assert told["DDS"]["evaluations"] == "50"
    assert told["DDS"]["s / slice (draw)"] == "1.0 (0.12)"
    assert told["AFDPS, 16 x 50"]["evaluations"] == "51 x 16"
    assert told["AFDPS, 16 x 50"]["s / slice (draw)"] == "8.0 (0.50)"
