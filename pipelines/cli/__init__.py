"""The console script `workbench`: verbs found in a table and imported only when called."""

from pipelines.cli.entry import main

__all__ = ["main"]
