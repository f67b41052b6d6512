"""Floor 2: inference on any operator. Values and methods; knows no command line and no viewer."""

from importlib.metadata import PackageNotFoundError, version

from workbench.volume import Volume

__all__ = ["Volume"]

try:
    __version__ = version("inverse-workbench")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
