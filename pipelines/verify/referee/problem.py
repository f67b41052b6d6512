"""The problems of the referee by name: a posterior, and the truth about it.

`problem("ct64")` builds one, once: most at once, ct64 in seconds, mri64 in twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType

from operators.errors import value_error
from pipelines.verify.referee.posed import Problem

__all__ = ["PROBLEMS", "problem"]


def _small(name: str) -> Problem:
    from pipelines.verify.referee.small import small_problem

    return small_problem(name)


def _field(name: str) -> Problem:
    from pipelines.verify.referee.fields import field_problem

    return field_problem(name)


def _images() -> Problem:
    from pipelines.verify.referee.images import images_problem

    return images_problem()


def _twins(name: str) -> Problem:
    from pipelines.verify.referee.twins import twins_problem

    return twins_problem(name)


def _phase() -> Problem:
    from pipelines.verify.referee.nonlinear import phase_problem

    return phase_problem()


#: What builds each problem, in the order of the tables.
PROBLEMS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {name: partial(_small, name) for name in ("P1", "P2", "P3", "blur8", "mask8", "ct8", "coils8")}
    | {"images16": _images}
    | {name: partial(_twins, name) for name in ("views16", "lines16")}
    | {"phase2": _phase}
    | {name: partial(_field, name) for name in ("blur64", "mask64", "ct64", "mri64")}
)


@lru_cache
def problem(name: str) -> Problem:
    """Return the problem of that name, the same one at each call."""
    if name not in PROBLEMS:
        raise value_error("name", f"be one of {', '.join(PROBLEMS)}", repr(name))
    return PROBLEMS[name]()
