"""The battery every prior's test subclasses.

    class TestDense(PriorContract):
        covers = (DenseGaussian,)

        def make(self, dtype): ...

        def smoothed_log_density(self, z, sigma): ...

`make` returns a prior on a small space whose tensors come in the given real dtype; where the density
of z = x + sigma * noise is known, `smoothed_log_density` states it, from another source than the
prior's own denoiser. A denoiser that approximates one says so: `is_exact = False`, and whatever else it
cannot do. Priors over tokens subclass tests/token_prior_contract.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.contracts import close, spread_out
from tests.oracles import TOLERANCE, random_element
from tests.scaled_contract import SIGMAS, ScaledContract
from workbench.paths.noise_law import NORMAL
from workbench.priors.base import Denoiser
from workbench.random import Keys

DRAWS = 20000


class PriorContract(ScaledContract):
    """What holds for every prior on fields; its switches stand in tests/scaled_contract.py."""

    def test_covers_what_it_makes(self, prior: Denoiser) -> None:
        assert self.covers == (type(prior),)
        facts = (prior.exact, prior.differentiable, prior.knows_pure_noise, prior.law, prior.noise_range)
        said = (self.is_exact, self.is_differentiable, self.knows_pure_noise, self.law, self.noise_range)
        assert facts == said
        assert prior.calibrated_score or not prior.exact
        assert (prior.declared.law, prior.declared.noise_range) == (self.law, self.noise_range)
        assert len(repr(prior)) < 300

    def test_tokens_are_refused(self, prior: Denoiser) -> None:
        with pytest.raises(TypeError, match="`z` must"):
            prior.denoise(torch.zeros(prior.space.shape, dtype=torch.int64), 1.0)

    def test_batch_axes_shape_dtype_and_layout(self, dtype: torch.dtype) -> None:
        # Constants in one precision serve data of both.
        for prior in (self.make(torch.float32), self.make(torch.float64)):
            for batch in ((), (1,), (2, 3)):
                z = random_element(prior.space, *batch, dtype=dtype)
                got = prior.denoise(z, self.level(0.5))
                assert got.shape == z.shape
                assert got.dtype == z.dtype
                assert close(prior.denoise(spread_out(z), self.level(0.5)), got, TOLERANCE[dtype])

    def test_argument_and_result_are_apart(self, prior: Denoiser, dtype: torch.dtype) -> None:
        z = random_element(prior.space, 2, dtype=dtype)
        before = z.clone()
        for sigma in (self.level(0.0), self.level(0.5)):
            prior.denoise(z, sigma).mul_(2)
            assert torch.equal(z, before)
            prior.denoise_scaled(z, 1 / (sigma + 0.1)).mul_(2)
            assert torch.equal(z, before)

    def test_one_sigma_per_sample_equals_separate_calls(self, prior: Denoiser, dtype: torch.dtype) -> None:
        z = random_element(prior.space, 2, 3, dtype=dtype)
        sigma = torch.tensor([self.level(s) for s in (0.0, 0.1, 0.5, 1.0, 2.0, 50.0)], dtype=dtype).reshape(
            2, 3
        )
        got = prior.denoise(z, sigma)
        for i in range(2):
            for j in range(3):
                expected = prior.denoise(z[i, j], float(sigma[i, j]))
                assert (got[i, j] - expected).abs().max() <= self.bound(dtype) * z.abs().max()
        one = self.level(0.5)
        assert close(prior.denoise(z, torch.tensor(one)), prior.denoise(z, one), self.bound(dtype))

    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_tweedie(self, prior: Denoiser, sigma: float) -> None:
        if not (self.has_smoothed_density and self.is_exact and self.law == NORMAL):
            pytest.skip("no smoothed density is known")
        z = random_element(prior.space, 3).requires_grad_()
        (score,) = torch.autograd.grad(self.smoothed_log_density(z, sigma).sum(), z)
        expected = z.detach() + sigma**2 * score
        got = prior.denoise(z.detach(), sigma)
        assert (got - expected).abs().max() <= self.bound(torch.float64) * expected.abs().max()
        difference = (prior.score(z.detach(), sigma) - score).abs().max()
        assert difference <= self.bound(torch.float64) * max(1.0, 1 / sigma**2) * z.abs().max()

    def test_density_is_that_of_no_noise(self, prior: Denoiser) -> None:
        u = random_element(prior.space, 2, 3)
        if not (self.has_density and self.is_exact):
            with pytest.raises((TypeError, ValueError), match="density"):
                prior.log_density(u)
            return
        got = prior.log_density(u)
        assert got.shape == (2, 3)
        assert got.dtype == torch.float64
        expected = self.smoothed_log_density(u.reshape(-1, *prior.space.shape), 0.0).reshape(2, 3)
        assert (got - expected).abs().max() <= 1e-9 * expected.abs().max().clamp(min=1.0)
        single = u.to(torch.complex64 if u.is_complex() else torch.float32)
        assert prior.log_density(single).dtype == torch.float64
        leaf = u.clone().requires_grad_()
        (score,) = torch.autograd.grad(prior.log_density(leaf).sum(), leaf)
        assert score.shape == u.shape

    def test_limits(self, prior: Denoiser) -> None:
        z = random_element(prior.space, 2)
        if self.is_proper and self.is_exact:
            mean, _ = self.mean_and_sd()
            assert (prior.denoise(z, 1e6) - mean).abs().max() <= 1e-9
        if self.noise_range[0] > 0:
            return
        once = prior.denoise(z, 0.0)
        assert (prior.denoise(z, 1e-9) - once).abs().max() <= self.bound(torch.float64) * z.abs().max()
        if self.settles:
            # What is in the range already stays; a prior with a density has all of the space for a range.
            again = prior.denoise(once, 0.0)
            assert (again - once).abs().max() <= self.bound(torch.float64) * z.abs().max()
        if self.has_density and self.is_exact:
            assert close(once, z, self.bound(torch.float64))

    def derivative(self, prior: Denoiser, z: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
        """Return the directional derivative of denoise by a quotient."""
        step = 1.0 if self.is_affine else 1e-5
        return (prior.denoise(z + step * v, sigma) - prior.denoise(z - step * v, sigma)) / (2 * step)

    def test_covariance_is_sigma_squared_times_the_derivative(self, prior: Denoiser) -> None:
        z, v = random_element(prior.space, 3), random_element(prior.space, 3, seed=3)
        sigma = torch.tensor([self.level(s) for s in SIGMAS], dtype=torch.float64)
        if self.law != NORMAL:
            for attempt in (lambda: prior.covariance(z, sigma, v), lambda: prior.score(z, sigma)):
                with pytest.raises(TypeError, match="`prior` must be one of normal noise for a"):
                    attempt()
            return
        if not (self.is_exact and self.is_differentiable):
            pytest.skip("its derivative need not be a covariance")
        forward = self.derivative(prior, z, sigma, v)
        expected = forward * sigma.reshape(-1, *[1] * prior.space.ndim) ** 2
        got = prior.covariance(z, sigma, v)
        bound = self.bound(torch.float64) if self.is_affine else 1e-6
        assert (got - expected).abs().max() <= bound * expected.abs().max()
        assert close(Denoiser.covariance(prior, z, sigma, v), got, self.bound(torch.float64))

    def test_covariance_is_symmetric_and_positive(self, prior: Denoiser) -> None:
        if not (self.is_exact and self.is_differentiable and self.law == NORMAL):
            pytest.skip("its derivative need not be a covariance")
        z = random_element(prior.space, 4)
        v, w = (random_element(prior.space, 4, seed=s) for s in (4, 5))
        left = prior.space.inner(v, prior.covariance(z, 0.7, w)).real
        right = prior.space.inner(prior.covariance(z, 0.7, v), w).real
        scale = prior.space.norm(v) * prior.space.norm(w)
        assert ((left - right).abs() <= self.bound(torch.float64) * scale).all()
        assert (prior.space.inner(v, prior.covariance(z, 0.7, v)).real >= 0).all()

    def test_gradients_flow_through_denoise(self, prior: Denoiser) -> None:
        if not self.is_differentiable:
            pytest.skip("it says that none do")
        z = random_element(prior.space, 2).requires_grad_()
        levels = [self.level(0.3), self.level(1.5)]
        sigma = torch.tensor(levels, dtype=torch.float64, requires_grad=True)
        r, v = (random_element(prior.space, 2, seed=seed) for seed in (6, 7))
        in_z, in_sigma = torch.autograd.grad(
            prior.denoise(z, sigma), (z, sigma), r, allow_unused=True, materialize_grads=True
        )
        expected = prior.space.inner(r, self.derivative(prior, z.detach(), sigma.detach(), v)).real
        difference = (prior.space.inner(in_z, v).real - expected).abs().max()
        assert difference <= max(1e-6, self.bound(torch.float64)) * (1 + expected.abs().max())
        if self.is_exact and self.law == NORMAL:
            product = prior.covariance(z.detach(), sigma.detach(), r)
            column = sigma.detach().reshape(-1, *[1] * prior.space.ndim)
            assert close(in_z * column**2, product, self.bound(torch.float64))
        step = 1e-5
        up, down = (prior.denoise(z.detach(), sigma.detach() + s) for s in (step, -step))
        quotient = prior.space.inner(r, (up - down) / (2 * step)).real
        assert (in_sigma - quotient).abs().max() <= 1e-5 * quotient.abs().max().clamp(min=1e-3)

    def test_function_transforms(self, prior: Denoiser) -> None:
        if not self.has_transforms:
            pytest.skip("it says that none go through")
        z = random_element(prior.space, 3)
        expected = prior.denoise(z, self.level(0.5))
        got = torch.func.vmap(lambda row: prior.denoise(row, self.level(0.5)))(z)
        assert close(got, expected, self.bound(torch.float64))

    def test_draws_have_the_stated_moments_and_keys(self, prior: Denoiser, dtype: torch.dtype) -> None:
        like = torch.empty(0, dtype=prior.space.dtype_like(torch.empty(0, dtype=dtype)))
        if not self.can_be_drawn:
            with pytest.raises(TypeError, match="`prior` must be .*drawn from"):
                prior.draw(Keys(7, (0,)), like=like)
            return
        draws = prior.draw(Keys(7, tuple(range(DRAWS))), like=like)
        assert draws.shape == (DRAWS, *prior.space.shape)
        assert draws.dtype == like.dtype
        mean, sd = self.mean_and_sd()
        for draw, expected in (
            ((draws.real, mean.real), (draws.imag, mean.imag)) if draws.is_complex() else ((draws, mean),)
        ):
            wide = draw.double()
            # Six standard errors of a mean and of a standard deviation.
            assert ((wide.mean(0) - expected).abs() <= 6 * sd / DRAWS**0.5 + 1e-6).all()
            assert ((wide.std(0) - sd).abs() <= 6 * sd / (2 * DRAWS) ** 0.5 + 1e-6).all()
        again = prior.draw(Keys(7, (5, 3)), like=like)
        assert close(again, draws[[5, 3]], 10 * TOLERANCE[dtype])
        others = prior.draw(Keys(8, tuple(range(20))), like=like)
        assert not close(others, draws[:20], 0.01)
        if prior.data_sd is not None:
            assert prior.data_sd == pytest.approx(float(sd.square().mean().sqrt()), rel=1e-5)
        if prior.data_range is not None:
            low, high = prior.data_range
            assert low <= float(draws.min()) <= float(draws.max()) <= high

    def test_the_posterior_mean_is_right_on_average(self, prior: Denoiser) -> None:
        if not (self.can_be_drawn and self.is_exact):
            pytest.skip("cannot be drawn from, or approximates a mean")
        # E|x - D(x + sigma n)|^2 = tr Cov: less than that of any other scaling towards the mean.
        like = torch.empty(0, dtype=prior.space.dtype_like(torch.empty(0, dtype=torch.float64)))
        keys = Keys(9, tuple(range(2000)))
        x = prior.draw(keys, like=like)
        z = x + 0.5 * self.law.draw(keys, prior.space.shape, "test", like=like)
        estimate = prior.denoise(z, 0.5)
        centre = self.mean_and_sd()[0]
        best = prior.space.norm(x - estimate).square().mean()
        for factor in (0.9, 1.1):
            other = centre + factor * (estimate - centre)
            assert prior.space.norm(x - other).square().mean() > best

    def test_bad_arguments_are_named(self, prior: Denoiser, dtype: torch.dtype) -> None:
        z = random_element(prior.space, 2, dtype=dtype)
        for attempt, error, message in (
            (lambda: prior.denoise(z, -1.0), ValueError, "`sigma` must be a finite number >= 0"),
            (lambda: prior.denoise(z, float("nan")), ValueError, "`sigma` must be a finite number >= 0"),
            (lambda: prior.denoise(z, torch.ones(3)), ValueError, "`sigma` must be one number or have"),
            (lambda: prior.denoise(z, torch.ones(2) * 1j), TypeError, "`sigma` must be real"),
            (lambda: prior.denoise(torch.cat([z, z], dim=-1), 1.0), ValueError, "`z` must have shape"),
            (lambda: prior.denoise(z.numpy(), 1.0), TypeError, r"`z` must be a torch\.Tensor"),
            (lambda: prior.denoise_scaled(z, -1.0), ValueError, "`inv_sigma` must be a finite number >= 0"),
            (lambda: prior.denoise_scaled(z, torch.ones(3)), ValueError, "`inv_sigma` must be one number or"),
            (lambda: prior.denoise_scaled(z[..., :1], 1.0), ValueError, "`u` must have shape"),
        ):
            with pytest.raises(error, match=message):
                attempt()
        if self.law == NORMAL:
            with pytest.raises(ValueError, match="`sigma` must be > 0 for a score"):
                prior.score(z, 0.0)
        other = z.real.clone() if z.is_complex() else z.to(torch.complex64)
        with pytest.raises(TypeError, match="`z` must be (real|complex)"):
            prior.denoise(other, 1.0)

    @pytest.mark.cuda
    def test_cuda_agrees_with_cpu(self, prior: Denoiser, dtype: torch.dtype) -> None:
        z = random_element(prior.space, 2, dtype=dtype)
        for sigma in (self.level(0.0), self.level(0.5)):
            got = prior.denoise(z.cuda(), sigma)
            assert got.device.type == "cuda"
            expected = prior.denoise(z, sigma)
            assert (got.cpu() - expected).abs().max() <= 10 * self.bound(dtype) * z.abs().max()
        if self.knows_pure_noise:
            there = prior.denoise_scaled(z.cuda(), 0.0).cpu()
            assert (there - prior.denoise_scaled(z, 0.0)).abs().max() <= 10 * self.bound(dtype)
        if self.has_density and self.is_exact:
            assert torch.allclose(prior.log_density(z.cuda()).cpu(), prior.log_density(z), rtol=1e-9)
        if self.can_be_drawn:
            keys = Keys(3, (0, 1))
            there = prior.draw(keys, like=z.cuda())
            assert close(there.cpu(), prior.draw(keys, like=z), 100 * TOLERANCE[dtype])
