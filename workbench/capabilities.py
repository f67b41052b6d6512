"""What a solver can work on, declared by the solver and checked before the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from operators.linear import LinearOperator
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser, Prior

__all__ = ["FIELDS", "Capabilities", "CapabilityError"]

#: Spaces whose elements are numbers.
FIELDS = frozenset({"scalar field", "complex field", "vector field"})


class CapabilityError(TypeError):
    """A solver was asked for what it cannot do; every reason is listed."""


@dataclass(frozen=True)
class Capabilities:
    """The demands of a solver. `noise` None means any law, `priors` the classes of priors it takes."""

    #: Kinds of space it draws in, names as in `Space.kind`.
    spaces: frozenset[str] = FIELDS
    #: Whether it needs a measurement.
    likelihood: bool = True
    #: Whether it draws from the prior and would not look at a measurement.
    prior_only: bool = False
    #: Whether the operator has to be linear, its adjoint exact.
    linear: bool = False
    #: Whether -log p(y | u) has to be a quadratic |B u - z|^2 / 2.
    linear_gaussian: bool = False
    exact_adjoint: bool = True
    #: Whether the operator has to know its singular values.
    svd: bool = False
    #: Names of the noise laws it takes, None for any.
    noise: frozenset[str] | None = None
    #: Whether it goes backward through the prior's network.
    backprop: bool = False
    #: Whether it makes scores of the prior's denoiser: not fit for denoisers that are no posterior mean.
    calibrated_score: bool = False
    priors: tuple[type[Prior], ...] = (Denoiser,)

    def check(self, posterior: Posterior, solver: str) -> None:
        """Raise CapabilityError with every reason why `solver` cannot work on `posterior`."""
        reasons = list(self._reasons(posterior))
        if reasons:
            text = "".join(f"\n- {reason}" for reason in reasons)
            raise CapabilityError(f"{solver} cannot work on this posterior:{text}")

    def _reasons(self, posterior: Posterior) -> Iterator[str]:
        prior, likelihood = posterior.prior, posterior.likelihood
        if prior.space.kind not in self.spaces:
            yield f"`prior.space` must be a {_either(self.spaces)}, got a {prior.space.kind}."
        if not isinstance(prior, self.priors):
            wanted = _either(frozenset(kind.__name__ for kind in self.priors))
            yield f"`prior` must be a {wanted}, got {type(prior).__name__}. Or use another solver."
        if not prior.is_bound:
            yield f"`prior` must be bound to its condition, got {prior!r}. prior.given(condition)."
        if self.backprop and not prior.differentiable:
            yield f"`prior` must be differentiable, got {type(prior).__name__}."
        if self.calibrated_score and not prior.calibrated_score:
            yield (
                f"`prior` must give posterior means (of tokens: conditionals), got {type(prior).__name__}, "
                "which does not. Use it in a plug-and-play solver."
            )
        if self.calibrated_score and not prior.proper:
            yield (
                f"`prior` must be a law that can be drawn from, got {type(prior).__name__}. "
                "Use one with a finite mass, or a solver of point estimates."
            )
        if likelihood is None:
            if self.likelihood and not self.prior_only:
                yield "`posterior` must have a likelihood, got a prior alone. Posterior(prior, likelihood)."
            return
        operator = likelihood.operator
        if self.prior_only:
            yield f"`posterior` must have no likelihood, which would be ignored, got {likelihood!r}."
        if self.linear and not likelihood.is_linear:
            yield f"`operator` must be linear, got {operator!r}. Use a solver for nonlinear operators."
        if self.linear_gaussian and not likelihood.is_linear_gaussian:
            remedy = "For counts, LogTransmission is near enough; else a solver for any noise."
            yield f"`likelihood` must be linear with Gaussian noise, got {likelihood!r}. {remedy}"
        if self.exact_adjoint and getattr(operator, "adjoint_error", 0.0) > 0:
            remedy = "Use an engine with a matched pair."
            yield f"`operator` must have an exact adjoint, got {operator!r}. {remedy}"
        if self.svd and not (isinstance(operator, LinearOperator) and operator.has_svd):
            remedy = "Use a solver that needs products with A and A^H only."
            yield f"`operator` must know its singular values, got {operator!r}. {remedy}"
        if self.noise is not None and likelihood.noise.name not in self.noise:
            yield f"`noise` must be {_either(self.noise)}, got {likelihood.noise.name}."


def _either(names: frozenset[str]) -> str:
    return " or ".join(sorted(names))
