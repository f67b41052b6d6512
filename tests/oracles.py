"""What operators are compared with: random elements, dense matrices, the matching inner product."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from operators.linear import LinearOperator
from operators.space import Space

SEED = 20
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def random_element(space: Space, *batch: int, dtype: torch.dtype = torch.float64, seed: int = SEED) -> Tensor:
    """Return a random tensor of `space` in the real precision `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, *space.shape)
    real = torch.randn(shape, generator=generator, dtype=dtype)
    return (
        torch.complex(real, torch.randn(shape, generator=generator, dtype=dtype))
        if space.is_complex
        else real
    )


def over_reals(op: LinearOperator) -> bool:
    """Tell whether a complex domain has to be seen as twice as many real directions."""
    return op.domain.is_complex and not op.over_complex


def dense(op: LinearOperator) -> Tensor:
    """Return the matrix of `op` in double precision, one column per direction of the domain."""
    kind = torch.complex128 if op.domain.is_complex else torch.float64
    basis = torch.eye(op.domain.size, dtype=kind)
    if over_reals(op):
        basis = torch.stack([basis, 1j * basis], dim=1)
    values = op(basis.reshape(-1, *op.domain.shape)).flatten(1)
    if over_reals(op) and op.codomain.is_complex:
        values = torch.view_as_real(values).flatten(1)
    return values.T


def normal_matrix(op: LinearOperator) -> Tensor:
    """Return the matrix of A^H A; over a real domain its real part."""
    matrix = dense(op)
    normal = matrix.conj().T @ matrix
    return normal if op.domain.is_complex else normal.real


def as_vectors(op: LinearOperator, x: Tensor) -> Tensor:
    """Return domain elements (batch, ...) as rows matching the columns of `dense`, in double precision."""
    wide = x.to(torch.complex128 if x.is_complex() else torch.float64).flatten(1)
    return torch.view_as_real(wide).flatten(1) if over_reals(op) else wide


def matching_inner(op: LinearOperator, left: Tensor, right: Tensor, space: Space) -> Tensor:
    """Return the inner product under which the adjoint of `op` is defined, in double precision."""
    value = space.inner(left, right)
    return value if op.over_complex else value.real


def adjoint_mismatch(op: LinearOperator, dtype: torch.dtype, pair: str) -> float:
    """Return |<Ax, y> - <x, A^H y>| / (|Ax| |y|) for a random, a correlated or a positive pair."""
    x = random_element(op.domain, 2, dtype=dtype, seed=1)
    if pair == "positive":
        x = torch.complex(x.real.abs(), x.imag.abs()) if x.is_complex() else x.abs()
    image = op(x)
    y = random_element(op.codomain, 2, dtype=dtype, seed=2)
    if pair == "correlated":
        # y close to Ax: <Ax, y> is then as large as it can be, and a wrong scale cannot hide.
        y = image + 0.1 * y * op.codomain.norm(image).max().to(dtype) / op.codomain.norm(y).max().to(dtype)
    elif pair == "positive":
        y = torch.complex(y.real.abs(), y.imag.abs()) if y.is_complex() else y.abs()
    back = op.adjoint(y)
    assert back.shape == x.shape, "flattening would hide a wrong shape"
    assert image.shape == y.shape
    # <A x, y> against <x, A^H y>, conjugate on the first argument of each.
    forward = matching_inner(op, image, y, op.codomain)
    backward = matching_inner(op, x, back, op.domain)
    scale = op.codomain.norm(image) * op.codomain.norm(y)
    return float(((forward - backward).abs() / scale).max())


def recorded_graph(y: Tensor) -> Iterator[str]:
    """Yield the names of the autograd nodes behind `y`."""
    node = y.grad_fn
    while node is not None:
        yield node.name()
        node = next((previous for previous, _ in node.next_functions if previous is not None), None)
