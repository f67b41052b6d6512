"""By introspection: a solver without a contract test fails the suite."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import workbench
from tests.solver_contract import SolverContract
from workbench.solvers.base import Solver


def shipped() -> set[type]:
    found = set()
    for module in pkgutil.walk_packages(workbench.__path__, "workbench."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, Solver) and not inspect.isabstract(member):
                found.add(member)
    return found


def contracts() -> dict[type[SolverContract], tuple[type, ...]]:
    found = {}
    here = Path(__file__).parent
    for path in sorted(here.rglob("test_*.py")):
        if path == Path(__file__):
            continue
        parts = path.relative_to(here).with_suffix("").parts
        module = importlib.import_module(".".join(("tests.workbench.solvers", *parts)))
        for name, member in inspect.getmembers(module, inspect.isclass):
            if name.startswith("Test") and issubclass(member, SolverContract):
                found[member] = member.covers
    return found


def test_there_are_solvers_to_find() -> None:
    assert len(shipped()) >= 4


@pytest.mark.parametrize("solver", sorted(shipped(), key=lambda c: c.__name__))
def test_every_solver_has_its_contract(solver: type) -> None:
    assert (solver,) in contracts().values(), (
        f"{solver.__name__} has no test class with covers = ({solver.__name__},)"
    )


@pytest.mark.parametrize("contract", sorted(contracts(), key=lambda c: c.__name__))
def test_no_contract_is_emptied(contract: type[SolverContract]) -> None:
    for name, inherited in inspect.getmembers(SolverContract, inspect.isfunction):
        if name.startswith("test_"):
            assert getattr(contract, name) is inherited, f"{contract.__name__} replaces {name}"


@pytest.mark.parametrize("solver", sorted(shipped(), key=lambda c: c.__name__))
def test_a_solver_has_no_loop_state_or_files(solver: type) -> None:
    source = inspect.getsource(inspect.getmodule(solver))  # type: ignore[arg-type]
    for forbidden in ("open(", "print(", "manual_seed", "torch.randn", "**kwargs", "global "):
        assert forbidden not in source, f"{solver.__name__} uses {forbidden}"
