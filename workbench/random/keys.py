"""Randomness without a state: numbers are a function of (seed, draw, step, purpose, voxel index).

The voxel index is the flat index in C order of the whole array. Whoever asks for a part of it (a
slab, a chunk, a rank, a few of the draws) gets the same bits as whoever asks for all, and computes
no more than that part, on any device and with any number of threads:

    keys.normals(shape, purpose, like=x, region=region) == keys.normals(shape, purpose, like=x)[:, *region]

Generator: Philox4x32-10, whose key is a hash of (seed, distribution, purpose) and whose counter is
(voxel index // 2, step, draw). A block of 128 bits serves the voxels 2j and 2j + 1, or the real and
the imaginary part of voxel j, each of which has standard deviation 1. All is computed in float64;
numbers in float32 are the same ones, rounded. Draw outside torch.compile: what it fuses, it rounds
otherwise in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from operators.checks import COMPLEX_DTYPES, REAL_DTYPES, check_count, check_finite, check_tensor
from operators.errors import type_error, value_error
from workbench.random.blocks import Fill, by_torch, fill_normals, has_memory
from workbench.random.philox import make_key, sign_pair, uniform
from workbench.random.poisson_draws import LARGEST_MEAN, Trials, poisson_counts

__all__ = ["Keys"]

#: Blocks made at once, by each thread of a CPU and by a GPU: of them it wants few and large launches.
CPU_TILE = 2**16
LARGEST_TILE = 2**20

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Keys:
    """The keys of several draws at one step of a run.

    `draws` are numbers of draws: the same draw has the same numbers whoever its neighbours are.
    `seed` lies in [0, 2^64), draws and `step` in [0, 2^32). A purpose is any text, such as "noise":
    numbers for different purposes, or of different distributions, are independent.
    """

    seed: int
    draws: tuple[int, ...]
    step: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", _check_word(self.seed, "seed", 64))
        object.__setattr__(self, "draws", _check_draws(self.draws))
        object.__setattr__(self, "step", _check_word(self.step, "step", 32))

    def at(self, step: int) -> Keys:
        """Return the keys of the same draws at another step."""
        # A copy: the draws have been looked at, which takes longer than most steps where there are thousands.
        other = copy(self)
        object.__setattr__(other, "step", _check_word(step, "step", 32))
        return other

    def of(self, draws: Iterable[int]) -> Keys:
        """Return the keys of other draws at the same step."""
        return replace(self, draws=_check_draws(draws))

    def part(self, rows: slice) -> Keys:
        """Return the keys of some of the draws, by their place among these, at the same step."""
        other = copy(self)
        object.__setattr__(other, "draws", self.draws[rows])
        other.__dict__.pop("_memo_draws", None)
        return other

    def normals(self, shape: Sequence[int], purpose: str, *, like: Tensor, region: Region = ()) -> Tensor:
        """Return standard normals (len(draws), *shape); complex ones have sd 1 per component.

        Parameters
        ----------
        shape
            Of the whole array, which need not fit into memory.
        purpose
            What the numbers are for.
        like
            A tensor whose device and dtype, real or complex, the result has.
        region
            Slices of the first axes, with step 1: the part of the array to return.
        """
        return self._fill(shape, purpose, like, region, "normals", fill_normals)

    def uniforms(self, shape: Sequence[int], purpose: str, *, like: Tensor, region: Region = ()) -> Tensor:
        """Return uniforms, strictly inside (0, 1) in either precision, as `normals` does.

        In float64 they are (j + 1/2) 2^-52; in float32 what would round to 1 is 1 - 2^-24.
        """
        top = 1.0 - torch.finfo(_check_like(like)).eps / 2
        return self._fill(shape, purpose, like, region, "uniforms", by_torch(partial(_uniform_pair, top=top)))

    def signs(self, shape: Sequence[int], purpose: str, *, like: Tensor, region: Region = ()) -> Tensor:
        """Return +1 or -1 with equal probability, as `normals` does; complex: in each component."""
        return self._fill(shape, purpose, like, region, "signs", by_torch(sign_pair))

    def poisson(
        self, mean: Tensor, purpose: str, *, shape: Sequence[int] | None = None, region: Region = ()
    ) -> Tensor:
        """Return Poisson counts of `mean` (len(draws), *shape), in its dtype.

        A count depends on its own mean only, and is computed in float64: above 2^24, float32 holds it
        rounded, by a part in 10^7 where the law itself spreads by 1 / sqrt(mean). There is no
        derivative. With `region` the mean is that of the region of an array of `shape`.
        """
        check_tensor(mean, "mean")
        if mean.is_complex():
            raise type_error("mean", "be real", mean.dtype)
        check_finite(mean, "mean")
        low, high = (float(value) for value in torch.aminmax(mean.detach()))
        if low < 0 or high > LARGEST_MEAN:
            raise value_error("mean", f"lie in [0, {LARGEST_MEAN:g}]", low if low < 0 else high)
        part = _Part.of(mean.shape[1:] if shape is None else shape, region)
        if tuple(mean.shape) != (len(self.draws), *part.extent):
            raise value_error("mean", f"have shape {(len(self.draws), *part.extent)}", tuple(mean.shape))
        _check_purpose(purpose)
        counts = mean.detach().clone(memory_format=torch.contiguous_format)
        table = counts.view(-1, part.length)
        draws = self._draws_on(mean.device)
        for rows, columns in _tiles(len(table), part.length, mean.device):
            first, draw = part.starts(rows, draws)
            voxel = first + torch.arange(columns.start, columns.stop, device=mean.device)
            draw = draw.expand_as(voxel)
            trials = Trials(voxel.flatten(), draw.flatten(), self.step, self.seed, purpose)
            tile = table[rows, columns]
            tile.copy_(poisson_counts(tile.flatten().to(torch.float64), trials).view_as(tile))
        return counts

    def _draws_on(self, device: torch.device) -> Tensor:
        """Return the numbers of the draws, made once for all steps."""
        kept: dict[torch.device, Tensor] = self.__dict__.setdefault("_memo_draws", {})
        if device in kept:
            return kept[device]
        draws = torch.tensor(self.draws, device=device)
        if has_memory(draws):
            kept[device] = draws
        return draws

    def _fill(
        self,
        shape: Sequence[int],
        purpose: str,
        like: Tensor,
        region: Region,
        kind: str,
        fill: Fill,
    ) -> Tensor:
        """Return what `fill` makes of the blocks, two voxels or one complex voxel from each."""
        dtype, device = _check_like(like), like.device
        key = make_key(self.seed, kind, _check_purpose(purpose))
        components = 2 if like.is_complex() else 1
        whole = tuple(shape) if isinstance(shape, (tuple, list)) else ()
        if whole and not region and all(type(size) is int for size in whole):
            part = _whole(whole, components)
        else:
            part = _Part.of(shape, region, components)
        result = torch.empty((len(self.draws), *part.extent), dtype=dtype, device=device)
        table = result.view(-1, part.length) if result.numel() else result.view(0, 1)
        draws = self._draws_on(device)
        for rows, blocks in _tiles(len(table), part.blocks, device):
            first, draw = part.starts(rows, draws)
            start = (first >> 1) + blocks.start
            target = table[rows]
            if part.whole_blocks:
                inside = target[:, 2 * blocks.start : 2 * blocks.stop]
                fill(start, draw, self.step, key, inside.view(len(start), -1, 2))
                continue
            pairs = torch.empty((len(start), blocks.stop - blocks.start, 2), dtype=dtype, device=device)
            fill(start, draw, self.step, key, pairs)
            # Number i of a row's blocks belongs to column i, or i - 1 where the row begins inside a block.
            numbers = pairs.flatten(1)
            for odd in part.parities:
                begin = max(0, 2 * blocks.start - odd)
                end = min(part.length, 2 * blocks.stop - odd)
                shift = odd - 2 * blocks.start
                if len(part.parities) == 1:
                    target[:, begin:end] = numbers[:, begin + shift : end + shift]
                else:
                    chosen = (first[:, 0] & 1) == odd
                    target[chosen, begin:end] = numbers[chosen, begin + shift : end + shift]
        return torch.view_as_complex(result) if like.is_complex() else result


@dataclass(frozen=True)
class _Part:
    """A box of an array: `runs` of `length` voxels that follow one another in C order.

    `outer` holds (extent, stride) of the axes that count the runs, `first` the index of the first voxel.
    """

    extent: tuple[int, ...]
    first: int
    outer: tuple[tuple[int, int], ...]
    length: int

    @staticmethod
    def of(shape: Sequence[int], region: Region, components: int = 1) -> _Part:
        """Return the part `region` of an array of `shape`, of so many `components`."""
        whole = _check_shape(shape)
        box = _check_region(region, whole)
        if components > 1:
            whole, box = (*whole, components), [*box, (0, components)]
        strides = [math.prod(whole[axis + 1 :]) for axis in range(len(whole))]
        extent = tuple(stop - start for start, stop in box)
        cut = [axis for axis, size in enumerate(whole) if extent[axis] != size]
        inner = cut[-1] if cut else 0
        return _Part(
            extent,
            sum(start * stride for (start, _), stride in zip(box, strides, strict=True)),
            tuple(zip(extent[:inner], strides[:inner], strict=True)),
            math.prod(extent[inner:]),
        )

    @property
    def parities(self) -> tuple[int, ...]:
        """Whether runs begin at the first (0) or second (1) number of a block."""
        mixed = any(extent > 1 and stride % 2 for extent, stride in self.outer)
        return (0, 1) if mixed else (self.first % 2,)

    @property
    def whole_blocks(self) -> bool:
        """Whether every run begins and ends with a block."""
        return self.length % 2 == 0 and self.parities == (0,)

    @property
    def blocks(self) -> int:
        """The number of blocks that any one run touches at most."""
        return (self.length + max(self.parities) + 1) // 2

    def starts(self, rows: slice, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first voxel's index and the draw of rows that count (draw, run), both (rows, 1)."""
        if not self.outer:
            draw = draws[rows, None]
            return torch.full_like(draw, self.first), draw
        row = torch.arange(rows.start, rows.stop, device=draws.device)[:, None]
        runs = math.prod(extent for extent, _ in self.outer)
        run = row % runs
        first = torch.full_like(row, self.first)
        for extent, stride in reversed(self.outer):
            first += run % extent * stride
            run = run // extent
        return first, draws[row // runs]


@lru_cache
def _whole(shape: tuple[int, ...], components: int) -> _Part:
    """Return the whole of an array, which a run asks for at each step."""
    return _Part.of(shape, (), components)


def _tiles(rows: int, columns: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut a table into tiles that fit into the cache, whole rows where these are short."""
    on_cpu = device.type == "cpu"
    capacity = min(CPU_TILE * torch.get_num_threads(), LARGEST_TILE) if on_cpu else LARGEST_TILE
    if on_cpu and rows * columns > capacity:
        # Freeing a large block, never written, moves glibc's threshold: it keeps the temporaries of a
        # tile for the next one from then on, where it would return them and fault in each page anew.
        torch.empty(2**24, dtype=torch.uint8)
    width = min(columns, capacity)
    height = capacity // width if width else 1
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, min(top + height, rows)), slice(left, min(left + width, columns))


def _uniform_pair(first: Tensor, second: Tensor, *, top: float) -> tuple[Tensor, Tensor]:
    """Return two uniforms, at most `top`, from two words."""
    return uniform(first).clamp_(max=top), uniform(second).clamp_(max=top)


def _check_word(value: object, argument: str, bits: int) -> int:
    """Return an integer in [0, 2^bits)."""
    number = check_count(value, argument, minimum=0)
    if number >> bits:
        raise value_error(argument, f"be below 2^{bits}", number)
    return number


def _check_draws(draws: object) -> tuple[int, ...]:
    """Return numbers of draws, at least one."""
    if isinstance(draws, Tensor) and draws.ndim == 1:
        draws = draws.tolist()
    if isinstance(draws, str) or not isinstance(draws, Iterable):
        raise type_error("draws", "be the numbers of the draws", repr(draws), "A single draw is (0,).")
    numbers = tuple(_check_word(draw, f"draws[{i}]", 32) for i, draw in enumerate(draws))
    if not numbers:
        raise value_error("draws", "name at least one draw", "()", "A single draw is (0,).")
    return numbers


def _check_purpose(purpose: object) -> str:
    if not isinstance(purpose, str) or not purpose:
        raise type_error("purpose", "be text that says what the numbers are for", repr(purpose))
    return purpose


def _check_like(like: object) -> torch.dtype:
    """Return the real dtype of the components of `like`."""
    if not isinstance(like, Tensor) or like.dtype not in REAL_DTYPES + COMPLEX_DTYPES:
        got = like.dtype if isinstance(like, Tensor) else type(like).__name__
        raise type_error("like", "be a tensor of float32, float64, complex64 or complex128", got)
    return like.dtype.to_real()


def _check_shape(shape: object) -> tuple[int, ...]:
    """Return the shape of an array whose voxels int64 can count."""
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise type_error("shape", "be a sequence of integers", repr(shape))
    sizes = tuple(check_count(size, f"shape[{axis}]") for axis, size in enumerate(shape))
    if math.prod(sizes) >= 2**62:
        raise value_error("shape", "have fewer than 2^62 voxels", sizes)
    return sizes


def _check_region(region: object, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (start, stop) for each axis of `shape`."""
    if not isinstance(region, tuple) or not all(isinstance(entry, slice) for entry in region):
        raise type_error("region", "be a tuple of slices", repr(region), "One slab: (slice(10, 20),).")
    if len(region) > len(shape):
        raise value_error("region", f"have at most {len(shape)} slices, one per axis", len(region))
    box = [(0, size) for size in shape]
    for axis, entry in enumerate(region):
        try:
            start, stop, step = entry.indices(shape[axis])
        except TypeError as error:
            raise type_error(f"region[{axis}]", "be a slice of integers", entry) from error
        if step != 1:
            raise value_error(f"region[{axis}]", "have step 1", entry, "Slice the result instead.")
        box[axis] = (start, max(start, stop))
    return box
