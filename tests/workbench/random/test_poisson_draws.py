import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from workbench.random import Keys
from workbench.random.poisson_draws import STIRLING, _minus_log_probability, _trial

F64 = torch.empty(0, dtype=torch.float64)
KEYS = Keys(7, (0, 5), 3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of short operations: on busy cores, threads would wait for one another at each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("mean", [0.05, 1.0, 5.5, 9.999, 10.0, 10.5, 14.0, 47.3, 1e3])
def test_counts_follow_the_law_of_poisson(mean: float) -> None:
    n = 2**18
    counts = Keys(3, (0,)).poisson(torch.full((1, n), mean, dtype=torch.float64), "law")[0].numpy()
    law = stats.poisson(mean)
    edges = np.unique(law.ppf(np.linspace(1e-4, 1 - 1e-4, 60)))
    expected = n * np.diff(np.concatenate(([0.0], law.cdf(edges), [1.0])))
    kept = expected > 10
    observed = np.bincount(np.searchsorted(edges, counts), minlength=len(expected))
    merged = [np.append(values[kept], values[~kept].sum()) for values in (observed, expected)]
    merged = [values[merged[1] > 0] for values in merged]
    assert stats.chisquare(*merged).pvalue > 1e-3
    assert abs(counts.mean() - mean) < 4 * math.sqrt(mean / n)
    for tail in (law.isf(1e-3), law.isf(1e-4)):
        assert abs((counts > tail).sum() - n * law.sf(tail)) < 5 * math.sqrt(n * law.sf(tail)) + 1


@pytest.mark.parametrize("mean", [1e6, 1e9, 1e12, 1e15])
def test_large_means_keep_their_moments(mean: float) -> None:
    n = 2**18
    counts = Keys(3, (0,)).poisson(torch.full((1, n), mean, dtype=torch.float64), "law")[0]
    assert torch.equal(counts, counts.round())
    z = (counts - mean) / math.sqrt(mean)
    assert abs(float(z.mean())) < 4 / math.sqrt(n)
    assert abs(float((z**2).mean()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float((z**4).mean()) - 3) < 4 * math.sqrt(96 / n)
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3


def test_the_probabilities_of_the_rejection_are_those_of_poisson() -> None:
    assert len(STIRLING) == 16
    for mean in (10.0, 37.5, 1e3, 1e6):
        spread = math.sqrt(mean)
        k = torch.arange(0, 60) if mean < 100 else mean + spread * torch.linspace(-9, 9, 61).double()
        k = k.to(torch.float64).floor()
        minus = _minus_log_probability(k, torch.full_like(k, mean))
        expected = -stats.poisson.logpmf(k.numpy(), mean)
        assert np.abs(minus.numpy() - expected).max() < 1e-13 * mean * max(1, math.log(mean))
    far = _minus_log_probability(
        torch.tensor([0.0, 1e17], dtype=torch.float64), torch.full((2,), 1e3).double()
    )
    assert far[0] == 1e3
    assert float(far[1]) == pytest.approx(1e17 * (math.log(1e14) - 1), rel=1e-12)


@pytest.mark.parametrize("mean", [10.0, 20.0, 400.0])
def test_the_rejection_accepts_in_the_proportion_of_the_probabilities(mean: float) -> None:
    # A lattice over the unit square integrates what random numbers would only sample.
    i = torch.arange(2**19, dtype=torch.float64) + 0.5
    k, accepted = _trial(torch.full_like(i, mean), i / 2**19, (i * 0.6180339887498949).frac())
    shares = np.bincount(k[accepted].to(torch.int64).numpy()) / int(accepted.sum())
    assert np.abs(shares - stats.poisson.pmf(np.arange(len(shares)), mean)).sum() < 5e-4
    assert float(accepted.double().mean()) > 0.7


def test_a_count_depends_on_its_own_mean_only() -> None:
    mean = KEYS.uniforms((40, 50), "mean", like=F64) * 30
    counts = KEYS.poisson(mean, "counts")
    changed = mean.clone()
    changed[:, ::2] = 1e6 * mean[:, 1::2]
    again = KEYS.poisson(changed, "counts")
    assert torch.equal(again[:, 1::2], counts[:, 1::2])
    assert not torch.equal(again[:, ::2], counts[:, ::2])
    assert torch.equal(KEYS.of([5]).poisson(mean[1:], "counts"), counts[1:])
    assert not torch.equal(KEYS.at(4).poisson(mean, "counts"), counts)
    neighbours = torch.corrcoef(
        torch.stack(((counts - mean)[..., :-1].flatten(), (counts - mean)[..., 1:].flatten()))
    )
    assert abs(float(neighbours[0, 1])) < 4 / math.sqrt(2000)


def test_counts_have_the_layout_dtype_and_zeros_of_their_means() -> None:
    mean = (KEYS.uniforms((6, 8), "mean", like=F64) * 30).float()
    mean[:, 2] = 0
    counts = KEYS.poisson(mean, "counts")
    assert counts.dtype == torch.float32
    assert torch.equal(counts, KEYS.poisson(mean.double(), "counts").float())
    assert int(counts[:, 2].count_nonzero()) == 0
    turned = mean.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(KEYS.poisson(turned, "counts"), counts)
    kept = mean.clone()
    shared = KEYS.poisson(mean[:1].expand(2, 6, 8), "counts")
    assert torch.equal(shared[0], counts[0])
    assert not torch.equal(shared[1], shared[0])
    assert torch.equal(mean, kept)
    assert not KEYS.poisson(mean.requires_grad_(), "counts").requires_grad
