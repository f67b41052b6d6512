"""The linear interpolant at displaced positions, its derivatives declared instead of traced.

    y(r) = x(r + u(r)),      dy = dx(r + u(r)) + (grad x)(r + u(r)) . du

A graph keeps x and u alone; neighbours, shares and slopes are made again where a gradient asks for them.
Traced, a step of scaling and squaring would keep thirty times its field.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from operators.deformation.rows import read
from operators.deformation.stencil import (
    Placement,
    interpolate,
    interpolate_with_slopes,
    spread_differentiably,
)

__all__ = ["read_displaced"]

Context = torch.autograd.function.FunctionCtx


def read_displaced(values: Tensor, place: Placement, shift: Tensor) -> Tensor:
    """Return the interpolant of `values` (B, C, n) where `shift` (B, 3, *out) in mm moves a grid's `place`.

    Differentiable in both, to any order.
    """
    # torch.compile and nested forward derivatives (torch.func.hessian) see through no function of ours.
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return interpolate(values, place.at(shift).like(values))
    return _Displaced.apply(place, values, shift)  # type: ignore[no-untyped-call, no-any-return]


class _Displaced(torch.autograd.Function):
    @staticmethod
    def forward(place: Placement, values: Tensor, shift: Tensor) -> Tensor:
        stencil = place.at(shift).like(values)
        # Component by component: of all at once the temporaries are many times the result.
        return torch.cat([interpolate(part, stencil) for part in torch.split(values, 1, dim=1)], dim=1)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[object, ...], output: Tensor) -> None:
        del output
        ctx.place, *tensors = inputs  # type: ignore[attr-defined]
        ctx.save_for_backward(*tensors)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        place: Placement = ctx.place  # type: ignore[attr-defined]
        values, shift = ctx.saved_tensors  # type: ignore[attr-defined]
        _, in_values, in_shift = ctx.needs_input_grad  # type: ignore[attr-defined]
        (r,) = gradients
        stencil = place.at(shift, slopes=in_shift).like(values)
        back = None
        if in_values:
            length = values.shape[-1]
            parts = [spread_differentiably(part, stencil, length) for part in torch.split(r, 1, dim=1)]
            back = torch.cat(parts, dim=1)
        if not in_shift:
            return None, back, None

        # <r, slope of x> is the slope of <r, x>: components are summed before, which leaves one.
        def projected(x: Tensor, flat: Tensor) -> Tensor:
            total = torch.zeros_like(r.select(1, 0).unsqueeze(1))
            for ours, theirs in zip(torch.split(r, 1, dim=1), torch.split(x, 1, dim=1), strict=True):
                total = total + ours * read(theirs, flat)
            return total

        _, slopes = interpolate_with_slopes(values, stencil, projected)
        along = [torch.zeros_like(r.select(1, 0).unsqueeze(1))] * 3
        for axis, slope in slopes.items():
            along = [a + c * slope if c else a for a, c in zip(along, place.inverse[axis], strict=True)]
        return None, back, torch.cat(along, dim=1).reshape(shift.shape).to(shift.dtype)

    @staticmethod
    def vmap(
        info: torch._C._functorch.VmapInfo,  # type: ignore[name-defined]
        in_dims: tuple[int | None, ...],
        place: Placement,
        values: Tensor,
        shift: Tensor,
    ) -> tuple[Tensor, int]:
        _, of_values, of_shift = in_dims
        if of_shift is None:
            # One displacement: a mapped axis is one more axis of components.
            mapped = values.movedim(of_values or 0, 1)
            return read_displaced(mapped.flatten(1, 2), place, shift).reshape(*mapped.shape[:3], -1), 1
        shifts = shift.movedim(of_shift, 0)
        if of_values is None:
            mapped = values.expand(info.batch_size, *values.shape)
        else:
            mapped = values.movedim(of_values, 0)
        result = read_displaced(mapped.flatten(0, 1), place, shifts.flatten(0, 1))
        return result.reshape(*mapped.shape[:3], -1), 0
