"""Gaussian priors: u = mean + R w with w white, so that everything about them is known.

    S = R R^H,    E[x | z] = mean + G (z - mean),    Cov[x | z] = sigma^2 G,    G = S (S + sigma^2 I)^-1

S counts real components: w has standard deviation 1 in each, and in a complex field S is the
covariance of the real part and of the imaginary part, half of E[(u - mean) (u - mean)^H]. Where S is
singular, sigma = 0 gives the limit: mean + the part of z - mean in the range of S. For v = a x + c noise,
which is z for a = 1 and the scaled u for c = 1:

    E[x | v] = mean + a S (a^2 S + c^2 I)^-1 (v - a mean)
"""

from __future__ import annotations

import math
from typing import Self, cast

import torch
from torch import Tensor

from operators.checks import check_finite, check_number, check_scalar, check_tensor
from operators.circulant import PeriodicFilter, checked_response
from operators.constant import Constant, moved, single_device
from operators.diagonal import Diagonal
from operators.errors import NoClosedFormError, type_error, value_error
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from workbench.priors.base import Denoiser, _level
from workbench.priors.eigen import Eigen, eigen_of
from workbench.priors.flat import require_field
from workbench.priors.matern import matern_power
from workbench.random import Keys
from workbench.units import Units

__all__ = ["DenseGaussian", "Gaussian", "SpectralGaussian"]


class Gaussian(Denoiser):
    """mean + root w for any `root` from a space to itself; what is needed of S follows from it.

    Denoising is exact where root root^H is diagonal in a known basis (filters, diagonals, matrices,
    their products with unitary operators) and is solved by conjugate gradients elsewhere, as for a
    sd that varies over a stationary field, Diagonal(space, sd) @ PeriodicFilter(space, response).
    The density needs the former. `mean` is a number or one element of the space.
    """

    exact = True
    calibrated_score = True
    knows_pure_noise = True

    def __init__(self, mean: complex | Tensor, root: LinearOperator, units: Units | None = None) -> None:
        if not isinstance(root, LinearOperator):
            raise type_error("root", "be a LinearOperator R with S = R R^H", type(root).__name__)
        space = require_field(root.codomain, "root.codomain")
        super().__init__(space, units)
        space.check_same(root.domain, "root.domain")
        if space.is_complex and not root.over_complex:
            raise type_error("root", "be linear over the complex numbers", repr(root))
        root._require_exact_adjoint("Gaussian")
        self.root = root
        self._mean = _checked_mean(mean, space, root.device)
        single_device((root, self._mean), "mean and root")

    @property
    def mean(self) -> Tensor:
        """The mean, an element of the space."""
        return self.mean_like(self._mean.value)

    @property
    def device(self) -> torch.device:
        """Where mean and root lie; methods work on any device all the same."""
        return self._mean.value.device

    def to(self, device: torch.device | str) -> Self:
        """Return the same prior with its tensors on `device`."""
        return moved(self, torch.device(device))

    def mean_like(self, like: Tensor) -> Tensor:
        """Return the mean in the precision and on the device of `like`."""
        value = self._beside(like)._mean.like(like)
        return value.to(self.space.dtype_like(like)).expand(self.space.shape)

    def draw(self, keys: Keys, *, like: Tensor) -> Tensor:
        """Return mean + root w, w the normals of `keys` for the purpose "prior"."""
        like = like.new_empty(0, dtype=self.space.dtype_like(like))
        white = keys.normals(self.space.shape, "prior", like=like)
        return self.mean_like(like) + self._beside(like).root.apply(white)

    def log_density(self, u: Tensor) -> Tensor:
        """Return log p(u) per batch element in double precision, with its constant."""
        self.space.check(u, "u")
        return self.smoothed_log_density(u, 0.0)

    def smoothed_log_density(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the log density of z = x + sigma noise per batch element in double precision."""
        self.space.check(z, "z")
        batch = z.shape[: z.ndim - self.space.ndim]
        level = _level(sigma, z, batch).reshape(-1)
        zeros = self._beside(z)._known("density").values <= 0
        if bool(zeros.any()) and bool((level <= 0).any()):
            raise value_error(
                "prior",
                "have a covariance without zero eigenvalues, for a density",
                f"{int(zeros.sum())} zero of {zeros.numel()}",
                "Add a small variance to them; draw and denoise need none.",
            )
        return self._log_evidence(z.reshape(-1, *self.space.shape), torch.ones_like(level), level).reshape(
            batch
        )

    def _log_evidence(self, v: Tensor, scale: Tensor, level: Tensor, floor: float = 0.0) -> Tensor:
        """Return log p(v), v = scale x + level noise, flat; no variance counts for less than `floor`."""
        own = self._beside(v)
        eigen = own._known("density")
        wide = v.to(torch.complex128 if v.is_complex() else torch.float64)
        a, c = scale.double().reshape(-1), level.double().reshape(-1)
        residual = wide - a.reshape(-1, *[1] * self.space.ndim) * own._mean.like(wide)

        def variance(values: Tensor, a: Tensor, c: Tensor) -> Tensor:
            return (a * a * values + c * c).clamp(min=floor)

        solved = eigen.apply(residual, lambda values, a, c: 1 / variance(values, a, c), a, c)
        square = self.space.inner(residual, solved).real
        flat = variance(eigen.values.reshape(1, -1), a[:, None], c[:, None])
        components = 2 if self.space.is_complex else 1
        return -0.5 * (square + components * (flat.log() + math.log(2 * math.pi)).sum(dim=1))

    @property
    def data_sd(self) -> float | None:
        """The root mean square of the standard deviations of u, None where they are not known."""
        return None if self._eigen is None else math.sqrt(float(self._eigen.values.mean()))

    def covariance_product(self, v: Tensor) -> Tensor:
        """Return S v."""
        self.space.check(v, "v")
        own = self._beside(v)
        if own._eigen is None:
            return own.root.H.gram.apply(v)
        flat = v.reshape(-1, *self.space.shape)
        return own._eigen.apply(flat, lambda values: values).reshape(v.shape)

    def marginal_sd(self) -> Tensor:
        """Return the standard deviation of each entry, per real component, in double precision."""
        eigen = self._known("marginal standard deviation")
        if eigen.basis is not None:
            raise self._unknown("marginal standard deviation")
        variance = eigen.values
        if eigen.spectrum.axes:
            # A circulant matrix has one diagonal entry: the mean of its eigenvalues.
            variance = variance.mean(dim=eigen.spectrum.axes, keepdim=True).expand(self.space.shape)
        return variance.sqrt()

    def covariance(self, z: Tensor, sigma: float | Tensor, v: Tensor) -> Tensor:
        """Return Cov[x | z] v = sigma^2 G v; of `z` only the batch axes matter."""
        self.space.check(z, "z")
        self.space.check(v, "v")
        if v.shape != z.shape:
            raise value_error("v", f"have shape {tuple(z.shape)}, beside z", tuple(v.shape))
        level = _level(sigma, z, z.shape[: z.ndim - self.space.ndim]).reshape(-1, *[1] * self.space.ndim)
        product = self._beside(v)._gain(v.reshape(-1, *self.space.shape), torch.ones_like(level), level)
        return (level**2 * product).reshape(v.shape)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self._estimated(z, torch.ones_like(sigma), sigma)

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        return self._estimated(u, inv_sigma, torch.ones_like(inv_sigma))

    def _estimated(self, v: Tensor, scale: Tensor, level: Tensor) -> Tensor:
        """Return E[x | v], v = scale x + level noise."""
        own = self._beside(v)
        mean = own._mean.like(v)
        return mean + own._gain(v - scale * mean, scale, level)

    def _gain(self, v: Tensor, scale: Tensor, level: Tensor) -> Tensor:
        """Return a S (a^2 S + c^2 I)^-1 v for flat `v`, a = scale and c = level."""
        a, c = scale.double().reshape(-1), level.double().reshape(-1)
        if self._eigen is not None:

            def factor(values: Tensor, a: Tensor, c: Tensor) -> Tensor:
                total = a * a * values + c * c
                return a * values / torch.where(total > 0, total, 1.0)

            return self._eigen.apply(v, factor, a, c)
        # R (R^H R + (c / a)^2)^-1 R^H / a, consistent for c = 0 too; for next to no a it is a S / c^2.
        inner = self.root.apply_adjoint(v)
        known = a > torch.finfo(v.dtype).tiny ** 0.25
        ratio, shape = c / torch.where(known, a, 1.0), (-1, *[1] * self.space.ndim)
        solved = self.root.apply(self.root.normal_solve(inner, ratio * ratio))
        solved = solved / torch.where(known.reshape(shape), scale, 1.0)
        if bool(known.all()):
            return solved
        return torch.where(known.reshape(shape), solved, scale / level.square() * self.root.apply(inner))

    @property
    def _eigen(self) -> Eigen | None:
        if "_memo_eigen" not in self.__dict__:
            self.__dict__["_memo_eigen"] = eigen_of(self.root)
        return cast("Eigen | None", self.__dict__["_memo_eigen"])

    def _known(self, what: str) -> Eigen:
        if self._eigen is None:
            raise self._unknown(what)
        return self._eigen

    def _unknown(self, what: str) -> NoClosedFormError:
        return NoClosedFormError(
            f"The {what} of a Gaussian with {self.root!r} has no closed form. Use DenseGaussian(space, "
            "mean, covariance) for a small space, or draws."
        )

    def _beside(self, x: Tensor) -> Self:
        if x.device == self.device:
            return self
        twins = self.__dict__.setdefault("_memo_twins", {})
        if x.device not in twins:
            twins[x.device] = self.to(x.device)
        return cast(Self, twins[x.device])


class DenseGaussian(Gaussian):
    """N(mean, covariance) for a symmetric positive semi-definite matrix over the entries, in C order.

    `covariance` (size, size) is S: real, or Hermitian on a complex space. It is decomposed once, in
    double precision; eigenvalues below its rounding count as zero. Its root is the symmetric one,
    which alone is unique: the same keys give the same draws everywhere.
    """

    def __init__(
        self, space: Space, mean: complex | Tensor, covariance: Tensor, units: Units | None = None
    ) -> None:
        values, vectors = _decomposed(require_field(space), covariance)
        modes = Space(space.shape, space.is_complex)
        basis = Matrix(modes, space, vectors, unitary=True)
        root = basis @ Diagonal(modes, values.sqrt().reshape(space.shape)) @ basis.H
        super().__init__(mean, root, units)
        self._variance = (vectors.abs().square() @ values).reshape(space.shape)

    def marginal_sd(self) -> Tensor:
        """Return the standard deviation of each entry, per real component, in double precision."""
        sd: Tensor = self._variance.sqrt()
        return sd


class SpectralGaussian(Gaussian):
    """A stationary Gaussian field with periodic ends: the FFT makes its entries independent.

    `power` holds the eigenvalues of S, one per frequency of the last axes of `space` in the order of
    torch.fft.fftn: the variance of the coefficients under the unitary FFT. It is real, >= 0 and even in
    frequency on a real space. Components in front of these axes are independent and alike; each entry
    has the variance power.mean().
    """

    def __init__(
        self, space: Space, mean: complex | Tensor, power: Tensor, units: Units | None = None
    ) -> None:
        checked_response(require_field(space), power, "power")
        if power.is_complex():
            raise type_error("power", "be real", power.dtype)
        if float(power.min()) < 0:
            raise value_error("power", "be >= 0", float(power.min()), "It is a variance per frequency.")
        super().__init__(mean, PeriodicFilter(space, power.double().sqrt()), units)

    @classmethod
    def smooth(
        cls,
        space: Space,
        *,
        sd: float,
        length: float,
        smoothness: float = 1.5,
        mean: complex | Tensor = 0.0,
        units: Units | None = None,
        device: torch.device | str = "cpu",
    ) -> SpectralGaussian:
        """Return a field of standard deviation `sd` with Matern correlation of `length` in mm.

        Parameters
        ----------
        space
            On a grid with perpendicular axes. Frames of a time axis are independent.
        sd
            Of each entry, per real component.
        length
            Correlation length l in mm, well below the extent of the grid: its ends are joined.
        smoothness
            nu: 0.5 gives exp(-r / l); 1.5 gives (1 + a) exp(-a), a = sqrt(3) r / l; math.inf gives
            exp(-r^2 / (2 l^2)). Draws have derivatives of any order below nu.
        mean
            A number or one element of the space.
        units
            What the numbers mean.
        device
            Where its tensors lie.
        """
        grid = require_field(space).grid
        if grid is None:
            raise value_error("space", "lie on a Grid, for lengths in mm", space)
        sd = check_number(sd, "sd", positive=True)
        length = check_number(length, "length", positive=True)
        if smoothness != math.inf:
            smoothness = check_number(smoothness, "smoothness", positive=True)
        power = sd**2 * matern_power(grid, length, smoothness)
        return cls(space, mean, power.to(device), units)


def _checked_mean(mean: complex | Tensor, space: Space, device: torch.device | None) -> Constant:
    if not isinstance(mean, Tensor):
        number = check_scalar(mean, "mean")
        if number.imag != 0 and not space.is_complex:
            raise type_error("mean", "be real on a real space", number)
        value = number if number.imag != 0 else number.real
        dtype = torch.complex128 if number.imag != 0 else torch.float64
        return Constant(torch.tensor(value, dtype=dtype, device=device))
    space.check(mean, "mean")
    if tuple(mean.shape) != space.shape:
        raise value_error("mean", f"be a number or have shape {space.shape}", tuple(mean.shape))
    check_finite(mean, "mean")
    return Constant(mean, "mean")


def _decomposed(space: Space, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues >= 0 and eigenvectors of a covariance, or say why it is none."""
    check_tensor(covariance, "covariance")
    if tuple(covariance.shape) != (space.size, space.size):
        raise value_error("covariance", f"have shape {(space.size, space.size)}", tuple(covariance.shape))
    check_finite(covariance, "covariance")
    if covariance.is_complex() and not space.is_complex:
        raise type_error("covariance", "be real on a real space", covariance.dtype)
    wide = Constant(covariance, "covariance").value
    wide = wide.to(torch.complex128 if wide.is_complex() else torch.float64)
    rounding = 10 * space.size * torch.finfo(covariance.dtype).eps
    skew = float((wide - wide.mH).abs().max())
    if skew > rounding * float(wide.abs().max()):
        expected = "be symmetric (Hermitian on a complex space)"
        found = f"a difference of {skew:.1e} between C and C^H"
        raise value_error("covariance", expected, found, "Make it so: (C + C.mH) / 2.")
    values, vectors = torch.linalg.eigh((wide + wide.mH) / 2)
    lowest = float(values.min())
    if lowest < -rounding * float(values.abs().max()):
        found = f"a smallest eigenvalue of {lowest:.3g}"
        remedy = "Add a multiple of the identity, or set negative eigenvalues to zero."
        raise value_error("covariance", "be positive semi-definite", found, remedy)
    # What the input's precision rounded is noise about an eigenvalue, and no reason to take it for zero.
    floor = 10 * space.size * torch.finfo(torch.float64).eps * float(values.abs().max())
    return torch.where(values > floor, values, 0.0), vectors
