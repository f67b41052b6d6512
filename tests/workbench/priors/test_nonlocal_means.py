import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means

from operators.grid import Grid
from operators.space import Space
from tests.oracles import random_element
from tests.workbench.priors.plug_and_play_cases import (
    PLANE,
    VOLUME,
    PlugAndPlayCases,
    chest,
    noise,
    root_mean_square,
)
from workbench.priors.base import Prior
from workbench.priors.nonlocal_means import NonlocalMeansDenoiser


class TestNonlocalMeansDenoiser(PlugAndPlayCases):
    covers = (NonlocalMeansDenoiser,)
    plane_bounds = (0.75, 0.55, 0.4, 0.32)
    volume_bounds = (0.8, 0.55, 0.36, 0.3)

    def build(self, space: Space) -> NonlocalMeansDenoiser:
        return NonlocalMeansDenoiser(space)

    def make(self, dtype: torch.dtype) -> NonlocalMeansDenoiser:
        # Few pairs, so that quotients of differences meet no kink of a weight.
        grid = Grid.from_spacing((2, 3, 4), (2.0, 1.0, 1.0))
        return NonlocalMeansDenoiser(Space.field(grid, components=(2,)), search=1.0)

    def other(self) -> Prior:
        return NonlocalMeansDenoiser(self.make(torch.float64).space, bandwidth=0.5)


def by_its_definition(
    image: NDArray[np.float64],
    patch: list[range],
    search: list[int],
    h: float,
    sigma: float,
    width: float,
    jumps: bool = False,
) -> NDArray[np.float64]:
    """Return non-local means of (*shape, channels): sums over `patch`, divided by width^dimensions.

    Weights below exp(-5) are 0; those above it jump there, or begin at 0.
    """
    *shape, channels = image.shape
    margin = max(search) + max(max(abs(i) for i in axis) for axis in patch)
    padded = np.pad(image, [(margin, margin)] * len(shape) + [(0, 0)], mode="reflect")

    def window(shift: tuple[int, ...]) -> NDArray[np.float64]:
        return padded[tuple(slice(margin + s, margin + s + n) for s, n in zip(shift, shape, strict=True))]

    total, weights = np.zeros(image.shape), np.zeros(shape)
    for shift in itertools.product(*[range(-r, r + 1) for r in search]):
        distance = np.zeros(shape)
        for k in itertools.product(*patch):
            moved = tuple(a + b for a, b in zip(k, shift, strict=True))
            distance += ((window(k) - window(moved)) ** 2).sum(axis=-1) - 2 * channels * sigma**2
        distance = np.maximum(distance / (width ** len(shape) * channels * h**2), 0)
        weight = np.where(distance <= 5.0, np.exp(-distance) - (0.0 if jumps else np.exp(-5.0)), 0.0)
        total += weight[..., None] * window(shift)
        weights += weight
    return total / weights[..., None]


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("shape", [(1, 13, 12), (6, 7, 8)])
def test_it_is_its_definition_and_scikit_images_with_centred_patches(
    shape: tuple[int, ...], is_complex: bool
) -> None:
    space = Space.field(Grid.from_spacing(shape, 2.0), is_complex=is_complex)
    z = random_element(space).cumsum(-1).cumsum(-2) / 4
    channels = torch.view_as_real(z) if is_complex else z[..., None]
    image = channels.squeeze(0).numpy()
    search = [3 if shape[0] == 1 else 2] * (image.ndim - 1)
    for h, sigma in ((0.3, 0.4), (0.8, 0.2)):
        prior = NonlocalMeansDenoiser(space, bandwidth=h / sigma, patch=2.0, search=2.0 * search[0])
        got = prior.denoise(z, sigma)
        got = (torch.view_as_real(got) if is_complex else got[..., None]).squeeze(0).numpy()
        centred = by_its_definition(image, [range(-1, 2)] * len(search), search, h, sigma, 3)
        assert np.abs(got - centred).max() <= 1e-12
        # scikit-image's fast mode leaves out the first row of a patch; its exponential is right to 4 %.
        peer = denoise_nl_means(
            image, 3, search[0], h, fast_mode=True, sigma=sigma, channel_axis=-1, preserve_range=True
        ).reshape(image.shape)
        theirs = by_its_definition(image, [range(2)] * len(search), search, h, sigma, 3, jumps=True)
        assert np.abs(peer - theirs).max() <= 0.04 * np.abs(image - theirs).max()
        assert np.abs(peer - centred).max() > 0.04 * np.abs(image - theirs).max()


def test_patch_and_search_box_are_lengths() -> None:
    grid = Grid.from_spacing((6, 7, 8), (3.0, 1.0, 1.5))
    prior = NonlocalMeansDenoiser(Space.field(grid), bandwidth=0.7, patch=1.4, search=3.0)
    assert prior.patch_voxels == (0, 1, 1)
    assert prior.search_voxels == (1, 3, 2)
    z = random_element(prior.space)
    patch = [range(-p, p + 1) for p in prior.patch_voxels]
    # A patch of 9 voxels: 9^(1/3) per axis.
    image = z.numpy()[..., None]
    expected = by_its_definition(image, patch, list(prior.search_voxels), 0.35, 0.5, 9 ** (1 / 3))
    assert np.abs(prior.denoise(z, 0.5).numpy() - expected[..., 0]).max() <= 1e-12


def test_defaults_are_in_voxels_of_the_finest_axis() -> None:
    plane = NonlocalMeansDenoiser(Space.field(Grid.plane((20, 20), (4.0, 2.0))))
    assert (plane.patch_voxels, plane.search_voxels) == ((0, 0, 1), (0, 3, 6))
    volume = NonlocalMeansDenoiser(Space.field(Grid.from_spacing((20, 20, 20), (6.0, 2.0, 2.0))))
    assert (volume.patch_voxels, volume.search_voxels) == ((0, 1, 1), (1, 3, 3))


@pytest.mark.parametrize("grid", [PLANE, Grid.from_spacing((12, 24, 26), 12.0)], ids=["plane", "volume"])
def test_errors_beside_scikit_images(grid: Grid) -> None:
    image = chest(grid)
    prior = NonlocalMeansDenoiser(Space.field(grid))
    for sigma in (0.05, 0.2):
        noisy = image + sigma * noise(grid.shape, image)
        # The settings of its gallery: patches of 5, h = 0.6 sigma.
        far, options = max(prior.search_voxels), {"fast_mode": True, "sigma": sigma, "preserve_range": True}
        peer = torch.from_numpy(denoise_nl_means(noisy.numpy().squeeze(), 5, far, 0.6 * sigma, **options))
        theirs = root_mean_square(peer.reshape(grid.shape) - image)
        assert root_mean_square(prior.denoise(noisy, sigma) - image) <= 1.05 * theirs


def test_what_repeats_is_averaged_over_its_copies() -> None:
    space = Space.field(Grid.plane((32, 32), 1.0))
    pattern = 5.0 * random_element(Space((8, 8)))
    image = pattern.repeat(4, 4)[None]
    noisy = image + 0.3 * noise(space.shape, image)
    got = NonlocalMeansDenoiser(space, search=16.0).denoise(noisy, 0.3)
    # Four copies along each axis and their mirror images, of which the nearest 16 to 25 are seen.
    assert root_mean_square(got - image) <= 0.45 * 0.3
    assert root_mean_square(NonlocalMeansDenoiser(space, search=4.0).denoise(noisy, 0.3) - image) >= 0.8 * 0.3


def test_bad_arguments_are_named() -> None:
    space = Space.field(VOLUME)
    for changes, message in (
        ({"bandwidth": 0.0}, "`bandwidth` must be a finite number > 0"),
        ({"patch": -1.0}, "`patch` must be a finite number >= 0"),
        ({"search": 0.0}, "`search` must be a finite number > 0"),
        ({"search": 5.0}, "`search` must reach the next voxel, 11"),
    ):
        with pytest.raises(ValueError, match=message):
            NonlocalMeansDenoiser(space, **changes)
