"""docs/recipes.md runs as printed, on the real scans that it is about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data"
FILES = ("projections/tooth_parallel/tooth.h5", "projections/htc2022_ta_fan", "kspace/ismrmrd/brain8ch.h5")
RECIPES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/recipes.md").read_text(), flags=re.DOTALL)
#: What each prints and writes.
RESULTS = (
    (r"axis at column 295\.5\d \+- 0\.0\d", "tooth.nii.gz"),
    (r"", "disc.nii.gz"),
    (r"median sd 0\.\d\d of the median magnitude", ""),
)

pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="needs the real scans in ../shared/data, which no checkout holds"
)
pytest.importorskip("h5py")
pytest.importorskip("sigpy")


@pytest.mark.parametrize("number", range(len(RESULTS)), ids=["tooth", "disc", "brain"])
def test_the_recipe_runs_as_printed(number: int, tmp_path: Path) -> None:
    assert len(RECIPES) == len(RESULTS)
    for name in FILES:
        for source in sorted((DATA / name).glob("*.mat")) or [DATA / name]:
            shutil.copy(source, tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RECIPES[number]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed, written = RESULTS[number]
    assert re.search(printed, done.stdout), done.stdout
    assert {path.name for path in tmp_path.iterdir()} - before == ({written} if written else set())
