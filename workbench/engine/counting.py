"""Operators that count their calls in a ledger and are otherwise those they wrap."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from operators.base import Operator
from operators.linalg import TraceEstimate
from operators.linear import SVD, LinearOperator
from operators.solves import Stopping
from operators.spectrum import Spectrum
from workbench.ledger import Ledger
from workbench.posterior import Posterior

__all__ = ["CountedLinear", "CountedOperator", "counted"]


def counted(posterior: Posterior, ledger: Ledger) -> Posterior:
    """Return the same posterior with its calls counted in `ledger`."""
    likelihood = posterior.likelihood
    if likelihood is not None:
        operator = likelihood.operator
        kind = CountedLinear if isinstance(operator, LinearOperator) else CountedOperator
        likelihood = dataclasses.replace(likelihood, operator=kind(operator, ledger))  # type: ignore[arg-type]
    return posterior.replaced(posterior.prior.counted(ledger), likelihood)


class CountedOperator(Operator):
    """A nonlinear operator whose calls are counted: A as a forward, J^H r as an adjoint, J v as a forward."""

    def __init__(self, op: Operator, ledger: Ledger) -> None:
        super().__init__(op.domain, op.codomain)
        self.op, self._ledger = op, ledger
        self.dtypes = op.dtypes

    def _apply(self, x: Tensor) -> Tensor:
        self._ledger.count("forwards", x.shape[0])
        return self.op._apply(x)

    def apply_vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Return J(x)^H r."""
        self._ledger.count("adjoints", _batch(x, self.domain.ndim))
        return self.op.apply_vjp(x, r)

    def apply_jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J(x) v."""
        self._ledger.count("forwards", _batch(x, self.domain.ndim))
        return self.op.apply_jvp(x, v)


class CountedLinear(LinearOperator):
    """A linear operator whose calls are counted, closed forms and all."""

    def __init__(self, op: LinearOperator, ledger: Ledger) -> None:
        super().__init__(op.domain, op.codomain)
        self.op, self._ledger = op, ledger
        self.dtypes = op.dtypes
        self.adjoint_error = op.adjoint_error
        self.is_unitary = op.is_unitary

    @property
    def over_complex(self) -> bool:
        """Whether the wrapped operator is linear over the complex numbers."""
        return self.op.over_complex

    def _apply(self, x: Tensor) -> Tensor:
        self._ledger.count("forwards", x.shape[0])
        return self.op._apply(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        self._ledger.count("adjoints", y.shape[0])
        return self.op._apply_adjoint(y)

    def _apply_gram(self, x: Tensor) -> Tensor:
        self._ledger.count("grams", x.shape[0])
        return self.op._apply_gram(x)

    @property
    def has_closed_form(self) -> bool:
        """Whether the wrapped operator's normal_solve is exact, without iterations."""
        return self.op.has_closed_form

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        return self.op._congruence(inner)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return self.op._dual_congruence(inner)

    def _svd(self) -> SVD | None:
        return self.op._svd()

    def _solve_normal(self, b: Tensor, c: Tensor, start: Tensor | None, stopping: Stopping) -> Tensor:
        self._ledger.count("solves", b.shape[0])
        if type(self.op)._solve_normal is LinearOperator._solve_normal:
            # The same solve, whose products with A^H A come back here to be counted.
            return super()._solve_normal(b, c, start, stopping)
        return self.op._solve_normal(b, c, start, stopping)

    def _pseudo_solve(self, b: Tensor, cutoff: float) -> Tensor | None:
        self._ledger.count("solves", b.shape[0])
        return self.op._pseudo_solve(b, cutoff)

    def norm(self, *, tolerance: float = 1e-6, max_iterations: int = 300, seed: int = 0) -> float:
        """Return the norm of the wrapped operator."""
        if type(self.op).norm is LinearOperator.norm:
            # The same iteration, whose products with A^H A come back here to be counted.
            return super().norm(tolerance=tolerance, max_iterations=max_iterations, seed=seed)
        return self.op.norm(tolerance=tolerance, max_iterations=max_iterations, seed=seed)

    def gram_trace(self, *, probes: int = 16, seed: int = 0) -> TraceEstimate:
        """Return the trace of the wrapped operator's A^H A."""
        if type(self.op).gram_trace is LinearOperator.gram_trace:
            return super().gram_trace(probes=probes, seed=seed)
        return self.op.gram_trace(probes=probes, seed=seed)


def _batch(x: Tensor, ndim: int) -> int:
    return x.shape[: x.ndim - ndim].numel()
