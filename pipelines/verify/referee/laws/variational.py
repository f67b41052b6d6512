"""The chain of RED-Diff (Mardani et al. 2023), from its loss and from its optimisers' papers alone.

    v = m / s0,   dL/dv = (pull / sigma) (m - D(m + sigma w)) - s0 weight force(m),   v <- v - length d
    normalised   pull = lambda f(t) / mean over levels of f(t) t / (1 + t^2),   t = sigma / s0,   weight = 1
    paper        pull = lambda s0 f(sigma) / n,   weight = sd^2 / (number of data)
    descent      d = g,   length = rate (1 - i / N)^decay / (s0^2 weight |B|^2 + s0 max pull / sigma)
    Adam         a <- b1 a + (1 - b1) g,   q <- b2 q + (1 - b2) g^2,   length = rate (1 - i / N)^decay
                 d = (a / (1 - b1^(i + 1))) / (sqrt(q / (1 - b2^(i + 1))) + epsilon)

The paper's loss holds means of squares in the units of y, of whose noise sd it knows nothing. z is m, a, q
and the mean of the last m so far, side by side; the answer is that mean. The start is what the prior makes of
0 at the first level, with noise of s0 or without.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.verify.referee.laws.chain import Chain, Row
from pipelines.verify.referee.laws.levels import levels_of
from pipelines.verify.referee.laws.model import Model
from workbench.solvers.variational.first_order import Adam, GradientDescent
from workbench.solvers.variational.red_diff import REDDiff

__all__ = ["red_diff"]

#: f of each weighting.
HEARD: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "sqrt": lambda t: t**0.5,
    "square": lambda t: t**2,
    "log": lambda t: math.log(1 + t),
    "min": lambda t: t if t < 1 else 1.0,
    "two thirds": lambda t: t ** (2 / 3),
    "constant": lambda _: 1.0,
}
#: lambda, f and the decay of the rate of each scaling, where nobody chose them.
USUAL = {"paper": (0.25, "linear", 0.0), "normalised": (1.0, "constant", 1.0)}


def red_diff(solver: REDDiff) -> Chain | None:
    """Return the chain of RED-Diff with levels that descend; None of an optimiser that is not written out."""
    strength, heard, decay = USUAL[solver.scaling]
    strength = strength if solver.weight is None else solver.weight
    f = HEARD[heard if solver.weighting is None else solver.weighting]
    optimiser = Adam(0.1, decay) if solver.optimiser is None else solver.optimiser
    if type(optimiser) not in (Adam, GradientDescent):
        return None
    outer = levels_of(solver)
    count = solver.steps

    def spread_of(model: Model) -> float:
        return model.spread if solver.spread is None else solver.spread

    def weight_of(model: Model) -> float:
        return 1.0 if solver.scaling == "normalised" else model.noise**2 / len(model.data)

    def rows(model: Model) -> list[Row]:
        spread, sigmas = spread_of(model), [row[0] for row in outer(model)]
        if solver.scaling == "normalised":
            times = [sigma / spread for sigma in sigmas]
            mean = sum(f(t) * t / (1 + t**2) for t in times) / count
            pulls = [strength * f(t) / mean for t in times]
        else:
            pulls = [strength * spread * f(sigma) / model.size for sigma in sigmas]
        unit = 1.0
        if isinstance(optimiser, GradientDescent):
            most = max(pull / sigma for pull, sigma in zip(pulls, sigmas, strict=True))
            unit = 1 / (spread**2 * weight_of(model) * model.norm**2 + spread * most)
        found: list[Row] = []
        kept = max(1, round(optimiser.averaged * count))
        for i, (sigma, pull) in enumerate(zip(sigmas, pulls, strict=True)):
            length = unit * optimiser.rate * (1 - i / count) ** optimiser.decay
            # Of the last `kept` the first begins the mean, the second is half of it, and so on.
            share = 1 / max(1, i + 1 - (count - kept))
            found.append((sigma, pull, length, share, float(i + 1)))
        return found

    def start(model: Model, sigma: float, white: Tensor) -> Tensor:
        m = model.denoise(torch.zeros_like(white), sigma)
        m = m + spread_of(model) * white if solver.start == "noise" else m
        return torch.cat([m, torch.zeros_like(m), torch.zeros_like(m), m], 1)

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, pull, length, share, number = row
        spread = spread_of(model)
        m, first, second, mean = z.chunk(4, 1)
        regular = pull / sigma * (m - model.denoise(m + sigma * white, sigma))
        g = regular - spread * weight_of(model) * model.force(m)
        direction = g
        if isinstance(optimiser, Adam):
            b1, b2 = optimiser.betas
            first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g**2
            size = (second / (1 - b2**number)).sqrt() + optimiser.epsilon
            direction = first / (1 - b1**number) / size
        m = m - spread * length * direction
        return torch.cat([m, first, second, mean + share * (m - mean)], 1)

    return Chain(
        rows,
        step,
        ("red_diff: start", "red_diff: noise"),
        affine=False,
        start=start,
        answer=lambda model, z: z[:, -model.size :],
    )
