import math

import pytest
import torch

from operators.affine import Affine
from operators.grid import Grid
from operators.space import Space
from tests.contracts import OperatorContract
from tests.oracles import random_element

FIELD = Space.field(Grid.from_spacing((2, 3, 4), 1.0))
COMPLEX = Space((3, 2), is_complex=True)


class TestNumber(OperatorContract):
    covers = (Affine,)

    def make(self, dtype: torch.dtype) -> Affine:
        return Affine(FIELD, -2.0, 0.5)


class TestElement(OperatorContract):
    covers = (Affine,)

    def make(self, dtype: torch.dtype) -> Affine:
        return Affine(FIELD, 0.5, random_element(FIELD, dtype=dtype, seed=2))


class TestComplexElement(OperatorContract):
    covers = (Affine,)

    def make(self, dtype: torch.dtype) -> Affine:
        return Affine(COMPLEX, 3.0, random_element(COMPLEX, dtype=dtype, seed=2))


def test_scale_and_offset() -> None:
    assert Affine(Space((2,)), 2.0, 1.0)(torch.tensor([0.0, 3.0])).tolist() == [1.0, 7.0]
    assert Affine(Space((2,)), 2.0, torch.tensor([1.0, 2.0]))(torch.zeros(2)).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("scale", "offset", "error", "message"),
    [
        (math.inf, 0.0, ValueError, "`scale` must be a finite number"),
        (1j, 0.0, TypeError, "`scale` must be a finite number"),
        (1.0, "a", TypeError, "`offset` must be a finite number"),
        (1.0, torch.zeros(3, 3, 2), TypeError, "`offset` must be complex"),
        (1.0, torch.zeros(2, dtype=torch.complex64), ValueError, "`offset` must have shape"),
        (1.0, torch.zeros(5, 3, 2, dtype=torch.complex64), ValueError, "`offset` must be a number or have"),
        (1.0, torch.full((3, 2), math.nan + 0j), ValueError, "`offset` must hold finite values"),
    ],
)
def test_bad_arguments(scale: float, offset: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Affine(COMPLEX, scale, offset)
