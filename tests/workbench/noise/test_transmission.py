import math

import pytest
import torch

from workbench.noise.transmission import line_integrals, log_weights


def test_beer_lambert_is_undone() -> None:
    integrals = torch.linspace(0, 6, 7, dtype=torch.float64)
    assert torch.allclose(line_integrals(1e5 * torch.exp(-integrals), 1e5), integrals)


def test_a_blank_per_detector_element() -> None:
    blank = torch.tensor([1e4, 2e4], dtype=torch.float64)
    assert torch.allclose(line_integrals(blank / math.e, blank), torch.ones(2, dtype=torch.float64))


def test_starved_rays_stay_finite_and_are_reported() -> None:
    with pytest.warns(UserWarning, match=r"25\.00% of the rays counted no photon"):
        integrals = line_integrals(torch.tensor([0.0, 10.0, 20.0, 30.0]), 100.0)
    assert integrals[0] == pytest.approx(math.log(100 / 0.5))
    assert log_weights(torch.tensor([0.0, 4.0])).tolist() == [0.5, 4.0]


def test_weights_are_the_inverse_variance_of_the_logarithm() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((40000,), 400.0, dtype=torch.float64), generator=generator)
    variance = line_integrals(counts, 1e4).var().item()
    assert log_weights(counts).mean().item() == pytest.approx(1 / variance, rel=0.03)


@pytest.mark.parametrize(
    ("counts", "blank", "message"),
    [
        (torch.tensor([-1.0]), 10.0, "`counts` must be >= 0, got a minimum of -1.0"),
        (torch.tensor([math.nan]), 10.0, "`counts` must hold finite values"),
        (torch.tensor([1.0]), 0.0, "`blank` must be a finite number > 0, got 0.0"),
        (torch.tensor([1.0]), math.inf, "`blank` must be a finite number > 0, got inf"),
        (torch.ones(2), torch.tensor([1.0, 0.0]), "`blank` must be finite and > 0, got a minimum of 0.0"),
        (torch.ones(2), torch.tensor([1.0, math.nan]), "`blank` must be finite and > 0"),
        (
            torch.ones(4, 2),
            torch.ones(4),
            r"`blank` must be a number or broadcast to \(4, 2\), got shape \(4,\)",
        ),
        (torch.ones(2), torch.ones(3, 2), r"`blank` must be a number or broadcast to \(2,\)"),
    ],
)
def test_bad_values(counts: torch.Tensor, blank: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        line_integrals(counts, blank)


@pytest.mark.parametrize(
    ("counts", "blank", "message"),
    [
        (torch.ones(2), None, "`blank` must be a finite number > 0, got None"),
        (torch.ones(2), "x", "`blank` must be a finite number > 0, got 'x'"),
        (torch.ones(2), 1j, "`blank` must be a finite number > 0, got 1j"),
        (torch.ones(2), torch.ones(2) * 1j, "`blank` must be real, got torch.complex64"),
        (torch.ones(2) * 1j, 10.0, "`counts` must be real, got torch.complex64"),
        (torch.ones(2, dtype=torch.int32), 10.0, "`counts` must have dtype float32"),
        ([1.0], 10.0, "`counts` must be a torch.Tensor, got list"),
    ],
)
def test_wrong_kinds(counts: torch.Tensor, blank: float, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        line_integrals(counts, blank)
