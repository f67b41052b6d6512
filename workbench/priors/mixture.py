"""Gaussian mixtures: any number of modes, and still all is known in closed form.

    p(x) = sum_k w_k N(x; m_k, S_k),      v = a x + c noise,     r_k ~ w_k N(v; a m_k, a^2 S_k + c^2 I)
    E[x | v] = sum_k r_k E_k[x | v],      sum_k r_k = 1

for z = x + sigma noise (a = 1) and for the scaled u (c = 1), where s = 0 leaves r = w. What was measured
through a linear operator with Gaussian noise leaves a mixture, too:

    z = B u + n:    w_k' ~ w_k N(z; B m_k, B S_k B^H + I),     each component its own Gaussian posterior

Components that share their root are evaluated as one (workbench/priors/alike.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor

from operators.checks import check_finite, check_number
from operators.constant import moved
from operators.errors import NoClosedFormError, type_error, value_error
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.space import Space
from workbench.likelihood import Likelihood
from workbench.priors.alike import Alike
from workbench.priors.base import Denoiser, _level
from workbench.priors.chances import chosen_by, log_chances
from workbench.priors.flat import require_field
from workbench.priors.gaussian import DenseGaussian, Gaussian
from workbench.random import Keys
from workbench.units import Units

__all__ = ["GaussianMixture"]

#: Entries of an element, up to which covariances are written out.
DENSE_ENTRIES = 2048


class GaussianMixture(Denoiser):
    """sum_k weights[k] components[k], each a Gaussian on the same space whose density is known.

    `weights` are >= 0 and are divided by their sum. A component may be singular, a point even: at
    sigma = 0 the nearest of such takes all.
    """

    exact = True
    calibrated_score = True
    knows_pure_noise = True

    def __init__(
        self, weights: Sequence[float] | Tensor, components: Sequence[Gaussian], units: Units | None = None
    ) -> None:
        if not isinstance(components, Sequence) or not components:
            got = repr(components) if isinstance(components, Sequence) else type(components).__name__
            raise type_error("components", "be a sequence of Gaussians, one at least", got)
        for k, component in enumerate(components):
            if not isinstance(component, Gaussian):
                remedy = "From arrays: GaussianMixture.dense(space, weights, means, covariances)."
                raise type_error(f"components[{k}]", "be a Gaussian", type(component).__name__, remedy)
            components[0].space.check_same(component.space, f"components[{k}].space")
            if component._eigen is None:
                raise NoClosedFormError(
                    f"components[{k}] has no density in closed form, which weighs it: {component.root!r}. "
                    "Use DenseGaussian or SpectralGaussian."
                )
        super().__init__(components[0].space, units)
        self.components = tuple(components)
        self._log_weights = log_chances(weights, len(components), "weights")
        self._floor = (1e-15 * max(self._scale(), 1e-100)) ** 2

    @classmethod
    def dense(
        cls,
        space: Space,
        weights: Sequence[float] | Tensor,
        means: Tensor,
        covariances: Tensor,
        units: Units | None = None,
    ) -> GaussianMixture:
        """Return the mixture of `means` (K, *space.shape) and `covariances` (K, size, size), or one for all.

        A covariance counts real components as DenseGaussian does.
        """
        means = _checked_means(space, means)
        shape = (space.size, space.size)
        if not isinstance(covariances, Tensor) or tuple(covariances.shape) not in (
            shape,
            (len(means), *shape),
        ):
            got = tuple(covariances.shape) if isinstance(covariances, Tensor) else type(covariances).__name__
            raise value_error("covariances", f"have shape {(len(means), *shape)} or {shape}", got)
        if covariances.ndim == 2:
            first = DenseGaussian(space, means[0], covariances)
            alike = (Gaussian(mean, first.root) for mean in means[1:])
            return cls(weights, [first, *alike], units)
        pairs = zip(means, covariances, strict=True)
        return cls(weights, [DenseGaussian(space, mean, matrix) for mean, matrix in pairs], units)

    @classmethod
    def isotropic(
        cls,
        space: Space,
        weights: Sequence[float] | Tensor,
        means: Tensor,
        sd: float | Sequence[float],
        units: Units | None = None,
    ) -> GaussianMixture:
        """Return the mixture of round components at `means` (K, *space.shape), of one `sd` or K of them.

        `sd` is that of each real component; 0 makes points.
        """
        means = _checked_means(space, means)
        alone = isinstance(sd, (int, float))
        values = [sd] * len(means) if alone else list(sd)  # type: ignore[arg-type]
        if len(values) != len(means):
            raise value_error("sd", f"be one number or {len(means)}, one per mean", len(values))
        numbers = [
            check_number(v, "sd" if alone else f"sd[{k}]", non_negative=True) for k, v in enumerate(values)
        ]
        roots = (value * Identity(space) for value in numbers)
        return cls(weights, [Gaussian(m, root) for m, root in zip(means, roots, strict=True)], units)

    @property
    def weights(self) -> Tensor:
        """The weights of the components, in double precision; their sum is 1."""
        return self._log_weights.exp()

    @property
    def mean(self) -> Tensor:
        """The mean of all, in double precision."""
        like = torch.empty(0, dtype=torch.float64, device=self._log_weights.device)
        return self._mixed([component.mean_like(like) for component in self.components])

    @property
    def data_sd(self) -> float:
        """The root mean square over entries of the standard deviation of u, per real component."""
        spread = self.mean.new_tensor([component.data_sd or 0.0 for component in self.components]).real
        mean, halves = self.mean, 2 if self.space.is_complex else 1
        offsets = torch.stack([(c.mean.to(mean) - mean).abs().square().mean() for c in self.components])
        return math.sqrt(float((self.weights * (spread.square() + offsets / halves)).sum()))

    def marginal_sd(self) -> Tensor:
        """Return the standard deviation of each entry, in double precision; of the two components the rms."""
        mean, halves = self.mean, 2 if self.space.is_complex else 1
        variances = [
            c.marginal_sd().square() + (c.mean.to(mean) - mean).abs().square() / halves
            for c in self.components
        ]
        return self._mixed(variances).sqrt()

    def to(self, device: torch.device | str) -> Self:
        """Return the same prior with its tensors on `device`; methods work on any device all the same."""
        return moved(self, torch.device(device))

    def draw(self, keys: Keys, *, like: Tensor) -> Tensor:
        """Return draws: the component by a uniform of `keys`, then the component's own draw."""
        like = like.new_empty(0, dtype=self.space.dtype_like(like))
        chosen = chosen_by(keys, self.weights.cpu(), "prior: component")
        drawn = like.new_empty((len(keys.draws), *self.space.shape))
        for k in sorted(set(chosen.tolist())):
            rows = (chosen == k).nonzero().flatten()
            mine = keys.of(keys.draws[row] for row in rows.tolist())
            drawn[rows.to(drawn.device)] = self.components[k].draw(mine, like=like)
        return drawn

    def log_density(self, u: Tensor) -> Tensor:
        """Return log p(u) per batch element in double precision, with its constant."""
        self.space.check(u, "u")
        return self.smoothed_log_density(u, 0.0)

    def smoothed_log_density(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the log density of z = x + sigma noise per batch element in double precision."""
        logs = [component.smoothed_log_density(z, sigma) for component in self.components]
        return torch.logsumexp(torch.stack(logs, dim=-1) + self._log_weights.to(z.device), dim=-1)

    def responsibilities(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """Return p(component k | z), (..., K), in double precision."""
        self.space.check(z, "z")
        batch = z.shape[: z.ndim - self.space.ndim]
        level = _level(sigma, z, batch).reshape(-1)
        shares = self._shares(z.reshape(-1, *self.space.shape), torch.ones_like(level), level)
        return shares.reshape(*batch, len(self.components))

    def conditioned(self, likelihood: Likelihood) -> GaussianMixture:
        """Return p(u | y) for a linear-Gaussian `likelihood` of u, a mixture again: dense, for small spaces.

        `likelihood` is a function of u, not of what u is in physical units: `posterior.measured`.
        """
        if not isinstance(likelihood, Likelihood):
            raise type_error("likelihood", "be a Likelihood", type(likelihood).__name__, "posterior.measured")
        self.space.check_same(likelihood.domain, "likelihood.domain")
        if self.space.size > DENSE_ENTRIES:
            remedy = "Its covariances are written out. Use a smaller grid."
            raise value_error("space", f"have at most {DENSE_ENTRIES} entries", self.space.size, remedy)
        operator, data = likelihood.whitened
        if self.space.is_complex and not operator.over_complex:
            raise type_error("likelihood.operator", "be linear over the complex numbers", repr(operator))
        matrix = _matrix_of(operator, data.device)
        target = (
            torch.view_as_real(data) if operator.codomain.is_complex and not self.space.is_complex else data
        )
        rows = target.to(matrix.dtype).flatten()
        found = [_conditioned(component, matrix, rows) for component in self.components]
        weights = torch.softmax(torch.stack([log for _, log in found]) + self._log_weights.to(rows.device), 0)
        return GaussianMixture(weights, [component for component, _ in found], self.units)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self._estimated(z, torch.ones_like(sigma), sigma)

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        return self._estimated(u, inv_sigma, torch.ones_like(inv_sigma))

    def _estimated(self, v: Tensor, scale: Tensor, level: Tensor) -> Tensor:
        """Return E[x | v], v = scale x + level noise."""
        shares = self._shares(v, scale, level).to(scale.dtype)
        if self._alike is not None:
            return self._alike.estimated(v, shares, scale, level)
        shares = shares.reshape(-1, *[1] * self.space.ndim, len(self.components))
        estimate = shares[..., 0] * self.components[0]._estimated(v, scale, level)
        for k, component in enumerate(self.components[1:], start=1):
            estimate = estimate + shares[..., k] * component._estimated(v, scale, level)
        return estimate

    def _shares(self, v: Tensor, scale: Tensor, level: Tensor) -> Tensor:
        """Return p(component k | v), (batch, K), for flat `v`."""
        if self._alike is not None:
            found = self._alike.logs(v, scale, level, self._floor)
        else:
            logs = [component._log_evidence(v, scale, level, self._floor) for component in self.components]
            found = torch.stack(logs, dim=-1)
        return torch.softmax(found + self._log_weights.to(v.device), dim=-1)

    @property
    def _alike(self) -> Alike | None:
        """The components as one where they share their root."""
        if "_memo_alike" not in self.__dict__:
            self.__dict__["_memo_alike"] = Alike.of(self.components)
        return cast("Alike | None", self.__dict__["_memo_alike"])

    def _mixed(self, values: list[Tensor]) -> Tensor:
        return torch.stack([w * v for w, v in zip(self.weights.tolist(), values, strict=True)]).sum(0)

    def _scale(self) -> float:
        """Return what rounding in v is relative to."""
        return max(max(float(c.mean.abs().max()), c.data_sd or 0.0) for c in self.components)


def _checked_means(space: Space, means: object) -> Tensor:
    require_field(space).check(means, "means")  # type: ignore[arg-type]
    if not isinstance(means, Tensor) or means.ndim != space.ndim + 1:
        got = tuple(means.shape) if isinstance(means, Tensor) else type(means).__name__
        raise value_error("means", f"have shape (K, {', '.join(map(str, space.shape))})", got)
    check_finite(means, "means")
    return means


def _matrix_of(operator: LinearOperator, device: torch.device) -> Tensor:
    """Return the matrix of `operator` in double precision; complex data of real images count twice."""
    space = operator.domain
    served = torch.float64 if torch.float64 in operator.dtypes else torch.float32
    dtype = space.dtype_like(torch.empty(0, dtype=served))
    columns = operator.apply(torch.eye(space.size, dtype=dtype, device=device).reshape(-1, *space.shape))
    mixed = columns.is_complex() and not space.is_complex
    wide = torch.complex128 if space.is_complex else torch.float64
    return (torch.view_as_real(columns) if mixed else columns).flatten(1).to(wide).T


def _conditioned(prior: Gaussian, matrix: Tensor, data: Tensor) -> tuple[DenseGaussian, Tensor]:
    """Return the posterior of `prior` under data = matrix u + white noise, and its log evidence.

    With M = matrix R = U diag(s) V^H and d = data - matrix mean, in v of u = mean + R v:
    v | d ~ N(V s / (1 + s^2) U^H d, V (1 + s^2)^-1 V^H), and d ~ N(0, I + M M^H), where
    d^H (I + M M^H)^-1 d = |d - M v|^2 + |v|^2 at the mean v.
    """
    root, mean = _matrix_of(prior.root, prior.device).to(matrix), prior.mean.to(matrix).flatten()
    m, d = matrix @ root, data - matrix @ mean
    # All of V: what was not measured keeps its variance, to the last digit.
    u, s, vh = torch.linalg.svd(m, full_matrices=m.shape[0] < m.shape[1])
    shrink = torch.ones(len(mean), dtype=torch.float64, device=m.device)
    shrink[: len(s)] = 1 / (1 + s.square())
    v = vh[: len(s)].mH @ (s * shrink[: len(s)] * (u[:, : len(s)].mH @ d))
    spread = root @ vh.mH
    covariance = (spread * shrink) @ spread.mH
    components = 2 if prior.space.is_complex else 1
    square = (d - m @ v).abs().square().sum() + v.abs().square().sum()
    log = -0.5 * (square + components * torch.log1p(s.square()).sum())
    centre = (mean + root @ v).reshape(prior.space.shape)
    return DenseGaussian(prior.space, centre, (covariance + covariance.mH) / 2), log
