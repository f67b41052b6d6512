"""The twins of the referee: what the views and the lines cannot tell, and truths by other means."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from pipelines.verify.referee import twins
from pipelines.verify.referee.bands import bands_of
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.small import grid_of
from pipelines.verify.referee.truth import MixtureTruth, reals
from tests.problems import real_matrix
from workbench.priors.mixture import GaussianMixture

NAMES = ("views16", "lines16")
#: The kind that the data show, and its twin.
ALIVE = (1, 4)


def components(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return B, the data, prior weights, means and the one covariance, over real components."""
    posterior = problem(name).posterior
    b, z = posterior.measured.whitened
    prior = posterior.prior
    assert isinstance(prior, GaussianMixture)
    like = torch.empty(0, dtype=torch.float64)
    means = torch.stack([reals(c.mean_like(like)[None])[0] for c in prior.components])
    root = real_matrix(prior.components[0].root)
    return real_matrix(b), reals(z[None])[0], prior.weights, means, root @ root.T


@pytest.mark.parametrize("name", NAMES)
def test_truths_are_those_of_dense_algebra(name: str) -> None:
    truth = problem(name).truth
    assert isinstance(truth, MixtureTruth)
    b, z, weights, means, s = components(name)
    evidence = b @ s @ b.T + torch.eye(len(b), dtype=torch.float64)
    gain = torch.linalg.solve(evidence, b @ s).T
    logs = []
    for k, mean in enumerate(means):
        short = z - b @ mean
        law = torch.distributions.MultivariateNormal(torch.zeros_like(z), evidence)
        logs.append(weights[k].log() + law.log_prob(short))
        assert torch.allclose(truth.means[k], mean + gain @ short, rtol=0, atol=1e-9)
        assert torch.allclose(truth.covariances[k], s - gain @ b @ s, rtol=0, atol=1e-9)
    assert torch.allclose(truth.mode_weights, torch.softmax(torch.stack(logs), 0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_one_kind_shows_and_its_twin_stays_possible(name: str) -> None:
    truth = problem(name).truth
    assert isinstance(truth, MixtureTruth)
    alive = (truth.mode_weights > 0.01).nonzero()[:, 0].tolist()
    assert tuple(alive) == ALIVE
    assert float(truth.mode_weights.max()) < 0.85
    # Data of the two are a sd or two apart, of any other two kinds nine or more.
    b, _, _, means, s = components(name)
    evidence = b @ s @ b.T + torch.eye(len(b), dtype=torch.float64)
    apart = (means[:, None] - means[None]) @ b.T
    told = (apart * torch.linalg.solve(evidence, apart.mT).mT).sum(-1).sqrt()
    twin = (torch.arange(6)[:, None] - torch.arange(6)).abs() == 3
    assert float(told[twin].min()) > 1 and float(told[twin].max()) < 2.5
    assert float(told[~twin & ~torch.eye(6, dtype=torch.bool)].min()) > 9
    # And no image is in doubt about which it is.
    off = truth.means[ALIVE[0]] - truth.means[ALIVE[1]]
    assert float(off @ torch.linalg.solve(truth.covariances[0], off)) ** 0.5 > 10


@pytest.mark.parametrize("name", NAMES)
def test_the_truths_own_draws_pass_as_exact_ones(name: str) -> None:
    truth = problem(name).truth
    draws = [truth.draw(100, seed) for seed in range(9)]
    bands = bands_of(iter(draws[:8]), truth)
    seen = measure(draws[8], truth)
    for metric, band in bands.items():
        assert band.holds(getattr(seen, metric)), metric
    assert seen.mode_error is not None and seen.mode_error < 0.15
    assert seen.coverage == pytest.approx(0.9, abs=0.02)


def test_the_matrix_is_the_projector() -> None:
    grid = grid_of(twins.SIZE)
    projector = ParallelBeamGeometry.around(grid, twins.VIEWS).operator(grid)
    likelihood = problem("views16").posterior.physical_likelihood
    assert likelihood is not None
    image = twins.twins_templates("views16")[:, None]
    assert torch.allclose(likelihood.operator(image), projector(image), rtol=0, atol=1e-12)
    assert likelihood.data.shape == projector.codomain.shape == (6, 1, 24)


def test_twelve_spots_of_alternating_sign_cast_no_shadow() -> None:
    # Points instead of voxels: along each view they cancel in pairs.
    places = [math.radians(twins.TURN + 30 * k) for k in range(12)]
    for view in range(twins.VIEWS):
        angle = math.radians(30 * view)
        across = [round(math.cos(t - angle), 9) for t in places]
        assert sum((-1) ** k * (x == across[0]) for k, x in enumerate(across)) == 0
        for place in set(across):
            assert sum((-1) ** k for k, x in enumerate(across) if x == place) == 0


def test_lines_are_a_quarter_and_stripes_are_far_from_them() -> None:
    likelihood = problem("lines16").posterior.physical_likelihood
    assert likelihood is not None
    assert likelihood.data.shape == (4, 4, 16)
    images = twins.twins_templates("lines16")
    difference = torch.fft.fftshift(torch.fft.fft2(images[0] - images[3]), dim=0).abs().square().sum(1)
    taken = twins.sampled_lines(twins.SIZE).mask
    assert taken.shape == (16,) and int(taken.sum()) == 4
    assert float(difference[taken].sum() / difference.sum()) < 0.01


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="`name` must be one of views16, lines16, got 'views8'"):
        twins.twins_posterior("views8")
