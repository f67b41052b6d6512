"""Sums over the spectrum of A^H A, such as its trace and log det(I + c A^H A), over real directions.

    tr f(A^H A) = sum_i f(g_i),    g_i the eigenvalues

Exact where these follow from the structure, or from the matrix of a small operator; else by Lanczos
quadrature from random signs v (Ubaru, Chen and Saad 2017), theta and tau^2 the nodes and weights by which v
sees A^H A:

    mean over v of |v|^2 sum_k tau_k^2 f(theta_k)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.batch import dots
from operators.checks import check_count
from operators.linalg import Map, TraceEstimate, signs
from operators.linear import LinearOperator, Scaled

__all__ = ["SpectralSums"]

#: Real directions up to which the matrix of A^H A is written out.
DENSE = 1024
#: Columns of it that are made at once.
CHUNK = 128
PROBES, ITERATIONS = 8, 40


@dataclass(frozen=True, eq=False)
class SpectralSums:
    """Nodes and weights (probes, k), one row of them where they are the eigenvalues and how often each is."""

    nodes: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls, op: LinearOperator, like: Tensor, *, probes: int = PROBES, iterations: int = ITERATIONS
    ) -> SpectralSums:
        """Return that of `op`, in the precision and on the device of `like` where it has to be called."""
        check_count(probes, "probes", minimum=2)
        check_count(iterations, "iterations")
        square = 1.0
        while isinstance(op, Scaled):
            square, op = square * abs(op.factor) ** 2, op.op
        like = _precise(op, like)
        known, twice = _known(op), op.domain.is_complex
        if known is None and op.domain.size * (2 if twice else 1) <= DENSE:
            known, twice = _dense(op, like), twice and op.over_complex
        if known is not None:
            values = (square * known.double().cpu().flatten()).clamp(min=0)[None]
            # Over the complex numbers an eigenvalue belongs to two real directions.
            return cls(values, torch.full_like(values, 2.0 if twice else 1.0))
        found = [_quadrature(op, like, iterations, seed) for seed in range(probes)]
        longest = max(len(nodes) for nodes, _ in found)
        rows = [
            torch.stack([torch.nn.functional.pad(part, (0, longest - len(part))) for part in pair])
            for pair in found
        ]
        nodes, weights = torch.stack(rows, 1)
        return cls(square * nodes.clamp(min=0), weights)

    @property
    def is_exact(self) -> bool:
        """Whether the eigenvalues are known."""
        return len(self.nodes) == 1

    def trace_of(self, function: Map) -> TraceEstimate:
        """Return the sum of `function`, of tensors of eigenvalues, with its standard error."""
        rows = (self.weights * function(self.nodes)).sum(1)
        error = 0.0 if self.is_exact else float(rows.std()) / math.sqrt(len(rows))
        return TraceEstimate(float(rows.mean()), error)

    def log_determinant(self, factors: Iterable[float]) -> TraceEstimate:
        """Return the sum over c of log det(I + c A^H A)."""

        def logs(values: Tensor) -> Tensor:
            return sum((torch.log1p(c * values) for c in factors), start=torch.zeros_like(values))

        return self.trace_of(logs)


def _precise(op: LinearOperator, like: Tensor) -> Tensor:
    """Return an empty tensor of the domain in the best precision of `op`, on the device of `like`."""
    real = torch.float64 if torch.float64 in op.dtypes else torch.float32
    return torch.empty(0, dtype=op.domain.dtype_like(torch.empty(0, dtype=real)), device=like.device)


def _known(op: LinearOperator) -> Tensor | None:
    """Return the eigenvalues that follow from the structure, one per entry of the domain."""
    spectrum = op._gram_spectrum
    if spectrum is not None:
        return spectrum.values.double().expand(op.domain.shape)
    factors = op._svd()
    return None if factors is None else factors.s.double() ** 2


def _dense(op: LinearOperator, like: Tensor) -> Tensor:
    """Return the eigenvalues of the matrix of A^H A, complex where it is linear over the complex numbers."""
    domain = op.domain
    eye = torch.eye(domain.size, dtype=like.dtype, device=like.device)
    both = domain.is_complex and not op.over_complex
    columns = torch.cat([eye, 1j * eye]) if both else eye
    images = [
        op._apply_gram(columns[start : start + CHUNK].reshape(-1, *domain.shape)).flatten(1)
        for start in range(0, len(columns), CHUNK)
    ]
    matrix = torch.cat(images)
    _require_finite(bool(torch.isfinite(matrix.real).all()))
    if both:
        matrix = torch.cat([matrix.real, matrix.imag], 1)
    values: Tensor = torch.linalg.eigvalsh((matrix + matrix.mH) / 2)
    return values


def _quadrature(op: LinearOperator, like: Tensor, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of one probe, by Lanczos with full reorthogonalisation."""
    domain = op.domain
    v = signs((1, *domain.shape), seed=seed, index=0, like=like)
    if domain.is_complex:
        v = v + 1j * signs((1, *domain.shape), seed=seed, index=1, like=like)
    size = float(dots(v, v))
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    v = v / math.sqrt(size)
    for _ in range(iterations):
        basis.append(v)
        w = op._apply_gram(v)
        diagonal.append(float(dots(v, w)))
        _require_finite(math.isfinite(diagonal[-1]))
        for known in basis:
            w = w - float(dots(known, w)) * known
        beta = float(dots(w, w).sqrt())
        if beta <= 1e-6 * max(diagonal):
            break
        beside.append(beta)
        v = w / beta
    off = beside[: len(diagonal) - 1]
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return torch.from_numpy(nodes), torch.from_numpy(size * vectors[0] ** 2)


def _require_finite(finite: bool) -> None:
    if not finite:
        raise FloatingPointError("sums over the spectrum met a NaN or an infinity in the operator's values.")
