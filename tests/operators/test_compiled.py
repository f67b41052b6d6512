"""Kernels that numba keeps on disk: what is compiled into them decides whether they are still good."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba", reason="compiled kernels need the [ct] extra")
from numba.core.caching import CacheImpl

from operators import compiled

KERNEL = """
from operators.compiled import njit
from kernels_here.middle import doubled
@njit(cache=True)
def kernel(x):
    return doubled(x)
"""
MIDDLE = """
from operators.compiled import njit
from kernels_here import constants
FACTOR = constants.FACTOR
@njit(cache=True)
def doubled(x):
    return FACTOR * x
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "kernels_here"
    folder.mkdir()
    sources = {
        "__init__": "",
        "kernel": KERNEL,
        "middle": MIDDLE,
        "constants": "FACTOR = 2",
        "other": "A = 1",
    }
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return folder


def loaded() -> Any:
    """Return the kernel as a new process would have it."""
    for name in [name for name in sys.modules if name.startswith("kernels_here")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    compiled.sources_digest.cache_clear()
    return importlib.import_module("kernels_here.kernel").kernel


def test_a_kernel_is_kept_until_something_that_is_compiled_into_it_changes(package: Path) -> None:
    assert loaded()(3) == 6
    kept = loaded()
    assert kept(3) == 6
    assert sum(kept.stats.cache_hits.values()) == 1
    (package / "other.py").write_text("A = 2")
    kept = loaded()
    assert kept(3) == 6
    assert sum(kept.stats.cache_hits.values()) == 1
    # Not the kernel's own file, nor that of its helper: two imports away.
    (package / "constants.py").write_text("FACTOR = 5")
    changed = loaded()
    assert changed(3) == 15
    assert sum(changed.stats.cache_hits.values()) == 0


def test_how_kernels_are_compiled_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    source, name = compiled._source, "operators.ct.numba_volume"
    compiled.sources_digest.cache_clear()
    before = compiled.sources_digest(name)
    monkeypatch.setattr(compiled, "_source", lambda m: source(m) + "#" * (m == compiled.__name__))
    compiled.sources_digest.cache_clear()
    assert compiled.sources_digest(name) != before
    compiled.sources_digest.cache_clear()


def test_where_nothing_can_be_written_kernels_are_compiled_each_time(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert loaded()(3) == 6
    assert not list(package.rglob("*.nbi"))


def test_no_kernel_goes_by_numba_alone() -> None:
    root = Path(compiled.__file__).parent.parent
    alone = [
        path.name
        for floor in ("operators", "workbench", "pipelines")
        for path in (root / floor).rglob("*.py")
        if re.search(r"^from numba import .*\bn?jit\b", path.read_text(), flags=re.MULTILINE)
    ]
    assert alone == []
