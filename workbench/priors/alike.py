"""Gaussians of one covariance and several means, which cost little more than one of them.

    v = a x + c noise,    K = (a^2 S + c^2 I)^-1,    o_k = m_k - o the means from a common point o

    log N(v; a m_k, K^-1) = a Re <o_k, K (v - a o)> - a^2 <o_k, K o_k> / 2 + const
    sum_k r_k E_k[x | v] = m + a S K (v - a m),    m = sum_k r_k m_k

The constant is the same for all k. <o_k, K o_k> is a sum over the basis in which S is diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.priors.gaussian import Gaussian

__all__ = ["Alike"]


@dataclass(frozen=True, eq=False)
class Alike:
    """One Gaussian at o, the means (k, *space.shape) from there, and their squares (k, size) in its basis."""

    centre: Gaussian
    offsets: Tensor
    squares: Tensor

    @classmethod
    def of(cls, components: Sequence[Gaussian]) -> Alike | None:
        """Return components that share their root as one, None where they do not."""
        first = components[0]
        eigen = first._eigen
        if len(components) < 2 or eigen is None or any(c.root is not first.root for c in components):
            return None
        like = torch.empty(0, dtype=torch.float64, device=first.device)
        means = torch.stack([component.mean_like(like) for component in components])
        middle = means.mean(0)
        offsets = means - middle
        inner = offsets if eigen.basis is None else eigen.basis.apply_adjoint(offsets)
        if eigen.spectrum.axes:
            inner = torch.fft.fftn(inner, dim=eigen.spectrum.axes, norm="ortho")
        return cls(Gaussian(middle, first.root), offsets, inner.abs().square().flatten(1))

    def logs(self, v: Tensor, scale: Tensor, level: Tensor, floor: float) -> Tensor:
        """Return log densities of flat `v` (batch, k), but for a constant; no variance is below `floor`."""
        own = self.centre._beside(v)
        eigen = own._known("density")
        wide = v.to(torch.complex128 if v.is_complex() else torch.float64)
        a, c = scale.double().reshape(-1), level.double().reshape(-1)
        residual = wide - a.reshape(-1, *[1] * own.space.ndim) * own.mean_like(wide)

        def inverse(values: Tensor, a: Tensor, c: Tensor) -> Tensor:
            return 1 / (a * a * values + c * c).clamp(min=floor)

        solved = eigen.apply(residual, inverse, a, c).flatten(1)
        along = (solved @ self.offsets.to(solved).flatten(1).mH).real
        square = inverse(eigen.values.reshape(1, -1), a[:, None], c[:, None]) @ self.squares.to(v.device).T
        return a[:, None] * along - (a * a)[:, None] / 2 * square

    def estimated(self, v: Tensor, shares: Tensor, scale: Tensor, level: Tensor) -> Tensor:
        """Return E[x | v] for flat `v` whose component is k with the chances `shares` (batch, k)."""
        own = self.centre._beside(v)
        offsets = self.offsets.to(v).flatten(1)
        middle = own.mean_like(v) + (shares.to(offsets.dtype) @ offsets).reshape(v.shape)
        return middle + own._gain(v - scale * middle, scale, level)
