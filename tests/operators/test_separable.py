from collections.abc import Mapping

import pytest
import torch

from operators.separable import Separable
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import dense, random_element


def matrix(rows: int, columns: int, *, is_complex: bool = False, seed: int = 1) -> torch.Tensor:
    return random_element(Space((rows, columns), is_complex), seed=seed)


class TestWideAndTall(LinearOperatorContract):
    covers = (Separable,)

    def make(self, dtype: torch.dtype) -> Separable:
        parts = {-1: matrix(2, 4).to(dtype), 1: matrix(5, 3).to(dtype)}
        return Separable(Space((2, 3, 4)), Space((2, 5, 2)), parts)


class TestComplex(LinearOperatorContract):
    covers = (Separable,)

    def make(self, dtype: torch.dtype) -> Separable:
        kind = torch.complex64 if dtype == torch.float32 else torch.complex128
        parts = {-3: matrix(2, 2, is_complex=True).to(kind), -1: matrix(3, 3).to(dtype)}
        space = Space((2, 3, 3), is_complex=True)
        return Separable(space, space, parts)


def test_is_the_kronecker_product() -> None:
    parts = {0: matrix(3, 2), 1: matrix(2, 3, seed=2), 2: matrix(4, 4, seed=3)}
    op = Separable(Space((2, 3, 4)), Space((3, 2, 4)), parts)
    expected = torch.kron(torch.kron(parts[0], parts[1]), parts[2])
    assert (dense(op) - expected).abs().max() < 1e-13


def test_the_solve_in_the_space_of_the_data_is_exact_too() -> None:
    op = Separable(Space((2, 6)), Space((2, 3)), {-1: matrix(3, 6)})
    assert op.H.has_closed_form
    r = random_element(op.codomain)
    z = op.measurement_solve(r, 0.0)  # the rows are independent
    assert (op(op.adjoint(z)) - r).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("matrices", "error", "message"),
    [
        ({-1: torch.ones(2, 3)}, ValueError, r"`matrices\[-1\]` must have shape \(values, 4\), got \(2, 3\)"),
        ({-1: torch.ones(4)}, ValueError, r"`matrices\[-1\]` must have shape"),
        ({-1: torch.ones(3, 4)}, ValueError, r"`codomain` must have the shape of the values, \(2, 3\)"),
        ({-1: torch.ones(4, 4) * 1j}, TypeError, r"`matrices\[-1\]` must be real on a real space"),
        ({-1: torch.full((4, 4), torch.nan)}, ValueError, r"`matrices\[-1\]` must hold finite values"),
        ({5: torch.ones(4, 4)}, ValueError, "`matrices` must name axes"),
        ({}, ValueError, "`matrices` must name axes"),
        ([torch.ones(4, 4)], TypeError, "`matrices` must map axes to matrices"),
    ],
)
def test_bad_matrices(matrices: Mapping[int, torch.Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Separable(Space((2, 4)), Space((2, 4)), matrices)


def test_real_values_of_complex_images_are_refused() -> None:
    with pytest.raises(TypeError, match="`codomain` must be complex if the domain is"):
        Separable(Space((4,), is_complex=True), Space((4,)), {-1: torch.eye(4)})
