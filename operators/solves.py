"""Solves with the normal operator A^H A: exact where the structure allows, else conjugate gradients."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from operators import linalg
from operators.cg import conjugate_gradient
from operators.checks import check_count, check_finite, check_number
from operators.errors import ConvergenceWarning, NoClosedFormError, type_error, value_error
from operators.linear_map import Context, LinearMap, may_be_derived, owned
from operators.spectrum import Spectrum


@dataclass(frozen=True)
class Stopping:
    """When an iterative solve ends, and what its right-hand side is called where it was asked for."""

    tolerance: float | None
    max_iterations: int
    argument: str = "b"

    def __post_init__(self) -> None:
        check_count(self.max_iterations, "max_iterations")
        if self.tolerance is not None:
            check_number(self.tolerance, "tolerance", positive=True)


class _NormalSolve(torch.autograd.Function):
    """x = (A^H A + c I)^-1 b for flat b and one c per row.

    dx = (A^H A + c I)^-1 (db - x dc), and the inverse is self-adjoint: one more solve gives the
    derivatives in b and in c, either way round.
    """

    @staticmethod
    def forward(op: NormalSolves, stopping: Stopping, b: Tensor, c: Tensor, start: Tensor | None) -> Tensor:
        check_finite(b, stopping.argument)
        if not (float(c.min()) >= 0 and float(c.max()) < math.inf):
            raise value_error("c", "be a finite number >= 0", float(c.min()))
        if start is not None:
            check_finite(start, "start")
        column = c.reshape(-1, *[1] * op.domain.ndim)
        return owned(op._solve_normal(b.resolve_conj().resolve_neg(), column, start, stopping), b)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[object, ...], output: Tensor) -> None:
        ctx.op, ctx.stopping, *_ = inputs  # type: ignore[attr-defined]
        c = cast(Tensor, inputs[3])
        # The solution is needed for the derivative in c only; else the caller may change it in place.
        in_c = bool(ctx.needs_input_grad[3])  # type: ignore[attr-defined]
        ctx.save_for_backward(c, output if in_c else None)  # type: ignore[arg-type]
        ctx.save_for_forward(c, output)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[None, None, Tensor, Tensor | None, None]:
        c, x = ctx.saved_tensors  # type: ignore[attr-defined]
        v = _solve(ctx.op, ctx.stopping, gradients[0], c, None)  # type: ignore[attr-defined]
        in_c = None
        if ctx.needs_input_grad[3]:  # type: ignore[attr-defined]
            in_c = -(x.conj() * v).real.flatten(1).sum(1) if x.is_complex() else -(x * v).flatten(1).sum(1)
        return None, None, v, in_c, None

    @staticmethod
    def jvp(ctx: Context, *tangents: Tensor | None) -> Tensor:
        c, x = ctx.saved_tensors  # type: ignore[attr-defined]
        db, dc = tangents[2], tangents[3]
        side = torch.zeros_like(x) if db is None else db
        if dc is not None:
            side = side - x * dc.reshape(-1, *[1] * (x.ndim - 1))
        return _solve(ctx.op, ctx.stopping, side, c, None)  # type: ignore[attr-defined]

    @staticmethod
    def vmap(
        info: torch._C._functorch.VmapInfo,  # type: ignore[name-defined]
        in_dims: tuple[int | None, ...],
        op: NormalSolves,
        stopping: Stopping,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, int]:
        rows: list[Tensor | None] = []
        for tensor, dim in zip(tensors, in_dims[2:], strict=True):
            if tensor is None:
                rows.append(None)
                continue
            mapped = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            rows.append(mapped.flatten(0, 1))
        b, c, start = rows
        x = _solve(op, stopping, cast(Tensor, b), cast(Tensor, c), start)
        return x.reshape(info.batch_size, -1, *op.domain.shape), 0


def _solve(op: NormalSolves, stopping: Stopping, b: Tensor, c: Tensor, start: Tensor | None) -> Tensor:
    if not torch.compiler.is_compiling() and not may_be_derived(b, c):
        with torch.no_grad():
            return _NormalSolve.forward(op, stopping, b, c, start)
    return _NormalSolve.apply(op, stopping, b, c, start)  # type: ignore[no-untyped-call, no-any-return]


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

        `c` >= 0 is a number or a tensor that broadcasts over the batch axes of `b`. Without a closed
        form it runs conjugate gradients from `start` until each sample's relative residual is below
        `tolerance` (default 1e-5 in single, 1e-10 in double precision), and warns where that was not
        reached. The result is differentiable in `b` and `c`.
        """
        return self._checked_solve(b, c, start, Stopping(tolerance, max_iterations))

    def _checked_solve(
        self, b: Tensor, c: float | Tensor, start: Tensor | None, stopping: Stopping
    ) -> Tensor:
        self._require_exact_adjoint("normal_solve")
        self._check(b, self.domain, stopping.argument)
        batch = b.shape[: b.ndim - self.domain.ndim]
        if start is not None:
            self._check(start, self.domain, "start")
            start = _expanded(start.to(b.dtype), b.shape, "start").reshape(-1, *self.domain.shape)
        shift = _as_shift(c, b)
        # One c for all stays one number as long as nobody asks how each row came about.
        if shift.ndim > 0 or torch.compiler.is_compiling() or may_be_derived(b, shift):
            shift = _expanded(shift, batch, "c")
        x = _solve(self, stopping, b.reshape(-1, *self.domain.shape), shift.reshape(-1), start)
        return x.reshape(b.shape)

    def pinv(self, y: Tensor, *, cutoff: float | None = None) -> Tensor:
        """Return the least-squares solution of minimum norm, A^+ y, where it has a closed form.

        Singular values at or below `cutoff` times the largest count as zero.
        """
        if cutoff is not None:
            check_number(cutoff, "cutoff", non_negative=True)
        self._check(y, self.codomain, "y")
        cutoff = torch.finfo(y.dtype).eps * self.domain.size**0.5 if cutoff is None else cutoff
        # In double precision: A^H A has the square of the condition number of A.
        if torch.float64 in self.dtypes:
            normal = self.adjoint(y.to(torch.complex128 if y.is_complex() else torch.float64))
        else:
            normal = self.adjoint(y)
        solved = self._pseudo_solve(normal.reshape(-1, *self.domain.shape), cutoff)
        if solved is None:
            raise NoClosedFormError(
                f"{self!r} has no closed-form pseudo-inverse. Use normal_solve(A.adjoint(y), c) with a "
                "small c > 0, or operators.cg.conjugate_gradient from zero."
            )
        return solved.reshape(normal.shape).to(self.domain.dtype_like(y))

    def norm(self, *, tolerance: float = 1e-6, max_iterations: int = 300, seed: int = 0) -> float:
        """Return the largest singular value: exact where known, else to `tolerance` by Lanczos.

        The iteration approaches it from below and warns where it stops short of the tolerance.
        """
        Stopping(tolerance, max_iterations)
        spectrum = self._gram_spectrum
        if spectrum is not None:
            return math.sqrt(float(spectrum.values.max()))
        self._require_exact_adjoint("norm")
        dtype = torch.complex64 if self.domain.is_complex else torch.float32
        like = torch.empty(0, dtype=dtype, device=self.device)
        if torch.float64 in self.dtypes:
            like = like.to(torch.complex128 if like.is_complex() else torch.float64)
        start = linalg.normals((1, *self.domain.shape), seed=seed, index=0, like=like)
        # sqrt halves a relative error.
        square = linalg.largest_eigenvalue(
            self._apply_gram, start, tolerance=2 * tolerance, max_iterations=max_iterations
        )
        return math.sqrt(square)

    def gram_trace(self, *, probes: int = 16, seed: int = 0) -> linalg.TraceEstimate:
        """Return tr A^H A: exact where known, else by random probes with its standard error."""
        spectrum = self._gram_spectrum
        if spectrum is not None:
            return linalg.TraceEstimate(spectrum.trace(self.domain))
        self._require_exact_adjoint("gram_trace")
        like = torch.empty(0, dtype=torch.float32, device=self.device)
        # Where only real multiples commute with A, the imaginary directions are directions of their own.
        both = self.domain.is_complex and not self.over_complex
        like = like.to(torch.complex64) if self.domain.is_complex else like
        return linalg.estimate_trace(
            self._apply_gram, self.domain.shape, like, probes=probes, seed=seed, imaginary=both
        )

    def _solve_normal(self, b: Tensor, c: Tensor, start: Tensor | None, stopping: Stopping) -> Tensor:
        """Return (A^H A + c I)^-1 b for flat `b` (batch, *domain.shape) and `c` (batch or 1, 1, ...)."""
        spectrum = self._gram_spectrum
        if spectrum is not None:
            return spectrum.solve(b, c)
        result = conjugate_gradient(
            lambda v: self._apply_gram(v) + c * v,
            b,
            start=start,
            tolerance=stopping.tolerance,
            max_iterations=stopping.max_iterations,
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

    def _pseudo_solve(self, b: Tensor, cutoff: float) -> Tensor | None:
        """Return (A^H A)^+ b for flat `b`, None without a closed form."""
        spectrum = self._gram_spectrum
        return None if spectrum is None else spectrum.pseudo_solve(b, cutoff)

    @property
    def _gram_spectrum(self) -> Spectrum | None:
        if "_memo_spectrum" not in self.__dict__:
            self.__dict__["_memo_spectrum"] = self._congruence(Spectrum.ones(self.device))
        return cast("Spectrum | None", self.__dict__["_memo_spectrum"])


def _as_shift(c: float | Tensor, b: Tensor) -> Tensor:
    real = b.real.dtype if b.is_complex() else b.dtype
    if not isinstance(c, Tensor):
        number = check_number(c, "c", non_negative=True, remedy="Several numbers: pass a tensor.")
        c = torch.tensor(number, dtype=torch.float64)
    if c.is_complex():
        raise type_error("c", "be real", c.dtype)
    return c.to(device=b.device, dtype=real)


def _expanded(values: Tensor, shape: torch.Size, argument: str) -> Tensor:
    pairs = zip(reversed(values.shape), reversed(shape), strict=False)
    if values.ndim > len(shape) or any(v not in (1, n) for v, n in pairs):
        raise value_error(argument, f"broadcast to {tuple(shape)}", tuple(values.shape))
    return values.expand(shape)
