"""Total variation as a denoiser: the exact prox, to a stated tolerance, of any batch on any device.

    denoise(z, sigma) = argmin_x |x - z|^2 / 2 + c TV(x),     TV(x) = sum over voxels of |grad x|, per mm

|grad x| joins the axes (isotropic) and, of a complex image, both parts. Components and frames are images
by themselves. The dual is solved, with x = z - D^H p:

    min over |p| <= c of |z - D^H p|^2 / 2,         |x - x*|^2 <= 2 gap,    gap = sum c |D x| - <D x, p>

by accelerated projected gradients, restarted where they overshoot (Beck and Teboulle 2009; O'Donoghue and
Candes 2015), each image until its own gap says that it is near enough. Where c exceeds the largest
|D (D^H D)^+ z|, that potential is a dual solution and x is the mean of z, exactly.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from operators.checks import check_count, check_number
from operators.cosine import Cosine
from operators.differences import FiniteDifferences
from operators.errors import ConvergenceWarning, type_error, value_error
from operators.space import Space
from workbench.priors.base import Denoiser
from workbench.priors.by_field import by_field, require_images
from workbench.units import Units

__all__ = ["TotalVariationDenoiser"]

#: c / (sigma * smallest voxel): near the least error on the chest phantom, in 2D and 3D, over all sigma.
STRENGTH = 0.8
#: Iterations between two looks at the gap.
LOOK = 10


class TotalVariationDenoiser(Denoiser):
    """The image that trades its distance from z for total variation.

    Parameters
    ----------
    space
        Real, complex or vector images on a grid; axes of one voxel play no part.
    strength
        c = strength * sigma * (smallest voxel of the long axes, mm), by default 0.8: denoise(k z, k sigma) =
        k denoise(z, sigma).
    weight
        In its place c = weight * sigma^2: the mode of a posterior with the prior exp(-weight TV), `weight`
        in mm / (unit of u). A plug-and-play method then ends at the minimum of its objective.
    tolerance
        The root mean square of the error is at most this share of sigma (or of the sd of z where that is
        less), or what the precision holds; usually a tenth of that.
    iterations
        The most of them; a `ConvergenceWarning` says where they were too few.
    units
        What the numbers mean.

    No derivative is known: gradients through it are refused.
    """

    proper = False
    differentiable = False

    def __init__(
        self,
        space: Space,
        *,
        strength: float | None = None,
        weight: float | None = None,
        tolerance: float = 0.05,
        iterations: int = 2000,
        units: Units | None = None,
    ) -> None:
        grid = require_images(space)
        super().__init__(space, units)
        if strength is not None and weight is not None:
            raise value_error("strength, weight", "not be given both", (strength, weight))
        self.weight = None if weight is None else check_number(weight, "weight", non_negative=True)
        self.strength: float | None = None
        if weight is None:
            given = STRENGTH if strength is None else strength
            self.strength = check_number(given, "strength", non_negative=True)
        self.tolerance = check_number(tolerance, "tolerance", positive=True)
        self.iterations = check_count(iterations, "iterations")
        self._gradient = FiniteDifferences(Space.field(grid, is_complex=space.is_complex))
        self._cosine = Cosine(self._gradient.domain, self._gradient.axes)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        result: Tensor = _NoDerivative.apply(z, sigma, self)  # type: ignore[no-untyped-call]
        return result

    def penalty(self, sigma: Tensor) -> Tensor:
        """Return c, in mm times the unit of u."""
        if self.weight is not None:
            return self.weight * sigma**2
        return (self.strength or 0.0) * min(self._gradient.spacing) * sigma

    def _solved(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Return the solutions for images (n, z, y, x)."""
        limit = self.penalty(sigma)
        level = z.mean(dim=(-3, -2, -1), keepdim=True)
        spread = (z - level).abs().square().mean(dim=(-3, -2, -1), keepdim=True).sqrt()
        result = level.expand_as(z).clone()
        flat = _magnitude(self._potential(z)).amax(dim=(-3, -2, -1), keepdim=True) <= limit
        flat &= sigma > 0
        goal = 0.5 * z[0].numel() * (self.tolerance * torch.minimum(sigma, spread)).double() ** 2
        open_ = (~flat).flatten().nonzero()[:, 0]
        if len(open_):
            found = self._descended(z[open_], limit[open_], goal[open_].flatten())
            result = result.index_copy(0, open_, found)
        return result

    def _descended(self, z: Tensor, limit: Tensor, goal: Tensor) -> Tensor:
        """Return x for images whose duals are bound by `limit` (n, 1, 1, 1), to gaps below `goal` (n)."""
        gradient = self._gradient
        # |D|^2 <= sum over axes of (2 / spacing)^2.
        step = 1 / sum((2 / size) ** 2 for size in gradient.spacing)
        rounding = 8 * torch.finfo(z.dtype).eps
        result, rows = z.clone(), torch.arange(len(z), device=z.device)
        dual = z.new_zeros(len(z), *gradient.codomain.shape)
        ahead, momentum = dual, z.real.new_ones(len(z))
        for iteration in range(self.iterations + 1):
            if iteration % LOOK == 0 or iteration == self.iterations:
                x = z - gradient.apply_adjoint(dual)
                slope = gradient.apply(x)
                variation = limit * _magnitude(slope)
                gap = _sum(variation - _real_product(slope, dual).sum(1))
                done = gap <= goal + rounding * _sum(variation)
                last = iteration == self.iterations
                result = result.index_copy(0, rows, x) if last or bool(done.any()) else result
                left = (~done).nonzero()[:, 0]
                if last or not len(left):
                    if len(left):
                        self._warn(gap[left], goal[left])
                    break
                if len(left) < len(rows):
                    z, limit, goal, rows = z[left], limit[left], goal[left], rows[left]
                    dual, ahead, momentum = dual[left], ahead[left], momentum[left]
            pull = gradient.apply(z - gradient.apply_adjoint(ahead))
            moved = _projected(ahead + step * pull, limit)
            change = moved - dual
            overshot = _sum(_real_product(ahead - moved, change)) > 0
            following = (1 + (1 + 4 * momentum**2).sqrt()) / 2
            carried = torch.where(overshot, 0.0, (momentum - 1) / following)
            momentum = torch.where(overshot, 1.0, following)
            ahead, dual = moved + carried.reshape(-1, 1, 1, 1, 1) * change, moved
        return result

    def _potential(self, z: Tensor) -> Tensor:
        """Return D (D^H D)^+ z; cosines diagonalise D^H D."""
        values = torch.zeros((), dtype=torch.float64, device=z.device)
        for axis, size in zip(self._gradient.axes, self._gradient.spacing, strict=True):
            n = z.shape[axis]
            angle = math.pi * torch.arange(n, dtype=torch.float64, device=z.device) / (2 * n)
            values = values + (4 * angle.sin() ** 2 / size**2).reshape(-1, *[1] * (-axis - 1))
        inverse = torch.where(values > 0, 1 / torch.where(values > 0, values, 1.0), 0.0).to(z.real.dtype)
        cosine = self._cosine.to(z.device)
        return self._gradient.apply(cosine.apply_adjoint(cosine.apply(z) * inverse))

    def _warn(self, gap: Tensor, goal: Tensor) -> None:
        reached = self.tolerance * float((gap / goal).max().sqrt())
        warnings.warn(
            f"TotalVariationDenoiser stopped {reached:.1e} sigma from its minimum at most, not "
            f"{self.tolerance:g}, after {self.iterations} iterations. Raise `iterations` or `tolerance`.",
            ConvergenceWarning,
            stacklevel=2,
        )


class _NoDerivative(torch.autograd.Function):
    """The solution, which maps over further batch axes and refuses to be gone backward through."""

    @staticmethod
    def forward(z: Tensor, sigma: Tensor, prior: TotalVariationDenoiser) -> Tensor:
        return by_field(prior._solved, z, sigma)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del ctx, inputs, output

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], z: Tensor, sigma: Tensor, prior: TotalVariationDenoiser
    ) -> tuple[Tensor, int]:
        many = []
        for value, axis in ((z, in_dims[0]), (sigma, in_dims[1])):
            front = value.expand(info.batch_size, *value.shape) if axis is None else value.movedim(axis, 0)
            many.append(front.flatten(0, 1))
        result: Tensor = _NoDerivative.apply(*many, prior)  # type: ignore[no-untyped-call]
        return result.reshape(info.batch_size, -1, *result.shape[1:]), 0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        del ctx, gradients
        raise _no_derivative()

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        del ctx, tangents
        raise _no_derivative()


def _no_derivative() -> TypeError:
    remedy = "Detach its result, use a method that needs no gradient of the prior, or another prior."
    return type_error("prior", "be differentiable", "TotalVariationDenoiser", remedy)


def _magnitude(slope: Tensor) -> Tensor:
    # torch's own norm along an axis that is not the last walks memory the wrong way: fifty times slower.
    return slope.abs().square().sum(dim=1).sqrt()


def _projected(dual: Tensor, limit: Tensor) -> Tensor:
    """Return the nearest dual field of magnitude at most `limit` > 0."""
    return dual / (_magnitude(dual) / limit).clamp(min=1).unsqueeze(1)


def _real_product(a: Tensor, b: Tensor) -> Tensor:
    return a.real * b.real + a.imag * b.imag if a.is_complex() else a * b


def _sum(a: Tensor) -> Tensor:
    return a.flatten(1).sum(dim=1, dtype=torch.float64)
