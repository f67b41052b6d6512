"""A network hashes by its classes, its attributes and its tensors, and by nothing that passes."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from workbench.fingerprint import fingerprint


@dataclass(frozen=True)
class Pair:
    a: object
    b: object = None


class Net(torch.nn.Module):
    def __init__(self, scale: float = 1.0, buffer: float = 1.0, act: Any = torch.relu) -> None:
        super().__init__()
        self.scale, self.act = scale, act
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.ReLU())
        self.register_buffer("table", torch.full((2,), buffer), persistent=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.5)


class Other(Net):
    """The same tensors, another class."""


def changed(act: Callable[[Net], object]) -> Net:
    net = Net()
    act(net)
    return net


NETS: list[Callable[[], Net]] = [
    Net,
    Other,
    lambda: Net(scale=2.0),
    lambda: Net(buffer=2.0),
    lambda: Net(act=torch.sin),
    lambda: Net().eval(),
    lambda: Net().double(),
    lambda: changed(lambda net: setattr(net.body[0], "padding_mode", "circular")),
    lambda: changed(lambda net: setattr(net.body[0], "dilation", (2, 2))),
    lambda: changed(lambda net: net.body.__setitem__(1, torch.nn.SiLU())),
    lambda: changed(lambda net: net.body.append(torch.nn.Tanh())),
    lambda: changed(lambda net: net.body[0].bias.data.add_(1)),
    lambda: changed(lambda net: setattr(net.body[0], "bias", None)),
]


def test_a_module_is_its_classes_attributes_and_tensors() -> None:
    hashes = [fingerprint(make()) for make in NETS]
    assert len(set(hashes)) == len(NETS)
    assert hashes == [fingerprint(make()) for make in NETS]


def test_what_does_not_change_the_values_of_a_module_is_left_out() -> None:
    net = Net()
    before = fingerprint(net)
    net.register_forward_hook(lambda *_: None)
    net.register_forward_pre_hook(lambda *_: None)
    net.body[0].register_full_backward_hook(lambda *_: None)
    net.body[0].weight = torch.nn.Parameter(net.body[0].weight.detach().clone(), requires_grad=False)
    net.body[0].weight.grad = torch.ones_like(net.body[0].weight)
    net.compile(backend="eager")
    assert fingerprint(net) == before
    assert fingerprint(copy.deepcopy(Net())) == before


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.LSTM(2, 3),
        lambda: torch.nn.TransformerEncoderLayer(4, 2, activation=torch.nn.functional.gelu),
        lambda: torch.nn.BatchNorm2d(3),
        lambda: torch.nn.Upsample(scale_factor=2, mode="nearest"),
        lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2)),
    ],
)
def test_modules_of_torch_can_be_hashed(make: Callable[[], torch.nn.Module]) -> None:
    net = make()
    before = fingerprint(net)
    assert fingerprint(copy.deepcopy(net)) == before
    state = net.state_dict()
    next(value for value in state.values() if value.is_floating_point()).add_(1) if state else None
    assert (fingerprint(net) != before) == bool(state)


def test_a_module_hashes_alike_in_another_process() -> None:
    code = (
        "from tests.workbench.test_fingerprint import FUNCTIONS; "
        "from tests.workbench.test_fingerprint_modules import Net; "
        "from workbench.fingerprint import fingerprint as f; print(f(Net(), FUNCTIONS[:16], {'a', 'b', 'c'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == here.stdout


# -- refusals -----------------------------------------------------------------------------------------


def refusals() -> Iterator[tuple[object, str]]:
    net = Net()
    net.lock = threading.Lock()  # type: ignore[assignment]
    yield Pair(Pair(None, net)), "posterior.a.b.lock"
    inner = Net()
    inner.body[1].lock = threading.Lock()  # type: ignore[union-attr, assignment]
    yield Pair(inner), "posterior.a.body.1.lock"
    yield Pair([0, {"k": iter([1])}]), r"posterior.a\[1\]\['k'\]"
    lock = threading.Lock()
    yield Pair(lambda: lock), "posterior.a.lock"
    yield Pair(functools.partial(pow, lock)), r"posterior.a.args\[0\]"
    yield Pair(torch.ones(2, device="meta")), "posterior.a"


@pytest.mark.parametrize(("value", "path"), list(refusals()))
def test_what_cannot_be_hashed_is_named_by_its_path(value: object, path: str) -> None:
    with pytest.raises(TypeError, match=f"^`{path}` must be made of what can be hashed, got .*Keep tensors"):
        fingerprint(value, name="posterior")


def test_what_cannot_be_hashed_is_refused() -> None:
    with pytest.raises(TypeError, match="`value` must be made of what can be hashed"):
        fingerprint(iter([1]))
    with pytest.raises(TypeError, match=r"`value\[1\]` must be made of what can be hashed"):
        fingerprint(0, iter([1]))
