"""Coefficients against quadrature in 30 digits and against the published tables."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import mpmath
import pytest

from workbench.integration.weights import lagrange_shares, node_positions, transfer
from workbench.paths import AffinePath

VARIABLES = {
    "log_snr": lambda s: mpmath.log(s),
    "inv_sigma": lambda s: s,
    "sigma": lambda s: 1 / s,
    # The time of the variance-preserving path, in closed form, and that of the flow.
    "vp": lambda s: (
        2
        * mpmath.log1p(s**-2)
        / (0.1 + mpmath.sqrt(mpmath.mpf(0.1) ** 2 + 2 * mpmath.mpf(19.9) * mpmath.log1p(s**-2)))
    ),
    "flow": lambda s: 1 / (1 + s),
}
PATHS = {"vp": AffinePath.vp(), "flow": AffinePath.flow()}


def time_at(log_snr: float) -> float:
    return 1 / (1 + math.exp(log_snr))


def wanted(
    nodes: Sequence[float], time: float, after: float, variable: str, prediction: str, tau: float
) -> list[float]:
    """Return the shares by adaptive quadrature of their definition in s, in 30 digits."""
    with mpmath.workdps(30):
        exact = [mpmath.mpf(t) for t in (*nodes, time, after)]
        levels = [(1 - t) / t if t > 0 else mpmath.inf for t in exact]
        value = VARIABLES[variable]
        *at, first, last = levels
        places = [value(s) for s in at]
        power = 1 + mpmath.mpf(tau) ** 2
        data = prediction == "data"
        # Of w = (s / s_last)^power from 0 or more to 1, and of w = sigma / sigma_first: the same fraction.
        low = first / last if after > 0 else mpmath.mpf(0)
        cuts = [mpmath.mpf(2) ** -k for k in range(100, 0, -1) if mpmath.mpf(2) ** -k > low]

        def integrand(rho: mpmath.mpf, j: int) -> mpmath.mpf:
            v = value(rho * last if data else first / rho)
            basis = mpmath.fprod((v - places[i]) / (places[j] - places[i]) for i in range(len(at)) if i != j)
            return basis * (power * rho ** (power - 1) if data else 1)

        whole = 1 - low**power if data else 1 - low
        return [
            float(mpmath.quad(lambda rho, j=j: integrand(rho, j), [low, *cuts, 1]) / whole)
            for j in range(len(at))
        ]


def given(
    nodes: Sequence[float], time: float, after: float, variable: str, prediction: str, tau: float
) -> tuple[float, ...]:
    path = PATHS.get(variable)
    name = variable if path is None else "t"
    return lagrange_shares(nodes, time, after, variable=name, prediction=prediction, tau=tau, path=path)


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("length", [1e-3, 0.1, 3.0])
def test_shares_equal_quadrature(variable: str, prediction: str, length: float) -> None:
    draw = random.Random(f"{variable} {prediction} {length}")
    for order in (2, 3, 4):
        tau = draw.choice([0.0, 0.6, 1.0]) if prediction == "data" else 0.0
        logs = [draw.uniform(-2.5, 1.5)]
        for _ in range(order):
            logs.append(logs[-1] - length * draw.uniform(0.4, 1.2))
        # Steps of 3 e-folds end beyond the path of the variance-preserving time.
        shift = max(0.0, -4.9 - logs[-1])
        after, *nodes = (time_at(log + shift) for log in logs)
        got = given(nodes, nodes[0], after, variable, prediction, tau)
        expected = wanted(nodes, nodes[0], after, variable, prediction, tau)
        # The path's time is known to rounding, and differences of it to rounding over the step.
        bound = 1e-12 if variable not in PATHS else 1e-12 + 3e-14 / length
        scale = max(1.0, *map(abs, expected))
        assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= bound * scale, order
        assert math.isclose(sum(got), 1, abs_tol=1e-12 * scale)


@pytest.mark.parametrize(
    ("nodes", "time", "after", "variable", "prediction", "tau"),
    [
        ((0.5, 0.8), 0.5, 0.0, "sigma", "noise", 0.0),
        ((0.5, 0.8, 0.9), 0.5, 0.0, "log_snr", "noise", 0.0),
        ((0.5, 0.8), 0.5, 0.0, "vp", "noise", 0.0),
        ((0.9, 1.0), 0.9, 0.5, "inv_sigma", "data", 0.0),
        ((0.9, 1.0), 0.9, 0.5, "inv_sigma", "data", 1.0),
        ((0.5, 1.0), 1.0, 0.5, "inv_sigma", "data", 0.0),
        ((0.5, 1.0), 1.0, 0.5, "flow", "data", 0.6),
        ((0.01, 0.999), 0.999, 0.01, "log_snr", "data", 1.0),
        ((0.001, 0.99999), 0.99999, 0.001, "log_snr", "noise", 0.0),
        # Nodes inside the step, as of Runge-Kutta methods, and one at its end, as of correctors.
        ((0.6, 0.8), 0.8, 0.4, "log_snr", "noise", 0.0),
        ((0.4, 0.8, 0.9), 0.8, 0.4, "log_snr", "data", 0.0),
    ],
)
def test_shares_at_the_ends_and_inside_equal_quadrature(
    nodes: tuple[float, ...], time: float, after: float, variable: str, prediction: str, tau: float
) -> None:
    got = given(nodes, time, after, variable, prediction, tau)
    expected = wanted(nodes, time, after, variable, prediction, tau)
    assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= 1e-12 * max(map(abs, expected))


@pytest.mark.parametrize(("order", "table"), [(2, (3, -1)), (3, (23, -16, 5)), (4, (55, -59, 37, -9))])
def test_evenly_spaced_sigma_gives_the_adams_bashforth_table(order: int, table: tuple[int, ...]) -> None:
    sigmas = [2.0 + 0.5 * k for k in range(order)]
    nodes = [sigma / (1 + sigma) for sigma in sigmas]
    got = lagrange_shares(nodes, nodes[0], 0.6, variable="sigma", prediction="noise")
    assert got == pytest.approx([entry / sum(table) for entry in table], abs=1e-13)


def test_two_nodes_in_data_over_log_snr_are_the_published_second_order_step() -> None:
    # DPM-Solver++(2): int e^(lam - lam') (lam - lam_0) dlam = h - 1 + e^-h, over -h_1 for the node before.
    h, before = 0.3, 0.2
    times = [time_at(-h - before), time_at(-h), time_at(0.0)]
    share = lagrange_shares(times[1::-1], times[1], times[2], variable="log_snr", prediction="data")[1]
    assert share == pytest.approx(-(h - 1 + math.exp(-h)) / before / (1 - math.exp(-h)), rel=1e-13)


def test_a_node_where_the_variable_is_infinite_has_no_share() -> None:
    for variable in ("log_snr", "sigma"):
        got = lagrange_shares((0.9, 1.0), 0.9, 0.5, variable=variable, prediction="data")
        assert got == (1.0, 0.0)
        assert lagrange_shares((1.0,), 1.0, 0.5, variable=variable, prediction="data") == (1.0,)
    off = lagrange_shares((0.9, 1.0), 0.9, 0.5, variable="t", prediction="data", path=AffinePath.vp())
    assert off == (1.0, 0.0)
    assert node_positions((1.0,), 0.9, 0.5, variable="inv_sigma", prediction="data") != (math.inf,)


@pytest.mark.parametrize("time", [1.0, 0.99, 0.3, 1e-4])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.999999])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_a_known_image_is_carried_exactly_by_the_data_form(time: float, share: float, tau: float) -> None:
    # x = (1 - t) x0 + t noise -> (1 - t') x0 + t' noise, whose sd is 1 again.
    after = share * time
    step = transfer(time, after, "data", tau)
    assert step.keep * (1 - time) + step.gain == pytest.approx(1 - after, rel=1e-13)
    assert math.hypot(step.keep * time, step.fresh) == pytest.approx(after, rel=1e-13)
    if tau == 0:
        assert step.fresh == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999999])
def test_known_noise_is_carried_exactly_by_the_noise_form(share: float) -> None:
    time = 0.7
    step = transfer(time, share * time, "noise")
    assert step.keep * (1 - time) == pytest.approx(1 - share * time, rel=1e-13)
    assert step.keep * time + step.gain == pytest.approx(share * time, rel=1e-9, abs=1e-15)
    assert step.fresh == 0


def test_fresh_noise_of_the_noise_form_is_that_of_the_reverse_diffusion() -> None:
    # z' = z + (1 + tau^2)(sigma' - sigma) eps + tau sqrt(sigma^2 - sigma'^2) w
    sigma, after, tau = 3.0, 1.2, 0.7
    step = transfer(sigma / (1 + sigma), after / (1 + after), "noise", tau)
    assert step.keep == pytest.approx((1 + sigma) / (1 + after), rel=1e-14)
    assert step.gain * (1 + after) == pytest.approx((1 + tau**2) * (after - sigma), rel=1e-14)
    assert step.fresh * (1 + after) == pytest.approx(tau * math.sqrt(sigma**2 - after**2), rel=1e-14)


def test_the_data_form_at_tau_one_is_the_exact_gaussian_step() -> None:
    # z' = D + k (z - D) + sigma' sqrt(1 - k) w with k = (sigma' / sigma)^2
    sigma, after = 3.0, 1.2
    k = (after / sigma) ** 2
    step = transfer(sigma / (1 + sigma), after / (1 + after), "data", 1.0)
    assert step.keep * (1 + after) / (1 + sigma) == pytest.approx(k, rel=1e-14)
    assert step.gain * (1 + after) == pytest.approx(1 - k, rel=1e-14)
    assert step.fresh * (1 + after) == pytest.approx(after * math.sqrt(1 - k), rel=1e-14)


def test_the_variable_t_needs_a_path() -> None:
    with pytest.raises(ValueError, match="`path` must be given for the variable"):
        lagrange_shares((0.5, 0.6), 0.5, 0.4, variable="t", prediction="data")
