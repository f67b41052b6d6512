"""Every path against its own formulas, and the converters against each other and against a closed form."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from workbench.paths import AffinePath, GaussianLaw, Prediction, StudentT
from workbench.paths.facts import facts_of_path, path_of_facts
from workbench.paths.prediction import from_data, to_data
from workbench.paths.schedules import Discrete, Flow, Schedule
from workbench.random import Keys

TABLE = Discrete.of_linear_betas()
PATHS = {
    "ve": AffinePath.ve(0.01, 50.0),
    "edm": AffinePath.edm(80.0),
    "vp": AffinePath.vp(),
    "vp cosine": AffinePath.vp_cosine(),
    "flow": AffinePath.flow(),
    "discrete": AffinePath(TABLE),
    "mean-reverting": AffinePath.mean_reverting(4.0, 0.7),
    "residual": AffinePath.residual(0.8),
    "resfusion": AffinePath.resfusion(),
    "interpolant": AffinePath.interpolant(0.9),
}
each_path = pytest.mark.parametrize("name", PATHS)


def inner_times(path: AffinePath, count: int = 41) -> Tensor:
    share = torch.linspace(0, 1, count + 2, dtype=torch.float64)[1:-1]
    return share * path.end


def normals(*shape: int, seed: int = 0) -> Tensor:
    return Keys(seed, (0,)).normals(shape, "test", like=torch.empty(0, dtype=torch.float64))[0]


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("ve", lambda t: (1.0, 0.0, 0.01 * 5000**t)),
        ("edm", lambda t: (1.0, 0.0, t)),
        ("vp", lambda t: (math.exp(-19.9 * t * t / 4 - 0.05 * t), 0.0, None)),
        ("vp cosine", lambda t: (math.cos(math.pi / 2 * (t + 0.008) / 1.008), 0.0, None)),
        ("flow", lambda t: (1 - t, 0.0, t)),
        (
            "mean-reverting",
            lambda t: (math.exp(-4 * t), 1 - math.exp(-4 * t), 0.7 * math.sqrt(1 - math.exp(-8 * t))),
        ),
        ("residual", lambda t: (1 - t, t, 0.8 * math.sqrt(t))),
        ("resfusion", lambda t: (2 * (1 - t / 2) - 1, t / 2, math.sqrt(1 - (1 - t / 2) ** 2))),
        ("interpolant", lambda t: (1 - t, t, 0.9 * math.sqrt(2 * t * (1 - t)))),
    ],
)
def test_scales_are_those_of_the_literature(name: str, scales: object) -> None:
    path = PATHS[name]
    for t in inner_times(path, 7).tolist():
        a, b, c = scales(t)  # type: ignore[operator]
        if name == "vp cosine":
            a = a / math.cos(math.pi / 2 * 0.008 / 1.008)
        c = math.sqrt(1 - a * a) if c is None else c
        point = path.at(t)
        for got, expected in ((point.a, a), (point.b, b), (point.c, c)):
            assert float(got) == pytest.approx(expected, rel=1e-12, abs=1e-13)


def test_the_discrete_path_is_that_of_ddpm() -> None:
    # Independent: the product of 1 - beta, in plain Python.
    product, betas = 1.0, [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    for i, beta in enumerate(betas):
        product *= 1 - beta
        if i in (0, 1, 10, 500, 999):
            point = PATHS["discrete"].at(float(i))
            assert float(point.a) == pytest.approx(math.sqrt(product), rel=1e-11)
            assert float(point.c) == pytest.approx(math.sqrt(1 - product), rel=1e-9)
    assert float(PATHS["discrete"].at(999.0).sigma) == pytest.approx(157.4, abs=0.1)
    half = PATHS["discrete"].at(10.5).sigma
    expected = (PATHS["discrete"].at(10.0).sigma * PATHS["discrete"].at(11.0).sigma).sqrt()
    assert float(half) == pytest.approx(float(expected), rel=1e-12)


@each_path
def test_the_signal_falls_and_time_is_found_again(name: str) -> None:
    path = PATHS[name]
    t = inner_times(path, 101)
    point = path.at(t)
    s = path.at(t).inv_sigma
    assert bool((s.diff() < 0).all())
    assert (path.time_of_inverse(s) - t).abs().max() <= 1e-9 * path.end
    assert (path.time_of(1 / s) - t).abs().max() <= 1e-9 * path.end
    assert torch.allclose(point.log_snr, point.inv_sigma.log(), rtol=1e-9, atol=1e-12)


@each_path
def test_slopes_are_derivatives(name: str) -> None:
    path = PATHS[name]
    t = inner_times(path, 9)
    if name == "discrete":
        t = t.floor() + 0.5  # between whole numbers: there it is smooth
    step = 1e-6 * path.end
    up, down, slope = path.at(t + step), path.at(t - step), path.slopes(t)
    for got, high, low in ((slope.a, up.a, down.a), (slope.b, up.b, down.b), (slope.c, up.c, down.c)):
        quotient = (high - low) / (2 * step)
        assert (got - quotient).abs().max() <= 1e-6 * quotient.abs().max().clamp(min=1.0)


@pytest.mark.parametrize("prediction", Prediction)
@each_path
def test_converters_round_trip(name: str, prediction: Prediction) -> None:
    path = PATHS[name]
    times = inner_times(path)
    data, noise, x_in = (normals(len(times), 3, 4, seed=s) for s in range(3))
    point = path.at(times)
    a, b, c = (v.reshape(-1, 1, 1) for v in (point.a, point.b, point.c))
    x = a * data + b * x_in + c * noise
    value = from_data(prediction, data, x, times, path, x_in)
    back = to_data(prediction, value, x, times, path, x_in)
    assert (back - data).abs().max() <= 1e-10 * data.abs().max()
    # Through every other prediction, and back.
    for other in Prediction:
        through = to_data(other, from_data(other, back, x, times, path, x_in), x, times, path, x_in)
        assert (through - data).abs().max() <= 1e-10 * data.abs().max()
        again = from_data(prediction, through, x, times, path, x_in)
        # What D is rounded by, the prediction is by a / c as much.
        scale = value.abs().flatten(1).max(dim=1).values.clamp(min=1.0).reshape(-1, 1, 1)
        amplified = (a / c).clamp(min=1.0) if prediction is not Prediction.DATA else 1.0
        assert ((again - value).abs() / scale / amplified).max() <= 1e-10


@each_path
def test_predictions_are_what_they_are_called(name: str) -> None:
    path = PATHS[name]
    times = inner_times(path, 5)
    times = times.floor() + 0.5 if name == "discrete" else times
    data, noise, x_in = (normals(len(times), 6, seed=s) for s in range(3))

    def at(t: Tensor) -> Tensor:
        p = path.at(t)
        return p.a[:, None] * data + p.b[:, None] * x_in + p.c[:, None] * noise

    x = at(times)
    got = {p: from_data(p, data, x, times, path, x_in) for p in Prediction}
    point = path.at(times)
    assert torch.allclose(got[Prediction.NOISE], noise, rtol=1e-8, atol=1e-8)
    assert torch.allclose(got[Prediction.SCORE], -noise / point.c[:, None], rtol=1e-8, atol=1e-8)
    v = point.a[:, None] * noise - point.c[:, None] * data
    assert torch.allclose(got[Prediction.V], v, rtol=1e-8, atol=1e-8)
    step = 1e-6 * path.end
    quotient = (at(times + step) - at(times - step)) / (2 * step)
    assert torch.allclose(got[Prediction.VELOCITY], quotient, rtol=1e-5, atol=1e-5)


def test_conversions_at_the_ends() -> None:
    x = normals(2, 5)
    value = normals(2, 5, seed=1)
    flow = AffinePath.flow()
    # u = t v(u, t) below: D = x - t v everywhere, at pure noise too.
    assert torch.allclose(to_data("velocity", value, x, 1.0, flow), x - value)
    assert torch.allclose(to_data("velocity", value, x, 0.25, flow), x - 0.25 * value)
    assert torch.allclose(to_data("velocity", value, x, 0.0, flow), x)
    assert torch.allclose(to_data("v", value, x, 1.0, AffinePath.vp_cosine()), -value)
    start, x_in = AffinePath.resfusion(), normals(2, 5, seed=2)
    noise = (x - x_in / 2) / math.sqrt(0.75)
    assert torch.allclose(from_data("noise", value, x, 1.0, start, x_in), noise)
    with pytest.raises(ValueError, match="`t` must be a time with a > 0"):
        to_data("noise", value, x, 1.0, flow)
    with pytest.raises(ValueError, match="`t` must be a time with c > 0"):
        from_data("noise", value, x, 0.0, flow)
    with pytest.raises(ValueError, match="`x_in` must be given"):
        to_data("data", value, x, 1.0, start)


def test_the_accelerated_start_of_resfusion_holds_no_data() -> None:
    point = AffinePath.resfusion().at(1.0)
    assert abs(float(point.a)) <= 1e-12
    assert float(point.b) == 0.5
    assert float(point.c) == pytest.approx(math.sqrt(3) / 2, abs=1e-15)
    for path in (AffinePath.flow(), AffinePath.vp_cosine()):
        assert float(path.at(path.end).a) == 0
        assert path.sigma_range == (0.0, math.inf)
    # a / c = sqrt((1 - t) / (2 t)) / sd: what noise is left at the end hides what data are left.
    assert AffinePath.interpolant(0.9).sigma_range == (0.0, math.inf)


def test_single_precision_and_complex_points() -> None:
    path = AffinePath.vp()
    data, noise = (normals(4, 3, seed=s) + 1j * normals(4, 3, seed=s + 7) for s in range(2))
    t = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    point = path.at(t)
    x = point.a[:, None] * data + point.c[:, None] * noise
    for prediction in Prediction:
        value = from_data(prediction, data, x, t, path)
        assert (to_data(prediction, value, x, t, path) - data).abs().max() <= 1e-10
        single = to_data(prediction, value.to(torch.complex64), x.to(torch.complex64), t, path)
        assert single.dtype == torch.complex64
        assert ((single - data).abs() * point.a[:, None]).max() <= 1e-5


@pytest.mark.parametrize(
    "path", [AffinePath.interpolant(), AffinePath.residual(0.0), AffinePath.mean_reverting(4.0, 0.0)]
)
def test_paths_without_spread_are_refused_for_sampling(path: AffinePath) -> None:
    with pytest.raises(ValueError, match="`path` must have noise at its far end.*c = 0.*Use a noisy start"):
        path.require_spread()


def test_the_others_are_not() -> None:
    for name in set(PATHS) - {"interpolant"}:
        PATHS[name].require_spread()


@each_path
@pytest.mark.parametrize("law", [GaussianLaw(), StudentT(3.5)])
def test_a_path_as_facts_and_back(name: str, law: object) -> None:
    path = PATHS[name].under(law)  # type: ignore[arg-type]
    assert path_of_facts(json.loads(json.dumps(facts_of_path(path)))) == path


class Own(Schedule):
    """A schedule of a user's."""

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (1 - t) ** 2, torch.zeros_like(t), t


def test_a_schedule_of_ones_own() -> None:
    path = AffinePath(Own())
    t = inner_times(path)
    assert (path.time_of_inverse(path.at(t).inv_sigma) - t).abs().max() <= 1e-12
    assert torch.allclose(path.slopes(t).a, -2 * (1 - t))
    with pytest.raises(ValueError, match="`path` must be made of .* to be written"):
        facts_of_path(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AffinePath(Flow), "`schedule` must be a Schedule"),
        (lambda: AffinePath(Flow(), "t"), "`law` must be a NoiseLaw"),
        (lambda: AffinePath.ve(2.0, 1.0), "`sigma_min, sigma_max` must be in increasing order"),
        (lambda: AffinePath.edm(0.0), "`sigma_max` must be"),
        (lambda: AffinePath.discrete((1.0,)), "`sigmas` must be two or more increasing"),
        (lambda: AffinePath.discrete((1.0, 0.5)), "`sigmas` must be two or more increasing"),
        (lambda: AffinePath.mean_reverting(-1.0), "`rate` must be"),
        (lambda: AffinePath.flow().at(1.5), "`t` must be a time of the path, 0 <= t <= 1"),
        (lambda: AffinePath.flow().at(float("nan")), "`t` must be a finite number"),
        (lambda: AffinePath.edm(80.0).time_of(100.0), "`inv_sigma` must be on the path"),
        (lambda: AffinePath.flow().time_of(-1.0), "`sigma` must be"),
        (lambda: StudentT(0.0), "`dof` must be"),
        (
            lambda: Prediction.require("eps"),
            "`prediction` must be a Prediction: data, noise, v, score, velocity",
        ),
        (
            lambda: path_of_facts({"schedule": {"name": "Mine"}, "law": {"name": "GaussianLaw"}}),
            "`facts` must be",
        ),
        (lambda: path_of_facts({}), "`facts` must be"),
        (
            lambda: to_data("score", normals(2), normals(2), 0.5, AffinePath.flow().under(StudentT(2))),
            "not be a score",
        ),
    ],
)
def test_mistakes(make: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()  # type: ignore[operator]
