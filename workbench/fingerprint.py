"""A hash of a value and of everything in it: what tells whether two runs are the same run."""

from __future__ import annotations

import enum
import hashlib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.constant import MEMO, Constant
from operators.errors import type_error

__all__ = ["fingerprint"]

#: Attributes that count or cache and are no part of the value.
PASSING = ("_counter", "_ledger")


def fingerprint(*values: object) -> str:
    """Return the SHA-256 of `values`: of numbers, text, tensors, containers and the attributes of objects.

    Equal values give equal hashes in any process. What an object derives and keeps (attributes that
    begin with `_memo_`) is left out.
    """
    digest = hashlib.sha256()
    for part in _parts(values, ()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any, above: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield f"{type(value).__name__}:{value!r}".encode()
    elif isinstance(value, Constant):
        yield from _parts(value.value, above)
    elif isinstance(value, Tensor):
        array = value.detach().resolve_conj().resolve_neg().cpu().contiguous().numpy()
        yield from _parts(array, above)
    elif isinstance(value, np.ndarray):
        yield f"array:{value.dtype}:{value.shape}".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif isinstance(value, (np.generic, enum.Enum, torch.dtype, torch.device)):
        yield f"{type(value).__name__}:{value!r}".encode()
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}".encode()
    elif isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
        yield from _function_parts(value, above)
    elif id(value) in above:
        yield b"itself"
    else:
        yield from _object_parts(value, (*above, id(value)))


def _object_parts(value: Any, above: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
    if isinstance(value, Mapping):
        yield from _each(((repr(key), item) for key, item in value.items()), above)
    elif isinstance(value, (tuple, list)):
        yield from _each(((str(i), item) for i, item in enumerate(value)), above)
    elif isinstance(value, (set, frozenset)):
        yield from _each(((repr(item), item) for item in sorted(value, key=repr)), above)
    elif isinstance(value, types.MethodType):
        yield from _parts((value.__self__, value.__func__), above)
    elif isinstance(value, torch.nn.Module):
        yield from _parts((value.training, dict(value.state_dict())), above)
    elif hasattr(value, "__dict__") or hasattr(value, "__slots__"):
        names = [*vars(value)] if hasattr(value, "__dict__") else [*value.__slots__]
        kept = sorted(n for n in names if not n.startswith(MEMO) and n not in PASSING)
        yield from _each(((name, getattr(value, name)) for name in kept), above)
    else:
        remedy = "Keep tensors, numbers, text, containers or objects of such in it."
        raise type_error("value", "be made of what can be hashed", type(value).__name__, remedy)


def _function_parts(value: Any, above: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    yield f"{value.__module__}.{value.__qualname__}".encode()
    code = getattr(value, "__code__", None)
    if code is not None:
        yield code.co_code
        yield from _parts([c for c in code.co_consts if not isinstance(c, types.CodeType)], above)
        yield from _parts([cell.cell_contents for cell in value.__closure__ or ()], above)


def _each(items: Iterable[tuple[str, Any]], above: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    for name, item in items:
        yield name.encode()
        yield from _parts(item, above)
    yield b"end"
