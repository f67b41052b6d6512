"""The laws that plans draw from: weak orders with fresh noise, exact starts, weights of modes, heavy tails.

With a Gaussian prior every step is affine in the state and in its noise. The recursions below are written in
z and sigma, from the published steps, and know nothing of the engine: they give each end point as a sum over
the normals it was made of, and with it mean and variance without any sampling error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.diagonal import Diagonal
from operators.space import Space
from tests.problems import reals, require_standard_normal
from tests.workbench.integration.modes import MEANS, PLANE, WEIGHTS, Modes, distance, ends, mixture, slope
from workbench.integration import (
    Churn,
    Karras,
    LogUniform,
    PathUniform,
    ancestral,
    ddim,
    dpm_solver_plus_plus,
    heun,
    multistep,
    unipc,
)
from workbench.integration.levels import sigma_of
from workbench.paths import AffinePath, StudentT
from workbench.plan import SolverPlan
from workbench.priors.finite_data import FiniteData
from workbench.priors.gaussian import DenseGaussian, Gaussian, SpectralGaussian
from workbench.random import Keys

LINE = Space((3,))
MEAN = torch.tensor([0.8, -0.5, 1.5], dtype=torch.float64)
VARIANCES = torch.tensor([0.05, 0.5, 2.0], dtype=torch.float64)
AXES = Gaussian(MEAN, Diagonal(LINE, VARIANCES.sqrt()))

#: Of an entry with this mean and variance: the weights (1, 2 + steps) of [1, start, noise of each step].
Sum = NDArray[np.float64]


def denoised(z: Sum, sigma: float, mean: float, variance: float) -> Sum:
    gain = variance / (variance + sigma**2)
    estimate = gain * z
    estimate[0] += (1 - gain) * mean
    return estimate


def data_recursion(sigmas: Sequence[float], mean: float, variance: float, *, order: int, tau: float) -> Sum:
    """Return the end of SDE-DPM-Solver++, from the integrals of lam - lam_0 over d s^p in closed form."""
    q = tau**2
    p = 1 + q
    z = np.zeros(1 + len(sigmas))
    z[1] = sigmas[0]
    before: tuple[Sum, float] | None = None
    for index, (sigma, after) in enumerate(pairwise(sigmas)):
        now, h, r = denoised(z, sigma, mean, variance), math.log(sigma / after), after / sigma
        change = -math.expm1(-p * h) * now
        if order == 2 and before is not None:
            slope_ = (before[0] - now) / -before[1]
            change = change + (h + math.expm1(-p * h) / p) * slope_
        z = after * (r**q * z / sigma + change / after)
        z[2 + index] += after * math.sqrt(-math.expm1(-2 * q * h))
        before = (now, h)
    return z


def noise_recursion(sigmas: Sequence[float], mean: float, variance: float, *, order: int, tau: float) -> Sum:
    """Return the end of Adams-Bashforth in sigma with the reverse diffusion's noise."""
    z = np.zeros(1 + len(sigmas))
    z[1] = sigmas[0]
    before: tuple[Sum, float] | None = None
    for index, (sigma, after) in enumerate(pairwise(sigmas)):
        eps = (z - denoised(z, sigma, mean, variance)) / sigma
        change = (after - sigma) * eps
        if order == 2 and before is not None:
            change = change + (after - sigma) ** 2 / 2 * (before[0] - eps) / (before[1] - sigma)
        z = z + (1 + tau**2) * change
        z[2 + index] += tau * math.sqrt(sigma**2 - after**2)
        before = (eps, sigma)
    return z


def churned_recursion(sigmas: Sequence[float], mean: float, variance: float, churn: Churn) -> Sum:
    """Return the end of EDM's algorithm 2."""
    z = np.zeros(1 + len(sigmas))
    z[1] = sigmas[0]
    steps = len(sigmas) - 1
    for index, (sigma, after) in enumerate(pairwise(sigmas)):
        growth = (
            min(churn.amount / steps, math.sqrt(2) - 1) if churn.sigma_min <= sigma <= churn.sigma_max else 0
        )
        raised = sigma * (1 + growth)
        z = z.copy()
        z[2 + index] += churn.noise * math.sqrt(raised**2 - sigma**2)
        first = (z - denoised(z, raised, mean, variance)) / raised
        there = z + (after - raised) * first
        second = (there - denoised(there, after, mean, variance)) / after
        z = z + (after - raised) * (first + second) / 2
    return z


CHURN = Churn(6.0, 0.2, 10.0, 1.003)
Recursion = Callable[[Sequence[float], float, float], Sum]
#: Plan, recursion, strength of its noise, weak order.
FORMS: dict[str, tuple[Callable[[tuple[float, ...]], SolverPlan], Recursion, float, int]] = {
    "ancestral": (ancestral, lambda s, m, v: data_recursion(s, m, v, order=1, tau=1.0), 1.0, 1),
    "data 1, tau 1/2": (
        lambda t: multistep(t, order=1, tau=0.5),
        lambda s, m, v: data_recursion(s, m, v, order=1, tau=0.5),
        0.5,
        1,
    ),
    "DPM-Solver++2M SDE": (
        lambda t: dpm_solver_plus_plus(t, tau=1.0),
        lambda s, m, v: data_recursion(s, m, v, order=2, tau=1.0),
        1.0,
        2,
    ),
    "DPM-Solver++2M, tau 0.7": (
        lambda t: dpm_solver_plus_plus(t, tau=0.7),
        lambda s, m, v: data_recursion(s, m, v, order=2, tau=0.7),
        0.7,
        2,
    ),
    "noise 1": (
        lambda t: multistep(t, order=1, prediction="noise", tau=1.0),
        lambda s, m, v: noise_recursion(s, m, v, order=1, tau=1.0),
        1.0,
        1,
    ),
    "noise 2 over sigma": (
        lambda t: multistep(t, prediction="noise", variable="sigma", tau=1.0),
        lambda s, m, v: noise_recursion(s, m, v, order=2, tau=1.0),
        1.0,
        2,
    ),
}

#: With tau = 1 in data form means are exact: r^2 + (1 - r^2) v / (v + sigma^2) is
#: (v + sigma'^2) / (v + sigma^2) for r = sigma' / sigma.
MEAN_EXACT = ("ancestral", "DPM-Solver++2M SDE")


def contracted(
    recursion: Recursion, times: Sequence[float], purpose: str, draws: int, evaluations: int
) -> Tensor:
    """Return what a recursion makes of the normals that the engine uses for the same draws."""
    keys, sigmas = Keys(0, tuple(range(draws))), [sigma_of(t) for t in times]
    like = torch.empty(0, dtype=torch.float64)
    normals = [keys.normals((3,), "integrator: start", like=like)]
    normals += [
        keys.at(1 + evaluations * step).normals((3,), purpose, like=like) for step in range(len(sigmas) - 1)
    ]
    columns = []
    for entry in range(3):
        weights = torch.from_numpy(recursion(sigmas, float(MEAN[entry]), float(VARIANCES[entry])))
        columns.append(weights[0] + torch.stack([n[:, entry] for n in normals], dim=1) @ weights[1:])
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("name", FORMS)
def test_every_end_point_is_what_the_published_step_makes_of_the_same_noise(name: str) -> None:
    build, recursion, _, _ = FORMS[name]
    times = Karras(40.0, 0.05, to_zero=False).times(9)
    wanted = contracted(recursion, times, "integrator: noise", 4, 1)
    assert distance(ends(AXES, build(times), draws=4), wanted) < 1e-11


def test_churn_is_that_of_edm() -> None:
    times = Karras(40.0, 0.05, to_zero=False).times(9)
    wanted = contracted(lambda s, m, v: churned_recursion(s, m, v, CHURN), times, "integrator: churn", 4, 2)
    assert distance(ends(AXES, heun(times, churn=CHURN), draws=4), wanted) < 1e-11


def limit(sigma: float, after: float, mean: float, variance: float, tau: float) -> tuple[float, float]:
    """Return mean and variance at `after` of the exact equation begun with noise alone at `sigma`.

    Deviations from N(mean, variance + sigma^2), which the equation keeps, shrink by f.
    """
    f = ((variance + after**2) / (variance + sigma**2)) ** ((1 + tau**2) / 2)
    return mean * (1 - f), variance + after**2 - f**2 * variance


@pytest.mark.parametrize("name", FORMS)
def test_mean_and_variance_converge_with_the_weak_order(name: str) -> None:
    # From sigma = 2, where noise alone is far from what the equation keeps: both have something to lose.
    _, recursion, tau, order = FORMS[name]
    counts = (160, 320, 640, 1280)
    for mean, variance in zip(MEAN.tolist(), VARIANCES.tolist(), strict=True):
        means, variances = [], []
        for steps in counts:
            sigmas = [sigma_of(t) for t in LogUniform(2.0, 0.05, to_zero=False).times(steps)]
            end = recursion(sigmas, mean, variance)
            exact = limit(2.0, 0.05, mean, variance, tau)
            means.append(abs(float(end[0]) - exact[0]))
            variances.append(abs(float(np.sum(end[1:] ** 2)) - exact[1]))
        assert abs(slope(counts, variances) - order) < 0.2, variances
        if name in MEAN_EXACT:
            assert max(means) < 1e-13
        else:
            assert abs(slope(counts, means) - order) < 0.2, means


def test_draws_have_the_mean_and_variance_of_the_recursion() -> None:
    times, count = Karras(40.0, 0.05, to_zero=False).times(12), 20000
    draws = ends(AXES, dpm_solver_plus_plus(times, tau=1.0), draws=count)
    for entry in range(3):
        sigmas = [sigma_of(t) for t in times]
        end = data_recursion(sigmas, float(MEAN[entry]), float(VARIANCES[entry]), order=2, tau=1.0)
        variance = float(np.sum(end[1:] ** 2))
        assert abs(float(draws[:, entry].mean()) - end[0]) < 4.5 * math.sqrt(variance / count)
        assert abs(float(draws[:, entry].var()) / variance - 1) < 4.5 * math.sqrt(2 / count)


# -- exact starts, as affine maps ------------------------------------------------------------------


def correlated() -> DenseGaussian:
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.4, 0.2]], dtype=torch.float64)
    return DenseGaussian(LINE, MEAN, root @ root.T)


def affine(prior: DenseGaussian, plan: SolverPlan, path: AffinePath) -> tuple[Tensor, Tensor]:
    """Return the mean and covariance of a flow's end points, by the affine map that it is."""
    start = Keys(0, tuple(range(8))).normals((3,), "integrator: start", like=MEAN)
    design = torch.cat([start, torch.ones(8, 1, dtype=torch.float64)], dim=1)
    found = torch.linalg.lstsq(design, ends(prior, plan, path, draws=8)).solution
    return found[3], found[:3].T @ found[:3]


@pytest.mark.parametrize(
    "path",
    [AffinePath.flow(), AffinePath.resfusion(), AffinePath.residual(), AffinePath.vp_cosine()],
    ids=repr,
)
@pytest.mark.parametrize("build", [dpm_solver_plus_plus, unipc, heun])
def test_paths_started_where_the_data_are_gone_reach_mean_and_covariance(
    path: AffinePath, build: Callable[[tuple[float, ...]], SolverPlan]
) -> None:
    # On Resfusion's and the residual path sigma is about the root of t: what is left is the last step's,
    # 1 / steps. At 10, 40, 160 steps 11, 2 and .5 % of the covariance are measured there, elsewhere less.
    prior = correlated()
    wanted = prior.covariance_product(torch.eye(3, dtype=torch.float64))
    for steps, bound in ((10, 0.13), (40, 0.025), (160, 0.006)):
        times = PathUniform(path).times(steps)
        assert times[0] == 1
        mean, covariance = affine(prior, build(times), path)
        assert (mean - MEAN).norm() < 1e-12
        assert (covariance - wanted).norm() < bound * wanted.norm()


# -- mixtures, heavy tails, complex fields -----------------------------------------------------------

COUNT = 4000
WAYS: dict[str, SolverPlan] = {
    "flow": dpm_solver_plus_plus(Karras(80.0, 0.01).times(60)),
    "from noise alone": unipc(LogUniform(80.0, 0.01, from_noise=True).times(60)),
    "SDE, 2 nodes": dpm_solver_plus_plus(LogUniform(80.0, 0.01).times(150), tau=1.0),
    "ancestral": ancestral(LogUniform(80.0, 0.01).times(200)),
    "DDIM, eta 0.5": ddim(LogUniform(80.0, 0.01).times(200), eta=0.5),
    "Heun, churn": heun(Karras(80.0, 0.01).times(60), churn=Churn(20.0, 0.05, 50.0)),
}


@pytest.mark.parametrize("name", WAYS)
def test_with_noise_and_without_the_modes_get_their_weights(name: str) -> None:
    draws = ends(Modes(), WAYS[name], draws=COUNT)
    shares = mixture().responsibilities(draws, 0.0).mean(0)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    # Of exact draws the mean responsibility is the weight, with at most the variance of a 0-1 choice.
    assert ((shares - weights).abs() < 4.5 * (weights * (1 - weights) / COUNT).sqrt()).all()


@pytest.mark.parametrize("dof", [8.0, 128.0])
def test_heavy_tailed_noise_leads_to_each_of_eight_points_alike(dof: float) -> None:
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    points = torch.stack([angles.cos(), 2 * angles.sin()], dim=1) + 0.1 * MEANS[[0, 1, 2, 3, 4, 0, 1, 2]]
    law = StudentT(dof)
    plan = heun(Karras(80.0, 0.002).times(80))
    draws = ends(FiniteData(points, PLANE, law=law), plan, AffinePath.ve().under(law), draws=COUNT)
    apart = torch.cdist(draws, points)
    shares = torch.bincount(apart.argmin(1), minlength=8) / COUNT
    assert (shares - 1 / 8).abs().max() < 4.5 * math.sqrt(7 / 64 / COUNT)
    assert apart.min(1).values.quantile(0.99) < 0.02


def test_complex_images_have_the_law_of_the_prior_in_each_component() -> None:
    space = Space((1, 4, 4), is_complex=True)
    power = 0.2 + torch.arange(16, dtype=torch.float64).reshape(1, 4, 4) / 8
    prior = SpectralGaussian(space, 0.5 - 0.3j, power)
    draws = ends(prior, unipc(LogUniform(200.0, 0.003).times(60)), draws=3000)
    white = torch.fft.ifftn(torch.fft.fftn(draws - (0.5 - 0.3j), dim=(1, 2, 3)) / power.sqrt(), dim=(1, 2, 3))
    require_standard_normal(reals(white))
