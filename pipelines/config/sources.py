"""Where settings come from: a TOML file, the environment, `--set`; each remembers its origin."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENV_PREFIX = "WORKBENCH_"
# Variables of the program itself, which are no configuration keys.
RESERVED_VARIABLES = frozenset({"WORKBENCH_DEBUG"})
_POSITION = re.compile(r"^(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of .*)\)$")
_HEADER = re.compile(r"^\s*\[+\s*([^\[\]]+?)\s*\]+\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z0-9_.\"' -]+?)\s*=")

_QUOTED = re.compile(r"\s*(\"[^\"]+\"|'[^']+')\s*")

Path_ = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One value for one key; `text` is what was typed, where that was not TOML to begin with."""

    path: Path_
    value: Any
    origin: str
    text: str | None = None


def from_file(path: Path, sections: frozenset[Path_], leaves: frozenset[Path_]) -> list[Setting] | str:
    """Return the settings of a TOML file, or the one problem that keeps it from being read."""
    try:
        # Editors on Windows begin UTF-8 files with a byte order mark, which tomllib refuses.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return f"configuration file {str(path)!r} does not exist (looked in {Path.cwd()})."
    except UnicodeDecodeError as error:
        return f"{path}: must be UTF-8 text, got byte 0x{error.object[error.start]:02x} at {error.start}."
    except OSError as error:
        return f"configuration file {str(path)!r} cannot be read: {error.strerror or error}."
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return _broken(path, text, str(error))
    lines = _key_lines(text)
    settings = []
    for key, value in _flatten(tree, (), sections, leaves):
        line = lines.get(key)
        settings.append(Setting(key, value, f"{path}:{line}" if line else str(path)))
    return settings


def from_environment(env: Mapping[str, str]) -> list[Setting]:
    """Return the settings of the variables that start with `WORKBENCH_` (`WORKBENCH_SCAN__VIEWS=60`)."""
    settings = []
    for name in sorted(env):
        if name.startswith(ENV_PREFIX) and name not in RESERVED_VARIABLES:
            key = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
            settings.append(Setting(key, parse(env[name]), f"environment variable {name}", env[name]))
    return settings


def from_overrides(overrides: Sequence[str]) -> tuple[list[Setting], list[str]]:
    """Return the settings of `--set a.b=value` arguments, and a problem for each malformed one."""
    settings, problems = [], []
    for item in overrides:
        key, sign, text = item.partition("=")
        path = (key.strip()[1:-1],) if _QUOTED.fullmatch(key) else tuple(p.strip() for p in key.split("."))
        if not sign or not all(path):
            problems.append(f"--set must look like section.key=value, got {item!r}.")
            continue
        settings.append(Setting(path, parse(text.strip()), f"--set {key.strip()}", text.strip()))
    return settings, problems


def parse(text: str) -> object:
    """Return `text` read as a TOML value, or unchanged where it is none (a bare word)."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A newline in the text could have smuggled in a second key.
    return tree["value"] if set(tree) == {"value"} else text


def expand(setting: Setting, sections: frozenset[Path_], leaves: frozenset[Path_]) -> list[Setting]:
    """Return `setting` split into its leaves, when it gives a table (`--set 'scan={views=60}'`)."""
    if not isinstance(setting.value, dict) or setting.path in leaves:
        return [setting]
    parts = _flatten(setting.value, setting.path, sections, leaves)
    return [Setting(path, value, setting.origin) for path, value in parts]


def _flatten(
    tree: dict[str, Any], path: Path_, sections: frozenset[Path_], leaves: frozenset[Path_]
) -> Iterator[tuple[Path_, Any]]:
    """Yield the leaves; an unknown table is opened too, so that each key in it can be named."""
    for name, value in tree.items():
        here = (*path, name)
        if isinstance(value, dict) and here not in leaves and (value or here in sections):
            yield from _flatten(value, here, sections, leaves)
        else:
            yield here, value


def _broken(path: Path, text: str, error: str) -> str:
    match = _POSITION.match(error)
    if match is None:
        return f"{path}: not valid TOML: {error}."
    last = max(len(text.splitlines()), 1)
    position = f"{match['line']}:{match['column']}" if match["line"] else f"{last}: end of file"
    line = int(match["line"] or last)
    source = (text.splitlines() or [""])[min(line, last) - 1].strip()
    return f"{path}:{position}: not valid TOML: {match['what'].rstrip('.')}; the line reads {source!r}."


def _key_lines(text: str) -> dict[Path_, int]:
    """Return the line of each key, for messages only: a multi-line string may mislead it."""
    lines: dict[Path_, int] = {}
    table: Path_ = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _split(header[1])
        elif assignment := _ASSIGNMENT.match(line):
            lines[(*table, *_split(assignment[1]))] = number
    return lines


def _split(dotted: str) -> Path_:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
