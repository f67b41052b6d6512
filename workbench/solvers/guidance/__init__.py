"""Samples with a learned prior: a descent through noise levels that the data guide."""

from workbench.solvers.guidance.ddnm import DDNM
from workbench.solvers.guidance.ddrm import DDRM
from workbench.solvers.guidance.dds import DDS
from workbench.solvers.guidance.diffpir import DiffPIR
from workbench.solvers.guidance.dps import DPS
from workbench.solvers.guidance.pigdm import PiGDM

__all__ = ["DDNM", "DDRM", "DDS", "DPS", "DiffPIR", "PiGDM"]
