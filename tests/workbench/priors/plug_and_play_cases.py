"""What holds for every denoiser that is a plug-and-play prior, on top of the battery of priors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from operators.grid import Grid, TimeAxis
from operators.space import Space
from tests.oracles import random_element
from tests.prior_contract import PriorContract
from workbench.phantoms import WATER, chest_phantom
from workbench.priors.base import Denoiser
from workbench.random import Keys

PLANE = Grid.plane((56, 64), 5.5)
VOLUME = Grid.from_spacing((8, 28, 32), (20.0, 11.0, 11.0))
SIGMAS = (0.02, 0.1, 0.3, 1.0)


def chest(grid: Grid) -> Tensor:
    """Return a chest in units of water, in double precision."""
    return chest_phantom(grid).data.double() / WATER


def noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return Keys(5, (0,)).normals(shape, "noise", like=like)[0]


def root_mean_square(x: Tensor) -> float:
    return float(x.abs().square().mean().sqrt())


class PlugAndPlayCases(PriorContract):
    """Tests of denoisers without a law; `build` makes one on a space."""

    is_exact = False
    is_proper = False
    knows_pure_noise = False
    can_be_drawn = False
    #: An image at sigma -> 0 is left at the rate of sigma, not of its square.
    solved_to = {torch.float32: 1e-4, torch.float64: 1e-8}  # noqa: RUF012
    #: A bound on the error in units of sigma, for each of SIGMAS.
    plane_bounds: tuple[float, ...] = ()
    volume_bounds: tuple[float, ...] = ()

    def build(self, space: Space) -> Denoiser:
        raise NotImplementedError

    def make(self, dtype: torch.dtype) -> Denoiser:
        return self.build(Space.field(Grid.from_spacing((3, 4, 5), (2.0, 1.0, 1.0)), components=(2,)))

    def test_it_is_no_posterior_mean(self, prior: Denoiser) -> None:
        assert (prior.exact, prior.calibrated_score, prior.proper) == (False, False, False)
        assert prior.declared.calibrated_score is False

    @pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
    @pytest.mark.parametrize("grid", [PLANE, VOLUME], ids=["plane", "volume"])
    def test_noise_goes_and_the_image_stays(self, grid: Grid, is_complex: bool) -> None:
        image = chest(grid)
        if is_complex:
            image = torch.polar(image, image / 2)
        prior = self.build(Space.field(grid, is_complex=is_complex))
        bounds = self.plane_bounds if grid is PLANE else self.volume_bounds
        levels = torch.tensor(SIGMAS, dtype=torch.float64)
        noisy = image + levels.reshape(-1, 1, 1, 1) * noise(grid.shape, image)
        # The root mean square of complex noise is 2^0.5 sigma.
        unit = 2**0.5 if is_complex else 1.0
        for got, sigma, bound in zip(prior.denoise(noisy, levels), SIGMAS, bounds, strict=True):
            assert root_mean_square(got - image) <= bound * sigma * unit
        faint = image + 1e-4 * noise(grid.shape, image)
        assert root_mean_square(prior.denoise(faint, 1e-4) - image) <= root_mean_square(faint - image)

    def test_it_is_homogeneous(self, prior: Denoiser, dtype: torch.dtype) -> None:
        z = random_element(prior.space, 2, dtype=dtype)
        for factor in (2.0**-20, 3.7, 2.0**10):
            got = prior.denoise(factor * z, 0.4 * factor) / factor
            assert (got - prior.denoise(z, 0.4)).abs().max() <= self.bound(dtype) * z.abs().max()

    def test_a_constant_is_carried_along(self, prior: Denoiser) -> None:
        z = random_element(prior.space, 2)
        got = prior.denoise(z + 5.0, 0.4) - 5.0
        assert (got - prior.denoise(z, 0.4)).abs().max() <= self.bound(torch.float64)
        level = torch.full_like(z, 3.0)
        assert (prior.denoise(level, 0.4) - level).abs().max() <= self.bound(torch.float64)

    def test_components_and_frames_are_images_by_themselves(self) -> None:
        grid = Grid.from_spacing((3, 8, 9), (3.0, 1.0, 1.0))
        space = Space.field(grid.with_time(TimeAxis(2)), components=(3,))
        z, levels = random_element(space, 2), torch.tensor([0.2, 0.7], dtype=torch.float64)
        got = self.build(space).denoise(z, levels)
        alone = self.build(Space.field(grid))
        vectors = self.build(Space.vectors(grid)).denoise(z[:, :, 0], levels)
        for sample in range(2):
            for component in range(3):
                for frame in range(2):
                    expected = alone.denoise(z[sample, component, frame], levels[sample])
                    assert (got[sample, component, frame] - expected).abs().max() <= 1e-9
                    if frame == 0:
                        assert (vectors[sample, component] - expected).abs().max() <= 1e-9

    def test_the_phase_of_a_complex_image_has_no_origin(self) -> None:
        prior = self.build(Space.field(Grid.from_spacing((3, 8, 9), (3.0, 1.0, 1.0)), is_complex=True))
        z = random_element(prior.space, 2)
        turn = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
        got = prior.denoise(turn * z, 0.5)
        assert (got - turn * prior.denoise(z, 0.5)).abs().max() <= 1e-9
        # Noise of both parts, not of the real one alone.
        assert not torch.allclose(got.abs(), prior.denoise(z.real + 0j, 0.5).abs(), atol=1e-3)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_an_axis_of_one_voxel_plays_no_part(self, axis: int) -> None:
        z = random_element(Space((8, 11)))
        spacing = [1.5, 1.0]
        spacing.insert(axis, 7.0)
        image = z.unsqueeze(axis)
        space = Space.field(Grid.from_spacing(tuple(image.shape), spacing))
        reference = self.build(Space.field(Grid.plane((8, 11), (1.5, 1.0)))).denoise(z[None], 0.5)[0]
        assert (self.build(space).denoise(image, 0.5).squeeze(axis) - reference).abs().max() <= 1e-9

    def test_a_line_of_voxels_is_an_image(self) -> None:
        prior = self.build(Space.field(Grid.from_spacing((1, 1, 64), 1.0)))
        step = torch.zeros(1, 1, 64, dtype=torch.float64)
        step[..., 32:] = 1.0
        noisy = step + 0.2 * noise((1, 1, 64), step)
        assert root_mean_square(prior.denoise(noisy, 0.2) - step) <= 0.75 * 0.2

    def test_only_ratios_of_spacings_count(self) -> None:
        z = random_element(Space((8, 8, 8)))
        cubes, slabs = (
            self.build(Space.field(Grid.from_spacing((8, 8, 8), (depth, 1.0, 1.0)))).denoise(z, 1.0)
            for depth in (1.0, 4.0)
        )
        assert not torch.allclose(cubes, slabs, atol=1e-2)
        scaled = self.build(Space.field(Grid.from_spacing((8, 8, 8), (8.0, 2.0, 2.0)))).denoise(z, 1.0)
        assert (scaled - slabs).abs().max() <= 1e-9

    def test_spaces_without_neighbours_are_refused(self) -> None:
        with pytest.raises(ValueError, match="`space` must lie on a Grid, for voxel sizes in mm"):
            self.build(Space((4, 5, 6)))
        with pytest.raises(ValueError, match="`space` must have an axis longer than one voxel"):
            self.build(Space.field(Grid.from_spacing((1, 1, 1), 1.0)))
        with pytest.raises(TypeError, match="`space` must be of real, complex or vector fields"):
            self.build(Space.tokens(Grid.from_spacing((2, 3, 4), 1.0), 3))
