"""The posterior: likelihood x prior, and the only place where units change.

    physical x = scale * u + offset,    p(u | y) ~ p(y | A (scale u + offset)) p(u)

A prior speaks u, the numbers it was made with; physics speaks x. The change is folded once into
operator, data and noise, so a solver sees u alone, and samples come back physical.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.space import Space
from workbench.likelihood import Likelihood
from workbench.priors.base import Prior
from workbench.units import Units

__all__ = ["Posterior"]

T = TypeVar("T")


class Posterior:
    """What is known of the object after the measurement; without a likelihood, before it.

    `units` replaces the prior's own, for example where the scale of the data has been estimated.
    `likelihood` is given in physical units; the attribute of that name is a function of u.
    """

    def __init__(
        self, prior: Prior, likelihood: Likelihood | None = None, *, units: Units | None = None
    ) -> None:
        if not isinstance(prior, Prior):
            raise type_error("prior", "be a Prior", type(prior).__name__, "Without one: Flat(space).")
        if likelihood is not None and not isinstance(likelihood, Likelihood):
            remedy = "From a measurement: measurement.likelihood(grid)."
            raise type_error("likelihood", "be a Likelihood or None", type(likelihood).__name__, remedy)
        self.prior = prior
        self.units = prior.units if units is None else Units.require(units)
        self.physical_likelihood = likelihood
        if prior.space.classes is not None and not self.units.is_identity:
            raise value_error("units", "be the identity for tokens", self.units)
        if likelihood is None:
            self.likelihood: Likelihood | None = None
            return
        prior.space.check_same(likelihood.domain, "likelihood.operator.domain")
        if "" not in (likelihood.unit, self.units.unit) and likelihood.unit != self.units.unit:
            raise value_error(
                "units",
                f"lead to the unit of the measured image, {likelihood.unit!r}",
                repr(self.units.unit),
                "Say what scale and offset lead to it: Posterior(prior, likelihood, units=Units(scale, "
                f"offset, {likelihood.unit!r})); from HU: prior.units.then(hounsfield_units(energy)), or "
                'shipped_prior("ct-slice", grid, energy=...) to begin with.',
            )
        self.likelihood = likelihood.rescaled(self.units.scale, self.units.offset)

    @property
    def space(self) -> Space:
        """The space of u, and of x."""
        return self.prior.space

    @property
    def grid(self) -> Grid:
        """The grid of the samples; an error if the prior's space has none."""
        if self.space.grid is None:
            raise value_error("prior.space", "lie on a Grid", self.space)
        return self.space.grid

    @property
    def measured(self) -> Likelihood:
        """The likelihood as a function of u; an error if there is none."""
        if self.likelihood is None:
            raise value_error("posterior", "have a likelihood", "None", "Posterior(prior, likelihood).")
        return self.likelihood

    @property
    def frame(self) -> str:
        """The world of the grid's affine: a scanner's once there is a measurement."""
        return "unknown" if self.likelihood is None else "scanner"

    def like(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """Return an empty tensor with the dtype and device of u: those of the data unless told otherwise."""
        likelihood = self.likelihood
        if dtype is None:
            dtype = torch.float32 if likelihood is None else likelihood.dtype
        where = device if device is not None else "cpu" if likelihood is None else likelihood.device
        return torch.empty(0, dtype=self.space.dtype_like(torch.empty(0, dtype=dtype)), device=where)

    def to_physical(self, u: Tensor) -> Tensor:
        """Return x = scale * u + offset."""
        return self.units.physical(u)

    def from_physical(self, x: Tensor) -> Tensor:
        """Return the u of a physical x."""
        return self.units.normalised(x)

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` makes, made once: what a solver derives from a posterior and needs each step."""
        memo = self.__dict__.setdefault("_memo_kept", {})
        if name not in memo:
            memo[name] = make()
        return memo[name]  # type: ignore[no-any-return]

    def log_density(self, u: Tensor) -> Tensor:
        """Return log p(y | u) + log p(u) per batch element, where the prior's density is known."""
        prior = self.prior.log_density(u)
        return prior if self.likelihood is None else prior + self.likelihood.log_likelihood(u)

    def replaced(self, prior: Prior, likelihood: Likelihood | None) -> Self:
        """Return the same posterior with other parts in u: how a run counts what it calls."""
        other = object.__new__(type(self))
        other.prior, other.units = prior, self.units
        other.physical_likelihood, other.likelihood = self.physical_likelihood, likelihood
        return other

    def __repr__(self) -> str:
        return f"Posterior({self.prior!r}, {self.physical_likelihood!r}, {self.units!r})"
