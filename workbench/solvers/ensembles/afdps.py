"""AFDPS: an ensemble guided by the likelihood of the noisy states themselves, and weighted for it.

    target at sigma    p_sigma(z) p(y | z)^a,    a from `tempering`, 1 at sigma = 0
    kernel weights     p(z' | z) = N(m, s^2), the ancestral step; psi = p(y | z)^a
        exact          z' ~ N(m, s^2) p(y | z')^a' / Z,            log w += log Z - a log p(y | z)
        drift          z' = m + d + s w,                           log w += a' log p(y | z') - a log p(y | z)
                       d = CG of (a' H + 1 / s^2) d = a' g(m)              - (|d|^2 + 2 s <d, w>) / (2 s^2)
    continuous         z' = z + h (2 (D - z) / sigma + 2 sigma a g) + sqrt(2 sigma h) w,    h = sigma - sigma'
                       log w += h (sigma (a^2 |g|^2 + a L) + 2 a <D - z, g> / sigma) + (a' - a) log p(y | z)
    ODE                z' = D + sigma' / sigma (z - D),            log w += a' log p(y | z') - a log p(y | z)
    last step          z' = D,                                     log w += log p(y | D) - a log p(y | z)

D = denoise(z, sigma), g and L are gradient and Laplacian of log p(y | z), H its curvature (Chen, Ren, Min,
Ying and Izzo 2025; the weights as kernel ratios after Wu et al. 2023). One evaluation per step and nothing of
p(y | x) approximated: no derivative of the prior, any operator and noise. The start is N(0, sigma_0^2)
p(y | z)^a, drawn exactly where the likelihood is linear-Gaussian.

Kernel weights hold at any number of steps; the evidence then is that of the ancestral chain. Continuous ones
are the published form, right as steps shrink, and their evidence is off by what the steps leave, which the
record has no number for: with singular values known, the stiff part of a step is done in closed form, without
them steps that are too long for the curvature of images are refused, and states that leave end the run. The
ODE is not guided at all, so that its weights telescope to p(y | x): importance sampling from the prior.
Copies would stay copies: none are made, whatever the `threshold`.

What it is off by: see ensemble.py. Guidance sees p(y | z) where the data ask for p(y | x), so that it
needs more particles than TDS, which pays for fewer with a backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from operators.batch import dots
from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from operators.linalg import TraceEstimate
from workbench.capabilities import Capabilities
from workbench.likelihood.white_solve import unscaled
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost
from workbench.solvers.descent import denoiser, require_bounded
from workbench.solvers.ensembles.climb import climb
from workbench.solvers.ensembles.ensemble import Ensemble, Moved
from workbench.solvers.ensembles.tempering import powers, reached, spectrum
from workbench.solvers.pull import check_choice, curvature_norm
from workbench.solvers.singular import residual, singular

__all__ = ["AFDPS"]

Variant = Literal["sde", "ode"]
Weights = Literal["kernel", "continuous"]
Proposal = Literal["exact", "drift"]


@dataclass(frozen=True)
class AFDPS(Ensemble):
    """A weighted ensemble for any operator and any noise, without backward passes through the prior.

    `proposal` is that of kernel weights: "exact", for linear-Gaussian likelihoods, takes two proxes a step,
    "drift" `iterations` of conjugate gradients on the curvature; None is "exact" where the prox has a closed
    form. `tempered` False asks every state for the likelihood in full; `spread`, that tempering goes by, is
    the prior's unless it knows none. `probes` estimate the Laplacian where it has no closed form.
    """

    variant: Variant = "sde"
    weights: Weights = "kernel"
    proposal: Proposal | None = None
    iterations: int = 3
    tempered: bool = True
    spread: float | None = None
    probes: int = 8

    capabilities: ClassVar[Capabilities] = Capabilities(calibrated_score=True, priors=(Denoiser,))
    remedy: ClassVar[str] = (
        "Take more particles or steps, weights='kernel', tempered=True where it is False, or check the noise "
        "level and the prior's units."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.variant, "variant", ("sde", "ode"))
        check_choice(self.weights, "weights", ("kernel", "continuous"))
        if self.proposal is not None:
            check_choice(self.proposal, "proposal", ("exact", "drift"))
        check_count(self.iterations, "iterations")
        check_count(self.probes, "probes", minimum=2)
        if self.spread is not None:
            check_number(self.spread, "spread", positive=True)
            if not self.tempered:
                raise value_error(
                    "spread", "be None where tempered=False", self.spread, "Nothing asks for it."
                )
        if self.proposal is not None and (self.variant == "ode" or self.weights == "continuous"):
            wanted = "be None but for kernel weights of the SDE"
            raise value_error("proposal", wanted, repr(self.proposal), "No other step draws from one.")
        if not isinstance(self.tempered, bool):
            raise type_error("tempered", "be True or False", repr(self.tempered))

    @property
    def off_by_steps(self) -> bool:
        """Whether the weights themselves hold for short steps alone."""
        return self.weights == "continuous"

    @property
    def renewal(self) -> float:
        """Copies of a state that no noise drives apart stay copies: the ODE makes none."""
        return 0.0 if self.variant == "ode" else self.threshold

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma and next_sigma of every step, and the powers of the likelihood at both."""
        plan = super().plan(posterior)
        sigmas = [row.number("sigma") for row in plan] + [0.0]
        a = powers(posterior, sigmas, self.spread) if self.tempered else (1.0,) * len(sigmas)
        if self.proposal == "exact" and not posterior.measured.is_linear_gaussian:
            remedy = "Use proposal='drift'."
            wanted = "be for a linear-Gaussian likelihood where it is 'exact'"
            raise type_error("proposal", wanted, repr(posterior.measured), remedy)
        if self.weights == "continuous" and self.variant == "sde":
            self._refuse_stiff(posterior, sigmas, a)
        return SolverPlan({**plan.columns, "power": a[:-1], "next_power": a[1:]})

    def begun(self, posterior: Posterior, row: PlanRow, keys: Keys, like: Tensor) -> Moved:
        """Return draws of N(0, sigma^2), times the tempered likelihood where that is Gaussian, too."""
        likelihood, level, power = posterior.measured, row.number("sigma"), row.number("power")
        shape = posterior.space.shape
        if not likelihood.is_linear_gaussian:
            z = level * keys.normals(shape, "afdps: start", like=like)
            fit = reached(posterior, z)
            return Moved(z, power * fit, {"fit": fit})
        zero = torch.zeros((len(keys.draws), *shape), dtype=like.dtype, device=like.device)
        z = likelihood.prox_draw(zero, level, keys, "afdps: start", power=power)
        _, value = likelihood.prox_value(zero[:1], level, power=power)
        return Moved(z, value.expand(len(z)), {"fit": reached(posterior, z)})

    def moved(
        self, posterior: Posterior, z: Tensor, carried: Mapping[str, Tensor], row: PlanRow, keys: Keys
    ) -> Moved:
        """Return the states at the next level and what they gain."""
        estimate = denoiser(posterior).denoise(z, row.number("sigma"))
        power, after = row.number("power"), row.number("next_power")
        if row.number("next_sigma") == 0:
            fit = posterior.measured.log_likelihood(estimate)
            return Moved(estimate, fit - power * carried["fit"], {"fit": fit}, estimate)
        if self.weights == "continuous":
            moved, gained = self._by_flow(posterior, z, estimate, row, keys)
            # The gradient of counts and intensities grows without bound where z is far from any image.
            spread = self.spread or posterior.prior.data_sd or self.plan(posterior).row(0).number("sigma")
            require_bounded(moved, row.number("sigma"), spread)
            gained = gained + (after - power) * carried["fit"]
            return Moved(moved, gained, {"fit": reached(posterior, moved)}, estimate)
        moved, gained = self._by_kernel(posterior, z, estimate, row, keys)
        fit = reached(posterior, moved)
        gained = gained - power * carried["fit"]
        # The exact draw has its own likelihood in Z already.
        gained = gained if self._draws_exactly(posterior) else gained + after * fit
        return Moved(moved, gained, {"fit": fit}, estimate)

    def log_constant(self, posterior: Posterior) -> TraceEstimate:
        """Return the determinants of Z and of the start, which are the same for all particles."""
        if not posterior.measured.is_linear_gaussian:
            return TraceEstimate(0.0)
        plan = self.plan(posterior)
        first = plan.row(0)
        factors = [first.number("power") * first.number("sigma") ** 2]
        if self._draws_exactly(posterior):
            factors += [row.number("next_power") * _spread(row)[1] ** 2 for row in plan]
        whole = spectrum(posterior).log_determinant(factors)
        return TraceEstimate(-whole.value / 2, whole.standard_error / 2)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation and one A per step."""
        del posterior
        return Cost(len(plan), 0, len(plan))

    # -- how -------------------------------------------------------------------------------------

    def _draws_exactly(self, posterior: Posterior) -> bool:
        """Whether a step draws from N(m, s^2) p(y | z)^a itself."""
        if self.variant == "ode" or self.weights == "continuous":
            return False
        likelihood = posterior.measured
        if self.proposal is None:
            return likelihood.is_linear_gaussian and unscaled(likelihood.whitened[0])[1].has_closed_form
        return self.proposal == "exact"

    def _by_kernel(
        self, posterior: Posterior, z: Tensor, estimate: Tensor, row: PlanRow, keys: Keys
    ) -> tuple[Tensor, Tensor]:
        """Return z' and the log of Z, or of prior over proposal where the draw is not exact."""
        likelihood, power = posterior.measured, row.number("next_power")
        none = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        if self.variant == "ode":
            return estimate + row.number("next_sigma") / row.number("sigma") * (z - estimate), none
        keep, sd = _spread(row)
        mean = estimate + keep * (z - estimate)
        if self._draws_exactly(posterior):
            after = likelihood.prox_draw(mean, sd, keys, "afdps: step", power=power)
            return after, likelihood.prox_value(mean, sd, power=power)[1]
        white = keys.normals(z.shape[1:], "afdps: step", like=z)
        d, _ = climb(likelihood, mean, sd, power=power, iterations=self.iterations)
        wide, noise = d.to(_double(d)), white.to(_double(d))
        return mean + d + sd * white, -(dots(wide, wide) + 2 * sd * dots(wide, noise)) / (2 * sd**2)

    def _by_flow(
        self, posterior: Posterior, z: Tensor, estimate: Tensor, row: PlanRow, keys: Keys
    ) -> tuple[Tensor, Tensor]:
        """Return z' and the log-weight of the continuous form over one step, but for that of a' - a."""
        likelihood = posterior.measured
        sigma, power = row.number("sigma"), row.number("power")
        step = sigma - row.number("next_sigma")
        apart = estimate - z
        if self.variant == "ode":
            along = dots(apart, likelihood.gradient(z)).double()
            return z + step / sigma * apart, step * power / sigma * along
        laplacian = likelihood.laplacian(z, probes=self.probes).value.double()
        gained = step * sigma * power * laplacian
        if self._knows_singular(posterior):
            parts = singular(posterior, 0.0, 0.0)
            phase = 2 * sigma * power * step * parts.s**2
            q = parts.misfit(residual(posterior, z))
            share = -torch.expm1(-phase) * torch.where(parts.s > 0, 1 / parts.s.clamp(min=1e-300), 0.0)
            pull = parts.image((share, q))
            size = (q.abs().double() ** 2 * -torch.expm1(-2 * phase)).flatten(1).sum(1)
            gained = gained + power / 4 * size + dots(apart, pull).double() / sigma**2
        else:
            gradient = likelihood.gradient(z)
            pull = 2 * step * sigma * power * gradient
            gained = gained + step * sigma * power**2 * dots(gradient, gradient).double()
            gained = gained + 2 * step * power / sigma * dots(apart, gradient).double()
        white = keys.normals(z.shape[1:], "afdps: step", like=z)
        return z + pull + 2 * step / sigma * apart + (2 * sigma * step) ** 0.5 * white, gained

    def _knows_singular(self, posterior: Posterior) -> bool:
        likelihood = posterior.measured
        return likelihood.is_linear_gaussian and likelihood.whitened[0].has_svd

    def _refuse_stiff(self, posterior: Posterior, sigmas: list[float], a: tuple[float, ...]) -> None:
        """Raise where a step of the gradient alone would overshoot the data, or what is like the prior's."""
        linear = posterior.measured.is_linear_gaussian
        if self._knows_singular(posterior) or not (linear or posterior.prior.data_sd):
            return
        square = curvature_norm(posterior) ** 2
        for sigma, after, power in zip(sigmas[:-1], sigmas[1:], a, strict=False):
            if after > 0 and (length := 2 * sigma * (sigma - after) * power * square) >= 2:
                raise value_error(
                    "steps",
                    "make 2 sigma h a |H| < 2 at each level for continuous weights",
                    f"{length:.3g} at sigma = {sigma:.3g}, {self.steps} steps",
                    "Take more steps, weights='kernel', which have no such limit, or tempered=True.",
                )


def _spread(row: PlanRow) -> tuple[float, float]:
    """Return how much of z the ancestral step keeps, and its standard deviation."""
    after = row.number("next_sigma")
    keep = (after / row.number("sigma")) ** 2
    return keep, after * (1 - keep) ** 0.5


def _double(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64
