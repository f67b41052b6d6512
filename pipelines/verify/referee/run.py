"""The whole table: problems and solvers spread over processes, cells in the order of the table.

One process per core, one thread each: most of these problems are small. A task is one place in the list of
solvers for a problem; each process builds the truth of a problem once, when it first needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context

import torch

from operators.errors import value_error
from pipelines.verify.referee.cells import Cell, Refused, cell
from pipelines.verify.referee.entries import Entry, entries, lawful, loaded
from pipelines.verify.referee.problem import PROBLEMS, problem

__all__ = ["FAST", "Result", "chosen", "run"]

Result = Cell | Refused

#: Problems of the fast table.
FAST = ("P1", "P2", "P3", "coils8", "phase2", "blur64")
#: Places in the list of solvers; a problem need not fill them all.
PLACES = 48


def chosen(names: Sequence[str], *, fast: bool) -> tuple[str, ...]:
    """Return the problems that were asked for, or those of the table."""
    for name in names:
        if name not in PROBLEMS:
            raise value_error("problem", f"be one of {', '.join(PROBLEMS)}", repr(name))
    return tuple(names) or (FAST if fast else tuple(PROBLEMS))


def run(
    names: Sequence[str],
    *,
    fast: bool = False,
    solvers: Sequence[str] = (),
    jobs: int | None = None,
    told: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Return the cells of these problems; `told` is called with each as it comes, in order."""
    for path in solvers:
        loaded(path)  # what is wrong with it is said before anything is computed
    tasks = list(_tasks(names, fast, tuple(solvers)))
    found: list[Result] = []

    def take(results: list[Result]) -> None:
        for result in results:
            found.append(result)
            if told is not None:
                told(result)

    count = min(_cores() if jobs is None else jobs, len(tasks))
    if count <= 1:
        for task in tasks:
            take(_done(task))
        return found
    # Forked threads of torch would wait for ever.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        for results in pool.map(_done, tasks):
            take(results)
    return found


Task = tuple[str, bool, tuple[str, ...], int]


def _tasks(names: Sequence[str], fast: bool, solvers: tuple[str, ...]) -> Iterator[Task]:
    for name in names:
        for place in range(len(solvers) or PLACES):
            yield name, fast, solvers, place


def _done(task: Task) -> list[Result]:
    name, fast, solvers, place = task
    held = problem(name)
    listed = _listed(name, fast, solvers)
    draws = held.fast_draws if fast else held.draws
    return [cell(entry, held, draws) for entry in listed[place : place + 1]]


@lru_cache
def _listed(name: str, fast: bool, solvers: tuple[str, ...]) -> list[Entry]:
    held = problem(name)
    return [lawful(loaded(path), held) for path in solvers] or entries(held, fast=fast)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
