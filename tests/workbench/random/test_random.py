import hashlib
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from operators.errors import NonFiniteError
from workbench.random import Keys
from workbench.random import keys as module

F32 = torch.empty(0)
F64 = torch.empty(0, dtype=torch.float64)
C64 = torch.empty(0, dtype=torch.complex64)
C128 = torch.empty(0, dtype=torch.complex128)
KEYS = Keys(7, (0, 5), 3)
MANY = (2**19,)
DISTRIBUTIONS = ("normals", "uniforms", "signs")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of short operations: on busy cores, threads would wait for one another at each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The laws


def test_no_uniform_of_single_precision_is_rounded_to_one() -> None:
    top = 1 - 2.0**-24
    a, b = module._uniform_pair(torch.tensor([-1, 0]), torch.tensor([-(2**12), 1]), top=top)
    assert torch.cat((a, b)).float().tolist() == [top, 2.0**-53, top, 2.0**-53]
    u = KEYS.of([0]).uniforms((2**22,), "u", like=F32)
    assert 0 < float(u.min()) < 1e-6
    assert 1 - 1e-6 < float(u.max()) < 1


@pytest.mark.parametrize("part", [slice(0, None, 2), slice(1, None, 2)])
def test_normals_are_normal(part: slice) -> None:
    z = Keys(1, (0,)).normals((2**22,), "law", like=F64)[0, part]
    odd_factorial = [1, 0] + [math.prod(range(k - 1, 0, -2)) * (k % 2 == 0) for k in range(2, 17)]
    for k in range(1, 9):
        deviation = math.sqrt((odd_factorial[2 * k] - odd_factorial[k] ** 2) / len(z))
        assert abs(float((z**k).mean()) - odd_factorial[k]) < 4 * deviation
    for threshold in (1.0, 2.0, 3.0, 4.0, 4.75):
        expected = stats.norm.sf(threshold) * len(z)
        for count in (int((z > threshold).sum()), int((z < -threshold).sum())):
            assert abs(count - expected) < 4 * math.sqrt(expected)
    assert stats.kstest(z[: 2**18].numpy(), "norm").pvalue > 1e-3


def test_uniforms_and_signs_are_fair() -> None:
    u = Keys(1, (0,)).uniforms(MANY, "law", like=F64)[0]
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    for bits in (1, 12, 30):  # leading digits, and those far behind them
        digits = (u * 2.0**bits).frac() * 64
        counts = torch.bincount(digits.to(torch.int64), minlength=64)
        assert 1e-3 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-3
    s = Keys(1, (0,)).signs(MANY, "law", like=F64)[0]
    assert bool((s.abs() == 1).all())
    assert abs(float(s.sum())) < 4 * math.sqrt(len(s))


def test_other_voxels_draws_steps_purposes_seeds_and_distributions_are_independent() -> None:
    keys = Keys(1, (0, 1))
    z, other = keys.normals(MANY, "law", like=F64)
    uniforms = keys.uniforms(MANY, "law", like=F64)[0]
    partners = {
        "next voxel, same block": (z[0::2], z[1::2]),
        "next voxel, other block": (z[1:-1:2], z[2::2]),
        "voxel after next": (z[:-2], z[2:]),
        "row below": (z[:-512], z[512:]),
        "draw": (z, other),
        "step": (z, keys.at(1).normals(MANY, "law", like=F64)[0]),
        "step and draw swapped": (other, keys.at(1).normals(MANY, "law", like=F64)[0]),
        "purpose": (z, keys.normals(MANY, "lax", like=F64)[0]),
        "seed": (z, Keys(2, (0,)).normals(MANY, "law", like=F64)[0]),
        "distribution": (z, (uniforms - 0.5) * math.sqrt(12)),
        "radius of the pair": (z[0::2] ** 2 + z[1::2] ** 2 - 2, uniforms[0::2] - 0.5),
    }
    for name, (a, b) in partners.items():
        n = len(a)
        for left, right in ((a, b), (a**2, b**2), (a**2, b), (a.abs(), b.abs())):
            correlation = torch.corrcoef(torch.stack((left, right)))[0, 1]
            assert abs(float(correlation)) < 4 / math.sqrt(n), name


def test_complex_normals_have_sd_one_in_each_component() -> None:
    z = Keys(1, (0,)).normals((2**20,), "law", like=C128)[0]
    assert float(z.real.std()) == pytest.approx(1, abs=3e-3)
    assert float(z.imag.std()) == pytest.approx(1, abs=3e-3)
    assert abs(float((z.real * z.imag).mean())) < 4e-3
    assert torch.equal(torch.view_as_real(z), Keys(1, (0,)).normals((2**20, 2), "law", like=F64)[0])


# The same bits for everyone


def test_the_numbers_do_not_change_between_versions() -> None:
    z = KEYS.normals((3,), "noise", like=F64).flatten().tolist()
    assert z == [
        1.577714749916426,
        -2.1948856998674984,
        -1.028751312573064,
        0.8752681736400004,
        -0.47199291028911733,
        -0.5147745273584874,
    ]
    mean = torch.tensor([[0.0, 3, 10, 1e3, 1e9]] * 2, dtype=torch.float64)
    assert KEYS.poisson(mean, "counts").tolist() == [
        [0, 1, 8, 1000, 1000007777],
        [0, 6, 6, 964, 999960319],
    ]


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize(("single", "double"), [(F32, F64), (C64, C128)])
def test_single_precision_is_the_rounded_double(
    kind: str, single: torch.Tensor, double: torch.Tensor
) -> None:
    draw = getattr(KEYS, kind)
    few, full = draw((7, 11), "x", like=single), draw((7, 11), "x", like=double)
    assert (few.dtype, full.dtype, few.shape) == (single.dtype, double.dtype, (2, 7, 11))
    assert torch.equal(few, full.to(single.dtype))


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_a_draw_does_not_know_its_neighbours(kind: str) -> None:
    draw = getattr(KEYS.of(range(6)), kind)
    full = draw((5, 7), "x", like=F32)
    assert torch.equal(getattr(KEYS.of([4, 1, 4]), kind)((5, 7), "x", like=F32), full[[4, 1, 4]])
    assert torch.equal(getattr(KEYS.of((2**32 - 1, 2)), kind)((5, 7), "x", like=F32)[1], full[2])
    assert not torch.equal(full[0], full[1])


REGIONS = [
    ((9,), (slice(2, 7),)),
    ((9,), (slice(-4, None),)),
    ((4, 5, 6), (slice(1, 3),)),
    ((3, 5, 7), (slice(1, 3),)),
    ((3, 5, 7), (slice(None), slice(1, -1), slice(2, 6))),
    ((3, 5, 7), (slice(None), slice(None), slice(3, 4))),
    ((4, 5, 6), (slice(3, 4), slice(2, 100), slice(1, 2))),
    ((4, 5, 6), (slice(None), slice(1, 4))),
    ((2, 3, 3, 5), (slice(1, 2), slice(None), slice(1, 3), slice(0, 4))),
    ((4, 5, 6), (slice(2, 2),)),
    ((4, 5, 6), ()),
    ((), ()),
]


@pytest.mark.parametrize("tile", [2, 9])
@pytest.mark.parametrize(("shape", "region"), REGIONS)
def test_a_region_in_tiles_of_any_size_is_a_part_of_the_whole(
    shape: tuple[int, ...], region: tuple[slice, ...], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(7, (0, 5, 1), 3)
    whole = {like: keys.normals(shape, "x", like=like) for like in (F64, C64)}
    means = keys.uniforms(shape, "means", like=F64) * 40
    counts = keys.poisson(means, "counts")
    monkeypatch.setattr(module, "CPU_TILE", tile)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for like, expected in whole.items():
        part = keys.normals(shape, "x", like=like, region=region)
        assert part.is_contiguous()
        assert torch.equal(part, expected[:, *region])
    part = means[:, *region]
    if part.numel():
        assert torch.equal(keys.poisson(part, "counts", shape=shape, region=region), counts[:, *region])


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    torch.set_num_threads(threads)
    shape = (227, 301)  # its blocks are more than the 2^15 elements that torch leaves to one thread
    keys = KEYS.of([5])
    z = keys.normals(shape, "x", like=F64)
    assert hashlib.sha256(z.numpy().tobytes()).hexdigest()[:16] == "e74e798a6d09f97c"
    counts = keys.poisson(keys.uniforms(shape, "mean", like=F64) * 50, "counts")
    assert hashlib.sha256(counts.numpy().tobytes()).hexdigest()[:16] == "4f1c8feb3d1a7dc3"


def test_no_global_state_is_read_or_set() -> None:
    before = torch.get_rng_state()
    first = KEYS.normals((10,), "x", like=F32)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(KEYS.normals((10,), "x", like=F32), first)
    torch.set_rng_state(before)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_the_gpu_gives_the_bits_of_the_cpu(dtype: torch.dtype) -> None:
    shape, region = (5, 333, 411), (slice(1, 4), slice(3, 330))
    here, there = torch.empty(0, dtype=dtype), torch.empty(0, dtype=dtype, device="cuda")
    for kind in DISTRIBUTIONS:
        draw = getattr(KEYS, kind)
        part = draw(shape, "x", like=there, region=region)
        assert part.is_cuda
        assert torch.equal(part.cpu(), draw(shape, "x", like=here, region=region))
    mean = 10 ** (6 * KEYS.uniforms(shape, "mean", like=F64) - 1)
    assert torch.equal(KEYS.poisson(mean.cuda(), "counts").cpu(), KEYS.poisson(mean, "counts"))


# Mistakes


def test_keys_are_values() -> None:
    assert Keys(1, range(3)) == Keys(np.int64(1), [0, np.int32(1), 2], 0)  # type: ignore[arg-type]
    assert KEYS.at(9) == Keys(7, (0, 5), 9)
    assert KEYS.of(np.arange(2)) == Keys(7, (0, 1), 3)
    assert hash(Keys(1, [2, 3])) == hash(Keys(1, (2, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Keys(-1, (0,)), ValueError, "`seed` must be an integer >= 0, got -1"),
        (lambda: Keys(2**64, (0,)), ValueError, r"`seed` must be below 2\^64, got 18446744073709551616"),
        (lambda: Keys(1.5, (0,)), TypeError, "`seed` must be an integer >= 0, got 1.5"),
        (lambda: Keys(True, (0,)), TypeError, "`seed` must be an integer"),
        (lambda: Keys(1, ()), ValueError, "`draws` must name at least one draw"),
        (lambda: Keys(1, 3), TypeError, "`draws` must be the numbers of the draws, got 3"),
        (lambda: Keys(1, "12"), TypeError, "`draws` must be the numbers"),
        (lambda: Keys(1, (0, -2)), ValueError, r"`draws\[1\]` must be an integer >= 0, got -2"),
        (lambda: Keys(1, (2**32,)), ValueError, r"`draws\[0\]` must be below 2\^32, got 4294967296"),
        (lambda: KEYS.of([]), ValueError, "`draws` must name"),
        (lambda: KEYS.at(-1), ValueError, "`step` must be an integer >= 0, got -1"),
        (lambda: KEYS.at(2**32), ValueError, r"`step` must be below 2\^32"),
        (lambda: KEYS.normals((2,), "", like=F32), TypeError, "`purpose` must be text that says"),
        (lambda: KEYS.normals((2,), 3, like=F32), TypeError, "`purpose` must be text .*, got 3"),
        (lambda: KEYS.normals(2, "x", like=F32), TypeError, "`shape` must be a sequence of integers, got 2"),
        (lambda: KEYS.normals((2, 0), "x", like=F32), ValueError, r"`shape\[1\]` must be an integer >= 1"),
        (
            lambda: KEYS.normals((2**31,) * 2, "x", like=F32),
            ValueError,
            r"`shape` must have fewer than 2\^62",
        ),
        (lambda: KEYS.normals((2,), "x", like="cpu"), TypeError, "`like` must be a tensor of .*, got str"),
        (
            lambda: KEYS.uniforms((2,), "x", like=torch.ones(1, dtype=torch.int64)),
            TypeError,
            "`like` must be a tensor of float32, float64, complex64 or complex128, got torch.int64",
        ),
        (
            lambda: KEYS.normals((4,), "x", like=F32, region=slice(2)),
            TypeError,
            "`region` must be a tuple of slices",
        ),
        (
            lambda: KEYS.normals((4,), "x", like=F32, region=(2,)),
            TypeError,
            r"`region` must be a tuple of slices, got \(2,\)",
        ),
        (
            lambda: KEYS.normals((4,), "x", like=F32, region=(slice(2),) * 2),
            ValueError,
            "`region` must have at most 1 slices, one per axis, got 2",
        ),
        (
            lambda: KEYS.normals((4,), "x", like=F32, region=(slice(0, 4, 2),)),
            ValueError,
            r"`region\[0\]` must have step 1",
        ),
        (
            lambda: KEYS.normals((4,), "x", like=F32, region=(slice(0.0, 2),)),
            TypeError,
            r"`region\[0\]` must be a slice of integers",
        ),
        (lambda: KEYS.poisson([1.0], "x"), TypeError, "`mean` must be a torch.Tensor, got list"),
        (lambda: KEYS.poisson(torch.ones(2, 3) * 1j, "x"), TypeError, "`mean` must be real"),
        (
            lambda: KEYS.poisson(-torch.ones(2, 3), "x"),
            ValueError,
            r"`mean` must lie in \[0, 1e\+15\], got -1",
        ),
        (lambda: KEYS.poisson(1e16 * torch.ones(2, 3), "x"), ValueError, "`mean` must lie in"),
        (lambda: KEYS.poisson(torch.full((2, 3), math.nan), "x"), NonFiniteError, "`mean` must hold finite"),
        (
            lambda: KEYS.poisson(torch.ones(3, 3), "x"),
            ValueError,
            r"`mean` must have shape \(2, 3\), got \(3, 3\)",
        ),
        (lambda: KEYS.poisson(torch.tensor(1.0), "x"), ValueError, "`mean` must have shape"),
        (lambda: KEYS.poisson(torch.ones(2, 3), ""), TypeError, "`purpose` must be text"),
        (
            lambda: KEYS.poisson(torch.ones(2, 3), "x", shape=(9, 3), region=(slice(4, 6),)),
            ValueError,
            r"`mean` must have shape \(2, 2, 3\), got \(2, 3\)",
        ),
    ],
)
def test_mistakes_are_named(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]
