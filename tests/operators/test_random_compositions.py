"""Closed forms of random compositions against dense matrices: what the algebra derives must be true."""

from __future__ import annotations

import random

import pytest
import torch

from operators.blur import Blur
from operators.diagonal import Diagonal
from operators.differences import FiniteDifferences
from operators.errors import NoClosedFormError
from operators.fourier import Fourier
from operators.grid import Grid
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.space import Space
from operators.stack import BlockDiagonal, Stack
from tests.oracles import adjoint_mismatch, as_vectors, normal_matrix, random_element


def element(space: Space, dice: random.Random) -> torch.Tensor:
    return random_element(Space(space.shape), seed=dice.randrange(10**6))


def leaf(space: Space, dice: random.Random) -> LinearOperator:
    """Return a random elementary operator on `space`."""
    kind = dice.choice(["identity", "mask", "weights", "blur", "fourier", "differences", "constant"])
    if kind == "mask":
        return Diagonal(space, element(space, dice) > 0)
    if kind == "weights":
        weights = element(space, dice)
        kept = [dice.random() < 0.5 for _ in space.shape]
        return Diagonal(space, weights[tuple(slice(None) if k else slice(0, 1) for k in kept)])
    if kind == "constant":
        return Diagonal(space, torch.tensor(dice.uniform(-2, 2), dtype=torch.float64))
    if kind == "blur":
        axes = dice.randint(1, min(3, space.ndim))
        return Blur(
            space, random_element(Space(tuple(min(2, n) for n in space.shape[-axes:])), seed=2), "periodic"
        )
    if kind == "fourier":
        axes = sorted(dice.sample(range(-space.ndim, 0), dice.randint(1, min(3, space.ndim))))
        signs = [dice.choice([1, -1]) for _ in axes]
        centred = dice.random() < 0.7
        return Fourier(
            space, axes, signs=signs, centred=centred, zero_phase=[dice.uniform(-2, 4) for _ in axes]
        )
    if kind == "differences" and space.grid is not None:
        boundary = dice.choice(["periodic", "replicate"])
        return FiniteDifferences(space, boundary=boundary)  # type: ignore[arg-type]
    return Identity(space)


def composition(seed: int) -> LinearOperator:
    """Return a random product, sum, stack or normal operator of a few elementary ones."""
    dice = random.Random(seed)
    shape = (dice.choice([1, 2]), dice.choice([2, 3]), dice.choice([3, 4]))
    grid = Grid.from_spacing(shape, (3.0, 1.0, 2.0))
    op = leaf(Space.field(grid, is_complex=dice.random() < 0.5), dice)
    for _ in range(dice.randint(1, 3)):
        step = dice.choice(["after", "after", "stack", "gram", "adjoint", "scale", "sum", "blocks"])
        if step == "after":
            op = leaf(op.codomain, dice) @ op
        elif step == "stack":
            other = leaf(op.domain, dice)
            if op.domain.is_complex == other.codomain.is_complex or not op.domain.is_complex:
                op = Stack([op, other]) if op.codomain.is_complex or not op.domain.is_complex else op
        elif step == "gram":
            op = op.gram
        elif step == "adjoint":
            op = op.H
        elif step == "scale":
            op = dice.uniform(-2, 2) * op
        elif step == "sum":
            op = op + 0.5 * op
        elif op.codomain.is_complex == op.domain.is_complex:
            op = BlockDiagonal([op, Identity(Space((2,), op.domain.is_complex))])
    return op


@pytest.mark.parametrize("seed", range(120))
def test_composition_against_dense(seed: int) -> None:
    op = composition(seed)
    normal = normal_matrix(op)
    size = max(torch.linalg.matrix_norm(normal, 2).item(), 1e-12)
    for pair in ("random", "correlated"):
        assert adjoint_mismatch(op, torch.float64, pair) < 1e-11
    eye = torch.eye(len(normal), dtype=normal.dtype)
    b = random_element(op.domain, 2)
    for c in (0.05 * size, torch.tensor([0.1, 1.0]) * size):
        solved = as_vectors(op, op.normal_solve(b, c))
        for row, shift, got in zip(as_vectors(op, b), torch.as_tensor(c).expand(2), solved, strict=True):
            expected = torch.linalg.solve(normal + shift * eye, row)
            assert (got - expected).norm() <= 1e-7 * expected.norm()
    assert op.norm(tolerance=1e-8, max_iterations=5000) == pytest.approx(size**0.5, rel=1e-3, abs=1e-7)
    trace, exact = op.gram_trace(probes=64), normal.diagonal().real.sum().item()
    assert abs(trace.value - exact) <= 6 * trace.standard_error + 1e-5 * exact + 1e-12
    try:
        pseudo = as_vectors(op, op.pinv(random_element(op.codomain, 1), cutoff=1e-5))
        back = as_vectors(op, op.adjoint(random_element(op.codomain, 1)))
        expected = back @ torch.linalg.pinv(normal, rtol=1e-10, hermitian=True).T
        assert (pseudo - expected).norm() <= 1e-6 * expected.norm() + 1e-9
    except NoClosedFormError:
        pass
    if op.has_svd:
        factors = op.svd()
        x = random_element(op.domain, 2)
        rebuilt = factors.u(factors.v.H(x) * factors.s)
        assert (rebuilt - op(x)).abs().max() <= 1e-10 * (1 + op(x).abs().max())
        assert (factors.v(factors.v.H(x)) - x).abs().max() <= 1e-10


def test_the_compositions_do_reach_closed_forms_and_solvers() -> None:
    ops = [composition(seed) for seed in range(120)]
    exact = sum(op._gram_spectrum is not None for op in ops)
    assert exact >= 30
    assert len(ops) - exact >= 20
    assert sum(op.has_svd for op in ops) >= 20
