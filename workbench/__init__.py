"""Floor 2: inference on any operator. Values and methods; knows no command line and no viewer."""

from importlib.metadata import PackageNotFoundError, version

from workbench.driver import sample
from workbench.kinds import Kind
from workbench.measurement import Measurement
from workbench.posterior import Posterior
from workbench.samples import Samples
from workbench.units import Units
from workbench.volume import Volume

__all__ = ["Kind", "Measurement", "Posterior", "Samples", "Units", "Volume", "sample"]

try:
    __version__ = version("inverse-workbench")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
