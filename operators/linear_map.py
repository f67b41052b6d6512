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
from torch.autograd import forward_ad

from operators.base import Operator, checked_finite
from operators.errors import InexactAdjointError
from operators.spectrum import Spectrum

Context = torch.autograd.function.FunctionCtx


class _Reverse(torch.autograd.Function):
    """A x or A^H y for flat x, y; its gradient is the adjoint or the operator itself."""

    @staticmethod
    def forward(op: LinearMap, adjoint: bool, x: Tensor) -> Tensor:
        x = x.resolve_conj().resolve_neg()
        return owned(op._apply_adjoint(x) if adjoint else op._apply(x), x)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[object, ...], output: Tensor) -> None:
        del output
        ctx.op, ctx.adjoint, _ = inputs  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _apply_flat(ctx.op, not ctx.adjoint, gradients[0])  # type: ignore[attr-defined]


class _Linear(_Reverse):
    """The same with forward-mode derivatives and vmap, which torch.compile cannot trace."""

    @staticmethod
    def jvp(ctx: Context, *tangents: Tensor) -> Tensor:
        return _apply_flat(ctx.op, ctx.adjoint, tangents[2])  # type: ignore[attr-defined]

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int | None, ...], op: LinearMap, adjoint: bool, x: Tensor
    ) -> tuple[Tensor, int]:
        del info
        # A mapped axis is one more batch axis, which every operator takes in one call.
        return apply_linear(op, adjoint, x.movedim(in_dims[2] or 0, 0)), 0


def _apply_flat(op: LinearMap, adjoint: bool, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return _Reverse.apply(op, adjoint, x)  # type: ignore[no-untyped-call, no-any-return]
    if not may_be_derived(x):
        # An autograd Function takes a tenth of a millisecond to call, which is most of a small operator.
        with torch.no_grad():
            return _Linear.forward(op, adjoint, x)
    return _Linear.apply(op, adjoint, x)  # type: ignore[no-untyped-call, no-any-return]


def may_be_derived(*tensors: Tensor) -> bool:
    """Return whether a derivative, of either mode, or a vmap could want to know how values came about."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def apply_linear(op: LinearMap, adjoint: bool, x: Tensor) -> Tensor:
    """Return A x or A^H x, differentiably, for a checked argument with any batch axes."""
    source, target = (op.codomain, op.domain) if adjoint else (op.domain, op.codomain)
    batch = x.shape[: x.ndim - source.ndim]
    return _apply_flat(op, adjoint, x.reshape(-1, *source.shape)).reshape(*batch, *target.shape)


def owned(values: Tensor, argument: Tensor) -> Tensor:
    """Return `values` as the caller's own: no view made in here, and not the argument's memory."""
    if torch.compiler.is_compiling():
        return values
    if values.untyped_storage().data_ptr() == argument.untyped_storage().data_ptr():
        return values.clone()
    # autograd forbids in-place work on views made inside a Function; `data` is the same memory, no view.
    return values.data


class LinearMap(Operator):
    """A linear operator without its algebra: what products, solves and autograd are built on."""

    #: Declared bound on |<Ax, y> - <x, A^H y>| / (|Ax| |y|); 0 means exact up to rounding. For a
    #: composition it says that a part is inexact; it is then no bound.
    adjoint_error: float = 0.0

    @property
    def over_complex(self) -> bool:
        """Whether it is linear over the complex numbers; taking a real part is linear over the reals."""
        return self.domain.is_complex and self.codomain.is_complex

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y for `y` of shape (..., *codomain.shape)."""
        self._check(y, self.codomain, "y")
        return checked_finite(apply_linear(self, True, checked_finite(y, "y")), "A^H y")

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Return A^H r; of the point `x` only the batch axes matter."""
        self._check_pair(x, r, self.codomain, "r")
        return apply_linear(self, True, checked_finite(r, "r"))

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return A v; of the point `x` only the batch axes matter."""
        self._check_pair(x, v, self.domain, "v")
        return apply_linear(self, False, checked_finite(v, "v"))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y for a `y` known to be of the codomain: no look at the values."""
        return apply_linear(self, True, y)

    def apply_vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Return A^H r for an `r` known to be of the codomain."""
        del x
        return apply_linear(self, True, r)

    def apply_jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return A v for a `v` known to be of the domain."""
        del x
        return apply_linear(self, False, v)

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

    def _nested(self, x: Tensor) -> Tensor:
        return apply_linear(self, False, x)

    def _require_exact_adjoint(self, method: str) -> None:
        if self.adjoint_error > 0:
            raise InexactAdjointError(
                f"{method} needs an exact adjoint, but {self!r} declares an adjoint error of "
                f"{self.adjoint_error:g}. Use an engine with a matched pair, or a method that "
                "tolerates a mismatch, such as gradient steps with a small step."
            )
