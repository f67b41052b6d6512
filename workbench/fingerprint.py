"""A hash of a value and of everything in it: what tells whether two runs are the same run."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.constant import MEMO, Constant
from operators.errors import type_error

__all__ = ["fingerprint"]

#: Attributes that count or cache and are no part of the value.
PASSING = ("_counter", "_ledger")
#: What torch keeps in each module's `__dict__` for itself: hooks and marks, and the three that hold its
#: tensors and parts, which are hashed by themselves.
OF_TORCH = frozenset({*vars(torch.nn.Module()), "_compiled_call_impl"}) - {"training"}
SCALARS = (bool, int, float, complex, str, bytes, types.NoneType, np.generic, enum.Enum)
#: What its repr tells in full.
WRITTEN = (*SCALARS, types.EllipsisType, range, np.dtype, np.ufunc, torch.dtype, torch.device, torch.layout)
#: Globals of these types are values that a function depends on; others are known by their names.
PLAIN = (*SCALARS, Tensor, np.ndarray)


@dataclass(frozen=True)
class Place:
    """Where a value was found: its path for errors, and what it lies in, so that a loop ends."""

    path: str
    above: tuple[int, ...] = ()

    def at(self, step: str) -> Place:
        """Return the place of a part."""
        return Place(self.path + step, self.above)


Parts = Iterator[bytes | memoryview]


def fingerprint(*values: object, name: str = "value") -> str:
    """Return the SHA-256 of `values`: of numbers, text, tensors, containers and the attributes of objects.

    Equal values give equal hashes in any process. What an object derives and keeps (cached properties
    and attributes that begin with `_memo_`) is left out. A function is its code, its defaults, what it
    closes over and the plain globals it reads; a module of torch is its class, attributes, tensors and
    parts, without its hooks. `name` is what an error calls the value.
    """
    places = [Place(name if len(values) == 1 else f"{name}[{i}]") for i in range(len(values))]
    digest = hashlib.sha256()
    _update(digest, [f"values:{len(values)}".encode()])
    for value, place in zip(values, places, strict=True):
        _update(digest, _parts(value, place))
    return digest.hexdigest()


def _update(digest: hashlib._Hash, parts: Iterable[bytes | memoryview]) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)


def _parts(value: Any, place: Place) -> Parts:
    if isinstance(value, WRITTEN):
        yield f"{type(value).__name__}:{value!r}".encode()
    elif isinstance(value, Constant):
        yield from _parts(value.value, place)
    elif isinstance(value, Tensor):
        yield f"tensor:{value.dtype}:{tuple(value.shape)}".encode()
        try:
            flat = value.detach().resolve_conj().resolve_neg().cpu().reshape(-1)
            # A copy: one entry counts as contiguous at any stride. Bytes: numpy lacks some of torch's dtypes.
            flat = flat.clone(memory_format=torch.contiguous_format)
            yield flat.view(torch.uint8).numpy().data
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refused(f"a tensor of {value.layout} on {value.device}", place) from error
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"array:{value.dtype}:{value.shape}".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif isinstance(value, PurePath):
        yield f"path:{value}".encode()
    elif isinstance(value, types.ModuleType):
        yield f"module:{value.__name__}".encode()
    elif isinstance(value, type):
        yield f"type:{value.__module__}.{value.__qualname__}".encode()
    elif isinstance(value, weakref.ReferenceType):
        yield from _parts(value(), place)
    elif id(value) in place.above:
        yield f"itself:{place.above.index(id(value))}".encode()
    else:
        yield f"object:{type(value).__module__}.{type(value).__qualname__}".encode()
        yield from _object_parts(value, Place(place.path, (*place.above, id(value))))


def _object_parts(value: Any, place: Place) -> Parts:
    if isinstance(value, types.FunctionType):
        yield from _function_parts(value, place)
    elif isinstance(value, (types.BuiltinFunctionType, types.MethodType)):
        yield value.__name__.encode()
        function = getattr(value, "__func__", None)
        yield from _each([("__self__", value.__self__), ("__func__", function)], place)
    elif isinstance(value, functools.partial):
        keywords = sorted(value.keywords.items())
        yield from _each([("func", value.func), ("args", value.args), ("keywords", keywords)], place)
    elif isinstance(value, torch.nn.Module):
        for inside in (value._parameters, value._buffers, value._modules):
            yield from _each(inside.items(), place)
        yield from _each(_attributes(value), place)
    elif isinstance(value, (Mapping, tuple, list, set, frozenset, np.ndarray)):
        yield from _container_parts(value, place)
        yield from _each(_attributes(value), place)
    elif hasattr(value, "__dict__") or hasattr(value, "__slots__"):
        yield from _each(_attributes(value), place)
    else:
        raise _refused(type(value).__name__, place)


def _container_parts(value: Any, place: Place) -> Parts:
    yield f"length:{len(value)}".encode()
    if isinstance(value, (set, frozenset)):
        digests = []
        for item in value:
            one = hashlib.sha256()
            _update(one, _parts(item, place.at("{...}")))
            digests.append(one.digest())
        yield from sorted(digests)  # a set has no order
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(key, place.at(f".key {key!r}"))
            yield from _parts(item, place.at(f"[{key!r}]"))
    else:
        for i, item in enumerate(value):
            yield from _parts(item, place.at(f"[{i}]"))


def _function_parts(value: types.FunctionType, place: Place) -> Parts:
    code = value.__code__
    yield f"{value.__module__}.{value.__qualname__}".encode()
    yield from _code_parts(code, place)
    yield from _parts((value.__defaults__, sorted((value.__kwdefaults__ or {}).items())), place)
    held = {name: cell for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True)}
    # The cell of a name that is not bound yet is empty; it has no contents to compare either.
    full = [(name, cell.cell_contents) for name, cell in held.items() if cell != types.CellType()]
    yield from _each(full, place)
    read = ((name, value.__globals__.get(name, place)) for name in sorted(_globals_of(code)))
    yield from _each([(name, item) for name, item in read if isinstance(item, PLAIN)], place)


def _code_parts(code: types.CodeType, place: Place) -> Parts:
    yield code.co_code
    yield code.co_exceptiontable
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    yield from _parts((code.co_name, counts, code.co_names, code.co_varnames), place)
    for constant in code.co_consts:
        nested = isinstance(constant, types.CodeType)
        yield from _code_parts(constant, place) if nested else _parts(constant, place)


def _globals_of(code: types.CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_globals_of(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """Return names and values of what an object holds and has not derived, sorted."""
    slots, cached = _declared(type(value))
    names = {*getattr(value, "__dict__", ()), *(name for name in slots if hasattr(value, name))} - cached
    names -= OF_TORCH if isinstance(value, torch.nn.Module) else set()
    kept = sorted(name for name in names if not name.startswith(MEMO) and name not in PASSING)
    return [(name, getattr(value, name)) for name in kept]


_DECLARED: weakref.WeakKeyDictionary[type, tuple[set[str], set[str]]] = weakref.WeakKeyDictionary()


def _declared(kind: type) -> tuple[set[str], set[str]]:
    """Return the slots and the cached properties of a class, found once: a network has a thousand parts."""
    if kind not in _DECLARED:
        # A slot is a descriptor of the class that declares it, under its mangled name.
        found = {name: item for base in kind.__mro__ for name, item in vars(base).items()}
        slots = {name for name, item in found.items() if isinstance(item, types.MemberDescriptorType)}
        cached = {name for name, item in found.items() if isinstance(item, functools.cached_property)}
        _DECLARED[kind] = slots, cached
    return _DECLARED[kind]


def _each(items: Iterable[tuple[str, Any]], place: Place) -> Parts:
    listed = list(items)
    yield f"items:{len(listed)}".encode()
    for name, item in listed:
        yield name.encode()
        yield from _parts(item, place.at(f".{name}"))


def _refused(got: str, place: Place) -> TypeError:
    remedy = "Keep tensors, numbers, text, containers or objects of such in it."
    return type_error(place.path, "be made of what can be hashed", got, remedy)
