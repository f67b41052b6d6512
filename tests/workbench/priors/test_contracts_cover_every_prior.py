"""By introspection: a prior without a contract test fails the suite."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import workbench.priors
from tests.declaring_contract import DeclaringContract
from workbench.priors.base import Denoiser, Prior


def shipped_priors() -> set[type[Prior]]:
    """Return every prior class, private ones too."""
    found: set[type[Prior]] = set()
    for module in pkgutil.walk_packages(workbench.priors.__path__, "workbench.priors."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            ours = issubclass(member, Prior) and member.__module__ == module.name
            if ours and not inspect.isabstract(member):
                found.add(member)
    return found - {Prior, Denoiser}


def collected_contracts() -> dict[type[DeclaringContract], tuple[type[Prior], ...]]:
    """Return the contract classes that pytest collects, with what they say they cover."""
    covered = {}
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        if path == Path(__file__):
            continue
        name = ".".join(path.relative_to(Path(__file__).parents[3]).with_suffix("").parts)
        for member_name, member in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            collected = member_name.startswith("Test") and getattr(member, "__test__", True)
            if collected and issubclass(member, DeclaringContract) and member.__module__ == name:
                covered[member] = member.covers  # type: ignore[attr-defined]
    return covered


CONTRACTS = collected_contracts()
BATTERIES = tuple(f"tests.{name}_contract" for name in ("declaring", "scaled", "prior", "token_prior"))


def test_there_are_priors_to_find() -> None:
    assert len(shipped_priors()) >= 4


@pytest.mark.parametrize("prior", sorted(shipped_priors(), key=lambda c: c.__name__))
def test_every_prior_has_its_contract(prior: type[Prior]) -> None:
    # That `make` returns exactly this class is tested by the contract itself.
    assert any(covers == (prior,) for covers in CONTRACTS.values()), (
        f"{prior.__name__} in {prior.__module__} has no test class Test... with covers = "
        f"({prior.__name__},) that subclasses PriorContract or TokenPriorContract"
    )


@pytest.mark.parametrize("contract", sorted(CONTRACTS, key=lambda c: c.__name__))
def test_no_contract_is_emptied(contract: type[DeclaringContract]) -> None:
    for battery in contract.__mro__:
        if battery.__module__ not in BATTERIES:
            continue
        for name, inherited in vars(battery).items():
            if name.startswith("test_"):
                assert getattr(contract, name) is inherited, f"{contract.__name__} replaces {name}"
