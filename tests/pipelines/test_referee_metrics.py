"""The metrics of the referee, on draws whose metrics are known."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

from pipelines.verify.referee.metrics import TRUTH_SEED, Metrics, measure, measure_point
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.truth import FieldTruth, GaussianTruth, MixtureTruth, Truth
from workbench.random import Keys

MATRIX = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.25]], dtype=torch.float64)
GAUSSIAN = GaussianTruth(torch.tensor([1.0, -2.0, 0.5]), MATRIX)
TOTAL = float(MATRIX.trace())


def standardised(truth: Truth, count: int) -> Tensor:
    """Return rows whose sample mean and covariance are exactly those of `truth`."""
    rows = truth.draw(count, 77)
    assert rows is not None
    rows = rows - rows.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(rows.T)), rows.T, upper=False)
    return truth.mean + (torch.linalg.cholesky(truth.covariance) @ white).T


def test_rows_with_the_right_moments_have_no_error_of_these() -> None:
    found = measure(standardised(GAUSSIAN, 50), GAUSSIAN)
    assert found.mean_error < 1e-12
    assert found.covariance_error == pytest.approx(0, abs=1e-12)
    assert found.variance_ratio == pytest.approx(1, abs=1e-12)
    assert found.mode_error is None


def test_a_shift_is_told_in_posterior_standard_deviations() -> None:
    shift = torch.tensor([0.3, 0.0, -0.4], dtype=torch.float64)
    found = measure(standardised(GAUSSIAN, 50) + shift, GAUSSIAN)
    assert found.mean_error == pytest.approx(0.5 / TOTAL**0.5, abs=1e-12)
    assert found.covariance_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scale_is_told_by_covariance_and_trace(scale: float) -> None:
    rows = GAUSSIAN.mean + scale * (standardised(GAUSSIAN, 50) - GAUSSIAN.mean)
    found = measure(rows, GAUSSIAN)
    assert found.mean_error < 1e-12
    assert found.variance_ratio == pytest.approx(scale**2, abs=1e-12)
    assert found.covariance_error == pytest.approx(abs(scale**2 - 1), abs=1e-12)


def test_wrong_correlations_keep_the_trace() -> None:
    white = torch.linalg.solve(torch.linalg.cholesky(MATRIX), (standardised(GAUSSIAN, 50) - GAUSSIAN.mean).T)
    rows = GAUSSIAN.mean + (MATRIX.diagonal().sqrt()[:, None] * white).T
    found = measure(rows, GAUSSIAN)
    off = MATRIX - torch.diag(MATRIX.diagonal())
    assert found.covariance_error == pytest.approx(float(off.norm() / MATRIX.norm()), abs=1e-12)
    assert found.variance_ratio == pytest.approx(1, abs=1e-12)


def test_only_the_patch_counts_in_the_covariance_and_all_in_the_trace() -> None:
    patch = torch.tensor([2, 0])
    truth = FieldTruth(GAUSSIAN.mean, GAUSSIAN.sd, patch, MATRIX[patch][:, patch])
    rows = standardised(GAUSSIAN, 50)
    rows[:, 1] = -2 + 3 * (rows[:, 1] + 2)
    found = measure(rows, truth)
    assert found.covariance_error == pytest.approx(0, abs=1e-12)
    assert found.variance_ratio == pytest.approx((TOTAL + 8 * float(MATRIX[1, 1])) / TOTAL, abs=1e-12)
    assert found.sliced_wasserstein is None  # it cannot draw


@pytest.mark.parametrize("name", ["P1", "P2", "mask8", "coils8"])
def test_exact_draws_are_as_far_as_their_number_says(name: str) -> None:
    truth, count = problem(name).truth, 1500
    rows = truth.draw(count, 4)
    assert rows is not None
    found = measure(rows, truth)
    total = float(truth.covariance.trace())
    # K |m' - m|^2 / tr C is a weighted sum of chi-squares: mean 1, variance 2 tr C^2 / (tr C)^2.
    spread = (2 * float(truth.covariance.square().sum())) ** 0.5 / total
    assert abs(count * found.mean_error**2 - 1) < 5 * spread
    assert found.variance_ratio == pytest.approx(1, abs=5 * spread / (count - 1) ** 0.5)
    # E |C' - C|_F^2 = (|C|_F^2 + (tr C)^2) / (K - 1); the sum's own spread is below half of it here.
    square = (1 + total**2 / float(truth.covariance.square().sum())) / (count - 1)
    assert found.covariance_error == pytest.approx(square**0.5, rel=0.5)
    # Of one component with an sd of sqrt(p q / K).
    assert found.coverage == pytest.approx(0.9, abs=5 * (0.09 / count) ** 0.5)
    # Two samples of a Gaussian of sd s in one dimension: E W2^2 is a few s^2 / K, log log K.
    assert found.sliced_wasserstein is not None
    assert 0 < found.sliced_wasserstein < 10 / count**0.5


def test_coverage_is_the_mass_between_quantiles() -> None:
    truth = GaussianTruth(torch.zeros(1), torch.eye(1))
    # Below the k-th of 999 draws lies k / 1000 on average: number 950 is the quantile of 95 %.
    level = torch.arange(1, 1000, dtype=torch.float64)[:, None] / 1000
    rows = torch.special.ndtri(level)
    end = rows[949, 0]
    for scale in (0.5, 1.0, 2.0):
        expected = 2 * float(torch.special.ndtr(scale * end)) - 1
        assert measure(scale * rows, truth).coverage == pytest.approx(expected, abs=1e-9)
    shifted = measure(rows + 100, truth)
    assert shifted.coverage == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(2, 1 / 3), (16, 15 / 17), (18, 17 / 19), (19, 0.9), (20, 0.9), (32, 0.9), (333, 0.9)],
)
def test_few_exact_draws_hold_no_less(count: int, expected: float) -> None:
    size = 40000
    truth = FieldTruth(torch.zeros(size), torch.ones(size), torch.arange(1), torch.eye(1))
    rows = Keys(4, tuple(range(count))).normals((size,), "test: rows", like=torch.empty(0).double())
    # The mass between two draws varies by less than 1/4; a Gaussian's tails bend between two of 20 to 40.
    bent = 0.01 if 19 < count < 40 else 0
    assert measure(rows, truth).coverage == pytest.approx(expected, abs=5 / 4 / size**0.5 + bent)


def test_the_sliced_distance_of_a_shift_and_of_a_scale() -> None:
    count = 400
    exact = GAUSSIAN.draw(count, TRUTH_SEED)
    assert exact is not None
    assert measure(exact, GAUSSIAN).sliced_wasserstein == pytest.approx(0, abs=1e-7)
    assert measure(exact.flip(0), GAUSSIAN).sliced_wasserstein == pytest.approx(0, abs=1e-7)
    unit = (TOTAL / 3) ** 0.5
    # Of many directions t: E <t, s>^2 = |s|^2 / 3, with a variance of 4 |s|^4 / 45.
    shift = torch.tensor([0.0, 3.0, -4.0], dtype=torch.float64)
    found = measure(exact + shift, GAUSSIAN).sliced_wasserstein
    assert found is not None
    assert abs((found * unit) ** 2 / 25 - 1 / 3) < 5 * (4 / 45 / 64) ** 0.5
    twice = measure(exact + 2 * shift, GAUSSIAN).sliced_wasserstein
    assert twice == pytest.approx(2 * found, rel=1e-9)
    # Scaled about the origin by a: W2^2 = (a - 1)^2 mean <t, x>^2.
    moment = [measure(a * exact, GAUSSIAN).sliced_wasserstein for a in (1.5, 2.0, 3.0)]
    assert moment[1] == pytest.approx(2 * moment[0], rel=1e-9)
    assert moment[2] == pytest.approx(4 * moment[0], rel=1e-9)


def drawing(values: Tensor) -> FieldTruth:
    """Return a truth of one component whose draws are `values`, again and again."""
    one = torch.ones(1)
    return FieldTruth(
        one * 0, one, torch.zeros(1), one[None], lambda count, seed: values.repeat(count)[:count, None]
    )


def test_the_distance_of_weighted_points_is_that_of_moved_mass() -> None:
    truth = drawing(torch.tensor([0.0, 1.0], dtype=torch.float64))
    rows = torch.tensor([[1.0], [0.0]])
    # A quarter of the mass goes from 0 to 1.
    assert measure(rows, truth, torch.tensor([0.25, 0.75])).sliced_wasserstein == pytest.approx(0.5)
    assert measure(rows, truth, torch.tensor([2.0, 2.0])).sliced_wasserstein == pytest.approx(0, abs=1e-12)
    point = drawing(torch.zeros(1, dtype=torch.float64))
    many = torch.tensor([[1.0], [-2.0], [3.0], [9.0]])
    found = measure(many, point, torch.tensor([1.0, 2.0, 1.0, 0.0])).sliced_wasserstein
    assert found == pytest.approx(((1 + 2 * 4 + 9) / 4) ** 0.5)


def mixture() -> MixtureTruth:
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    means = torch.tensor([[-5.0, 0.0], [5.0, 1.0]], dtype=torch.float64)
    return MixtureTruth(weights, means, torch.eye(2, dtype=torch.float64).expand(2, 2, 2))


def test_mass_in_wrong_modes_is_counted() -> None:
    truth, count = mixture(), 3000
    rows = truth.draw(count, 1)
    right = measure(rows, truth)
    assert right.mode_error is not None
    assert right.mode_error < 5 * (0.21 / count) ** 0.5
    first = rows[truth.mode_chances(rows)[:, 0] > 0.5]
    assert measure(first, truth).mode_error == pytest.approx(0.3, abs=1e-3)
    # Modes exchanged: 0.3 and 0.7 in place of 0.7 and 0.3.
    swapped = MixtureTruth(truth.mode_weights.flip(0), truth.means, truth.covariances).draw(count, 1)
    assert measure(swapped, truth).mode_error == pytest.approx(0.4, abs=5 * (0.21 / count) ** 0.5)
    phase = problem("phase2").truth
    one_sign = phase.draw(2000, 1)
    one_sign = one_sign * (one_sign @ phase.direction).sign()[:, None]
    assert measure(one_sign, phase).mode_error == pytest.approx(float(phase.mode_weights[1]), abs=1e-12)


def test_whole_weights_are_repetitions() -> None:
    truth = mixture()
    rows = truth.draw(40, 3)
    counts = torch.arange(40) % 3 + 1
    weighted = measure(rows, truth, counts)
    repeated = measure(rows.repeat_interleave(counts, 0), truth)
    for name in ("mean_error", "mode_error"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), abs=1e-12), name
    # sum w |x - m|^2 / (1 - sum w^2)
    shares = counts / counts.sum()
    mean = shares.double() @ rows
    variance = float(shares.double() @ (rows - mean).square().sum(1)) / (1 - float(shares.square().sum()))
    assert weighted.variance_ratio == pytest.approx(variance / float(truth.covariance.trace()), rel=1e-6)
    scaled = measure(rows, truth, 17.0 * counts)
    assert scaled.covariance_error == pytest.approx(weighted.covariance_error, abs=1e-12)
    assert scaled.sliced_wasserstein == pytest.approx(weighted.sliced_wasserstein, abs=1e-9)
    equal = measure(rows, truth, torch.full((40,), 0.1))
    plain = measure(rows, truth)
    for name in vars(plain):
        assert getattr(equal, name) == pytest.approx(getattr(plain, name), abs=1e-6), name


def test_draws_without_weight_do_not_count() -> None:
    truth = mixture()
    rows = truth.draw(30, 3)
    more = torch.cat([rows, rows + 50])
    weights = torch.cat([torch.ones(30), torch.zeros(30)])
    found, plain = measure(more, truth, weights), measure(rows, truth)
    for name in ("mean_error", "covariance_error", "variance_ratio", "mode_error", "coverage"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), abs=1e-12), name


@pytest.mark.parametrize("rest", [0.0, 1e-20])
def test_one_draw_with_all_the_weight_has_no_spread(rest: float) -> None:
    truth = mixture()
    rows = truth.draw(5, 3)
    found = measure(rows, truth, torch.tensor([rest, rest, 1.0, rest, rest]))
    assert found.covariance_error is None
    assert found.variance_ratio is None
    assert found.mean_error == pytest.approx(measure_point(rows[2], truth).mean_error)
    assert found.coverage is not None
    assert found.coverage < 1e-6


def test_importance_weights_correct_the_law_of_the_draws() -> None:
    wide = GaussianTruth(GAUSSIAN.mean, 2 * MATRIX)
    rows = wide.draw(4000, 8)
    assert rows is not None
    square = ((rows - GAUSSIAN.mean) @ torch.linalg.inv(MATRIX) * (rows - GAUSSIAN.mean)).sum(1)
    plain, weighted = measure(rows, GAUSSIAN), measure(rows, GAUSSIAN, torch.exp(-square / 4))
    assert plain.variance_ratio == pytest.approx(2, rel=0.15)
    assert weighted.variance_ratio == pytest.approx(1, rel=0.15)
    assert weighted.coverage == pytest.approx(0.9, abs=0.02)
    # Forty of them count like 26: their intervals are wider than those between as many equal ones.
    few = [
        measure(rows[i : i + 40], GAUSSIAN, torch.exp(-square[i : i + 40] / 4)).coverage
        for i in range(0, 4000, 40)
    ]
    assert statistics.mean(few) == pytest.approx(0.9, abs=0.02)  # type: ignore[type-var]
    assert weighted.sliced_wasserstein < 0.3 * plain.sliced_wasserstein


def test_a_point_has_an_error_of_the_mean_alone() -> None:
    row = GAUSSIAN.mean + torch.tensor([3.0, 0.0, 4.0])
    assert measure_point(row, GAUSSIAN) == Metrics(mean_error=pytest.approx(5 / TOTAL**0.5))
    assert measure_point(GAUSSIAN.mean, GAUSSIAN).mean_error == 0


@pytest.mark.parametrize(
    ("rows", "weights", "message"),
    [
        (torch.zeros(4, 2), None, r"`rows` must be real, of shape \(K, 3\), got \(4, 2\)"),
        (torch.zeros(3), None, r"`rows` must be real, of shape \(K, 3\)"),
        (torch.zeros(4, 3, dtype=torch.complex64), None, "`rows` must be real"),
        (torch.full((4, 3), torch.nan), None, "`rows` must"),
        (torch.zeros(1, 3), None, "`rows` must be two draws or more, got 1"),
        (torch.zeros(4, 3), torch.ones(3), r"`weights` must have shape \(4,\)"),
        (
            torch.zeros(4, 3),
            torch.tensor([1.0, 1.0, 1.0, -1.0]),
            "`weights` must be >= 0, one of them larger",
        ),
        (torch.zeros(4, 3), torch.zeros(4), "`weights` must be >= 0, one of them larger"),
        (torch.zeros(4, 3), torch.tensor([1.0, torch.inf, 1.0, 1.0]), "`weights` must"),
    ],
)
def test_mistakes(rows: Tensor, weights: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(rows, GAUSSIAN, weights)
