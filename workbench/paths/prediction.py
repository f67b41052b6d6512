"""What a network is trained to predict on a path, and from each prediction to every other.

With y = x - b x_in, D = E[x0 | x] and dots for derivatives in t:

    data      D
    noise     (y - a D) / c
    v         a noise - c D = (a y - (a^2 + c^2) D) / c          (a^2 + c^2 = 1: the v of Salimans and Ho)
    score     -noise / c                                          under normal noise
    velocity  a' D + b' x_in + c' noise

Each is affine in D, so that each is D again where its factor is not 0: noise and score say nothing of D where
a = 0, and D nothing of them where c = 0.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from operators.checks import check_member
from operators.errors import value_error
from workbench.paths.affine import AffinePath, Point
from workbench.paths.noise_law import GaussianLaw

__all__ = ["Prediction", "from_data", "to_data"]


class Prediction(StrEnum):
    """The quantity a network gives; its text is what cards and plans hold."""

    DATA = "data"
    NOISE = "noise"
    V = "v"
    SCORE = "score"
    VELOCITY = "velocity"

    @classmethod
    def require(cls, value: object) -> Prediction:
        """Return the prediction that `value` is, or is the text of."""
        return check_member(cls, value, "prediction")


def to_data(
    prediction: Prediction | str,
    value: Tensor,
    x: Tensor,
    t: float | Tensor,
    path: AffinePath,
    x_in: Tensor | None = None,
) -> Tensor:
    """Return D from a prediction `value` at the point `x` of time `t`: one number, or one per batch element.

    `x_in` is needed where b is not 0 at `t`, by a velocity everywhere on a path that has one.
    """
    kind = Prediction.require(prediction)
    at, slope = _at(kind, x, t, path)
    y = _without(x, x_in, at.b)
    a, b, c = at.a, at.b, at.c
    del b
    if kind is Prediction.DATA:
        return value
    if kind is Prediction.V:
        return (a * y - c * value) / (a**2 + c**2)
    if kind is Prediction.VELOCITY:
        # With c' y / c for what is not D; both sides times c, which may be 0.
        return (c * _without(value, x_in, slope.b) - slope.c * y) / (slope.a * c - slope.c * a)
    if bool((a == 0).any()):
        remedy = "Only data, v and velocity predictions start where the data are gone."
        raise value_error(
            "t", f"be a time with a > 0: there is no data in the {kind} there", float(t), remedy
        )
    return (y - c * value) / a if kind is Prediction.NOISE else (y + c**2 * value) / a


def from_data(
    prediction: Prediction | str,
    data: Tensor,
    x: Tensor,
    t: float | Tensor,
    path: AffinePath,
    x_in: Tensor | None = None,
) -> Tensor:
    """Return the prediction that says D = `data` at the point `x` of time `t`."""
    kind = Prediction.require(prediction)
    if kind is Prediction.DATA:
        return data
    at, slope = _at(kind, x, t, path)
    if bool((at.c == 0).any()):
        raise value_error("t", f"be a time with c > 0: without noise there is no {kind}", "c = 0")
    noise = (_without(x, x_in, at.b) - at.a * data) / at.c
    if kind is Prediction.NOISE:
        return noise
    if kind is Prediction.V:
        return at.a * noise - at.c * data
    if kind is Prediction.SCORE:
        return -noise / at.c
    return slope.a * data + slope.c * noise - _without(torch.zeros_like(x), x_in, slope.b)


def _at(kind: Prediction, x: Tensor, t: float | Tensor, path: AffinePath) -> tuple[Point, Point]:
    """Return scales and slopes at `t`, shaped to multiply `x`, in its precision."""
    if kind is Prediction.SCORE and not isinstance(path.law, GaussianLaw):
        raise value_error("prediction", "not be a score under noise that is not normal", path.law)
    at = path.at(t)
    slope = path.slopes(t) if kind is Prediction.VELOCITY else at
    real = x.real.dtype if x.is_complex() else x.dtype

    def shaped(scale: Tensor) -> Tensor:
        return scale.to(x.device, real).reshape(*scale.shape, *[1] * (x.ndim - scale.ndim))

    return (
        Point(shaped(at.a), shaped(at.b), shaped(at.c)),
        Point(shaped(slope.a), shaped(slope.b), shaped(slope.c)),
    )


def _without(x: Tensor, x_in: Tensor | None, b: Tensor) -> Tensor:
    """Return x - b x_in."""
    if x_in is None:
        if bool((b != 0).any()):
            raise value_error(
                "x_in", "be given on a path with b > 0", None, "The image that the path leads to."
            )
        return x
    return x - b * x_in
