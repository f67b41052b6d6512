"""Back-projection voxel by voxel: every voxel takes, from each view, what its own ray there measured.

    b(x) = sum over views of q_v(column_v(x), row_v(x)) / f_v(x)^2
    f = 1 (parallel), distance from the source along `outwards` (flat) or within the fan (cylindrical), mm

q is interpolated between pixels, is constant over the outer half of the outermost ones and zero beyond.
This is the step of filtered back-projection, not the adjoint of the projector.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from operators.checks import check_tensor
from operators.ct.engines import ENGINES, missing
from operators.ct.seen_from import FLAT, PARALLEL, SeenFrom
from operators.ct.views import Views
from operators.errors import value_error
from operators.extras import require
from operators.grid import Grid

__all__ = ["back_project"]


def back_project(grid: Grid, views: Views, data: Tensor, *, engine: str = "auto") -> Tensor:
    """Return b (z, y, x) of `data` (views, rows, columns) on `grid`; `views` in world coordinates.

    `engine`: "numba" (CPU), "torch" (any device), or "auto".
    """
    check_tensor(data, "data")
    if data.is_complex() or tuple(data.shape) != views.shape:
        raise value_error("data", f"be real, of shape {views.shape}", f"{data.dtype}, {tuple(data.shape)}")
    if engine not in ("auto", "numba", "torch"):
        raise value_error("engine", "be 'auto', 'numba' or 'torch'", repr(engine))
    seen = SeenFrom.of(Grid.require(grid), views)
    if engine == "auto":
        compiled = data.device.type == "cpu" and not missing(ENGINES["numba"]["volume"])
        engine = "numba" if compiled else "torch"
    if engine == "torch":
        return _by_torch(seen, data)
    if data.device.type != "cpu":
        raise value_error("data", "be on the CPU for the numba engine", data.device, "Use engine='auto'.")
    require("numba", feature="The numba back-projection", extra="ct")
    module = importlib.import_module("operators.ct.numba_back_projection")
    return module.back_project(seen, data)  # type: ignore[no-any-return]


def _by_torch(seen: SeenFrom, data: Tensor) -> Tensor:
    """Return the back-projection, one view after the other, on the device of the data."""
    kind = {"dtype": data.dtype, "device": data.device}
    places = [torch.arange(n, **kind) for n in seen.shape]  # type: ignore[call-overload]
    axes = [place.reshape([-1 if i == axis else 1 for i in range(3)]) for axis, place in enumerate(places)]
    out = data.new_zeros(seen.shape)
    for view in range(data.shape[0]):
        first, second, third = (
            sum(float(f) * axis for f, axis in zip(form, axes, strict=False)) + float(form[3])
            for form in seen.forms[view]
        )
        c0, c1, r0, r1 = seen.scales[view].tolist()
        if seen.kind == PARALLEL:
            out += _interpolated(data[view], first, second)
            continue
        ahead = torch.where(second > 0, second, torch.nan)
        if seen.kind == FLAT:
            far, column = ahead, c0 + c1 * first / ahead
        else:
            far, column = torch.hypot(first, ahead), c0 + c1 * torch.atan(first / ahead)
        row = third if seen.lifted else r0 + r1 * third / far
        out += _interpolated(data[view], column, row) / far.square().nan_to_num(nan=1.0)
    return out


def _interpolated(image: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Return bilinear values at places (z, y, x), zero where they are off the detector or NaN."""
    rows, columns = image.shape
    column, row = column + 0 * row, row + 0 * column
    inside = (column >= -0.5) & (column <= columns - 0.5) & (row >= -0.5) & (row <= rows - 0.5)
    # From -1 at the first pixel to 1 at the last, as grid_sample counts.
    places = torch.stack([column * (2 / max(columns - 1, 1)) - 1, row * (2 / max(rows - 1, 1)) - 1], dim=-1)
    found = torch.nn.functional.grid_sample(
        image[None, None],
        torch.where(inside[..., None], places, 0.0).reshape(1, 1, -1, 2),
        padding_mode="border",
        align_corners=True,
    )
    return torch.where(inside, found.reshape(inside.shape), 0.0)
