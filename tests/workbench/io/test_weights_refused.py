"""What is not what its card says is neither written nor read; nothing of it reaches a module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from operators.grid import Grid
from operators.space import Space
from workbench.io.tensor_file import open_tensors, write_tensors
from workbench.io.weights import HASH, KEY, read_network, sha256_of_text, write_network
from workbench.paths import AffinePath
from workbench.priors.network.architecture import Architecture
from workbench.priors.network.card import Card
from workbench.priors.network.output import EDMOutput, Label, PathOutput
from workbench.priors.unet import UNet, UNetSettings

pytest.importorskip("safetensors", reason="weights need the [io] extra")

SPACE = Space.field(Grid.from_spacing((1, 8, 8), (3.0, 1.0, 1.0)))
SETTINGS = UNetSettings(widths=(8, 16), blocks=(1, 1), attention=(1,), head_width=8)


class Own(nn.Module):
    """A network of one's own, with a buffer of each kind."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.register_buffer("scale", torch.tensor(0.7))
        self.register_buffer("steps", torch.tensor(5))
        nn.init.constant_(self.layer.weight, 0.1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.scale * self.layer(x) / (1 + label.abs().reshape(-1, 1, 1, 1))


OWN = Card(Architecture("Own"), PathOutput(AffinePath.vp(), "noise", Label.TIME))


def own_file(tmp_path: Path, module: nn.Module | None = None) -> Path:
    return write_network(tmp_path / "own.safetensors", Own() if module is None else module, OWN)


def tampered(path: Path, change: Any) -> Path:
    """Write a file anew with `change` made to its tensors or to the facts of its card."""
    file = open_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in file.tensors().items()}
    facts = json.loads(file.metadata[KEY])
    change(tensors, facts)
    text = json.dumps(facts)
    return write_tensors(path, tensors, {KEY: text, HASH: sha256_of_text(text)}, overwrite=True)


def test_a_card_that_does_not_describe_the_module_is_not_written(tmp_path: Path) -> None:
    network = UNet(SETTINGS)
    for other in (SETTINGS.with_(widths=(8, 24), head_width=8), SETTINGS.with_(frequencies=(0.1, 3.0))):
        card = Card(Architecture("UNet", other.to_dict()), EDMOutput(0.5))
        with pytest.raises(ValueError, match="`card` must describe the module"):
            write_network(tmp_path / "a.safetensors", network, card)
    with pytest.raises(TypeError, match="`card` must be a Card"):
        write_network(tmp_path / "a.safetensors", network, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module"):
        write_network(tmp_path / "a.safetensors", network.state_dict(), OWN)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_module_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    class Extra(Own):
        def get_extra_state(self) -> object:
            return {"code": 1}

    with pytest.raises(TypeError, match="`module._extra_state` must be a tensor, got dict"):
        own_file(tmp_path, Extra())


def changed_weight(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del facts
    tensors["layer.weight"][0, 0, 0, 0] += 1e-6


def exchanged(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del facts
    tensors["steps"], tensors["scale"] = tensors["steps"] + 1, tensors["scale"]


def without(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del facts, tensors["layer.weight"]


def besides(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del facts
    tensors["layer.bias"] = torch.zeros(1)


def reshaped(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del facts
    tensors["layer.weight"] = torch.zeros(2, 2, 3, 3)


def of_another_kind(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del facts
    tensors["steps"] = torch.tensor(5.0)


def unhashed(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del tensors
    facts["tensors"]["sha256"] = ""


def newer(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del tensors
    facts["format"] = 99


def unknown(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    del tensors
    facts["outptu"] = facts.pop("output")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_weight, "hold tensors of SHA-256"),
        (exchanged, "hold tensors of SHA-256"),
        (without, "whose names lack layer.weight"),
        (besides, "whose names have besides layer.bias"),
        (reshaped, r"layer.weight of shape \(2, 2, 3, 3\), where the module has \(1, 1, 3, 3\)"),
        (of_another_kind, "steps of torch.float32, where the module has torch.int64"),
        (unhashed, "card with the hash of its tensors"),
        (newer, "format up to 1.*later version"),
        (unknown, "Did you mean output?"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tampered(own_file(tmp_path), change)
    mine = Own()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    with pytest.raises(ValueError, match=said) as caught:
        read_network(path, SPACE, module=mine)
    assert str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())


def test_what_is_no_space_or_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`space` must be a Space"):
        read_network(tmp_path / "a.safetensors", (8, 8))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_network(tmp_path / "a.safetensors", SPACE)
    with pytest.raises(ValueError, match="a pickle runs whatever code is in it.*save_file"):
        read_network(tmp_path / "a.pt", SPACE)


def test_no_damaged_byte_is_overlooked(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    content = path.read_bytes()
    known = {name: tensor.clone() for name, tensor in Own().state_dict().items()}
    header = 8 + int.from_bytes(content[:8], "little")
    assert len(content) - header == 4 * 9 + 4 + 8
    # Every byte of the tensors, every seventh of the header.
    for place in (*range(0, header, 7), *range(header, len(content))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        mine = Own()
        try:
            prior = read_network(path, SPACE, module=mine)
        except ValueError:
            pass
        else:
            # The header's padding, and metadata that nobody reads, say nothing.
            assert place < header
            assert prior.output == OWN.output
        assert all(torch.equal(tensor, known[name]) for name, tensor in mine.state_dict().items())
