"""PnP-DM: a Gibbs sampler of two unknowns close to one another, one for the data and one for the prior.

    x ~ N(z, rho^2) x likelihood
    z ~ prior x N(x, rho^2):    the reverse diffusion from level rho down, begun at x

    z' = D + k (z - D) + (s'^2 (1 - k) + (1 - k)^2 v^2)^1/2 w,    D = denoise(z, s),   k = (s' / s)^2

(Wu et al. 2024.) Round n, from 0, has rho = max(last, decay^n first); the answer is the last z. The draw of x
is exact for a linear-Gaussian likelihood, else Langevin's (langevin.py): no backward passes. The
third line is an ancestral step around an image that is drawn, not the mean D: v^2 = s^2 s0^2 / (s^2 + s0^2)
is its variance given z, for an isotropic Gaussian prior of spread s0. With v = 0 a step falls short of the
variance along directions wider than s by the share 1 - k, 0.2 for 20 steps to a tenth of rho.

What it is off by: at one rho, z comes to follow prior x likelihood with noise of covariance I + rho^2 B B^H
in place of I, for -log p = |B x - y|^2 / 2: variance that the data alone determine is (rho |B|)^2 too large,
at most 9 % by default. A smaller `last` would make that less; but a round moves z by about rho, and what is
farther off stays as it was decided on the way down, mode weights above all. Posterior variance at the
defaults over the true one, and probability in wrong modes:

                                    isotropic   correlated   two modes     two signs (Langevin)
    spread of the prior               1.00         1.01      1.01, 0.07        1.05, 0.03
    spread 0                          0.87         0.89      0.99, 0.07        0.97, 0.01

Means of the Gaussian ones are at most 0.03 posterior sd off, twice that after 50 rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import value_error
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.alternating.langevin import Langevin, check_inner, draw_calls, draw_near
from workbench.solvers.base import Cost, Info, Solver
from workbench.solvers.descent import (
    END,
    RESOLVED,
    DescentState,
    denoiser,
    ladder,
    require_bounded,
    spread_left,
)
from workbench.solvers.pull import curvature_norm

__all__ = ["PnPDM"]

#: rho that nobody chose, in standard deviations of the prior, and the share of the rounds after which it is
#: the last.
FIRST, LAST, FALLING = 10.0, 0.1, 0.75


@dataclass(frozen=True)
class PnPDM(Solver[DescentState]):
    """Approximate samples for any differentiable operator and any noise, without backward passes.

    `rounds` draws of x and `inner_steps` evaluations after each: 100 and 2000 by default. `first` None is
    10 standard deviations of the prior; `last` None a tenth of one, or 0.3 / |B| where that is less, and no
    less than ten times the lowest level that the prior knows; `decay` None comes to `last` after three
    quarters of the rounds. `spread` is s0, None the prior's own if it knows it; 0 makes v = 0. `inner` None
    draws x exactly where that can be, to `tolerance` of its own standard deviations (1e-4 in single, 1e-8 in
    double precision), else by Langevin().
    """

    rounds: int = 100
    inner_steps: int = 20
    first: float | None = None
    last: float | None = None
    decay: float | None = None
    spread: float | None = None
    inner: Langevin | None = None
    tolerance: float | None = None

    kind: ClassVar[Kind] = Kind.APPROXIMATE_SAMPLE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(calibrated_score=True, priors=(Denoiser,))
    state_type: ClassVar[type[DescentState]] = DescentState
    remedy: ClassVar[str] = (
        "Lower the fraction of the inner chain, inner=Langevin(fraction=...), take float64 data, or check "
        "the prior's units."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounds", check_count(self.rounds, "rounds"))
        object.__setattr__(self, "inner_steps", check_count(self.inner_steps, "inner_steps"))
        for name in ("first", "last", "decay"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, positive=True)
        if self.decay is not None and self.decay >= 1:
            raise value_error("decay", "be below 1", self.decay, "It is what rho falls by in a round.")
        if self.spread is not None:
            check_number(self.spread, "spread", non_negative=True)
        check_inner(self.inner, self.tolerance)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return s and s' of every evaluation, the noise after it, and in the first row of a round rho.

        The last is called radius, and is 0 where no x is drawn.
        """
        first, last = self._ends(posterior)
        falling = max(1, int(FALLING * self.rounds))
        decay = (last / first) ** (1 / falling) if self.decay is None else self.decay
        least = max(denoiser(posterior).noise_range[0], END * last)
        spread = posterior.prior.data_sd if self.spread is None else self.spread
        columns: dict[str, list[float]] = {"sigma": [], "next_sigma": [], "radius": [], "noise": []}
        for k in range(self.rounds):
            rho = max(last, decay**k * first)
            levels = ladder(rho, least, self.inner_steps)
            columns["sigma"] += levels[:-1]
            columns["next_sigma"] += levels[1:]
            columns["radius"] += [rho, *[0.0] * (len(levels) - 2)]
            columns["noise"] += [_noise(*pair, spread or 0.0) for pair in pairwise(levels)]
        return SolverPlan({name: tuple(values) for name, values in columns.items()})

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> DescentState:
        """Return noise of the first rho."""
        white = keys.normals(posterior.space.shape, "pnp_dm: start", like=like)
        return DescentState(self.plan(posterior).row(0).number("radius") * white)

    def step(
        self, posterior: Posterior, state: DescentState, row: PlanRow, keys: Keys
    ) -> tuple[DescentState, Info]:
        """Draw x if a round begins, and go one level down."""
        z, sigma, rho, noise = state.z, row.number("sigma"), row.number("radius"), row.number("noise")
        if rho > 0:
            z = draw_near(posterior, z, rho, keys, "pnp_dm: draw", inner=self.inner, tolerance=self.tolerance)
        estimate = denoiser(posterior).denoise(z, sigma)
        z = estimate + (row.number("next_sigma") / sigma) ** 2 * (z - estimate)
        if noise > 0:
            z = z + noise * keys.normals(z.shape[1:], "pnp_dm: noise", like=z)
        spread = posterior.kept(
            "pnp_dm: spread", lambda: posterior.prior.data_sd or self.plan(posterior).row(0).number("radius")
        )
        require_bounded(z, sigma, spread)
        return DescentState(z), Info(estimate)

    def whereabouts(self, row: PlanRow) -> str:
        """Return the noise level, and rho of a row that draws x."""
        rho = row.number("radius")
        return f"sigma = {row.number('sigma'):.3g}" + (f", rho = {rho:.3g}" if rho > 0 else "")

    def answer(self, posterior: Posterior, state: DescentState) -> Tensor:
        """Return z at the end of the last round."""
        del posterior
        return state.z

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation per row, and what the draws of x take."""
        draws = sum(row.number("radius") > 0 for row in plan)
        return Cost(len(plan), 0, draws * draw_calls(posterior, self.inner))

    def _ends(self, posterior: Posterior) -> tuple[float, float]:
        """Return the first and the last rho, levels that the prior knows."""
        low, high = denoiser(posterior).noise_range
        first = min(FIRST * _spread(posterior, "first"), high) if self.first is None else self.first
        last = self.last
        if last is None:
            last = LAST * _spread(posterior, "last")
            norm = curvature_norm(posterior)
            last = min(last, RESOLVED / norm) if norm > 0 else last
            # The reverse diffusion needs levels below rho.
            last = max(last, low / END)
        for name, rho in (("first", first), ("last", last)):
            if not low * (1 - 1e-6) <= rho <= high * (1 + 1e-6):
                wanted = f"be a level that the prior knows, {low:g} to {high:g}"
                raise value_error(name, wanted, f"{rho:g}", "In units of the prior.")
        if last > first:
            remedy = "Check the units of the prior's noise range and of its data_sd, or give both."
            raise value_error("last", f"be at most first = {first:g}", f"{last:g}", remedy)
        return first, last


def _spread(posterior: Posterior, argument: str) -> float:
    spread = posterior.prior.data_sd
    if spread is None or not spread > 0:
        wanted = f"be given for a {type(posterior.prior).__name__} without a data_sd"
        share = FIRST if argument == "first" else LAST
        remedy = f"Such as {share:g} of its standard deviations, in units of the prior."
        raise value_error(argument, wanted, None, remedy)
    return spread


def _noise(sigma: float, after: float, spread: float) -> float:
    """Return the standard deviation of a step's noise: none at the end, which is D."""
    rest = 1 - (after / sigma) ** 2
    return math.hypot(after * math.sqrt(rest), rest * spread_left(sigma, spread)) if after > 0 else 0.0
