"""Solvers as users of `workbench verify --solver` would bring them, right and wrong."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.base import Info
from workbench.solvers.exact_gaussian import ExactGaussian, ExactGaussianState

__all__ = ["Broken", "Demanding", "Diverging", "Parametrised", "Right", "Undecided", "Wide", "instance"]

NOT_A_SOLVER = 3


class Right(ExactGaussian):
    """Exact draws under another name."""


class Wide(ExactGaussian):
    """Says that it is exact, and is 8 % too far from zero."""

    def answer(self, posterior: Posterior, state: ExactGaussianState) -> Tensor:
        return 1.08 * super().answer(posterior, state)


class Undecided(Wide):
    """The same, but honest about it: nobody knows its law."""

    kind: ClassVar[Kind] = Kind.APPROXIMATE_SAMPLE


class Broken(ExactGaussian):
    """Fails on the way, as code does that was never run."""

    def step(
        self, posterior: Posterior, state: ExactGaussianState, row: PlanRow, keys: Keys
    ) -> tuple[ExactGaussianState, Info]:
        raise TypeError("unsupported operand")


class Diverging(ExactGaussian):
    """Ends in no numbers."""

    def answer(self, posterior: Posterior, state: ExactGaussianState) -> Tensor:
        return super().answer(posterior, state) * float("nan")


class Demanding(ExactGaussian):
    """Refuses every posterior by its plan."""

    def plan(self, posterior: Posterior) -> SolverPlan:
        raise ValueError("`posterior` must be another one.\nSuch as mine.")


class Parametrised(ExactGaussian):
    """Cannot be made without an argument."""

    def __init__(self, accuracy: Any) -> None:
        super().__init__(accuracy)


instance = Right(1e-6)
