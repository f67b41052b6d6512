"""Networks on disk: one safetensors file, the tensors and, in its metadata, the card.

    write_network("prior.safetensors", module, card, dtype=torch.float16)
    prior = read_network("prior.safetensors", Space.field(grid))

The card says how the network is built, called and read (workbench.priors.network.card); `read_card` reads
nothing else. What is read is what was written: the card has the hash of the tensors and lies beside its own.
Weights may be stored in half precision; they are computed with in single precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from operators.errors import type_error, value_error
from operators.space import Space
from workbench.io.module_state import beginnings, check_fits, fill, is_finite, state_of
from workbench.io.tensor_file import TensorFile, check_weight, open_tensors, sha256_of, write_tensors
from workbench.priors.network.architecture import Architecture
from workbench.priors.network.card import Card
from workbench.priors.network.execution import Execution
from workbench.priors.network.policy import SizePolicy
from workbench.priors.network.prior import NetworkPrior
from workbench.units import Units

__all__ = ["load_weights", "read_card", "read_network", "write_network"]

#: Where the card is in the metadata, and the SHA-256 of its text.
KEY = "workbench.card"
HASH = "workbench.card.sha256"
#: What weights may be stored as.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def write_network(
    path: str | Path,
    module: nn.Module,
    card: Card,
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the weights of `module` and their card to `path`, which ends in .safetensors, and return it.

    Parameters
    ----------
    path
        A new file, or one that is there if `overwrite`; it appears under its name only once it is whole.
    module
        The network; its parameters and persistent buffers are written.
    card
        What is said of it; the hash and the dtype of the tensors are put in here.
    dtype
        What floating weights are stored as, None: as they are. float16 halves the file and keeps weights to
        about 5e-4 of themselves.
    overwrite
        Whether a file that is there is replaced.
    """
    if not isinstance(card, Card):
        raise type_error(
            "card", "be a Card", type(card).__name__, "Card(Architecture.of(module), output, ...)."
        )
    state = state_of(module)
    _check_described(module, state, card)
    stored = {name: _rounded(tensor, name, dtype) for name, tensor in state.items()}
    floats = {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()}
    kinds = [str(kind).removeprefix("torch.") for kind in floats]
    full = card.with_(
        sha256=sha256_of({name: tensor.cpu() for name, tensor in stored.items()}),
        dtype=kinds[0] if len(kinds) == 1 else "mixed",
    )
    text = full.text()
    return write_tensors(path, stored, {KEY: text, HASH: sha256_of_text(text)}, overwrite=overwrite)


def read_card(path: str | Path) -> Card:
    """Return the card of a file of weights; no tensor is read and no network built."""
    return _card_of(open_tensors(path))


def read_network(
    path: str | Path,
    space: Space,
    *,
    module: nn.Module | None = None,
    policy: SizePolicy | None = None,
    execution: Execution | None = None,
    units: Units | None = None,
) -> NetworkPrior:
    """Return the prior over `space` that a file of weights and its card make.

    Parameters
    ----------
    path
        A file of `write_network`.
    space
        What the prior is over.
    module
        The network where the card names one that cannot be built from it; its weights are overwritten.
    policy, execution, units
        As in `NetworkPrior`: another size or spacing, how it is run, what u means.
    """
    Space.require(space, "space")
    file = open_tensors(path)
    card = _card_of(file)
    network = card.architecture.build() if module is None else module
    check_fits(file, network)
    tensors = file.tensors()
    found = sha256_of(tensors)
    if found != card.sha256:
        remedy = "Copy or download the file again: its tensors are not those that were written."
        raise value_error("path", f"hold tensors of SHA-256 {card.sha256}", f"{file.path}: {found}", remedy)
    fill(network, tensors, file.path, built=module is None)
    return NetworkPrior(
        network,
        space,
        card.output,
        training=card.training,
        calling=card.calling,
        policy=policy,
        execution=execution,
        units=units,
    )


def load_weights(path: str | Path, module: nn.Module, *, prefix: str = "") -> nn.Module:
    """Fill `module` from a safetensors file without a card, and return it; its old weights are overwritten.

    Parameters
    ----------
    path
        A file of tensors named as in `module.state_dict()`.
    module
        A network of one's own; every one of its tensors must be there in its shape, and no other.
    prefix
        What the names in the file begin with, such as "model.", and the module's do not; what does not
        begin with it is left alone.
    """
    if not isinstance(prefix, str):
        raise type_error("prefix", "be text, empty for none", repr(prefix))
    file = open_tensors(path)
    names = {name.removeprefix(prefix): name for name in file.shapes if name.startswith(prefix)}
    if not names:
        remedy = f"The names begin with {beginnings(file.shapes)}."
        raise value_error("prefix", f"begin names in {file.path}", repr(prefix), remedy)
    part = file.named(names)
    check_fits(part, module)
    fill(module, part.tensors(), file.path)
    return module


def _card_of(file: TensorFile) -> Card:
    if KEY not in file.metadata:
        raise value_error(
            "path",
            f"hold a card, the metadata {KEY!r}",
            f"{file.path} with {', '.join(file.metadata) or 'no metadata'}",
            "Weights of another layout: load_weights(path, module, prefix=...), then NetworkPrior(module, "
            "space, output); a folder of diffusers: read_diffusers_folder(folder, space).",
        )
    text = file.metadata[KEY]
    if file.metadata.get(HASH) != sha256_of_text(text):
        remedy = "Copy or download the file again; to change a card, read the network and write it anew."
        expected = f"hold the card that was written, of SHA-256 {file.metadata.get(HASH)}"
        raise value_error("path", expected, f"{file.path}: {sha256_of_text(text)}", remedy)
    try:
        card = Card.from_text(text)
    except (TypeError, ValueError) as error:
        raise value_error("path", "hold a card that this version can read", file.path, str(error)) from error
    if not card.sha256:
        raise value_error(
            "path", "hold a card with the hash of its tensors", file.path, "write_network puts it in."
        )
    return card


def sha256_of_text(text: str) -> str:
    """Return the hash of a card's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _check_described(module: nn.Module, state: Mapping[str, Tensor], card: Card) -> None:
    """Raise unless what the card builds has the tensors of the module: else nobody could read the file."""
    if not card.architecture.is_known:
        return
    twin = card.architecture.build()
    wanted = {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}
    if {name: tuple(tensor.shape) for name, tensor in state.items()} != wanted or (
        type(module) is type(twin)
        and card.architecture.name != "monai.DiffusionModelUNet"
        and Architecture.of(module) != Architecture.of(twin)
    ):
        raise value_error(
            "card",
            "describe the module: architecture.build() has other tensors or settings",
            f"{card.architecture.name}, and a module of {len(state)} tensors",
            "Architecture.of(module) states the settings of a UNet.",
        )


def _rounded(tensor: Tensor, name: str, dtype: torch.dtype | None) -> Tensor:
    """Return a weight in the precision that it is stored in."""
    weight = check_weight(tensor, name)
    if dtype is None or not weight.is_floating_point():
        return weight
    if dtype not in FLOATS:
        raise value_error("dtype", f"be None or one of {', '.join(map(str, FLOATS))}", repr(dtype))
    rounded = weight.to(dtype)
    if not is_finite(rounded):
        found = f"{float(weight.abs().max()):g} in {name}"
        raise value_error("dtype", f"have room for the weights, up to {torch.finfo(dtype).max:g}", found)
    return rounded
