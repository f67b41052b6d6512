"""The optional extras: which packages each wants and which of them are here.

The list comes from the metadata of the installed distribution, so it cannot fall behind pyproject.toml.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipelines import DISTRIBUTION

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def report_extras() -> dict[str, Any]:
    """Return every extra with its packages, or the reason why they cannot be listed."""
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        checkout = Path(__file__).resolve().parents[2]
        return _unlisted(
            f"{DISTRIBUTION} is not installed (running from {checkout}), so its extras are unknown. "
            f"Install it with: {quote(sys.executable)} -m pip install -e {quote(str(checkout))}"
        )
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ModuleNotFoundError:
        return _unlisted("packaging is not installed, so requirements cannot be read. pip install packaging")
    requirements = [Requirement(text) for text in distribution.requires or ()]
    names = [canonicalize_name(name) for name in distribution.metadata.get_all("Provides-Extra") or ()]
    folder = _checkout(distribution)
    extras = [_extra(name, requirements, folder) for name in names]
    return {"listed": True, "detail": None, "extras": extras}


def package_version(name: str) -> tuple[str | None, str | None]:
    """Return (version, None), or (None, why) where the installed metadata cannot be read, or (None, None)."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None, None
    except Exception as error:  # a half-removed package fails in ways of its own
        return None, f"unreadable metadata: {type(error).__name__}: {error}"
    # An emptied METADATA file gives None, whatever the annotation says.
    return (str(version), None) if version else (None, "unreadable metadata: no version")


def _unlisted(detail: str) -> dict[str, Any]:
    return {"listed": False, "detail": detail, "extras": []}


def _extra(name: str, requirements: list[Requirement], checkout: str | None) -> dict[str, Any]:
    # hatchling writes an extra made of extras ([all]) out in full, so none has to be followed.
    packages = [_package(requirement) for requirement in requirements if _belongs(requirement, name)]
    complete = all(package["status"] == "ok" for package in packages)
    return {
        "name": name,
        "complete": complete,
        "install": None if complete else _install_command(name, checkout),
        "packages": packages,
    }


def _checkout(distribution: metadata.Distribution) -> str | None:
    """Return the folder of an editable install, which PEP 610 records, or None."""
    recorded = json.loads(distribution.read_text("direct_url.json") or "{}")
    editable = recorded.get("dir_info", {}).get("editable", False)
    return url2pathname(urlsplit(recorded["url"]).path) if editable else None


def _install_command(extra: str, checkout: str | None) -> str:
    if checkout is None:
        return f"pip install '{DISTRIBUTION}[{extra}]'"
    wanted, pins = quote(f"{checkout}[{extra}]"), quote(str(Path(checkout) / "constraints.txt"))
    return f"{quote(sys.executable)} -m pip install -e {wanted} -c {pins}"


def _belongs(requirement: Requirement, extra: str) -> bool:
    """Tell whether `extra` is what brings `requirement` in, on this platform."""
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _absent_parts(requirement: Requirement) -> list[str]:
    """Return what an extra of the package itself ("dask[distributed]") wants and is not installed."""
    from packaging.requirements import Requirement

    parts = [Requirement(text) for text in metadata.requires(requirement.name) or ()]
    wanted = [part.name for part in parts if any(_belongs(part, extra) for extra in requirement.extras)]
    return [name for name in wanted if package_version(name) == (None, None)]


def _package(requirement: Requirement) -> dict[str, Any]:
    version, broken = package_version(requirement.name)
    if broken:
        status = "broken"
    elif version is None:
        status = "missing"
    elif not requirement.specifier.contains(version, prereleases=True):
        status = "outdated"
    elif absent := _absent_parts(requirement):
        status, broken = "incomplete", f"without {', '.join(absent)}"
    else:
        status = "ok"
    needs = str(requirement.specifier) or "any version"
    return {
        "name": requirement.name,
        "status": status,
        "version": version,
        "needs": needs,
        "detail": broken,
    }
