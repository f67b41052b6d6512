"""A certificate for total variation on small problems, by dense linear algebra that shares nothing with it.

    P(u) = |B u - z|^2 / 2 + weight sum |D u|            H = B^T B
    g(p) = min over u of |B u - z|^2 / 2 + <p, D u>      for |p| <= weight in every voxel

Any such p gives g(p) <= min P, if D^T p lies in the range of H: P(u) - g(p) is at least as large as what
is missing. A good p comes from the alternating directions method of multipliers (ADMM), whose scaled
multiplier lies within the bound in every iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from operators.differences import FiniteDifferences
from tests.problems import real_matrix, reals
from workbench.posterior import Posterior

__all__ = ["duality_gap"]

SPLITTING, ITERATIONS = 10.0, 5_000


def duality_gap(posterior: Posterior, u: Tensor, weight: float) -> float:
    """Return (P(u) - g(p)) / P(u) for one answer `u` (1, ...) of a posterior with a flat prior."""
    b, z = posterior.measured.whitened
    gradient = FiniteDifferences(posterior.space)
    matrix, data, slope = real_matrix(b), reals(z[None])[0], real_matrix(gradient)
    axes, parts = gradient.codomain.shape[0], 2 if posterior.space.is_complex else 1

    def magnitude(g: Tensor) -> Tensor:
        return g.reshape(axes, -1, parts).square().sum((0, 2)).sqrt()

    def within(g: Tensor, bound: float) -> Tensor:
        share = (magnitude(g) / bound).clamp(min=1)
        return (g.reshape(axes, -1, parts) / share[:, None]).flatten()

    def misfit(v: Tensor) -> Tensor:
        return (matrix @ v - data).square().sum() / 2

    h, side = matrix.T @ matrix, matrix.T @ data
    inverse = torch.linalg.inv(h + SPLITTING * slope.T @ slope)
    scaled = torch.zeros(len(slope), dtype=torch.float64)
    split = scaled
    for _ in range(ITERATIONS):
        v = inverse @ (side + SPLITTING * slope.T @ (split - scaled))
        point = slope @ v + scaled
        scaled = within(point, weight / SPLITTING)
        split = point - scaled
    p = SPLITTING * scaled
    lowest = torch.linalg.pinv(h, hermitian=True, rtol=1e-13) @ (side - slope.T @ p)
    dual = misfit(lowest) + p @ slope @ lowest
    ours = reals(u)[0]
    primal = misfit(ours) + weight * magnitude(slope @ ours).sum()
    return float((primal - dual) / primal)
