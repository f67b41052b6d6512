"""What every public function asks of its arguments, each asked in one place."""

from __future__ import annotations

import cmath
import contextlib
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from numbers import Number
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from operators.errors import NonFiniteError, describe, type_error, value_error

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
    M = TypeVar("M", bound=StrEnum)

REAL_DTYPES = (torch.float32, torch.float64)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
#: Numbers that one core looks at: the threads that torch would share them out to wait for more by spinning,
#: for milliseconds that are taken from the kernels which run next.
LOOKED_AT_ALONE = 2**20


def check_number(
    value: object,
    argument: str,
    *,
    positive: bool = False,
    non_negative: bool = False,
    remedy: str = "",
) -> float:
    """Return `value` as a float, or say which finite real number was expected."""
    expected = "be a finite number"
    expected += " > 0" if positive else " >= 0" if non_negative else ""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise type_error(argument, expected, f"{value!r} ({type(value).__name__})", remedy)
    number = float(value)
    too_small = (positive and number <= 0) or (non_negative and number < 0)
    if not math.isfinite(number) or too_small:
        raise value_error(argument, expected, repr(value), remedy)
    return number


def check_scalar(value: object, argument: str) -> complex:
    """Return one finite real or complex number, also out of a tensor of one entry."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.requires_grad:
        value = value.item()
    if not isinstance(value, Number):
        remedy = "Weights that vary: Diagonal(space, weights)."
        raise type_error(argument, "be one number", repr(value), remedy)
    number: complex = complex(value)  # type: ignore[call-overload]
    if not cmath.isfinite(number):
        raise value_error(argument, "be finite", number)
    return number


def check_count(value: object, argument: str, *, minimum: int = 1, remedy: str = "") -> int:
    """Return `value` as an int of at least `minimum`."""
    expected = f"be an integer >= {minimum}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise type_error(argument, expected, f"{value!r} ({type(value).__name__})", remedy)
    if value < minimum:
        raise value_error(argument, expected, int(value), remedy)
    return int(value)


def check_tensor(value: object, argument: str) -> torch.Tensor:
    """Return `value` if it is a non-empty tensor of a floating or complex dtype the physics accepts."""
    if not isinstance(value, torch.Tensor):
        raise type_error(argument, "be a torch.Tensor", type(value).__name__, "Use torch.as_tensor(...).")
    if value.dtype not in REAL_DTYPES + COMPLEX_DTYPES:
        raise type_error(
            argument,
            "have dtype float32, float64, complex64 or complex128",
            value.dtype,
            f"Convert it: {argument}.to(torch.float32).",
        )
    if value.layout != torch.strided or value.is_nested:
        raise type_error(argument, "be a dense tensor", value.layout, f"Convert it: {argument}.to_dense().")
    if value.numel() == 0:
        raise value_error(argument, "not be empty", f"shape {tuple(value.shape)}")
    return value


def check_member(kind: type[M], value: object, argument: str) -> M:
    """Return the member of a StrEnum that `value` is, or is the text of."""
    if not isinstance(value, str) or value not in tuple(kind):
        raise value_error(argument, f"be a {kind.__name__}: {', '.join(kind)}", repr(value))
    return kind(value)


def check_finite(value: torch.Tensor, argument: str) -> None:
    """Raise if any entry is NaN or infinite."""
    if value.device.type == "meta":
        raise value_error(argument, "hold values", "a meta tensor, which has a shape only")
    if not all_finite(value):
        bad = int((~torch.isfinite(value)).sum())
        found = f"{bad} NaN or infinite of {value.numel()} entries"
        remedy = (
            "Mask or replace such data before the physics sees them; rescale what overflows, or use float64."
        )
        raise NonFiniteError(describe(argument, "hold finite values only", found, remedy))


def all_finite(value: torch.Tensor) -> bool:
    """Tell whether `value` holds no NaN and no infinity, without a temporary of its size."""
    real = (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).detach()
    # The extremes propagate NaN, and an infinity is one of them: no mask in memory.
    if real.device.type == "cpu" and real.numel() <= LOOKED_AT_ALONE:
        # Inside a transform of torch.func a tensor has no memory of its own; numpy has no bfloat16.
        with contextlib.suppress(RuntimeError, TypeError):
            values = real.resolve_neg().numpy()
            return bool(np.isfinite(values.min()) and np.isfinite(values.max()))
    low, high = torch.aminmax(real)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def check_triple(values: Sequence[int] | int, name: str, *, minimum: int = 1) -> tuple[int, int, int]:
    """Return three integers of at least `minimum`, from three or from one for all axes."""
    if not isinstance(values, (int, np.integer, Sequence, np.ndarray, torch.Size)):
        raise type_error(name, "be an integer or three (z, y, x)", repr(values))
    entries = (values,) * 3 if isinstance(values, (int, np.integer)) else tuple(values)
    if len(entries) != 3:
        raise value_error(name, "have three entries (z, y, x)", entries)
    z, y, x = (check_count(entry, f"{name}[{i}]", minimum=minimum) for i, entry in enumerate(entries))
    return z, y, x


def check_lengths(values: Sequence[float] | float, count: int, name: str) -> tuple[float, ...]:
    """Return `count` lengths in mm, from that many or from one for all axes."""
    scalar = isinstance(values, (int, float, np.integer, np.floating))
    if not scalar and not isinstance(values, (Sequence, np.ndarray)):
        raise type_error(name, f"be a length in mm or {count}, in array order", repr(values))
    entries = (values,) * count if scalar else tuple(cast(Sequence[float], values))
    if len(entries) != count:
        raise value_error(name, f"be one length in mm or {count}, in array order", entries)
    return tuple(check_number(entry, f"{name}[{i}]", positive=True) for i, entry in enumerate(entries))


def check_spacing(values: Sequence[float] | float, name: str) -> tuple[float, float, float]:
    """Return three lengths in mm in array order, from three or from one for all axes."""
    z, y, x = check_lengths(values, 3, name)
    return z, y, x


def check_points(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return points (..., 3) as float64."""
    try:
        points = np.asarray(values)
        if np.iscomplexobj(points):
            raise TypeError
        points = points.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type_error(name, "be numbers of shape (..., 3)", repr(values)) from error
    if points.ndim == 0 or points.shape[-1] != 3:
        raise value_error(name, "have shape (..., 3)", points.shape)
    if not np.isfinite(points).all():
        raise value_error(name, "hold finite values only", "NaN or infinity")
    return points


def check_axes(values: Sequence[int], name: str) -> tuple[int, ...]:
    """Return array axes out of 0, 1, 2, each named at most once."""
    known = isinstance(values, Sequence) and all(value in (0, 1, 2) for value in values)
    if not known or len(set(values)) != len(values):
        raise value_error(name, "name array axes 0, 1 or 2, each at most once", repr(values))
    return tuple(int(value) for value in values)


def replaced(value: T, changes: Mapping[str, object]) -> T:
    """Return the frozen dataclass `value` with `changes`, naming a field that it does not have."""
    names = [field.name for field in dataclasses.fields(value)]
    for name in changes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            remedy = f"Did you mean {near[0]}?" if near else ""
            raise type_error("with_", f"name one of {', '.join(names)}", repr(name), remedy)
    return dataclasses.replace(value, **changes)


def check_point(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return one finite point (3,) as float64."""
    point = check_points(values, name)
    if point.shape != (3,):
        raise value_error(name, "be three finite numbers", point.tolist())
    return point
