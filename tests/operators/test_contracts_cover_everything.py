"""By introspection: a public operator without a contract test fails the suite."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import operators
import workbench
from operators.base import Operator
from operators.linear import LinearOperator
from operators.linear_map import LinearMap
from operators.mri.coils import KSpaceOperator
from operators.solves import NormalSolves
from tests.contracts import LinearOperatorContract, OperatorContract

#: Modules of compiled kernels, which import their compiler at the top and hold no operators.
COMPILED = re.compile(r"^(import|from) (numba|triton)", re.MULTILINE)
#: Floors of the class hierarchy.
NOT_FOR_USE = {Operator, LinearMap, NormalSolves, LinearOperator, KSpaceOperator}


def shipped_operators() -> set[type[Operator]]:
    """Return every operator class of the lower two floors, private ones too."""
    found: set[type[Operator]] = set()
    for package in (operators, workbench):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            spec = importlib.util.find_spec(module.name)
            if spec is None or spec.origin is None or COMPILED.search(Path(spec.origin).read_text("utf-8")):
                continue
            for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(member, Operator) and member.__module__ == module.name:
                    found.add(member)
    return found - NOT_FOR_USE


def collected_contracts() -> dict[type[OperatorContract], tuple[type[Operator], ...]]:
    """Return the contract classes that pytest collects, with what they say they cover."""
    covered = {}
    for path in sorted(Path(__file__).parents[1].rglob("test_*.py")):
        if path == Path(__file__) or "Contract" not in path.read_text(encoding="utf-8"):
            continue
        name = ".".join(path.relative_to(Path(__file__).parents[2]).with_suffix("").parts)
        module = importlib.import_module(name)
        for member_name, member in inspect.getmembers(module, inspect.isclass):
            collected = member_name.startswith("Test") and getattr(member, "__test__", True)
            if collected and issubclass(member, OperatorContract) and member.__module__ == name:
                covered[member] = member.covers
    return covered


CONTRACTS = collected_contracts()


def test_there_are_operators_to_find() -> None:
    assert len(shipped_operators()) >= 12


@pytest.mark.parametrize("operator", sorted(shipped_operators(), key=lambda c: c.__name__))
def test_every_operator_has_its_contract(operator: type[Operator]) -> None:
    battery = LinearOperatorContract if issubclass(operator, LinearOperator) else OperatorContract
    # That `make` returns exactly this class is tested by the contract itself.
    holders = [test for test, covers in CONTRACTS.items() if covers == (operator,)]
    assert any(issubclass(test, battery) for test in holders), (
        f"{operator.__name__} in {operator.__module__} has no test class Test... with "
        f"covers = ({operator.__name__},) that subclasses {battery.__name__}"
    )


@pytest.mark.parametrize("contract", sorted(CONTRACTS, key=lambda c: c.__name__))
def test_no_contract_is_emptied(contract: type[OperatorContract]) -> None:
    for name, inherited in inspect.getmembers(OperatorContract, inspect.isfunction):
        if name.startswith("test_"):
            own = getattr(contract, name)
            assert own is inherited or name == "test_cuda_agrees_with_cpu", (
                f"{contract.__name__} replaces {name}"
            )
