"""Rings come from stripes: a detector column whose response is off shows the same excess in all views.

"sorting"   sort each column over the views, smooth across columns by a median, put back in order: at
            equal rank neighbouring columns are alike, whatever the object (Vo, Atwood and Drakopoulos 2018,
            algorithm 3). For stripes of any depth, which may vary with the intensity.
"mean"      subtract what the mean over views has beside its median of pairs of columns (after Boin and Haibel
            2006). For stripes that are the same in all views: noise and detail stay as they are, but edges
            that are round about the axis are alike in all views too, and suffer.

Take "sorting" for strong stripes (tenths in the line integral), "mean" for weak ones that never change: of a
stripe of 0.02 on a slope "sorting" leaves 86 %, "mean" 5 %; of one of 0.2, 9 % and 0.5 %. Without a stripe to
remove either changes a sharp object by 0.007 (rms), more than so weak a stripe did.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from operators.checks import check_count, check_finite, check_tensor
from operators.errors import type_error, value_error

__all__ = ["remove_rings"]

Method = Literal["sorting", "mean"]


def remove_rings(line_integrals: Tensor, *, method: Method = "sorting", width: int = 9) -> Tensor:
    """Return `line_integrals` (views, rows, columns) without stripes narrower than a quarter of `width`.

    The median is over `width` columns, an odd number: the wider, the wider the stripes that go, and
    the more of the object goes with them.
    """
    check_tensor(line_integrals, "line_integrals")
    if line_integrals.is_complex():
        raise type_error("line_integrals", "be real", line_integrals.dtype)
    if line_integrals.ndim != 3:
        raise value_error("line_integrals", "have shape (views, rows, columns)", tuple(line_integrals.shape))
    check_finite(line_integrals, "line_integrals")
    if method not in get_args(Method):
        raise value_error("method", f"be one of {', '.join(get_args(Method))}", repr(method))
    size = check_count(width, "width", minimum=3)
    columns = line_integrals.shape[-1]
    if size % 2 == 0 or size > columns:
        raise value_error("width", f"be an odd number of at most {columns} columns", width)
    if method == "mean":
        profile = line_integrals.mean(dim=0)
        return line_integrals - (profile - _paired_median(profile, size))
    out = torch.empty_like(line_integrals)
    # One row after the other: a median holds `width` copies of what it is taken of.
    for row in range(line_integrals.shape[1]):
        ranked, order = line_integrals[:, row].sort(dim=0, stable=True)
        out[:, row] = torch.empty_like(ranked).scatter_(0, order, _median(ranked, size))
    return out


def _median(values: Tensor, size: int) -> Tensor:
    """Return the running median over the last axis, ends repeated: edges of an object stay in place."""
    return _padded(values, size // 2).unfold(-1, size, 1).median(dim=-1).values


def _paired_median(values: Tensor, size: int) -> Tensor:
    """Return over the last axis the median of x_i and of the pairs (x_i-k + x_i+k) / 2, edges repeated.

    On a slope a plain median is off wherever a stripe takes part; that of pairs is not.
    """
    half, columns = size // 2, values.shape[-1]
    wide = _padded(values, half)
    pairs = [
        (wide[..., half - k : half - k + columns] + wide[..., half + k : half + k + columns]) / 2
        for k in range(half + 1)
    ]
    ranked = torch.stack(pairs).sort(dim=0).values
    return (ranked[half // 2] + ranked[(half + 1) // 2]) / 2


def _padded(values: Tensor, half: int) -> Tensor:
    left, right = (edge.expand(*values.shape[:-1], half) for edge in (values[..., :1], values[..., -1:]))
    return torch.cat([left, values, right], dim=-1)
