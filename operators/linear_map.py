"""Linear maps: application, adjoint and the derivative that follows from it.

A subclass writes `_apply` and `_apply_adjoint` for tensors of shape (batch, *space.shape). The
derivative of a linear map is its adjoint: it is declared, not traced, so no graph is kept.
On a real domain with complex values the adjoint is Re(A^H y), the one that belongs to the real
inner product.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from operators.base import Operator, checked_finite
from operators.errors import InexactAdjointError
from operators.spectrum import Spectrum


class _Linear(torch.autograd.Function):
    """A x or A^H y; its derivatives are the operator itself and its adjoint."""

    @staticmethod
    def forward(op: LinearMap, adjoint: bool, x: Tensor) -> Tensor:
        return op._run_adjoint(x) if adjoint else op._run(x)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor
    ) -> None:
        del output
        ctx.op, ctx.adjoint, _ = inputs  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, apply_linear(ctx.op, not ctx.adjoint, gradients[0])  # type: ignore[attr-defined]

    @staticmethod
    def jvp(ctx: torch.autograd.function.FunctionCtx, *tangents: Tensor) -> Tensor:
        return apply_linear(ctx.op, ctx.adjoint, tangents[2])  # type: ignore[attr-defined]

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int | None, ...], op: LinearMap, adjoint: bool, x: Tensor
    ) -> tuple[Tensor, int]:
        del info
        # A mapped axis is one more batch axis, which every operator takes in one call.
        return apply_linear(op, adjoint, x.movedim(in_dims[2] or 0, 0)), 0


def apply_linear(op: LinearMap, adjoint: bool, x: Tensor) -> Tensor:
    """Return A x or A^H x, differentiably, for an argument already checked."""
    return _Linear.apply(op, adjoint, x)  # type: ignore[no-untyped-call, no-any-return]


class LinearMap(Operator):
    """A linear operator without its algebra: what products, solves and autograd are built on."""

    #: Declared bound on |<Ax, y> - <x, A^H y>| / (|Ax| |y|); 0 means exact up to rounding.
    adjoint_error: float = 0.0

    @property
    def over_complex(self) -> bool:
        """Whether it is linear over the complex numbers; taking a real part is linear over the reals."""
        return self.domain.is_complex and self.codomain.is_complex

    def forward(self, x: Tensor) -> Tensor:
        """Return A x for `x` of shape (..., *domain.shape)."""
        self._check(x, self.domain, "x")
        return apply_linear(self, False, checked_finite(x, "x"))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y for `y` of shape (..., *codomain.shape)."""
        self._check(y, self.codomain, "y")
        return apply_linear(self, True, checked_finite(y, "y"))

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Return A^H r; the point `x` does not matter to a linear operator."""
        self._check(x, self.domain, "x")
        return self.adjoint(r)

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return A v; the point `x` does not matter to a linear operator."""
        self._check(x, self.domain, "x")
        return self.forward(v)

    # -- what a subclass writes ----------------------------------------------------------------

    @abstractmethod
    def _apply_adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y for `y` of shape (batch, *codomain.shape), already checked."""

    def _apply_gram(self, x: Tensor) -> Tensor:
        """Return A^H A x; override where the two together cost less than one after the other."""
        return self._apply_adjoint(self._apply(x))

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        """Return the spectrum of A^H G A for a G with spectrum `inner` on the codomain, if known."""
        del inner
        return None

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        """Return the spectrum of A G A^H for a G with spectrum `inner` on the domain, if known."""
        del inner
        return None

    # -- plumbing ------------------------------------------------------------------------------

    def _run_adjoint(self, y: Tensor) -> Tensor:
        batch = y.shape[: y.ndim - self.codomain.ndim]
        return self._apply_adjoint(y.reshape(-1, *self.codomain.shape)).reshape(*batch, *self.domain.shape)

    def _blank(self) -> Tensor:
        dtype = torch.complex64 if self.domain.is_complex else torch.float32
        return torch.empty(0, dtype=dtype, device=self.device)

    def _require_exact_adjoint(self, method: str) -> None:
        if self.adjoint_error > 0:
            raise InexactAdjointError(
                f"{method} needs an exact adjoint, but {self!r} declares an adjoint error of "
                f"{self.adjoint_error:g}. Use an engine with a matched pair, or a method that "
                "tolerates a mismatch, such as gradient steps with a small step."
            )
