"""The tensors of a file put into a module: all of them, under the same names and in the same shapes, or none.

Floating weights may be stored in any precision; the module keeps its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from operators.checks import all_finite
from operators.errors import type_error, value_error
from workbench.io.tensor_file import DTYPES, TensorFile

__all__ = ["beginnings", "check_fits", "fill", "is_finite", "state_of"]

#: So many names are listed in an error.
LISTED = 4


def state_of(module: object) -> dict[str, Tensor]:
    """Return the state dict of a module, of tensors only."""
    if not isinstance(module, nn.Module):
        raise type_error("module", "be a torch.nn.Module", type(module).__name__)
    state: dict[str, Any] = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            remedy = "What get_extra_state() returns is no tensor; keep such in the card."
            raise type_error(f"module.{name}", "be a tensor", type(value).__name__, remedy)
    return state


def check_fits(file: TensorFile, module: nn.Module) -> None:
    """Raise unless the file holds the tensors of the module by names, shapes and kinds; none is read."""
    state = state_of(module)
    _check_names(set(file.shapes), set(state), file.path)
    for name, tensor in state.items():
        shape, kind = file.shapes[name], DTYPES[file.dtypes[name]]
        if shape != tuple(tensor.shape):
            found = f"{file.path}: {name} of shape {shape}, where the module has {tuple(tensor.shape)}"
            remedy = "It is another network, or the same with other settings, such as its channels."
            raise value_error("path", "hold tensors of the module's shapes", found, remedy)
        if kind != tensor.dtype and not (kind.is_floating_point and tensor.is_floating_point()):
            found = f"{file.path}: {name} of {kind}, where the module has {tensor.dtype}"
            raise value_error("path", "hold tensors of the module's kinds", found)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path, *, built: bool = False) -> None:
    """Copy tensors that fit into the module.

    One that was just `built` has no precision of its own yet: double where there are such weights, else
    single; what of it has shapes only gets its memory on the CPU.
    """
    bad = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if bad:
        raise value_error("path", "hold finite weights", f"{source}, with NaN or infinity in {_listed(bad)}")
    if built:
        if any(tensor.is_meta for tensor in module.state_dict().values()):
            module.to_empty(device="cpu")
        module.to(torch.float64 if any(t.dtype == torch.float64 for t in tensors.values()) else torch.float32)
    module.load_state_dict(dict(tensors), strict=True)


def is_finite(tensor: Tensor) -> bool:
    """Tell whether all entries are finite, in any of the precisions of weights."""
    return not tensor.is_floating_point() or tensor.numel() == 0 or all_finite(tensor)


def beginnings(names: Iterable[str]) -> str:
    """Return the first parts of names as text, the most frequent first."""
    counts = Counter(name.partition(".")[0] + "." if "." in name else name for name in names)
    return ", ".join(f"{begin!r} ({count})" for begin, count in counts.most_common(LISTED)) or "nothing"


def _check_names(names: set[str], wanted: set[str], source: Path) -> None:
    if names == wanted:
        return
    parts = (("lack", sorted(wanted - names)), ("have besides", sorted(names - wanted)))
    said = " and ".join(f"{verb} {_listed(those)}" for verb, those in parts if those)
    remedy = "It is another network, or the same with other settings."
    if not names & wanted:
        remedy = (
            f"The names in the file begin with {beginnings(names)}, those of the module with "
            f"{beginnings(wanted)}: load_weights(path, module, prefix=...) takes a beginning off."
        )
    raise value_error("path", "hold the tensors of the module", f"{source}, whose names {said}", remedy)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
