"""What a problem of the referee is: apart from the list of them, which imports the files that make them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipelines.verify.referee.truth import Truth, reals
from workbench.posterior import Posterior

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A posterior with its truth; `draws` for the full table, `fast_draws` for a quick look."""

    name: str
    posterior: Posterior
    truth: Truth
    draws: int
    fast_draws: int
    prior_is_gaussian: bool
    note: str

    def rows(self, draws: Tensor) -> Tensor:
        """Return the rows of u that the truth is about, of physical draws (K, *shape)."""
        return reals(self.posterior.from_physical(draws))
