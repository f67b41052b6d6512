"""Equal values hash alike in any process; any change of a value changes the hash."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from tests.problems import posterior_of
from workbench.fingerprint import fingerprint
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient


@dataclass(frozen=True)
class Pair:
    a: object
    b: object = None


VALUES = [
    None,
    0,
    False,
    0.0,
    "0",
    b"0",
    (0,),
    [0],
    {0: 0},
    {"0": 0},
    frozenset({0}),
    torch.zeros(1),
    torch.zeros(2),
    torch.zeros(1, dtype=torch.float64),
    torch.zeros(1, 1),
    torch.ones(1).conj() * 1j,
    torch.float32,
    torch.device("cpu"),
    Pair(1),
    Pair(1, 2),
    Pair(Pair(1)),
    Pair,
    ConjugateGradient(),
    ConjugateGradient(5),
    Grid.from_spacing((1, 4, 4), 1.0),
    Grid.from_spacing((1, 4, 4), 1.1),
    Grid.from_spacing((1, 4, 4), 1.0).flip(1),
    torch.nn.Linear(2, 2),
    len,
    lambda x: x + 1,
    lambda x: x + 2,
]


def test_different_values_have_different_hashes() -> None:
    hashes = [fingerprint(value) for value in VALUES]
    assert len(set(hashes)) == len(VALUES)
    assert hashes == [fingerprint(value) for value in VALUES]


def test_containers_are_not_their_contents_in_a_row() -> None:
    assert (
        len({fingerprint((1, 2), 3), fingerprint(1, (2, 3)), fingerprint(1, 2, 3), fingerprint((1, 2, 3))})
        == 4
    )


def test_what_an_operator_derives_is_left_out() -> None:
    grid = Grid.from_spacing((1, 8, 8), 1.0)
    operator = ParallelBeamGeometry.around(grid, 4).operator(grid, engine="torch")
    before = fingerprint(operator)
    operator(torch.ones(grid.shape))
    operator.gram_trace()
    operator.norm()
    _ = operator.device
    assert fingerprint(operator) == before
    other = ParallelBeamGeometry.around(grid, 5).operator(grid, engine="torch")
    assert fingerprint(other) != before


def test_a_posterior_hashes_alike_in_another_process() -> None:
    posterior = posterior_of("mask")
    code = (
        "from tests.problems import posterior_of; from workbench.fingerprint import fingerprint as f;"
        "p = posterior_of('mask'); print(f(p.prior, p.physical_likelihood, p.units))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint(posterior.prior, posterior.physical_likelihood, posterior.units)


def test_the_data_count() -> None:
    a, b = posterior_of("mask"), posterior_of("mask", sigma=0.01)
    assert fingerprint(a.physical_likelihood) != fingerprint(b.physical_likelihood)


def test_a_loop_ends() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)


def test_loops_to_different_places_differ() -> None:
    inner: list[object] = []
    inner.append(inner)
    outer: list[object] = []
    outer.append([outer])
    assert fingerprint([inner]) != fingerprint(outer)


def test_marks_of_containers_are_no_values() -> None:
    assert fingerprint([["end"]]) != fingerprint([[], "end"])
    assert fingerprint(Pair) != fingerprint([Pair])
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"a": {"b": 2}, 1: 2})


def test_a_set_has_no_order_and_no_address() -> None:
    frozen = [Grid.from_spacing((1, 4, 4), 1.0 + i) for i in range(4)]
    assert fingerprint(set(frozen)) == fingerprint(set(reversed(frozen)))
    assert fingerprint(set(frozen)) != fingerprint(set(frozen[1:]))


# -- tensors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float8_e4m3fn, torch.float16, torch.bool, torch.int8, torch.complex64],
)
def test_dtypes_that_numpy_lacks(dtype: torch.dtype) -> None:
    a = torch.tensor([1.0, 0.0, 0.0]).to(dtype)
    b = torch.tensor([0.0, 1.0, 0.0]).to(dtype)
    c = torch.tensor([[1.0, 7.0, 0.0, 7.0, 0.0, 7.0]]).to(dtype)[0, ::2]
    assert fingerprint(a) == fingerprint(a.clone()) == fingerprint(c)
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(a) != fingerprint(a.to(torch.complex128))
    assert fingerprint(a[0]) != fingerprint(a[:1])
    assert fingerprint(a[:0]) != fingerprint(b[:, None][:0])


def test_conjugate_views_are_their_values() -> None:
    x = torch.tensor([1 + 2j])
    assert fingerprint(x.conj()) == fingerprint(torch.tensor([1 - 2j]))
    assert fingerprint(x.conj().imag) == fingerprint(torch.tensor([-2.0]))


def test_arrays_of_objects_are_hashed_by_their_objects() -> None:
    a, b = (np.array([1, text], dtype=object) for text in ("a", "b"))
    assert fingerprint(a) == fingerprint(a.copy())
    assert fingerprint(a) != fingerprint(b)


# -- functions ----------------------------------------------------------------------------------------


def scaled(factor: float) -> Callable[[float], float]:
    return lambda x: factor * x


def nested(text: str) -> Any:
    return eval(text)


def recursive(step: int) -> Callable[[int], int]:
    def down(n: int) -> int:
        return n if n < 0 else down(n - step)

    return down


def generator_of(k: int) -> Any:
    def never() -> object:
        return late

    if k > 5:
        late = k
    return never


FUNCTIONS: list[tuple[Any, Any]] = [
    (lambda x: x.sin(), lambda x: x.cos()),  # co_names
    (lambda x, a=1: x + a, lambda x, a=2: x + a),
    (lambda x, *, a=1: x + a, lambda x, *, a=2: x + a),
    (lambda x, *, a, b: a, lambda x, *, b, a: a),
    (lambda x: x, lambda *x: x),
    (lambda x: [i + 1 for i in (x,)], lambda x: [i + 2 for i in (x,)]),
    (lambda x: lambda: lambda: x.sin(), lambda x: lambda: lambda: x.cos()),
    (nested("lambda x: (lambda y: y.real)(x)"), nested("lambda x: (lambda y: y.imag)(x)")),
    (nested("lambda x: x in {1, 2}"), nested("lambda x: x in {1, 3}")),
    (scaled(1.0), scaled(2.0)),
    (recursive(1), recursive(2)),
    (functools.partial(pow, 2), functools.partial(pow, 3)),
    (functools.partial(pow, exp=2), functools.partial(pow, exp=3)),
    (functools.partial(max, 2), functools.partial(min, 2)),
    (functools.partial(scaled(1.0), 2), functools.partial(scaled(2.0), 2)),
    ([1].append, [2].append),
    (Pair(1).__eq__, Pair(2).__eq__),
    (np.sin, np.cos),
    (torch.sin, torch.cos),
    (torch.nn.functional.relu, torch.nn.functional.silu),
    (functools.lru_cache(scaled(1.0)), functools.lru_cache(scaled(2.0))),
]


@pytest.mark.parametrize("i", range(len(FUNCTIONS)))
def test_different_functions_have_different_hashes(i: int) -> None:
    first, second = FUNCTIONS[i]
    if getattr(first, "__name__", "") == "<lambda>":
        second.__qualname__ = first.__qualname__  # all that is left to differ is what they do
    assert fingerprint(first) == fingerprint(first)
    assert fingerprint(first) != fingerprint(second)


def test_functions_made_twice_are_the_same() -> None:
    assert fingerprint(scaled(2.0)) == fingerprint(scaled(2.0))
    assert fingerprint(recursive(2)) == fingerprint(recursive(2))
    assert fingerprint(generator_of(1)) != fingerprint(generator_of(6))
    a, b = functools.partial(dict, a=1, b=2), functools.partial(dict, b=2, a=1)
    assert fingerprint(a) == fingerprint(b)


def test_a_plain_global_is_part_of_what_reads_it() -> None:
    names: dict[str, Any] = {"rate": 1.0, "other": threading.Lock()}
    exec("def f(x):\n    return [rate * y for y in x] if other else x.rate", names)
    before = fingerprint(names["f"])
    assert fingerprint(names["f"]) == before
    names["rate"] = 2.0
    assert fingerprint(names["f"]) != before


# -- objects ------------------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("__hidden", "a")

    def __init__(self, a: int, hidden: int) -> None:
        self.a, self.__hidden = a, hidden


class Below(Slotted):
    """Has a `__dict__` beside its slots, and derives something."""

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.a


class Named(list[int]):
    name = ""


def test_slots_of_all_classes_are_hashed() -> None:
    for kind in (Slotted, Below):
        assert fingerprint(kind(1, 2)) == fingerprint(kind(1, 2))
        assert len({fingerprint(kind(*x)) for x in ((1, 2), (1, 3), (2, 2))}) == 3
    below = Below(1, 2)
    before = fingerprint(below)
    assert below.double == 2
    assert fingerprint(below) == before
    below.b = 3  # type: ignore[attr-defined]
    assert fingerprint(below) != before


def test_a_container_with_attributes() -> None:
    a, b = Named([1]), Named([1])
    assert fingerprint(a) == fingerprint(b)
    b.name = "b"
    assert fingerprint(a) != fingerprint(b)


# -- modules of torch ---------------------------------------------------------------------------------
