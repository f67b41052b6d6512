"""The chains of the guidance solvers as functions of (model, z, white noise), from their equations alone.

Each takes z at sigma to z' at s' with white noise w, at levels that are written out here again:

    ancestral(x)   x + k (z - x) + s' sqrt(1 - k) w,  k = (s' / sigma)^2
    DPS            ancestral(D) + h J^T B^T e, h = min(sigma^2 - s'^2, |B|^-2), or + zeta J^T B^T e / |e|,
                   e = data - B D
    PiGDM          ancestral(D) + h J^T B^T (I + B C B^T)^-1 e,   C = r^2 I or sigma^2 J,   h = sigma^2 - s'^2
    DiffPIR        x + s' (sqrt(1 - zeta) (z - x) / sigma + sqrt(zeta) w),   x = prox(D, sigma / sqrt(weight))
    DDS            x + s' (sqrt(1 - eta^2) (z - D) / sigma + eta w),         x = n iterations of CG from D
    DDRM, DDNM     singular value by singular value
    DAPS, PnP-DM   laws/alternating.py
    RED-Diff       laws/variational.py
    best of        the chain of the inner solver, of several runs the one of least misfit

with r^2 = sigma^2 s0^2 / (sigma^2 + s0^2), h <= r^2 where C is isotropic and J is not. For a Gaussian prior
all but the norm form are affine in (z, w); DDS is once its conjugate gradients have converged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipelines.verify.referee.laws.alternating import daps, pnp_dm
from pipelines.verify.referee.laws.chain import Chain, Row
from pipelines.verify.referee.laws.levels import karras, levels_of
from pipelines.verify.referee.laws.model import Model
from pipelines.verify.referee.laws.variational import red_diff
from workbench.integration import Karras
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.pnp_dm import PnPDM
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.base import Solver
from workbench.solvers.best_of import BestOf
from workbench.solvers.guidance.ddnm import DDNM
from workbench.solvers.guidance.ddrm import DDRM
from workbench.solvers.guidance.dds import DDS
from workbench.solvers.guidance.diffpir import DiffPIR
from workbench.solvers.guidance.dps import DPS
from workbench.solvers.guidance.pigdm import PiGDM
from workbench.solvers.variational.red_diff import REDDiff

__all__ = ["Chain", "Row", "chain_of", "iterated", "unguided"]


def chain_of(solver: Solver[Any]) -> Chain | None:
    """Return the chain that a solver should be, None where none is known.

    A subclass should be what it extends, or extend `Descent` or `Solver`.
    """
    unknown = (
        (isinstance(solver, DDNM) and solver.travel > 0)
        or (isinstance(solver, PiGDM) and (solver.form == "paper" or solver.spread is not None))
        or (isinstance(solver, DiffPIR) and solver.iterations is not None)
        # Levels by chance, and a start that is solved for to a hundredth.
        or (isinstance(solver, REDDiff) and (solver.order == "random" or solver.start == "data"))
    )
    make = next((CHAINS[kind] for kind in type(solver).__mro__ if kind in CHAINS), None)
    return None if make is None or unknown else make(solver)


def best_of(solver: BestOf) -> Chain | None:
    """Return the inner solver's chain, several runs of it for each draw."""
    chain = chain_of(solver.inner)
    return None if chain is None else replace(chain, affine=False, runs=solver.runs)


def ancestral(x: Tensor, z: Tensor, sigma: float, after: float, white: Tensor) -> Tensor:
    """Return x + k (z - x) + s' sqrt(1 - k) w."""
    keep = (after / sigma) ** 2
    return x + keep * (z - x) + after * math.sqrt(1 - keep) * white


def squared_radius(model: Model, sigma: float) -> float:
    """Return r^2."""
    return sigma**2 * model.spread**2 / (sigma**2 + model.spread**2)


def turned(model: Model, z: Tensor, sigma: float, force: Tensor, jacobian: str) -> Tensor:
    """Return J^T force."""
    if jacobian == "detached":
        return squared_radius(model, sigma) / sigma**2 * force
    return model.pull(z, sigma, force)


def dps(solver: DPS) -> Chain:
    """Return the chain of DPS."""

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, after = row
        x = model.denoise(z, sigma)
        e = model.residual(x)
        pull = turned(model, z, sigma, model.force(x), solver.jacobian)
        if solver.form == "bayes":
            weight = min(solver.factor * (sigma**2 - after**2), model.norm**-2)
            return ancestral(x, z, sigma, after, white) + weight * pull
        size = (e * e).sum(1, keepdim=True).sqrt()
        return ancestral(x, z, sigma, after, white) + solver.factor * model.spread / model.norm / size * pull

    return Chain(levels_of(solver), step, ("descent: start", "dps: step"), affine=solver.form == "bayes")


def pigdm(solver: PiGDM) -> Chain:
    """Return the chain of PiGDM: (prox(D, r) - D) / r^2 is B^T (I + r^2 B B^T)^-1 e."""

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, after = row
        x = model.denoise(z, sigma)
        weight, square = sigma**2 - after**2, squared_radius(model, sigma)
        if solver.covariance == "exact":
            force = model.exact_force(z, sigma, x)
        else:
            force = (model.closest(x, math.sqrt(square)) - x) / square
            weight = min(weight, square) if solver.jacobian == "exact" else weight
        pull = turned(model, z, sigma, force, solver.jacobian)
        return ancestral(x, z, sigma, after, white) + weight * pull

    return Chain(levels_of(solver), step, ("descent: start", "pigdm: step"), proximal=True)


def diffpir(solver: DiffPIR) -> Chain:
    """Return the chain of DiffPIR."""

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, after = row
        x = model.closest(model.denoise(z, sigma), sigma / math.sqrt(solver.weight))
        noise = math.sqrt(1 - solver.zeta) * (z - x) / sigma + math.sqrt(solver.zeta) * white
        return x + after * noise

    return Chain(levels_of(solver), step, ("descent: start", "diffpir: step"), proximal=True)


def dds(solver: DDS) -> Chain:
    """Return the chain of DDS, its conjugate gradients in their textbook form."""

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, after = row
        d = model.denoise(z, sigma)
        if solver.gamma == "posterior":
            gamma = squared_radius(model, sigma)
        else:
            gamma = float(solver.gamma) / model.norm**2
        x = d + iterated(
            lambda v: v + gamma * model.back(model.forward(v)),
            gamma * model.back(model.residual(d)),
            solver.iterations,
        )
        noise = math.sqrt(1 - solver.eta**2) * (z - d) / sigma + solver.eta * white
        return x + after * noise

    return Chain(levels_of(solver), step, ("descent: start", "dds: step"), affine=False)


def ddrm(solver: DDRM) -> Chain:
    """Return the chain of DDRM (Kawar et al. 2022), measured values by their noise 1 / s."""
    eta, blend = solver.eta, solver.eta_b
    old = math.sqrt(1 - eta**2)

    def start(model: Model, sigma: float, white: Tensor) -> Tensor:
        s, y = model.singular
        white = model.to_singular(white)
        seen = counted(model, solver.cutoff, 1 / 3) & (sigma * s > 1)
        inverse = torch.where(seen, 1 / torch.where(seen, s, 1.0), 0.0)
        return model.from_singular(inverse * y + (sigma**2 - inverse**2).sqrt() * white)

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, after = row
        s, y = model.singular
        known = counted(model, solver.cutoff, 1 / 3)
        inverse = torch.where(known, 1 / torch.where(known, s, 1.0), 0.0)
        x = model.to_singular(model.denoise(z, sigma))
        z, white = model.to_singular(z), model.to_singular(white)
        measured = inverse * y
        unseen = x + old * after * (z - x) / sigma + eta * after * white
        coarse = x + old * after * (measured - x) * s + eta * after * white
        spread = (after**2 - (blend * inverse) ** 2).clamp(min=0).sqrt()
        fine = (1 - blend) * x + blend * measured + spread * white
        return model.from_singular(torch.where(known, torch.where(after * s >= 1, fine, coarse), unseen))

    return Chain(levels_of(solver), step, ("ddrm: start", "ddrm: step"), start=start)


def ddnm(solver: DDNM) -> Chain:
    """Return the chain of DDNM and DDNM+ (Wang et al. 2023)."""
    eta = solver.eta
    old = math.sqrt(1 - eta**2)

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, after = row
        s, y = model.singular
        known = counted(model, solver.cutoff, 0.7)
        inverse = torch.where(known, 1 / torch.where(known, s, 1.0), 0.0)
        x = model.to_singular(model.denoise(z, sigma))
        z, white = model.to_singular(z), model.to_singular(white)
        gap = torch.where(known, inverse * y - x, 0.0)
        taken, noise = torch.ones_like(s), torch.zeros_like(s)
        if solver.weights == "spectral":
            taken = (after * s).clamp(max=1)
            noise = taken * inverse
        elif solver.weights == "scalar" and bool(known.any()):
            taken = taken * min(1.0, after * float(s.max()))
            noise = taken / float(s.max())
        rest = eta * (after**2 - noise**2).clamp(min=0).sqrt()
        x = x + taken * gap
        return model.from_singular(x + old * after / sigma * (z - x) + rest * white)

    return Chain(levels_of(solver), step, ("descent: start", "ddnm: step"))


def counted(model: Model, cutoff: float | None, worth: float) -> Tensor:
    """Return which singular values count as measured."""
    s, _ = model.singular
    least = float(s.max()) * (1e-9 if cutoff is None else cutoff)
    return (s > least) if cutoff is not None else (s > least) & (s * model.spread >= worth)


def langevin(solver: AnnealedLangevin) -> Chain:
    """Return the chain of annealed Langevin dynamics: z + h (score + b B^T (data - B z)) + sqrt(2 h) w."""

    def rows(model: Model) -> list[Row]:
        found: list[Row] = []
        for level in range(solver.levels):
            share = level / (solver.levels - 1)
            sigma = solver.sigma_max ** (1 - share) * solver.sigma_min**share
            tempering = 1 / (1 + (sigma * model.norm) ** 2)
            length = solver.fraction / (sigma**-2 + tempering * model.norm**2)
            found += [(sigma, tempering, length)] * solver.steps_per_level
        return found

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, tempering, length = row
        drift = (model.denoise(z, sigma) - z) / sigma**2 + tempering * model.back(model.residual(z))
        return z + length * drift + math.sqrt(2 * length) * white

    return Chain(rows, step, ("langevin: start", "langevin: step"))


def unguided(steps: int, levels: Karras) -> Chain:
    """Return ancestral steps without a measurement: of a model of the posterior itself."""

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        sigma, after = row
        return ancestral(model.denoise(z, sigma), z, sigma, after, white)

    def rows(model: Model) -> list[Row]:
        del model
        return karras(levels, steps)

    return Chain(rows, step, ("integrator: start", "integrator: noise"))


def iterated(apply: Callable[[Tensor], Tensor], side: Tensor, iterations: int) -> Tensor:
    """Return so many iterations of conjugate gradients from zero, each row by itself."""
    x, r = torch.zeros_like(side), side.clone()
    p, energy = r.clone(), (r * r).sum(1, keepdim=True)
    first = energy
    for _ in range(iterations):
        image = apply(p)
        # A row that is solved to rounding stays where it is.
        alive = energy > 1e-28 * first
        step = torch.where(alive, energy / (p * image).sum(1, keepdim=True), 0.0)
        x, r = x + step * p, r - step * image
        fresh = (r * r).sum(1, keepdim=True)
        p = r + torch.where(alive, fresh / energy, 0.0) * p
        energy = torch.where(alive, fresh, energy)
    return x


CHAINS: dict[type, Callable[[Any], Chain | None]] = {
    DPS: dps,
    PiGDM: pigdm,
    DiffPIR: diffpir,
    DDS: dds,
    DDRM: ddrm,
    DDNM: ddnm,
    AnnealedLangevin: langevin,
    DAPS: daps,
    PnPDM: pnp_dm,
    REDDiff: red_diff,
    BestOf: best_of,
}
