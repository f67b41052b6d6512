"""What a network is trained for: a value that turns a batch into one loss per row.

    Denoising:  w(sigma) mean |D(x + sigma n, sigma) - x|^2,    w = (sigma^2 + sd^2) / (sigma sd)^2

w is one over the variance that is left of data of standard deviation sd when a linear estimate has been made:
an untrained network of EDM's preconditioning has a loss of one at every level. The loop knows nothing of it:
another objective (fields recovered, pairs restored) is another value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from operators.checks import check_number
from operators.errors import type_error
from workbench.priors.network.calling import Calling, Labelled
from workbench.priors.network.output import EDMOutput, Network, Output
from workbench.random import Keys
from workbench.training.batch import Batch
from workbench.training.densities import Density, LogNormal

__all__ = ["Denoising", "Objective", "Strata"]


@dataclass(frozen=True)
class Strata:
    """The keys of a step, and of how many rows its whole batch consists."""

    keys: Keys
    rows: int

    def uniforms(self, batch: Batch, purpose: str) -> Tensor:
        """Return one uniform per row, each from a stratum of its own; float64, on the CPU.

        Which row has which stratum turns from step to step: images of one row are of all levels.
        """
        like = torch.empty(0, dtype=torch.float64)
        keys = self.keys.of(batch.rows)
        inside = keys.uniforms((1,), f"{purpose} within", like=like)[:, 0]
        everyone = self.keys.of(range(self.rows)).uniforms((1,), f"{purpose} order", like=like)[:, 0]
        order = everyone.argsort().argsort()[list(batch.rows)]
        return (order + inside) / self.rows


class Objective(ABC):
    """A loss; subclasses are frozen values."""

    @abstractmethod
    def losses(self, module: nn.Module, batch: Batch, strata: Strata) -> Tensor:
        """Return (rows,) losses of the rows of `batch`, differentiable in the weights of `module`."""

    @staticmethod
    def require(value: object) -> Objective:
        """Return `value` if it is an Objective."""
        if not isinstance(value, Objective):
            raise type_error("objective", "be an Objective", type(value).__name__, "Such as Denoising().")
        return value


@dataclass(frozen=True)
class Denoising(Objective):
    """The posterior mean of an image behind noise, which is a prior.

    Parameters
    ----------
    output
        What the network gives: EDM's F, or a prediction on a path.
    calling
        How it is called.
    density
        Of the levels.
    data_sd
        Standard deviation of the images' values about their mean, in their units.
    """

    output: Output = field(default_factory=EDMOutput)
    calling: Calling = field(default_factory=Labelled)
    density: Density = field(default_factory=LogNormal)
    data_sd: float = 0.5

    def __post_init__(self) -> None:
        Output.require(self.output)
        Calling.require(self.calling)
        Density.require(self.density)
        object.__setattr__(self, "data_sd", check_number(self.data_sd, "data_sd", positive=True))

    def losses(self, module: nn.Module, batch: Batch, strata: Strata) -> Tensor:
        """Return the weighted squared errors."""
        sigma = self.density.quantile(strata.uniforms(batch, "level")).to(batch.images.device)
        return self.weight(sigma).float() * self.squared_errors(module, batch, sigma, strata.keys)

    def squared_errors(self, module: nn.Module, batch: Batch, sigma: Tensor, keys: Keys) -> Tensor:
        """Return mean |D - x|^2 of each row at its level in `sigma`."""
        x = batch.images
        column = sigma.reshape(-1, *[1] * (x.ndim - 1))
        noise = keys.of(batch.rows).normals(x.shape[1:], "noise", like=x)
        d = self.output.denoise(self.network(module, batch), x + column.to(x.dtype) * noise, column)
        return (d.float() - x.float()).square().flatten(1).mean(dim=1)

    def network(self, module: nn.Module, batch: Batch) -> Network:
        """Return the network under the conditions of the batch."""
        images = [batch.images_by_name[name] for name in self.calling.images]
        beside = torch.cat(images, dim=1) if images else None
        numbers = {} if batch.labels is None else {"labels": batch.labels}

        def network(x: Tensor, label: Tensor) -> Tensor:
            return self.calling.call(module, x, label.to(x.device, torch.float32), beside, numbers)

        return network

    def weight(self, sigma: Tensor) -> Tensor:
        """Return w(sigma)."""
        return (sigma**2 + self.data_sd**2) / (sigma * self.data_sd) ** 2
