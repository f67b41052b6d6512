import hashlib
import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from workbench.random import Keys
from workbench.random.philox import (
    ONE,
    make_key,
    minus_log,
    normal_pair,
    sign_pair,
    square_root,
    uniform,
    words,
)
from workbench.random.poisson_draws import _exp_minus

F64 = torch.empty(0, dtype=torch.float64)
KEYS = Keys(7, (0, 5), 3)
DISTRIBUTIONS = ("normals", "uniforms", "signs")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of short operations: on busy cores, threads would wait for one another at each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def signed(number: int) -> int:
    return number - (number >> 63 << 64)


def halves(*pair: torch.Tensor) -> list[int]:
    return [part for word in pair for part in ((int(word) >> 32) & 0xFFFFFFFF, int(word) & 0xFFFFFFFF)]


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    """Philox4x32-10 from its definition, in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def reference(keys: Keys, kind: str, purpose: str, draw: int, block: int, lane: int = 0) -> tuple[int, int]:
    """The two words of a block as the documentation keys them."""
    text = f"{keys.seed}|{kind}|{lane}|{purpose}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    c = philox((block % 2**32, block >> 32, keys.step, draw), (key % 2**32, key >> 32))
    return c[0] << 32 | c[1], c[2] << 32 | c[3]


def box_muller(first: int, second: int) -> tuple[float, float]:
    radius = math.sqrt(-2 * math.log(((first >> 12) + 0.5) / 2**52))
    angle = math.pi / 2 * ((second % 2**52 | 1) / 2**52)
    x, y = radius * math.cos(angle), radius * math.sin(angle)
    return -x if second >> 63 else x, -y if second >> 62 & 1 else y


KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    block = torch.tensor([signed(counter[1] << 32 | counter[0])])
    assert halves(*words(block, torch.tensor([counter[3]]), counter[2], key)) == list(expected)
    assert philox(counter, key) == list(expected)


def test_words_are_those_of_the_definition() -> None:
    source = np.random.default_rng(0)
    counters = source.integers(0, 2**32, (40, 4))
    for step, key in ((0, (1, 2**32 - 1)), (2**32 - 1, (0xDEADBEEF, 77))):
        block = torch.tensor([signed(int(c[1]) << 32 | int(c[0])) for c in counters])
        pair = words(block, torch.tensor(counters[:, 3]), step, key)
        for i, c in enumerate(counters):
            expected = philox((int(c[0]), int(c[1]), step, int(c[3])), key)
            assert halves(pair[0][i], pair[1][i]) == expected


def test_every_part_of_the_key_counts() -> None:
    keys = {
        make_key(seed, kind, purpose, lane)
        for seed in (0, 1, 2**64 - 1)
        for kind in DISTRIBUTIONS
        for purpose in ("a", "b", "0|a", "a|0")
        for lane in (0, 1)
    }
    assert len(keys) == 72
    assert all(0 <= k < 2**32 for key in keys for k in key)


def test_numbers_follow_from_the_words_as_documented() -> None:
    shape = (3, 5)
    z, u, s = (getattr(KEYS, kind)(shape, "noise", like=F64).flatten(1) for kind in DISTRIBUTIONS)
    for row, draw in enumerate(KEYS.draws):
        for voxel in range(15):
            half = voxel % 2
            normal = box_muller(*reference(KEYS, "normals", "noise", draw, voxel // 2))[half]
            assert float(z[row, voxel]) == pytest.approx(normal, abs=4e-15)
            word = reference(KEYS, "uniforms", "noise", draw, voxel // 2)[half]
            assert float(u[row, voxel]) == (2 * (word >> 12) + 1) / 2**53
            word = reference(KEYS, "signs", "noise", draw, voxel // 2)[half]
            assert float(s[row, voxel]) == (-1 if word >> 63 else 1)


def test_logarithm_root_and_exponential_are_right_to_the_last_places() -> None:
    x = KEYS.of([0]).uniforms((100_003,), "x", like=F64)[0]
    ends = torch.tensor([2.0**-53, 1 - 2.0**-53, 0.5, 2.0], dtype=torch.float64)
    x = torch.cat((x, x**8 * 1e9, 1 - (1 - x) ** 4 * 1e-8 - 1e-15, ends))
    exact = x.numpy().astype(np.longdouble)
    log = -np.log(exact)
    assert float(np.abs((minus_log(x).numpy() - log) / log).max()) < 5e-16
    assert float(np.abs(square_root(x).numpy() / np.sqrt(exact) - 1).max()) < 2.3e-16
    y = torch.linspace(0, 10, 10_001, dtype=torch.float64)
    exp = np.exp(-y.numpy().astype(np.longdouble))
    assert float(np.abs(_exp_minus(y).numpy() / exp - 1).max()) < 5e-16
    assert minus_log(torch.ones(1, dtype=torch.float64)).item() == 0


def test_the_extreme_words_give_finite_numbers_inside_their_range() -> None:
    extremes = [0, -1, 1, -(2**63), 2**63 - 1, 2**52 - 1, 2**52, 1 << 62, ONE, 0x7FF << 52, -(1 << 52)]
    first = torch.tensor([a for a in extremes for _ in extremes])
    second = torch.tensor([b for _ in extremes for b in extremes])
    x, y = normal_pair(first.clone(), second.clone())
    expected = [
        box_muller(a % 2**64, b % 2**64) for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert float((torch.stack((x, y), -1) - torch.tensor(expected, dtype=torch.float64)).abs().max()) < 4e-15
    assert 8.5 < float(torch.hypot(x, y).max()) < 8.6
    assert uniform(torch.tensor([0, -1])).tolist() == [2.0**-53, 1 - 2.0**-53]
    assert [half.tolist() for half in sign_pair(torch.tensor([0, -1]), torch.tensor([-1, 0]))] == [
        [1, -1],
        [-1, 1],
    ]


def test_a_crop_of_an_astronomic_array_is_made_at_once() -> None:
    shape = (2**20, 2**12, 2**12)
    crop = (slice(2**19, 2**19 + 3), slice(100, 131), slice(2001, 2033))
    started = time.perf_counter()
    part = KEYS.normals(shape, "x", like=F64, region=crop)
    assert time.perf_counter() - started < 1
    larger = (slice(2**19 - 1, 2**19 + 3), slice(90, 140), slice(2000, 2100))
    around = KEYS.normals(shape, "x", like=F64, region=larger)
    assert torch.equal(part, around[:, 1:, 10:41, 1:33])
    for z, y, x in ((0, 0, 0), (2, 30, 31), (1, 7, 12)):
        voxel = ((2**19 + z) * 2**12 + 100 + y) * 2**12 + 2001 + x
        words_here = reference(KEYS, "normals", "x", 5, voxel // 2)
        assert float(part[1, z, y, x]) == pytest.approx(box_muller(*words_here)[voxel % 2], abs=4e-15)
