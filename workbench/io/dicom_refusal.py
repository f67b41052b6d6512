"""Why a DICOM file or stack is no volume: said once, shown in a listing and raised by the reader."""

from __future__ import annotations

from pathlib import Path

from operators.errors import value_error

__all__ = ["RefusalError"]


class RefusalError(Exception):
    """What was expected of the files, what they hold instead, and what can be done.

    `name` is one short phrase for each reason ("missing slices"), the same in listings and errors. It never
    leaves `workbench.io`: the reader raises `error(source)`.
    """

    def __init__(self, name: str, expected: str, got: str, remedy: str = "") -> None:
        super().__init__(f"{name}: {got}")
        self.name, self.expected, self.got, self.remedy = name, expected, got, remedy

    def error(self, source: Path) -> ValueError:
        """Return the error in the house form, of the argument `path`."""
        return value_error("path", self.expected, f"{source} with {self.name}: {self.got}", self.remedy)
