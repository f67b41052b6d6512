"""Solves with the normal operator A^H A: exact where the structure allows, else conjugate gradients."""

from __future__ import annotations

import math
import warnings
from functools import cached_property

import torch
from torch import Tensor

from operators import linalg
from operators.checks import check_finite, check_number
from operators.errors import ConvergenceWarning, NoClosedFormError, value_error
from operators.linear_map import LinearMap
from operators.spectrum import Spectrum


class NormalSolves(LinearMap):
    """A linear map with solves, pseudo-inverse, norm and trace of its normal operator."""

    def normal_solve(
        self,
        b: Tensor,
        c: float | Tensor = 0.0,
        *,
        start: Tensor | None = None,
        tolerance: float | None = None,
        max_iterations: int = 1000,
    ) -> Tensor:
        """Return the x of (A^H A + c I) x = b, exactly where the structure allows.

        `c` >= 0 is one number or one per batch element. Without a closed form it runs conjugate
        gradients from `start` until each sample's relative residual is below `tolerance`
        (default 1e-5 in single, 1e-10 in double precision) and warns where that was not reached.
        The result is differentiable in `b`.
        """
        return NormalInverse(self, c, start, tolerance, max_iterations)(b)

    def pinv(self, y: Tensor, *, cutoff: float | None = None) -> Tensor:
        """Return the least-squares solution of minimum norm, A^+ y, where it has a closed form.

        Singular values at or below `cutoff` times the largest count as zero.
        """
        spectrum = self._gram_spectrum
        if spectrum is None:
            raise NoClosedFormError(
                f"{self!r} has no closed-form pseudo-inverse. Use normal_solve(A.adjoint(y), c) with a "
                "small c > 0, or linalg.conjugate_gradient from zero."
            )
        normal = self.adjoint(y)
        flat = normal.reshape(-1, *self.domain.shape)
        return spectrum.pseudo_solve(flat, cutoff).reshape(normal.shape)

    def norm(self, *, tolerance: float = 1e-4, max_iterations: int = 200, seed: int = 0) -> float:
        """Return the largest singular value: exact where known, else by power iteration from below."""
        spectrum = self._gram_spectrum
        if spectrum is not None:
            return math.sqrt(float(spectrum.values.max()))
        self._require_exact_adjoint("norm")
        start = linalg.normals((1, *self.domain.shape), seed=seed, index=0, like=self._blank())
        square = linalg.largest_eigenvalue(
            self._apply_gram, start, tolerance=tolerance, max_iterations=max_iterations
        )
        return math.sqrt(square)

    def gram_trace(self, *, probes: int = 16, seed: int = 0) -> linalg.TraceEstimate:
        """Return tr A^H A: exact where known, else by random probes with its standard error."""
        spectrum = self._gram_spectrum
        if spectrum is not None:
            return linalg.TraceEstimate(spectrum.trace(self.domain))
        # Where only real multiples commute with A, the imaginary directions are directions of their own.
        both = self.domain.is_complex and not self.over_complex
        return linalg.estimate_trace(
            self._apply_gram, self.domain.shape, self._blank(), probes=probes, seed=seed, imaginary=both
        )

    def _solve_normal(
        self, b: Tensor, c: Tensor, start: Tensor | None, tolerance: float | None, max_iterations: int
    ) -> Tensor:
        """Return (A^H A + c I)^-1 b for flat `b` (batch, *domain.shape) and `c` (batch or 1, 1, ...)."""
        spectrum = self._gram_spectrum
        if spectrum is not None:
            return spectrum.solve(b, c)
        result = linalg.conjugate_gradient(
            lambda v: self._apply_gram(v) + c * v,
            b,
            start=start,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        if not bool(result.converged.all()):
            worst = float(result.relative_residual.max())
            warnings.warn(
                f"normal_solve on {self!r} stopped at relative residual {worst:.2e} after "
                f"{int(result.iterations.max())} iterations. Raise `max_iterations` or `c`, relax "
                "`tolerance`, or use float64.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return result.solution

    @cached_property
    def _gram_spectrum(self) -> Spectrum | None:
        return self._congruence(Spectrum.ones(self.device))

    def _blank(self) -> Tensor:
        dtype = torch.complex64 if self.domain.is_complex else torch.float32
        return torch.empty(0, dtype=dtype, device=self.device)


class NormalInverse(LinearMap):
    """(A^H A + c I)^-1 as an operator: self-adjoint, hence differentiable like any other."""

    def __init__(
        self,
        op: NormalSolves,
        c: float | Tensor,
        start: Tensor | None,
        tolerance: float | None,
        max_iterations: int,
    ) -> None:
        super().__init__(op.domain, op.domain)
        op._require_exact_adjoint("normal_solve")
        self.op = op
        self.shift = _checked_shift(c)
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        if start is not None:
            op._check(start, op.domain, "start")
            check_finite(start, "start")
        self.start = start

    def _apply(self, x: Tensor) -> Tensor:
        real = x.real if x.is_complex() else x
        c = self.shift.to(device=x.device, dtype=real.dtype)
        if c.ndim and c.numel() != x.shape[0]:
            raise value_error(
                "c", f"be one number or one per batch element ({x.shape[0]})", f"shape {tuple(c.shape)}"
            )
        c = c.reshape(-1, *[1] * self.domain.ndim)
        start = None if self.start is None else self.start.reshape(-1, *self.domain.shape).expand(x.shape)
        return self.op._solve_normal(x, c, start, self.tolerance, self.max_iterations)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y)


def _checked_shift(c: float | Tensor) -> Tensor:
    if isinstance(c, Tensor):
        if c.is_complex() or not bool(torch.isfinite(c).all()) or not bool((c >= 0).all()):
            raise value_error("c", "be real, finite and >= 0", c)
        return c.detach()
    return torch.tensor(check_number(c, "c", non_negative=True), dtype=torch.float64)
