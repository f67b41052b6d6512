"""The README's example runs as printed, and what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.oracles import adjoint_mismatch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_as_printed(tmp_path: Path) -> None:
    pytest.importorskip("nibabel", reason="the example writes NIfTI: [io]")
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 20
    assert "torch.rand" not in example  # randomness is keyed, as lint asks of the sources
    command = [sys.executable, "-W", "error", "-c", example]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    error = float(re.findall(r"relative error ([0-9.]+)", done.stdout)[0])
    assert error < 0.2
    assert [p.name for p in tmp_path.iterdir()] == ["chest.nii.gz"]


def test_the_map_of_the_tree_is_the_tree() -> None:
    (tree,) = re.findall(r"```text\n(operators/.*?)```", README, flags=re.DOTALL)
    named, folder = set(), ""
    for line in tree.splitlines():
        entry = line.split()[0]
        if line.startswith(" "):
            named |= {f"{folder}{name}" for name in line.strip().split("  ")[0].split()}
        else:
            folder = entry
    for path in named:
        assert (ROOT / path).exists(), f"README names {path}"
    # A new module needs no line here, a new folder does: "one file and one test" adds an operator.
    folders = {
        f"{p.parent.relative_to(ROOT)}/"
        for package in ("operators", "workbench", "pipelines")
        for p in (ROOT / package).rglob("*.py")
    }
    missing = {
        folder for folder in folders if folder not in tree and not any(n.startswith(folder) for n in named)
    }
    assert not missing, f"README's map lacks {sorted(missing)}"


def test_the_operator_in_contributing_works() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    source, test = (
        textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    )
    module = types.ModuleType("operators.ramp")
    exec(source, module.__dict__)
    sys.modules[module.__name__] = module
    try:
        checked: dict[str, Any] = {}
        exec(test, checked)
        checked["test_the_ramp_rises_by_its_slope"]()
        contract = checked["TestRamp"]()
        contract.test_covers_what_it_makes()
        assert adjoint_mismatch(contract.make(torch.float64), torch.float64, "random") < 1e-11
    finally:
        del sys.modules[module.__name__]


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_promises_a_reader_looks_for_are_there() -> None:
    for phrase in ("make demo", "make test", "not a medical device", "GPL", "own environment"):
        assert phrase in README, phrase
