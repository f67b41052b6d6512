"""What solvers are handed, and apart from it what they are judged by.

fine image --measured--> Scan --posed--> Posed        all that a solver sees comes from the scan
fine image --measured--> Reference                    seen by the metrics alone
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from operators.extras import require
from operators.grid import Grid
from pipelines.quality.subjects import Modality
from workbench.likelihood import Likelihood
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.units import Units
from workbench.volume import Volume

__all__ = ["Case", "Posed", "Problem", "Reference", "Scan", "coarse_of", "filled"]

#: Keys of all data.
SEED = 8


@dataclass(frozen=True, eq=False)
class Posed:
    """A likelihood and what is known beside it, all of it from a scan and from physics.

    `numbers` is how many real numbers were measured. `units` are those that classical solvers count in, of
    size one for soft tissue; `scaled` says that a prior is to count in them, too, since the data alone tell
    its scale. `lower` bounds the physical image. Outside `support` nothing is measured: answers are judged
    with zeros there. `told` is what a record says of the data.
    """

    likelihood: Likelihood
    numbers: int
    units: Units
    scaled: bool = False
    lower: float | None = None
    support: Tensor | None = None
    told: Mapping[str, float] = field(default_factory=dict)

    def seen(self, image: Tensor) -> Tensor:
        """Return what is compared of a physical image: its magnitude if it is complex, on the support."""
        shown = image.abs() if image.is_complex() else image
        return shown if self.support is None else shown * self.support

    def posterior(self, prior: Denoiser | None) -> Posterior:
        """Return the posterior under a prior, or without one."""
        if prior is None:
            return Posterior(Flat(self.likelihood.domain, self.units), self.likelihood)
        return Posterior(prior, self.likelihood, units=self.units if self.scaled else None)

    def misfit(self, image: Tensor) -> float:
        """Return chi-square per datum of a physical image (z, y, x): 1 for the truth, but for its grid."""
        forward, data = self.likelihood.whitened
        apart = forward.apply(image[None].to(self.likelihood.dtype)) - data.to(image.device)
        return float(apart.abs().double().square().sum()) / self.numbers


@dataclass(frozen=True, eq=False)
class Reference:
    """The truth (1, y, x), real; the voxels of the body; and the range that PSNR and SSIM refer to."""

    truth: Tensor
    inside: Tensor
    data_range: float


class Scan(ABC):
    """Data as a scanner hands them over, with what belongs to them; nothing else is known."""

    @abstractmethod
    def posed(self) -> Posed:
        """Return the likelihood, with whatever has to be estimated estimated from these data."""


@dataclass(frozen=True)
class Problem(ABC):
    """A way of measuring; subclasses are frozen values, whose fields are its definition."""

    name: str

    modality: Modality = "ct"
    #: Whether the prox of its likelihood has a closed form.
    closed: ClassVar[bool] = False

    @property
    @abstractmethod
    def title(self) -> str:
        """What is measured, in a line."""

    @abstractmethod
    def measured(self, fine: Volume, keys: Keys) -> tuple[Scan, Reference]:
        """Return data of a fine slice, whose noise `keys` give, and the truth."""

    def facts(self) -> dict[str, Any]:
        """Return the definition for a record."""
        return {"class": type(self).__name__, **vars(self), "title": self.title}

    def case(self, fine: Volume, number: int) -> Case:
        """Return the case of a slice: the same data whoever reconstructs them."""
        scan, reference = self.measured(fine, Keys(SEED, (number,)))
        return Case(scan.posed(), reference, number)


@dataclass(frozen=True, eq=False)
class Case:
    """One slice behind one problem."""

    posed: Posed
    reference: Reference
    number: int

    @property
    def grid(self) -> Grid:
        """Where the answer lies."""
        return self.posed.likelihood.grid


def coarse_of(fine: Volume) -> Volume:
    """Return means over 2 x 2 pixels: the grid of the answer, and the truth on it."""
    return fine.downsample((1, 2, 2))


def filled(bright: Tensor) -> Tensor:
    """Return a mask (1, y, x) with its holes closed: lungs belong to the body."""
    images: Any = require("scipy.ndimage", feature="The voxels of the body", extra="io")
    return torch.from_numpy(np.asarray(images.binary_fill_holes(bright[0].numpy())))[None]
