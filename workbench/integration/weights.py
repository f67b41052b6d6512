"""The coefficients of one step, exact in double precision: how far it goes, and on which evaluations.

Times are those of the rectified flow, t = sigma / (1 + sigma): the state is x = (1 - t) x0 + t noise, finite
at t = 1 (noise alone) and at t = 0 (the image), with s = 1 / sigma = (1 - t) / t. A step from t to t' < t is

    x' = keep x + gain sum_j share_j v_j + fresh w,     sum_j share_j = 1,     r = s / s' = sigma' / sigma

    data form    v = D      keep = r^q t'/t            gain = (1 - t')(1 - r^(1 + q))
                            fresh = t' sqrt(1 - r^(2 q))
    noise form   v = eps    keep = (1 - t')/(1 - t)    gain = -(1 + q)(1 - t')(sigma - sigma')
                            fresh = (1 - t') sqrt(q (sigma^2 - sigma'^2))

with q = tau^2 and eps = (x - (1 - t) D) / t. They solve the reverse equation of noise strength tau for a v
that stands still (tau = 0: the probability flow; the data form at tau = 1: the DDPM step), written so that
the data form is regular at t = 1 and the noise form at t' = 0. The prediction v is interpolated by Lagrange's
polynomials l_j through its nodes in a variable, and its share is the exact integral

    share_j = int_r^1 l_j dw / int_r^1 dw

    data form    w = rho^(1 + q), from s to s' at rho s'         noise form    w = rho, back at rho sigma

In both, log_snr is log rho up to a constant, and inv_sigma and sigma are rho or 1 / rho: l_j does not change
when its variable is scaled and shifted. Positions are measured from rho = 1 without subtraction of near
numbers. Gauss-Legendre with 16 points on each halving of rho is exact to rounding for all these integrands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from operators.errors import value_error
from workbench.paths.affine import AffinePath

__all__ = [
    "PREDICTIONS",
    "VARIABLES",
    "Transfer",
    "lagrange_shares",
    "log_ratio",
    "node_positions",
    "transfer",
]

PREDICTIONS = ("data", "noise")
#: In what a prediction is interpolated; "t" is the time of a path of one's own.
VARIABLES = ("log_snr", "inv_sigma", "sigma", "t")

#: Halvings of rho that are integrated one by one; what lies below 2^-64 weighs nothing.
HALVINGS = 64
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(16)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Transfer:
    """x' = keep x + gain v + fresh w for a prediction v that stands still."""

    keep: float
    gain: float
    fresh: float


def transfer(time: float, next_time: float, prediction: str, tau: float = 0.0) -> Transfer:
    """Return the step from `time` to `next_time` < `time`; 1 is noise alone, 0 the image."""
    q = tau**2
    if prediction == "noise":
        gone = (time - next_time) / (1 - time)
        both = (1 - next_time) * time / (1 - time) + next_time
        return Transfer((1 - next_time) / (1 - time), -(1 + q) * gone, math.sqrt(q * gone * both))
    log_r = log_ratio(time, next_time)
    kept, spread = (1.0, 0.0) if q == 0 else (math.exp(q * log_r), -math.expm1(2 * q * log_r))
    gain = -(1 - next_time) * math.expm1((1 + q) * log_r)
    return Transfer(kept * next_time / time, gain, next_time * math.sqrt(spread))


def lagrange_shares(
    nodes: Sequence[float],
    time: float,
    next_time: float,
    *,
    variable: str,
    prediction: str,
    tau: float = 0.0,
    path: AffinePath | None = None,
) -> tuple[float, ...]:
    """Return one share per node, given by its time; a node where the variable is infinite has none.

    `path` is the one whose time is the variable "t".
    """
    positions = node_positions(nodes, time, next_time, variable=variable, prediction=prediction, path=path)
    finite = [j for j, position in enumerate(positions) if math.isfinite(position)] or [0]
    if len(finite) == 1:
        return tuple(float(j == finite[0]) for j in range(len(nodes)))
    points = _Points.between(time, next_time)
    weights = points.weights * points.rho ** (tau**2 if prediction == "data" else 0.0)
    values = _values(points, time, next_time, variable, prediction, path)
    shares = [0.0] * len(nodes)
    for j in finite:
        basis = np.ones_like(values)
        for i in finite:
            if i != j:
                basis *= (values - positions[i]) / (positions[j] - positions[i])
        shares[j] = float(weights @ basis / weights.sum())
    return tuple(shares)


def node_positions(
    nodes: Sequence[float],
    time: float,
    next_time: float,
    *,
    variable: str,
    prediction: str,
    path: AffinePath | None = None,
) -> tuple[float, ...]:
    """Return where nodes lie in the variable, measured from rho = 1 unless it is "t"; infinite at poles."""
    if variable == "t":
        return tuple(_path_time(node, path) for node in nodes)
    result = []
    for node in nodes:
        if prediction == "data":
            less = -(node - next_time) / (node * (1 - next_time))
            more = _quotient(node - next_time, (1 - node) * next_time)
        else:
            less = _quotient(node - time, (1 - node) * time)
            more = (time - node) / (node * (1 - time))
        # less = rho - 1, more = 1 / rho - 1
        if variable == "log_snr":
            result.append(math.log1p(less) if less > -0.5 else -math.log1p(more))
        else:
            result.append(less if _is_rho(variable, prediction) else more)
    return tuple(result)


@dataclass(frozen=True)
class _Points:
    """Points of a quadrature over rho in [r, 1], the distances 1 - rho, and weights of d rho."""

    rho: Array
    gap: Array
    weights: Array

    @classmethod
    def between(cls, time: float, next_time: float) -> _Points:
        """Return those of a step."""
        ratio, gap = _ratio(time, next_time), _gap(time, next_time)
        first = min(gap, 0.5)
        near = first / 2 * (1 + POINTS)
        rho, away, weights = [1 - near], [near], [first / 2 * WEIGHTS]
        top = 0.5
        for _ in range(HALVINGS):
            if top <= ratio:
                break
            low = max(top / 2, ratio)
            rho.append((top + low) / 2 + (top - low) / 2 * POINTS)
            away.append(1 - rho[-1])
            weights.append((top - low) / 2 * WEIGHTS)
            top = low
        return cls(np.concatenate(rho), np.concatenate(away), np.concatenate(weights))


def _values(
    points: _Points, time: float, next_time: float, variable: str, prediction: str, path: AffinePath | None
) -> Array:
    """Return the variable at the points of the quadrature."""
    if variable == "log_snr":
        return np.where(points.gap < 0.5, np.log1p(-np.minimum(points.gap, 0.5)), np.log(points.rho))
    if variable != "t":
        return -points.gap if _is_rho(variable, prediction) else points.gap / points.rho
    data = prediction == "data"
    end = next_time if data else time
    inverse = (1 - end) / end * (points.rho if data else 1 / points.rho)
    least, most = _required(path).sigma_range
    inside = np.clip(inverse, 1 / most, math.inf if least == 0 else 1 / least)
    return _required(path).time_of_inverse(torch.from_numpy(inside)).numpy()


def _path_time(time: float, path: AffinePath | None) -> float:
    """Return the path's own time, infinite where noise alone is no point of it."""
    if time == 1 and not math.isinf(_required(path).sigma_range[1]):
        return math.inf
    return float(_required(path).time_of_inverse((1 - time) / time))


def _required(path: AffinePath | None) -> AffinePath:
    if path is None:
        raise value_error("path", 'be given for the variable "t"', None, "Such as AffinePath.vp().")
    return path


def _is_rho(variable: str, prediction: str) -> bool:
    """Tell whether the variable is rho itself up to a factor, not its inverse."""
    return (variable == "inv_sigma") == (prediction == "data")


def _ratio(time: float, next_time: float) -> float:
    """Return r = s / s'."""
    return next_time * (1 - time) / (time * (1 - next_time))


def _gap(time: float, next_time: float) -> float:
    """Return 1 - r."""
    return (time - next_time) / (time * (1 - next_time))


def log_ratio(time: float, next_time: float) -> float:
    """Return log r."""
    gap, ratio = _gap(time, next_time), _ratio(time, next_time)
    return math.log1p(-gap) if gap < 0.5 else math.log(ratio) if ratio > 0 else -math.inf


def _quotient(over: float, under: float) -> float:
    return over / under if under > 0 else math.inf
