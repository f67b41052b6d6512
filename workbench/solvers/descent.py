"""What guidance solvers share: a state z = x + sigma noise that descends through noise levels to the image.

    z_0 = sigma_0 w,    a row (sigma, next_sigma) per evaluation D = denoise(z, sigma),    the last ends at 0

Two moves from a clean estimate x to the next level s' = next_sigma are common,

    ancestral   z' = x + k (z - x) + s' sqrt(1 - k) w,               k = (s' / sigma)^2
    DDIM        z' = x + s' (sqrt(1 - eta^2) (z - x) / sigma + eta w)

The first is the exact Gaussian posterior of z' given z and x. The start neglects x / sigma_0. Levels that
nobody chose begin at 100 standard deviations of the prior and end at 1 % of one, or where even the best
measured direction shows no more, 0.3 / |B| for -log p(y | u) = |B u - z|^2 / 2.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from operators.checks import check_count
from operators.errors import type_error, value_error
from workbench.integration.levels import Karras, Levels, sigma_of
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Info, Solver

__all__ = [
    "Descent",
    "DescentState",
    "ancestral",
    "check_levels",
    "data_sd",
    "ddim",
    "default_levels",
    "denoiser",
    "descending",
    "ladder",
    "measured_norm",
    "middle",
    "require_bounded",
    "spread_left",
]

#: Levels begin at so many standard deviations of the prior and end at such a share of one.
FIRST, LAST = 100.0, 0.01
#: The last level is at most this share of the least standard deviation that the measurement leaves.
RESOLVED = 0.3
#: Where a descent within a level is left for sigma = 0, as a share of the last level.
END = 0.1
#: A state so many times larger than noise and prior together has left both.
ESCAPED = 1e4


@dataclass(frozen=True)
class DescentState:
    """Where the draws are: z at the next row's level."""

    z: Tensor


@dataclass(frozen=True)
class Descent(Solver[DescentState]):
    """`steps` evaluations at `levels`; None makes levels from the spread of the prior and the measurement."""

    steps: int = 100
    levels: Levels | None = None

    kind: ClassVar[Kind] = Kind.APPROXIMATE_SAMPLE  # type: ignore[misc]
    state_type: ClassVar[type[DescentState]] = DescentState
    remedy: ClassVar[str] = "Take more steps, weaker guidance or float64 data, or check the prior's units."

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", check_count(self.steps, "steps"))
        check_levels(self.levels)

    @abstractmethod
    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        """Return z at the row's next level, and what there is to tell. `z` is not changed."""

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma and next_sigma of every step; the levels have to be those that the prior knows."""
        return descending(posterior, self.levels, self.steps)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> DescentState:
        """Return noise of the first level."""
        white = keys.normals(posterior.space.shape, "descent: start", like=like)
        return DescentState(self.plan(posterior).row(0).number("sigma") * white)

    def step(
        self, posterior: Posterior, state: DescentState, row: PlanRow, keys: Keys
    ) -> tuple[DescentState, Info]:
        """Go one level down; a state that has left prior and noise behind is no number to go on with."""
        z, info = self.moved(posterior, state.z, row, keys)
        # A prior that does not know its spread begins at a level far above it.
        spread = posterior.kept(
            "spread", lambda: posterior.prior.data_sd or self.plan(posterior).row(0).number("sigma")
        )
        require_bounded(z, self.loudest(row), spread)
        return DescentState(z), info

    def loudest(self, row: PlanRow) -> float:
        """Return the noise on z before or after a step, whichever is more."""
        return row.number("sigma")

    def whereabouts(self, row: PlanRow) -> str:
        """Return the noise level."""
        return f"sigma = {row.number('sigma'):.3g}"

    def answer(self, posterior: Posterior, state: DescentState) -> Tensor:
        """Return z at sigma = 0."""
        del posterior
        return state.z


def check_levels(levels: object) -> None:
    """Raise unless `levels` are Levels, or None."""
    if levels is not None and not isinstance(levels, Levels):
        raise type_error("levels", "be Levels or None", repr(levels), "Such as Karras(100.0, 0.01).")


def descending(posterior: Posterior, levels: Levels | None, steps: int) -> SolverPlan:
    """Return rows (sigma, next_sigma) down to 0, `levels` None for the default ones; the prior knows them."""
    levels = default_levels(posterior) if levels is None else levels
    sigmas = tuple(sigma_of(time) for time in levels.times(steps))
    if math.isinf(sigmas[0]):
        remedy = "Use levels with from_noise=False, from a sigma_max far above the prior's spread."
        raise value_error("levels", "begin at a finite level", "noise alone, time = 1", remedy)
    if sigmas[-1] != 0:
        remedy = "Use levels with to_zero=True."
        raise value_error("levels", "end at the image, sigma = 0", f"sigma = {sigmas[-1]:g}", remedy)
    low, high = denoiser(posterior).noise_range
    for sigma in (sigmas[0], sigmas[-2]):
        if not low * (1 - 1e-6) <= sigma <= high * (1 + 1e-6):
            wanted = f"stay inside the levels that the prior knows, {low:g} to {high:g}"
            remedy = f"Such as levels=Karras(sigma_max={min(sigmas[0], high):g}, sigma_min={low:g})."
            raise value_error("levels", wanted, f"sigma = {sigma:g}", remedy)
    return SolverPlan({"sigma": sigmas[:-1], "next_sigma": sigmas[1:]})


def default_levels(posterior: Posterior) -> Levels:
    """Return levels from far above the prior's spread to where prior or measurement resolve no more."""
    low, high = denoiser(posterior).noise_range
    spread = data_sd(posterior, "levels")
    least = LAST * spread
    if posterior.likelihood is not None and posterior.likelihood.is_linear_gaussian:
        norm = measured_norm(posterior)
        least = min(least, RESOLVED / norm) if norm > 0 else least
    first, least = min(FIRST * spread, high), max(least, low, 1e-6 * spread)
    if first <= least:
        wanted = f"be chosen for a prior that knows {low:g} to {high:g} and has data_sd = {spread:g}"
        raise value_error("levels", wanted, "None", "Check the units of its noise range and of its data_sd.")
    return Karras(first, least)


def ladder(sigma: float, least: float, steps: int) -> list[float]:
    """Return the levels of `steps` evaluations from `sigma` to `least`, closer where low, and 0 after them.

    One evaluation, at sigma, where that is `least` or lower.
    """
    if sigma <= least * (1 + 1e-6):
        return [sigma, 0.0]
    return [sigma_of(time) for time in Karras(sigma, least).times(steps)]


def spread_left(sigma: float, spread: float) -> float:
    """Return r, the standard deviation of x given z for an isotropic Gaussian prior."""
    return sigma * spread / math.hypot(sigma, spread)


def require_bounded(z: Tensor, sigma: float, spread: float) -> None:
    """Raise FloatingPointError if a z is far larger than noise of `sigma` and the `spread` together."""
    norms = torch.linalg.vector_norm(z.flatten(1), dim=1)
    size = float(norms.max()) / math.sqrt(z[0].numel())
    if size > ESCAPED * (sigma + spread):
        raise FloatingPointError(f"diverged: z grew to {size:.1e}, the prior's spread is {spread:.1e}")


def denoiser(posterior: Posterior) -> Denoiser:
    """Return the prior, which the capabilities have made sure is one."""
    return cast(Denoiser, posterior.prior)


def middle(posterior: Posterior, spread: float) -> Tensor:
    """Return the mean of a prior of so large a `spread`, a row."""
    prior, like = denoiser(posterior), posterior.like()
    zero = torch.zeros((1, *posterior.space.shape), dtype=like.dtype, device=like.device)
    return prior.denoise(zero, min(FIRST * spread, prior.noise_range[1]))


def data_sd(posterior: Posterior, argument: str) -> float:
    """Return the prior's standard deviation per entry; where it knows none, `argument` has to do without."""
    spread = posterior.prior.data_sd
    if spread is None or not spread > 0:
        remedies = {
            "levels": "Such as levels=Karras(100.0, 0.01), in units of the prior.",
            "jacobian": "Use jacobian='exact'.",
            "spread": "Such as spread=1.0, in units of the prior.",
            "form": "Use form='bayes', which needs no spread.",
        }
        got = {"form": "'norm'", "jacobian": "'detached'"}
        wanted = f"be {'another' if argument in got else 'chosen'} for a {type(posterior.prior).__name__}"
        raise value_error(
            argument, f"{wanted} without a data_sd", got.get(argument, "None"), remedies.get(argument, "")
        )
    return spread


def measured_norm(posterior: Posterior) -> float:
    """Return the largest singular value of the whitened operator B."""
    operator = posterior.measured.whitened[0]
    return posterior.kept("norm of B", operator.norm)


def ancestral(z: Tensor, x: Tensor, row: PlanRow, keys: Keys, purpose: str) -> Tensor:
    """Return the exact Gaussian draw of the next state given this one and the image `x`."""
    after = row.number("next_sigma")
    keep = (after / row.number("sigma")) ** 2
    mean = x + keep * (z - x)
    if after == 0:
        return mean
    white = keys.normals(x.shape[1:], purpose, like=x)
    return mean + after * math.sqrt(1 - keep) * white


def ddim(x: Tensor, noise: Tensor, row: PlanRow, eta: float, keys: Keys, purpose: str) -> Tensor:
    """Return x + s' (sqrt(1 - eta^2) noise + eta w): `eta` is the share of fresh noise in the target's."""
    after = row.number("next_sigma")
    if after == 0:
        return x
    moved = x + after * math.sqrt(1 - eta**2) * noise
    if eta == 0:
        return moved
    return moved + after * eta * keys.normals(x.shape[1:], purpose, like=x)
