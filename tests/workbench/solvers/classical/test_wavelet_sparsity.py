"""Wavelet sparsity against a Haar transform of its own, closed forms and the conditions of optimality."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from operators.errors import ConvergenceWarning
from operators.grid import Grid
from operators.identity import Identity
from operators.matrix import Matrix
from operators.space import Space
from tests.problems import UNITS, posterior_of
from tests.solver_contract import SolverContract
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.classical.wavelet_sparsity import WaveletSparsity
from workbench.units import Units

SHORT = pytest.mark.filterwarnings("ignore:WaveletSparsity stopped at a residual")
#: The axes of each level, the finest first.
PLANE = ((-2, -1), (-2, -1))


def flat(name: str, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
    gaussian = posterior_of(name, dtype=dtype, units=units)
    return Posterior(Flat(gaussian.space, units), gaussian.physical_likelihood)


@SHORT
class TestWaveletSparsity(SolverContract):
    covers = (WaveletSparsity,)

    def make(self) -> WaveletSparsity:
        return WaveletSparsity(0.5, iterations=25)

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        return flat("ct", dtype, units)

    def posterior_complex(self) -> Posterior:
        return flat("coils")


def haar(x: Tensor, levels: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Return the coarse image and the details of images (..., z, y, x), by sums and differences of pairs."""
    details: list[Tensor] = []
    for axes in levels:
        bands = [x]
        for axis in axes:
            pairs = [band.unflatten(axis, (-1, 2)).unbind(axis) for band in bands]
            bands = [(a + sign * b) / 2**0.5 for a, b in pairs for sign in (1, -1)]
        x, *more = bands
        details += more
    return [x, *details]


def haar_matrix(shape: tuple[int, ...], levels: tuple[tuple[int, ...], ...]) -> tuple[Tensor, int]:
    """Return W (coefficients, entries) and how many of the first are coarse."""
    size = torch.Size(shape).numel()
    bands = haar(torch.eye(size, dtype=torch.float64).reshape(size, *shape), levels)
    return torch.cat([band.flatten(1) for band in bands], dim=1).T, bands[0][0].numel()


def soft(c: Tensor, limit: float) -> Tensor:
    return c * (1 - limit / c.abs().clamp(min=1e-300)).clamp(min=0)


def require_optimal(
    posterior: Posterior, u: Tensor, weight: float, levels: tuple[tuple[int, ...], ...]
) -> None:
    """Fail unless 0 is in B^H (B u - z) + weight W^H d|W u|, to a share of weight."""
    b, z = posterior.measured.whitened
    slope = haar(b.adjoint(b(u) - z), levels)
    own = haar(u, levels)
    assert float(slope[0].abs().max()) < 2e-3 * weight
    for s, c in zip(slope[1:], own[1:], strict=True):
        live = c.abs() > 1e-6
        assert float(s.abs().max()) < 1.002 * weight
        if bool(live.any()):
            assert float((s[live] + weight * c[live] / c[live].abs()).abs().max()) < 2e-3 * weight


@pytest.mark.parametrize("is_complex", [False, True])
def test_of_an_image_it_is_the_soft_threshold(is_complex: bool) -> None:
    space = Space.field(Grid.plane((8, 12), (1.0, 1.2)), is_complex=is_complex)
    like = torch.empty(0, dtype=torch.complex128 if is_complex else torch.float64)
    z = Keys(1, (0,)).normals(space.shape, "image", like=like)[0]
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Gaussian(0.5), z))
    samples = sample(posterior, WaveletSparsity(2.0, "haar", 2, tolerance=1e-10))
    matrix, coarse = haar_matrix(space.shape, PLANE)
    assert torch.allclose(matrix @ matrix.T, torch.eye(96, dtype=torch.float64))
    c = matrix.to(z.dtype) @ z.flatten()
    c[coarse:] = soft(c[coarse:], 2.0 * 0.25)
    expected = (matrix.T.to(z.dtype) @ c).reshape(z.shape)
    assert torch.allclose(samples.tensor()[0], expected, atol=1e-8)
    value = 2 * float((expected - z).abs().square().sum()) + 2.0 * float(c[coarse:].abs().sum())
    assert samples.record["last_step"]["objective"] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", ["mask", "ct", "coils", "blur"])
def test_the_conditions_of_optimality_hold(name: str) -> None:
    posterior = flat(name)
    solver = WaveletSparsity(5.0, "haar", 2, tolerance=1e-8, iterations=3000)
    u = posterior.from_physical(sample(posterior, solver).tensor())
    require_optimal(posterior, u, 5.0, PLANE)


def test_a_volume_with_coarse_slices_joins_them_once_wavelets_are_as_large() -> None:
    space = Space.field(Grid.from_spacing((2, 8, 8), (4.0, 1.0, 1.0)))
    entries = Keys(3, (0,)).normals((150, space.size), "matrix", like=torch.empty(0, dtype=torch.float64))[0]
    data = Keys(4, (0,)).normals((150,), "data", like=torch.empty(0, dtype=torch.float64))[0]
    posterior = Posterior(
        Flat(space), Likelihood(Matrix(space, Space((150,)), entries / 20), Gaussian(0.1), data)
    )
    u = sample(posterior, WaveletSparsity(20.0, "haar", 3, tolerance=1e-6, iterations=3000)).tensor()
    require_optimal(posterior, u, 20.0, ((-2, -1), (-2, -1), (-3, -2, -1)))


def test_an_axis_that_levels_do_not_divide_goes_on_as_sparsely_as_it_can() -> None:
    space = Space.field(Grid.plane((6, 9), 1.0))
    z = Keys(1, (0,)).normals(space.shape, "image", like=torch.empty(0, dtype=torch.float64))[0]
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Gaussian(1.0), z))
    x = sample(posterior, WaveletSparsity(0.4, "haar", 2, tolerance=1e-9)).tensor()[0]
    # The same by plain proximal gradients over the wider image.
    matrix, coarse = haar_matrix((1, 8, 12), PLANE)
    v = torch.zeros(1, 8, 12, dtype=torch.float64)
    for _ in range(3000):
        v[:, :6, :9] = z
        c = matrix @ v.flatten()
        c[coarse:] = soft(c[coarse:], 0.4)
        v = (matrix.T @ c).reshape(v.shape)
    assert torch.allclose(x, v[:, :6, :9], atol=1e-5)


def test_without_weight_it_is_least_squares() -> None:
    space = Space.field(Grid.plane((4, 8), 1.0), is_complex=True)
    like = torch.empty(0, dtype=torch.complex128)
    entries = Keys(3, (0,)).normals((90, space.size), "matrix", like=like)[0]
    data = Keys(4, (0,)).normals((90,), "data", like=like)[0]
    operator = Matrix(space, Space((90,), True), entries)
    posterior = Posterior(Flat(space), Likelihood(operator, Gaussian(0.1), data))
    x = sample(posterior, WaveletSparsity(0.0, "haar", tolerance=1e-9)).tensor().flatten()
    assert torch.allclose(x, torch.linalg.lstsq(entries, data[:, None]).solution[:, 0], atol=1e-8)


def test_a_large_weight_leaves_the_coarse_image() -> None:
    space = Space.field(Grid.plane((4, 8), 1.0))
    z = Keys(1, (0,)).normals(space.shape, "image", like=torch.empty(0, dtype=torch.float64))[0]
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Gaussian(1.0), z))
    x = sample(posterior, WaveletSparsity(1e3, "haar", 2, tolerance=1e-9)).tensor()[0]
    blocks = z.reshape(4, 2, 4).mean(dim=(0, 2))
    assert torch.allclose(x, blocks.repeat_interleave(4).expand(1, 4, 8), atol=1e-7)


@pytest.mark.parametrize("wavelet", ["db4", "sym4"])
def test_longer_wavelets_are_orthonormal_too(wavelet: str) -> None:
    """The objective is least where it says, W that of the denoiser whose prox it is."""
    posterior = flat("ct")
    solver = WaveletSparsity(5.0, wavelet, tolerance=1e-7, iterations=3000)
    samples = sample(posterior, solver)
    u, here = posterior.from_physical(samples.tensor()), samples.record["last_step"]["objective"]
    b, z = posterior.measured.whitened
    wavelets = solver._wavelets(posterior)
    for k in range(20):
        near = u + 10.0 ** -(k % 4) * Keys(2, (k,)).normals(u.shape[1:], "near", like=u)
        details = sum(float(band.abs().sum()) for band in wavelets.details(near))
        assert float((b(near) - z).square().sum()) / 2 + 5.0 * details > here * (1 - 1e-9)


@SHORT
@pytest.mark.parametrize("units", [Units(1e-3, 0.0), Units(4.0, 0.03)])
def test_units_and_their_offset_play_no_part(units: Units) -> None:
    """With the weight in units of u, and no weight on the level, the image is the same."""
    likelihood = posterior_of("ct").physical_likelihood
    assert likelihood is not None
    base, other = (
        sample(
            Posterior(Flat(likelihood.domain, one), likelihood),
            WaveletSparsity(2e3 * one.scale, "haar", 3, tolerance=1e-9, iterations=3000),
        ).tensor()
        for one in (Units(), units)
    )
    assert float((base - other).abs().max()) < 1e-5 * float(base.abs().max())


def test_single_precision_stops_at_its_rounding() -> None:
    likelihood = posterior_of("mask").physical_likelihood
    assert likelihood is not None
    sharp = Likelihood(likelihood.operator, Gaussian(1e-6), likelihood.data.to(torch.float32))
    samples = sample(Posterior(Flat(likelihood.domain), sharp), WaveletSparsity(1e-3, "haar", iterations=500))
    assert samples.record["steps_taken"] < 500


def test_it_says_where_it_stopped_short() -> None:
    with pytest.warns(ConvergenceWarning, match=r"at a residual of .*, not 1e-05, after 3 iterations. Raise"):
        sample(flat("ct"), WaveletSparsity(1.0, iterations=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "`weight` must be a finite number >= 0, got -1.0"),
        ({"weight": 1.0, "levels": 0}, "`levels` must be an integer >= 1"),
        ({"weight": 1.0, "iterations": 0}, "`iterations` must be an integer >= 1"),
        ({"weight": 1.0, "tolerance": 0.0}, "`tolerance` must be a finite number > 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WaveletSparsity(**options)


def test_wavelets_that_are_none_and_other_laws_are_refused() -> None:
    with pytest.raises(ValueError, match="`wavelet` must be 'haar', 'db2' to 'db10' or one of"):
        WaveletSparsity(1.0, "db99")
    with pytest.raises(ValueError, match="`wavelet` must be orthogonal, got 'bior2.2'"):
        WaveletSparsity(1.0, "bior2.2")
    with pytest.raises(TypeError, match="`wavelet` must be the name of a wavelet, got 4"):
        WaveletSparsity(1.0, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`wavelet` must be orthogonal, got 'bior2.2'"):
        sample(flat("ct"), WaveletSparsity(1.0, "bior2.2"))
    space = Space.field(Grid.plane((3, 4), 1.0))
    counts = torch.full(space.shape, 50.0, dtype=torch.float64)
    likelihood = Likelihood(Identity(space), PoissonTransmission(100.0), counts)
    with pytest.raises(CapabilityError, match="must be linear with Gaussian noise"):
        sample(Posterior(Flat(space), likelihood), WaveletSparsity(1.0))
    alone = Space((5,))
    bare = Likelihood(Identity(alone), Gaussian(1.0), torch.ones(5))
    with pytest.raises(ValueError, match="`space` must lie on a Grid"):
        sample(Posterior(Flat(alone), bare), WaveletSparsity(1.0))
