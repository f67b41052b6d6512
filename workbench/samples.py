"""The answer of a run: draws that are read when they are needed, and what they say together.

Every number here is computed piece by piece, `block_bytes` of draws at once, as `workbench.moments`
says: an ensemble may be larger than memory; a result is as large as one draw. Results are on the CPU, in
the precision of the draws: `Volume`s where the space is one of images with one axis of components at
most, tensors elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_count
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.space import Space
from workbench.draws import (
    MappedDraws,
    SelectedDraws,
    checked_draws,
    checked_index,
    checked_indices,
    checked_weights,
)
from workbench.export import component_names, coordinates, describe, draw_axes, to_array
from workbench.kinds import Kind
from workbench.memory import available_memory, bytes_text
from workbench.moments import Moments, checked_levels, frequencies_of, quantiles_of, summarise
from workbench.store import Draws, Header, json_text
from workbench.volume import SPACES, Volume

if TYPE_CHECKING:
    import xarray

__all__ = ["Samples"]

#: Bytes of draws that are in memory at once.
BLOCK_BYTES = 2**26


class Samples:
    """Draws of `space` with their kind, weights, unit, world and the record of the run; immutable.

    `draws` is (n, *space.shape), a tensor (kept, not copied) or a store's `Draws`. `log_weights` (n,) need
    no normalisation; None says that all draws count alike. `frame` names the world of the grid's affine,
    as `Volume.space` does. `record` is JSON-able.
    """

    def __init__(
        self,
        draws: Draws | Tensor,
        space: Space,
        kind: Kind,
        *,
        log_weights: Tensor | None = None,
        unit: str = "",
        frame: str = "scanner",
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self._space = Space.require(space, "space")
        self._draws = checked_draws(draws, space)
        self._kind = Kind.require(kind)
        self._log_weights = None if log_weights is None else checked_weights(log_weights, len(self))
        if not isinstance(unit, str) or not unit.isprintable():
            raise type_error("unit", "be text of one line, empty for none", repr(unit))
        if frame not in SPACES:
            raise value_error("frame", f"be one of {', '.join(SPACES)}", repr(frame))
        self._unit, self._frame = unit, frame
        self._record = json_text({} if record is None else record, "record")

    # -- what they are -----------------------------------------------------------------------------

    @property
    def draws(self) -> Draws:
        """The draws, to be read in pieces."""
        return self._draws

    @property
    def space(self) -> Space:
        """What each draw is an element of."""
        return self._space

    @property
    def grid(self) -> Grid | None:
        """Where each draw lies."""
        return self._space.grid

    @property
    def dtype(self) -> torch.dtype:
        """The draws' dtype."""
        return self._draws.dtype

    @property
    def kind(self) -> Kind:
        """What kind of answer they are."""
        return self._kind

    @property
    def unit(self) -> str:
        """Unit of the values, empty for none."""
        return self._unit

    @property
    def frame(self) -> str:
        """The world that the grid's affine leads to."""
        return self._frame

    @property
    def record(self) -> dict[str, Any]:
        """What the run wrote down about itself; a copy."""
        record: dict[str, Any] = json.loads(self._record)
        return record

    @property
    def header(self) -> Header:
        """What a store needs to know of them."""
        return Header(self._space, len(self), self.dtype, self._kind, self._unit, self._frame)

    @property
    def log_weights(self) -> Tensor | None:
        """The log-weights as given, float64, or None; a copy."""
        return None if self._log_weights is None else self._log_weights.clone()

    @property
    def weights(self) -> Tensor:
        """The weights (n,), float64, which sum to one."""
        if self._log_weights is None:
            return torch.full((len(self),), 1 / len(self), dtype=torch.float64)
        return torch.softmax(self._log_weights, dim=0)

    @property
    def effective_size(self) -> float:
        """How many draws of equal weight say as much: 1 / sum w^2."""
        return 1 / float(self.weights.square().sum())

    def __len__(self) -> int:
        return self._draws.shape[0]

    def __repr__(self) -> str:
        count = "1 draw" if len(self) == 1 else f"{len(self)} draws"
        weighted = "" if self._log_weights is None else f", effective size {self.effective_size:.1f}"
        unit = f", unit {self._unit!r}" if self._unit else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Samples({count}, {self._kind}{weighted}{unit}, {dtype}, {self._space!r})"

    # -- the draws ---------------------------------------------------------------------------------

    @overload
    def __getitem__(self, index: int) -> Volume | Tensor: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> Samples: ...

    @overload
    def __getitem__(self, index: Tensor | NDArray[Any]) -> Any: ...

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor | NDArray[Any]) -> Any:
        """Return one draw, or some as Samples, not read yet: `[3]`, `[:8]`, `[[0, 3]]`, a tensor, a mask."""
        chosen = checked_index(index, len(self))
        if not isinstance(chosen, int):
            return self.select(chosen)
        return self._result(self._draws.read(slice(chosen, chosen + 1))[0].cpu())

    def __iter__(self) -> Iterator[Volume | Tensor]:
        return (self[k] for k in range(len(self)))

    def select(self, indices: Sequence[int] | Tensor | NDArray[Any]) -> Samples:
        """Return the draws of these numbers, in this order, with their weights; nothing is read yet.

        A mask of truth values, one per draw, selects as well.
        """
        chosen = checked_indices(indices, len(self))
        weights = None if self._log_weights is None else self._log_weights[chosen]
        return self._changed(SelectedDraws(self._draws, chosen), self._space, weights, self._unit)

    def map(
        self,
        function: Callable[[Tensor], Tensor | complex],
        *,
        unit: str = "",
        space: Space | None = None,
        pointwise: bool = False,
    ) -> Samples:
        """Return `function` of every draw, computed when it is asked for: `.map(torch.abs)`.

        A number per draw has mean, sd and quantiles as well: `.map(lambda x: (x > 0.02).sum())`.

        Parameters
        ----------
        function
            Takes a tensor of this space's shape and returns one, or a number: a draw of shape (1,). Truth
            values become 0 and 1 in the draws' precision, integers float64, half precision float32; where
            the new space is one of tokens, integers are tokens. It is tried on the first draw at once.
        unit
            Unit of the new values; none unless it is given here, since that of f(x) is not known.
        space
            Space of the new values; by default one of their shape, on this grid where its axes are last,
            of tokens where these are tokens and the function returns integers, but not one number.
        pointwise
            Whether each new number depends on one old number only. Then `function` is given pieces of
            several draws, and quantiles cost one evaluation of each number; without, one of each draw
            per block.
        """
        if not callable(function):
            raise type_error("function", "be callable", repr(function), "Such as torch.abs.")
        old_tokens = None if self._space.classes is not None else False
        tokens = old_tokens if space is None else Space.require(space, "space").classes is not None
        mapped = MappedDraws(self._draws, function, pointwise, tokens)
        if space is None:
            space = self._like(mapped.shape[1:], mapped.dtype)
        return self._changed(mapped, space, self._log_weights, unit)

    def tensor(self) -> Tensor:
        """Return all draws (n, *space.shape) in memory, if they fit."""
        size = math.prod(self._draws.shape) * self.dtype.itemsize
        free = available_memory()
        if free is not None and size > free:
            raise MemoryError(
                f"the {len(self)} draws take {bytes_text(size)}, and {bytes_text(free)} is "
                "available. Use mean(), sd() and quantile(), which need a few blocks, or take a part: "
                "samples[:8].tensor()."
            )
        return self._draws.read(slice(None)).cpu()

    def to_xarray(self) -> xarray.Dataset:
        """Return all draws in memory as a Dataset: what `save_samples` writes and xarray reads back."""
        import xarray

        axes = draw_axes(self._space)
        attributes = {"units": self._unit, "kind": str(self._kind)}
        data: dict[str, Any] = {"draws": ([axis.name for axis in axes], to_array(self.tensor()), attributes)}
        if self._log_weights is not None:
            data["log_weight"] = ("draw", to_array(self._log_weights).copy(), {})
        return xarray.Dataset(data, coordinates(axes), describe(self.header, self.record))

    # -- what they say together --------------------------------------------------------------------

    def mean(self, *, block_bytes: int = BLOCK_BYTES) -> Volume | Tensor:
        """Return the weighted mean."""
        self._refuse_tokens("mean")
        return self._result(self._moments(lambda moments: moments.mean, self.dtype, block_bytes), "mean")

    def sd(self, *, block_bytes: int = BLOCK_BYTES) -> Volume | Tensor:
        """Return the weighted standard deviation, unbiased in its square; `workbench.moments` says how.

        Of complex draws it is that of each component, the real and the imaginary part, taken as equal.
        """
        self._refuse_tokens("sd")
        self._refuse_point_estimate("sd")
        if len(self) == 1:
            raise value_error("samples", "be two or more for sd()", "one draw", "Draw more.")
        real = torch.empty(0, dtype=self.dtype).real.dtype
        return self._result(self._moments(lambda moments: moments.variance.sqrt(), real, block_bytes), "sd")

    @overload
    def quantile(self, q: float, *, block_bytes: int = BLOCK_BYTES) -> Volume | Tensor: ...

    @overload
    def quantile(self, q: Sequence[float], *, block_bytes: int = BLOCK_BYTES) -> list[Volume | Tensor]: ...

    @overload
    def quantile(self, q: Tensor | NDArray[Any], *, block_bytes: int = BLOCK_BYTES) -> Any: ...

    def quantile(
        self, q: float | Sequence[float] | Tensor | NDArray[Any], *, block_bytes: int = BLOCK_BYTES
    ) -> Any:
        """Return the weighted quantile of each voxel at `q` in 0..1, or a list of them at several `q`.

        `workbench.moments` says which: with equal weights NumPy's default.
        """
        self._refuse_tokens("quantile")
        self._refuse_point_estimate("quantile")
        if self._space.is_complex:
            remedy = "Of magnitudes: samples.map(torch.abs, pointwise=True).quantile(q)."
            raise type_error("samples", "be real for quantile()", self._space.kind, remedy)
        levels, several = checked_levels(q)
        weights = None if self._log_weights is None else self.weights
        found = quantiles_of(self._draws, weights, levels, check_count(block_bytes, "block_bytes"))
        results = [self._result(one, f"quantile {q:g}") for one, q in zip(found, levels, strict=True)]
        return results if several else results[0]

    def frequencies(self, *, block_bytes: int = BLOCK_BYTES) -> Volume | Tensor:
        """Return the probability of each class at each voxel, (classes, [t], z, y, x), of token fields."""
        space = self._space
        if space.classes is None:
            raise type_error("samples", "be tokens for frequencies()", space.kind, "Use mean() and sd().")
        size = check_count(block_bytes, "block_bytes")
        found = frequencies_of(self._draws, self.weights, space.classes, size)
        if space.grid is None or space.shape != space.grid.array_shape:
            return found
        names = tuple(str(k) for k in range(space.classes))
        return Volume(found, space.grid, "", self._frame, names, self._kind, "probability")

    # -- how ---------------------------------------------------------------------------------------

    def _moments(self, value: Callable[[Moments], Tensor], dtype: torch.dtype, block_bytes: int) -> Tensor:
        size = check_count(block_bytes, "block_bytes")
        return summarise(self._draws, self.weights, value, dtype, size)

    def _result(self, data: Tensor, statistic: str = "") -> Volume | Tensor:
        names = component_names(self._space)
        if self._space.grid is None or names is None:
            return data
        return Volume(data, self._space.grid, self._unit, self._frame, names, self._kind, statistic)

    def _changed(self, draws: Draws, space: Space, weights: Tensor | None, unit: str) -> Samples:
        return Samples(
            draws,
            space,
            self._kind,
            log_weights=weights,
            unit=unit,
            frame=self._frame,
            record=self.record,
        )

    def _like(self, shape: tuple[int, ...], dtype: torch.dtype) -> Space:
        """Return the space of values of another shape or dtype in the same place."""
        old = self._space
        tail = None if old.grid is None else old.grid.array_shape
        grid = old.grid if tail is not None and shape[-len(tail) :] == tail else None
        if dtype == torch.int64:
            return Space(shape, grid=grid, classes=old.classes)
        vector = old.is_vector and shape == old.shape and not dtype.is_complex
        return Space(shape, dtype.is_complex, grid, vector)

    def _refuse_tokens(self, method: str) -> None:
        if self._space.classes is not None:
            remedy = "Classes have no order and no sum. Use frequencies(), the probability of each class."
            raise type_error("samples", f"be numbers for {method}()", self._space.kind, remedy)

    def _refuse_point_estimate(self, method: str) -> None:
        if not self._kind.has_spread:
            raise value_error(
                "samples",
                f"be draws for {method}()",
                f"a {self._kind}",
                "It has no spread that says anything about the uncertainty: use a solver that draws samples.",
            )
