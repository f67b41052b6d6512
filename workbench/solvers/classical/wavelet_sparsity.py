"""Wavelet sparsity by accelerated proximal gradients: argmin |B u - z|^2 / 2 + weight |W u|_1.

    v' = prox(a - B^H (B a - z) / L),     prox(c) = W^H soft(W c, weight / L),     L = |B|^2
    a' = v' + (t - 1) / t' (v' - v),      t' = (1 + (1 + 4 t^2)^1/2) / 2

(Beck and Teboulle 2009), restarted, t = 1, where a step turns back on the one before: <a - v', v' - v> > 0
(O'Donoghue and Candes 2015). W is orthonormal, its details alone are weighed, complex ones by magnitude; the
coarse image below them is free. Where the levels do not divide an axis, v goes on beyond the image: B sees
the image alone, and W v is what is sparse: of all continuations the sparsest.
Its bias: details lose weight over their precision, faint ones altogether; blocks of one fixed grid show.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.batch import column, dots
from operators.checks import check_count, check_number
from operators.errors import ConvergenceWarning, type_error
from operators.linear import LinearOperator
from operators.space import Space
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.by_field import require_images
from workbench.priors.flat import Flat
from workbench.priors.wavelet import WaveletDenoiser, orthogonal_filter
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["WaveletSparsity", "WaveletSparsityState"]


@dataclass(frozen=True)
class WaveletSparsityState:
    """v, the point a ahead of it, what B predicts of both, and t (batch)."""

    v: Tensor
    image: Tensor
    ahead: Tensor
    image_ahead: Tensor
    momentum: Tensor


@dataclass(frozen=True)
class WaveletSparsity(Solver[WaveletSparsityState]):
    """The image of least |B u - z|^2 / 2 + weight times the sum of the magnitudes of its wavelet details.

    `weight` is in 1 / (unit of u): at 0 it is least squares. `wavelet` is "haar", "db2" to "db10" or another
    orthogonal one of PyWavelets (extra "image"); `levels` are halvings of the finest axis, by default as many
    as leave 8 voxels of each. It ends after `iterations`, or where a step changes the prediction by less than
    `tolerance` of its misfit: |B| |a - v'| <= tolerance |B a - z|. Components and frames are images each.
    """

    weight: float
    wavelet: str = "db4"
    levels: int | None = None
    iterations: int = 1000
    tolerance: float = 1e-5

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(linear_gaussian=True, priors=(Flat,))
    state_type: ClassVar[type[WaveletSparsityState]] = WaveletSparsityState
    deterministic: ClassVar[bool] = True
    plan_is_limit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.weight, "weight", non_negative=True)
        if not isinstance(self.wavelet, str):
            raise type_error("wavelet", "be the name of a wavelet", repr(self.wavelet))
        orthogonal_filter(self.wavelet)  # says what is wrong with the name
        if self.levels is not None:
            check_count(self.levels, "levels")
        check_count(self.iterations, "iterations")
        check_number(self.tolerance, "tolerance", positive=True)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration."""
        self._wavelets(posterior)  # says what is wrong with the space
        return SolverPlan.steps(self.iterations)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> WaveletSparsityState:
        """Return v = 0."""
        b, _ = posterior.measured.whitened
        wavelets = self._wavelets(posterior)
        v = like.new_zeros(len(keys.draws), *wavelets.space.shape)
        image = like.new_zeros(v.shape[0], *b.codomain.shape, dtype=b.codomain.dtype_like(like))
        ones = torch.ones(v.shape[0], dtype=torch.float64, device=like.device)
        return WaveletSparsityState(v, image, v, image, ones)

    def step(
        self, posterior: Posterior, state: WaveletSparsityState, row: PlanRow, keys: Keys
    ) -> tuple[WaveletSparsityState, Info]:
        """Do one proximal gradient step."""
        del keys
        s, model = state, _Model.of(posterior)
        wavelets, b = self._wavelets(posterior), model.forward
        z = model.data.to(s.image)
        misfit = s.image_ahead - z
        point = s.ahead - _padded(b.apply_adjoint(misfit), s.v.shape) / model.norm**2
        v = wavelets.denoise(point, self.weight / model.norm**2)
        image = b.apply(_cropped(v, posterior.space))

        overshot = dots(s.ahead - v, v - s.v).double() > 0
        following = (1 + (1 + 4 * s.momentum**2).sqrt()) / 2
        carried = torch.where(overshot, 0.0, (s.momentum - 1) / following).to(v.real.dtype)
        moved = WaveletSparsityState(
            v=v,
            image=image,
            ahead=v + column(carried, v) * (v - s.v),
            image_ahead=image + column(carried, image) * (image - s.image),
            momentum=torch.where(overshot, 1.0, following),
        )
        size = _norms(misfit).clamp(min=torch.finfo(torch.float64).tiny)
        residual = model.norm * _norms(s.ahead - v) / size
        # Steps cannot be told from the rounding of v.
        rounding = 8 * torch.finfo(v.dtype).eps * model.norm * _norms(v) / size
        details = sum(band.abs().double().flatten(1).sum(1) for band in wavelets.details(v))
        values = {"objective": _norms(image - z) ** 2 / 2 + self.weight * details, "residual": residual}
        finished = bool((residual <= rounding.clamp(min=self.tolerance)).all())
        if row.index + 1 == self.iterations and not finished:
            warnings.warn(
                f"WaveletSparsity stopped at a residual of {float(residual.max()):.1e}, not "
                f"{self.tolerance:g}, after {self.iterations} iterations. Raise `iterations` or `tolerance`.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return moved, Info(lambda: self.answer(posterior, moved), values, finished)

    def answer(self, posterior: Posterior, state: WaveletSparsityState) -> Tensor:
        """Return u as it stands."""
        return _cropped(state.v, posterior.space)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return the first step's adjoint and prediction."""
        del posterior, plan
        return Cost(operator_calls=2)

    def _wavelets(self, posterior: Posterior) -> WaveletDenoiser:
        """Return W as the denoiser that is its prox, on a space whose axes the levels divide."""
        return posterior.kept(f"wavelets {self.wavelet} {self.levels}", lambda: self._made(posterior.space))

    def _made(self, space: Space) -> WaveletDenoiser:
        frame = require_images(space)
        levels = WaveletDenoiser(space, wavelet=self.wavelet, levels=self.levels).plan
        counts = [sum(axis in level for level in levels) for axis in (-3, -2, -1)]
        missing = [-n % 2**count for n, count in zip(frame.shape, counts, strict=True)]
        wider = frame.pad((0, 0, 0), missing)
        return WaveletDenoiser(
            Space.field(wider, is_complex=space.is_complex, components=space.shape[:-3]),
            wavelet=self.wavelet,
            threshold=1.0,
            levels=self.levels,
            invariant=False,
            boundary="periodic",
        )


@dataclass(frozen=True, eq=False)
class _Model:
    """B, z and a bound on |B|."""

    forward: LinearOperator
    data: Tensor
    norm: float

    @classmethod
    def of(cls, posterior: Posterior) -> _Model:
        return posterior.kept("wavelet sparsity", lambda: cls._made(posterior))

    @classmethod
    def _made(cls, posterior: Posterior) -> _Model:
        forward, data = posterior.measured.whitened
        # Lanczos approaches from below: steps need a bound from above.
        return cls(forward, data, 1.02 * forward.norm(tolerance=1e-2) or 1.0)


def _cropped(v: Tensor, space: Space) -> Tensor:
    """Return the image out of v."""
    z, y, x = space.shape[-3:]
    return v[..., :z, :y, :x].contiguous()


def _padded(u: Tensor, shape: torch.Size) -> Tensor:
    """Return the adjoint: zeros beyond the image."""
    margins = [
        n for m, k in zip(reversed(shape[-3:]), reversed(u.shape[-3:]), strict=True) for n in (0, m - k)
    ]
    return torch.nn.functional.pad(u, margins) if any(margins) else u


def _norms(a: Tensor) -> Tensor:
    return dots(a, a).double().sqrt()
