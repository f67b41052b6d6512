"""What filtered back-projection and Feldkamp's algorithm share: weigh, filter, back-project.

    parallel    f(x) = int dtheta  int p(s) w h(s' - s) ds
    flat        f(x) = int dbeta 1/z^2  int p(u) w R cos(g) D h(u' - u) du
    cylindrical f(x) = int dbeta 1/L^2  int p(g) w R cos(g) (G / sin G)^2 h(G) dg,  G = g' - g

h is the ramp, s', u', g' where x is seen; z is its distance from the source along the central ray, L within
the fan, R that of the source from the axis, D that of the detector from the source, g the angle of a ray from
the one through the axis, w the share that a ray has of its line (Kak and Slaney 1988). Above and below the
plane of the source p is multiplied by the cosine of its ray's elevation (Feldkamp, Davis and Kress 1984).
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from operators.base import Operator
from operators.checks import check_number
from operators.ct import CoverageWarning, Projector
from operators.ct.back_projection import back_project
from operators.ct.views import Float, Views
from operators.errors import type_error, value_error
from operators.linear import LinearOperator, Scaled
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.likelihood import Likelihood
from workbench.noise.poisson import LogTransmission, PoissonTransmission
from workbench.noise.transmission import line_integrals
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.analytic.ramp_filter import Window, check_filter, extended, ramp_filtered
from workbench.solvers.analytic.scan_circle import ScanCircle
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["AnalyticInverse", "AnalyticState", "projector_of"]

#: A mean line integral of this share of the largest, at the edge of the detector, is no background.
EDGE = 0.05
#: So many standard errors it must be above zero.
SURE = 5.0


@dataclass(frozen=True)
class AnalyticState:
    """u, zero before the only step."""

    u: Tensor


@dataclass(frozen=True)
class AnalyticInverse(Solver[AnalyticState]):
    """The image of a formula for the inverse of the projector, on the data's own line integrals.

    `filter` is the window on the ramp, `cutoff` the share of the columns' highest frequency beyond which
    nothing passes. `extend` continues data that are cut off at the edge of the detector as those of a disc,
    which takes most of the bright rim away. What a datum weighs in the noise plays no part.
    """

    filter: Window = "ramp"
    cutoff: float = 1.0
    extend: bool = False

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(
        spaces=frozenset({"scalar field"}),
        linear=True,
        exact_adjoint=False,
        noise=frozenset({"gaussian", "poisson"}),
        priors=(Flat,),
    )
    state_type: ClassVar[type[AnalyticState]] = AnalyticState
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_filter(self.filter, self.cutoff)
        object.__setattr__(self, "cutoff", check_number(self.cutoff, "cutoff"))
        if not isinstance(self.extend, bool):
            raise type_error("extend", "be True or False", repr(self.extend))

    @abstractmethod
    def check_views(self, views: Views) -> None:
        """Raise where the formula does not hold for such rays."""

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row."""
        _, projector = projector_of(_physical(posterior).operator)
        self.check_views(projector.views)
        return SolverPlan.steps(1)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> AnalyticState:
        """Return u = 0."""
        return AnalyticState(like.new_zeros(len(keys.draws), *posterior.space.shape))

    def step(
        self, posterior: Posterior, state: AnalyticState, row: PlanRow, keys: Keys
    ) -> tuple[AnalyticState, Info]:
        """Do all there is to do; `residual` is |A x - m| / |m| for the data's own line integrals m."""
        del row, keys
        physical, likelihood = _physical(posterior), posterior.measured
        factor, projector = projector_of(physical.operator)
        if isinstance(physical.noise, PoissonTransmission):
            line_integrals(physical.data, physical.noise.blank)  # warns of starved rays
        data = _integrals(physical).to(state.u)
        if physical.offset is not None:
            data = data - physical.offset.to(data)
        x = self.image(projector, data) / factor
        u = posterior.from_physical(x).expand_as(state.u).contiguous()
        predicted = likelihood.operator.apply(u)
        if likelihood.offset is not None:
            predicted = predicted + likelihood.offset.to(predicted)
        missed = (predicted - _integrals(likelihood).to(predicted)).flatten(1).norm(dim=1)
        size = data.norm().clamp(min=torch.finfo(data.dtype).tiny)
        return AnalyticState(u), Info(u, {"residual": missed / size})

    def answer(self, posterior: Posterior, state: AnalyticState) -> Tensor:
        """Return u."""
        del posterior
        return state.u

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return the projection that the residual takes."""
        del posterior, plan
        return Cost(operator_calls=1)

    def image(self, projector: Projector, data: Tensor) -> Tensor:
        """Return the image (z, y, x) in 1/mm of line integrals `data` (views, rows, columns)."""
        views = projector.views
        circle = ScanCircle.of(views)
        weights = circle.weights()[:, None]
        if not self.extend:
            _warn_if_truncated(data, circle)
        pitch, angular = views.pitch[0], False
        if not views.parallel:
            weights = weights * _elevation(views) * _spread(views, circle)
            angular = bool(np.isfinite(views.radius))
            pitch = pitch / views.radius if angular else pitch
        # What the filter spreads beyond the shorter side of a detector off the middle belongs to the image.
        views, before, after = _evened(views, circle.one_sided)
        width = data.shape[-1] // 2 if self.extend else 0
        if self.extend:
            data = extended(data, width)
            weights = np.pad(weights, ((0, 0), (0, 0), (width, width)), mode="edge")
        weighted = torch.nn.functional.pad(data * _tensor(weights, data), (before, after))
        filtered = ramp_filtered(weighted, pitch, window=self.filter, cutoff=self.cutoff, angular=angular)
        filtered = filtered[..., width : filtered.shape[-1] - width].contiguous()
        return back_project(projector.domain.grid, views, filtered)  # type: ignore[arg-type]


def projector_of(operator: Operator) -> tuple[float, Projector]:
    """Return f and A of an operator that does f A, A a CT projector; else an error."""
    factor, inner = 1.0, operator
    while not isinstance(inner, Projector):
        if isinstance(inner, Scaled):
            factor *= float(inner.factor.real)
        within: Any = getattr(inner, "op", None)
        # An operator around another one between the same spaces, such as one that counts calls.
        same = isinstance(within, LinearOperator) and within.domain == inner.domain
        if not same or within.codomain != inner.codomain:
            remedy = "An analytical inverse knows CT scans alone: use ConjugateGradient."
            raise type_error("operator", "be a CT Projector, or a multiple of one", repr(operator), remedy)
        inner = within
    return factor, inner


def _physical(posterior: Posterior) -> Likelihood:
    if posterior.physical_likelihood is None:
        raise value_error("posterior", "have a likelihood", "None", "Posterior(prior, likelihood).")
    return posterior.physical_likelihood


def _integrals(likelihood: Likelihood) -> Tensor:
    """Return what the data alone say of A x + offset."""
    noise = likelihood.noise
    law = LogTransmission(noise.blank) if isinstance(noise, PoissonTransmission) else noise
    form = law.gaussian_form(likelihood.data, likelihood.operator.codomain)
    if form is None:
        remedy = "Give line integrals with Gaussian noise, or counts."
        raise type_error("noise", "be that of line integrals or of transmitted counts", repr(noise), remedy)
    return form.data


def _tensor(values: Float, like: Tensor) -> Tensor:
    return torch.tensor(values).to(like)


def _evened(views: Views, longer: int) -> tuple[Views, int, int]:
    """Return the views with columns added before and after, until the shorter side is as long as the other.

    `longer` is the end, -1 or 1, of the longer side, 0 where there is none.
    """
    radius = views.radius
    round_ = np.isfinite(radius)
    along = radius * np.arcsin(views.across / radius) if round_ else views.across
    extra = math.ceil(abs(float(along[0] + along[-1])) / views.pitch[0]) if longer else 0
    before, after = (extra, 0) if longer > 0 else (0, extra)
    along = along[0] + views.pitch[0] * np.arange(-before, len(along) + after)
    if not round_:
        return replace(views, across=along, sag=np.zeros(len(along))), before, after
    angles = along / radius
    across, sag = radius * np.sin(angles), radius * (np.cos(angles) - 1)
    return replace(views, across=across, sag=sag), before, after


def _elevation(views: Views) -> Float:
    """Return the cosine (views, rows, columns) of each ray's angle from the plane of its fan."""
    if views.lifted:
        return np.ones((1, 1, 1))
    offset = views.through - views.centre
    up = views.up - np.einsum("vi,vi->v", offset, views.rows)[:, None]
    aside = views.across - np.einsum("vi,vi->v", offset, views.columns)[:, None]
    ahead = views.sag - np.einsum("vi,vi->v", offset, views.outwards)[:, None]
    within = (aside**2 + ahead**2)[:, None]
    cosine: Float = np.sqrt(within / (within + (up**2)[:, :, None]))
    return cosine


def _spread(views: Views, circle: ScanCircle) -> Float:
    """Return R cos g, and on a flat detector D times that, (views, 1, columns)."""
    from_axis = views.through - circle.centre
    from_axis = from_axis - (from_axis @ circle.axis)[:, None] * circle.axis
    spread = np.linalg.norm(from_axis, axis=1)[:, None] * np.cos(circle.beside)
    if not np.isfinite(views.radius):
        depth = np.einsum("vi,vi->v", views.centre - views.through, views.outwards)
        spread = spread * depth[:, None]
    found: Float = spread[:, None]
    return found


def _warn_if_truncated(data: Tensor, circle: ScanCircle) -> None:
    near = max(data.shape[-1] // 64, 1)
    largest = max(float(data.double().mean(dim=(0, 1)).max()), 1e-300)
    sides = {-1: data[..., :near], 1: data[..., -near:]}
    if circle.one_sided:
        # The other side is cut off on purpose: its lines are measured from the opposite one.
        sides = {circle.one_sided: sides[circle.one_sided]}
    share = 0.0
    for side in sides.values():
        mean, spread = float(side.double().mean()), float(side.double().std(correction=0))
        error = spread / max(side.numel() - 1, 1) ** 0.5
        share = max(share, mean / largest if mean > SURE * error else 0.0)
    if share > EDGE:
        warnings.warn(
            f"the line integrals at the edge of the detector are {share:.0%} of the largest: the object is "
            "cut off, and the image has a bright rim and an offset. extend=True takes most of the rim away.",
            CoverageWarning,
            stacklevel=2,
        )
