"""The same noise through the same levels: our plans against the schedulers of diffusers.

Both see the exact noise prediction of a Gaussian mixture at the levels that the scheduler chooses. Left out
are DPM-Solver++ 2M "midpoint" and UniPC-2, whose shares are approximations of ours by design.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.verify.integrators import mixture
from workbench.integration import ddim, euler, heun, multistep, unipc
from workbench.integration.levels import time_of
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.integrator import Integrator, IntegratorState

diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle here: the diffusers extra")

#: The schedulers ask numpy for arrays in a way that it means to drop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`algorithm_types dpmsolver:FutureWarning"),
]

KEYS = Keys(1, tuple(range(32)))
PRIOR = mixture()
NOISE = KEYS.normals(PRIOR.space.shape, "test", like=torch.empty(0, dtype=torch.float64))
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
STEPS = 20
#: The schedulers keep their levels in single precision.
BOUND = 2e-5


def theirs(scheduler: Any, by_sigma: bool) -> tuple[Tensor, list[float]]:
    """Return z at the end of the scheduler's steps, and the levels it was evaluated at."""
    scheduler.set_timesteps(STEPS)
    x = NOISE * (float(scheduler.init_noise_sigma) if by_sigma else 1.0)
    sigmas: list[float] = []
    for t in scheduler.timesteps:
        if by_sigma:
            scheduler.scale_model_input(x, t)
        if hasattr(scheduler, "sigmas"):
            sigma = float(scheduler.sigmas[scheduler.step_index or 0])
        else:
            kept = float(scheduler.alphas_cumprod[int(t)])
            sigma = ((1 - kept) / kept) ** 0.5
        z = x if by_sigma else x * (1 + sigma**2) ** 0.5
        x = scheduler.step((z - PRIOR.denoise(z, sigma)) / sigma, t, x).prev_sample
        sigmas.append(sigma)
    return x, sigmas


def ours(plan: SolverPlan, z: Tensor) -> Tensor:
    solver, posterior = Integrator(plan), Posterior(PRIOR)
    state = IntegratorState((1 - plan.row(0).number("time")) * z)
    for row in plan:
        state, _ = solver.step(posterior, state, row, KEYS)
    return solver.answer(posterior, state)


def levels(sigmas: list[float], end: float) -> tuple[float, ...]:
    return (*map(time_of, sigmas), time_of(end))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(spacing: str) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing=spacing)
    expected, sigmas = theirs(scheduler, by_sigma=False)
    start = NOISE * (1 + sigmas[0] ** 2) ** 0.5
    assert (ours(ddim(levels(sigmas, 0.0)), start) - expected).abs().max() <= BOUND


@pytest.mark.parametrize(("order", "kind"), [(1, "data"), (1, "noise"), (2, "data"), (2, "noise")])
def test_dpm_solver_in_several_steps(order: int, kind: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS,
        solver_order=order,
        algorithm_type="dpmsolver++" if kind == "data" else "dpmsolver",
        solver_type="heun",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
        timestep_spacing="trailing",
    )
    got, sigmas = theirs(scheduler, by_sigma=False)
    end = float(scheduler.sigmas[STEPS])
    start = NOISE * (1 + sigmas[0] ** 2) ** 0.5
    plan = multistep(levels(sigmas, end), order=order, prediction=kind)
    assert (ours(plan, start) - got * (1 + end**2) ** 0.5).abs().max() <= BOUND


@pytest.mark.parametrize("norm", ["bh1", "bh2"])
def test_unipc_of_order_three(norm: str) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(
        **BETAS,
        solver_order=3,
        solver_type=norm,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
        timestep_spacing="trailing",
    )
    got, sigmas = theirs(scheduler, by_sigma=False)
    end = float(scheduler.sigmas[STEPS])
    start = NOISE * (1 + sigmas[0] ** 2) ** 0.5
    assert (ours(unipc(levels(sigmas, end), order=3), start) - got * (1 + end**2) ** 0.5).abs().max() <= BOUND


def test_euler_and_heun() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    expected, sigmas = theirs(scheduler, by_sigma=True)
    start = NOISE * float(scheduler.init_noise_sigma)
    assert (ours(euler(levels(sigmas, 0.0)), start) - expected).abs().max() <= BOUND
    scheduler = diffusers.HeunDiscreteScheduler(**BETAS, timestep_spacing="trailing", use_karras_sigmas=True)
    expected, sigmas = theirs(scheduler, by_sigma=True)
    start = NOISE * float(scheduler.init_noise_sigma)
    distinct = list(dict.fromkeys(sigmas))
    assert (ours(heun(levels(distinct, 0.0)), start) - expected).abs().max() <= BOUND
