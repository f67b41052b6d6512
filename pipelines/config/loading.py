"""Typed configuration: defaults < TOML file < environment < `--set`, and every mistake in one report.

    config = load(DemoConfig, "demo.toml", overrides=["scan.views=60"])

A model is a subclass of `Config`; its nested models are the tables of the file.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pipelines.config.nearest import nearest
from pipelines.config.sources import Setting, expand, from_environment, from_file, from_overrides
from pipelines.config.toml import default_text, expectation, section, to_toml, toml_key, toml_value

try:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
    from pydantic.fields import FieldInfo
except ModuleNotFoundError:
    from operators.extras import require

    require("pydantic", feature="The typed configuration", extra="cli")
    raise

__all__ = [
    "Config",
    "ConfigError",
    "Field",
    "config_hash",
    "config_schema",
    "field_validator",
    "load",
    "model_validator",
    "to_toml",
]

M = TypeVar("M", bound=BaseModel)


class Config(BaseModel):
    """Base of the configuration models: immutable, finite numbers, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` holds one sentence for each mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        """Return the one problem, or all of them as a list."""
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n  - ".join([f"{len(self.problems)} problems in the configuration:", *self.problems])


def load(
    model: type[M],
    path: str | os.PathLike[str] | None = None,
    *,
    env: Mapping[str, str] = os.environ,
    overrides: Sequence[str] = (),
) -> M:
    """Return `model` with defaults < file < environment < overrides applied.

    Parameters
    ----------
    model
        The pydantic model to fill; its field names are the keys.
    path
        A TOML file, or None for the defaults.
    env
        Environment; `WORKBENCH_SCAN__VIEWS=60` sets `scan.views`.
    overrides
        `--set` arguments: `scan.views=60`. Values are TOML, or bare words.

    Raises
    ------
    ConfigError
        With all problems found: unknown keys, wrong values, a broken or missing file.
    """
    fields = _fields(model)
    sections = frozenset(key for key, field in fields.items() if section(field.annotation))
    leaves = frozenset(fields) - sections
    settings, problems = from_overrides(overrides)
    settings = from_environment(env) + settings
    unread = False
    if path is not None:
        read = from_file(Path(path), sections, leaves)
        unread = isinstance(read, str)
        if isinstance(read, str):
            problems.insert(0, read)
        else:
            settings = read + settings
    chosen: dict[tuple[str, ...], Setting] = {}
    for setting in (part for whole in settings for part in expand(whole, sections, leaves)):
        if setting.path in leaves:
            chosen[setting.path] = setting
        elif setting.path in sections:
            problems.append(_not_a_table(setting, fields))
        else:
            problems.append(_unknown(setting, fields, leaves))
    loaded = _validate(model, chosen, fields, complete=not unread)
    if isinstance(loaded, list):
        raise ConfigError(problems + loaded)
    if problems:
        raise ConfigError(problems)
    return loaded


def config_hash(model: BaseModel) -> str:
    """Return the SHA-256 of the values: equal for equal configurations, however they were written."""
    values = model.model_dump(mode="json")
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def config_schema(model: type[BaseModel]) -> str:
    """Return the JSON Schema of `model`, which editors use to complete and check TOML files."""
    return json.dumps(model.model_json_schema(), indent=2)


def _fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], FieldInfo]:
    """Return all fields of the tree, sections and leaves, by path."""
    found: dict[tuple[str, ...], FieldInfo] = {}
    for name, field in model.model_fields.items():
        here = (*path, name)
        found[here] = field
        if nested := section(field.annotation):
            found |= _fields(nested, here)
    return found


def _unknown(
    setting: Setting, fields: Mapping[tuple[str, ...], FieldInfo], leaves: frozenset[tuple[str, ...]]
) -> str:
    # Quoted, "scan.views" is one name with a dot in it: shown as such.
    key = ".".join(toml_key(part) for part in setting.path)
    meant = nearest(key, [".".join(leaf) for leaf in fields if leaf in leaves])
    if meant:
        hint = f"did you mean `{meant}`?"
    else:
        parent = setting.path[:-1] if setting.path[:-1] in fields else ()
        siblings = [".".join(path) for path in fields if path[:-1] == parent]
        hint = f"known here: {', '.join(siblings)}."
    return f"`{key}` is not a known key ({setting.origin}); {hint}"


def _not_a_table(setting: Setting, fields: Mapping[tuple[str, ...], FieldInfo]) -> str:
    keys = ", ".join(".".join(path) for path in fields if path[:-1] == setting.path)
    return (
        f"`{'.'.join(setting.path)}` must be a table, got {_show(setting.value)} ({setting.origin}). "
        f"Set one of {keys}."
    )


def _validate(
    model: type[M],
    chosen: Mapping[tuple[str, ...], Setting],
    fields: Mapping[tuple[str, ...], FieldInfo],
    *,
    complete: bool,
) -> M | list[str]:
    """Return the model, or what is wrong; of settings that are not complete nothing is missing."""
    tree = _tree({path: setting.value for path, setting in chosen.items()})
    try:
        return _build(model, tree)
    except ValidationError as error:
        first = error
    # `--set name=60` reads as a number; where a string is wanted, what was typed is the string.
    typed = {path: setting.value for path, setting in chosen.items()}
    for problem in first.errors():
        setting = chosen.get(_names(problem["loc"]))
        if setting and setting.text is not None and problem["type"] in ("string_type", "path_type"):
            typed[setting.path] = setting.text
    try:
        return _build(model, _tree(typed))
    except ValidationError as error:
        found = [one for one in error.errors() if complete or one["type"] != "missing"]
        return list(dict.fromkeys(_explain(problem, chosen, fields) for problem in found))


def _build(model: type[M], tree: dict[str, Any]) -> M:
    # By way of JSON, as pydantic's strict mode takes a list for a tuple and a string for a path only there.
    return model.model_validate_json(json.dumps(tree, default=_plain), strict=True)


def _plain(value: object) -> str:
    """Return a TOML date or time as JSON writes it."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise TypeError(f"`value` must be a TOML value, got {type(value).__name__}.")


def _tree(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path, value in values.items():
        table = root
        for name in path[:-1]:
            table = table.setdefault(name, {})
        table[path[-1]] = value
    return root


def _names(location: Sequence[int | str]) -> tuple[str, ...]:
    return tuple(part for part in location if isinstance(part, str))


def _explain(
    problem: Mapping[str, Any],
    chosen: Mapping[tuple[str, ...], Setting],
    fields: Mapping[tuple[str, ...], FieldInfo],
) -> str:
    """Return one validation problem in the house form: key, expectation, value, origin, remedy."""
    location = tuple(problem["loc"])
    path: tuple[str, ...] = ()
    for part in location:
        if not isinstance(part, str) or (*path, part) not in fields:
            break
        path = (*path, part)
    key, field, setting = ".".join(path) or "the configuration", fields.get(path), chosen.get(path)
    if setting is not None and field is not None:
        within = _in_entry(problem, key, field, setting)
        if within is not None:
            return within
    if setting is None and problem["type"] == "missing":
        return f"`{key}` has no default and must be set, in the file or with --set {key}=VALUE."
    message = str(problem["msg"])
    wanted = expectation(field) if field and problem["type"] != "value_error" else None
    if wanted:
        text = f"`{key}` must be {wanted}"
    elif message.startswith("Input should "):
        text = f"`{key}` must {message.removeprefix('Input should ')}"
    else:
        text = f"`{key}`: {message.removeprefix('Value error, ')}"
    if setting is not None:
        text += f", got {_show(setting.value)} ({setting.origin})"
    default = default_text(field) if field else None
    return f"{text}." + (f" The default is {default}." if default and setting else "")


def _in_entry(problem: Mapping[str, Any], key: str, field: FieldInfo, setting: Setting) -> str | None:
    """Return a problem within a table of a list of tables: which of them, and what of it; None elsewhere."""
    model = next((arg for arg in get_args(field.annotation) if section(arg)), None)
    rest = problem["loc"][len(key.split(".")) :]
    if model is None or len(rest) < 2 or not isinstance(rest[0], int) or problem["type"] == "value_error":
        return None
    number, name = rest[0], str(rest[1])
    table = setting.value[number]
    value = table.get(name) if isinstance(table, Mapping) else None
    called = f" ({table['name']})" if isinstance(table, Mapping) and "name" in table else ""
    whole, known = f"{key}[{number}].{name}", list(model.model_fields)
    origin = f"{called} ({setting.origin})"
    if problem["type"] == "extra_forbidden":
        meant = nearest(name, known)
        hint = f"did you mean `{meant}`?" if meant else f"known here: {', '.join(known)}."
        return f"`{whole}` is not a known key{origin}; {hint}"
    if problem["type"] == "missing" and len(rest) == 2:
        return f"`{whole}` has no default and must be set{origin}."
    wanted = expectation(model.model_fields[name])
    message = str(problem["msg"]).removeprefix("Input should ").removeprefix("String should ")
    plain = problem["type"] == "string_pattern_mismatch" or not wanted
    return f"`{whole}` must {message if plain else f'be {wanted}'}, got {_show(value)}{origin}."


def _show(value: object) -> str:
    try:
        return toml_value(value)
    except TypeError:
        return repr(value)
