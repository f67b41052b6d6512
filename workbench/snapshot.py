"""A solver's state as JSON-able facts and tensors, and back: what a checkpoint holds.

Nothing is pickled. A class is restored only if the solver declares it as its state or as the type
of a field of its state.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from operators.errors import type_error, value_error

__all__ = ["check_keepable", "pack", "unpack"]


def pack(value: object, prefix: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Return the skeleton of `value`, JSON-able, and its tensors by path."""
    tensors: dict[str, Tensor] = {}
    return _packed(value, prefix, tensors), tensors


def unpack(skeleton: Any, tensors: Mapping[str, Tensor], state_type: type[Any]) -> Any:
    """Return the value that `pack` took apart; `state_type` is its class or holds those it is made of."""
    return _unpacked(skeleton, tensors, _classes(state_type))


def check_keepable(value: object, state_type: type[Any], what: str) -> None:
    """Raise unless a checkpoint gives `value`, which is `what`, back as it was."""
    skeleton, tensors = pack(value)
    try:
        same = pack(unpack(skeleton, tensors, state_type))[0] == skeleton
    except (LookupError, NameError, TypeError, ValueError) as error:
        remedy = "Its classes stand in the annotations of its state_type and take all their fields."
        raise type_error(what, "be something a checkpoint can restore", error, remedy) from error
    if not same:
        raise type_error(what, "be something a checkpoint can restore", "another after a restore")


def _packed(value: object, path: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        items = [_packed(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
        return {type(value).__name__: items}
    if isinstance(value, dict) and type(value) is dict:
        if not all(isinstance(key, str) for key in value):
            raise type_error(path, "have keys that are text", [*value])
        return {"dict": {key: _packed(item, f"{path}[{key!r}]", tensors) for key, item in value.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value)]
        kept = {name: _packed(getattr(value, name), f"{path}.{name}", tensors) for name in names}
        return {"class": _name(type(value)), "fields": kept}
    remedy = "A state is made of tensors, numbers, text, tuples, dicts and dataclasses of such."
    raise type_error(path, "be something a checkpoint can hold", type(value).__name__, remedy)


def _unpacked(skeleton: Any, tensors: Mapping[str, Tensor], classes: Mapping[str, type[Any]]) -> Any:
    if "value" in skeleton:
        return skeleton["value"]
    if "tensor" in skeleton:
        return tensors[skeleton["tensor"]]
    if "tuple" in skeleton or "list" in skeleton:
        kind = tuple if "tuple" in skeleton else list
        return kind(_unpacked(item, tensors, classes) for item in skeleton[kind.__name__])
    if "dict" in skeleton:
        return {key: _unpacked(item, tensors, classes) for key, item in skeleton["dict"].items()}
    name = skeleton.get("class")
    if name not in classes:
        raise value_error("checkpoint", f"hold states made of {', '.join(sorted(classes))}", name)
    fields = skeleton["fields"]
    return classes[name](**{key: _unpacked(item, tensors, classes) for key, item in fields.items()})


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _classes(kind: Any) -> dict[str, type[Any]]:
    """Return the dataclasses that `kind` is made of, by name."""
    found: dict[str, type[Any]] = {}
    waiting = [kind]
    while waiting:
        each = waiting.pop()
        waiting += typing.get_args(each)
        if isinstance(each, type) and dataclasses.is_dataclass(each) and _name(each) not in found:
            found[_name(each)] = each
            waiting += typing.get_type_hints(each).values()
    return found
