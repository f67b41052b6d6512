"""Settings every test shares: which marks are skipped where, and one thread per worker."""

from __future__ import annotations

import os

import pytest
import torch

# Two xdist workers on two cores: more threads each would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, with the reason, where there is no GPU."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU: run `make test-cuda` on a machine that has one")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)
