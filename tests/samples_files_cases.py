"""Samples of every kind of space, for the tests of the files that keep them."""

import torch

from operators.grid import Grid, TimeAxis
from operators.space import Space
from workbench.kinds import Kind
from workbench.samples import Samples

GRID = Grid.from_spacing((3, 4, 5), (5.0, 2.0, 1.0), centre=(1.0, 2.0, 3.0)).flip(1)
MOVIE = GRID.with_time(TimeAxis(2, 0.1, 1.0))
EVERY = [
    (Space.field(GRID), torch.float32),
    (Space.field(GRID), torch.float64),
    (Space.field(MOVIE), torch.float32),
    (Space.field(GRID, is_complex=True), torch.complex64),
    (Space.field(MOVIE, is_complex=True), torch.complex128),
    (Space.vectors(GRID), torch.float32),
    (Space.vectors(MOVIE), torch.float64),
    (Space.tokens(GRID, 4), torch.int64),
    (Space.tokens(MOVIE, 300), torch.int64),
    (Space.field(GRID, components=(2,)), torch.float32),
    (Space.field(GRID, is_complex=True, components=(2, 3)), torch.complex64),
    (Space((7,)), torch.float64),
    (Space((2, 3), is_complex=True), torch.complex64),
    (Space((2,), classes=4), torch.int64),
]
FORMATS = ["nc", "zarr"]


def samples_of(space: Space, dtype: torch.dtype, count: int = 3, *, weighted: bool = True) -> Samples:
    generator = torch.Generator().manual_seed(0)
    shape = (count, *space.shape)
    if space.classes is not None:
        x = torch.randint(0, space.classes, shape, generator=generator)
    else:
        x = torch.randn(shape, dtype=dtype, generator=generator)
        # Numbers that a comparison of values would let pass, and a mask of what is not known.
        x.flatten()[:3] = torch.tensor([-0.0, torch.nan, torch.inf])
        x[1:2] = torch.nan
    weights = torch.randn(count, dtype=torch.float64, generator=generator) if weighted else None
    kind = Kind.WEIGHTED_ENSEMBLE if weighted else Kind.EXACT_SAMPLE
    return Samples(x, space, kind, log_weights=weights, unit="1/mm", frame="mni", record={"a": [1, None]})


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def assert_same(found: Samples, samples: Samples) -> None:
    assert found.dtype == samples.dtype
    assert bits(found.tensor()) == bits(samples.tensor())
    assert found.space == samples.space
    for name in ("kind", "unit", "frame", "record"):
        assert getattr(found, name) == getattr(samples, name)
    assert (found.log_weights is None) == (samples.log_weights is None)
    if samples.log_weights is not None and found.log_weights is not None:
        assert bits(found.log_weights) == bits(samples.log_weights)
