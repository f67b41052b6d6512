"""The command line, the typed configuration and the runs that join operators and workbench.

Importing this package imports nothing else, so that `workbench --help` stays instant and
`workbench doctor` still answers where torch is broken.
"""

from __future__ import annotations

# Written out here too: importing operators, which owns the name, would pull in torch.
DISTRIBUTION = "inverse-workbench"


def installed_version() -> str | None:
    """Return the version of the installed distribution, or None when running from a bare checkout."""
    from importlib import metadata

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
