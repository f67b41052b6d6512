"""A run for the tests of the store on disk, made as a driver makes one."""

from typing import Any

import torch

from operators.grid import Grid
from tests.workbench.test_store import draws_of
from workbench.io.zarr_store import ZarrStore
from workbench.store import Progress

#: A draw is three chunks of at most 1 MiB.
LARGE = Grid.from_spacing((10, 128, 512), 1.0)


def run(store: ZarrStore, head: Any) -> None:
    """Do what a driver does."""
    x = draws_of(head)
    progress = store.begin(head)
    for k in range(0 if progress is None else progress.facts["first"], head.count):
        store.write(k, x[k : k + 1])
        store.save(Progress({"first": k + 1}, {"u": x[k]}))
    store.finish(torch.arange(head.count), {"draws": head.count})
