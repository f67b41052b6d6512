"""The prior of a finite data set: x is one of K points, and its denoiser a softmax over them.

    v = a x + c noise,      E[x | v] = sum_i r_i x_i
    normal noise       r_i ~ w_i exp(-|v - a x_i|^2 / (2 c^2))
    Student's t        r_i ~ w_i (1 + |v - a x_i|^2 / (k c^2))^-((k + N) / 2),    k degrees of freedom

for N real components, z = x + sigma noise (a = 1), and the scaled u (c = 1), where s = 0 leaves r = w. This
is what a network trained without end on these points would be: the empirical denoiser. Towards sigma = 0
normal noise leaves the nearest point; Student's t a mean with weights |z - x_i|^-(k + N), which is the
point only where z is one.

Squares are taken from the nearest point x_j, of which nothing large cancels at a small sigma:

    |v - a x_i|^2 - |v - a x_j|^2 = a^2 |x_i - x_j|^2 - 2 a <v - a x_j, x_i - x_j>
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from operators.checks import check_finite
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.space import Space
from workbench.paths.noise_law import NORMAL, GaussianLaw, NoiseLaw, StudentT
from workbench.priors.base import Denoiser, _level
from workbench.priors.chances import chosen_by, log_chances
from workbench.priors.flat import require_field
from workbench.random import Keys
from workbench.units import Units

__all__ = ["FiniteData"]

#: Pairs of a sample and a point that are weighed at once.
PAIRS = 2**22
#: A noise level below this part of the size of the points is theirs to round away.
ROUNDING = 1e-14


class FiniteData(Denoiser):
    """The points (K, *space.shape), each with its weight, all alike without `weights`.

    Computes in double precision and keeps the points in it, beside themselves. Memory on top of that is
    bounded: as many samples at once as make `PAIRS` pairs with the points. There is no density: points
    have none.
    """

    exact = True
    calibrated_score = True
    knows_pure_noise = True

    def __init__(
        self,
        points: Tensor,
        space: Space,
        weights: Sequence[float] | Tensor | None = None,
        law: NoiseLaw = NORMAL,
        units: Units | None = None,
    ) -> None:
        super().__init__(require_field(space), units)
        space.check(points, "points")
        if points.ndim != space.ndim + 1:
            expected = f"have shape (K, {', '.join(map(str, space.shape))})"
            raise value_error("points", expected, tuple(points.shape), "One point has that axis too.")
        check_finite(points, "points")
        if not isinstance(NoiseLaw.require(law), (GaussianLaw, StudentT)):
            raise type_error("law", "be GaussianLaw() or StudentT(dof), whose densities are known", law)
        self.law = law
        self._points = Constant(points, "points")
        self._log_weights = log_chances(weights, len(points), "weights")

    @property
    def points(self) -> Tensor:
        """The points (K, *space.shape), as they were given."""
        return self._points.value

    @property
    def weights(self) -> Tensor:
        """Their weights, in double precision; the sum is 1."""
        return self._log_weights.exp()

    @property
    def mean(self) -> Tensor:
        """The weighted mean of the points, in double precision."""
        return self._element(self._centred(self.points.device)[0])

    @property
    def data_range(self) -> tuple[float, float] | None:
        """The smallest and the largest entry of all points; None for complex points, or where all are one."""
        if self.space.is_complex:
            return None
        low, high = (float(value) for value in torch.aminmax(self.points))
        return (low, high) if low < high else None

    @property
    def data_sd(self) -> float:
        """The root mean square over entries of the standard deviation, per real component."""
        _, centred = self._centred(self.points.device)
        variance = self.weights.to(centred.device) @ centred.square()
        return math.sqrt(float(variance.mean()))

    def draw(self, keys: Keys, *, like: Tensor) -> Tensor:
        """Return points drawn with their weights, by one uniform of `keys` for each draw."""
        chosen = chosen_by(keys, self.weights, "prior: point")
        drawn: Tensor = self.points[chosen.to(self.points.device)]
        return drawn.to(device=like.device, dtype=self.space.dtype_like(like))

    def log_density(self, u: Tensor) -> Tensor:
        """Raise: points have no density."""
        del u
        remedy = "With noise they have: GaussianMixture.isotropic(space, weights, points, sd)."
        raise type_error("prior", "be one with a known density", type(self).__name__, remedy)

    def responsibilities(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """Return p(point i | z), (..., K), in double precision."""
        self.space.check(z, "z")
        batch = z.shape[: z.ndim - self.space.ndim]
        level = _level(sigma, z, batch).double().reshape(-1, 1)
        rows = self._rows(z.reshape(-1, *self.space.shape))
        return self._shares(rows, torch.ones_like(level), level).reshape(*batch, len(self.points))

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self._estimated(z, torch.ones_like(sigma), sigma)

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        return self._estimated(u, inv_sigma, torch.ones_like(inv_sigma))

    def _estimated(self, v: Tensor, scale: Tensor, level: Tensor) -> Tensor:
        """Return E[x | v], v = scale x + level noise, for flat `v`."""
        centre, centred = self._centred(v.device)
        height = max(1, PAIRS // len(centred))
        columns = (self._rows(v), scale.flatten(1).double(), level.flatten(1).double())
        parts = zip(*(torch.split(column, height) for column in columns), strict=True)
        means = [self._shares(*part) @ centred for part in parts]
        return self._element(centre + torch.cat(means)).to(v.dtype)

    def _shares(self, v: Tensor, scale: Tensor, level: Tensor) -> Tensor:
        """Return the weights (batch, K) of the points for rows of real components, double columns beside."""
        centre, x = self._centred(v.device)
        v = v - scale * centre
        with torch.no_grad():
            nearest = (scale * x.square().sum(dim=1) - 2 * v @ x.T).argmin(dim=1)
            anchor = x[nearest]
            gaps = torch.cdist(anchor, x, compute_mode="donot_use_mm_for_euclid_dist").square()
        rest = v - scale * anchor
        excess = scale.square() * gaps - 2 * scale * (rest @ x.T - (rest * anchor).sum(dim=1, keepdim=True))
        floor = (ROUNDING * max(float(x.abs().max()), 1e-100)) ** 2
        variance = level.square()
        if isinstance(self.law, StudentT):
            dof = self.law.dof
            base = (dof * variance + rest.square().sum(dim=1, keepdim=True)).clamp(min=floor)
            logs = -(dof + x.shape[1]) / 2 * torch.log1p(excess / base)
        else:
            logs = -excess / (2 * variance.clamp(min=floor))
        return torch.softmax(logs + self._log_weights.to(v.device), dim=1)

    def _rows(self, x: Tensor) -> Tensor:
        """Return elements as rows of real components, in double precision."""
        return (torch.view_as_real(x) if x.is_complex() else x).flatten(1).double()

    def _element(self, rows: Tensor) -> Tensor:
        """Return elements out of rows of real components."""
        if not self.space.is_complex:
            return rows.reshape(*rows.shape[:-1], *self.space.shape)
        return torch.view_as_complex(rows.reshape(*rows.shape[:-1], *self.space.shape, 2))

    def _centred(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the mean of the points and the points less their mean, as rows on `device`."""
        kept = self.__dict__.setdefault("_memo_centred", {})
        if device not in kept:
            rows = self._rows(self.points)
            mean = self.weights.to(rows.device) @ rows
            kept[device] = (mean.to(device), (rows - mean).to(device))
        return cast("tuple[Tensor, Tensor]", kept[device])
