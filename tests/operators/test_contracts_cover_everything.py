"""By introspection: a public operator without a contract test fails the suite."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import operators
from operators.base import Operator
from operators.linear import LinearOperator
from operators.linear_map import LinearMap
from operators.solves import NormalSolves
from tests.contracts import LinearOperatorContract, OperatorContract

ENGINE_MODULES = {"operators.ct_numba"}  # import numba at the top; hold kernels, no operators
#: Floors of the class hierarchy.
NOT_FOR_USE = {Operator, LinearMap, NormalSolves, LinearOperator}


def public_operators() -> set[type[Operator]]:
    found: set[type[Operator]] = set()
    for module in pkgutil.walk_packages(operators.__path__, "operators."):
        if module.name in ENGINE_MODULES:
            continue
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if (
                issubclass(member, Operator)
                and member.__module__ == module.name
                and member not in NOT_FOR_USE
            ):
                found.add(member)
    return found


def contract_tests() -> dict[type, set[type[Operator]]]:
    covered: dict[type, set[type[Operator]]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__):
            continue
        module = importlib.import_module(f"tests.operators.{path.stem}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, OperatorContract) and member.__module__ == module.__name__:
                covered[member] = set(member.covers)
    return covered


def test_there_are_operators_to_find() -> None:
    assert len(public_operators()) >= 12


@pytest.mark.parametrize("operator", sorted(public_operators(), key=lambda c: c.__name__))
def test_every_public_operator_has_its_contract(operator: type[Operator]) -> None:
    battery = LinearOperatorContract if issubclass(operator, LinearOperator) else OperatorContract
    holders = [test for test, covers in contract_tests().items() if operator in covers]
    assert any(issubclass(test, battery) for test in holders), (
        f"{operator.__name__} in {operator.__module__} has no test class with "
        f"covers = ({operator.__name__},) that subclasses {battery.__name__}"
    )


def test_every_contract_says_what_it_covers() -> None:
    for test, covers in contract_tests().items():
        assert covers, f"{test.__name__} declares no `covers`"
