"""Memory: stated before the run, measured while it runs, and bounded for stacks of any height."""

import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from operators.ct import ParallelBeamGeometry
from operators.ct.rays import RAYS
from operators.grid import Grid
from tests.operators.ct.plane_cases import small
from tests.oracles import random_element

#: What the interpreter itself allocates meanwhile: threads, closures, lists of slices.
OVERHEAD = 150_000


def traced_peak(function: Callable[[], torch.Tensor]) -> int:
    """Return the peak of what numpy allocates while a function runs, beside its result."""
    function()
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1] - result.nbytes
    finally:
        tracemalloc.stop()


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that torch's operations have returned and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[tuple[int, int, weakref.ref[torch.Tensor]]] = []
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                self.tensors.append((storage.data_ptr(), storage.nbytes(), weakref.ref(value)))
        self.tensors = [entry for entry in self.tensors if entry[2]() is not None]
        self.peak = max(self.peak, sum({place: size for place, size, _ in self.tensors}.values()))
        return out


@pytest.mark.parametrize("name", ["numba", "matrix"])
@pytest.mark.parametrize(("slices", "batch"), [(1, 1), (5, 1), (20, 1), (20, 4), (1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_compiled_engines_take_what_they_state(
    name: str, slices: int, batch: int, dtype: torch.dtype
) -> None:
    pytest.importorskip("numba", reason="the compiled engines need the [ct] extra")
    operator = small(name, slices, 96, 80)
    x, y = (random_element(space, batch, dtype=dtype) for space in (operator.domain, operator.codomain))
    stated = operator.workspace_bytes(batch, dtype=dtype)
    peaks = [traced_peak(lambda: operator._apply(x)), traced_peak(lambda: operator._apply_adjoint(y))]
    assert max(peaks) <= stated + OVERHEAD
    assert max(peaks) >= stated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("name", ["numba", "matrix", "torch"])
def test_what_stays_is_stated(name: str, dtype: torch.dtype) -> None:
    pytest.importorskip("numba", reason="the compiled engines need the [ct] extra")
    warm = small(name, 1, 8, 3)
    warm.adjoint(warm(torch.ones(warm.domain.shape, dtype=dtype)))
    grid = Grid.from_spacing((1, 48, 48), 1.0)
    scan = ParallelBeamGeometry.around(grid, 60)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        operator = scan.operator(grid, engine=name)
        operator.adjoint(operator(torch.ones(grid.shape, dtype=dtype)))
        stays = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    stated = operator.kept_bytes(dtype=dtype)
    # Rays at the edge of the image have one neighbour in it where two were counted.
    assert 0.9 * stated <= stays <= stated + OVERHEAD


def test_rays_are_made_some_views_at_a_time() -> None:
    """A scan of one slice: what its rays are made of would be ten times as large as they are."""
    grid, views = Grid.from_spacing((1, 8, 8), 1.0), 600
    scan = ParallelBeamGeometry.around(grid, views, columns=1000)
    tracemalloc.start()
    try:
        operator = scan.operator(grid, engine="torch")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert operator.kept_bytes() == 25 * views * 1000
    assert peak < operator.kept_bytes() + 250 * RAYS


def test_bytes_are_stated_for_precisions_that_the_engine_has() -> None:
    operator = small("torch", 1, 8, 3)
    assert operator.workspace_bytes(dtype=torch.float64) > operator.workspace_bytes()
    with pytest.raises(
        TypeError, match=r"`dtype` must be torch\.float32 or torch\.float64 for the torch engine"
    ):
        operator.workspace_bytes(dtype=torch.complex64)


@pytest.mark.parametrize("batch", [1, 30])
def test_torch_takes_at_most_what_is_stated(batch: int) -> None:
    operator = small("torch", 8, 96, 12)
    x, y = (
        random_element(space, batch, dtype=torch.float32) for space in (operator.domain, operator.codomain)
    )
    stated = operator.workspace_bytes(batch)
    for apply, given, space in (
        (operator._apply, x, operator.codomain),
        (operator._apply_adjoint, y, operator.domain),
    ):
        with Alive() as alive:
            apply(given)
        out = batch * space.size * 4
        # The input is seen through its views.
        assert 0.2 * stated <= alive.peak - out - given.nbytes <= stated


@pytest.mark.parametrize("name", ["numba", "torch"])
def test_the_workspace_is_bounded_whatever_the_number_of_slices(name: str) -> None:
    pytest.importorskip(name)
    operator = small(name, 4, 256, 90)
    sizes = [operator.workspace_bytes(batch) for batch in (1, 8, 64, 512)]
    assert sizes[-1] == sizes[-2]
    assert sizes[-1] < 80 * 2**20 < 512 * operator.domain.size * 4


def test_wide_images_are_projected_fewer_at_a_time() -> None:
    pytest.importorskip("numba", reason="the compiled engines need the [ct] extra")
    from operators.ct.plane_layout import BLOCK_BYTES, lanes_for

    for itemsize in (4, 8):
        widths = [lanes_for(1000, size * size, itemsize) for size in (256, 700, 1024, 1400, 4000)]
        assert widths == sorted(widths, reverse=True)
        assert widths[0] * itemsize == 128
        assert widths[-1] == 1
        for size, width in zip((256, 700, 1024, 1400), widths, strict=False):
            assert width == 1 or size * size * width * itemsize <= BLOCK_BYTES
    assert [lanes_for(count, 100, 4) for count in (1, 2, 8, 9, 17, 32, 70)] == [1, 8, 8, 16, 32, 32, 32]
    assert [lanes_for(count, 100, 8) for count in (1, 2, 4, 5, 9, 70)] == [1, 4, 4, 8, 16, 16]


def test_the_number_of_samples_is_checked() -> None:
    with pytest.raises(ValueError, match="`batch` must be an integer >= 1"):
        small("torch", 1, 8, 3).workspace_bytes(0)
