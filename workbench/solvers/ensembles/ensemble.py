"""What the particle solvers share: J states that descend together, and weights that say how much each counts.

    z_k+1 ~ q_k(. | z_k),    w_k+1 = w_k p_k(z_k+1 | z_k) psi_k+1(z_k+1) / (q_k(z_k+1 | z_k) psi_k(z_k))

p_k is a step of the prior alone, q_k the one that is taken, and psi_k a guess at what the data say of z_k,
the twist. Any q and psi lead to the posterior as J grows, provided that the first weights contain psi_0 and
the last twist is p(y | x) itself; good ones need fewer particles (Del Moral 2004). The mean of all weights is
the evidence p(y), up to what the steps of the prior are off by.

Where the weights have become too uneven, effective number below `threshold` J, particles are drawn anew by
weight (systematic resampling), after the last step never. Copies go apart again by the noise of the steps.

What it is off by: the steps of the prior are as many as `steps`; and particles are finitely many. With too
few for how much the data say, one carries all the weight: the spread is then that of its descendants, and no
posterior's. Drawing anew hides that from the weights, not from the descent: what counts at the end is how
many of the first particles have descendants, by weight (Lee and Whiteley 2018). The run warns of an effective
number below the root of J, and of fewer than FEW of the first, or than that root; docs/solvers.md shows how
both fall with what the data say.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import value_error
from operators.linalg import TraceEstimate
from workbench.integration.levels import Karras, Levels
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.base import Info, Solver
from workbench.solvers.descent import FIRST, check_levels, default_levels, denoiser, descending
from workbench.solvers.ensembles.particles import Particles, effective_number, resampled
from workbench.solvers.ensembles.tempering import spectrum

__all__ = ["DegeneracyWarning", "Ensemble", "Moved"]

#: Of so few draws the spread is off by its tenth or more.
FEW = 16
#: The last level leaves log p(y | z) uncertain by this much: sigma^2 tr B^H B is its square.
SETTLED = 0.3
#: Particles up to which a record lists the ancestors.
LISTED = 4096


class DegeneracyWarning(UserWarning):
    """The weight of an ensemble is on a few particles: their spread is not the posterior's."""


@dataclass(frozen=True)
class Moved:
    """Some of the particles after a step: where they are, the log-weight they gained, what they carry on.

    An `estimate` that is carried on, by that name, is told from there.
    """

    z: Tensor
    gained: Tensor
    carried: Mapping[str, Tensor]
    estimate: Tensor | None = None


@dataclass(frozen=True)
class Ensemble(Solver[Particles]):
    """`count` particles in `steps` evaluations each at `levels`, in the parts that the driver asks for.

    `levels` None begins far above the prior's spread and ends where neither prior nor data resolve more.
    `threshold` 0 never draws anew, 1 at every step.
    """

    count: int = 256
    steps: int = 200
    levels: Levels | None = None
    threshold: float = 0.5
    #: How many are computed at a time, None for all: of no influence on what comes of it.
    at_once: int | None = field(default=None, init=False, repr=False, compare=False)

    kind: ClassVar[Kind] = Kind.WEIGHTED_ENSEMBLE  # type: ignore[misc]
    state_type: ClassVar[type[Particles]] = Particles
    #: What to do where particles are too few.
    counsel: ClassVar[str] = (
        "Take more particles, more steps, a solver with better twists (TDS), or one with independent draws."
    )
    remedy: ClassVar[str] = "Take more particles or steps, or check the noise level and the prior's units."

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", check_count(self.count, "count", minimum=2))
        object.__setattr__(self, "steps", check_count(self.steps, "steps"))
        check_levels(self.levels)
        if check_number(self.threshold, "threshold", non_negative=True) > 1:
            raise value_error("threshold", "be between 0 and 1", self.threshold, "It is a share of `count`.")

    @abstractmethod
    def begun(self, posterior: Posterior, row: PlanRow, keys: Keys, like: Tensor) -> Moved:
        """Return the first particles of `keys.draws` and their log-weights, psi_0 included."""

    @abstractmethod
    def moved(
        self, posterior: Posterior, z: Tensor, carried: Mapping[str, Tensor], row: PlanRow, keys: Keys
    ) -> Moved:
        """Return the particles z of `keys.draws` at the row's next level, and the log-weight they gain."""

    def log_constant(self, posterior: Posterior) -> TraceEstimate:
        """Return what the log evidence has beside the weights, the same for all particles."""
        del posterior
        return TraceEstimate(0.0)

    @property
    def particles(self) -> int:
        """The number of particles."""
        return self.count

    @property
    def off_by_steps(self) -> bool:
        """Whether the weights, and so the evidence, are off by more than chance."""
        return False

    @property
    def renewal(self) -> float:
        """The share of `count` below which particles are drawn anew."""
        return self.threshold

    def in_parts(self, size: int) -> Self:
        """Return the same solver, which computes at most `size` particles at once."""
        other = copy(self)
        object.__setattr__(other, "at_once", check_count(size, "size"))
        return other

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma and next_sigma of every step."""
        levels = settled_levels(posterior) if self.levels is None else self.levels
        return descending(posterior, levels, self.steps)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> Particles:
        """Return the first particles."""
        row = self.plan(posterior).row(0)
        parts = self._parts()
        first = _together(
            self.count, ((part, self.begun(posterior, row, keys.part(part), like)) for part in parts)
        )
        return Particles.begun(first.z, dict(first.carried), first.gained)

    def step(
        self, posterior: Posterior, state: Particles, row: PlanRow, keys: Keys
    ) -> tuple[Particles, Info]:
        """Move all particles, weigh them, and draw them anew where the weights have become too uneven."""

        def move(part: slice) -> Moved:
            carried = {name: value[part] for name, value in state.carried.items()}
            return self.moved(posterior, state.z[part], carried, row, keys.part(part))

        joined = _together(self.count, ((part, move(part)) for part in self._parts()))
        weights = state.log_weights + joined.gained
        effective = effective_number(weights)
        self._warn(state, effective, row)
        moved = Particles(
            joined.z,
            dict(joined.carried),
            weights,
            state.ancestors,
            state.gathered,
            min(state.least, effective),
            state.resamplings,
        )
        told = torch.full((self.count,), effective, dtype=torch.float64, device=moved.z.device)
        info = Info(joined.carried.get("estimate", joined.estimate), {"effective number": told})
        if effective < self.renewal * self.count and row.number("next_sigma") > 0:
            moved = resampled(moved, keys)
        return moved, info

    def whereabouts(self, row: PlanRow) -> str:
        """Return the noise level."""
        return f"sigma = {row.number('sigma'):.3g}"

    def answer(self, posterior: Posterior, state: Particles) -> Tensor:
        """Return all particles at sigma = 0."""
        del posterior
        return state.z

    def log_weights(self, state: Particles) -> Tensor:
        """Return their log-weights."""
        return state.log_weights

    def facts(self, posterior: Posterior, state: Particles) -> dict[str, Any]:
        """Return evidence, effective numbers and descent of the particles, for the record."""
        constant = self.log_constant(posterior)
        known = posterior.measured.noise.is_normalised
        families = state.effective_families
        # Of the weights, as those of families, and of determinants that had to be estimated.
        chance = math.sqrt(max(1 / families - 1 / self.count, 0.0) + constant.standard_error**2)
        return {
            "log_evidence": state.log_evidence + constant.value if known else None,
            "log_evidence_standard_error": chance if known and not self.off_by_steps else None,
            "effective_number": effective_number(state.log_weights),
            "least_effective_number": state.least,
            "resamplings": state.resamplings,
            "unique_ancestors": state.families,
            "effective_families": families,
            "ancestors": state.ancestors.tolist() if self.count <= LISTED else None,
            "at_once": self.at_once or self.count,
        }

    def caution(self, record: Mapping[str, Any]) -> None:
        """Warn of particles that descend from too few of the first."""
        told, drawn = record["ensemble"], record["draws"]
        families, least = told["effective_families"], told["least_effective_number"]
        if families >= min(FEW, self._limit) and least >= self._limit:
            return
        chosen = "" if drawn == self.count else f" The {drawn} draws are taken from them."
        warnings.warn(
            f"{type(self).__name__}: the {self.count} particles count as {told['effective_number']:.1f}, at "
            f"some step as {least:.1f}, and descend from {families:.1f} of the first, by weight: evidence "
            f"and what the first steps decide are known from no more.{chosen} {self._consequence}",
            DegeneracyWarning,
            stacklevel=3,
        )

    @property
    def _limit(self) -> float:
        """Effective numbers below it say that a step has thrown away most of what the particles knew."""
        return math.sqrt(self.count)

    @property
    def _consequence(self) -> str:
        return f"The spread of the answer may be less than the posterior's. {self.counsel}"

    def _parts(self) -> Iterator[slice]:
        size = self.count if self.at_once is None else self.at_once
        return (slice(start, min(start + size, self.count)) for start in range(0, self.count, size))

    def _warn(self, state: Particles, effective: float, row: PlanRow) -> None:
        # Once: at the first step of so few, or at the first step if the start had no more.
        if effective >= self._limit or (state.least < self._limit and row.index > 0):
            return
        warnings.warn(
            f"{type(self).__name__}: {self.count} particles count as {effective:.1f} at step {row.index + 1} "
            f"of {self.steps}, {self.whereabouts(row)}: too few for what the data say in "
            f"{state.z[0].numel()} unknowns. {self._consequence}",
            DegeneracyWarning,
            stacklevel=2,
        )


def settled_levels(posterior: Posterior) -> Levels:
    """Return the levels of a descent, down to where noise on z no longer changes log p(y | z) by much."""
    levels = default_levels(posterior)
    if not isinstance(levels, Karras) or not posterior.measured.is_linear_gaussian:
        return levels
    trace = spectrum(posterior).trace_of(lambda g: g).value
    low = max(denoiser(posterior).noise_range[0], 1e-6 * levels.sigma_max / FIRST)
    least = max(SETTLED / trace**0.5, low) if trace > 0 else levels.sigma_min
    return replace(levels, sigma_min=min(levels.sigma_min, least))


def _together(count: int, parts: Iterable[tuple[slice, Moved]]) -> Moved:
    """Return all particles, each part written to its place as it comes."""
    whole: dict[str, Tensor] = {}
    for part, moved in parts:
        if len(moved.z) == count:
            return moved
        values = {f"carried {name}": value for name, value in moved.carried.items()}
        values |= {"z": moved.z, "gained": moved.gained}
        values |= {} if moved.estimate is None else {"estimate": moved.estimate}
        for name, value in values.items():
            whole.setdefault(name, value.new_empty((count, *value.shape[1:])))[part] = value
    carried = {name.removeprefix("carried "): v for name, v in whole.items() if name.startswith("carried ")}
    return Moved(whole["z"], whole["gained"], carried, whole.get("estimate"))
