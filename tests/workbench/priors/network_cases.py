"""Networks whose answers are known: exact outputs of exact priors on a path; and small ones of any kind."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor, nn

from operators.grid import Grid
from operators.space import Space
from tests.oracles import random_element
from workbench.paths import AffinePath, Prediction
from workbench.paths.prediction import from_data
from workbench.priors.base import Denoiser
from workbench.priors.gaussian import DenseGaussian
from workbench.priors.mixture import GaussianMixture
from workbench.priors.network import Execution, NetworkPrior, PathOutput, SizePolicy, Training
from workbench.priors.network.channels import Channels

PLANE = Space.field(Grid.plane((3, 4), (1.0, 1.5), thickness=2.0))
VOLUME = Space.field(Grid.from_spacing((2, 3, 2), (2.0, 1.0, 1.5)))
COMPLEX = Space.field(PLANE.grid, is_complex=True)


def covariance(size: int, seed: int, is_complex: bool = False) -> Tensor:
    """Return a covariance with eigenvalues of order one."""
    root = random_element(Space((size, size), is_complex), seed=seed) / size**0.5
    return root @ root.mH + 0.1 * torch.eye(size, dtype=root.dtype)


@functools.cache
def mixture(space: Space = PLANE) -> GaussianMixture:
    """Return two modes apart."""
    means = torch.stack([random_element(space, seed=1), random_element(space, seed=2) - 1])
    spreads = torch.stack([covariance(space.size, 3), 0.3 * covariance(space.size, 4)])
    return GaussianMixture.dense(space, [0.3, 0.7], means, spreads)


@functools.cache
def complex_gaussian() -> DenseGaussian:
    """Return a complex field whose entries are correlated."""
    mean = random_element(COMPLEX, seed=5)
    return DenseGaussian(COMPLEX, mean, covariance(COMPLEX.size, 6, is_complex=True))


class Analytic(nn.Module):
    """The network that predicts for `prior` on `path`, told the path's time; x_in as further channels."""

    def __init__(self, prior: Denoiser, path: AffinePath, prediction: Prediction) -> None:
        super().__init__()
        self.prior, self.path, self.prediction = prior, path, prediction
        self.layout = Channels.of(prior.space, None)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        t = label.double()
        wide = self.layout.join(x[:, : self.layout.count].double())
        x_in = (
            self.layout.join(x[:, self.layout.count :].double()) if x.shape[1] > self.layout.count else None
        )
        at = self.path.at(t)
        column = [-1, *[1] * self.prior.space.ndim]
        y = wide if x_in is None else wide - at.b.reshape(column) * x_in
        data = self.prior.denoise_scaled(y / at.c.reshape(column), at.inv_sigma)
        return self.layout.split(from_data(self.prediction, data, wide, t, self.path, x_in)).to(x.dtype)


class Small(nn.Module):
    """A convolution with a nonlinearity, modulated by the label; its weights are fixed numbers."""

    def __init__(self, channels: int = 1, dims: int = 2, outputs: int | None = None, width: int = 4) -> None:
        super().__init__()
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.first = kind(channels, width, 3, padding=1)
        self.last = kind(width, channels if outputs is None else outputs, 3, padding=1)
        with torch.no_grad():
            for k, parameter in enumerate(self.parameters()):
                steps = torch.arange(parameter.numel(), dtype=torch.float32)
                parameter.copy_((0.4 * (0.7 * steps + k).sin()).reshape(parameter.shape))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.tanh(h + label.to(h.dtype).reshape(-1, *[1] * (h.ndim - 1))))


class Pointwise(nn.Module):
    """A function of each voxel by itself: no size and no tile changes it."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(x) + label.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


FLOW = PathOutput(AffinePath.flow(), Prediction.VELOCITY)


def small_prior(
    space: Space, execution: Execution | None = None, training: Training | None = None
) -> NetworkPrior:
    """Return a prior of the small network."""
    dims = 2 if space.grid is not None and space.grid.is_plane else 3
    return NetworkPrior(
        Small(Channels.of(space, None).count, dims), space, FLOW, execution=execution, training=training
    )


class Sizes(nn.Module):
    """Keeps the shapes of the images it was given."""

    seen: ClassVar[list[tuple[int, ...]]] = []

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return torch.tanh(x)


def made(
    space: Space, training: Training, policy: SizePolicy | None = None, module: nn.Module | None = None
) -> NetworkPrior:
    """Return a prior of a pointwise network, or of `module`, on the flow."""
    return NetworkPrior(
        Pointwise() if module is None else module, space, FLOW, training=training, policy=policy
    )
