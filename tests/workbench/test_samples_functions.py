"""Numbers of every draw, and the ways to ask for some draws or some probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from operators.space import Space
from tests.samples_cases import GRID, SPACES, samples_of, values
from workbench.samples import Samples

# -- a number per draw ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda x: (x > 0.3).sum(), torch.float64),
        (lambda x: (x > 0.3).sum().int(), torch.float64),
        (lambda x: int((x > 0.3).sum()), torch.float64),
        (lambda x: x.sum(), torch.float32),
        (lambda x: float(x.sum()), torch.float64),
        (lambda x: np.float32(x.sum()), torch.float64),
        (lambda x: x.max() > 2.4, torch.float32),
        (lambda x: bool(x.max() > 2.4), torch.float64),
        (lambda x: np.bool_(x.max() > 2.4), torch.float64),
    ],
)
def test_a_number_per_draw_is_summarised(
    function: Callable[[torch.Tensor], Any], dtype: torch.dtype, weighted: bool
) -> None:
    samples, x, w = samples_of(SPACES["real"], weighted=weighted, dtype=torch.float32)
    numbers = samples.map(function)
    assert (numbers.space, numbers.dtype, len(numbers)) == (Space((1,)), dtype, 11)
    expected = np.array([float(function(one)) for one in x])
    assert len(set(expected)) > 1
    weights = w.numpy()
    mean = (weights * expected).sum()
    variance = (weights * (expected - mean) ** 2).sum() / (1 - (weights**2).sum())
    assert float(numbers.mean()) == pytest.approx(mean, rel=1e-5)  # type: ignore[arg-type]
    assert float(numbers.sd()) == pytest.approx(variance**0.5, rel=1e-5)  # type: ignore[arg-type]
    assert float(numbers[3]) == pytest.approx(expected[3], rel=1e-6)  # type: ignore[arg-type]
    if not weighted:
        assert float(values(numbers.quantile(0.3))) == pytest.approx(np.quantile(expected, 0.3), rel=1e-5)


def test_a_complex_number_per_draw() -> None:
    samples, x, _ = samples_of(SPACES["complex"])
    for function in (lambda z: z.sum(), lambda z: complex(z.sum())):
        numbers = samples.map(function)
        assert numbers.space == Space((1,), is_complex=True)
        assert torch.allclose(numbers.tensor()[:, 0], x.sum((1, 2, 3)))


def test_counts_are_exact() -> None:
    samples, _, _ = samples_of(SPACES["real"], 3, dtype=torch.float32)
    assert samples.map(lambda x: torch.tensor(2**24 + 1)).mean().tolist() == [2**24 + 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("pointwise", [False, True])
def test_the_mean_of_truth_values_is_their_probability(pointwise: bool) -> None:
    samples, x, w = samples_of(SPACES["real"], weighted=True)
    above = samples.map(lambda u: u > 0.2, pointwise=pointwise)
    assert (above.space, above.dtype) == (Space.field(GRID), torch.float64)
    expected = (w.reshape(-1, 1, 1, 1) * (x > 0.2)).sum(0)
    assert torch.allclose(values(above.mean()), expected, rtol=1e-12)


def test_tokens_stay_tokens_and_their_numbers_are_numbers() -> None:
    tokens, labels, _ = samples_of(Space.tokens(GRID, 3), 5)
    assert tokens.map(lambda t: t.flip(0)).space == tokens.space
    assert tokens.map(lambda t: t.int().flip(0)).space == tokens.space
    share = tokens.map(lambda t: t == 2)
    assert (share.space, share.dtype) == (Space.field(GRID), torch.float32)
    assert torch.allclose(values(share.mean()), (labels == 2).float().mean(0))
    volume = tokens.map(lambda t: (t == 2).sum())
    assert torch.equal(volume.tensor()[:, 0], (labels == 2).sum((1, 2, 3)).double())
    samples, x, _ = samples_of(SPACES["real"])
    split = samples.map(lambda u: u > 0, space=Space.tokens(GRID, 2), pointwise=True)
    assert torch.equal(split.tensor(), (x > 0).long())
    assert torch.allclose(values(split.frequencies())[1], (x > 0).float().mean(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(dtype: torch.dtype) -> None:
    samples, x, _ = samples_of(SPACES["real"])
    half = samples.map(lambda u: u.to(dtype))
    assert half.dtype == torch.float32
    assert torch.equal(half.tensor(), x.to(dtype).float())
    assert half.to_xarray().draws.dtype == np.float32


@pytest.mark.parametrize("unit", ["", "HU"])
def test_the_unit_of_a_function_is_what_is_said(unit: str) -> None:
    samples, _, _ = samples_of(SPACES["real"])
    assert samples.unit == "1/mm"
    assert samples.map(torch.square, unit=unit).unit == unit
    assert samples.map(torch.square).unit == ""
    assert samples.map(torch.square, pointwise=True).mean().unit == ""  # type: ignore[union-attr]
    assert samples.select([1]).unit == "1/mm"


# -- which draws, which probabilities ------------------------------------------------------------------


@pytest.mark.parametrize(
    "index",
    [
        [0, 1],
        [-1, 3, 3],
        range(2, 5),
        slice(8, 2, -2),
        torch.tensor([5, 0]),
        np.array([5, 0]),
        torch.arange(11) > 6,
        np.arange(11) > 6,
    ],
)
def test_brackets_select(index: Any) -> None:
    samples, x, w = samples_of(SPACES["real"], weighted=True)
    numbers = np.arange(11)[index]
    chosen = samples[index]
    assert isinstance(chosen, Samples)
    assert torch.equal(chosen.tensor(), x[numbers.tolist()])
    assert torch.allclose(chosen.weights, w[numbers.tolist()] / w[numbers.tolist()].sum())


@pytest.mark.parametrize(
    "index", [torch.tensor(4), np.array(-7), np.int64(4), torch.tensor(4, dtype=torch.uint8)]
)
def test_one_number_of_any_make_is_one_draw(index: Any) -> None:
    samples, x, _ = samples_of(SPACES["real"])
    assert torch.equal(values(samples[index]), x[4])


@pytest.mark.parametrize(
    "q",
    [
        torch.tensor([0.25, 0.5]),
        torch.tensor([0.25, 0.5], dtype=torch.float64),
        np.array([0.25, 0.5]),
        np.array([0.25, 0.5], dtype=np.float32),
        (0.25, 0.5),
        [torch.tensor(0.25), np.float64(0.5)],
    ],
)
def test_several_probabilities_of_any_make(q: Any) -> None:
    samples, x, _ = samples_of(SPACES["real"])
    found = samples.quantile(q)
    assert isinstance(found, list)
    expected = np.quantile(x.numpy(), [0.25, 0.5], axis=0)
    assert np.allclose(torch.stack([values(one) for one in found]), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("q", [torch.tensor(0.25), np.array(0.25), np.float32(0.25), 0.25])
def test_one_probability_of_any_make(q: Any) -> None:
    samples, x, _ = samples_of(SPACES["real"])
    assert np.allclose(
        values(samples.quantile(q)), np.quantile(x.numpy(), 0.25, axis=0), rtol=1e-12, atol=1e-14
    )
    assert len(samples.quantile([0.25])) == 1


def test_a_heavy_draw_is_the_median_and_the_interval() -> None:
    """Of 101 draws one has 95 % of the weight: half, and nine tenths of the probability around it."""
    x = torch.linspace(-50, 50, 101, dtype=torch.float64).reshape(-1, 1)
    log_weights = torch.full((101,), float(np.log(0.05 / 100)), dtype=torch.float64)
    log_weights[50] = float(np.log(0.95))
    samples = Samples(
        x, Space((1,)), samples_of(SPACES["real"], weighted=True)[0].kind, log_weights=log_weights
    )
    assert [float(one) for one in samples.quantile([0.05, 0.5, 0.95])] == [0.0, 0.0, 0.0]  # type: ignore[arg-type]
