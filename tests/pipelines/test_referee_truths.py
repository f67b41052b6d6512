"""The truths of the referee against numbers found by other ways: dense algebra, quadrature, chance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from pipelines.verify.referee.conditioning import conditioned, real_covariance
from pipelines.verify.referee.fields import field_posterior, field_problem
from pipelines.verify.referee.images import images_posterior
from pipelines.verify.referee.nonlinear import phase_posterior, phase_truth
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.small import bimodal_posterior
from pipelines.verify.referee.truth import (
    FieldTruth,
    GaussianTruth,
    GridTruth,
    MixtureTruth,
    components_of,
    from_reals,
    reals,
)
from tests.oracles import random_element
from tests.problems import Dense, dense_answer, real_matrix, require_standard_normal
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.priors.mixture import GaussianMixture

GRID = Grid.plane((2, 3), 1.0)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance_of(size: int, seed: int = 1) -> Tensor:
    root = normals(size, size, seed=seed) / size**0.5
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("is_complex", [False, True])
def test_rows_and_elements_are_each_others_inverse(is_complex: bool) -> None:
    space = Space.field(GRID, is_complex=is_complex)
    u = random_element(space, 4)
    rows = reals(u)
    assert rows.shape == (4, 12 if is_complex else 6)
    assert torch.equal(from_reals(rows, space), u)
    assert torch.equal(reals(from_reals(rows, space)), rows)
    chosen = torch.tensor([1, 4])
    part = u.flatten(1)[:, chosen]
    assert torch.equal(rows[:, components_of(chosen, space)], reals(part))


def test_the_covariance_of_components_is_that_of_a_complex_filter() -> None:
    root = torch.complex(normals(3, 3, seed=1), normals(3, 3, seed=2))
    # u = root w with both components of w white: over the reals [[Re, -Im], [Im, Re]] of each entry.
    real = torch.zeros(6, 6, dtype=torch.float64)
    real[0::2, 0::2] = real[1::2, 1::2] = root.real
    real[1::2, 0::2], real[0::2, 1::2] = root.imag, -root.imag
    assert torch.allclose(real_covariance(root @ root.mH), real @ real.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["P1", "P2", "blur8", "mask8", "ct8", "coils8"])
def test_small_truths_are_those_of_dense_algebra(name: str) -> None:
    truth, dense = problem(name).truth, dense_answer(problem(name).posterior)
    assert torch.allclose(truth.mean, dense.mean, rtol=0, atol=1e-10)
    assert torch.allclose(truth.covariance, dense.covariance, rtol=0, atol=1e-10)
    assert torch.allclose(truth.sd, dense.covariance.diagonal().sqrt(), rtol=0, atol=1e-10)
    assert torch.equal(truth.patch, torch.arange(len(dense.mean)))


@pytest.mark.parametrize("kind", ["blur", "mask", "ct", "mri"])
def test_truths_of_fields_are_those_of_dense_algebra(kind: str) -> None:
    found = field_problem(f"{kind}64", 12)
    truth, dense = found.truth, dense_answer(found.posterior)
    middle = torch.zeros(12, 12, dtype=torch.bool)
    middle[2:10, 2:10] = True
    components = 2 if kind == "mri" else 1
    entries = middle.flatten().repeat_interleave(components).nonzero()[:, 0]
    assert torch.equal(truth.patch, entries)
    assert torch.allclose(truth.mean, dense.mean, rtol=0, atol=1e-9)
    assert torch.allclose(truth.sd, dense.covariance.diagonal().sqrt(), rtol=0, atol=1e-9)
    assert torch.allclose(truth.covariance, dense.covariance[entries][:, entries], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["blur", "mask", "ct", "mri"])
def test_draws_of_fields_have_their_law(kind: str) -> None:
    found = field_problem(f"{kind}64", 8)
    rows = found.truth.draw(700, 3)
    assert rows is not None
    dense = dense_answer(found.posterior)
    require_standard_normal(dense.whitened(from_reals(rows, found.posterior.space)))


def test_draws_are_those_of_the_seed_whatever_their_number() -> None:
    for name in ("P1", "P3", "coils8", "phase2"):
        truth = problem(name).truth
        few, many, other = truth.draw(5, 1), truth.draw(40, 1), truth.draw(5, 2)
        assert few is not None and many is not None and other is not None
        assert torch.allclose(few, many[:5], rtol=0, atol=1e-12)
        assert float((few - other).abs().min()) > 0


def test_a_gaussian_knows_its_quantiles_and_draws_its_law() -> None:
    covariance = covariance_of(4)
    truth = GaussianTruth(torch.arange(4).double(), covariance)
    require_standard_normal(Dense(truth.mean, covariance).whitened(truth.draw(2000, 5)))
    ends = truth.mean + torch.tensor([[-1.0], [0.0], [2.0]]) * truth.sd
    expected = torch.tensor([0.15865525393145707, 0.5, 0.9772498680518208], dtype=torch.float64)
    assert torch.allclose(truth.cdf(ends), expected[:, None].expand(3, 4), rtol=0, atol=1e-14)
    assert truth.modes == 1
    assert truth.mode_chances(ends) is None


def test_a_singular_gaussian_draws_inside_its_plane() -> None:
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)
    truth = GaussianTruth(torch.zeros(2), direction[:, None] * direction)
    rows = truth.draw(300, 0)
    assert rows is not None
    assert float((rows @ torch.tensor([0.8, -0.6], dtype=torch.float64)).abs().max()) < 1e-7
    assert abs(float((rows @ direction).square().sum()) - 300) < 5 * (2 * 300) ** 0.5


def mixture() -> MixtureTruth:
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    covariances = torch.stack([0.3 * covariance_of(2, seed) for seed in (1, 2, 3)])
    return MixtureTruth(weights, 2 * normals(3, 2, seed=4), covariances)


def plane(reach: float, cells: int) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 * reach / cells) - reach
    return axis, torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)


def log_density(truth: MixtureTruth, points: Tensor) -> Tensor:
    laws = torch.distributions.MultivariateNormal(truth.means, truth.covariances)
    return torch.logsumexp(laws.log_prob(points[:, None]) + truth.mode_weights.log(), dim=1)


def test_moments_of_a_mixture_are_those_of_quadrature() -> None:
    truth = mixture()
    axis, points = plane(9.0, 700)
    density = log_density(truth, points).exp() * (axis[1] - axis[0]) ** 2
    assert abs(float(density.sum()) - 1) < 1e-9
    mean = density @ points
    assert torch.allclose(truth.mean, mean, rtol=0, atol=1e-9)
    covariance = (points - mean).T @ (density[:, None] * (points - mean))
    assert torch.allclose(truth.covariance, covariance, rtol=0, atol=1e-9)
    assert torch.allclose(truth.sd, covariance.diagonal().sqrt(), rtol=0, atol=1e-9)
    # Up to the face between two cells.
    face = axis[400] + (axis[1] - axis[0]) / 2
    below = torch.stack([density[points[:, i] < face].sum() for i in range(2)])
    assert torch.allclose(truth.cdf(face.expand(1, 2))[0], below, rtol=0, atol=1e-4)
    chances = truth.mode_chances(points[::1001])
    laws = torch.distributions.MultivariateNormal(truth.means, truth.covariances)
    joint = laws.log_prob(points[::1001, None]) + truth.mode_weights.log()
    expected = (joint - log_density(truth, points[::1001])[:, None]).exp()
    assert torch.allclose(chances, expected, rtol=0, atol=1e-12)


def test_draws_of_a_mixture_have_its_law() -> None:
    truth, count = mixture(), 20000
    rows = truth.draw(count, 9)
    assert float(((rows.mean(0) - truth.mean) / truth.sd).abs().max()) < 5 / count**0.5
    weights = truth.mode_chances(rows).mean(0)
    # Chances vary no more than ones and zeros would.
    bound = 5 * (truth.mode_weights * (1 - truth.mode_weights) / count).sqrt()
    assert bool(((weights - truth.mode_weights).abs() < bound).all())
    for levels in (-1.0, 0.0, 1.5):
        ends = truth.mean + levels * truth.sd
        share = (rows < ends).double().mean(0)
        exact = truth.cdf(ends[None])[0]
        assert bool(((share - exact).abs() < 5 * (exact * (1 - exact) / count).sqrt()).all())


def test_each_component_of_a_mixture_draws_its_own_law() -> None:
    means = torch.tensor([[-30.0, 0.0, 1.0], [30.0, 2.0, 0.0]], dtype=torch.float64)
    covariances = torch.stack([covariance_of(3, 1), covariance_of(3, 2)])
    truth = MixtureTruth(torch.tensor([0.6, 0.4]), means, covariances)
    rows = truth.draw(3000, 4)
    for k, mine in enumerate((rows[:, 0] < 0, rows[:, 0] > 0)):
        require_standard_normal(Dense(means[k], covariances[k]).whitened(rows[mine]))


def require_mixture(posterior: Posterior, truth: MixtureTruth) -> None:
    """Fail unless `truth` is what dense algebra makes of each component by itself."""
    b, z = posterior.measured.whitened
    prior = posterior.prior
    assert isinstance(prior, GaussianMixture)
    matrix = real_matrix(b)
    logs = []
    for k, component in enumerate(prior.components):
        root, mean = real_matrix(component.root), component.mean.flatten().double()
        s = root @ root.T
        evidence = matrix @ s @ matrix.T + torch.eye(len(matrix), dtype=torch.float64)
        gain = torch.linalg.solve(evidence, matrix @ s).T
        short = z.flatten() - matrix @ mean
        law = torch.distributions.MultivariateNormal(torch.zeros(len(z.flatten())).double(), evidence)
        logs.append(prior.weights[k].log() + law.log_prob(short))
        assert torch.allclose(truth.means[k], mean + gain @ short, rtol=0, atol=1e-10)
        assert torch.allclose(truth.covariances[k], s - gain @ matrix @ s, rtol=0, atol=1e-10)
    assert torch.allclose(truth.mode_weights, torch.softmax(torch.stack(logs), 0), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "make"), [("P3", bimodal_posterior), ("images16", images_posterior)])
def test_mixtures_are_those_of_dense_algebra(name: str, make: object) -> None:
    truth = problem(name).truth
    assert isinstance(truth, MixtureTruth)
    require_mixture(make(), truth)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["P1", "P2", "P3"])
def test_vectors_have_the_posterior_of_weighted_draws_of_the_prior(name: str) -> None:
    posterior, truth = problem(name).posterior, problem(name).truth
    prior, count = posterior.prior, 400000
    b, z = posterior.measured.whitened
    if isinstance(prior, GaussianMixture):
        means = torch.stack([c.mean.flatten() for c in prior.components])
        root = real_matrix(prior.components[0].root)
        kind = torch.arange(count) % 2  # equal weights
        rows = means[kind] + normals(count, 8, seed=6) @ root.T
    else:
        rows = prior.mean.flatten() + normals(count, 8, seed=6) @ real_matrix(prior.root).T
    misfit = (rows @ real_matrix(b).T - z).square().sum(1) / 2
    weights = torch.softmax(-misfit, 0)
    values = [rows, (rows - truth.mean).square()]
    exact = [truth.mean, truth.covariance.diagonal()]
    if truth.modes > 1:
        values.append(torch.nn.functional.one_hot(kind, 2).double())
        exact.append(truth.mode_weights)
    for value, known in zip(values, exact, strict=True):
        estimate = weights @ value
        error = (weights.square() @ (value - estimate).square()).sqrt()
        assert bool(((estimate - known).abs() < 5 * error).all())
        assert float((error / truth.sd[: len(error)]).max()) < 0.02


def test_a_density_on_a_grid_of_midpoints() -> None:
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(mean, covariance)
    axis, points = plane(6.0, 400)
    direction = torch.tensor([1.0, 2.0], dtype=torch.float64)
    truth = GridTruth(axis, axis, law.log_prob(points).reshape(400, 400) + 7.0, direction)
    assert torch.allclose(truth.mean, mean, rtol=0, atol=1e-10)
    assert torch.allclose(truth.covariance, covariance, rtol=0, atol=1e-10)
    exact = GaussianTruth(mean, covariance)
    ends = truth.mean + torch.tensor([[-9.0], [-1.3], [0.0], [0.7], [40.0]]) * truth.sd
    # Trapezoids miss f'' h^2 / 8 at most between faces, and at them h^2 f' / 24: h = 0.03.
    assert torch.allclose(truth.cdf(ends), exact.cdf(ends), rtol=0, atol=3e-4)
    ahead = float(direction @ mean) / math.sqrt(float(direction @ covariance @ direction))
    above = torch.special.ndtr(torch.tensor(ahead, dtype=torch.float64))
    # The line cuts cells: their centres decide, one row of cells at most.
    assert abs(float(truth.mode_weights[0] - above)) < 0.01
    assert float(truth.mode_weights.sum()) == pytest.approx(1, abs=1e-12)
    rows = truth.draw(3000, 2)
    require_standard_normal(Dense(mean, covariance).whitened(rows))
    assert torch.equal(truth.mode_chances(rows)[:, 0], (rows @ direction > 0).double())


def test_two_signs_are_those_of_the_posterior_and_of_a_finer_grid() -> None:
    posterior = phase_posterior()
    truth, fine = phase_truth(posterior), phase_truth(posterior, cells=1300)
    for name in ("mean", "sd", "covariance", "mode_weights"):
        assert torch.allclose(getattr(truth, name), getattr(fine, name), rtol=0, atol=1e-9), name
    ends = truth.mean + torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None] * truth.sd
    # h^2 max |f'| / 8 for h = 0.008 and modes of sd 0.1.
    assert torch.allclose(truth.cdf(ends), fine.cdf(ends), rtol=0, atol=2e-4)
    chosen = torch.tensor([[300, 620], [640, 430], [512, 37], [350, 575], [660, 440]])
    points = torch.stack([truth.axes[0][chosen[:, 0]], truth.axes[1][chosen[:, 1]]], dim=1)
    logs = truth.chances[chosen[:, 0], chosen[:, 1]].log()
    known = posterior.log_density(points.reshape(-1, 1, 1, 2))
    kept = torch.isfinite(logs)
    assert int(kept.sum()) >= 4
    assert float((known - logs)[kept].std()) < 1e-9
    border = [truth.chances[0], truth.chances[-1], truth.chances[:, 0], truth.chances[:, -1]]
    assert max(float(edge.sum()) for edge in border) < 1e-12
    # Hardly anything lies between the modes.
    middle = (points_of(truth) @ truth.direction).abs() < 0.1
    assert float(truth.chances.flatten()[middle].sum()) < 0.02


def points_of(truth: GridTruth) -> Tensor:
    return torch.stack(torch.meshgrid(*truth.axes, indexing="ij"), dim=-1).flatten(0, 1)


def test_mistakes() -> None:
    mean, matrix = torch.zeros(3), torch.eye(3)
    with pytest.raises(ValueError, match="`covariance` must have shape \\(2, 2\\)"):
        FieldTruth(mean, torch.ones(3), torch.arange(2), matrix)
    with pytest.raises(ValueError, match="`sd` must have the shape of the mean"):
        FieldTruth(mean, torch.ones(2), torch.arange(3), matrix)
    with pytest.raises(ValueError, match="`covariances` must have shape \\(2, 3, 3\\)"):
        MixtureTruth(torch.ones(2), torch.zeros(2, 3), torch.eye(3)[None])
    with pytest.raises(ValueError, match="`log_density` must have shape"):
        GridTruth(torch.arange(3), torch.arange(4), torch.zeros(4, 3), torch.ones(2))
    posterior = field_posterior("mask", 8)
    with pytest.raises(TypeError, match=r"`posterior.prior` must be a Gaussian, got Flat"):
        conditioned(Posterior(Flat(posterior.space), posterior.physical_likelihood))
