import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.moments import Moments, quantiles


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def moments_of(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition, in two passes."""
    w = (w / w.sum()).reshape(-1, *[1] * (x.ndim - 1))
    mean = (w * x).sum(0)
    variance = (w * np.abs(x - mean) ** 2).sum(0) / (1 - (w**2).sum())
    return mean, variance / 2 if np.iscomplexobj(x) else variance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("size", [5, 5000])
def test_moments_of_pieces_are_those_of_the_whole(dtype: torch.dtype, size: int) -> None:
    x, w = drawn(0, 23, size, dtype=dtype), drawn(1, 23).exp()
    w[[3, 20]] = 0
    running = Moments()
    for first, last in ((0, 1), (1, 9), (9, 20), (20, 21), (21, 23)):
        running.add(x[first:last], w[first:last])
    mean, variance = moments_of(x.numpy().astype(complex if dtype.is_complex else float), w.numpy())
    assert torch.allclose(running.mean, torch.from_numpy(mean), rtol=1e-12, atol=1e-12)
    assert torch.allclose(running.variance, torch.from_numpy(variance), rtol=1e-10)


def test_the_variance_of_equal_weights_is_that_of_numpy() -> None:
    x = drawn(0, 7, 3)
    running = Moments()
    running.add(x, torch.ones(7))
    assert np.allclose(running.variance, np.var(x.numpy(), axis=0, ddof=1), rtol=1e-12)


def test_a_complex_normal_of_standard_deviation_one_per_component_has_variance_one() -> None:
    z = torch.complex(drawn(0, 20000, 2), drawn(1, 20000, 2)) + (3 - 4j)
    running = Moments()
    running.add(z, torch.ones(20000))
    assert (running.variance - 1).abs().max() < 0.03


def test_it_is_unbiased_under_weights() -> None:
    """Over many repetitions the mean of the variance is the variance: 1."""
    w = torch.tensor([5.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    running = Moments()
    running.add(drawn(0, 4, 200_000), w)
    assert abs(float(running.variance.mean()) - 1) < 0.01


@given(st.integers(1, 9), st.integers(0, 8), st.sampled_from([3, 5000]))
@settings(max_examples=25, deadline=None)
def test_merging_is_adding(first: int, seed: int, size: int) -> None:
    x, w = drawn(seed, 10, size), drawn(seed + 100, 10).exp()
    left, right, whole, empty = Moments(), Moments(), Moments(), Moments()
    left.add(x[:first], w[:first])
    right.add(x[first:], w[first:])
    whole.add(x, w)
    left.merge(empty)
    left.merge(right)
    empty.merge(left)
    for merged in (left, empty):
        assert torch.allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-14)
        assert torch.allclose(merged.variance, whole.variance, rtol=1e-11)


@pytest.mark.parametrize("size", [3, 5000])
def test_digits_are_kept_where_the_spread_is_small_beside_the_mean(size: int) -> None:
    x = drawn(0, 50, size)
    running = Moments()
    for part in (1e8 + x).split(7):
        running.add(part, torch.ones(len(part)))
    expected = torch.var(x, dim=0)
    assert torch.allclose(running.variance, expected, rtol=1e-6)


def test_a_nan_stays_where_it_is_and_one_without_weight_is_not_seen() -> None:
    x, w = drawn(0, 6, 4), torch.ones(6)
    x[2, 1] = torch.nan
    x[5, 3], w[5] = torch.nan, 0.0
    running = Moments()
    running.add(x, w)
    assert torch.isnan(running.mean).tolist() == [False, True, False, False]
    assert torch.isnan(running.variance).tolist() == [False, True, False, False]


def test_no_weight_and_one_draw_are_refused() -> None:
    running = Moments()
    with pytest.raises(ValueError, match="`weights` must be positive for one draw at least, got none"):
        _ = running.mean
    running.add(drawn(0, 2, 3), torch.tensor([1.0, 0.0]))
    assert torch.equal(running.mean, drawn(0, 2, 3)[0])
    with pytest.raises(ValueError, match="`weights` must be spread over two draws or more"):
        _ = running.variance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("weights", [None, 0.25])
def test_quantiles_of_equal_weights_are_those_of_numpy(
    dtype: torch.dtype, count: int, weights: float | None
) -> None:
    x = drawn(count, count, 4, 5, dtype=dtype)
    levels = [0.0, 0.05, 0.31, 0.5, 0.95, 1.0]
    found = quantiles(x, None if weights is None else torch.full((count,), weights), levels)
    expected = np.quantile(x.double().numpy(), levels, axis=0)
    assert np.allclose(found, expected, rtol=1e-13, atol=1e-14)
    assert torch.equal(x, drawn(count, count, 4, 5, dtype=dtype))


def by_definition(x: np.ndarray, w: np.ndarray, level: float) -> float:
    """The mean of the inverse of the distribution function over a stretch of the smallest weight."""
    order = np.argsort(x)
    x, w = x[order], w[order] / w.sum()
    unit = w.min()
    start = level * (1 - unit)
    ends = np.cumsum(w)
    shares = np.clip(np.minimum(ends, start + unit) - np.maximum(ends - w, start), 0, None)
    return float((shares * x).sum() / shares.sum())


@given(st.lists(st.just(0.0) | st.floats(1e-6, 50.0), min_size=1, max_size=12).filter(any), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_weighted_quantiles_are_those_of_their_definition(weights: list[float], seed: int) -> None:
    w = torch.tensor(weights, dtype=torch.float64)
    x = drawn(seed, len(w), 3)
    levels = [0.0, 0.1, 0.5, 0.77, 1.0]
    found = quantiles(x, w, levels)
    kept = w.numpy() > 0
    for i, level in enumerate(levels):
        for column in range(3):
            expected = by_definition(x[:, column].numpy()[kept], w.numpy()[kept], level)
            assert float(found[i, column]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e300])
def test_whole_weights_are_repetitions(scale: float) -> None:
    x = drawn(0, 40, 3)
    w = torch.arange(40) % 4 + 1
    levels = [0.0, 0.013, 0.05, 0.31, 0.5, 0.77, 0.95, 1.0]
    repeated = torch.repeat_interleave(x, w, dim=0)
    expected = np.quantile(repeated.numpy(), levels, axis=0)
    assert np.allclose(quantiles(x, scale * w.double(), levels), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_heavy_draw_is_the_quantile_as_far_as_its_weight_reaches(place: int) -> None:
    x = torch.tensor([-1000.0, 0.0, 1000.0]).double()
    w = torch.full((3,), 0.01).double()
    w[place] = 0.98
    # Its share of the probability, and the slopes to its neighbours outside of it.
    begin, end = place * 0.01, place * 0.01 + 0.98
    inside = torch.linspace(begin / 0.99 + 1e-9, (end - 0.01) / 0.99 - 1e-9, 50).tolist()
    assert quantiles(x, w, inside).tolist() == [x[place].item()] * 50
    assert quantiles(x, w, [0.0, 1.0]).tolist() == [-1000.0, 1000.0]


@pytest.mark.parametrize("small", [1e-3, 1e-12, 1e-17, 1e-300, 1e-320])
def test_uneven_weights_give_the_inverse_of_the_distribution_function(small: float) -> None:
    x = drawn(3, 30, 5)
    w = drawn(4, 30).exp()
    w[[4, 17]] = small
    levels = [0.0301, 0.25, 0.5, 0.777, 0.96]
    found = quantiles(x, w, levels)
    share = (w / w.sum()).numpy()
    for level, row in zip(levels, found, strict=True):
        for column, value in enumerate(row.tolist()):
            values, owned = x[:, column].numpy(), share
            below, until = owned[values < value].sum(), owned[values <= value].sum()
            assert below - small <= level <= until + small
    assert torch.equal(quantiles(x, w, [0.0, 1.0]), torch.stack([x.min(0).values, x.max(0).values]))


def test_a_draw_without_weight_has_no_say_whatever_it_holds() -> None:
    x, w = drawn(0, 6, 4), torch.tensor([3.0, 0.0, 1.0, 2.0, 0.0, 1.0]).double()
    levels = [0.0, 0.2, 0.5, 1.0]
    expected = quantiles(x[w > 0], w[w > 0], levels)
    for other in (torch.nan, torch.inf, -torch.inf, 0.0):
        x[w == 0] = other
        assert torch.equal(quantiles(x, w, levels), expected)
    for weight in (0.0, 1e-330):  # the second is 0 in double precision
        w[w == 0] = weight
        assert torch.equal(quantiles(x, w, levels), expected)


@given(st.lists(st.floats(1e-9, 1.0), min_size=2, max_size=9), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_quantiles_rise_with_the_probability(weights: list[float], seed: int) -> None:
    levels = np.linspace(0, 1, 41).tolist()
    found = quantiles(drawn(seed, len(weights)), torch.tensor(weights).double(), levels)
    assert bool((found.diff() >= 0).all())


def test_quantiles_over_several_pieces() -> None:
    x = drawn(0, 3, 200_000)
    assert torch.equal(quantiles(x, None, [0.5])[0], x.median(dim=0).values)
    w = torch.tensor([1.0, 1.0, 2.0])
    assert torch.equal(quantiles(x, w, [0.3])[0, -5:], quantiles(x[:, -5:], w, [0.3])[0])


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 1.0, 1.0])])
def test_quantiles_beside_infinities_and_nan(weights: torch.Tensor | None) -> None:
    x = torch.tensor(
        [[0.0, torch.nan, -torch.inf], [1.0, 1.0, -torch.inf], [2.0, 2.0, 0.0], [3.0, 3.0, torch.inf]]
    )
    found = quantiles(x, weights, [0.0, 1.0])
    assert found[:, 0].tolist() == [0.0, 3.0]
    assert bool(torch.isnan(found[:, 1]).all())
    assert found[:, 2].tolist() == [-torch.inf, torch.inf]
