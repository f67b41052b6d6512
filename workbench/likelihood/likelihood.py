"""The likelihood p(y | A(x) + offset) as a function of x: operator, noise and data together.

    m = A(x) + offset,    J = dA/dx,    s = d log p / dm,    H = -d^2 log p / dm^2
    gradient   J^H s                 curvature   J^H H J
    prox(c, r) = argmin_x -log p(y | m) + |x - c|^2 / (2 r^2)

Linear-Gaussian: -log p = |B x - z|^2 / 2 + const with B = W A, z = W (y - offset). Then the prox is
(B^H B + I / r^2)^-1 (B^H z + c / r^2), the mean of N(c, r^2) x likelihood, and the inverse is its
covariance. Every x has any batch axes in front; a complex x counts as twice as many real directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch
from torch import Tensor

from operators import linalg
from operators.affine import Affine
from operators.base import Operator
from operators.batch import dots
from operators.checks import check_count, check_finite, check_number
from operators.constant import Constant, moved, single_device
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.linear import LinearOperator, Scaled
from operators.space import Space
from workbench.likelihood.laplacian import BatchTrace, probed_trace, second_derivative
from workbench.likelihood.newton import law_prox
from workbench.likelihood.white_solve import accuracy_asked, unscaled, white_prox
from workbench.noise.base import (
    GaussianForm,
    Noise,
    Value,
    counted,
    detached,
    device_named,
    double,
    per_sample,
)
from workbench.random import Keys

__all__ = ["BatchTrace", "Likelihood"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Likelihood:
    """p(data | operator(x) + offset) under `noise`; `offset` is what would be measured at x = 0.

    The data are kept in their own precision and served in that of x; `unit` is what x is in, if known.
    """

    operator: Operator
    noise: Noise
    data: Tensor
    offset: Tensor | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.operator, Operator):
            raise type_error("operator", "be an Operator", type(self.operator).__name__)
        if not isinstance(self.noise, Noise):
            remedy = "White noise: Gaussian(sigma)."
            raise type_error("noise", "be a Noise", type(self.noise).__name__, remedy)
        codomain = self.operator.codomain
        if isinstance(self.data, Tensor):
            object.__setattr__(self, "data", counted(self.data))
        self.noise.check(self.data, codomain)
        object.__setattr__(self, "data", detached(self.data))
        if self.offset is not None:
            codomain.check(self.offset, "offset")
            if tuple(self.offset.shape) != codomain.shape:
                raise value_error("offset", f"have shape {codomain.shape}", tuple(self.offset.shape))
            check_finite(self.offset, "offset")
            object.__setattr__(self, "offset", detached(self.offset))
        single_device((self.operator, self.noise, self.data, self.offset), "operator, noise and data")

    @property
    def domain(self) -> Space:
        """Space of x."""
        return self.operator.domain

    @property
    def grid(self) -> Grid:
        """Grid of x; an error if its space has none."""
        return self.operator.grid

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x in the precision of the data, or in one that the operator has."""
        precision = torch.empty(0, dtype=self.data.dtype).real.dtype
        known = precision if precision in self.operator.dtypes else self.operator.dtypes[0]
        return self.domain.dtype_like(torch.empty(0, dtype=known))

    @property
    def device(self) -> torch.device:
        """Device of the data, and of x."""
        return self.data.device

    @property
    def is_linear(self) -> bool:
        """Whether the operator is linear."""
        return isinstance(self.operator, LinearOperator)

    @property
    def is_linear_gaussian(self) -> bool:
        """Whether it is |B x - z|^2 / 2 up to a constant."""
        return self.is_linear and self._form is not None

    @property
    def whitened(self) -> tuple[LinearOperator, Tensor]:
        """B and z of the linear-Gaussian -log p = |B x - z|^2 / 2 + const."""
        form, operator = self._form, self.operator
        if form is None or not isinstance(operator, LinearOperator):
            remedy = "Use gradient() and curvature(), or Gaussian noise on a linear operator."
            raise type_error("likelihood", "be linear-Gaussian", repr(self), remedy)

        def make() -> tuple[LinearOperator, Tensor]:
            # In double precision: a high signal to noise makes much of the rounding of single.
            data = double(form.data) if torch.float64 in form.whitener.dtypes else form.data
            data = data if self.offset is None else data - self._served("offset", data)
            return form.whitened(operator), form.whitener.apply(data)

        return self._kept("whitened", make)

    def to(self, device: torch.device | str) -> Self:
        """Return the same likelihood with all its tensors on `device`."""
        return moved(self, device_named(device))

    def predicted(self, x: Tensor) -> Tensor:
        """Return m = A(x) + offset."""
        self._check(x, "x")
        return self._predicted(x)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return log p(y | x) per batch element, in double precision, differentiable in x."""
        self._check(x, "x")
        return self._log_likelihood(x)

    def gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of log p(y | x)."""
        self._check(x, "x")
        return self.operator.apply_vjp(x, self.noise.score(self._predicted(x), self._served("data", x)))

    def curvature(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J^H H J v at `x`, for the same batch axes: of a nonlinear A the Gauss-Newton part."""
        self._check(x, "x")
        self._check(v, "v")
        if v.shape != x.shape:
            raise value_error("v", f"have the shape of x, {tuple(x.shape)}", tuple(v.shape))
        image = self.operator.apply_jvp(x, v)
        # A Gaussian curvature is the same everywhere: any point will do.
        point = image if self._form is not None else self._predicted(x)
        return self.operator.apply_vjp(x, self.noise.curvature(point, self._served("data", x), image))

    def laplacian(self, x: Tensor, *, probes: int = 16, seed: int = 0) -> BatchTrace:
        """Return the sum of the second derivatives of log p(y | x) over the real directions of x.

        Exact where the trace of B^H B is known, else from random signs keyed by `seed`; the second
        derivative of a nonlinear A is part of it.
        """
        self._check(x, "x")
        check_count(probes, "probes", minimum=2)
        batch = x.shape[: x.ndim - self.domain.ndim]
        if self.is_linear_gaussian:
            trace = self._gaussian_trace(probes, seed)
            value = torch.tensor([-trace.value, trace.standard_error], dtype=torch.float64, device=x.device)
            return BatchTrace(value[0].expand(batch), value[1].expand(batch))
        m, data = self._predicted(x), self._served("data", x)
        hessian = second_derivative(self.operator, self.noise, x, m, data)
        return probed_trace(self.domain, hessian, x, probes, seed)

    def prox(
        self, c: Tensor, r: Value, *, tolerance: float | None = None, max_iterations: int | None = None
    ) -> Tensor:
        """Return argmin_x -log p(y | x) + |x - c|^2 / (2 r^2); `r` broadcasts over the batch axes.

        To within `tolerance` (1e-4 in single, 1e-8 in double precision) standard deviations of exp(-what is
        minimised), root mean square. Linear-Gaussian: in closed form where there is one, else in at most
        `max_iterations` (5000) of conjugate gradients, in double precision; differentiable. Else Newton-CG
        from c in at most `max_iterations` (200) steps: fast for a log-concave law of a linear A, linearly
        else, and to a local minimum where the problem is not convex. Both warn where they stop short.
        """
        self._check(c, "c")
        check_finite(c, "c")
        r = per_sample(r, "r", c.shape[: c.ndim - self.domain.ndim], c)
        if self.is_linear_gaussian:
            return self._solved(c, self._served("z", c), r, tolerance, max_iterations)
        limit = 200 if max_iterations is None else max_iterations
        with torch.no_grad():
            data = self._served("data", double(c) if torch.float64 in self.operator.dtypes else c)
            return law_prox(self.operator, self.noise, data, self._predicted, c, r, tolerance, limit)

    def prox_draw(
        self,
        c: Tensor,
        r: Value,
        keys: Keys,
        purpose: str = "prox",
        *,
        power: float = 1.0,
        tolerance: float | None = None,
    ) -> Tensor:
        """Return exact draws from N(c, r^2) x likelihood^power, linear-Gaussian, for `c` (draws, *shape).

        The prox, at r sqrt(power), of c + r w and z + w' / sqrt(power): its covariance is the inverse of
        power B^H B + I / r^2.
        """
        b, _ = self.whitened
        self._check(c, "c")
        check_finite(c, "c")
        if c.shape != (len(keys.draws), *self.domain.shape):
            raise value_error("c", f"have shape {(len(keys.draws), *self.domain.shape)}", tuple(c.shape))
        r = per_sample(r, "r", c.shape[:1], c)
        z, root = self._served("z", c), check_number(power, "power", positive=True) ** 0.5
        data = z + keys.normals(b.codomain.shape, f"{purpose}: data", like=z) / root
        white = keys.normals(self.domain.shape, f"{purpose}: point", like=c) / root
        return self._solved(c, data, root * r, tolerance, None, white)

    def prox_value(
        self, c: Tensor, r: Value, *, power: float = 1.0, tolerance: float = 1e-4
    ) -> tuple[Tensor, Tensor]:
        """Return x and value of max_x power log p(y | x) - |x - c|^2 / (2 r^2), linear-Gaussian.

        Up to -log det(I + power r^2 B^H B) / 2, the same for every c, the value is the logarithm of the
        integral of N(c, r^2) x likelihood^power. Both are in double precision where B can be.
        """
        b, _ = self.whitened
        c = double(c) if torch.float64 in b.dtypes else c
        root = check_number(power, "power", positive=True) ** 0.5
        # The value is stationary in x: off by the square of what x is.
        x = self.prox(c, root * r, tolerance=tolerance)
        apart = x - c
        far = dots(apart, apart).double() / (2 * r * r)
        return x, power * self._log_likelihood(x) - far

    def draw(self, x: Tensor, keys: Keys, purpose: str = "noise") -> Tensor:
        """Return data drawn for each row of `x` (draws, *shape)."""
        return self.noise.draw(self.predicted(x), keys, purpose)

    def rescaled(self, scale: float, offset: Value = 0.0) -> Likelihood:
        """Return the same likelihood as a function of u, x = scale * u + offset.

        A linear operator stays one, scale * A, and A(offset) joins the offset of the data; Gaussian
        noise takes the offset into the data, so that none is left.
        """
        affine = Affine(self.domain, check_number(scale, "scale", positive=True), offset)
        single_device((affine, self.data), "offset and data")
        operator, total = self.operator, self.offset
        moves = isinstance(offset, Tensor) or offset != 0
        if isinstance(operator, LinearOperator):
            if moves:
                zero = torch.zeros(self.domain.shape, dtype=self.dtype, device=self.device)
                shift = operator(affine(zero))
                total = shift if total is None else total + shift.to(total.dtype)
            operator = operator if scale == 1 else Scaled(scale, operator)
        elif moves or scale != 1:
            operator = operator @ affine
        data = None if total is None else self.noise.shifted(self.data, total)
        if data is not None:
            return replace(self, operator=operator, data=data, offset=None, unit="")
        unchanged = operator is self.operator and total is self.offset
        return self if unchanged else replace(self, operator=operator, offset=total, unit="")

    # -- without checks --------------------------------------------------------------------------

    def _kept(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` makes, made once."""
        if f"_memo_{name}" not in self.__dict__:
            self.__dict__[f"_memo_{name}"] = make()
        kept: T = self.__dict__[f"_memo_{name}"]
        return kept

    @property
    def _form(self) -> GaussianForm | None:
        return self._kept("form", lambda: self.noise.gaussian_form(self.data, self.operator.codomain))

    def _served(self, name: str, like: Tensor) -> Tensor:
        """Return the data, the offset or the whitened data in the precision of `like`."""
        constant = self._kept(
            name, lambda: Constant(self.whitened[1] if name == "z" else getattr(self, name))
        )
        return constant.like(like)

    def _predicted(self, x: Tensor) -> Tensor:
        m = self.operator.apply(x)
        return m if self.offset is None else m + self._served("offset", m)

    def _log_likelihood(self, x: Tensor) -> Tensor:
        return self.noise.log_likelihood(self._predicted(x), self.data)

    def _gaussian_trace(self, probes: int, seed: int) -> linalg.TraceEstimate:
        square, operator = unscaled(self.whitened[0])
        name = f"trace_{probes}_{seed}"
        trace = self._kept(name, lambda: operator.gram_trace(probes=probes, seed=seed))
        # A complex-linear B has a trace over complex directions, each of which is two.
        factor = square * (2 if operator.over_complex else 1)
        return linalg.TraceEstimate(factor * trace.value, factor * trace.standard_error)

    def _solved(
        self,
        c: Tensor,
        z: Tensor,
        r: Value,
        tolerance: float | None,
        max_iterations: int | None,
        white: Tensor | None = None,
    ) -> Tensor:
        """Return the prox, or with `white` the draw that has it for its mean, of data z.

        x = c + r v with v white beforehand: what is measured tells of v alone, to its own precision.
        """
        square, operator = unscaled(b := self.whitened[0])
        most = 5000 if max_iterations is None else max_iterations
        point = c if white is None else c + self._per_sample(r) * white
        if square == 0:
            return point
        if operator.has_closed_form:
            # Double: rounding of r^2 B^H e stays where nothing is measured. Multiples may know no solve.
            wide, z = (double(point), double(z)) if torch.float64 in b.dtypes else (point, z)
            side = b.apply_adjoint(z - b.apply(wide)) / square
            return (wide + operator.normal_solve(side, 1 / (r * r * square), max_iterations=most)).to(c.dtype)
        goal = accuracy_asked(tolerance, c)
        with torch.no_grad():
            x = white_prox(b, point, z, r, goal, most)
        if not torch.is_grad_enabled() or not any(isinstance(t, Tensor) and t.requires_grad for t in (c, r)):
            return x
        # What is left of the equation is next to nothing; its derivative is that of the answer.
        pull = self._per_sample(1 / (r * r))
        rest = b.apply_adjoint(z - b.apply(x)) - pull * (x - point)
        return x + operator.normal_solve(rest / square, 1 / (r * r * square), max_iterations=most)

    def _per_sample(self, value: Value) -> Value:
        """Return what varies over the batch axes shaped to multiply an x."""
        return value.reshape(*value.shape, *[1] * self.domain.ndim) if isinstance(value, Tensor) else value

    def _check(self, x: Tensor, argument: str) -> None:
        self.operator._check(x, self.domain, argument)
        if x.device != self.device:
            remedy = f"Move one of them: likelihood.to({str(x.device)!r})."
            raise value_error(argument, f"be on the device of the data, {self.device}", x.device, remedy)

    def __repr__(self) -> str:
        shift = "" if self.offset is None else ", offset"
        return f"Likelihood({self.operator!r}, {self.noise!r}{shift})"
