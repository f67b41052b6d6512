"""Networks in the layout of EDM's code (Karras et al. 2022): a raw network F inside a preconditioning.

    D = c_skip z + c_out F(c_in z, c_noise)
             c_skip               c_out                     c_in              c_noise
    EDM      sd^2 / (s^2 + sd^2)  s sd / sqrt(s^2 + sd^2)   1/sqrt(s^2+sd^2)  log(s) / 4
    VP       1                    -s                        1/sqrt(s^2 + 1)   (M - 1) t
    VE       1                    s                         1                 log(s / 2)
    iDDPM    1                    -s                        1/sqrt(s^2 + 1)   M - 1 - j, s the j-th of a table

In a state dict of such a network F's names begin with "model." (EDM), "unet." (EDM2): the caller says which.
A preconditioned module that gives D itself is PathOutput(AffinePath.edm(), "data", Label.SIGMA), called
Plain(). Networks of that code are called (x, label, class_labels), which is Labelled().
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from operators.checks import check_count, check_number
from operators.errors import type_error
from operators.space import Space
from workbench.io.weights import load_weights
from workbench.paths.affine import AffinePath
from workbench.paths.prediction import Prediction
from workbench.priors.network.calling import Calling, Labelled
from workbench.priors.network.execution import Execution
from workbench.priors.network.output import EDMOutput, Label, Output, PathOutput
from workbench.priors.network.policy import SizePolicy
from workbench.priors.network.prior import NetworkPrior
from workbench.priors.network.training import Training

__all__ = [
    "EDMPreconditioning",
    "IDDPMPreconditioning",
    "Preconditioning",
    "Relabelled",
    "VEPreconditioning",
    "VPPreconditioning",
    "read_edm_weights",
]


class Relabelled(nn.Module):
    """A network that is told factor * label + offset instead of the label; of an index as a real number."""

    def __init__(self, module: nn.Module, factor: float, offset: float = 0.0) -> None:
        super().__init__()
        self.module = module
        self.factor = check_number(factor, "factor")
        self.offset = check_number(offset, "offset")

    def forward(self, x: Tensor, label: Tensor, *more: Tensor | None) -> Tensor:
        """Return what the network gives."""
        told = label if label.is_floating_point() else label.to(torch.promote_types(x.dtype, torch.float32))
        result: Tensor = self.module(x, self.factor * told + self.offset, *more)
        return result


class Preconditioning(ABC):
    """What stands around F; subclasses are frozen values."""

    @property
    @abstractmethod
    def output(self) -> Output:
        """What the network, as `told` has it, gives."""

    def told(self, module: nn.Module) -> nn.Module:
        """Return F, told of the noise what `output` says of it."""
        return module


@dataclass(frozen=True)
class EDMPreconditioning(Preconditioning):
    """EDM's own, and EDM2's; `sigma_data` is the standard deviation of the data."""

    sigma_data: float = 0.5

    @property
    def output(self) -> Output:
        """F of EDM."""
        return EDMOutput(self.sigma_data)


@dataclass(frozen=True)
class VPPreconditioning(Preconditioning):
    """That of DDPM++: the noise on the path of variance 1, its time told in `steps` - 1."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    steps: int = 1000

    def __post_init__(self) -> None:
        check_count(self.steps, "steps", minimum=2)

    @property
    def output(self) -> Output:
        """The noise."""
        return PathOutput(AffinePath.vp(self.beta_min, self.beta_d), Prediction.NOISE, Label.TIME)

    def told(self, module: nn.Module) -> nn.Module:
        """Return F of the time."""
        return Relabelled(module, self.steps - 1)


@dataclass(frozen=True)
class VEPreconditioning(Preconditioning):
    """That of NCSN++: sigma times the score, which is the noise with its sign changed."""

    sigma_max: float = 100.0

    @property
    def output(self) -> Output:
        """Minus the noise."""
        path = AffinePath.edm(self.sigma_max)
        return PathOutput(path, Prediction.NOISE, Label.LOG_SIGMA, negated=True)

    def told(self, module: nn.Module) -> nn.Module:
        """Return F of log(sigma) / 4: log(sigma / 2) is 4 times that, less log 2."""
        return Relabelled(module, 4.0, -math.log(2))


@dataclass(frozen=True)
class IDDPMPreconditioning(Preconditioning):
    """That of improved DDPM and ADM: the noise at the levels of a cosine's table, often with variances.

        s_(j-1)^2 + 1 = (s_j^2 + 1) / max(abar_(j-1) / abar_j, c_1)
        abar_j = sin^2(pi/2 (j / steps) / (1 + c_2))

    from s_steps = 0 down to j = 0; the label of s_j is steps - 1 - j.
    """

    c_1: float = 0.001
    c_2: float = 0.008
    steps: int = 1000
    learned_variance: bool = True

    def __post_init__(self) -> None:
        check_count(self.steps, "steps", minimum=2)
        for name in ("c_1", "c_2"):
            check_number(getattr(self, name), name, positive=True)

    @property
    def output(self) -> Output:
        """The noise."""
        path = AffinePath.discrete(self.sigmas)
        return PathOutput(path, Prediction.NOISE, Label.INDEX, learned_variance=self.learned_variance)

    def told(self, module: nn.Module) -> nn.Module:
        """Return F of the index as a real number."""
        return Relabelled(module, 1.0)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The levels by their label, the smallest first."""
        index = torch.arange(self.steps + 1, dtype=torch.float64)
        abar = (math.pi / 2 * index / self.steps / (1 + self.c_2)).sin() ** 2
        growth = 1 / (abar[:-1] / abar[1:]).clamp(min=self.c_1)
        squares = growth.flip(0).cumprod(0) - 1
        return tuple(squares.sqrt().tolist())


def read_edm_weights(
    path: str | Path,
    space: Space,
    module: nn.Module,
    preconditioning: Preconditioning,
    *,
    prefix: str = "model.",
    training: Training | None = None,
    calling: Calling | None = None,
    policy: SizePolicy | None = None,
    execution: Execution | None = None,
) -> NetworkPrior:
    """Return the prior over `space` that the weights of a network in EDM's layout make.

    Parameters
    ----------
    path
        A safetensors file of a state dict.
    space
        What the prior is over.
    module
        The raw network F, built by the caller; its weights are overwritten.
    preconditioning
        What stands around it.
    prefix
        What F's names begin with in the file; "" for a state dict of F alone.
    training, policy, execution
        As in `NetworkPrior`.
    calling
        How F is called, Labelled() unless given.
    """
    if not isinstance(preconditioning, Preconditioning):
        remedy = "EDMPreconditioning(sigma_data), VPPreconditioning(), VEPreconditioning(), ..."
        raise type_error("preconditioning", "be a Preconditioning", type(preconditioning).__name__, remedy)
    return NetworkPrior(
        preconditioning.told(load_weights(path, module, prefix=prefix)),
        space,
        preconditioning.output,
        training=training,
        calling=Labelled() if calling is None else calling,
        policy=policy,
        execution=execution,
    )
