"""`python -m pipelines.quality`: solvers on held-out subjects, cell by cell, as JSON, tables and a page."""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from operators.errors import value_error
from pipelines.quality.bench import Bench, Folder
from pipelines.quality.cards import card_page, portrait
from pipelines.quality.cells import Cell, cells, fast_cells
from pipelines.quality.denoising import denoising
from pipelines.quality.pictures import montage, page
from pipelines.quality.problems import PROBLEMS
from pipelines.quality.queue import Costs, cores, run
from pipelines.quality.roster import DEFAULT, ENTRIES
from pipelines.quality.subjects import Modality, Place, held_out, others, stand_in
from pipelines.quality.summary import Row, committed, floors, markdown, rows_of
from workbench.io.weights import read_card
from workbench.io.whole import written_whole
from workbench.shipped import shipped_path

ABOUT = """\
Solvers on real subjects that no prior was trained on. Every cell, a solver on a problem, is a file in the
work folder; the same call goes on where it was stopped, by whatever. All of it takes some hours on two cores:
--minutes stops in time."""
DOCS = Path(__file__).resolve().parents[2] / "docs"
CARDS = shipped_path("ct-slice").parent
#: What the picture of the documentation shows.
SHOWN = (
    ("ct20", ("FBP", "TV (tuned)", "DDS", "DiffPIR, 50 steps", "PiGDM, 50 steps")),
    ("mri4", ("CG", "TV (tuned)", "DDS", "DiffPIR, 50 steps", "PiGDM, 50 steps")),
)
MODALITIES: tuple[Modality, ...] = ("ct", "mr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute what is left, write the tables; return 1 where the default solver is below the baseline."""
    chosen = _chosen(arguments)
    torch.set_num_threads(min(torch.get_num_threads(), max(1, cores() // chosen.jobs)))
    weights: dict[Modality, Path] = {}
    if chosen.ct_weights is not None:
        weights["ct"] = chosen.ct_weights
    if chosen.mr_weights is not None:
        weights["mr"] = chosen.mr_weights
    folder = Folder(chosen.folder / "fast" if chosen.fast else chosen.folder)
    bench = Bench(chosen.data, folder, weights, not chosen.float32)
    there = [modality for modality in MODALITIES if bench.has(modality)]
    for modality in set(MODALITIES) - set(there):
        _say(f"{modality}: no weights, and its problems are left out; --{modality}-weights names some")
    wanted = list(_wanted(bench, chosen, there))
    needed = [modality for modality in there if any(cell.modality == modality for cell in wanted)]
    costs = Costs.measured(bench, needed)
    for modality, seconds in costs.evaluation.items():
        _say(
            f"{modality}: {1000 * seconds:.0f} ms for an evaluation of a slice, in each of {chosen.jobs} jobs"
        )
    records = run(bench, wanted, costs, jobs=chosen.jobs, minutes=chosen.minutes, say=_say)
    facts = _facts(bench, there, records) | {"jobs": chosen.jobs}
    told, rows = committed(records, facts), rows_of(records)
    print(markdown(rows, facts))
    # What took hours is on disk before pictures are made of it.
    _write(folder.path, _tables(told, rows, facts))
    whole = not (chosen.fast or chosen.only or chosen.solvers)
    if whole:
        told["denoising"] = {modality: denoising(bench, modality) for modality in needed}
    tables = _tables(told, rows, facts) | {"quality.png": montage(bench, wanted, SHOWN)}
    cards: dict[str, bytes] = {}
    for modality, found in told.get("denoising", {}).items():
        name = f"{modality}-slice"
        page_of_card = card_page(name, read_card(bench.file_of(modality)), found)
        cards |= {f"{name}.md": page_of_card.encode(), f"{name}.png": portrait(bench, modality, found)}
    _write(folder.path, tables | cards | {"quality.html": page(bench, wanted, rows).encode()})
    _say(f"tables, page and pictures: {folder.path / 'quality.html'}")
    if chosen.publish:
        lacking = _lacking(bench, wanted, there, whole)
        if lacking:
            _say(f"nothing is published: {lacking}")
            return 1
        _write(DOCS, tables)
        _write(CARDS, cards)
    return _verdict(rows, wanted, chosen.fast)


def _tables(told: dict[str, Any], rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, bytes]:
    return {
        "quality.json": json.dumps(told, indent=None, separators=(",", ":")).encode(),
        "quality.md": markdown(rows, facts).encode(),
    }


def _lacking(bench: Bench, wanted: Sequence[Cell], there: Sequence[Modality], whole: bool) -> str:
    """Return why results are not those that the documentation shows; nothing where they are."""
    if not whole:
        return "this was a part of the comparison"
    if bench.weights or set(there) != set(MODALITIES):
        return "these are not the shipped priors"
    left = sum(bench.done(cell) is None for cell in wanted)
    return f"{left} cells are left" if left else ""


def _verdict(rows: Sequence[Row], wanted: Sequence[Cell], fast: bool) -> int:
    """Return 1 where a cell failed or the default solver is below the baseline, as one slice cannot say."""
    if any(row["status"] == "failed" for row in rows):
        return 1
    asked = {(cell.problem, cell.label) for cell in wanted}
    judged = [one for one in floors(rows) if (one["problem"], one["default"]) in asked]
    return 0 if fast or all(one["held"] for one in judged) else 1


def _wanted(bench: Bench, chosen: argparse.Namespace, there: Sequence[Modality]) -> Iterator[Cell]:
    problems = [name for name in chosen.only or PROBLEMS if PROBLEMS[name].modality in there]
    if not problems:
        return
    if not chosen.fast:
        found = list(cells(problems, chosen.solvers))
        for modality in {cell.modality for cell in found}:
            if not bench.library.holds((*held_out(modality), *others(modality))):
                remedy = "Say where they are: --data FOLDER; the origin of each is in data_manifests/."
                raise value_error("data", "hold the volumes of the manifests", str(bench.data), remedy)
        yield from found
        return

    def held(modality: Modality) -> Sequence[Place]:
        return _or_phantom(bench, held_out(modality), modality, 0)

    def tuned_on(modality: Modality) -> Sequence[Place]:
        return _or_phantom(bench, others(modality), modality, 1000)

    for cell in fast_cells(chosen.only, chosen.solvers, held, tuned_on):
        if cell.modality in there:
            yield cell


def _or_phantom(bench: Bench, places: tuple[Place, ...], modality: Modality, number: int) -> Sequence[Place]:
    if bench.library.holds(places):
        return places
    _say(f"{modality}: the real data are not in {bench.data}; a phantom stands in")
    return (stand_in(modality, number),)


def _facts(bench: Bench, there: Sequence[Modality], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "network": "bfloat16" if bench.bfloat16 else "float32",
        "default": ", ".join(sorted(set(DEFAULT.values()))),
        "commit": ", ".join(sorted({record.get("commit", "") for record in records})),
    }
    for modality in there:
        facts[f"{modality}-slice"] = read_card(bench.file_of(modality)).sha256[:12]
    return facts


def _processor() -> str:
    """Return the model of the processor, where the system says it."""
    listed = Path("/proc/cpuinfo")
    told = listed.read_text(encoding="utf-8") if listed.exists() else ""
    found = re.search(r"model name\s*: (.+)", told)
    return found[1] if found else platform.processor()


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        with written_whole(folder / name) as partial:
            partial.write_bytes(content)


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<12}{problem.title}" for name, problem in PROBLEMS.items())
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.quality",
        description=ABOUT,
        epilog=f"problems:\n{listed}\nsolvers:\n  " + "; ".join(ENTRIES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_names(PROBLEMS), default=(), metavar="NAMES", help="problems, with commas")
    add("--solvers", type=_names(ENTRIES), default=(), metavar="NAMES", help="solvers, with semicolons")
    add("--minutes", type=float, metavar="N", help="begin no cell after so many; the next call goes on")
    add("--jobs", type=int, default=min(2, cores()), metavar="N", help="processes (one per core, at most 2)")
    add("--fast", action="store_true", help="a slice, two draws and few solvers: does everything run?")
    add("--data", type=Path, default=Path("../shared/data"), help="of the manifests' paths (../shared/data)")
    add("--ct-weights", type=Path, metavar="FILE", help="another prior than the shipped ct-slice")
    add("--mr-weights", type=Path, metavar="FILE", help="another prior than the shipped mr-slice")
    add(
        "--float32", action="store_true", help="networks in float32; in bfloat16 all takes two thirds as long"
    )
    add("--folder", type=Path, default=Path(".quality"), help="of cells and results (.quality)")
    add("--publish", action="store_true", help="write docs/quality.* and cards, too")
    return parser


def _names(known: Any) -> Any:
    def read(text: str) -> tuple[str, ...]:
        # Some solvers have a comma in their name.
        listed = [part.strip() for part in text.split(";")]
        found = listed if all(name in known for name in listed) else [p.strip() for p in text.split(",")]
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; there are {'; '.join(known)}")
        return tuple(found)

    return read


def _chosen(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {chosen.jobs}")
    if chosen.minutes is not None and not chosen.minutes > 0:
        parser.error(f"--minutes must be above 0, got {chosen.minutes}")
    return chosen


def _say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
