"""Settings every test shares: which marks are skipped where, one thread per worker, what gc looks at."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
import torch

# Two xdist workers on two cores: more threads each would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what collection makes, millions of objects that stay to the end, out of what gc looks at."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        # With little left that is old, a full round would come at every tenth middle one: at every hundredth.
        gc.set_threshold(*gc.get_threshold()[:2], 100)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, with the reason, where there is no GPU."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU: run `make test-cuda` on a machine that has one")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)
