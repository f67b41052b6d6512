"""Both ways to the same normals: torch's operations, and the loop that numba compiles."""

import sys
from collections.abc import Iterator

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from workbench.random import Keys, blocks
from workbench.random.philox import ONE, normal_pair

pytest.importorskip("numba", reason="the compiled loop needs the [ct] extra")

F32, F64 = torch.empty(0), torch.empty(0, dtype=torch.float64)
KEYS = Keys(11, (0, 3, 2**32 - 1), 5)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Count from nothing, and forget what was loaded."""
    monkeypatch.setattr(blocks.fill_normals, "made", 0)
    loop = blocks.compiled_normals
    loop.cache_clear()
    yield
    loop.cache_clear()


def way(monkeypatch: pytest.MonkeyPatch, price: float) -> None:
    for name in ("PRICE", "PRICE_WITH_NUMBA"):
        monkeypatch.setattr(blocks, name, price)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("like", [F32, F64, F32.to(torch.complex64), F64.to(torch.complex128)])
@pytest.mark.parametrize(
    ("shape", "region"),
    [
        ((2500,), ()),
        ((2501,), ()),
        ((7, 31), ()),
        ((1, 1), ()),
        ((3, 2**17 + 6), ()),
        ((9, 11, 13), (slice(2, 7), slice(3, 8), slice(1, 12))),
        ((2**20, 2**12, 2**12), (slice(2**19, 2**19 + 2), slice(5, 8), slice(2, 30))),
    ],
)
def test_both_ways_give_the_same_bits(
    like: torch.Tensor, shape: tuple[int, ...], region: tuple[slice, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    way(monkeypatch, float("inf"))
    slow = KEYS.normals(shape, "noise", like=like, region=region)
    way(monkeypatch, -1)
    fast = KEYS.normals(shape, "noise", like=like, region=region)
    assert blocks.compiled_normals() is not None
    assert torch.equal(slow, fast)


def test_the_extreme_words_give_the_same_bits() -> None:
    from workbench.random.compiled_normals import _normal_pairs

    extremes = [0, -1, 1, -(2**63), 2**63 - 1, 2**52 - 1, 2**52, 1 << 62, ONE, 0x7FF << 52, -(1 << 52)]
    first = torch.tensor([a for a in extremes for _ in extremes])
    second = torch.tensor([b for _ in extremes for b in extremes])
    expected = normal_pair(first.clone(), second.clone())
    pair = [word.numpy().view("uint64").copy() for word in (first, second)]
    _normal_pairs(*pair)
    for bits, value in zip(pair, expected, strict=True):
        assert torch.equal(torch.from_numpy(bits.view("float64")), value)


@pytest.mark.usefixtures("fresh")
def test_the_loop_is_loaded_once_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(blocks, "compiled_normals", lambda: loaded.append(1))
    way(monkeypatch, 3000)
    for _ in range(2):
        KEYS.normals((500,), "noise", like=F32)
    assert loaded == []
    KEYS.normals((500,), "noise", like=F32)
    assert loaded == [1]
    assert blocks.PRICE_WITH_NUMBA <= blocks.PRICE
    assert "numba" in sys.modules


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("why", ["absent", "broken", "switched off"])
def test_without_numba_torch_does_it(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = KEYS.normals((40,), "noise", like=F32)
    way(monkeypatch, -1)
    if why == "switched off":
        monkeypatch.setattr("numba.config.DISABLE_JIT", True)
    else:
        monkeypatch.setitem(sys.modules, "numba", None)
        monkeypatch.delitem(sys.modules, "workbench.random.compiled_normals", raising=False)
    assert blocks.compiled_normals() is None
    assert torch.equal(KEYS.normals((40,), "noise", like=F32), expected)


def drawn(x: torch.Tensor) -> torch.Tensor:
    return x.sum() * KEYS.normals((40,), "noise", like=x)


@pytest.mark.usefixtures("fresh")
def test_inside_a_transform_or_a_trace_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(3, dtype=torch.float64)
    expected = drawn(x)
    way(monkeypatch, -1)
    assert torch.equal(torch.func.jvp(drawn, (x,), (x,))[0], expected)
    assert torch.equal(torch.func.vjp(drawn, x)[0], expected)
    assert torch.equal(torch.func.vmap(drawn)(x[None])[0], expected)
    assert torch.equal(torch.func.functionalize(drawn)(x), expected)
    graph = make_fx(drawn)(x)
    assert torch.equal(graph(x), expected)
    with torch.inference_mode():
        assert torch.equal(drawn(torch.ones(3, dtype=torch.float64)), expected)
    with torch.device("meta"):
        blocks.compiled_normals.cache_clear()
        assert torch.equal(drawn(x), expected)


@pytest.mark.usefixtures("fresh")
def test_a_loop_that_rounds_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.random import compiled_normals

    kernel = compiled_normals.fill_normals

    def fused(*arguments: object) -> None:
        kernel(*arguments)
        pairs = arguments[-1]
        pairs[-1, -1, -1] *= 1 + 2.0**-22  # type: ignore[index]

    monkeypatch.setattr(compiled_normals, "fill_normals", fused)
    assert blocks.compiled_normals() is None
