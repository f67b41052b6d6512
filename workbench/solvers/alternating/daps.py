"""DAPS: clean images that the data draw near the prior's, and noise put on them anew for the next level.

    c = the end at s = 0 of z' = D + (s' / s) (z - D),    D = denoise(z, s),    s from sigma down
    x ~ N(c, r^2) x likelihood
    z = x + sigma' w,    sigma' the next level, 0 at the end

(Zhang et al. 2024: decoupled annealing posterior sampling.) The first line is Euler's method on the
probability-flow equation in `ode_steps` evaluations; one gives the mean D itself. Of z nothing is kept but
what x has of it, so that modes far apart are crossed while sigma is large. The draw is exact for a
linear-Gaussian likelihood, else Langevin's (langevin.py): no backward passes.

    level      r = sigma, as published
    matched    r^2 = sigma^2 s0^2 / (sigma^2 + s0^2),    s0 the prior's spread

What it is off by: N(c, r^2) stands for x given z. If it were that law, each level would hand the posterior on
to the next one. It is for an isotropic Gaussian prior with one step and "matched": that comes to its
posterior at any number of levels. The end of the flow has the spread of the prior itself, and r adds as much
again. Posterior variance at 200 levels from 20 to 0.01, over the true one, and probability in wrong modes:

                                    isotropic   correlated   two modes     two signs (Langevin)
    5 steps, level (published)        1.39         1.40      1.12, 0.06        1.06, 0.03
    1 step, level                     1.02         1.03      1.02, 0.05        0.97, 0.01
    1 step, matched                   1.00         1.01      1.01, 0.05        0.96, 0.02

(One problem each: on smooth images under a mask "matched" leaves 1.1.) Means of the Gaussian ones are at most
0.04 posterior sd off; on images of 8 x 8 0.15 as published, 0.03 with one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from operators.checks import check_count
from operators.errors import value_error
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.alternating.langevin import Langevin, check_inner, draw_calls, draw_near
from workbench.solvers.base import Cost, Info
from workbench.solvers.descent import END, Descent, DescentState, denoiser, ladder, spread_left
from workbench.solvers.pull import check_choice

__all__ = ["DAPS"]

Radius = Literal["level", "matched"]


@dataclass(frozen=True)
class DAPS(Descent):
    """Approximate samples for any differentiable operator and any noise, without backward passes.

    `ode_steps` evaluations and one draw of x at each of `steps` levels: 1000 and 200 by default. `inner` None
    draws exactly where that can be, to `tolerance` of its own standard deviations (1e-4 in single, 1e-8 in
    double precision), else by Langevin(), two to three A and A^H for each of its 100 steps.
    """

    steps: int = 200
    ode_steps: int = 5
    radius: Radius = "level"
    inner: Langevin | None = None
    tolerance: float | None = None

    capabilities: ClassVar[Capabilities] = Capabilities(calibrated_score=True, priors=(Denoiser,))
    state_type: ClassVar[type[DescentState]] = DescentState
    remedy: ClassVar[str] = (
        "Lower the fraction of the inner chain, inner=Langevin(fraction=...), take float64 data, or check "
        "the prior's units."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ode_steps", check_count(self.ode_steps, "ode_steps"))
        check_choice(self.radius, "radius", ("level", "matched"))
        check_inner(self.inner, self.tolerance)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return s and s' of every evaluation, and after the last of a level r and the next level.

        In the other rows both are 0. The lowest level that the prior knows has one evaluation alone.
        """
        outer = list(super().plan(posterior))
        least = max(denoiser(posterior).noise_range[0], END * outer[-1].number("sigma"))
        columns: dict[str, list[float]] = {"sigma": [], "next_sigma": [], "radius": [], "noise": []}
        for row in outer:
            sigma = row.number("sigma")
            inside = ladder(sigma, least, self.ode_steps)
            before = [0.0] * (len(inside) - 2)
            columns["sigma"] += inside[:-1]
            columns["next_sigma"] += inside[1:]
            columns["radius"] += [*before, self._radius(posterior, sigma)]
            columns["noise"] += [*before, row.number("next_sigma")]
        return SolverPlan({name: tuple(values) for name, values in columns.items()})

    def loudest(self, row: PlanRow) -> float:
        """Return the level, or after a draw the next one, far above that where the equation was left."""
        return max(row.number("sigma"), row.number("noise"))

    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        """Return z at s', or at the next level."""
        sigma, r, noise = row.number("sigma"), row.number("radius"), row.number("noise")
        estimate = denoiser(posterior).denoise(z, sigma)
        z = estimate + row.number("next_sigma") / sigma * (z - estimate)
        if r == 0:
            return z, Info(estimate)
        x = draw_near(posterior, z, r, keys, "daps: draw", inner=self.inner, tolerance=self.tolerance)
        if noise == 0:
            return x, Info(x)
        return x + noise * keys.normals(x.shape[1:], "daps: noise", like=x), Info(x)

    def whereabouts(self, row: PlanRow) -> str:
        """Return the noise level, and r of a row that draws x."""
        r = row.number("radius")
        return super().whereabouts(row) + (f", r = {r:.3g}" if r > 0 else "")

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation per row, and what the draws of x take."""
        draws = sum(row.number("radius") > 0 for row in plan)
        return Cost(len(plan), 0, draws * draw_calls(posterior, self.inner))

    def _radius(self, posterior: Posterior, sigma: float) -> float:
        if self.radius == "level":
            return sigma
        spread = posterior.prior.data_sd
        if spread is None or not spread > 0:
            wanted = f"be 'level' for a {type(posterior.prior).__name__} without a data_sd"
            raise value_error("radius", wanted, "'matched'")
        return spread_left(sigma, spread)
