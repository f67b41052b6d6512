"""Named tensors in one safetensors file: a header in JSON, then bytes. Nothing in one can be run.

A pickle (.pt, .pth, .pkl, .ckpt, .bin) is a program that builds its objects, and who reads one runs it: such
files are refused unread, whatever their name. The hash of tensors goes by names, dtypes, shapes and bytes, in
the order of the names:

    SHA-256 of  length, name, length, dtype, length, shape, length, bytes, ...
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from operators.errors import NonFiniteError, describe, type_error, value_error
from operators.extras import require
from workbench.io.checks import checked_path
from workbench.io.whole import sync, written_whole

__all__ = ["TensorFile", "check_weight", "open_tensors", "sha256_of", "write_tensors"]

SUFFIX = ".safetensors"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".tar", ".joblib")
#: The largest header that is looked at: about 100 000 names.
HEADER_LIMIT = 2**24
#: What a weight can be; the rest of what safetensors knows is packed or has no arithmetic.
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
#: How the library ends what the system said.
OS_ERROR = re.compile(r"\(os error (\d+)\)")
CONVERT = (
    "Where you trust the file: safetensors.torch.save_file(torch.load(file, weights_only=True), "
    "'weights.safetensors'), with the state dict taken out first if it lies deeper."
)


@dataclass(frozen=True)
class TensorFile:
    """What the header of a file says; no tensor has been read."""

    path: Path
    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    #: Of tensors that go by another name in the file: that name.
    stored: Mapping[str, str] = field(default_factory=dict)

    def named(self, names: Mapping[str, str]) -> TensorFile:
        """Return the tensors `names[new]` of the file, and no other, under the names `new`."""
        return TensorFile(
            self.path,
            self.metadata,
            {new: self.shapes[old] for new, old in names.items()},
            {new: self.dtypes[old] for new, old in names.items()},
            {new: self.stored.get(old, old) for new, old in names.items()},
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors, as they are stored; they may be read lazily from the file."""
        with _opened(self.path) as file:
            return {name: file.get_tensor(self.stored.get(name, name)) for name in sorted(self.shapes)}


def open_tensors(path: str | Path) -> TensorFile:
    """Return the header of a safetensors file, or say what else the file is."""
    source = checked_path(path)
    _check_suffix(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist.")
    if not source.is_file():
        raise value_error("path", "be a file", f"{source}, which is none")
    _check_start(source)
    with _opened(source) as file:
        names = list(file.keys())
        slices = {name: file.get_slice(name) for name in names}
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        dtypes = {name: str(part.get_dtype()) for name, part in slices.items()}
        metadata = dict(file.metadata() or {})
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise value_error("path", f"hold tensors of {', '.join(DTYPES)}", f"{source}: {name} is {dtype}")
    return TensorFile(source, metadata, shapes, dtypes)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = False
) -> Path:
    """Write `tensors` to `path`, which ends in .safetensors, and return it.

    It appears under its name only once it is whole. Views are written as what they show, and what two names
    share is written under both. A file that is there is replaced only if `overwrite` says so.
    """
    target = checked_path(path)
    _check_suffix(target)
    if target.is_dir():
        raise value_error("path", "be a file", f"the folder {target}")
    if target.exists() and not overwrite:
        raise value_error(
            "path", "be new", f"{target}, which is there", "Choose another name, or overwrite=True."
        )
    if sum(map(len, metadata.values())) > HEADER_LIMIT // 2:
        raise value_error("metadata", f"be shorter than {HEADER_LIMIT // 2} letters", "more")
    weights = {name: check_weight(tensor, name) for name, tensor in tensors.items()}
    compact = {name: weight.to("cpu", copy=True).contiguous() for name, weight in weights.items()}
    library = _library("Writing weights")
    with written_whole(target) as partial:
        # The library makes files that only their owner may read; a new file here is as any other.
        partial.touch()
        mode = partial.stat().st_mode
        try:
            library.torch.save_file(compact, str(partial), metadata={"format": "pt", **metadata})
        except library.SafetensorError as error:
            raise _of_the_system(error) from error
        partial.chmod(mode)
    sync(target.resolve().parent)
    return target


def check_weight(tensor: object, name: str) -> Tensor:
    """Return `tensor` if it can be written, or say why not."""
    if not isinstance(tensor, Tensor):
        raise type_error(name, "be a tensor", type(tensor).__name__, "Keep it in the card, or leave it out.")
    if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in NAMES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in NAMES)
        got = f"a meta tensor ({tensor.dtype})" if tensor.is_meta else f"{tensor.layout} of {tensor.dtype}"
        raise type_error(name, f"hold dense values of {known}", got, "Complex weights are two real ones.")
    bad = int((~torch.isfinite(tensor.detach())).sum())
    if bad:
        found = f"{bad} NaN or infinite of {tensor.numel()}"
        remedy = "Such a network gives NaN; find the step of its training after which they appeared."
        raise NonFiniteError(describe(name, "hold finite weights", found, remedy))
    return tensor.detach()


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the hash of tensors on the CPU, as text; their order in the mapping is of no matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        # One entry counts as contiguous at any stride.
        flat = tensor.reshape(-1).clone() if tensor.numel() == 1 else tensor.reshape(-1)
        shape = ",".join(str(n) for n in tensor.shape)
        for text in (name, NAMES[tensor.dtype], shape):
            _update(digest, text.encode())
        _update(digest, flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def _update(digest: hashlib._Hash, part: bytes | memoryview) -> None:
    digest.update(len(part).to_bytes(8, "little"))
    digest.update(part)


def _check_suffix(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise value_error(
            "path", f"end in {SUFFIX}: a pickle runs whatever code is in it", str(path), CONVERT
        )
    if suffix != SUFFIX:
        raise value_error("path", f"end in {SUFFIX}", str(path))


def _check_start(source: Path) -> None:
    """Refuse what is no safetensors file by its first bytes, before anything of its size is done."""
    size = source.stat().st_size
    with source.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) == 9 and start[8:] == b"{" and length <= min(size - 8, HEADER_LIMIT):
        return
    remedy = "Copy or download it again; compare its size and its hash with the source's."
    if start[:4] == b"PK\x03\x04":
        found, remedy = "a zip archive, such as torch.save writes: a pickle", CONVERT
    elif start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        found, remedy = "a pickle", CONVERT
    elif size < 9:
        found = f"a file of {size} bytes"
    elif start[8:] != b"{":
        found = f"another kind of file: it begins with {start!r}"
    elif length > HEADER_LIMIT:
        found = f"a header of {length} bytes, more than {HEADER_LIMIT}"
    else:
        found = f"a header of {length} bytes in a file of {size}: a part of it"
    raise value_error("path", "be a whole safetensors file", f"{source}, {found}", remedy)


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    """Yield the library's reader, its errors in the house form."""
    library = _library("Reading weights")
    try:
        with library.safe_open(str(source), framework="pt", device="cpu") as file:
            yield file
    except library.SafetensorError as error:
        remedy = "Copy or download it again; compare its size and its hash with the source's."
        raise value_error("path", "be a whole safetensors file", f"{source}: {error}", remedy) from error


def _of_the_system(error: Exception) -> Exception:
    """Return the error of the system, such as a full disk, that the library gives as text alone."""
    found = OS_ERROR.search(str(error))
    return error if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def _library(feature: str) -> ModuleType:
    require("safetensors.torch", feature=feature, extra="io")
    return require("safetensors", feature=feature, extra="io")
