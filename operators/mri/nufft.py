"""The nonuniform Fourier sum as an operator: images -> samples of k-space along any trajectory.

    y_j = N^-1/2 exp(-2 pi i p_j) sum_n x_n exp(-2 pi i f_j . (n - N // 2))

f_j in cycles per voxel along the array axes (z, y, x), p_j in turns: what `NonCartesianGeometry` makes of
a trajectory. N is the number of voxels.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from operators.errors import value_error
from operators.mri.coils import KSpaceOperator
from operators.mri.engines import FloatArray, Sums, check_accuracy, check_engine, engine_for, make_sums
from operators.mri.filters import ModulatedFilters
from operators.mri.toeplitz import toeplitz_filters
from operators.space import Space

__all__ = ["GRAMS", "NUFFT"]

GRAMS = ("auto", "toeplitz", "direct")
#: Values of the filters that "auto" is willing to hold: 1 GiB in single precision.
LARGEST_KERNEL = 2**28


class NUFFT(KSpaceOperator):
    """Complex images (components, z, y, x) -> samples (components, ...), for frequencies (..., 3).

    `frequency` is f_j, along the axes of one voxel it is not used; `turns`, of shape (...), is p_j.

    `engine`: "finufft" (CPU), "cufinufft" (CUDA), "torch" (any device, slower), "auto" the first that is
    installed for the device. `accuracy` is the relative error of the sum, by default 3e-5 in single and
    1e-12 in double precision. Whatever it is, the adjoint is exact.
    `gram`: "toeplitz" computes A^H A by filters of 2^D N values, made at the first use and a hundred
    times as accurate as the sums; "direct" by both sums; "auto" takes the filters up to a size of 1 GiB.
    """

    def __init__(
        self,
        domain: Space,
        frequency: FloatArray,
        turns: FloatArray,
        *,
        engine: str = "auto",
        accuracy: float | None = None,
        gram: str = "auto",
    ) -> None:
        grid = Space.require(domain, "domain").grid
        if grid is None or not domain.is_complex:
            raise value_error("domain", "be complex images on a Grid", domain)
        self.frequency = np.array(frequency, dtype=np.float64)
        self.turns = np.array(turns, dtype=np.float64)
        samples = self.frequency.shape[:-1]
        if self.frequency.ndim < 2 or self.frequency.shape[-1] != 3 or self.turns.shape != samples:
            raise value_error(
                "frequency", "have shape (..., 3), and turns (...)", (self.frequency.shape, self.turns.shape)
            )
        self.engine = check_engine(engine)
        self.accuracy = check_accuracy(accuracy)
        if gram not in GRAMS:
            raise value_error("gram", f"be one of {', '.join(GRAMS)}", repr(gram))
        self.gram_method = gram
        self._components = domain.shape[:-3]
        encoded = [axis for axis in range(-3, 0) if domain.shape[axis] > 1] or [-1]
        self.axes = tuple(encoded)
        self._sizes = tuple(domain.shape[axis] for axis in encoded)
        super().__init__(domain, Space((*self._components, *samples), is_complex=True))

    def engine_for(self, device: torch.device | str) -> str:
        """Return the engine that runs on `device`, where `engine` leaves the choice open."""
        return engine_for(self.engine, device)

    def _apply(self, x: Tensor) -> Tensor:
        y: Tensor = self._forward(x.reshape(-1, *self._sizes))
        return y.reshape(x.shape[0], *self.codomain.shape)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = self._adjoint(y.reshape(-1, self.turns.size))
        return x.reshape(y.shape[0], *self.domain.shape)

    def _apply_gram(self, x: Tensor) -> Tensor:
        filters = self._gram_filters(x)
        return super()._apply_gram(x) if filters is None else filters.apply(x)

    def _gram_filters(self, x: Tensor) -> ModulatedFilters | None:
        values = math.prod(self._sizes) * 2 ** len(self._sizes)
        if self.gram_method == "direct" or (self.gram_method == "auto" and values > LARGEST_KERNEL):
            return None
        filters: ModulatedFilters = self._filters(x)
        return filters

    # What the engines do is not traced: a compiled graph is split here.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _forward(self, images: Tensor) -> Tensor:
        return self._sums(images).forward(images) * self._phase(images)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _adjoint(self, samples: Tensor) -> Tensor:
        return self._sums(samples).adjoint(samples * self._phase(samples).conj())

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _filters(self, x: Tensor) -> ModulatedFilters:
        def make() -> ModulatedFilters:
            return toeplitz_filters(
                self._encoded,
                self._sizes,
                self.axes,
                scale=1 / math.prod(self._sizes),
                engine=self.engine,
                accuracy=self.accuracy,
                like=x,
            )

        return cast(ModulatedFilters, self._kept("filters", x, make))

    @property
    def _encoded(self) -> FloatArray:
        return self.frequency.reshape(-1, 3)[:, list(self.axes)]

    def _sums(self, x: Tensor) -> Sums:
        def make() -> Sums:
            real = torch.float32 if x.dtype == torch.complex64 else torch.float64
            return make_sums(
                self.engine, self._encoded, self._sizes, accuracy=self.accuracy, dtype=real, device=x.device
            )

        return cast(Sums, self._kept("sums", x, make))

    def _phase(self, x: Tensor) -> Tensor:
        def make() -> Tensor:
            turns = torch.from_numpy(self.turns.reshape(-1) - np.round(self.turns.reshape(-1)))
            phase = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
            return (phase / math.sqrt(math.prod(self._sizes))).to(device=x.device, dtype=x.dtype)

        return cast(Tensor, self._kept("phase", x, make))

    def _kept(self, what: str, x: Tensor, make: Any) -> object:
        name = f"_memo_{what}_{x.dtype}_{x.device}"
        if name not in self.__dict__:
            self.__dict__[name] = make()
        return self.__dict__[name]
