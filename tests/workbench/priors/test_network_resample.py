"""Finer voxels than the trained ones: band-limited to these and back."""

from __future__ import annotations

import math

import pytest
import torch

from operators.grid import Grid
from operators.space import Space
from tests.contracts import close
from tests.oracles import random_element
from tests.workbench.priors.network_cases import Analytic, Sizes, covariance, made
from workbench.paths import AffinePath, Prediction
from workbench.priors.gaussian import DenseGaussian
from workbench.priors.network import NetworkPrior, PathOutput, Resample, Tile, Training
from workbench.priors.network.sizing import Resampled

PLANE = Space.field(Grid.plane((12, 16), (1.0, 1.5), thickness=3.0))


def pushed_forward(space: Space, coarse: Space) -> tuple[DenseGaussian, DenseGaussian]:
    """Return a Gaussian of coarse images and, on the fine grid, the law of the same images, sampled finer.

    Per axis the fine image is the coarse one's sum of cosines, cos(pi k (j + 1/2) / n), at the fine voxels.
    """
    dims = 2 if space.grid.is_plane else 3
    law = DenseGaussian(coarse, random_element(coarse, seed=3), covariance(coarse.size, 4))
    finer = torch.ones(1, 1, dtype=torch.float64)
    for n, m in zip(space.shape[-dims:], coarse.shape[-dims:], strict=True):
        k = torch.arange(m, dtype=torch.float64)
        waves = [(math.pi * k * (torch.arange(size)[:, None] + 0.5) / size).cos() for size in (n, m)]
        finer = torch.kron(finer, waves[0] @ torch.linalg.inv(waves[1]))
    mean = (finer @ law.mean.flatten()).reshape(space.shape)
    spread = finer @ covariance(coarse.size, 4) @ finer.T
    return law, DenseGaussian(space, mean, (spread + spread.T) / 2)


@pytest.mark.parametrize("prediction", [Prediction.NOISE, Prediction.VELOCITY])
@pytest.mark.parametrize(
    ("space", "coarse"),
    [
        (Space.field(Grid.plane((6, 8), (1.0, 1.0))), Space.field(Grid.plane((3, 8), (2.0, 1.0)))),
        (Space.field(Grid.plane((5, 9), (1.2, 1.0))), Space.field(Grid.plane((4, 6), (1.5, 1.5)))),
        (
            Space.field(Grid.from_spacing((3, 4, 4), (2.0, 1.0, 1.0))),
            Space.field(Grid.from_spacing((2, 3, 2), (3.0, 4 / 3, 2.0))),
        ),
    ],
    ids=["even", "odd", "volume"],
)
def test_resampling_is_exact_for_images_without_finer_detail(
    space: Space, coarse: Space, prediction: Prediction
) -> None:
    trained, expected = pushed_forward(space, coarse)
    output = PathOutput(AffinePath.flow(), prediction)
    spacing = coarse.grid.spacing
    prior = NetworkPrior(
        Analytic(trained, output.path, prediction),
        space,
        output,
        training=Training(spacing=spacing, noise_range=(0.1, 10.0)),
        policy=Resample(),
    )
    z, v = (random_element(space, 3, seed=seed) for seed in (1, 2))
    sigma = torch.tensor([0.2, 1.0, 10.0], dtype=torch.float64)
    assert close(prior.denoise(z, sigma), expected.denoise(z, sigma), 1e-11)
    assert close(prior.denoise_scaled(z, 1 / sigma), expected.denoise_scaled(z, 1 / sigma), 1e-11)
    assert close(prior.covariance(z, sigma, v), expected.covariance(z, sigma, v), 1e-10)
    # The network sees sigma0 = sigma sqrt(m / n), so that its range is a larger sigma here.
    root = math.sqrt(space.size / coarse.size)
    assert prior.noise_range == pytest.approx((0.1 * root, 10.0 * root), rel=1e-12)
    assert prior.calibrated_score
    assert prior.spacing == spacing


def test_resampled_noise_is_white_and_weaker() -> None:
    way = Resampled((9, 8), (6, 4), None)
    identity = torch.eye(72, dtype=torch.float64).reshape(72, 1, 9, 8)
    down = way._root * way._through(identity, down=True).reshape(72, 24).T
    assert close(down @ down.T, torch.eye(24, dtype=torch.float64) * 24 / 72, 1e-13)
    smooth = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None].expand(9, 8)[None, None]
    flat = way._root * way._through(torch.ones_like(smooth), down=True)
    assert close(flat, torch.ones(1, 1, 6, 4, dtype=torch.float64), 1e-13)


def test_resizing_to_the_trained_size_and_tiling_after_resampling() -> None:
    resized = made(PLANE, Training(size=(6, 8)), Resample(), Sizes())
    tiled = made(PLANE, Training(size=(4, 4), spacing=(2.0, 3.0)), Resample(then=Tile(2)), Sizes())
    Sizes.seen.clear()
    z = random_element(PLANE, 2)
    assert resized.denoise(z, 1.0).shape == tiled.denoise(z, 1.0).shape == z.shape
    assert Sizes.seen == [(2, 1, 6, 8)] + [(2, 1, 4, 4)] * 6
    assert resized.calibrated_score
    assert not tiled.calibrated_score
    # Within 1 % voxels are the same, even where 1 % of the extent is more than one of them.
    long = Space.field(Grid.plane((200, 4), (1.0, 1.5)))
    same = made(long, Training(spacing=(1.009, 1.5)), Resample(), Sizes())
    Sizes.seen.clear()
    same.denoise(random_element(long, 1), 1.0)
    assert Sizes.seen == [(1, 1, 200, 4)]
