"""Reading and adding at integer positions, row by row: a linear map and its transpose, deterministic.

    read:  y[b, c, m] = x[b, c, flat[b, m]]            add:  x[b, c, flat[b, m]] += y[b, c, m]

One is the derivative of the other, of any order and under torch.func. Adding on a CUDA device goes
through a sort (`index_put_` with accumulate), which sums in one order; `index_add_` there does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

Context = torch.autograd.function.FunctionCtx


def read_rows(values: Tensor, flat: Tensor) -> Tensor:
    """Return `values` (B, C, n) at `flat` (1 or B, m) as (B, C, m), without a graph."""
    batch, components, _ = values.shape
    # Row by row: the kernel of a vector is many times faster than that of a matrix.
    rows = [
        values[b, c].index_select(0, flat[b if len(flat) > 1 else 0])
        for b in range(batch)
        for c in range(components)
    ]
    joined = rows[0][None] if len(rows) == 1 else torch.stack(rows)
    return joined.reshape(batch, components, flat.shape[-1])


def add_rows(total: Tensor, flat: Tensor, values: Tensor) -> None:
    """Add `values` (B, C, m) to `total` (B, C, n) at `flat` (1 or B, m), in place."""
    batch, components, _ = values.shape
    for b in range(batch):
        index = flat[b if len(flat) > 1 else 0]
        for c in range(components):
            if total.device.type == "cpu":
                total[b, c].index_add_(0, index, values[b, c])
            else:
                total[b, c].index_put_((index.long(),), values[b, c], accumulate=True)


class _Reverse(torch.autograd.Function):
    """Read or add; its gradient is the other one."""

    @staticmethod
    def forward(adds: bool, length: int, values: Tensor, flat: Tensor) -> Tensor:
        if not adds:
            return read_rows(values, flat)
        total = values.new_zeros(*values.shape[:2], length)
        add_rows(total, flat, values)
        return total

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[object, ...], output: Tensor) -> None:
        del output
        adds, length, values, flat = inputs
        ctx.adds, ctx.length, ctx.source = adds, length, values.shape[-1]  # type: ignore[attr-defined]
        ctx.save_for_backward(flat)  # type: ignore[arg-type]
        ctx.save_for_forward(flat)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[None, None, Tensor, None]:
        (flat,) = ctx.saved_tensors  # type: ignore[attr-defined]
        back = _moved(not ctx.adds, ctx.source, gradients[0], flat)  # type: ignore[attr-defined]
        return None, None, back, None


class _Linear(_Reverse):
    """The same with forward-mode derivatives and vmap, which torch.compile cannot trace."""

    @staticmethod
    def jvp(ctx: Context, *tangents: Tensor) -> Tensor:
        (flat,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _moved(ctx.adds, ctx.length, tangents[2], flat)  # type: ignore[attr-defined]

    @staticmethod
    def vmap(
        info: torch._C._functorch.VmapInfo,  # type: ignore[name-defined]
        in_dims: tuple[int | None, ...],
        adds: bool,
        length: int,
        values: Tensor,
        flat: Tensor,
    ) -> tuple[Tensor, int]:
        _, _, of_values, of_flat = in_dims
        if of_flat is None:
            # One set of positions: a mapped axis is one more axis of components.
            mapped = values.movedim(of_values or 0, 1)
            moved = _moved(adds, length, mapped.flatten(1, 2), flat)
            return moved.reshape(*mapped.shape[:3], -1), 1
        if of_values is None:
            mapped = values.expand(info.batch_size, *values.shape)
        else:
            mapped = values.movedim(of_values, 0)
        where = flat.movedim(of_flat, 0).expand(*mapped.shape[:2], -1)
        moved = _moved(adds, length, mapped.flatten(0, 1), where.flatten(0, 1))
        return moved.reshape(*mapped.shape[:3], -1), 0


def _moved(adds: bool, length: int, values: Tensor, flat: Tensor) -> Tensor:
    function = _Reverse if torch.compiler.is_compiling() else _Linear
    return function.apply(adds, length, values, flat)  # type: ignore[no-untyped-call, no-any-return]


def read(values: Tensor, flat: Tensor) -> Tensor:
    """Return `values` (B, C, n) at `flat` (1 or B, m) as (B, C, m), differentiable in `values`."""
    return _moved(False, flat.shape[-1], values, flat)


def add(values: Tensor, flat: Tensor, length: int) -> Tensor:
    """Return zeros (B, C, length) with `values` (B, C, m) added at `flat`, differentiable in `values`."""
    return _moved(True, length, values, flat)
