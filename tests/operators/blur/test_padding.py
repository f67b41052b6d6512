from typing import get_args

import numpy as np
import pytest
import torch

from operators.blur.padding import Continuation, continued, folded
from operators.space import Space
from tests.oracles import random_element

NUMPY = {"zero": "constant", "periodic": "wrap", "reflect": "symmetric"}
REACHES = [(0, 0), (1, 0), (0, 2), (2, 3), (4, 4), (9, 17)]


@pytest.mark.parametrize("how", get_args(Continuation))
@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("size", [1, 4])
def test_continues_as_numpy_does_and_folds_as_its_adjoint(
    size: int, reach: tuple[int, int], how: Continuation
) -> None:
    x = random_element(Space((3, size, 2)))
    wide = continued(x, -2, *reach, how)
    assert np.array_equal(wide.numpy(), np.pad(x.numpy(), ((0, 0), reach, (0, 0)), mode=NUMPY[how]))  # type: ignore[call-overload]
    y = random_element(Space(tuple(wide.shape)), seed=3)
    before = y.clone()
    back = folded(y, -2, *reach, how)
    assert back.shape == x.shape
    assert torch.equal(y, before)
    assert abs(float((wide * y).sum() - (x * back).sum())) < 1e-12 * float(wide.norm() * y.norm())
