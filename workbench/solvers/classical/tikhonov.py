"""Tikhonov regularisation: argmin |B u - z|^2 / 2 + weight / 2 |L u|^2.

    "value"   L = 1, the size of u                      "slope"   L = D, its gradient per mm

(Phillips 1962, Tikhonov 1963; "value" is damped least squares.) In closed form where B^H B + weight is solved
in one, else by conjugate gradients in double precision on v, u = R v, where the penalty is flat:

    (R B^H B R + P) v = R B^H z,      R = (weight L^H L + c)^-1/2,      P = weight L^H L (weight L^H L + c)^-1

Cosines diagonalise D^H D. c is 0 for "value", and |B 1|^2 / |1|^2 for "slope", which sees no level: what the
penalty leaves free is scaled by what the measurement says of it. The iteration ends where the error is a
small share of the standard deviations of exp(-objective): what the next iterations gain is the error before
them (Hestenes and Stiefel 1952; Strakos and Tichy 2002).
Its bias: whatever is measured badly is pulled to 0 or made smooth, edges like anything else.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from operators.batch import components
from operators.cg import CGState, cg_start, cg_step
from operators.checks import check_count, check_number
from operators.cosine import Cosine
from operators.differences import FiniteDifferences
from operators.errors import ConvergenceWarning, value_error
from operators.linear import LinearOperator
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.likelihood.white_solve import unscaled
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver
from workbench.solvers.gaussian_system import wide_like

__all__ = ["Tikhonov", "TikhonovState"]

#: Iterations whose gain is taken for the error before them.
DELAY = 10


@dataclass(frozen=True)
class TikhonovState:
    """The image where it is `known`, else the solve for v and the gains (DELAY, batch) of its last steps."""

    known: Tensor | None
    solve: CGState | None
    gains: Tensor


@dataclass(frozen=True)
class Tikhonov(Solver[TikhonovState]):
    """The image of least |B u - z|^2 / 2 + weight / 2 times the sum over voxels of |u|^2 or |grad u|^2.

    `weight` is in 1 / (unit of u)^2 for the "value", in mm^2 / (unit of u)^2 for the "slope", u in the units
    of the prior: the "value" pulls to u = 0, their offset. `iterations` are a limit: it ends where the
    error is estimated to be below `tolerance` standard deviations of the Gaussian exp(-objective), root mean
    square.
    """

    weight: float
    penalty: Literal["value", "slope"] = "value"
    iterations: int = 2000
    tolerance: float = 1e-5

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(linear_gaussian=True, priors=(Flat,))
    state_type: ClassVar[type[TikhonovState]] = TikhonovState
    deterministic: ClassVar[bool] = True
    plan_is_limit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.weight, "weight", positive=True)
        if self.penalty not in ("value", "slope"):
            raise value_error("penalty", "be 'value' or 'slope'", repr(self.penalty))
        check_count(self.iterations, "iterations")
        check_number(self.tolerance, "tolerance", positive=True)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration."""
        if self.penalty == "slope":
            FiniteDifferences(posterior.space)  # says what a space without neighbours lacks
        return SolverPlan.steps(self.iterations)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> TikhonovState:
        """Return the closed form where there is one, else v = 0."""
        b, z = posterior.measured.whitened
        like = wide_like(posterior, like)
        z = z.to(b.codomain.dtype_like(like))
        side = b.apply_adjoint(z.expand(len(keys.draws), *z.shape))
        gains = torch.zeros(DELAY, len(keys.draws), dtype=torch.float64, device=side.device)
        # The multiple is taken out: operators may know solves that multiples of them do not.
        square, operator = unscaled(b)
        if self.penalty == "value" and operator.has_closed_form and square > 0:
            return TikhonovState(operator.normal_solve(side / square, self.weight / square), None, gains)
        system = self._system(posterior)
        # Its own stop is for what is solved to the last digit.
        exact = 4 * torch.finfo(side.dtype).eps
        return TikhonovState(None, cg_start(system.apply, system.rooted(side), tolerance=exact), gains)

    def step(
        self, posterior: Posterior, state: TikhonovState, row: PlanRow, keys: Keys
    ) -> tuple[TikhonovState, Info]:
        """Do one iteration."""
        del keys
        if state.solve is None:
            return state, Info(state.known, finished=True)
        before = state.solve
        solve = before if before.finished else cg_step(self._system(posterior).apply, before)
        gains = torch.cat([state.gains[1:], (solve.gain * solve.unit**2).to(state.gains)[None]])
        # At first, and where nothing is left to gain, there is the residual.
        known = row.index + 1 >= DELAY and not solve.finished
        left = gains.sum(0) if known else solve.energy * solve.unit**2
        error = (left / components(solve.x)).sqrt()
        reached = float(error.max())
        finished = solve.finished or (known and reached <= self.tolerance)
        if reached > self.tolerance and (finished or row.index + 1 == self.iterations):
            remedy = "Rounding allows no more: raise `tolerance`." if finished else "Raise `iterations`."
            warnings.warn(
                f"Tikhonov stopped {reached:.1e} standard deviations from its minimum, not "
                f"{self.tolerance:g}, after {solve.iteration} iterations. {remedy}",
                ConvergenceWarning,
                stacklevel=2,
            )
        moved = TikhonovState(None, solve, gains)
        return moved, Info(lambda: self.answer(posterior, moved), {"accuracy": error}, finished)

    def answer(self, posterior: Posterior, state: TikhonovState) -> Tensor:
        """Return u as it stands."""
        solved = state.known
        if state.solve is not None:
            solved = self._system(posterior).rooted(state.solve.solution)
        return solved.to(posterior.like().dtype)  # type: ignore[union-attr]

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return the one back-projection that no data can spare."""
        del posterior, plan
        return Cost(operator_calls=1)

    def _system(self, posterior: Posterior) -> _System:
        name = f"tikhonov {self.penalty} {self.weight!r}"
        return posterior.kept(name, lambda: _System.of(posterior, self.weight, self.penalty))


@dataclass(frozen=True, eq=False)
class _System:
    """B, the diagonals of R and P, and the transform that makes them diagonal, None for none."""

    matrix: LinearOperator
    root: Tensor
    share: Tensor
    cosine: Cosine | None

    @classmethod
    def of(cls, posterior: Posterior, weight: float, penalty: str) -> _System:
        b, _ = posterior.measured.whitened
        like = wide_like(posterior, posterior.like()).real
        if penalty == "value":
            one = torch.ones(b.domain.ndim * (1,), dtype=like.dtype, device=like.device)
            return cls(b, one / math.sqrt(weight), one, None)
        gradient = FiniteDifferences(posterior.space)
        square = torch.zeros((), dtype=torch.float64, device=like.device)
        for axis, size in zip(gradient.axes, gradient.spacing, strict=True):
            n = posterior.space.shape[axis]
            angle = math.pi * torch.arange(n, dtype=torch.float64, device=like.device) / (2 * n)
            square = square + (4 * angle.sin() ** 2 / size**2).reshape(-1, *[1] * (-axis - 1))
        pull = weight * square
        ones = torch.ones(1, *b.domain.shape, dtype=b.domain.dtype_like(like), device=like.device)
        level = float(b.apply(ones).abs().double().square().sum()) / ones.numel()
        total = pull + (level if level > 0 else float(pull.mean()))
        root, share = (values.to(like.dtype) for values in (1 / total.sqrt(), pull / total))
        return cls(b, root, share, Cosine(posterior.space, gradient.axes))

    def apply(self, v: Tensor) -> Tensor:
        """Return (R B^H B R + P) v."""
        return self.rooted(self.matrix.gram.apply(self.rooted(v))) + self._diagonal(self.share, v)

    def rooted(self, v: Tensor) -> Tensor:
        """Return R v."""
        return self._diagonal(self.root, v)

    def _diagonal(self, values: Tensor, v: Tensor) -> Tensor:
        if self.cosine is None:
            return values * v
        return self.cosine.apply_adjoint(values * self.cosine.apply(v))
