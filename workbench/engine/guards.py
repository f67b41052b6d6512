"""What is looked at after each step: values that are no numbers."""

from __future__ import annotations

import cmath
from typing import Any

import torch
from torch import Tensor

from workbench.snapshot import pack
from workbench.solvers.base import Info, Solver

__all__ = ["DivergedError", "diverged", "diverged_rows"]


class DivergedError(FloatingPointError):
    """A step gave a NaN or an infinity; the message names the step, the draws and a remedy."""


def diverged(solver: Solver[Any], where: str, which: str, reason: str) -> DivergedError:
    """Return the error for a solver that gave no numbers `where` in the run, for `which` draws."""
    text = f"{type(solver).__name__} met a NaN or an infinity {where}{which}. {solver.remedy}"
    return DivergedError(f"{text} ({reason})" if reason else text)


def diverged_rows(state: object, info: Info, batch: int, wanted: int) -> list[int]:
    """Return the rows that hold a NaN in the state, or a NaN or infinity in the estimate.

    Of `batch` rows only the first `wanted` matter: the others fill the batch up.

    Infinities are let pass in a state: a log-weight of -inf and a bound of inf are numbers to go on with.
    """
    _, packed = pack(state)
    tensors = [t for t in packed.values() if (t.is_floating_point() or t.is_complex()) and t.numel() > 0]
    estimate = (
        info.estimate if isinstance(info.estimate, Tensor) and info.estimate.dtype != torch.int64 else None
    )
    if _sum_is_finite(tensors if estimate is None else [*tensors, estimate]):
        return []
    # aminmax propagates NaN: one read, no mask in memory; and all are asked for at once, for a GPU's sake.
    flags = [torch.isnan(torch.aminmax(_components(tensor))[0]) for tensor in tensors]
    if estimate is not None:
        low, high = torch.aminmax(_components(estimate))
        flags.append(~(torch.isfinite(low) & torch.isfinite(high)))
    if not flags or not bool(torch.stack([flag.to(flags[0].device) for flag in flags]).any()):
        return []
    bad: set[int] = set()
    for tensor in tensors:
        bad |= _rows(torch.isnan(tensor), batch)
    if estimate is not None:
        bad |= _rows(~torch.isfinite(estimate), batch)
    return sorted(row for row in bad if row < wanted)


def _sum_is_finite(tensors: list[Tensor]) -> bool:
    """Return whether the sum of all is finite: then each number is; if it is not, one may be, or may not."""
    total = None
    for tensor in tensors:
        part = tensor.sum()
        total = part if total is None else total + part.to(total.device)
    return total is None or cmath.isfinite(total.item())


def _components(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _rows(mask: Tensor, batch: int) -> set[int]:
    if mask.ndim == 0 or mask.shape[0] != batch:
        return set(range(batch)) if bool(mask.any()) else set()
    return (
        set(mask.flatten(1).any(dim=1).nonzero().flatten().tolist())
        if mask.ndim > 1
        else set(mask.nonzero().flatten().tolist())
    )
