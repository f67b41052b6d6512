from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from operators.space import Space
from tests.samples_cases import GRID, SPACES, samples_of, tensor_of
from workbench.draws import MappedDraws
from workbench.kinds import Kind
from workbench.samples import Samples
from workbench.store import TensorDraws
from workbench.volume import Volume


def make(**changes: Any) -> Samples:
    arguments: dict[str, Any] = {
        "draws": tensor_of(SPACES["real"], 3),
        "space": SPACES["real"],
        "kind": Kind.EXACT_SAMPLE,
        "log_weights": None,
        **changes,
    }
    return Samples(arguments.pop("draws"), arguments.pop("space"), arguments.pop("kind"), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"draws": np.zeros((3, 3, 4, 5))},
            r"`draws` must be a torch.Tensor or a store's draws, got ndarray",
        ),
        ({"draws": torch.zeros(3, 4, 5)}, r"`draws` must have shape \(n, 3, 4, 5\).*draw\[None\]"),
        ({"draws": torch.zeros(2, 3, 4, 6)}, r"`draws` must have shape \(..., 3, 4, 5\), got \(2, 3, 4, 6\)"),
        ({"draws": torch.zeros(2, 2, 3, 4, 5)}, r"`draws` must have shape \(n, 3, 4, 5\) with n >= 1"),
        ({"draws": torch.zeros(2, 3, 4, 5, dtype=torch.complex64)}, "`draws` must be real"),
        ({"draws": TensorDraws(torch.zeros(0, 3, 4, 5))}, "with n >= 1"),
        (
            {"draws": TensorDraws(torch.zeros(2, 3, 4, 5).half())},
            "`draws` must be of a dtype for a scalar field",
        ),
        ({"space": GRID}, "`space` must be a Space, got Grid"),
        ({"kind": "guess"}, "`kind` must be a Kind: exact sample, .*, got 'guess'"),
        ({"log_weights": torch.zeros(2)}, r"`log_weights` must be a real tensor of shape \(3,\), got \(2,\)"),
        ({"log_weights": [0.0, 0.0, 0.0]}, r"`log_weights` must be a real tensor of shape \(3,\), got list"),
        ({"log_weights": torch.full((3,), -torch.inf)}, "must be numbers or -inf, one of them finite"),
        ({"log_weights": torch.tensor([0.0, torch.nan, 0.0])}, "must be numbers or -inf, one of them finite"),
        ({"log_weights": torch.tensor([0.0, torch.inf, 0.0])}, "must be numbers or -inf, one of them finite"),
        ({"unit": None}, "`unit` must be text of one line"),
        ({"unit": "a\nb"}, "`unit` must be text of one line"),
        ({"frame": "MNI"}, "`frame` must be one of scanner, .*, got 'MNI'"),
        ({"record": {"a": torch.zeros(1)}}, "`record` must be JSON-able, got .*Keep to text"),
        ({"record": {1: 2}}, r"`record` must have text as keys, got 1 \(int\). Write it as text: '1'"),
        ({"record": {"a": [0, ({"b": 1, None: 2},)]}}, r"`record\['a'\]\[1\]\[0\]` must have text .*None"),
        ({"record": {"a": {True: 2}}}, r"`record\['a'\]` must have text as keys, got True"),
        ({"record": {(1, 2): 2}}, r"`record` must be JSON-able, got .*text as keys"),
    ],
)
def test_what_is_not_samples(change: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make(**change)


@pytest.mark.parametrize(
    ("space", "ask", "message"),
    [
        ("complex", lambda s: s.quantile(0.5), r"must be real for quantile\(\).*samples.map\(torch.abs"),
        ("tokens", lambda s: s.mean(), r"must be numbers for mean\(\), got token field.*frequencies\(\)"),
        ("tokens", lambda s: s.sd(), r"must be numbers for sd\(\), got token field.*frequencies\(\)"),
        ("tokens", lambda s: s.quantile(0.5), r"must be numbers for quantile\(\)"),
        ("real", lambda s: s.frequencies(), r"must be tokens for frequencies\(\), got scalar field"),
        ("real", lambda s: s[:1].sd(), r"must be two or more for sd\(\), got one draw"),
        ("real", lambda s: s.quantile(1.5), r"`q` must be a number in 0..1"),
        ("real", lambda s: s.quantile([]), r"`q` must be a number in 0..1"),
        ("real", lambda s: s.quantile("0.5"), r"`q` must be a finite number"),
        ("real", lambda s: s.quantile([0.5, -0.5]), r"`q` must be a finite number >= 0"),
        ("real", lambda s: s.quantile(torch.tensor([0.5, 2.0])), r"`q` must be a number in 0..1, .*tensor"),
        ("real", lambda s: s.quantile(torch.zeros(0)), r"`q` must be a number in 0..1"),
        ("real", lambda s: s.quantile(np.zeros((1, 2))), r"`q` must be a finite number .*\[0.0, 0.0\]"),
        ("real", lambda s: s.quantile(torch.tensor([torch.nan])), r"`q` must be a finite number .*nan"),
        ("real", lambda s: s.mean(block_bytes=0), r"`block_bytes` must be an integer >= 1"),
        ("real", lambda s: s["a"], r"`index` must be an integer, a slice or a list of integers, got 'a'"),
        ("real", lambda s: s[True], r"`index` must be an integer, a slice or a list of integers, got True"),
        ("real", lambda s: s[1.0], r"`index` must be an integer, .*, got 1\.0"),
        ("real", lambda s: s[torch.tensor(1.0)], r"`index` must be an integer, .*, got 1\.0"),
        ("real", lambda s: s[torch.tensor(True)], r"`index` must be an integer, .*, got True"),
        ("real", lambda s: s[0, 1], r"`index` must be .*, got \(0, 1\).*samples\[\[0, 3\]\].*samples\[0\]"),
        ("real", lambda s: s[[]], r"`indices` must name one draw at least"),
        ("real", lambda s: s[[0.5]], r"`indices` must be integers"),
        ("real", lambda s: s[torch.ones(2, dtype=torch.bool)], r"`indices` must have shape \(11,\)"),
        ("real", lambda s: s[3:3], r"`indices` must name one draw at least"),
        ("real", lambda s: s.select("01"), r"`indices` must be a sequence of integers"),
        ("real", lambda s: s.select([0.5]), r"`indices` must be integers"),
        ("real", lambda s: s.select([True, False]), r"`indices` must be integers.*mask is a tensor"),
        ("real", lambda s: s.select(torch.ones(2, dtype=torch.bool)), r"`indices` must have shape \(11,\)"),
        ("real", lambda s: s.map("abs"), r"`function` must be callable"),
        (
            "real",
            lambda s: s.map(lambda x: "3"),
            r"`function` must return a torch.Tensor or a number, got str",
        ),
        ("real", lambda s: s.map(lambda x: x.numpy()), r"a number, got ndarray. Of an array: torch.from_n"),
        (
            "real",
            lambda s: s.map(lambda x: 3, pointwise=True),
            r"`function` must keep the shape .*, got \(\)",
        ),
        ("real", lambda s: s.map(torch.abs, space=3), r"`space` must be a Space, got int"),
        ("real", lambda s: s.map(torch.abs, unit=None), r"`unit` must be text of one line"),
        ("real", lambda s: s.map(lambda x: x.sum(1), pointwise=True), r"`function` must keep the shape"),
        ("real", lambda s: s.map(torch.abs, space=SPACES["vector"]), r"`draws` must have shape"),
        ("real", lambda s: s.map(_fickle()).tensor(), r"`function` must return \(3, 4, 5\).*of draw 0"),
    ],
)
def test_what_cannot_be_asked(space: str, ask: Callable[[Samples], object], message: str) -> None:
    known = {**SPACES, "tokens": Space.tokens(GRID, 3)}
    with pytest.raises((TypeError, ValueError), match=message):
        ask(samples_of(known[space])[0])


def _fickle() -> Callable[[torch.Tensor], torch.Tensor]:
    shapes = iter([3, 2, 2])
    return lambda x: x[: next(shapes)]


@pytest.mark.parametrize("kind", [kind for kind in Kind if not kind.has_spread])
def test_what_is_no_sample_has_no_spread_but_a_mean(kind: Kind) -> None:
    answers = make(kind=kind)
    for ask in (answers.sd, lambda: answers.quantile(0.5)):
        with pytest.raises(ValueError, match=f"got a {kind}. It has no spread that says anything"):
            ask()
    assert isinstance(answers.mean(), Volume)


def test_all_the_weight_on_one_draw_has_no_spread() -> None:
    weights = torch.tensor([0.0, -torch.inf, -torch.inf])
    with pytest.raises(ValueError, match="`weights` must be spread over two draws or more"):
        make(log_weights=weights).sd()


def test_a_region_of_no_draws_has_its_shape() -> None:
    mapped = MappedDraws(TensorDraws(torch.zeros(2, 3, 4)), torch.abs, False)
    assert mapped.read(slice(0, 0), (slice(1, 2),)).shape == (0, 1, 4)
