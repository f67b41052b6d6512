"""Five round modes in the plane, exact and fast: what orders are measured on; and the runs of plans."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from operators.space import Space
from workbench.paths import AffinePath
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.mixture import GaussianMixture
from workbench.random import Keys
from workbench.solvers.integrator import Integrator

PLANE = Space((2,))
WEIGHTS = (0.3, 0.2, 0.1, 0.25, 0.15)
MEANS = torch.tensor([[1.2, 0.5], [-1.1, 0.4], [0.3, -1.2], [-0.7, -1.0], [0.1, 1.4]], dtype=torch.float64)
SDS = (0.35, 0.45, 0.3, 0.4, 0.35)
FLOW = AffinePath.flow()


class Modes(Denoiser):
    """GaussianMixture.isotropic(PLANE, WEIGHTS, MEANS, SDS), all modes at once."""

    exact = True
    calibrated_score = True
    knows_pure_noise = True

    def __init__(self) -> None:
        super().__init__(PLANE)
        self.log_weights = torch.tensor(WEIGHTS, dtype=torch.float64).log()
        self.variances = torch.tensor(SDS, dtype=torch.float64) ** 2

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self._estimate(z, torch.ones_like(sigma), sigma)

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        return self._estimate(u, inv_sigma, torch.ones_like(inv_sigma))

    def _estimate(self, v: Tensor, a: Tensor, c: Tensor) -> Tensor:
        """Return E[x | v], v = a x + c noise."""
        total = a**2 * self.variances + c**2
        away = v[:, None, :] - a[:, None] * MEANS
        logs = self.log_weights - away.square().sum(-1) / (2 * total) - total.log()
        each = MEANS + (a * self.variances / total)[..., None] * away
        return (torch.softmax(logs, dim=1)[..., None] * each).sum(1).to(v)


def mixture() -> GaussianMixture:
    return GaussianMixture.isotropic(PLANE, WEIGHTS, MEANS, SDS)


def ends(
    prior: Denoiser, plan: SolverPlan, path: AffinePath = FLOW, *, draws: int = 256, seed: int = 0
) -> Tensor:
    """Return the draws that a plan ends with, in double precision, without the driver's checks."""
    solver, posterior, keys = Integrator(plan, path), Posterior(prior), Keys(seed, tuple(range(draws)))
    with torch.no_grad():
        state = solver.init(posterior, keys, torch.empty(0, dtype=torch.float64))
        for row in solver.plan(posterior):
            state, _ = solver.step(posterior, state, row, keys.at(row.index + 1))
        assert state.data == state.noise == state.states == ()
        return solver.answer(posterior, state)


def distance(a: Tensor, b: Tensor) -> float:
    """Return the root mean square distance of rows."""
    return float((a - b).square().flatten(1).sum(1).mean().sqrt())


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Return the order that the errors fall with, by regression of logarithms."""
    x = [math.log(n) for n in steps]
    y = [math.log(e) for e in errors]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return -covariance / sum((a - mean_x) ** 2 for a in x)
