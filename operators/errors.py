"""The shape of every error a user can cause: argument, expectation, value received, remedy.

    `image` must have shape (..., 4, 8, 8), got (4, 8, 7). Resample the volume on the operator's grid.

A mistake is reported where the argument enters, never from deep inside a kernel.
"""

from __future__ import annotations


class ConvergenceWarning(UserWarning):
    """An iterative solve stopped before it reached its tolerance."""


class NoClosedFormError(TypeError):
    """The closed form asked for is not known for this operator; the message names the alternative."""


class NonFiniteError(ValueError):
    """Values that must be finite hold a NaN or an infinity."""


class InexactAdjointError(TypeError):
    """A method that needs an exact adjoint was given an operator that only approximates it."""


def describe(argument: str, expected: str, got: object, remedy: str = "") -> str:
    """Return the message all argument errors share."""
    text = f"`{argument}` must {expected}, got {got}."
    return f"{text} {remedy}" if remedy else text


def value_error(argument: str, expected: str, got: object, remedy: str = "") -> ValueError:
    """Return a ValueError in the house form; the caller raises it."""
    return ValueError(describe(argument, expected, got, remedy))


def type_error(argument: str, expected: str, got: object, remedy: str = "") -> TypeError:
    """Return a TypeError in the house form; the caller raises it."""
    return TypeError(describe(argument, expected, got, remedy))
