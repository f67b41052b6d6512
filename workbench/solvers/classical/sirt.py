"""SIRT, the simultaneous iterative reconstruction technique: weighted steps towards the line integrals.

    x' = clip(x + relaxation C A^T R (y - A x)),      R = 1 / (A 1),    C = 1 / (A^T 1),    from x = 0

(Gilbert 1972; Gregor and Benson 2008.) For A >= 0 no eigenvalue of C A^T R A exceeds 1, so it converges for
0 < relaxation < 2, to a minimum of sum_i R_i (y - A x)_i^2 within the bounds: long rays count less.
Its bias: an early stop is the only regularisation there is, so that the number of iterations is part of the
answer; what the noise says of a datum plays no part. All of it is in physical units, whatever those of u are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.checks import check_count, check_finite, check_number
from operators.errors import type_error, value_error
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.likelihood import Likelihood
from workbench.noise.poisson import PoissonTransmission
from workbench.noise.transmission import line_integrals
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["SIRT", "SIRTState"]

#: Shares of the voxels in the images that A is tried on, for entries < 0: the fewer, the less these can hide.
SHARES = (0.5, 0.05)


@dataclass(frozen=True)
class SIRTState:
    """u, and what A predicts of it."""

    u: Tensor
    image: Tensor


@dataclass(frozen=True)
class SIRT(Solver[SIRTState]):
    """`iterations` of SIRT from an empty image, kept within the physical bounds `lower` and `upper`.

    For operators of entries >= 0, as the line integrals of CT. That is tried, not proved: row sums, column
    sums and the images of random sets of voxels must not be negative. Data are line integrals, or counts
    whose logarithm is taken. The record tells `residual`, |A x - y| / |y|, and what goes down at each step,
    `weighted`: the R-weighted root mean square of A x - y.
    """

    iterations: int
    lower: float | None = None
    upper: float | None = None
    relaxation: float = 1.0

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(
        spaces=frozenset({"scalar field"}),
        linear=True,
        noise=frozenset({"gaussian", "poisson"}),
        priors=(Flat,),
    )
    state_type: ClassVar[type[SIRTState]] = SIRTState
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count(self.iterations, "iterations")
        for name in ("lower", "upper"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name)
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise value_error("lower", f"be below upper = {self.upper}", self.lower)
        if not check_number(self.relaxation, "relaxation", positive=True) < 2:
            raise value_error("relaxation", "be below 2, beyond which it diverges", self.relaxation)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration; the operator must have no entry < 0."""
        _Scales.of(posterior)
        return SolverPlan.steps(self.iterations)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> SIRTState:
        """Return the empty image, x = 0, or the bound that is nearest to it."""
        nothing = posterior.from_physical(like.new_zeros(len(keys.draws), *posterior.space.shape))
        u = self._bounded(posterior, nothing)
        return SIRTState(u, posterior.measured.operator.apply(u))

    def step(
        self, posterior: Posterior, state: SIRTState, row: PlanRow, keys: Keys
    ) -> tuple[SIRTState, Info]:
        """Do one iteration."""
        del row, keys
        scales, operator = _Scales.of(posterior), posterior.measured.operator
        missed = scales.data.to(state.image) - state.image
        pull = operator.apply_vjp(state.u, scales.rows * missed)
        u = self._bounded(posterior, state.u + self.relaxation * scales.columns * pull)
        image = operator.apply(u)
        square = (scales.data.to(image) - image).double().square()
        rows = scales.rows.double()
        values = {
            "residual": square.flatten(1).sum(1).sqrt() / scales.size,
            "weighted": ((rows * square).flatten(1).sum(1) / rows.sum().clamp(min=1e-300)).sqrt(),
        }
        return SIRTState(u, image), Info(u, values)

    def answer(self, posterior: Posterior, state: SIRTState) -> Tensor:
        """Return u as it stands."""
        del posterior
        return state.u

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return A and its adjoint per iteration, and A once more at the start."""
        del posterior
        return Cost(operator_calls=2 * len(plan) + 1)

    def _bounded(self, posterior: Posterior, u: Tensor) -> Tensor:
        low, high = (
            None
            if bound is None
            else float(posterior.from_physical(torch.tensor(bound, dtype=torch.float64)))
            for bound in (self.lower, self.upper)
        )
        return u if low is None and high is None else u.clamp(min=low, max=high)


@dataclass(frozen=True, eq=False)
class _Scales:
    """The line integrals, their size, R and C of A as a function of u."""

    data: Tensor
    size: float
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, posterior: Posterior) -> _Scales:
        return posterior.kept("sirt", lambda: cls._made(posterior))

    @classmethod
    def _made(cls, posterior: Posterior) -> _Scales:
        likelihood = posterior.measured
        operator = likelihood.operator
        if operator.codomain.is_complex:
            remedy = "For complex data: ConjugateGradient or Tikhonov."
            raise type_error("operator", "have real values, and entries >= 0", repr(operator), remedy)
        ones = torch.ones(1, *posterior.space.shape, dtype=likelihood.dtype, device=likelihood.device)
        images = [ones]
        for share in SHARES:
            white = Keys(0, (0,)).uniforms(posterior.space.shape, f"sirt: voxels {share}", like=ones)
            images.append((white < share).to(ones))
        rows = [operator.apply(image) for image in images]
        columns = operator.apply_vjp(ones, torch.ones_like(rows[0]))
        _require_positive(rows, "A")
        _require_positive([columns], "A^T")
        data = _line_integrals(likelihood).to(ones.dtype)
        size = float((data - operator.apply(posterior.from_physical(0 * ones))).double().norm())
        return cls(data, size or 1.0, _inverse(rows[0]), _inverse(columns))


def _line_integrals(likelihood: Likelihood) -> Tensor:
    """Return what the data alone say of A u."""
    noise = likelihood.noise
    if isinstance(noise, PoissonTransmission):
        data = line_integrals(likelihood.data, noise.blank)  # warns of starved rays
    else:
        form = noise.gaussian_form(likelihood.data, likelihood.operator.codomain)
        if form is None:
            remedy = "Give line integrals with Gaussian noise, or counts."
            raise type_error("noise", "be that of line integrals or of counts", repr(noise), remedy)
        data = form.data
    return data if likelihood.offset is None else data - likelihood.offset.to(data)


def _require_positive(images: list[Tensor], name: str) -> None:
    """Raise where an image of something >= 0, the first of them that of 1, has an entry < 0."""
    for image in images:
        check_finite(image, name)
    least = min(float(image.min()) for image in images)
    if least < -_rounding(images[0]) * float(images[0].abs().max()):
        remedy = "SIRT is for line integrals and their like: ConjugateGradient takes any linear operator."
        found = f"{least:.3g} among its sums over entries of {name}"
        raise value_error("operator", "have no entry < 0", found, remedy)


def _rounding(sums: Tensor) -> float:
    return 100 * torch.finfo(sums.dtype).eps


def _inverse(sums: Tensor) -> Tensor:
    """Return 1 / sums, and 0 for rays that meet no voxel and voxels that no ray meets."""
    met = sums > _rounding(sums) * sums.max()
    return torch.where(met, 1 / torch.where(met, sums, 1.0), 0.0)
