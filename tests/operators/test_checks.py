"""Looking for values that are not finite: every dtype and layout, small and large, inside transforms too."""

from __future__ import annotations

import pytest
import torch

from operators.checks import LOOKED_AT_ALONE, all_finite

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, LOOKED_AT_ALONE + 1])
def test_one_value_that_is_not_finite_is_found(dtype: torch.dtype, size: int) -> None:
    values = torch.zeros(size, dtype=dtype)
    assert all_finite(values)
    for bad in (torch.nan, torch.inf, -torch.inf):
        spoilt = values.clone()
        spoilt[size // 2] = bad
        assert not all_finite(spoilt)
        assert not all_finite(spoilt.conj() if spoilt.is_complex() else -spoilt)


def test_inside_a_transform() -> None:
    found = []

    def look(row: torch.Tensor) -> torch.Tensor:
        found.append(all_finite(row))
        return row

    torch.func.grad(lambda x: look(x).sum())(torch.ones(3))
    assert found == [True]
