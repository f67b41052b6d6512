"""Likelihoods of every law on small operators, linear and not, and their dense answers."""

from __future__ import annotations

import torch
from torch import Tensor

from operators.base import Operator
from operators.blur import Blur, GaussianPSF
from operators.diagonal import Diagonal
from operators.fourier import Fourier
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.space import Space
from tests.noise_contract import keys
from tests.oracles import random_element
from workbench.likelihood import Likelihood
from workbench.noise.base import Noise
from workbench.noise.gaussian import CorrelatedGaussian, Gaussian
from workbench.noise.poisson import LogTransmission, PoissonTransmission
from workbench.noise.rician import Rician

GRID = Grid.from_spacing((1, 2, 4), 1.0)
FIELD = Space.field(GRID)
COMPLEX = Space.field(GRID, is_complex=True)
DATUM = torch.linspace(0.3, 1.4, 4, dtype=torch.float64)


def weights(space: Space, seed: int) -> Diagonal:
    """Return weights that vary, which a Fourier transform does not diagonalise."""
    return Diagonal(space, random_element(space, seed=seed) + (2.0 if not space.is_complex else 1.0))


class Bent(Operator):
    """x -> A (x + x^3 / 5), or of the square for a complex x: a small nonlinear operator."""

    def __init__(self, op: LinearOperator) -> None:
        super().__init__(op.domain, op.codomain)
        self.op = op

    def _apply(self, x: Tensor) -> Tensor:
        return self.op.apply(x + 0.3 * x * x if x.is_complex() else x + 0.2 * x**3)


def operators() -> dict[str, Operator]:
    linear: dict[str, LinearOperator] = {
        "real": weights(FIELD, 1) @ Blur(FIELD, GaussianPSF(1.5), "periodic"),
        "real to complex": weights(COMPLEX, 2) @ Fourier(FIELD) @ weights(FIELD, 3),
        "complex": weights(COMPLEX, 2) @ Fourier(COMPLEX) @ weights(COMPLEX, 3),
    }
    return {**linear, **{f"bent {name}": Bent(op) for name, op in linear.items()}}


OPERATORS = operators()


def likelihood(kind: str, noise: Noise, *, offset: bool = False) -> Likelihood:
    """Return a likelihood whose data belong to some object."""
    op = OPERATORS[kind]
    shift = 0.3 * random_element(op.codomain, seed=8) if offset else None
    x = 0.3 * random_element(op.domain, seed=9)
    m = op(x) if shift is None else op(x) + shift
    (y,) = noise.draw(m[None], keys(1))
    return Likelihood(op, noise, y, shift)


def correlated(kind: str) -> CorrelatedGaussian:
    space = OPERATORS[kind].codomain
    return CorrelatedGaussian(weights(space, 5) @ Fourier(space) if space.is_complex else weights(space, 5))


STRAIGHT = ("real", "real to complex", "complex")
GAUSSIAN: list[tuple[str, Noise]] = [
    *((kind, noise) for kind in STRAIGHT for noise in (Gaussian(0.4), Gaussian(DATUM), correlated(kind))),
    ("real", LogTransmission(2000.0)),
    ("real", LogTransmission(2000.0, 0.03)),
    ("bent real", Gaussian(0.4)),
    ("bent complex", Gaussian(DATUM)),
    ("bent real to complex", correlated("bent real to complex")),
    ("bent real", LogTransmission(2000.0, 0.03)),
]
OTHERS: list[tuple[str, Noise]] = [
    ("real", PoissonTransmission(30.0)),
    ("bent real", PoissonTransmission(30.0)),
    *((kind, Rician(0.5)) for kind in OPERATORS),
]
EVERY = GAUSSIAN + OTHERS
LINEAR = [(kind, noise) for kind, noise in GAUSSIAN if "bent" not in kind]
NEWTON = [(kind, noise) for kind, noise in EVERY if (kind, noise) not in LINEAR]


def name(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


def as_real(x: Tensor) -> Tensor:
    """Return the real coordinates of one element."""
    return (torch.view_as_real(x) if x.is_complex() else x).flatten()


def from_real(v: Tensor, space: Space) -> Tensor:
    return torch.view_as_complex(v.reshape(*space.shape, 2)) if space.is_complex else v.reshape(space.shape)


def dense_hessian(value: Likelihood, x: Tensor) -> Tensor:
    """Return the second derivative of log p over the real coordinates of x, by autograd."""
    hessian = torch.autograd.functional.hessian(
        lambda v: value.log_likelihood(from_real(v, value.domain)), as_real(x)
    )
    assert isinstance(hessian, Tensor)
    return hessian
