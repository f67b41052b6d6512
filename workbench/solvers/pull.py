"""What the solvers that go through the prior's derivative share: one evaluation, one backward pass.

    D = denoise(z, sigma),    v = drive(D),    guided(...) = D, J^H v,    J = dD / dz = Cov[x | z] / sigma^2

"exact" goes backward through the network, which is run once. "detached" puts in place of J what it is for an
isotropic Gaussian prior of the same spread s0, s0^2 / (s0^2 + sigma^2) I: no backward pass and no memory for
activations, at the price of guidance that does not know where the prior would give way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from operators.batch import column, dots
from operators.errors import type_error, value_error
from operators.linalg import largest_eigenvalue
from operators.linear import LinearOperator
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.descent import data_sd, denoiser, measured_norm, middle

__all__ = [
    "Jacobian",
    "check_choice",
    "curvature_norm",
    "guided",
    "pulled_residual",
    "require_differentiable",
    "spread_seen",
]

Jacobian = Literal["exact", "detached"]

#: Accuracy of the norm that a length of step follows from.
ACCURACY = 1e-6
#: Directions in which the prior's spread is looked at, and steps of the power method that find them.
PROBES, LOOKS = 8, 2


def guided(
    posterior: Posterior, z: Tensor, sigma: float, drive: Callable[[Tensor], Tensor], jacobian: Jacobian
) -> tuple[Tensor, Tensor]:
    """Return D and J^H drive(D); `drive` is given D without its graph."""
    prior = denoiser(posterior)
    if jacobian == "detached":
        estimate = prior.denoise(z, sigma)
        spread = data_sd(posterior, "jacobian")
        return estimate, spread**2 / (spread**2 + sigma**2) * drive(estimate)
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        estimate = prior.denoise(point, sigma)
    force = drive(estimate.detach())
    (pull,) = torch.autograd.grad(estimate, point, force)
    return estimate.detach(), pull


def pulled_residual(posterior: Posterior, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return |W (y - A x)| per sample and A'(x)^H W^H W (y - A x), W the whitener of Gaussian noise."""
    likelihood = posterior.measured
    form = posterior.kept(
        "gaussian form", lambda: likelihood.noise.gaussian_form(likelihood.data, likelihood.operator.codomain)
    )
    if form is None:
        remedy = "Use form='bayes', which takes any law."
        raise type_error("noise", "be Gaussian for the norm of a residual", repr(likelihood.noise), remedy)
    predicted = likelihood.predicted(x)
    whitener: LinearOperator = form.whitener
    residual = whitener.apply(form.data.to(predicted.dtype) - predicted)
    pull = likelihood.operator.apply_vjp(x, whitener.apply_adjoint(residual))
    return dots(residual, residual).sqrt(), pull


def curvature_norm(posterior: Posterior) -> float:
    """Return the root of the largest eigenvalue of J^H H J, |B| of a linear-Gaussian measurement.

    Of any other it is that at a point like those of the prior: its mean and a deviation of its spread.
    """
    likelihood = posterior.measured
    if likelihood.is_linear_gaussian:
        return measured_norm(posterior)
    return posterior.kept("norm of the curvature", lambda: _curvature_norm(posterior))


def _curvature_norm(posterior: Posterior) -> float:
    like = posterior.like()
    white = Keys(0, (1,)).normals(posterior.space.shape, "guidance: point like the prior's", like=like)
    curved = _curved(posterior, data_sd(posterior, "form"))
    return math.sqrt(largest_eigenvalue(curved, white, tolerance=ACCURACY, max_iterations=100))


def _curved(posterior: Posterior, spread: float) -> Callable[[Tensor], Tensor]:
    """Return B^H B, or J^H H J at a point like the prior's: its mean and a deviation of its spread."""
    likelihood, like = posterior.measured, posterior.like()
    if likelihood.is_linear_gaussian:
        b, _ = likelihood.whitened
        return lambda v: b.apply_adjoint(b.apply(v.to(b.domain.dtype_like(like)))).to(like.dtype)
    operator, noise = likelihood.operator, likelihood.noise
    white = Keys(0, (0,)).normals(posterior.space.shape, "guidance: point like the prior's", like=like)
    point = middle(posterior, spread) + spread * white
    predicted = likelihood.predicted(point)
    data = likelihood.data.to(predicted.dtype if likelihood.data.is_complex() else predicted.real.dtype)

    def curved(v: Tensor) -> Tensor:
        at, there = point.expand(v.shape), predicted.expand(len(v), *predicted.shape[1:])
        return operator.apply_vjp(at, noise.positive_curvature(there, data, operator.apply_jvp(at, v)))

    return curved


def spread_seen(posterior: Posterior) -> float:
    """Return the prior's standard deviation in what the data see most of it, three digits of it.

        s^2 = sigma^2 q / (1 - q),    q = sum w^H J w / sum w^H w,    w = K J K noise,    sigma = 10 data_sd

    K is B^H B, or what stands for it around a point like the prior's; J w is a difference of two evaluations,
    and for a prior of covariance C almost C w / sigma^2. So w are two steps of the power method towards what
    the data are most made of; where a prior is smooth and data are sums, C is larger there than data_sd^2. A
    smaller s is too sure there, at the start; a larger one too unsure elsewhere, which costs less.
    """
    spread = data_sd(posterior, "spread")
    return posterior.kept("spread seen", lambda: _spread_seen(posterior, spread))


def _spread_seen(posterior: Posterior, spread: float) -> float:
    curved, like = _curved(posterior, spread), posterior.like()
    keys, shape = Keys(0, tuple(range(PROBES))), posterior.space.shape
    sigma = min(10 * spread, denoiser(posterior).noise_range[1])
    z = sigma * keys.normals(shape, "guidance: noise", like=like)
    passed, share = keys.normals(shape, "guidance: directions", like=like), 0.0
    for _ in range(LOOKS):
        w = curved(passed)
        sizes = dots(w, w).double().sqrt()
        if not float(sizes.max()) > 0:
            return spread
        step = column(sigma / sizes.clamp(min=torch.finfo(sizes.dtype).tiny), w).to(w.dtype) * w
        up, down = (denoiser(posterior).denoise(z + sign * step, sigma) for sign in (1, -1))
        passed = (up - down) / 2
        share = float(dots(passed, step).double().sum()) / (sigma**2 * int((sizes > 0).sum()))
    if not math.isfinite(share):
        raise FloatingPointError("what the data see of the prior overflows: check units of noise and prior")
    # A network may say anything of a level so high: no less than a tenth, no more than a thousand times.
    share = min(max(share, 1e-6), 1 - 1e-6)
    found = sigma * math.sqrt(share / (1 - share))
    return float(f"{min(max(found, 0.1 * spread), 1e3 * spread):.3g}")


def check_choice(value: object, argument: str, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise value_error(argument, f"be one of {', '.join(map(repr, choices))}", repr(value))


def require_differentiable(posterior: Posterior) -> None:
    """Raise unless gradients flow through the prior."""
    if not posterior.prior.differentiable:
        remedy = "Load it without compilation, or use jacobian='detached'."
        raise type_error("prior", "be differentiable", type(posterior.prior).__name__, remedy)
