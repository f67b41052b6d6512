"""By introspection: a noise law without a contract test fails the suite."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import workbench
from tests.noise_contract import NoiseContract
from workbench.noise.base import Noise

ROOT = Path(__file__).parents[3]


def shipped_laws() -> set[type[Noise]]:
    found: set[type[Noise]] = set()
    for module in pkgutil.walk_packages(workbench.__path__, "workbench."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, Noise) and not inspect.isabstract(member):
                found.add(member)
    return found


def collected_contracts() -> list[type[NoiseContract]]:
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path == Path(__file__) or "NoiseContract" not in path.read_text(encoding="utf-8"):
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for member_name, member in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if member_name.startswith("Test") and issubclass(member, NoiseContract):
                found.append(member)
    return found


def test_there_are_laws_to_find() -> None:
    assert len(shipped_laws()) >= 5


@pytest.mark.parametrize("law", sorted(shipped_laws(), key=lambda c: c.__name__))
def test_every_law_has_its_contract(law: type[Noise]) -> None:
    assert any(contract.covers == (law,) for contract in collected_contracts()), (
        f"{law.__name__} in {law.__module__} has no test class Test... with covers = ({law.__name__},) "
        "that subclasses NoiseContract"
    )


@pytest.mark.parametrize("contract", collected_contracts(), ids=lambda c: c.__name__)
def test_no_contract_is_emptied(contract: type[NoiseContract]) -> None:
    for name, inherited in inspect.getmembers(NoiseContract, inspect.isfunction):
        if name.startswith("test_"):
            assert getattr(contract, name) is inherited, f"{contract.__name__} replaces {name}"
