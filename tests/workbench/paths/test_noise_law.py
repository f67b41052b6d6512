"""Student's t against scipy's: radii, components, one scale per draw; keyed like everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.paths.noise_law import GaussianLaw, NoiseLaw, StudentT, _gamma_quantile
from workbench.random import Keys

stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle here: the io extra")
DRAWS = 20000


def drawn(law: NoiseLaw, shape: tuple[int, ...] = (5,), dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return law.draw(Keys(3, tuple(range(DRAWS))), shape, "test", like=torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("dof", [1.0, 2.5, 8.0, 128.0, 2048.0])
def test_radii_and_components_follow_the_law(dof: float) -> None:
    draws = drawn(StudentT(dof)).numpy()
    # |t|^2 / N is F-distributed with (N, dof) degrees of freedom, each component is Student's t.
    radius = (draws**2).sum(axis=1) / 5
    assert stats.kstest(radius, stats.f(5, dof).cdf).pvalue > 1e-3
    assert stats.kstest(draws[:, 2], stats.t(dof).cdf).pvalue > 1e-3


def test_a_complex_draw_is_one_of_twice_the_components() -> None:
    draws = drawn(StudentT(3.0), (2,), torch.complex128)
    radius = (draws.abs() ** 2).sum(dim=1).numpy() / 4
    assert stats.kstest(radius, stats.f(4, 3).cdf).pvalue > 1e-3


def test_the_components_of_a_draw_share_their_scale() -> None:
    draws = drawn(StudentT(1.0), (2,)).abs().log().numpy()
    assert np.corrcoef(draws.T)[0, 1] > 0.2
    assert abs(np.corrcoef(drawn(GaussianLaw(), (2,)).abs().log().numpy().T)[0, 1]) < 0.05


@pytest.mark.parametrize("shape", [0.05, 0.5, 3.0, 64.0, 1e4])
def test_quantiles_of_gamma(shape: float) -> None:
    share = torch.tensor([1e-9, 1e-3, 0.2, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    expected = stats.gamma.ppf(share.numpy(), shape)
    got = _gamma_quantile(share, shape).numpy()
    ordinary = expected > 1e-200
    assert np.allclose(got[ordinary], expected[ordinary], rtol=1e-9)


def test_draws_are_keyed() -> None:
    law, like = StudentT(4.0), torch.empty(0)
    both = law.draw(Keys(1, (0, 7)), (3, 2), "test", like=like)
    assert torch.equal(law.draw(Keys(1, (7,)), (3, 2), "test", like=like)[0], both[1])
    assert both.dtype == torch.float32
    assert not torch.equal(both[0], both[1])
