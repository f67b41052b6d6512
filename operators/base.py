"""Operators: y = A(x) between two spaces, with its derivatives. Nonlinear ones are welcome here.

A subclass writes `_apply` for a tensor of shape (batch, *domain.shape); checking arguments, any
leading batch axes, and (for linear operators) differentiation are done here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self, cast

import torch
from torch import Tensor

from operators.checks import REAL_DTYPES, check_finite
from operators.constant import moved, single_device
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.space import Space


class _Look(torch.autograd.Function):
    """Look at the values of a tensor and raise, as a side effect: plain tensors also under torch.func."""

    @staticmethod
    def forward(x: Tensor, argument: str) -> Tensor:
        check_finite(x, argument)
        return x.new_empty(0)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor
    ) -> None:
        del ctx, inputs, output

    @staticmethod
    def jvp(ctx: torch.autograd.function.FunctionCtx, *tangents: Tensor) -> Tensor:
        del ctx
        return tangents[0].new_empty(0)

    @staticmethod
    def vmap(info: object, in_dims: tuple[int | None, ...], x: Tensor, argument: str) -> tuple[Tensor, None]:
        del info, in_dims
        return _Look.apply(x, argument), None  # type: ignore[no-untyped-call]


def checked_finite(x: Tensor, argument: str) -> Tensor:
    """Return `x` itself, or raise if it holds a NaN or an infinity."""
    # Inside a compiled graph a value test would split it; the driver's guard looks instead.
    if not torch.compiler.is_compiling():
        _Look.apply(x.detach(), argument)  # type: ignore[no-untyped-call]
    return x


class Operator(ABC):
    """A differentiable map between two spaces; immutable, without noise and without network scaling."""

    #: Real precisions it computes in; complex data count by their components.
    dtypes: tuple[torch.dtype, ...] = REAL_DTYPES

    def __init__(self, domain: Space, codomain: Space) -> None:
        self._domain = Space.require(domain, "domain")
        self._codomain = Space.require(codomain, "codomain")

    @property
    def domain(self) -> Space:
        """Space of the arguments."""
        return self._domain

    @property
    def codomain(self) -> Space:
        """Space of the values."""
        return self._codomain

    @property
    def grid(self) -> Grid:
        """Grid of the domain; an error if the domain is not a field."""
        if self.domain.grid is None:
            raise value_error("domain", "be a field on a Grid", self.domain)
        return self.domain.grid

    @property
    def device(self) -> torch.device | None:
        """Device of the operator's own tensors, None if it has none and runs anywhere."""
        # Not a cached_property: its lock, in Python 3.11, cannot be traced by torch.compile.
        if "_memo_device" not in self.__dict__:
            self.__dict__["_memo_device"] = single_device(self, type(self).__name__)
        return cast("torch.device | None", self.__dict__["_memo_device"])

    def to(self, device: torch.device | str) -> Self:
        """Return the same operator with its tensors on `device`."""
        try:
            target = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise value_error(
                "device", "be a torch.device or its name, such as 'cuda'", repr(device)
            ) from error
        return moved(self, target)

    def __call__(self, x: Tensor) -> Tensor:
        """Return A(x)."""
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return A(x) for `x` of shape (..., *domain.shape)."""
        self._check(x, self.domain, "x")
        return checked_finite(self._nested(checked_finite(x, "x")), "A(x)")

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Return J(x)^H r, the gradient at `x` of Re <r, A(x)> with `r` held fixed.

        `x` and `r` have the same batch axes.
        """
        self._check_pair(x, r, self.codomain, "r")
        return self.apply_vjp(checked_finite(x, "x"), checked_finite(r, "r"))

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J(x) v, the directional derivative of A at `x` along `v`, with the same batch axes."""
        self._check_pair(x, v, self.domain, "v")
        return self.apply_jvp(checked_finite(x, "x"), checked_finite(v, "v"))

    # -- the same without a look at the values: for a loop that checks once and guards its own state ----

    def apply(self, x: Tensor) -> Tensor:
        """Return A(x) for an `x` known to be of the domain, on the operator's device."""
        return self._nested(x)

    def apply_vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Return J(x)^H r for arguments known to fit."""
        _, pull_back, *_ = torch.func.vjp(self._nested, x)
        (gradient,) = pull_back(r)
        return gradient  # type: ignore[no-any-return]

    def apply_jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J(x) v for arguments known to fit."""
        # Forward mode writes to its arguments, which an expanded tensor does not bear.
        _, tangent, *_ = torch.func.jvp(self._nested, (x.contiguous(),), (v.contiguous(),))
        return tangent  # type: ignore[no-any-return]

    def __matmul__(self, other: object) -> Operator:
        """Return the operator x -> self(other(x))."""
        if not isinstance(other, Operator):
            raise type_error("other", "be an Operator", type(other).__name__, "Apply to tensors with A(x).")
        return Composed(self, other)

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor:
        """Return A(x) for `x` of shape (batch, *domain.shape), already checked."""

    def _nested(self, x: Tensor) -> Tensor:
        """Return A(x), differentiably, for a checked `x` with any batch axes: what a composition calls."""
        batch = x.shape[: x.ndim - self.domain.ndim]
        return self._apply(x.reshape(-1, *self.domain.shape)).reshape(*batch, *self.codomain.shape)

    def _check_pair(self, x: Tensor, other: Tensor, space: Space, argument: str) -> None:
        self._check(x, self.domain, "x")
        self._check(other, space, argument)
        batch = x.shape[: x.ndim - self.domain.ndim]
        if other.shape != (*batch, *space.shape):
            raise value_error(argument, f"have shape {(*batch, *space.shape)}, beside x", tuple(other.shape))

    def _check(self, x: Tensor, space: Space, argument: str) -> None:
        space.check(x, argument)
        real = torch.float32 if x.dtype in (torch.float32, torch.complex64) else torch.float64
        if real not in self.dtypes:
            raise type_error(argument, f"come in {self.dtypes[0]} for {self!r}", x.dtype)
        device = self.device
        if device is not None and x.device != device:
            raise value_error(
                argument,
                f"be on the operator's device {device}",
                x.device,
                f"Move one of them: {argument}.to({str(device)!r}) or operator.to({str(x.device)!r}).",
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.domain.shape} -> {self.codomain.shape})"


class Composed(Operator):
    """x -> outer(inner(x)) where at least one of the two is nonlinear."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        outer.domain.check_same(inner.codomain, "inner.codomain")
        super().__init__(inner.domain, outer.codomain)
        self.outer = outer
        self.inner = inner
        single_device((outer, inner), "outer and inner operator")

    def _apply(self, x: Tensor) -> Tensor:
        return self.outer._nested(self.inner._nested(x))
