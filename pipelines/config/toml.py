"""Configuration values as TOML text, and what a field accepts as words."""

from __future__ import annotations

import datetime
import enum
import json
import math
import re
import textwrap
import types
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

COMMENT_WIDTH = 100
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_NOUNS: Mapping[object, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
}
_BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


def toml_value(value: object) -> str:
    """Return `value` as a TOML expression; TypeError for what TOML has no form for (such as None)."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        # Python writes 'inf' and 'nan' as TOML does.
        return repr(float(value))
    if isinstance(value, str):
        # A TOML basic string escapes as JSON does, and DEL besides.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        pairs = (f"{toml_key(str(k))} = {toml_value(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"`value` must have a TOML form, got {value!r} ({type(value).__name__}).")


def to_toml(model: BaseModel) -> str:
    """Return every value of `model` as TOML, commented with description, accepted values and default.

    Loading the text gives an equal model. A field that is None is written as a comment, as TOML has no null.
    """
    lines = [f"# {line}" for line in _summary(type(model))]
    _write_table(model, model.model_dump(mode="json"), (), lines)
    return "\n".join(lines).strip() + "\n"


def expectation(field: FieldInfo) -> str | None:
    """Return what `field` accepts ("an integer >= 1"), or None where words fail."""
    return _expects(field.annotation, field.metadata)


def section(annotation: object) -> type[BaseModel] | None:
    """Return the model behind a field that is a table of its own (also when optional), else None."""
    candidates = [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        candidates = [part for part in get_args(annotation) if part is not type(None)]
    if len(candidates) == 1 and isinstance(candidates[0], type) and hasattr(candidates[0], "model_fields"):
        return candidates[0]
    return None


def default_text(field: FieldInfo) -> str | None:
    """Return the default of a plain field as TOML, or None where it has none to show."""
    if field.is_required():
        return None
    try:
        return toml_value(field.get_default(call_default_factory=False))
    except TypeError:
        return None


def _write_table(model: BaseModel, values: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    tables: list[tuple[str, BaseModel]] = []
    for name, field in type(model).model_fields.items():
        child = getattr(model, name)
        # TOML gives every key after a [table] header to that table, so the tables come last.
        if section(field.annotation) and child is not None:
            tables.append((name, child))
            continue
        lines += ["", *_comment(field)]
        value = values[name]
        text = (
            f"# {toml_key(name)} = (not set)" if value is None else f"{toml_key(name)} = {toml_value(value)}"
        )
        lines.append(text)
    for name, child in tables:
        here = (*path, name)
        about = type(model).model_fields[name].description
        lines += ["", *_wrap(about)] if about else ["", *(f"# {line}" for line in _summary(type(child)))]
        lines.append("[" + ".".join(toml_key(part) for part in here) + "]")
        before = len(lines)
        _write_table(child, values[name], here, lines)
        if lines[before : before + 1] == [""]:
            del lines[before]


def _comment(field: FieldInfo) -> list[str]:
    accepted, default = expectation(field), default_text(field)
    parts = [(field.description or "").rstrip(".")]
    if accepted:
        parts.append(accepted[0].upper() + accepted[1:] if not parts[0] else accepted)
    if default is not None:
        parts.append(f"default {default}")
    return _wrap("; ".join(part for part in parts if part))


def _wrap(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, COMMENT_WIDTH, break_long_words=False)]


def _summary(model: type[BaseModel]) -> list[str]:
    return (model.__doc__ or "").strip().splitlines()[:1]


def toml_key(name: str) -> str:
    """Return one part of a key, in quotes where TOML wants them."""
    return name if _BARE_KEY.fullmatch(name) else toml_value(name)


def _expects(annotation: object, metadata: Sequence[Any]) -> str | None:
    annotation, metadata = _unwrap(annotation, metadata)
    if get_origin(annotation) in (Union, types.UnionType):
        # TOML has no null: an optional key is either left out or holds the one other type.
        given = [part for part in get_args(annotation) if part is not type(None)]
        return _expects(given[0], metadata) if len(given) == 1 else None
    bounds = _bounds(metadata)
    if annotation in _NOUNS:
        return _NOUNS[annotation][0] + bounds
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(toml_value(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        items = get_args(annotation)
        element, inner = _unwrap(items[0], ())
        if Ellipsis not in items and len(set(items)) == 1 and element in _NOUNS:
            return f"{len(items)} {_NOUNS[element][1]}{_bounds(inner)}"
    return None


def _unwrap(annotation: object, metadata: Sequence[Any]) -> tuple[object, Sequence[Any]]:
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        return inner, [*metadata, *extra]
    return annotation, metadata


def _bounds(metadata: Sequence[Any]) -> str:
    """Return the limits of a number; a Field() nested in Annotated keeps its own in `.metadata`."""
    items = [item for entry in metadata for item in (entry, *getattr(entry, "metadata", ()))]
    found = []
    for name, sign in _BOUNDS:
        limit = next((getattr(item, name) for item in items if hasattr(item, name)), None)
        if limit is not None and not (isinstance(limit, float) and math.isinf(limit)):
            found.append(f" {sign} {limit:g}" if isinstance(limit, float) else f" {sign} {limit}")
    return " and".join(found)
