"""The battery every noise's test subclasses.

    class TestGaussian(NoiseContract):
        covers = (Gaussian,)
        space = Space((3, 4))
        ...

`make` returns a law whose tensors come in the given real dtype, `predicted` and `data` fit it, and
`oracle` is its log density from another source, for one prediction, in numpy.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.constant import devices_of
from operators.space import Space
from tests.contracts import close
from tests.oracles import random_element
from workbench.noise.base import Noise
from workbench.random import Keys

DRAWS = 20000
SINGLE = 2e-4


def real_inner(a: Tensor, b: Tensor) -> Tensor:
    """Return Re <a, b> of each row."""
    return (a.conj() * b).real.flatten(1).sum(1) if a.is_complex() else (a * b).flatten(1).sum(1)


def keys(count: int, *, first: int = 0, seed: int = 7) -> Keys:
    return Keys(seed, tuple(range(first, first + count)))


class NoiseContract:
    """What holds for every law."""

    covers: tuple[type[Noise], ...] = ()
    #: The operator's codomain.
    space: Space
    #: Whether the law knows its constant, its data are independent, -log p is convex.
    normalised = True
    separable = True
    log_concave = True

    def make(self, dtype: torch.dtype) -> Noise:
        raise NotImplementedError

    def data(self, dtype: torch.dtype) -> Tensor:
        raise NotImplementedError

    def oracle(self, predicted: np.ndarray, data: np.ndarray) -> float:
        raise NotImplementedError

    def predicted(self, *batch: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        return random_element(self.space, *batch, dtype=dtype, seed=seed)

    @pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
    def dtype(self, request: pytest.FixtureRequest) -> torch.dtype:
        return request.param

    @pytest.fixture
    def noise(self) -> Noise:
        return self.make(torch.float64)

    @pytest.fixture
    def y(self) -> Tensor:
        return self.data(torch.float64)

    def test_covers_what_it_makes(self, noise: Noise, y: Tensor) -> None:
        assert self.covers == (type(noise),)
        assert isinstance(noise.name, str)
        noise.check(y, self.space)

    def test_it_is_an_immutable_value(self, noise: Noise) -> None:
        for field in dataclasses.fields(noise):  # type: ignore[arg-type]
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(noise, field.name, 1.0)
            value = getattr(noise, field.name)
            if isinstance(value, Tensor):
                before, mine = value.clone(), value.clone()
                other = dataclasses.replace(noise, **{field.name: mine})  # type: ignore[type-var]
                mine.mul_(3)
                assert torch.equal(getattr(other, field.name), before)
        assert len(repr(noise)) < 200

    def test_log_likelihood_against_another_source(self, noise: Noise, y: Tensor) -> None:
        m = self.predicted(2, 3)
        got = noise.log_likelihood(m, y)
        assert got.shape == (2, 3)
        assert got.dtype == torch.float64
        expected = [self.oracle(row.numpy(), y.numpy()) for row in m.reshape(-1, *self.space.shape)]
        if not self.normalised:
            got, expected = got - got[0, 0], np.array(expected) - expected[0]
        assert got.flatten().tolist() == pytest.approx(list(expected), rel=1e-9, abs=1e-9)
        assert noise.log_likelihood(m[1, 2], y).item() == pytest.approx(
            noise.log_likelihood(m, y)[1, 2].item()
        )

    def test_score_and_curvature_against_autograd(self, noise: Noise, y: Tensor) -> None:
        m = self.predicted(3).requires_grad_()
        d = self.predicted(3, seed=5)
        (gradient,) = torch.autograd.grad(noise.log_likelihood(m, y).sum(), m, create_graph=True)
        assert close(noise.score(m.detach(), y), gradient.detach(), 1e-10)
        (second,) = torch.autograd.grad(real_inner(gradient, d).sum(), m)
        assert close(noise.curvature(m.detach(), y, d), -second, 1e-9)

    def test_positive_curvature(self, noise: Noise, y: Tensor) -> None:
        m, d = self.predicted(40), self.predicted(40, seed=6)
        whole, part = noise.curvature(m, y, d), noise.positive_curvature(m, y, d)
        assert (real_inner(d, part) >= 0).all()
        assert (real_inner(d, part) >= real_inner(d, whole) * (1 - 1e-12)).all()
        assert torch.equal(whole, part) == self.log_concave

    def test_precision_follows_the_prediction(self, y: Tensor) -> None:
        wide = self.predicted(2)
        m = wide.to(torch.complex64 if wide.is_complex() else torch.float32)
        for noise in (self.make(torch.float32), self.make(torch.float64)):
            for data in (y, self.data(torch.float32)):
                assert noise.log_likelihood(m, data).dtype == torch.float64
                pairs = (
                    (noise.score(m, data), noise.score(wide, y)),
                    (noise.curvature(m, data, m), noise.curvature(wide, y, wide)),
                    (noise.prox(m, data, 0.3), noise.prox(wide, y, 0.3)),
                )
                for narrow, expected in pairs:
                    assert narrow.dtype == m.dtype
                    assert close(narrow.to(wide.dtype), expected, SINGLE)
                assert close(noise.log_likelihood(m, data), noise.log_likelihood(wide, y), SINGLE)

    @pytest.mark.parametrize("step", [1e-3, 0.5, 200.0])
    def test_prox_is_the_minimum(self, noise: Noise, y: Tensor, step: float) -> None:
        point = self.predicted(4, seed=9)
        p = noise.prox(point, y, step)
        assert p.shape == point.shape
        pull = (p - point) / step
        scale = noise.score(point, y).abs().max() + pull.abs().max() + noise.curvature(p, y, p).abs().max()
        assert (pull - noise.score(p, y)).abs().max() <= 1e-9 * scale

        def objective(m: Tensor) -> Tensor:
            return real_inner(m - point, m - point) / (2 * step) - noise.log_likelihood(m, y)

        least = objective(p)
        for seed in range(20):
            other = p + 10.0 ** (seed % 5 - 3) * self.predicted(4, seed=100 + seed)
            assert (objective(other) >= least - 1e-12 * least.abs()).all()

    def test_steps_per_sample_and_per_datum(self, noise: Noise, y: Tensor) -> None:
        point = self.predicted(2, 3, seed=10)
        steps = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
        got = noise.prox(point, y, steps)
        expected = torch.stack([noise.prox(point[:, i], y, float(s)) for i, s in enumerate(steps)], dim=1)
        assert close(got, expected, 1e-9)
        with pytest.raises(ValueError, match=r"`step` must be a number or broadcast to \(2, 3\)"):
            noise.prox(point, y, torch.ones(5))
        with pytest.raises(ValueError, match="`step` must be"):
            noise.prox(point, y, -1.0)
        with pytest.raises(ValueError, match="`step` must be finite and > 0"):
            noise.prox(point, y, torch.zeros(3))
        if self.separable:
            weights = torch.linspace(0.1, 2.0, self.space.size, dtype=torch.float64).reshape(self.space.shape)
            each = noise.prox(point[0, 0], y, weights)
            for i in range(self.space.size):
                alone = noise.prox(point[0, 0], y, float(weights.flatten()[i]))
                assert alone.flatten()[i] == pytest.approx(each.flatten()[i].item(), rel=1e-9)

    def test_draws_are_keyed(self, noise: Noise, y: Tensor, dtype: torch.dtype) -> None:
        m = self.predicted(4, dtype=dtype)
        drawn = noise.draw(m, keys(4))
        assert drawn.shape == (4, *self.space.shape)
        assert drawn.dtype == self.data(dtype).dtype
        assert torch.equal(noise.draw(m, keys(4)), drawn)
        assert torch.equal(noise.draw(m[2:], keys(2, first=2)), drawn[2:])
        assert not torch.equal(noise.draw(m, keys(4), "else"), drawn)
        assert not torch.equal(noise.draw(m, keys(4, seed=8)), drawn)
        noise.check(drawn[0], self.space)
        with pytest.raises(ValueError, match=r"`predicted` must have one row per draw, shape \(3, "):
            noise.draw(m, keys(3))

    def test_draws_follow_the_law(self, noise: Noise) -> None:
        """E[s] = 0 and E[s s^H] = E[H] for the score s and the curvature H at the truth."""
        m, d = self.predicted(seed=11), self.predicted(seed=12)
        drawn = noise.draw(m.expand(DRAWS, *m.shape), keys(DRAWS))
        scores = torch.func.vmap(lambda y: noise.score(m, y))(drawn)
        bent = torch.func.vmap(lambda y: noise.curvature(m, y, d))(drawn)
        along = real_inner(scores, d.expand_as(scores))
        excess = along**2 - real_inner(bent, d.expand_as(bent))
        for statistic in (along, excess):
            assert statistic.mean().abs() <= 4.5 * statistic.std() / DRAWS**0.5
        assert excess.std() / DRAWS**0.5 <= 0.05 * (along**2).mean(), "too few draws to tell"

    def test_gaussian_form(self, noise: Noise, y: Tensor) -> None:
        form = noise.gaussian_form(y, self.space)
        assert (form is not None) == (noise.name == "gaussian")
        if form is None:
            return
        m = self.predicted(3)
        white = form.whitener(form.data - m)
        expected = noise.log_likelihood(m, y) - (form.log_normaliser or 0.0)
        assert close(-0.5 * real_inner(white, white), expected, 1e-11)
        assert (form.log_normaliser is not None) == self.normalised

    def test_offsets_move_into_the_data(self, noise: Noise, y: Tensor) -> None:
        m, offset = self.predicted(3), self.predicted(seed=13)
        shifted = noise.shifted(y, offset)
        if shifted is not None:
            noise.check(shifted, self.space)
            assert close(noise.log_likelihood(m, shifted), noise.log_likelihood(m + offset, y), 1e-11)

    def test_bad_data_are_named(self, noise: Noise, y: Tensor) -> None:
        other = y.abs() if y.is_complex() else torch.complex(y, y)
        poisoned = y.clone()
        poisoned.view(-1)[0] = float("nan")
        for bad, error, message in (
            (y[0], ValueError, "`data` must have the shape of the operator's values"),
            (y[None], ValueError, r"`data` must have .*\. One measurement, without batch axes"),
            (y.numpy(), TypeError, r"`data` must be a torch\.Tensor, got ndarray"),
            (torch.ones(y.shape, dtype=torch.int64), TypeError, "`data` must have dtype float32"),
            (other, TypeError, "`data` must be (real|complex) for this noise"),
            (poisoned, ValueError, "`data` must hold finite values"),
        ):
            with pytest.raises(error, match=message):
                noise.check(bad, self.space)  # type: ignore[arg-type]

    def test_moving(self, noise: Noise, y: Tensor) -> None:
        m = self.predicted(2)
        moved = noise.to("cpu")
        assert type(moved) is type(noise)
        assert torch.equal(moved.score(m, y), noise.score(m, y))
        with pytest.raises(ValueError, match=r"`device` must be a torch\.device or its name"):
            noise.to("nowhere")
        noise.score(m, y)  # what it keeps for itself must move, too
        if devices_of(noise):
            assert devices_of(noise.to("meta")) == {torch.device("meta")}

    @pytest.mark.cuda
    def test_cuda_agrees_with_cpu(self, noise: Noise, y: Tensor) -> None:
        m, there = self.predicted(2), noise.to("cuda")
        there.check(y.cuda(), self.space)
        assert close(there.log_likelihood(m.cuda(), y.cuda()).cpu(), noise.log_likelihood(m, y), 1e-10)
        assert close(there.score(m.cuda(), y.cuda()).cpu(), noise.score(m, y), 1e-10)
        assert close(there.prox(m.cuda(), y.cuda(), 0.5).cpu(), noise.prox(m, y, 0.5), 1e-9)
        assert close(there.draw(m.cuda(), keys(2)).cpu(), noise.draw(m, keys(2)), 1e-10)
