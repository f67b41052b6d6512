"""The optional extras: which packages each wants and which of them are here.

The list comes from the metadata of the installed distribution, so it cannot fall behind pyproject.toml.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
            f"Install it with: pip install -e '{checkout}'"
        )
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ModuleNotFoundError:
        return _unlisted("packaging is not installed, so requirements cannot be read. pip install packaging")
    requirements = [Requirement(text) for text in distribution.requires or ()]
    names = [canonicalize_name(name) for name in distribution.metadata.get_all("Provides-Extra") or ()]
    return {"listed": True, "detail": None, "extras": [_extra(name, requirements) for name in names]}


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


def _extra(name: str, requirements: list[Requirement]) -> dict[str, Any]:
    wanted: dict[str, Requirement] = {}
    seen: set[str] = set()
    _collect(name, requirements, wanted, seen)
    packages = [_package(requirement) for requirement in wanted.values()]
    complete = all(package["status"] == "ok" for package in packages)
    return {
        "name": name,
        "includes": sorted(seen - {name}),
        "complete": complete,
        "install": None if complete else f"pip install '{DISTRIBUTION}[{name}]'",
        "packages": packages,
    }


def _collect(
    extra: str, requirements: list[Requirement], wanted: dict[str, Requirement], seen: set[str]
) -> None:
    """Gather what `extra` adds, following an extra made of extras ("inverse-workbench[io,ct]")."""
    from packaging.utils import canonicalize_name

    if extra in seen:
        return
    seen.add(extra)
    for requirement in requirements:
        if not _belongs(requirement, extra):
            continue
        if canonicalize_name(requirement.name) == DISTRIBUTION:
            for nested in sorted(requirement.extras):
                _collect(canonicalize_name(nested), requirements, wanted, seen)
        else:
            wanted.setdefault(canonicalize_name(requirement.name), requirement)


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
