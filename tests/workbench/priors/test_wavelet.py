import math
import sys

import numpy as np
import pytest
import pywt
import torch
from numpy.typing import NDArray
from skimage.restoration import cycle_spin, denoise_wavelet
from torch import Tensor

from operators.extras import MissingExtraError
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
from workbench.priors.wavelet import CANDIDATES, WaveletDenoiser, _least_risk, orthogonal_filter


class TestWaveletDenoiser(PlugAndPlayCases):
    covers = (WaveletDenoiser,)
    plane_bounds = (0.85, 0.7, 0.55, 0.3)
    volume_bounds = (0.95, 0.85, 0.6, 0.4)

    def build(self, space: Space) -> WaveletDenoiser:
        return WaveletDenoiser(space)

    def other(self) -> Prior:
        return WaveletDenoiser(self.make(torch.float64).space, wavelet="haar")


class TestBayesShrinkOnOneGridOfBlocks(TestWaveletDenoiser):
    plane_bounds = (0.95, 0.75, 0.55, 0.35)
    volume_bounds = (0.95, 0.75, 0.55, 0.4)

    def build(self, space: Space) -> WaveletDenoiser:
        return WaveletDenoiser(space, threshold="bayes", invariant=False)


@pytest.mark.parametrize("name", ["haar", *[f"db{n}" for n in range(1, 11)], "sym4", "coif1"])
def test_filters_are_those_of_pywavelets(name: str) -> None:
    got = np.array(orthogonal_filter(name))
    assert np.abs(got - pywt.Wavelet(name).rec_lo).max() <= 1e-12
    assert got.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(0, len(got), 2):
        assert got[shift:] @ got[: len(got) - shift] == pytest.approx(float(shift == 0), abs=1e-12)


@pytest.mark.parametrize("invariant", [True, False])
@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym4"])
@pytest.mark.parametrize("shape", [(1, 13, 30), (7, 9, 5)])
def test_nothing_is_lost_without_a_threshold(
    shape: tuple[int, ...], wavelet: str, invariant: bool, is_complex: bool = True
) -> None:
    space = Space.field(Grid.from_spacing(shape, (2.0, 1.0, 1.5)), is_complex=is_complex)
    z = random_element(space, 2)
    for levels in (None, 2):
        prior = WaveletDenoiser(space, wavelet=wavelet, threshold=0.0, levels=levels, invariant=invariant)
        assert (prior.denoise(z, 1.0) - z).abs().max() <= 1e-11  # pywt states sym4 to 1e-12


def shrunk_by_pywt(
    x: NDArray[np.float64], wavelet: str, threshold: float, levels: int
) -> NDArray[np.float64]:
    """Return the soft thresholding of an orthonormal transform with periodic ends."""
    coarse, *details = pywt.wavedecn(x, wavelet, mode="periodization", level=levels)
    for level in details:
        for key, band in level.items():
            level[key] = pywt.threshold(band, threshold, "soft")
    return pywt.waverecn([coarse, *details], wavelet, mode="periodization")


@pytest.mark.filterwarnings("ignore:Level value of .* is too high")
@pytest.mark.parametrize("wavelet", ["haar", "db2", "db5", "sym4"])
@pytest.mark.parametrize(("shape", "levels"), [((1, 16, 24), 2), ((8, 16, 8), 1)])
def test_all_shifts_are_scikit_images_cycle_spinning(
    shape: tuple[int, ...], levels: int, wavelet: str
) -> None:
    space = Space.field(Grid.from_spacing(shape, 1.0))
    z = random_element(space)
    options = {"wavelet": wavelet, "threshold": 1.2, "levels": levels, "boundary": "periodic"}
    got = WaveletDenoiser(space, **options).denoise(z, 0.5).squeeze()
    image = z.squeeze().numpy()
    arguments = {"wavelet": wavelet, "threshold": 0.6, "levels": levels}
    spun = cycle_spin(image, shrunk_by_pywt, max_shifts=2**levels - 1, func_kw=arguments)
    assert np.abs(got.numpy() - spun).max() <= 1e-12
    # Without the others it is PyWavelets' own.
    once = WaveletDenoiser(space, **options, invariant=False).denoise(z, 0.5).squeeze().numpy()
    assert np.abs(once - shrunk_by_pywt(image, **arguments)).max() <= 1e-12


@pytest.mark.parametrize("threshold", ["sure", "bayes", "universal", 2.0])
def test_a_shifted_image_is_shifted(threshold: str | float) -> None:
    space = Space.field(Grid.from_spacing((8, 9, 10), (2.5, 1.0, 1.0)), is_complex=True)
    z = random_element(space, 2)
    prior = WaveletDenoiser(space, threshold=threshold, boundary="periodic", levels=3)
    got = prior.denoise(z.roll((1, 5, 3), (-3, -2, -1)), 0.4)
    assert (got - prior.denoise(z, 0.4).roll((1, 5, 3), (-3, -2, -1))).abs().max() <= 1e-11


def test_without_other_shifts_it_is_a_prox() -> None:
    # x = prox(z) of |.|_1 in an orthonormal basis: firmly nonexpansive, <x - x', z - z'> >= |x - x'|^2.
    space = Space.field(Grid.plane((16, 16), 1.0), is_complex=True)
    prior = WaveletDenoiser(space, threshold=1.5, boundary="periodic", invariant=False)
    z, other = random_element(space), random_element(space, seed=4)
    x = prior.denoise(z, 1.0) - prior.denoise(other, 1.0)
    assert float(space.inner(x, z - other).real) >= float(space.norm(x)) ** 2


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 1.0])
def test_the_estimated_risk_finds_the_best_threshold(share: float, is_complex: bool) -> None:
    space = Space.field(Grid.plane((128, 128), 1.0), is_complex=is_complex)
    truth = torch.where(random_element(Space(space.shape), seed=1) < (2 * share - 1) * 5, 3.0, 0.0) * (
        random_element(space, seed=2)
    )
    noisy = (truth + random_element(space, seed=3))[None]
    chosen = float(_least_risk(noisy.abs(), torch.ones(1, 1, 1, 1, dtype=torch.float64), is_complex))

    def risk(threshold: float) -> float:
        soft = noisy * (1 - threshold / noisy.abs().clamp(min=threshold or 1.0))
        return float((soft - truth).abs().square().mean())

    # Both are means over 16384 entries of spread about 2 to 10.
    assert risk(chosen) <= min(risk(c) for c in CANDIDATES) + 0.05


@pytest.mark.parametrize("grid", [PLANE, VOLUME], ids=["plane", "volume"])
def test_errors_beside_scikit_images(grid: Grid) -> None:
    image, space = chest(grid), Space.field(grid)
    for sigma in (0.05, 0.2):
        noisy = image + sigma * noise(grid.shape, image)
        peer = denoise_wavelet(noisy.numpy().squeeze(), sigma=sigma, wavelet="db2", rescale_sigma=False)
        theirs = root_mean_square(torch.from_numpy(peer).reshape(grid.shape) - image)

        def error(prior: WaveletDenoiser, z: Tensor = noisy, level: float = sigma) -> float:
            return root_mean_square(prior.denoise(z, level) - image)

        assert error(WaveletDenoiser(space, threshold="bayes", invariant=False)) <= 1.1 * theirs
        assert error(WaveletDenoiser(space, threshold="bayes")) <= theirs
        assert error(WaveletDenoiser(space)) <= 0.95 * theirs


def test_a_coarse_axis_waits_for_the_others() -> None:
    prior = WaveletDenoiser(Space.field(Grid.from_spacing((32, 64, 64), (4.0, 1.0, 1.0))))
    assert prior.plan == ((-2, -1), (-2, -1), (-3, -2, -1), (-3,))
    cubes = WaveletDenoiser(Space.field(Grid.from_spacing((64, 64, 64), 2.0)), levels=2)
    assert cubes.plan == ((-3, -2, -1), (-3, -2, -1))
    assert WaveletDenoiser(Space.field(Grid.from_spacing((2, 3, 2), 1.0))).plan == ((-3, -2, -1),)


def test_more_levels_than_an_axis_holds_leave_it_out() -> None:
    prior = WaveletDenoiser(Space.field(Grid.plane((4, 64), 1.0)), levels=5)
    assert prior.plan == ((-2, -1), (-2, -1), (-1,), (-1,), (-1,))


def test_wavelets_from_elsewhere_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywt", None)
    space = Space.field(PLANE)
    with pytest.raises(MissingExtraError, match=r"The wavelet 'sym7' needs pywt.*\[image\]"):
        WaveletDenoiser(space, wavelet="sym7")
    WaveletDenoiser(space, wavelet="db7")


def test_bad_arguments_are_named() -> None:
    space = Space.field(PLANE)
    for changes, error, message in (
        ({"wavelet": "bior2.2"}, ValueError, "`wavelet` must be orthogonal, got 'bior2.2'. White noise"),
        ({"wavelet": "morl"}, ValueError, "`wavelet` must be 'haar', 'db2' to 'db10' or one of"),
        ({"wavelet": 2}, TypeError, "`wavelet` must be the name of a wavelet"),
        ({"threshold": "soft"}, TypeError, "`threshold` must be a finite number >= 0.*Or 'sure'"),
        ({"threshold": -1.0}, ValueError, "`threshold` must be a finite number >= 0"),
        ({"levels": 0}, ValueError, "`levels` must be an integer >= 1"),
        ({"invariant": 1}, TypeError, "`invariant` must be True or False"),
        ({"boundary": "zero"}, ValueError, "`boundary` must be 'reflect' or 'periodic'"),
        (
            {"boundary": "periodic", "invariant": False, "levels": 4},
            ValueError,
            "`levels` must divide the 56 voxels of axis 1, got 16",
        ),
    ):
        with pytest.raises(error, match=message):
            WaveletDenoiser(space, **changes)
