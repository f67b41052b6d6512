"""Samples on every kind of space, with the numbers that they were made of."""

import numpy as np
import torch

from operators.grid import Grid, TimeAxis
from operators.space import Space
from workbench.kinds import Kind
from workbench.samples import Samples
from workbench.store import Draws, TensorDraws
from workbench.volume import Volume

GRID = Grid.from_spacing((3, 4, 5), (5.0, 2.0, 1.0), centre=(1.0, 2.0, 3.0)).flip(1)
MOVIE = GRID.with_time(TimeAxis(2, 0.5, 1.0))
SPACES = {
    "real": Space.field(GRID),
    "complex": Space.field(GRID, is_complex=True),
    "vector": Space.vectors(MOVIE),
    "time": Space.field(MOVIE),
    "components": Space.field(GRID, components=(2,)),
    "many components": Space.field(GRID, components=(2, 3)),
    "no grid": Space((7,)),
}


def tensor_of(space: Space, count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *space.shape)
    if space.classes is not None:
        return torch.randint(0, space.classes, shape, generator=generator)
    dtype = dtype.to_complex() if space.is_complex else dtype
    return torch.randn(shape, dtype=dtype, generator=generator)


def samples_of(
    space: Space, count: int = 11, *, weighted: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[Samples, torch.Tensor, torch.Tensor]:
    """Return samples, their tensor and their weights."""
    x = tensor_of(space, count, dtype)
    log_weights = (
        torch.randn(count, generator=torch.Generator().manual_seed(1)).double() if weighted else None
    )
    kind = Kind.WEIGHTED_ENSEMBLE if weighted else Kind.EXACT_SAMPLE
    samples = Samples(x, space, kind, log_weights=log_weights, unit="1/mm", frame="mni", record={"seed": 3})
    w = np.ones(count) if log_weights is None else np.exp(log_weights.numpy())
    return samples, x, torch.from_numpy(w / w.sum())


def values(result: Volume | torch.Tensor) -> torch.Tensor:
    return result.data if isinstance(result, Volume) else result


class Counted(Draws):
    """Draws that say how much of them was read at once."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.inner = TensorDraws(tensor)
        self.largest = 0
        self.read_in_all = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> torch.Tensor:
        found = self.inner.read(draws, region)
        self.largest = max(self.largest, found.nbytes)
        self.read_in_all += found.nbytes
        return found
