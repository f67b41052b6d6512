"""What the driver refuses before a run, with a remedy that helps, and what it does not."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np
import pytest
import torch

from tests.problems import posterior_of
from tests.workbench.toys import Walk, prior_only, walk
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.ledger import Budget, BudgetError
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.store import TensorStore


def test_a_number_of_numpy_is_a_number_of_draws() -> None:
    assert len(sample(prior_only(), Walk(), draws=np.int64(3))) == 3  # type: ignore[arg-type]


def test_an_answer_of_another_shape_is_named() -> None:
    class Short(Walk):
        def answer(self, posterior: Posterior, state: object) -> torch.Tensor:
            return super().answer(posterior, state)[:1]  # type: ignore[arg-type]

    with pytest.raises(
        ValueError, match=r"`Short.answer` must return shape \(2, .*, a row per draw, got \(1, "
    ):
        sample(prior_only(), Short(), draws=2)


def test_a_microbatch_that_cannot_fit_is_refused_before_the_run() -> None:
    with pytest.raises(
        BudgetError, match=r"`microbatch` must let 3 copies of its draws fit into .* At most \d+"
    ):
        sample(prior_only(), Walk(), draws=1, microbatch=10**12)


def test_remedies_help() -> None:
    with pytest.raises(BudgetError, match="or lower `microbatch`: 8 are computed at once"):
        sample(prior_only(), Walk(), draws=5, microbatch=8, budget=Budget(network_evaluations=60))


def test_a_finished_run_is_read_within_any_budget() -> None:
    store = TensorStore()
    whole = walk(store).tensor()
    assert torch.equal(walk(store, budget=Budget(network_evaluations=1)).tensor(), whole)


@dataclasses.dataclass(frozen=True)
class Loose:
    z: torch.Tensor
    phase: Any


@dataclasses.dataclass(frozen=True)
class Hidden:
    number: int


class Phase(enum.StrEnum):
    UP = "up"


@pytest.mark.parametrize("phase", [Phase.UP, torch.Size([1]), Hidden(1)])
def test_a_state_that_no_checkpoint_holds_is_refused_before_the_first_step(phase: object) -> None:
    class Keeps(Walk):
        state_type = Loose

        def init(self, posterior: Posterior, keys: Keys, like: torch.Tensor) -> Any:
            return Loose(super().init(posterior, keys, like).z, phase)

    with pytest.raises(TypeError, match="a checkpoint can (hold|restore)"):
        sample(prior_only(), Keeps(), draws=2, store=TensorStore())


def test_a_flat_prior_has_no_samples() -> None:
    gaussian = posterior_of("mask")
    flat = Posterior(Flat(gaussian.space), gaussian.physical_likelihood)
    with pytest.raises(CapabilityError, match="`prior` must be a law that can be drawn from, got Flat"):
        sample(flat, AnnealedLangevin(3.0, 0.5), draws=1)
