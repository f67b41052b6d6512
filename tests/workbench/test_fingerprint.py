"""Equal values hash alike in any process; any change of a value changes the hash."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from tests.problems import posterior_of
from workbench.fingerprint import fingerprint
from workbench.solvers.conjugate_gradient import ConjugateGradient


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


def test_what_cannot_be_hashed_is_refused() -> None:
    with pytest.raises(TypeError, match="made of what can be hashed"):
        fingerprint(iter([1]))
