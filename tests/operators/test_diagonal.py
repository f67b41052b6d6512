import pytest
import torch

from operators.diagonal import Diagonal
from operators.grid import Grid
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import random_element

GRID = Grid.from_spacing((2, 4, 5), 1.0)
FIELD = Space.field(GRID)
COMPLEX = Space.field(GRID, is_complex=True, components=(3,))


class TestMask(LinearOperatorContract):
    covers = (Diagonal,)

    def make(self, dtype: torch.dtype) -> Diagonal:
        return Diagonal(FIELD, random_element(FIELD, seed=3) > 0)


class TestBroadcastWeights(LinearOperatorContract):
    covers = (Diagonal,)

    def make(self, dtype: torch.dtype) -> Diagonal:
        return Diagonal(COMPLEX, torch.tensor([0.5, 0.0, 2.0, -1.0, 3.0], dtype=dtype))


class TestComplexWeights(LinearOperatorContract):
    covers = (Diagonal,)

    def make(self, dtype: torch.dtype) -> Diagonal:
        return Diagonal(COMPLEX, random_element(COMPLEX, dtype=dtype, seed=4))


class TestOneWeight(LinearOperatorContract):
    covers = (Diagonal,)

    def make(self, dtype: torch.dtype) -> Diagonal:
        return Diagonal(FIELD, torch.tensor(-2.0, dtype=dtype))


def test_a_mask_hides_and_keeps() -> None:
    keep = torch.zeros(GRID.shape, dtype=torch.bool)
    keep[:, 1] = True
    x = random_element(FIELD)
    y = Diagonal(FIELD, keep)(x)
    assert torch.equal(y[:, 1], x[:, 1])
    assert y.count_nonzero() == x[:, 1].numel()


def test_singular_solve_is_refused_and_pinv_offered() -> None:
    mask = Diagonal(FIELD, random_element(FIELD, seed=3) > 0)
    with pytest.raises(ValueError, match=r"`c` must be larger here: .* is zero.*pinv"):
        mask.normal_solve(random_element(FIELD), 0.0)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (torch.ones(3, 4), ValueError, r"`weights` must broadcast to \(2, 4, 5\), got \(3, 4\)"),
        (torch.ones(5) * 1j, TypeError, "`weights` must be real on a real space"),
        (torch.tensor([1.0, float("nan"), 1, 1, 1]), ValueError, "`weights` must hold finite values"),
        ([1.0], TypeError, r"`weights` must be a torch\.Tensor, got list"),
        (torch.ones(0), ValueError, "`weights` must not be empty"),
    ],
)
def test_bad_weights(weights: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Diagonal(FIELD, weights)
