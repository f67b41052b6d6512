"""A network that predicts exactly on any path, wrapped, is the exact prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.contracts import close
from tests.oracles import random_element
from tests.workbench.priors.network_cases import PLANE, Analytic, Pointwise, mixture
from workbench.paths import AffinePath, GaussianLaw, Prediction, StudentT
from workbench.paths.schedules import Discrete, VPLinear
from workbench.priors.finite_data import FiniteData
from workbench.priors.network import EDMOutput, Label, NetworkPrior, Output, PathOutput, Plain

#: The table of a checkpoint: DDPM's linear betas.
TABLE = AffinePath(Discrete.of_linear_betas())
PATHS = {
    "ve": AffinePath.ve(),
    "edm": AffinePath.edm(),
    "vp": AffinePath.vp(),
    "vp_cosine": AffinePath.vp_cosine(),
    "flow": AffinePath.flow(),
    "discrete": TABLE,
    "mean_reverting": AffinePath.mean_reverting(),
    "residual": AffinePath.residual(sd=0.7),
    "resfusion": AffinePath.resfusion(),
}
X_IN = random_element(PLANE, seed=7)
EPSILON = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def wrapped(path: AffinePath, prediction: Prediction) -> NetworkPrior:
    """Return the mixture behind a network on a path, bound to an x_in where it has one."""
    output, network = PathOutput(path, prediction), Analytic(mixture(), path, prediction)
    if not output.needs_image:
        return NetworkPrior(network, PLANE, output)
    return NetworkPrior(network, PLANE, output, calling=Plain(images=("image",))).given(X_IN)


def levels(prior: NetworkPrior, dtype: torch.dtype) -> Tensor:
    """Return levels over the range, its finite ends included."""
    low, high = (min(max(end, 1e-3), 1e3) for end in prior.noise_range)
    exponents = torch.linspace(math.log10(low), math.log10(high), 13, dtype=torch.float64)
    return (10**exponents).clamp(low, high).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("prediction", Prediction)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_wrapped_network_is_the_prior(
    path: AffinePath, prediction: Prediction, dtype: torch.dtype
) -> None:
    prior = wrapped(path, prediction)
    sigma = levels(prior, dtype)
    column = sigma.reshape(-1, 1, 1, 1)
    noise = random_element(PLANE, len(sigma), dtype=dtype)
    z = random_element(PLANE, seed=8, dtype=dtype) + column * noise
    # What a network says of the noise, rounded, is worth sigma times as much in D; so is a velocity where
    # the data stand still.
    noisy = prediction in (Prediction.NOISE, Prediction.SCORE)
    noisy |= prediction is Prediction.VELOCITY and path in (PATHS["ve"], PATHS["edm"])
    told = 1 + sigma if noisy else torch.ones_like(sigma)
    bound = 30 * EPSILON[dtype] * told * (3 + noise.abs().max())
    expected = mixture().denoise(z.double(), sigma.double())
    for got in (prior.denoise(z, sigma), prior.denoise_scaled(z / column, 1 / sigma)):
        assert got.dtype == dtype
        assert ((got - expected).abs().flatten(1).amax(1) <= bound).all()


@pytest.mark.parametrize("prediction", Prediction)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_start_of_pure_noise_is_known_where_there_is_one(
    path: AffinePath, prediction: Prediction
) -> None:
    prior = wrapped(path, prediction)
    ends_in_noise = prior.noise_range[1] == math.inf
    assert ends_in_noise == (path.at(path.end).a == 0)
    blind = prediction in (Prediction.NOISE, Prediction.SCORE)
    assert prior.knows_pure_noise == (ends_in_noise and not blind)
    u = random_element(PLANE, 2)
    if prior.knows_pure_noise:
        assert close(prior.denoise_scaled(u, 0.0), mixture().denoise_scaled(u, 0.0), 1e-13)
    else:
        with pytest.raises(ValueError, match="`inv_sigma` must be > 0 for a NetworkPrior"):
            prior.denoise_scaled(u, 0.0)


@pytest.mark.parametrize("prediction", Prediction)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_without_noise_z_is_the_image(path: AffinePath, prediction: Prediction) -> None:
    prior = wrapped(path, prediction)
    z = random_element(PLANE, 3)
    if prior.noise_range[0] > 0:
        with pytest.raises(ValueError, match="`sigma` must lie in the range that the NetworkPrior knows"):
            prior.denoise(z, 0.0)
        return
    sigma = torch.tensor([0.0, 1.0, 1e-12], dtype=torch.float64)
    got = prior.denoise(z, sigma)
    assert torch.equal(got[0], z[0])
    assert close(got[1], mixture().denoise(z[1], 1.0), 1e-12)
    assert close(got[2], z[2], 1e-6)
    assert prior.covariance(z, sigma, z).isfinite().all()


class Raw(nn.Module):
    """EDM's F of the mixture: (D - c_skip z) / c_out as Karras et al. write them."""

    def __init__(self, sd: float) -> None:
        super().__init__()
        self.sd = sd

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        sigma = (4 * label.double()).exp()
        column = sigma.reshape(-1, 1, 1, 1)
        r = (column**2 + self.sd**2).sqrt()
        z = x.double() * r
        d = mixture().denoise(z, sigma)
        return ((d - self.sd**2 / r**2 * z) / (column * self.sd / r)).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_edm_preconditioning(dtype: torch.dtype) -> None:
    prior = NetworkPrior(Raw(0.8), PLANE, EDMOutput(0.8))
    sigma = levels(prior, dtype)
    column = sigma.reshape(-1, 1, 1, 1)
    z = random_element(PLANE, seed=8, dtype=dtype) + column * random_element(PLANE, len(sigma), dtype=dtype)
    expected = mixture().denoise(z.double(), sigma.double())
    # F is worth c_out <= sd in D; the oracle above divides by it, and loses 1 / sigma there.
    bound = 100 * EPSILON[dtype] * (1 + 1 / column).clamp(max=100)
    for got in (prior.denoise(z, sigma), prior.denoise_scaled(z / column, 1 / sigma)):
        assert ((got - expected).abs() <= bound).all()
    assert torch.equal(prior.denoise(z, 0.0), z)
    assert not prior.knows_pure_noise


class Seen(nn.Module):
    """Keeps the labels it was told."""

    labels: ClassVar[list[Tensor]] = []

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.labels.append(label)
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (PathOutput(AffinePath.flow(), "data", "time"), 0.2),
        (PathOutput(AffinePath.flow(), "data", "thousandths"), 200.0),
        (PathOutput(AffinePath.flow(), "data", "reversed_time"), 0.8),
        (PathOutput(AffinePath.flow(), "data", "sigma"), 0.25),
        (PathOutput(AffinePath.flow(), "data", "log_sigma"), math.log(0.25) / 4),
        (EDMOutput(0.5), math.log(0.25) / 4),
        (EDMOutput(0.5, "sigma"), 0.25),
        (PathOutput(AffinePath.discrete((0.1, 0.2, 0.4, 0.8)), "data", "index"), 1),
        (PathOutput(AffinePath.discrete((0.1, 0.2, 0.4, 0.8)), "data", "time"), 1 + math.log2(1.25)),
    ],
)
def test_labels(output: Output, expected: float) -> None:
    prior = NetworkPrior(Seen(), PLANE, output)
    prior.denoise(random_element(PLANE, 2, dtype=torch.float32), 0.25)
    label = Seen.labels[-1]
    assert label.shape == (2,)
    assert label.dtype == (torch.int64 if isinstance(expected, int) else torch.float32)
    assert label.tolist() == pytest.approx([expected] * 2, rel=1e-6)


def test_whole_indices_are_the_nearest_level_throughout() -> None:
    sigmas = TABLE.schedule.sigmas
    prior = NetworkPrior(
        Analytic(mixture(), TABLE, Prediction.NOISE), PLANE, PathOutput(TABLE, Prediction.NOISE, Label.INDEX)
    )
    z = random_element(PLANE, 3)
    levels = torch.tensor([sigmas[500], 0.4 * sigmas[500] + 0.6 * sigmas[501], 1.0], dtype=torch.float64)
    whole = (sigmas[500], sigmas[501], min(sigmas, key=lambda s: abs(math.log(s))))
    nearest = torch.tensor(whole, dtype=torch.float64)
    got = prior.denoise(z, levels)
    assert close(got, mixture().denoise(z, nearest), 1e-12)
    assert close(prior.denoise_scaled(z / levels.reshape(-1, 1, 1, 1), 1 / levels), got, 1e-12)
    # Levels are 0.7 % apart at most there: the derivative of D in log sigma times half of it.
    assert (got - mixture().denoise(z, levels)).abs().max() <= 0.02
    assert got.isfinite().all()


def test_opposite_directions_and_signs() -> None:
    path = AffinePath.flow()

    class Backwards(Analytic):
        """A flow from noise at t = 0 to data at t = 1: the velocity is data - noise."""

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return -super().forward(x, 1 - label)

    network = Backwards(mixture(), path, Prediction.VELOCITY)
    output = PathOutput(path, Prediction.VELOCITY, Label.REVERSED_TIME, negated=True)
    z = random_element(PLANE, 2)
    got = NetworkPrior(network, PLANE, output).denoise(z, 0.7)
    assert close(got, mixture().denoise(z, 0.7), 1e-12)


def test_learned_variances_are_dropped() -> None:
    class Both(Analytic):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return torch.cat((super().forward(x, label), torch.full_like(x, 7.0)), dim=1)

    path = AffinePath.vp()
    output = PathOutput(path, Prediction.NOISE, learned_variance=True)
    z = random_element(PLANE, 2)
    got = NetworkPrior(Both(mixture(), path, Prediction.NOISE), PLANE, output).denoise(z, 0.7)
    assert close(got, mixture().denoise(z, 0.7), 1e-12)
    with pytest.raises(ValueError, match=r"`module` must give images of shape \(2, 2, 3, 4\), got \(2, 1, "):
        NetworkPrior(Analytic(mixture(), path, Prediction.NOISE), PLANE, output)
    with pytest.raises(ValueError, match=r"got \(2, 2, 3, 4\) from images .*learned_variance"):
        NetworkPrior(Both(mixture(), path, Prediction.NOISE), PLANE, PathOutput(path, Prediction.NOISE))


def test_heavy_tailed_noise_is_that_of_the_path() -> None:
    law = StudentT(5.0)
    data = FiniteData(random_element(PLANE, 4), PLANE, law=law)
    path = AffinePath.edm().under(law)
    prior = NetworkPrior(Analytic(data, path, Prediction.NOISE), PLANE, PathOutput(path, Prediction.NOISE))
    z = random_element(PLANE, 3, seed=9)
    assert prior.law == prior.declared.law == law
    assert close(prior.denoise(z, 0.6), data.denoise(z, 0.6), 1e-12)
    with pytest.raises(TypeError, match="`prior` must be one of normal noise for a score"):
        prior.score(z, 0.6)
    assert EDMOutput(0.5, noise=law).law == law
    assert EDMOutput(0.5).law == GaussianLaw()


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: PathOutput(AffinePath.vp(), "epsilon"), "`prediction` must be a Prediction: data, noise"),
        (lambda: PathOutput(AffinePath.vp(), "noise", "steps"), "`label` must be a Label: time, thousandths"),
        (lambda: PathOutput(VPLinear()), "`path` must be an AffinePath, got VPLinear"),
        (lambda: PathOutput(AffinePath.vp(), "noise", "index"), "`label` must be another on a path without"),
        (lambda: PathOutput(AffinePath.vp(), negated=1), "`negated` must be True or False, got 1"),
        (
            lambda: PathOutput(AffinePath.edm().under(StudentT(3.0)), Prediction.SCORE),
            "`prediction` must not be a score under noise that is not normal",
        ),
        (lambda: PathOutput(AffinePath.interpolant()), "`path` must have noise at its far end"),
        (lambda: PathOutput(AffinePath.residual(sd=0.0)), "`path` must have noise at its far end"),
        (lambda: EDMOutput(0.0), "`sigma_data` must be a finite number > 0, got 0.0"),
        (lambda: EDMOutput(0.5, "time"), "`label` must be log_sigma or sigma"),
        (lambda: EDMOutput(0.5, noise="normal"), "`noise` must be a NoiseLaw, got str"),
        (lambda: NetworkPrior(Pointwise(), PLANE, AffinePath.vp()), "`output` must be an Output, got Aff"),
    ],
)
def test_bad_outputs_are_named(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        attempt()
