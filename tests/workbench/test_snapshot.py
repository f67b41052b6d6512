"""States come back from a checkpoint as they were, and nothing else can."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from workbench.snapshot import pack, unpack


@dataclass(frozen=True)
class Inner:
    x: Tensor


@dataclass(frozen=True)
class State:
    z: Tensor
    inner: Inner | None
    numbers: tuple[float, int, bool, None, str]
    named: dict[str, Tensor]
    many: list[Inner]


@dataclass(frozen=True)
class Stranger:
    x: int = 0


def state() -> State:
    return State(
        z=torch.tensor([1.0, float("nan"), -0.0]),
        inner=Inner(torch.ones(2, dtype=torch.complex64)),
        numbers=(0.1, 2, True, None, "text"),
        named={"a": torch.arange(3)},
        many=[Inner(torch.zeros(1)), Inner(torch.ones(1))],
    )


def test_there_and_back_through_json() -> None:
    skeleton, tensors = pack(state())
    back = unpack(json.loads(json.dumps(skeleton)), tensors, State)
    assert type(back) is State
    assert type(back.inner) is Inner
    assert back.numbers == state().numbers
    assert torch.equal(back.z.nan_to_num(7.0), state().z.nan_to_num(7.0))
    assert torch.equal(back.named["a"], torch.arange(3))
    assert [float(part.x) for part in back.many] == [0.0, 1.0]
    assert len(tensors) == 5


def test_nothing_is_something_too() -> None:
    assert unpack(*pack(None), State) is None


def test_a_class_that_the_state_does_not_declare_is_not_made() -> None:
    skeleton, tensors = pack(Stranger(1))
    with pytest.raises(ValueError, match="`checkpoint` must hold states made of"):
        unpack(skeleton, tensors, State)


@pytest.mark.parametrize("value", [object(), lambda: 0, {1: 2}, State])
def test_what_a_checkpoint_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="must"):
        pack(value)
