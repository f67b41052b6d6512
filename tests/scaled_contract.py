"""What holds of u = inv_sigma x + noise for every prior on fields, and the switches of their battery."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.declaring_contract import DeclaringContract
from tests.oracles import TOLERANCE, random_element
from workbench.paths.noise_law import NORMAL, NoiseLaw
from workbench.priors.base import Denoiser

SIGMAS = (0.05, 0.4, 3.0)


class ScaledContract(DeclaringContract):
    """The switches of a prior's battery, and its tests of denoise_scaled."""

    covers: tuple[type[Denoiser], ...] = ()
    #: Whether it is a posterior mean in closed form: an approximation has no density, no Tweedie, and
    #: a derivative that need be neither symmetric nor positive.
    is_exact = True
    #: Whether gradients flow through it.
    is_differentiable = True
    #: Whether inv_sigma = 0 is known to it.
    knows_pure_noise = True
    #: The law of its noise.
    law: NoiseLaw = NORMAL
    #: The levels it takes.
    noise_range: tuple[float, float] = (0.0, math.inf)
    #: Whether it can be drawn from directly.
    can_be_drawn = True
    #: Whether log_density is known: not so for a singular covariance.
    has_density = True
    #: Whether smoothed_log_density is.
    has_smoothed_density = True
    #: Whether denoise is affine, so that covariances do not depend on z.
    is_affine = False
    #: Whether a large sigma leaves the mean alone: not so for an improper prior.
    is_proper = True
    #: Whether what it makes of sigma = 0 stays what it is the next time.
    settles = True
    #: Relative accuracy of a solve inside denoise, None where it is closed.
    solved_to: dict[torch.dtype, float] | None = None
    #: Whether torch.func.vmap goes through it.
    has_transforms = True

    def make(self, dtype: torch.dtype) -> Denoiser:
        raise NotImplementedError

    def smoothed_log_density(self, z: Tensor, sigma: float) -> Tensor:
        """Return log p_sigma(z), up to a constant, differentiably in double precision."""
        raise NotImplementedError

    def mean_and_sd(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation per real component of each entry."""
        raise NotImplementedError

    @pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
    def dtype(self, request: pytest.FixtureRequest) -> torch.dtype:
        return request.param

    @pytest.fixture
    def prior(self) -> Denoiser:
        return self.make(torch.float64)

    def bound(self, dtype: torch.dtype) -> float:
        return 10 * TOLERANCE[dtype] if self.solved_to is None else self.solved_to[dtype]

    def level(self, sigma: float) -> float:
        """Return the level next to `sigma` that the prior takes."""
        return min(max(sigma, self.noise_range[0]), self.noise_range[1])

    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_the_scaled_form_is_the_same_mean(
        self, prior: Denoiser, dtype: torch.dtype, sigma: float
    ) -> None:
        sigma = self.level(sigma)
        u = random_element(prior.space, 2, 3, dtype=dtype) / sigma
        got = prior.denoise_scaled(u, 1 / sigma)
        assert (got.shape, got.dtype) == (u.shape, u.dtype)
        expected = prior.denoise(u * sigma, sigma)
        assert (got - expected).abs().max() <= self.bound(dtype) * (1 + expected.abs().max())

    def test_pure_noise_leaves_the_mean(self, prior: Denoiser, dtype: torch.dtype) -> None:
        u = random_element(prior.space, 3, dtype=dtype)
        if not self.knows_pure_noise:
            for level in (0.0, torch.tensor([1.0, 0.0, 0.5], dtype=dtype)):
                with pytest.raises(ValueError, match="`inv_sigma` must be > 0 for a"):
                    prior.denoise_scaled(u, level)
            return
        levels = torch.tensor([0.0, 1 / self.level(0.5), 0.0], dtype=dtype)
        got = prior.denoise_scaled(u, levels)
        for row, level in enumerate(levels.tolist()):
            expected = prior.denoise_scaled(u[row], level)
            assert (got[row] - expected).abs().max() <= self.bound(dtype) * (1 + u.abs().max())
        # Noise alone says nothing: whatever it is, the same; and the limit of noise that says little.
        assert (got[0] - got[2]).abs().max() <= self.bound(dtype)
        far, near = (prior.denoise_scaled(u, s) - got[0] for s in (1e-3, 1e-6))
        assert near.abs().max() <= 0.01 * far.abs().max() + self.bound(dtype)
        if self.is_exact:
            mean, _ = self.mean_and_sd()
            assert (got[0] - mean).abs().max() <= self.bound(dtype)

    def test_gradients_at_pure_noise(self, prior: Denoiser) -> None:
        if not (self.knows_pure_noise and self.is_differentiable):
            pytest.skip("it has none there")
        u = random_element(prior.space, 2).requires_grad_()
        r = random_element(prior.space, 2, seed=6)
        level = torch.tensor([0.0, 1 / self.level(0.5)], dtype=torch.float64, requires_grad=True)
        in_u, in_level = torch.autograd.grad(prior.denoise_scaled(u, level), (u, level), r)
        assert in_u.isfinite().all()
        assert in_level.isfinite().all()
        if self.is_exact:
            assert in_u[0].abs().max() <= self.bound(torch.float64)
            step = 1e-6
            forward = (prior.denoise_scaled(u.detach(), step) - prior.denoise_scaled(u.detach(), 0.0)) / step
            quotient = float(prior.space.inner(r, forward)[0].real)
            assert float(in_level[0]) == pytest.approx(quotient, rel=1e-4, abs=1e-6)

    def test_levels_out_of_range_are_refused(self, prior: Denoiser) -> None:
        z = random_element(prior.space, 2)
        low, high = self.noise_range
        outside = [low / 2] * (low > 0) + [high * 2] * (high < math.inf)
        for sigma in outside:
            for attempt in (prior.denoise, lambda z, s: prior.denoise_scaled(z, 1 / s)):
                for level in (sigma, torch.tensor([self.level(0.5), sigma], dtype=torch.float64)):
                    with pytest.raises(ValueError, match="`sigma` must lie in the range that the"):
                        attempt(z, level)
        prior.require_levels(torch.tensor([self.level(0.0), self.level(1e4)]))
