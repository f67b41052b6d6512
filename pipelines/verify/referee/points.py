"""The classical methods of the table, and what they should give by plain algebra on the same data.

least squares    k textbook conjugate gradients from 0
Tikhonov         (B^T B + w L^T L) u = B^T z, solved
total variation, wavelets    min |B u - z|^2 / 2 + w |K u|_1 by the alternating directions of multipliers
SIRT             x' = x + C A^T R (y - A x), row by row
posterior mean   plug-and-play and conjugate gradients with the Gaussian prior itself
FBP              the ramp filter as a sum in space, and back-projection by linear interpolation
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from operators.extras import require
from pipelines.verify.referee.laws.chains import iterated
from pipelines.verify.referee.laws.field import solved
from pipelines.verify.referee.laws.model import Model
from pipelines.verify.referee.points_ct import back_projected, projector_of, sirt
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.truth import from_reals, reals
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection
from workbench.solvers.base import Solver
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.classical.plug_and_play import PlugAndPlay
from workbench.solvers.classical.sirt import SIRT
from workbench.solvers.classical.tikhonov import Tikhonov
from workbench.solvers.classical.total_variation import TotalVariation
from workbench.solvers.classical.wavelet_sparsity import WaveletSparsity

__all__ = ["Point", "points"]

#: Weights of the penalties, where u has an sd of about 1 and the data are whitened.
TV_WEIGHT, WAVELET_WEIGHT, WAVELET, LEVELS = 2.0, 1.0, "db2", 3
#: Least squares is stopped before rounding decides what ill-conditioned iterations find.
ITERATIONS, SIRT_ITERATIONS = 5, 30
#: Rounds of the alternating directions at most, their relaxation, and the relative change that is the end.
ROUNDS, RELAXATION, SETTLED = 600, 1.7, 2e-5


@dataclass(frozen=True)
class Point:
    """A method, what it is run on, its answer by other means, and how many posterior sd it may be off."""

    name: str
    solver: Solver[Any]
    posterior: Posterior
    answer: Callable[[], Tensor]
    allowed: float


def points(problem: Problem, model: Model) -> Iterator[Point]:
    """Yield the methods for a linear problem with a Gaussian prior on an image."""
    given, truth = problem.posterior, problem.truth
    flat = Posterior(Flat(given.space, given.units), given.physical_likelihood)
    yield Point("posterior mean (CG)", ConjugateGradient(tolerance=1e-8), given, lambda: truth.mean, 1e-5)
    yield Point("PnP-ADMM", PlugAndPlay(iterations=3000, tolerance=1e-5), given, lambda: truth.mean, 2e-2)
    squares = ConjugateGradient(ITERATIONS, 1e-12)
    yield Point("least squares (CG)", squares, flat, partial(least_squares, model), 1e-6)
    yield Point("Tikhonov", Tikhonov(1.0), flat, partial(ridge, model), 1e-4)
    slopes = partial(gradient, given)
    variation = TotalVariation(TV_WEIGHT, iterations=20000, tolerance=1e-5)
    yield Point(
        "TV",
        variation,
        flat,
        lambda: sparse(model, *slopes(), TV_WEIGHT, is_complex=given.space.is_complex, coupling=4.0),
        2e-2,
    )
    if min(given.space.shape[-2:]) >= 32:
        wavelets = WaveletSparsity(WAVELET_WEIGHT, WAVELET, LEVELS, iterations=5000, tolerance=1e-7)
        # Of half of the voxels there are many images of least sum: two ways down end this far apart.
        yield Point("wavelet-L1 (FISTA)", wavelets, flat, partial(wavelet_answer, given, model), 5e-2)
    if projector_of(given) is not None:
        yield Point("SIRT", SIRT(SIRT_ITERATIONS), flat, partial(sirt, given, SIRT_ITERATIONS), 1e-6)
        yield Point("FBP", FilteredBackProjection(), flat, partial(back_projected, given), 1e-6)


def least_squares(model: Model) -> Tensor:
    """Return u after the iterations of conjugate gradients."""
    side = model.back(model.data[None])
    return iterated(lambda v: model.back(model.forward(v)), side, ITERATIONS)[0]


def ridge(model: Model) -> Tensor:
    """Return (B^T B + I)^-1 B^T z."""
    return solved(lambda v: model.back(model.forward(v)) + v, model.back(model.data[None]))[0]


Split = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def gradient(posterior: Posterior) -> Split:
    """Return D and D^T between rows, D the differences to the next voxel per mm: (axes, n) of each row."""
    space = posterior.space
    axes = [axis for axis in (-3, -2, -1) if space.shape[axis] > 1]
    steps = [posterior.grid.spacing[axis] for axis in axes]

    def slope(rows: Tensor) -> Tensor:
        u = from_reals(rows, space)
        parts = []
        for axis, step in zip(axes, steps, strict=True):
            ahead = torch.cat([u.narrow(axis, 1, u.shape[axis] - 1), u.narrow(axis, -1, 1)], axis)
            parts.append(reals((ahead - u) / step))
        return torch.stack(parts, 1)

    def back(parts: Tensor) -> Tensor:
        total = torch.zeros_like(parts[:, 0])
        for index, (axis, step) in enumerate(zip(axes, steps, strict=True)):
            p = from_reals(parts[:, index], space) / step
            inner = p.narrow(axis, 0, p.shape[axis] - 1)
            zero = torch.zeros_like(p.narrow(axis, 0, 1))
            total = total + reals(torch.cat([zero, inner], axis) - torch.cat([inner, zero], axis))
        return total

    return slope, back


def sparse(
    model: Model,
    apply: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], Tensor],
    weight: float,
    *,
    is_complex: bool,
    coupling: float,
    free: Tensor | None = None,
) -> Tensor:
    """Return argmin |B u - z|^2 / 2 + weight |K u|_1; magnitudes over axes and complex parts.

    By ADMM, over-relaxed, with a `coupling` between K u and its copy that may be anything but not too large
    or small to end soon. Entries of K u in the mask `free` are not weighed.
    """
    side = model.back(model.data[None])
    u = torch.zeros_like(side)
    split = torch.zeros_like(apply(u))
    scaled = torch.zeros_like(split)

    def system(v: Tensor) -> Tensor:
        return model.back(model.forward(v)) + coupling * back(apply(v))

    for _ in range(ROUNDS):
        rest = side + coupling * back(split - scaled) - system(u)
        u = u + solved(system, rest, relative=1e-3)
        there, before = apply(u), split
        point = RELAXATION * there + (1 - RELAXATION) * before + scaled
        size = _magnitude(point, is_complex)
        kept = (1 - weight / coupling / size.clamp(min=1e-300)).clamp(min=0)
        split = point * (kept if free is None else torch.where(free, 1.0, kept))
        scaled = point - split
        if max(float((there - split).norm()), float((split - before).norm())) <= SETTLED * float(
            split.norm()
        ):
            break
    return u[0]


def _magnitude(parts: Tensor, is_complex: bool) -> Tensor:
    square = parts.square().sum(1, keepdim=True)
    if is_complex:
        pairs = square.reshape(*square.shape[:-1], -1, 2).sum(-1, keepdim=True)
        square = pairs.expand(*pairs.shape[:-1], 2).reshape(square.shape)
    return square.sqrt()


def wavelet_answer(posterior: Posterior, model: Model) -> Tensor:
    """Return the sparse image in the orthonormal wavelets of PyWavelets."""
    pywt = require("pywt", feature="The wavelets of the referee", extra="image")
    shape = posterior.space.shape[-2:]
    both = 2 if posterior.space.is_complex else 1
    zero = pywt.wavedec2(torch.zeros(shape).numpy(), WAVELET, "periodization", LEVELS)
    _, slices = pywt.coeffs_to_array(zero)

    def split(rows: Tensor) -> Tensor:
        return rows.reshape(*shape, both).permute(2, 0, 1)

    def apply(rows: Tensor) -> Tensor:
        found = [
            pywt.coeffs_to_array(pywt.wavedec2(part.numpy(), WAVELET, "periodization", LEVELS))[0]
            for part in split(rows)
        ]
        return torch.stack([torch.from_numpy(one) for one in found], -1).reshape(1, 1, -1)

    def back(parts: Tensor) -> Tensor:
        images = []
        for part in split(parts):
            detail = pywt.array_to_coeffs(part.numpy(), slices, "wavedec2")
            images.append(torch.from_numpy(pywt.waverec2(detail, WAVELET, "periodization")))
        return torch.stack(images, -1).reshape(1, -1)

    coarse = torch.zeros(*shape, both, dtype=torch.bool)
    coarse[slices[0]] = True
    kept, parts = coarse.reshape(1, 1, -1), posterior.space.is_complex
    return sparse(model, apply, back, WAVELET_WEIGHT, is_complex=parts, coupling=1.0, free=kept)
