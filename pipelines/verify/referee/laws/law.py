"""What the draws of a chain follow: exactly by matrices where it is affine, else number by number.

    z' = M z + c + N w:    mean' = M mean + c,    covariance' = M covariance M^T + N N^T

The matrices are what the chain does to the axes of z and w, so that they share nothing with the solver. A
chain that is not affine is run with the random numbers that the solver was given, which are a function of
seed, draw, step and purpose: its draws have to be the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.verify.referee.laws.chain import Chain, Noise, Row, width_of
from pipelines.verify.referee.laws.model import Model, double_like
from pipelines.verify.referee.truth import reals
from workbench.posterior import Posterior
from workbench.random import Keys

__all__ = ["Law", "followed", "law_of", "simulated"]

#: What is left of an affine map's superposition by rounding, relative.
ROUNDING = 1e-7


@dataclass(frozen=True, eq=False)
class Law:
    """N(mean, covariance), both in rows of real components."""

    mean: Tensor
    covariance: Tensor

    def draw(self, count: int, seed: int) -> Tensor:
        """Return draws (count, n)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        like = torch.empty(0, dtype=torch.float64)
        white = Keys(seed, tuple(range(count))).normals((len(self.mean),), "referee: law", like=like)
        rows: Tensor = self.mean + (white * values.clamp(min=0).sqrt()) @ vectors.T
        return rows

    def whitened(self, rows: Tensor) -> Tensor:
        """Return rows along the principal axes: independent standard normals if they follow the law.

        The axes of little spread come first, which are those that were measured.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        white: Tensor = (rows - self.mean) @ vectors / values.sqrt()
        return white


def law_of(chain: Chain, model: Model) -> Law:
    """Return the law at the end of an affine chain; an error where it is not affine."""
    eye = torch.eye(model.size, dtype=torch.float64)
    none = torch.zeros(1, model.size, dtype=torch.float64)
    rows = chain.rows(model)
    mean = chain.begun(model, rows[0][0], none)[0]
    root = chain.begun(model, rows[0][0], eye) - mean
    covariance = root.T @ root
    for row in rows:
        axes = torch.eye(width_of(model, chain.noises(model, row)), dtype=torch.float64)
        still = axes.new_zeros(1, len(axes))
        constant = chain.step(model, none, row, still)
        # Rows of M^T and N^T: where the axes go.
        moved = chain.step(model, eye, row, still.expand(model.size, -1)) - constant
        fresh = chain.step(model, none.expand(len(axes), -1), row, axes) - constant
        _check_affine(chain, model, row, moved, constant)
        mean = mean @ moved + constant[0]
        covariance = moved.T @ covariance @ moved + fresh.T @ fresh
    return Law(mean, (covariance + covariance.T) / 2)


def followed(
    chain: Chain, model: Model, posterior: Posterior, draws: int, seed: int, nudge: float = 0.0
) -> Tensor:
    """Return the rows at the end of the chain with the solver's own random numbers.

    `nudge` changes the start by that share of itself.
    """
    keys, image = Keys(seed, tuple(range(draws * chain.runs))), double_like(posterior)
    data = posterior.measured.operator.codomain
    spaces = {
        "image": (posterior.space.shape, image),
        "data": (data.shape, torch.empty(0, dtype=data.dtype_like(image))),
    }

    def white(step: int, noises: Sequence[Noise]) -> Tensor:
        at = keys.at(step)
        found = [reals(at.normals(spaces[space][0], name, like=spaces[space][1])) for name, space in noises]
        return torch.cat(found, 1) if found else torch.empty(len(keys.draws), 0, dtype=torch.float64)

    return _run(chain, model, white, nudge)


def simulated(chain: Chain, model: Model, draws: int, seed: int) -> Tensor:
    """Return the rows at the end of the chain with random numbers of its own."""
    keys, like = Keys(seed, tuple(range(draws * chain.runs))), torch.empty(0, dtype=torch.float64)

    def white(step: int, noises: Sequence[Noise]) -> Tensor:
        width, purpose = width_of(model, noises), "referee: step" if step else "referee: start"
        none = like.new_empty(len(keys.draws), 0)
        return keys.at(step).normals((width,), purpose, like=like) if width else none

    return _run(chain, model, white)


def _run(
    chain: Chain, model: Model, white: Callable[[int, Sequence[Noise]], Tensor], nudge: float = 0.0
) -> Tensor:
    """Return the answers of a chain with noises by number of the step, 0 for the start."""
    rows = chain.rows(model)
    z = (1 + nudge) * chain.begun(model, rows[0][0], white(0, [(chain.purposes[0], "image")]))
    for index, row in enumerate(rows):
        z = chain.step(model, z, row, white(index + 1, chain.noises(model, row)))
    return chain.ended(model, z)


def _check_affine(chain: Chain, model: Model, row: Row, moved: Tensor, constant: Tensor) -> None:
    point = torch.linspace(-3, 5, model.size, dtype=torch.float64)[None] * (1 + row[0])
    still = point.new_zeros(1, width_of(model, chain.noises(model, row)))
    there = chain.step(model, point, row, still)
    off = (there - constant - point @ moved).norm() / (there.norm() + constant.norm() + 1e-300)
    if float(off) > ROUNDING:
        raise ValueError(f"the chain is not affine at sigma = {row[0]:g}: superposition fails by {off:.1e}")
