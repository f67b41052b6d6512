"""Records of cells as rows: median and worst slice, and how far from the baseline, slice by slice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.quality.metrics import mean_interval
from pipelines.quality.problems import CORE, PROBLEMS
from pipelines.quality.roster import BASELINE, DEFAULT, ENTRIES

__all__ = [
    "ABOUT",
    "HEADS",
    "Row",
    "committed",
    "entries_of",
    "floor_line",
    "floors",
    "markdown",
    "rows_of",
    "truth_line",
]

Row = dict[str, Any]
#: Of figures whose lower values are better the worst is the largest.
BETTER_LOW = ("nrmse",)
DIGITS = 5
#: What is told of a cell besides its row.
KEPT = (
    "problem", "solver", "status", "reason", "draws", "tuning", "slices", "lost", "warnings", "key", "commit",
)  # fmt: skip
#: What slices tell of their data, whatever the solver.
OF_THE_DATA = ("truth_chi2", "counting_sd", "excess_sd", "excess_share")
#: What the default solver is hoped to be above the baseline, in dB.
AIMS = {"ct20": 5.0}
#: Of the tables.
HEADS = (
    "solver", "slices x draws", "PSNR, worst", "draw", "SSIM, worst", "draw", "NRMSE", "chi^2, draw",
    "held (exact)", "evaluations", "s / slice (draw)", "beside tuned TV, dB",
)  # fmt: skip
ABOUT = """\
Solvers on real subjects that no prior was trained on, `make bench-quality`: slices of 128 x 128, data from
a grid twice as fine by another projector, the same noise for all solvers. CT: NSCLC Radiogenomics R01-001
(chest, 2.77 mm) and TotalSegmentator's example (abdomen and pelvis, 3 mm; its finer grid of 1.5 mm by cubic
splines). MRI: studyforrest's T1 head (1.8 mm; cubic splines on 0.9 mm), a smooth phase and eight coils
simulated; compared are magnitudes, where the coil maps are not zero. Scale, coil maps and noise levels
are estimated from the data, or from a scan of noise.

"Tuned": one parameter at 8 values, the best mean PSNR of means of two draws on two slices of two other
subjects, which learned priors were trained on. Without it solvers stand at their class's defaults, except
short forms, whose steps and iterations are fewer (the JSON has them). Rows are of as many slices and draws
as they say: those of more than 50 evaluations, and all of problems that are not core (ct20, ct40, ct60 and
mri4, where alone learned solvers are tuned), of four slices and two draws. PSNR (posterior mean: median and
worst slice; single draws: median) and SSIM refer to a range of 2000 HU, or the 0.99 quantile of the head's
magnitude; SSIM is scikit-image's with windows of 7 x 7. Chi^2 is per datum, of the mean and of a draw; of
CT its variance is that of counting and of what voxels cannot represent, as torsos out of a seed have it.
"Held": of the body's voxels, the share whose truth lies between the least and the largest draw, and what
exact draws would have. Evaluations are per draw; ensembles take as many for each of their particles, all
for one answer. The last column is the mean difference to tuned TV on the same slices with its 95 % interval
(bootstrap over slices, which are of few subjects; Student's t where they are ten or less)."""


def rows_of(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row for each record, in the order of problems and solvers."""
    baselines = {
        record["problem"]: _by_slice(record)
        for record in records
        if record["entry"] == BASELINE and record["tuned"] and record["status"] == "done"
    }
    rows = [_row(record, baselines.get(record["problem"], {})) for record in records]
    problems, solvers = list(PROBLEMS), list(ENTRIES)
    return sorted(rows, key=lambda row: (problems.index(row["problem"]), solvers.index(row["entry"])))


def floors(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return, for each core problem, where the default solver stands beside the tuned baseline.

    Held is what was measured and is not below; of what is missing the verdict says so.
    """
    return [_floor(name, DEFAULT[PROBLEMS[name].modality], rows) for name in CORE]


def _floor(name: str, default: str, rows: Sequence[Row]) -> dict[str, Any]:
    told: dict[str, Any] = {"problem": name, "default": default}
    plain = [row for row in rows if (row["problem"], row["solver"]) == (name, default)]
    beside = plain[0].get("beside") if plain else None
    if not beside or not all(map(math.isfinite, beside)):
        why = plain[0]["status"] if plain and plain[0]["status"] != "done" else "not measured"
        return told | {"verdict": why, "held": False}
    _, low, high = beside
    verdict = "above" if low > 0 else "below" if high < 0 else "level"
    return told | {"beside": list(beside), "verdict": verdict, "held": verdict != "below"}


def markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Return the tables as text."""
    parts = ["# Solvers on held-out subjects", ABOUT, _head(facts), _floor_text(floors(rows))]
    for name in dict.fromkeys(row["problem"] for row in rows):
        parts += [
            f"## {name}: {PROBLEMS[name].title}",
            truth_line(rows, name),
            _table([r for r in rows if r["problem"] == name]),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def committed(records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything in one piece, without what the definition of a cell says again."""
    rows = rows_of(records)
    cells = [{name: record[name] for name in KEPT if name in record} for record in records]
    told: dict[str, Any] = _short(
        {"facts": dict(facts), "floors": floors(rows), "rows": rows, "cells": cells}
    )
    return told


def _row(record: Mapping[str, Any], baseline: Mapping[Any, float]) -> Row:
    row: Row = {name: record[name] for name in ("problem", "solver", "entry", "status")}
    if record["status"] != "done":
        return row | {"reason": record["reason"]}
    slices = record["slices"]
    row |= {"slices": len(slices), "draws": slices[0]["rows"], "kind": slices[0]["kind"]}
    row["lost"] = len(record.get("lost", ()))
    if "tuning" in record:
        row |= {"parameter": record["tuning"]["parameter"], "value": record["tuning"]["value"]}
    for part in ("mean", "draw"):
        for name in slices[0][part]:
            values = [one[part][name] for one in slices]
            worst = max(values) if name in BETTER_LOW else min(values)
            row[f"{part}_{name}"] = statistics.median(values)
            if name != "chi2":
                row[f"{part}_{name}_worst"] = worst
    for name in (*OF_THE_DATA, "held", "held90", "held_expected", "held90_expected", "effective_number"):
        if name in slices[0]:
            row[name] = sum(one[name] for one in slices) / len(slices)
    for name in ("evaluations", "backward", "seconds"):
        row[name] = sum(one[name] for one in slices) / len(slices)
    both = [(value, baseline[place]) for place, value in _by_slice(record).items() if place in baseline]
    if both and not (record["entry"] == BASELINE and record["tuned"]):
        row["beside"] = list(mean_interval([ours - theirs for ours, theirs in both]))
    return row


def _by_slice(record: Mapping[str, Any]) -> dict[Any, float]:
    if record["status"] != "done":
        return {}
    return {(one["volume"], one["axis"], one["share"]): one["mean"]["psnr"] for one in record["slices"]}


def _head(facts: Mapping[str, Any]) -> str:
    listed = "; ".join(f"{name} {value}" for name, value in facts.items())
    return f"Run: {listed}." if listed else ""


def _floor_text(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return ""
    lines = []
    for one in found:
        lines.append(f"- {one['problem']}: {floor_line(one)}")
    return "The floor, posterior means of the default solver without tuning:\n\n" + "\n".join(lines)


def floor_line(one: Mapping[str, Any]) -> str:
    """Return a floor in words, without its problem."""
    if "beside" not in one:
        return f"{one['default']} at its defaults beside tuned TV: {one['verdict']}"
    mean, low, high = one["beside"]
    place = f"{one['default']} at its defaults is {one['verdict']} tuned TV"
    aim = f"; the aim is {AIMS[one['problem']]:+g} dB" if one["problem"] in AIMS else ""
    return f"{place}, {mean:+.2f} dB ({low:+.2f} to {high:+.2f}){aim}"


def truth_line(rows: Sequence[Row], problem: str) -> str:
    """Return how well the truths themselves fit the data of a problem, where that is known."""
    known = [row for row in rows if row["problem"] == problem and "truth_chi2" in row]
    if not known:
        return ""
    middle = {name: statistics.median(row[name] for row in known) for name in OF_THE_DATA if name in known[0]}
    told = f"The truths themselves have a chi^2 of {middle['truth_chi2']:.2f} per datum."
    if "excess_share" in middle:
        told += (
            f" Of line integrals, counting has an sd of {middle['counting_sd']:.4f}, what voxels cannot"
            f" represent {middle['excess_sd']:.4f}, the more on {middle['excess_share']:.0%} of the rays."
        )
    return told


def _table(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    refused: list[str] = []
    for row in rows:
        if row["status"] != "done":
            refused.append(f"{row['solver']} {row['status']}: {row['reason'].splitlines()[-1].strip('- ')}")
            continue
        lines.append("| " + " | ".join(entries_of(row)) + " |")
    return "\n".join(lines) + ("\n\n" + "\n".join(f"- {line}" for line in refused) if refused else "")


def entries_of(row: Row) -> list[str]:
    """Return the entries of a row under HEADS."""
    several = row["kind"] != "point estimate" or row["draws"] > 1
    value = f" {row['value']:g}" if "value" in row else ""
    back = " and backward" if row["backward"] else ""
    held = f"{row['held']:.0%} ({row['held_expected']:.0%})" if "held" in row else ""
    if "held90" in row:
        held += f"; 90 %: {row['held90']:.1%} ({row['held90_expected']:.1%})"
    beside = "{:+.2f} ({:+.2f} to {:+.2f})".format(*row["beside"]) if "beside" in row else ""
    ensemble = f" x {row['draws']}" if "effective_number" in row else ""
    beside = beside.replace(" (+nan to +nan)", "")  # one slice has no interval
    return [
        row["solver"].replace("tuned", f"tuned:{value}") if value else row["solver"],
        f"{row['slices']}"
        + (f" x {row['draws']}" if several else "")
        + (f", {row['lost']} lost" if row["lost"] else ""),
        f"{row['mean_psnr']:.2f}, {row['mean_psnr_worst']:.2f}",
        f"{row['draw_psnr']:.2f}" if several else "",
        f"{row['mean_ssim']:.3f}, {row['mean_ssim_worst']:.3f}",
        f"{row['draw_ssim']:.3f}" if several else "",
        f"{row['mean_nrmse']:.3f}",
        f"{row['mean_chi2']:.3g}" + (f", {row['draw_chi2']:.3g}" if several else ""),
        held,
        f"{row['evaluations']:.0f}{ensemble}{back}" if row["evaluations"] else "",
        f"{row['seconds']:.1f} ({row['seconds'] / row['draws']:.2f})",
        beside,
    ]


def _short(value: Any) -> Any:
    """Return a value of JSON with numbers of few digits: the file is looked at, and kept in git."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _short(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_short(entry) for entry in value]
    return value
