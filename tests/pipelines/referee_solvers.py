"""Solvers as users of `workbench verify --solver` would bring them, right and wrong."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.base import Info
from workbench.solvers.exact_gaussian import ExactGaussian, ExactGaussianState
from workbench.solvers.guidance.diffpir import DiffPIR

__all__ = [
    "Broken",
    "Demanding",
    "Diverging",
    "Hasty",
    "Parametrised",
    "Right",
    "Same",
    "Shapeless",
    "Undecided",
    "Wide",
    "instance",
]

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


class Shapeless(ExactGaussian):
    """Multiplies what does not fit."""

    def step(
        self, posterior: Posterior, state: ExactGaussianState, row: PlanRow, keys: Keys
    ) -> tuple[ExactGaussianState, Info]:
        torch.ones(2, 3) @ torch.ones(2, 3)
        return super().step(posterior, state, row, keys)


class Same(DiffPIR):
    """DiffPIR under another name."""


class Hasty(DiffPIR):
    """DiffPIR that forgets a tenth of the noise that it puts back."""

    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        after, info = super().moved(posterior, z, row, keys)
        x = info.estimate
        assert isinstance(x, Tensor)
        return x + 0.9 * (after - x), info


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
