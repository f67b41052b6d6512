"""How much of the likelihood a noisy state is asked to meet: p(y | z)^a at z = x + sigma w, a from 0 to 1.

What a state tells of y, where it is x + sigma w and x has the sd s0 of the prior, r^2 = c sigma^2,
c = s0^2 / (s0^2 + sigma^2): that of c z is known, and x lies around it with sd r.

    linear-Gaussian    a = c^2 / (1 + r^2 g^2),    g^2 = tr (B^H B)^2 / tr B^H B
    any other          1 / a = 1 + 2 E[d] / m + sd[d],    d = log p(y | x) - log p(y | x + sigma w)

The first is the curvature of log p(y | z) for a white Gaussian prior, g the singular value of B where most of
its information is; c = 1 for a prior that knows no s0. In the second m is the number of data, and the spread
of what is asked comes on top, so that a state can have no more than a nat of luck; x and w are a few points
like the prior's. In any case a rises as sigma falls, and is 1 at sigma = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from operators.spectral_sums import SpectralSums
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.descent import data_sd, middle

__all__ = ["powers", "reached", "spectrum"]

#: Points like the prior's, and levels at which they are asked.
POINTS, ASKED = 16, 24
#: Probes of the spectrum and iterations for each where it is not known, and those of a volume, where each
#: takes seconds: tempering needs two moments, and evidence tells its error.
PROBES, ITERATIONS, FEWER, LARGE = 8, 40, (2, 12), 2**18
#: The least log p(y | z) of a noisy state: small enough for any weight, and such that log-weights, in double
#: precision, still know the rest of theirs beside it.
LEAST = -1e12


def spectrum(posterior: Posterior) -> SpectralSums:
    """Return the sums over the spectrum of B^H B, made once for each posterior."""
    operator = posterior.measured.whitened[0]
    probes, iterations = (PROBES, ITERATIONS) if posterior.space.size <= LARGE else FEWER
    return posterior.kept(
        "spectrum of B^H B",
        lambda: SpectralSums.of(operator, posterior.like(), probes=probes, iterations=iterations),
    )


def reached(posterior: Posterior, z: Tensor) -> Tensor:
    """Return log p(y | z) of noisy states, finite also where it is none.

    A noisy state that cannot have given the data may become an image that has: a small power spares it.
    """
    return posterior.measured.log_likelihood(z).clamp(min=LEAST)


def powers(posterior: Posterior, sigmas: Sequence[float], spread: float | None = None) -> tuple[float, ...]:
    """Return a at each of `sigmas`, which fall; `spread` None is the prior's own."""
    if posterior.measured.is_linear_gaussian:
        sums = spectrum(posterior)
        trace = sums.trace_of(lambda g: g).value
        square = sums.trace_of(torch.square).value / trace if trace > 0 else 0.0
        variance = (spread or posterior.prior.data_sd or math.inf) ** 2
        shares = [1 / (1 + sigma**2 / variance) for sigma in sigmas]
        if not math.isfinite(square):
            raise FloatingPointError("the curvature of the likelihood overflows: check the noise level")
        return tuple(c**2 / (1 + c * sigma**2 * square) for c, sigma in zip(shares, sigmas, strict=True))
    size = data_sd(posterior, "spread") if spread is None else spread
    name = f"tempering from {sigmas[0]} to {min(sigma for sigma in sigmas if sigma > 0)}, spread {size}"
    levels, excess = posterior.kept(name, lambda: _asked(posterior, sigmas, size))
    found: list[float] = []
    for sigma in sigmas:
        if sigma == 0:
            found.append(1.0)
            continue
        between = float(np.exp(np.interp(math.log(sigma), levels, excess)))
        # Below the lowest level that was asked, the excess goes to zero as sigma^2 does.
        below = min(1.0, sigma / math.exp(levels[0])) ** 2
        found.append(max(1 / (1 + between * below), found[-1] if found else 0.0))
    return tuple(found)


def _asked(posterior: Posterior, sigmas: Sequence[float], spread: float) -> tuple[list[float], list[float]]:
    """Return log sigma, rising, and the logarithm of 1 / a - 1 there."""
    likelihood, like, shape = posterior.measured, posterior.like(), posterior.space.shape
    keys = Keys(0, tuple(range(POINTS)))
    x = middle(posterior, spread) + spread * keys.normals(shape, "tempering: points", like=like)
    white = keys.normals(shape, "tempering: noise", like=like)
    here = likelihood.log_likelihood(x)
    count = likelihood.data.numel() * (2 if likelihood.data.is_complex() else 1)
    positive = [sigma for sigma in sigmas if sigma > 0]
    levels = np.geomspace(min(positive), max(positive), ASKED) if len(positive) > 1 else np.array(positive)
    excess: list[float] = []
    for sigma in levels:
        d: Tensor = here - likelihood.log_likelihood(x + float(sigma) * white)
        wanted = max(0.0, 2 * float(d.mean()) / count) + float(d.std())
        # What cannot have given the data at all has to wait.
        excess.append(math.log(max(wanted, 1e-300)) if math.isfinite(wanted) else math.log(1e300))
    return [math.log(sigma) for sigma in levels], excess
