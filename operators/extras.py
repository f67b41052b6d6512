"""Optional dependencies: asked for where they are used, refused with the command that installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

DISTRIBUTION = "inverse-workbench"


class MissingExtraError(ImportError):
    """An optional dependency is absent; the message names the feature and the install command."""


def require(module: str, *, feature: str, extra: str) -> ModuleType:
    """Import `module`, or say which feature wanted it and how to install it.

    `feature` starts the sentence ("Reading NIfTI"); `extra` is the name in pyproject.toml ("io").
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if missing.split(".")[0] != module.split(".")[0]:
            detail = f"{module}, whose own dependency {missing} is not installed"
        else:
            detail = f"{missing}, which is not installed"
        raise MissingExtraError(
            f"{feature} needs {detail}. Install it with: pip install '{DISTRIBUTION}[{extra}]'",
            name=missing,
        ) from error
