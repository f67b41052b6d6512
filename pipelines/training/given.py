"""What `workbench train` was given in place of a recipe."""

from __future__ import annotations

import tomllib
from pathlib import Path

from operators.errors import value_error

__all__ = ["refuse_manifest"]


def refuse_manifest(path: Path) -> None:
    """Say so where a file is a manifest: recipes name them."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return
    if {"volumes", "generators"} & found.keys():
        remedy = f'A recipe names it: data.manifests = ["{path}"].'
        raise value_error("recipe", "be settings of a training", f"{path}, a manifest", remedy)
