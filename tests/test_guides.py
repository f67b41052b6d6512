"""docs/priors.md and docs/solvers.md run as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def blocks(guide: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / guide).read_text(), flags=re.DOTALL)


BLOCKS = blocks("docs/priors.md")
#: What each prints.
PRINTED = (
    r"^0\.[67]\d of the draws are large discs: approximate samples in 20 evaluations each",
    r"unit='1/mm'\) \(0\.002, 80\.0\) torch\.Size\(\[1, 1, 128, 128\]\)\n\d+ Apache-2\.0 LIDC-IDRI",
    r"approximate samples: sd [23]\d HU, error [34]\d HU",
    r"approximate samples: [456]\d % seen, sd [1-4]\.\d % of the brightness",
    r"HU Lesion\(kind='lung nodule'.* \d+ \['airway', 'aorta'",
    r"must .*96.*\n?.*torch\.Size\(\[1, 1, 96, 96\]\) \(0\.0, inf\)",
    r"procedural chests, seed 1 \(0\.002, 80\.0\)",
)
NAMES = ("mixture", "shipped", "views", "lines", "torso", "network", "file")


@pytest.mark.parametrize("number", range(len(PRINTED)), ids=NAMES)
def test_the_block_runs_as_printed(number: int, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    assert len(BLOCKS) == len(PRINTED)
    assert re.search(PRINTED[number], printed(BLOCKS[number], tmp_path), flags=re.DOTALL)


def test_the_guide_to_solvers_runs_as_printed(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    text = printed("".join(blocks("docs/solvers.md")), tmp_path)
    assert "approximate samples in 50 evaluations each" in text
    assert re.search(r"point estimate: 0\.0\d\d 1/mm at most", text)
    said = {int(mm): float(nats) for mm, nats in re.findall(r"over (\d+) mm: log evidence ([-\d.]+)", text)}
    assert max(said, key=said.__getitem__) == 20


def printed(code: str, folder: Path) -> str:
    """Return what the code prints, run in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
