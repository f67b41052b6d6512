"""Networks as priors: what they give, how they are called, executed and fitted to other grids."""

from workbench.priors.network.architecture import Architecture
from workbench.priors.network.calling import Calling, Diffusers, Labelled, Monai, Plain
from workbench.priors.network.card import Card, Provenance
from workbench.priors.network.execution import Execution
from workbench.priors.network.output import EDMOutput, Label, Output, PathOutput
from workbench.priors.network.policy import Convolve, Exact, Resample, SizePolicy, Tile
from workbench.priors.network.prior import NetworkPrior
from workbench.priors.network.training import Training

__all__ = [
    "Architecture",
    "Calling",
    "Card",
    "Convolve",
    "Diffusers",
    "EDMOutput",
    "Exact",
    "Execution",
    "Label",
    "Labelled",
    "Monai",
    "NetworkPrior",
    "Output",
    "PathOutput",
    "Plain",
    "Provenance",
    "Resample",
    "SizePolicy",
    "Tile",
    "Training",
]
