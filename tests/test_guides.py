"""docs/priors.md runs as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/priors.md").read_text(), flags=re.DOTALL)
#: What each prints.
PRINTED = (
    r"^0\.[67]\d of the draws are large discs: approximate samples in 20 evaluations each",
    r"must .*96.*\n?.*torch\.Size\(\[1, 1, 96, 96\]\) \(0\.0, inf\)",
    r"procedural chests, seed 1 \(0\.002, 80\.0\)",
)


@pytest.mark.parametrize("number", range(len(PRINTED)), ids=["mixture", "network", "file"])
def test_the_block_runs_as_printed(number: int, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    assert len(BLOCKS) == len(PRINTED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", BLOCKS[number]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTED[number], done.stdout, flags=re.DOTALL), done.stdout
