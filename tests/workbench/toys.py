"""Small solvers and priors that show what the driver carries beside fields of Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.space import Space
from tests.problems import grid_of, prior_on
from workbench.capabilities import Capabilities
from workbench.driver import sample
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.tokens import TokenPrior
from workbench.random import Keys
from workbench.samples import Samples
from workbench.solvers.base import Cost, Info, Solver
from workbench.store import TensorStore


class IndependentTokens(TokenPrior):
    """Every voxel of class c with probability `chances[c]`."""

    exact = True
    calibrated_score = True

    def __init__(self, space: Space, chances: Tensor) -> None:
        super().__init__(space)
        self.chances = chances

    def _conditional(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.chances.expand(*tokens.shape, len(self.chances))


@dataclass(frozen=True)
class ParticleState:
    u: Tensor
    log_weights: Tensor


@dataclass(frozen=True)
class ImportanceSampling(Solver[ParticleState]):
    """J draws of the prior, weighted by the likelihood: interacting through their weights alone."""

    count: int = 200

    kind: ClassVar[Kind] = Kind.WEIGHTED_ENSEMBLE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities()
    state_type: ClassVar[type[ParticleState]] = ParticleState

    @property
    def particles(self) -> int:
        return self.count

    def plan(self, posterior: Posterior) -> SolverPlan:
        return SolverPlan({"share": (0.25, 0.25, 0.5)})

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> ParticleState:
        return ParticleState(
            posterior.prior.draw(keys, like=like), torch.zeros(len(keys.draws), dtype=torch.float64)
        )

    def step(
        self, posterior: Posterior, state: ParticleState, row: PlanRow, keys: Keys
    ) -> tuple[ParticleState, Info]:
        gained = row.number("share") * posterior.measured.log_likelihood(state.u)
        return ParticleState(state.u, state.log_weights + gained), Info(state.u)

    def answer(self, posterior: Posterior, state: ParticleState) -> Tensor:
        return state.u

    def log_weights(self, state: ParticleState) -> Tensor:
        return state.log_weights

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        return Cost(operator_calls=len(plan))


@dataclass(frozen=True)
class WalkState:
    z: Tensor


@dataclass(frozen=True)
class Walk(Solver[WalkState]):
    """Denoises `steps` times and adds a little noise; costs what it says; gives NaN at `fails`."""

    steps: int = 10
    backward: bool = False
    fails: int = -1
    with_infinity: bool = False
    #: Evaluations per step beyond those declared.
    hidden: int = 0

    kind: ClassVar[Kind] = Kind.APPROXIMATE_SAMPLE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(likelihood=False, priors=(Denoiser,))
    state_type: ClassVar[type[WalkState]] = WalkState
    remedy: ClassVar[str] = "Walk less."

    def plan(self, posterior: Posterior) -> SolverPlan:
        return SolverPlan({"sigma": tuple(1.0 / (i + 1) for i in range(self.steps))})

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> WalkState:
        return WalkState(keys.normals(posterior.space.shape, "start", like=like))

    def step(
        self, posterior: Posterior, state: WalkState, row: PlanRow, keys: Keys
    ) -> tuple[WalkState, Info]:
        z, sigma = state.z, row.number("sigma")
        if self.backward:
            with torch.enable_grad():
                leaf = z.clone().requires_grad_()
                estimate = posterior.prior.denoise(leaf, sigma)  # type: ignore[attr-defined]
                (slope,) = torch.autograd.grad(estimate.square().sum(), leaf)
            z = estimate.detach() + 1e-3 * slope
        else:
            z = posterior.prior.denoise(z, sigma)  # type: ignore[attr-defined]
        z = z + 0.1 * sigma * keys.normals(posterior.space.shape, "step", like=z)
        for _ in range(self.hidden):
            posterior.prior.denoise(z, sigma)  # type: ignore[attr-defined]
        if row.index == self.fails:
            z[1] = torch.inf if self.with_infinity else torch.nan
        return WalkState(z), Info(z, {"size": z.abs().flatten(1).mean(1)})

    def answer(self, posterior: Posterior, state: WalkState) -> Tensor:
        return state.z

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        return Cost(len(plan), len(plan) if self.backward else 0)


def prior_only(size: int = 6) -> Posterior:
    return Posterior(prior_on(Space.field(grid_of(size))))


def walk(
    store: TensorStore | None = None, *, draws: int = 5, solver: Walk | None = None, **options: object
) -> Samples:
    return sample(
        prior_only(), Walk() if solver is None else solver, draws=draws, microbatch=2, store=store, **options
    )  # type: ignore[arg-type]
