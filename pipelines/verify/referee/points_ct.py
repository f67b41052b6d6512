"""SIRT and filtered back-projection once more, in a few lines each: what the CT rows are held to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.ct.projector import Projector
from operators.errors import type_error
from operators.linear import LinearOperator
from pipelines.verify.referee.truth import reals
from workbench.likelihood import Likelihood
from workbench.likelihood.white_solve import unscaled
from workbench.posterior import Posterior

__all__ = ["back_projected", "projector_of", "sirt"]


def projector_of(posterior: Posterior) -> Projector | None:
    """Return the CT projector of a problem, None where there is none."""
    operator = _physical(posterior).operator
    inner = unscaled(operator)[1] if isinstance(operator, LinearOperator) else operator
    return inner if isinstance(inner, Projector) else None


def sirt(posterior: Posterior, iterations: int) -> Tensor:
    """Return u after the iterations of SIRT, in physical units: x' = x + C A^T R (y - A x)."""
    likelihood = _physical(posterior)
    operator = likelihood.operator
    if not isinstance(operator, LinearOperator):
        raise type_error("operator", "be linear", repr(operator))
    x = torch.zeros(1, *posterior.space.shape, dtype=torch.float64)
    rows = operator.apply(torch.ones_like(x))
    columns = operator.apply_adjoint(torch.ones_like(rows))
    for _ in range(iterations):
        gap = torch.where(rows > 0, (likelihood.data - operator.apply(x)) / rows.clamp(min=1e-300), 0.0)
        x = x + torch.where(columns > 0, operator.apply_adjoint(gap) / columns.clamp(min=1e-300), 0.0)
    return reals(posterior.from_physical(x))[0]


def back_projected(posterior: Posterior) -> Tensor:
    """Return FBP of parallel beams: pi / views times the sum over views of the ramp-filtered data at s.

    The ramp in space is 1 / (4 p^2) at 0, -1 / (pi i p)^2 at odd i and 0 at even ones, p the pitch.
    """
    likelihood, projector = _physical(posterior), projector_of(posterior)
    if projector is None:
        raise type_error("operator", "be a CT projector", repr(likelihood.operator))
    views, grid = projector.views, posterior.grid
    data = likelihood.data.double()[:, 0]
    count, columns = data.shape
    pitch = float(views.pitch[0])
    apart = (torch.arange(columns)[:, None] - torch.arange(columns)).double()
    ramp = torch.where(apart % 2 == 0, 0.0, -1 / (math.pi * apart.where(apart != 0, 1.0) * pitch) ** 2)
    ramp = ramp + torch.eye(columns, dtype=torch.float64) / (4 * pitch**2)
    filtered = pitch * data @ ramp
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid.shape), indexing="ij"), -1)
    places = torch.from_numpy(grid.index_to_world(index.reshape(-1, 3).numpy()))
    total = torch.zeros(len(places), dtype=torch.float64)
    for view in range(count):
        along = (places - torch.tensor(views.centre[view])) @ torch.tensor(views.columns[view])
        at = ((along - float(views.across[0])) / pitch).clamp(0, columns - 1)
        low = at.floor().long().clamp(max=columns - 2)
        share = at - low
        total += (1 - share) * filtered[view, low] + share * filtered[view, low + 1]
    x = (math.pi / count * total).reshape(1, *posterior.space.shape)
    return reals(posterior.from_physical(x))[0]


def _physical(posterior: Posterior) -> Likelihood:
    likelihood = posterior.physical_likelihood
    if likelihood is None:
        raise type_error("posterior", "have a likelihood", "None")
    return likelihood
