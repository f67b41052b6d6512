import pytest
import torch
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from operators.errors import ConvergenceWarning
from operators.grid import Grid
from operators.identity import Identity
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
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.posterior import Posterior
from workbench.priors.base import Prior
from workbench.priors.flat import Flat
from workbench.priors.total_variation import STRENGTH, TotalVariationDenoiser
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.classical.total_variation import TotalVariation


class TestTotalVariationDenoiser(PlugAndPlayCases):
    covers = (TotalVariationDenoiser,)
    is_differentiable = False
    plane_bounds = (0.7, 0.6, 0.45, 0.25)
    volume_bounds = (0.95, 0.85, 0.6, 0.3)

    def build(self, space: Space) -> TotalVariationDenoiser:
        return TotalVariationDenoiser(space)

    def other(self) -> Prior:
        return TotalVariationDenoiser(self.make(torch.float64).space, strength=0.5)


def variation(x: Tensor, spacing: tuple[float, float, float]) -> float:
    """Return TV of one image."""
    squares = torch.zeros(x.shape, dtype=torch.float64)
    for axis, size in enumerate(spacing):
        slope = x.diff(dim=axis, append=x.narrow(axis, x.shape[axis] - 1, 1)) / size
        squares += slope.abs() ** 2
    return float(squares.sqrt().sum())


@pytest.mark.parametrize("grid", [PLANE, Grid.from_spacing((10, 16, 18), 8.0)], ids=["plane", "volume"])
def test_it_is_what_scikit_image_descends_to(grid: Grid) -> None:
    sigma, image = 0.2, chest(grid)
    noisy = image + sigma * noise(grid.shape, image)
    got = TotalVariationDenoiser(Space.field(grid), tolerance=2e-3).denoise(noisy, sigma)
    # |x - z|^2 / 2 + weight * sum |differences|, without spacings.
    peer = denoise_tv_chambolle(noisy.numpy().squeeze(), STRENGTH * sigma, eps=1e-8, max_num_iter=2000)
    assert root_mean_square(got.squeeze() - torch.from_numpy(peer)) <= 3e-3 * sigma
    # It is nearer to the minimum than the peer is.
    limit = STRENGTH * sigma * grid.spacing[2]
    costs = [
        0.5 * float((x - noisy).square().sum()) + limit * variation(x, grid.spacing)
        for x in (got, torch.from_numpy(peer).reshape(grid.shape))
    ]
    assert costs[0] <= costs[1] + 0.5 * noisy.numel() * (2e-3 * sigma) ** 2


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("grid", [PLANE, VOLUME], ids=["plane", "volume"])
def test_the_error_is_what_the_tolerance_says(grid: Grid, is_complex: bool) -> None:
    z = chest(grid)
    z = torch.polar(z, z) if is_complex else z
    z = z + 0.2 * noise(grid.shape, z)
    space = Space.field(grid, is_complex=is_complex)
    fine = TotalVariationDenoiser(space, tolerance=2e-3).denoise(z, 0.2)
    for tolerance in (0.1, 0.05):
        got = TotalVariationDenoiser(space, tolerance=tolerance).denoise(z, 0.2)
        assert root_mean_square(got - fine) <= (tolerance + 2e-3) * 0.2


def test_a_step_loses_weight_over_length_on_each_side() -> None:
    # Each plateau of n voxels moves by c / (n spacing), complex ones along the line between them.
    space = Space.field(Grid.plane((1, 30), (1.0, 2.0)), is_complex=True)
    z = torch.cat([torch.zeros(10), torch.full((20,), 3.0 + 4.0j)]).to(torch.complex128).reshape(space.shape)
    prior = TotalVariationDenoiser(space, weight=8.0, tolerance=1e-4)
    x = prior.denoise(z, 0.5).flatten() / (0.6 + 0.8j)
    assert torch.allclose(x[:10].real, torch.tensor(0.1, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(x[10:].real, torch.tensor(4.95, dtype=torch.float64), atol=1e-3)
    assert x.imag.abs().max() <= 1e-3


@pytest.mark.parametrize("sigma", [1e3, 1e9])
def test_beyond_a_level_only_the_mean_is_left(sigma: float) -> None:
    prior = TotalVariationDenoiser(Space.field(VOLUME, components=(2,)))
    for dtype in (torch.float32, torch.float64):
        z = random_element(prior.space, 2, dtype=dtype)
        mean = z.mean(dim=(-3, -2, -1), keepdim=True)
        assert (prior.denoise(z, sigma) - mean).abs().max() <= 1e-6


def test_short_of_that_level_the_gap_decides() -> None:
    space = Space.field(Grid.plane((6, 8), 1.0))
    z = random_element(space)
    strict = TotalVariationDenoiser(space, tolerance=1e-6, iterations=100000)
    # From noise alone to one plateau: the mean is exact from the level on where it is the minimum.
    levels = [0.5, 1.0, 2.0, 4.0]
    spreads = [float((strict.denoise(z, level) - z.mean()).norm()) for level in levels]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 0.1
    assert spreads[-1] <= 1e-12


def test_slices_far_apart_are_denoised_by_themselves() -> None:
    shape = (5, 12, 14)
    volume = TotalVariationDenoiser(Space.field(Grid.from_spacing(shape, (1e7, 1.0, 1.0))), tolerance=1e-3)
    slices = TotalVariationDenoiser(Space.field(Grid.plane(shape[1:], 1.0)), tolerance=1e-3)
    z = random_element(volume.space)
    alone = slices.denoise(z[:, None], 0.5)[:, 0]
    assert root_mean_square(volume.denoise(z, 0.5) - alone) <= 2e-3 * 0.5


def test_a_weight_is_that_of_the_penalty() -> None:
    grid = Grid.from_spacing((4, 10, 12), (3.0, 1.0, 2.0))
    space = Space.field(grid)
    z, sigma, weight = random_element(space), 0.6, 2.5
    got = TotalVariationDenoiser(space, weight=weight, tolerance=1e-3).denoise(z, sigma)
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Gaussian(sigma), z))
    solver = TotalVariation(weight, iterations=3000, tolerance=1e-5)
    expected = sample(posterior, solver).tensor().reshape(space.shape)
    assert root_mean_square(got - expected) <= 2e-3 * sigma


@pytest.mark.parametrize("grid", [PLANE, VOLUME], ids=["plane", "volume"])
def test_the_default_strength_is_near_the_best(grid: Grid) -> None:
    image, space = chest(grid), Space.field(grid)
    for sigma in (0.05, 0.5):
        noisy = image + sigma * noise(grid.shape, image)
        errors = {
            strength: root_mean_square(
                TotalVariationDenoiser(space, strength=strength, tolerance=0.05).denoise(noisy, sigma) - image
            )
            for strength in (0.4, 0.6, STRENGTH, 1.0, 1.2)
        }
        assert errors[STRENGTH] <= 1.15 * min(errors.values())


def test_gradients_are_refused_and_not_zero() -> None:
    prior = TotalVariationDenoiser(Space.field(Grid.plane((4, 5), 1.0)))
    z = random_element(prior.space, 2).requires_grad_()
    sigma = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    tangent = torch.ones_like(z)
    message = "`prior` must be differentiable, got TotalVariationDenoiser. Detach its result"
    for attempt in (
        lambda: prior.denoise(z, 0.5).sum().backward(),
        lambda: prior.denoise(z.detach(), sigma).sum().backward(),
        lambda: prior.covariance(z.detach(), 0.5, tangent),
        lambda: torch.func.jvp(lambda x: prior.denoise(x, 0.5), (z.detach(),), (tangent,)),
    ):
        with pytest.raises(TypeError, match=message):
            attempt()
    assert z.grad is None


def test_maps_go_over_images_and_levels_at_once() -> None:
    prior = TotalVariationDenoiser(Space.field(Grid.plane((6, 7), 1.0)))
    z, levels = random_element(prior.space, 3, 2), torch.tensor([0.3, 0.9], dtype=torch.float64)
    got = torch.func.vmap(lambda x: prior.denoise(x, levels), in_dims=1, out_dims=1)(z.transpose(0, 1))
    assert torch.allclose(got, prior.denoise(z, levels.expand(3, 2)).transpose(0, 1), atol=1e-12)


def test_single_precision_ends_where_it_can_see_no_more() -> None:
    image = chest(PLANE).float()
    prior = TotalVariationDenoiser(Space.field(PLANE))
    for sigma in (1e-2, 1e-4, 1e-6):
        noisy = image + sigma * noise(PLANE.shape, image)
        got, exact = prior.denoise(noisy, sigma), prior.denoise(noisy.double(), sigma)
        assert (got - exact).abs().max() <= sigma + 1e-6


def test_too_few_iterations_are_told() -> None:
    image = chest(PLANE)
    prior = TotalVariationDenoiser(Space.field(PLANE), iterations=5)
    with pytest.warns(ConvergenceWarning, match=r"from its minimum at most, not 0.05, after 5 iterations"):
        prior.denoise(image + noise(PLANE.shape, image), 1.0)


def test_no_scores_are_made_of_it() -> None:
    prior = TotalVariationDenoiser(Space.field(Grid.plane((4, 5), 1.0)))
    likelihood = Likelihood(Identity(prior.space), Gaussian(0.1), random_element(prior.space))
    with pytest.raises(CapabilityError, match="`prior` must give posterior means.*plug-and-play"):
        sample(Posterior(prior, likelihood), AnnealedLangevin(1.0, 0.1))


def test_bad_arguments_are_named() -> None:
    space = Space.field(PLANE)
    for changes, error, message in (
        ({"strength": -1.0}, ValueError, "`strength` must be a finite number >= 0"),
        ({"strength": "much"}, TypeError, "`strength` must be a finite number >= 0"),
        ({"weight": float("nan")}, ValueError, "`weight` must be a finite number >= 0"),
        ({"strength": 1.0, "weight": 1.0}, ValueError, "`strength, weight` must not be given both"),
        ({"tolerance": 0.0}, ValueError, "`tolerance` must be a finite number > 0"),
        ({"iterations": 0}, ValueError, "`iterations` must be an integer >= 1"),
    ):
        with pytest.raises(error, match=message):
            TotalVariationDenoiser(space, **changes)
