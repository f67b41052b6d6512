"""A path as JSON-able facts and back: how cards of networks and records name it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from operators.errors import value_error
from workbench.paths import schedules
from workbench.paths.affine import AffinePath
from workbench.paths.noise_law import GaussianLaw, NoiseLaw, StudentT
from workbench.paths.schedules import Schedule

__all__ = ["facts_of_path", "path_of_facts"]

SCHEDULES: Mapping[str, type[Schedule]] = {
    name: getattr(schedules, name) for name in schedules.__all__ if name != "Schedule"
}
LAWS: Mapping[str, type[NoiseLaw]] = {kind.__name__: kind for kind in (GaussianLaw, StudentT)}


def facts_of_path(path: AffinePath) -> dict[str, Any]:
    """Return the path as JSON-able facts; a schedule of one's own has none."""
    return {"schedule": _named(path.schedule, SCHEDULES), "law": _named(path.law, LAWS)}


def path_of_facts(facts: Mapping[str, Any]) -> AffinePath:
    """Return the path of which these are the facts."""
    try:
        parts = {name: dict(facts[name]) for name in ("schedule", "law")}
        schedule = SCHEDULES[parts["schedule"].pop("name")]
        law = LAWS[parts["law"].pop("name")]
        for values in parts.values():
            values.update({name: tuple(value) for name, value in values.items() if isinstance(value, list)})
        return AffinePath(schedule(**parts["schedule"]), law(**parts["law"]))
    except (KeyError, TypeError, AttributeError) as error:
        expected = f"be those of a path, its schedule one of {', '.join(SCHEDULES)}"
        raise value_error("facts", expected, f"{facts!r:.200}", str(error)) from error


def _named(value: Any, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    name = type(value).__name__
    if known.get(name) is not type(value):
        raise value_error("path", f"be made of {', '.join(known)} to be written", repr(value))
    return {"name": name, **dataclasses.asdict(value)}
