"""Draws of a token prior, from all masked to none: each step tells a few tokens what they are.

    mask all;   repeat: choose masked positions at random, draw their tokens from p(token | the known), unmask

One position at a time this is the chain rule in a random order, one per draw: exact, with one evaluation of
the prior per token; the first-hitting sampler of an absorbing diffusion (Zheng et al. 2025), of which the
times are left out, since no token depends on them. Several at a time are drawn as if independent given
what is known, which they are not: fewer evaluations, an approximate sample. Probabilities and uniforms are
in double precision: in single the rarest classes would be drawn at a rate of their own.

Measured on a 3 x 3 Ising model of coupling 0.4, 100000 draws, the total variation from the law: 0.021 one at
a time, 9 evaluations (that of exact draws is 0.022), 0.171 three at a time, 3 evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.checks import check_count, check_finite
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.chances import inverted
from workbench.priors.tokens import TokenPrior
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["Unmasking", "UnmaskingState"]


@dataclass(frozen=True)
class UnmaskingState:
    """The tokens, and where they are not known yet."""

    tokens: Tensor
    masked: Tensor


@dataclass(frozen=True)
class Unmasking(Solver[UnmaskingState]):
    """Samples of a token prior, `per_step` tokens at a time; each draw has an order of its own."""

    per_step: int = 1

    capabilities: ClassVar[Capabilities] = Capabilities(
        spaces=frozenset({"token field"}),
        prior_only=True,
        calibrated_score=True,
        priors=(TokenPrior,),
    )
    state_type: ClassVar[type[UnmaskingState]] = UnmaskingState
    remedy: ClassVar[str] = "Look at the conditionals that the prior gives."

    def __post_init__(self) -> None:
        check_count(self.per_step, "per_step")

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """Exact one at a time, as exact as the prior's conditionals are those of one law."""
        return Kind.EXACT_SAMPLE if self.per_step == 1 else Kind.APPROXIMATE_SAMPLE

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return how many tokens each step unmasks."""
        whole, rest = divmod(posterior.space.size, self.per_step)
        return SolverPlan({"unmask": (self.per_step,) * whole + (rest,) * (rest > 0)})

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> UnmaskingState:
        """Return tokens that are all masked."""
        shape = (len(keys.draws), *posterior.space.shape)
        tokens = torch.zeros(shape, dtype=torch.int64, device=like.device)
        return UnmaskingState(tokens, torch.ones_like(tokens, dtype=torch.bool))

    def step(
        self, posterior: Posterior, state: UnmaskingState, row: PlanRow, keys: Keys
    ) -> tuple[UnmaskingState, Info]:
        """Unmask as many tokens as the row says."""
        chances = posterior.prior.conditional(state.tokens, state.masked)  # type: ignore[attr-defined]
        check_finite(chances, "conditional")
        shape, like = posterior.space.shape, torch.empty(0, dtype=torch.float64, device=chances.device)
        order = keys.uniforms(shape, "unmasking: position", like=like)
        order = order.masked_fill(~state.masked, -1.0).flatten(1)
        chosen = torch.zeros_like(order, dtype=torch.bool)
        chosen.scatter_(1, order.topk(int(row.number("unmask")), dim=1).indices, True)
        now = chosen.reshape(state.masked.shape)
        fresh = inverted(chances, keys.uniforms(shape, "unmasking: token", like=like))
        after = UnmaskingState(torch.where(now, fresh, state.tokens), state.masked & ~now)
        masked = after.masked.flatten(1).double().mean(dim=1)
        return after, Info(after.tokens, {"masked": masked})

    def answer(self, posterior: Posterior, state: UnmaskingState) -> Tensor:
        """Return the tokens."""
        del posterior
        return state.tokens

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation of the prior per step."""
        del posterior
        return Cost(network_evaluations=len(plan))
