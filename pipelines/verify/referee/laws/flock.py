"""Particles that descend together, from the equations of what they share: weights, and drawing anew.

    w' = w p(z' | z) psi'(z') / (q(z' | z) psi(z)),    drawn anew below a share of J, not after the last step

Densities are normalised here, where the solvers leave out what all particles share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.verify.referee.laws.climbs import fit
from pipelines.verify.referee.laws.levels import karras
from pipelines.verify.referee.laws.model import Model, double_like
from pipelines.verify.referee.truth import reals
from workbench.integration import Karras
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.ensembles.ensemble import Ensemble

__all__ = ["Flock", "Move", "Noise", "Step", "ancestor", "flock", "last", "tempering"]

#: White rows for a purpose, in the space of the image or of the data.
Noise = Callable[[str, bool], Tensor]
#: sigma, sigma' of a step, and the powers of the likelihood at both.
Step = tuple[float, float, float, float]
Begin = Callable[[Model, Step, Noise], tuple[Tensor, Tensor]]
#: The powers at falling levels, the last of which is 0.
Powers = Callable[[Model, Sequence[float]], Sequence[float]]
Move = Callable[[Model, Tensor, Step, Noise], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Flock:
    """J particles: their start and their steps, with the log-weight each gives, and when they are renewed."""

    count: int
    threshold: float
    steps: Callable[[Model], Sequence[Step]]
    begin: Begin
    move: Move

    def followed(
        self, model: Model, posterior: Posterior, seed: int, nudge: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return rows and shares at the end with the solver's own random numbers.

        `nudge` changes the start by that share of itself.
        """
        keys, codomain = Keys(seed, tuple(range(self.count))), posterior.measured.operator.codomain
        image = (posterior.space.shape, double_like(posterior))
        double = torch.complex128 if codomain.is_complex else torch.float64
        data = (codomain.shape, torch.empty(0, dtype=double))

        def noise_at(step: int) -> Noise:
            at = keys.at(step)

            def noise(purpose: str, of_data: bool) -> Tensor:
                shape, like = data if of_data else image
                return reals(at.normals(shape, purpose, like=like))

            return noise

        def uniform(step: int) -> float:
            first = Keys(seed, (0,), step)
            like = torch.empty(0, dtype=torch.float64)
            return float(first.uniforms((1,), "ensemble: resampling", like=like))

        return self._carried(model, noise_at, uniform, nudge)

    def simulated(self, model: Model, width: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return rows and shares at the end with random numbers of its own; `width` data."""
        keys, like = Keys(seed, tuple(range(self.count))), torch.empty(0, dtype=torch.float64)

        def noise_at(step: int) -> Noise:
            at = keys.at(step)
            return lambda purpose, of_data: at.normals(
                (width if of_data else model.size,), f"referee: {purpose}", like=like
            )

        def uniform(step: int) -> float:
            return float(Keys(seed, (self.count,), step).uniforms((1,), "referee: renewal", like=like))

        return self._carried(model, noise_at, uniform, 0.0)

    def _carried(
        self,
        model: Model,
        noise_at: Callable[[int], Noise],
        uniform: Callable[[int], float],
        nudge: float,
    ) -> tuple[Tensor, Tensor]:
        steps = self.steps(model)
        z, logs = self.begin(model, steps[0], noise_at(0))
        z = (1 + nudge) * z
        for index, step in enumerate(steps):
            z, gained = self.move(model, z, step, noise_at(index + 1))
            logs = logs + gained
            shares = torch.softmax(logs, 0)
            if index + 1 < len(steps) and 1 / float(shares.square().sum()) < self.threshold * self.count:
                reached = np.cumsum(shares.numpy())
                places = (np.arange(self.count) + uniform(index + 1)) / self.count
                z = z[torch.from_numpy(np.searchsorted(reached / reached[-1], places)).clamp(max=len(z) - 1)]
                logs = torch.zeros_like(logs)
        return z, torch.softmax(logs, 0)


def flock(
    solver: Ensemble,
    begin: Begin,
    move: Move,
    *,
    powers: Powers | None = None,
    threshold: float | None = None,
) -> Flock:
    """Return the particles of a solver, None for `powers` asks every state for the likelihood in full."""

    def steps(model: Model) -> list[Step]:
        levels = solver.levels
        if levels is None:
            levels = _default(model)
        if not isinstance(levels, Karras):
            raise TypeError(f"the law of particles knows Karras levels, got {levels!r}")
        pairs = karras(levels, solver.steps)
        sigmas = [pair[0] for pair in pairs] + [0.0]
        a = [1.0] * len(sigmas) if powers is None else powers(model, sigmas)
        return [(*pair, a[i], a[i + 1]) for i, pair in enumerate(pairs)]  # type: ignore[misc]

    renewal = solver.threshold if threshold is None else threshold
    return Flock(solver.count, renewal, steps, begin, move)


def _default(model: Model) -> Karras:
    """Return levels from 100 s0 to the least of s0 / 100, 0.3 / |B| and 0.3 / sqrt(tr B^T B)."""
    least = min(0.01 * model.spread, 0.3 / model.norm)
    if model.convex:
        least = min(least, 0.3 / math.sqrt(float(model.singular[0].square().sum())))
    return Karras(100 * model.spread, least)


def tempering(model: Model, sigmas: Sequence[float], spread: float | None = None) -> list[float]:
    """Return the power of the likelihood at falling levels; the prior's spread is the model's for None."""
    s0 = model.spread if spread is None else spread
    if model.convex:
        squares = model.singular[0].square()
        g = float(squares.square().sum() / squares.sum())
        shares = [s0**2 / (s0**2 + s**2) for s in sigmas]
        return [c**2 / (1 + c * s**2 * g) for c, s in zip(shares, sigmas, strict=True)]
    like = torch.empty(0, dtype=torch.float64)
    keys = Keys(0, tuple(range(16)))
    points, white = (
        keys.normals((1, 1, model.size), f"tempering: {what}", like=like).reshape(16, -1)
        for what in ("points", "noise")
    )
    x = model.denoise(torch.zeros(1, model.size, dtype=torch.float64), 100 * s0) + s0 * points
    inside = [s for s in sigmas if s > 0]
    asked = np.geomspace(inside[-1], inside[0], 24)
    found = []
    for level in asked:
        lost = fit(model, x) - fit(model, x + level * white)
        found.append(max(0.0, 2 * float(lost.mean()) / len(model.data.flatten())) + float(lost.std()))
    excess = [float(np.exp(np.interp(math.log(s), np.log(asked), np.log(found)))) for s in inside]
    powers = np.maximum.accumulate([1 / (1 + e) for e in excess])
    return [*powers.tolist(), *[1.0] * (len(sigmas) - len(inside))]


def ancestor(model: Model, z: Tensor, step: Step) -> tuple[Tensor, Tensor, float]:
    """Return D, and mean and standard deviation of the step of the prior."""
    sigma, after = step[:2]
    d = model.denoise(z, sigma)
    k = (after / sigma) ** 2
    return d, d + k * (z - d), after * math.sqrt(1 - k)


def last(model: Model, z: Tensor, d: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Return D, and the weight of the step to it."""
    return d, fit(model, d) - a * fit(model, z)
