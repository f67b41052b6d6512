"""Counted operators are the operators they wrap, and count every way they are called."""

from __future__ import annotations

import pytest
import torch

from operators.base import Operator
from operators.blur import Blur, GaussianPSF
from operators.diagonal import Diagonal
from operators.differences import FiniteDifferences
from operators.grid import Grid
from operators.space import Space
from operators.stack import BlockDiagonal
from tests.contracts import LinearOperatorContract, OperatorContract
from tests.problems import posterior_of
from workbench.engine.counting import CountedLinear, CountedOperator, counted
from workbench.ledger import Budget, BudgetExhausted, Ledger

SPACE = Space.field(Grid.from_spacing((2, 3, 4), 1.0))


class Cube(Operator):
    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return x**3


class TestCountedLinear(LinearOperatorContract):
    covers = (CountedLinear,)
    traceable = False  # a count is a side effect

    def make(self, dtype: torch.dtype) -> CountedLinear:
        return CountedLinear(FiniteDifferences(SPACE), Ledger())


class TestCountedOperator(OperatorContract):
    covers = (CountedOperator,)
    traceable = False

    def make(self, dtype: torch.dtype) -> CountedOperator:
        return CountedOperator(Cube(SPACE, SPACE), Ledger())


def test_every_call_is_counted_per_sample() -> None:
    ledger = Ledger()
    op = CountedLinear(FiniteDifferences(SPACE), ledger)
    x = torch.ones(5, *SPACE.shape)
    y = op(x)
    op.adjoint(y[:2])
    op.gram(x[:3])
    op.vjp(x, y)
    assert (ledger.forwards, ledger.adjoints, ledger.grams) == (5, 7, 3)
    assert ledger.operator_calls == 18
    op.normal_solve(x, 0.5)
    assert ledger.solves == 5
    assert ledger.grams > 3


def test_a_backward_pass_is_an_adjoint() -> None:
    ledger = Ledger()
    op = CountedLinear(FiniteDifferences(SPACE), ledger)
    x = torch.ones(4, *SPACE.shape, requires_grad=True)
    op(x).square().sum().backward()
    assert (ledger.forwards, ledger.adjoints) == (4, 4)


def test_nonlinear_derivatives_are_counted() -> None:
    ledger = Ledger()
    op = CountedOperator(Cube(SPACE, SPACE), ledger)
    x = torch.full((2, *SPACE.shape), 2.0)
    assert torch.allclose(op.vjp(x, x), 3 * x**3)
    assert torch.allclose(op.jvp(x, x), 3 * x**3)
    assert ledger.adjoints == 2
    assert ledger.forwards >= 2


def test_closed_forms_stay_and_solves_of_its_own_too() -> None:
    blur = Blur(SPACE, GaussianPSF(2.0), "periodic")
    op = CountedLinear(blur, Ledger())
    assert op.has_closed_form
    assert (2.0 * op).has_closed_form
    b = torch.ones(1, *SPACE.shape, dtype=torch.float64)
    assert torch.equal(op.normal_solve(b, 0.1), blur.normal_solve(b, 0.1))
    assert op.norm() == blur.norm()
    assert op.gram_trace() == blur.gram_trace()
    block = BlockDiagonal([blur, Diagonal(SPACE, torch.full(SPACE.shape, 2.0))])
    wrapped = CountedLinear(block, Ledger())
    flat = torch.ones(1, block.domain.size, dtype=torch.float64)
    assert torch.equal(wrapped.normal_solve(flat, 0.1), block.normal_solve(flat, 0.1))


def test_a_prior_counts_on_a_copy() -> None:
    posterior, ledger = posterior_of("mask"), Ledger()
    inside = counted(posterior, ledger)
    z = torch.ones(3, *posterior.space.shape, dtype=torch.float64)
    assert torch.equal(inside.prior.denoise(z, 0.5), posterior.prior.denoise(z, 0.5))  # type: ignore[attr-defined]
    assert ledger.network_evaluations == 3
    assert type(inside.prior) is type(posterior.prior)


def test_the_call_that_goes_beyond_a_budget_is_not_made() -> None:
    ledger = Ledger()
    ledger.enforce(Budget(operator_calls=5))
    op = CountedLinear(FiniteDifferences(SPACE), ledger)
    op.gram(torch.ones(2, *SPACE.shape))
    with pytest.raises(
        BudgetExhausted, match="budget of 5 operator_calls is exhausted: 6 are needed now. Raise it"
    ):
        op.gram(torch.ones(1, *SPACE.shape))
    assert ledger.operator_calls == 4
    op(torch.ones(1, *SPACE.shape))


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"operator_calls": 0}, {"memory_bytes": 1.5}])
def test_budgets_are_checked(options: dict[str, float]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        Budget(**options)  # type: ignore[arg-type]
