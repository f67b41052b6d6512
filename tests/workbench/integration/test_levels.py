"""Grids of noise levels: where they begin and end, and by which rule they go in between."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from workbench.integration import Karras, Levels, LogUniform, PathUniform, Shifted
from workbench.integration.levels import sigma_of, time_of
from workbench.paths import AffinePath

FLOW, VP = AffinePath.flow(), AffinePath.vp()
GRIDS = [
    Karras(),
    Karras(40.0, 0.01, rho=3.0),
    LogUniform(),
    PathUniform(),
    PathUniform(power=2.0, sigma_min=0.01),
    PathUniform(FLOW),
    PathUniform(AffinePath.ve()),
    PathUniform(AffinePath.discrete((0.01, 0.1, 1.0, 5.0, 40.0))),
    PathUniform(AffinePath.resfusion()),
    Shifted(LogUniform(), 4.0),
]


def sigmas(levels: Levels, steps: int) -> list[float]:
    return [sigma_of(time) for time in levels.times(steps)]


@pytest.mark.parametrize("levels", GRIDS, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_times_fall_from_noise_to_the_image(levels: Levels, steps: int) -> None:
    times = levels.times(steps)
    assert len(times) == steps + 1
    assert times[0] <= 1
    assert times[-1] == 0
    assert all(high > low for high, low in pairwise(times))


@pytest.mark.parametrize("kind", [Karras, LogUniform])
@pytest.mark.parametrize("steps", [2, 3, 9])
def test_ends_are_those_asked_for(kind: type[Karras | LogUniform], steps: int) -> None:
    first, last = time_of(30.0), time_of(0.03)
    assert kind(30.0, 0.03).times(steps)[0] == first
    assert kind(30.0, 0.03).times(steps)[-2:] == (last, 0.0)
    assert kind(30.0, 0.03, to_zero=False).times(steps)[-1] == last
    assert kind(30.0, 0.03, from_noise=True).times(steps)[:2] == (1.0, first)
    both = kind(30.0, 0.03, from_noise=True, to_zero=False).times(steps)
    assert (both[0], both[-1]) == (1.0, last if steps > 1 else first)


def test_karras_is_even_in_the_root_of_sigma() -> None:
    values = sigmas(Karras(80.0, 0.002, rho=7.0), 12)[:-1]
    gaps = [a ** (1 / 7) - b ** (1 / 7) for a, b in pairwise(values)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps), rel=1e-9)


def test_log_uniform_is_even_in_the_logarithm() -> None:
    values = sigmas(LogUniform(80.0, 0.002), 12)[:-1]
    assert [a / b for a, b in pairwise(values)] == pytest.approx([40000 ** (1 / 11)] * 11, rel=1e-9)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_path_uniform_is_even_in_a_power_of_the_paths_time(power: float) -> None:
    values = sigmas(PathUniform(VP, power=power), 10)[:-1]
    own = [float(VP.time_of(sigma)) ** (1 / power) for sigma in values] + [0.0]
    assert own[0] == pytest.approx(1, rel=1e-12)
    assert [a - b for a, b in pairwise(own)] == pytest.approx([0.1] * 10, rel=1e-9)


def test_a_path_whose_data_are_gone_begins_with_noise_alone() -> None:
    assert PathUniform(FLOW).times(4) == pytest.approx((1, 0.75, 0.5, 0.25, 0), abs=1e-15)
    assert PathUniform(FLOW).times(4)[0] == 1
    assert PathUniform(AffinePath.resfusion()).times(4)[0] == 1
    assert PathUniform(AffinePath.residual()).times(4)[0] == 1
    assert PathUniform(VP).times(4)[0] < 1
    assert PathUniform(VP, from_noise=True).times(4)[0] == 1


def test_levels_between_two_of_a_path() -> None:
    values = sigmas(PathUniform(VP, sigma_max=20.0, sigma_min=0.05, to_zero=False), 6)
    assert (values[0], values[-1]) == pytest.approx((20.0, 0.05), rel=1e-9)


def test_the_shift_scales_every_level_and_keeps_the_ends() -> None:
    plain, shifted = PathUniform(FLOW).times(10), Shifted.for_size(PathUniform(FLOW), 64**3, 64**2).times(10)
    assert shifted == pytest.approx([8 * t / (1 + 7 * t) for t in plain], rel=1e-14)
    assert (shifted[0], shifted[-1]) == (1.0, 0.0)
    factor = [sigma_of(b) / sigma_of(a) for a, b in zip(plain[1:-1], shifted[1:-1], strict=True)]
    assert factor == pytest.approx([8.0] * 9, rel=1e-12)


def test_the_shift_keeps_the_signal_to_noise_ratio_of_averages() -> None:
    # Of a constant image plus noise, the mean of n voxels has the noise sigma / sqrt(n).
    few, many = 16, 1024
    levels = Shifted.for_size(LogUniform(), many, few)
    means = [s / math.sqrt(many) for s in sigmas(levels, 5)]
    assert means == pytest.approx([s / math.sqrt(few) for s in sigmas(LogUniform(), 5)], rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Karras(sigma_max=0.001), "`sigma_max` must be larger than sigma_min"),
        (lambda: Karras(sigma_min=0.0), "`sigma_min` must be a finite number > 0"),
        (lambda: Karras(rho=0.0), "`rho` must be a finite number > 0"),
        (lambda: LogUniform(sigma_max=math.inf), "`sigma_max` must be a finite number > 0"),
        (lambda: LogUniform(to_zero=1), "`to_zero` must be True or False"),  # type: ignore[arg-type]
        (lambda: Karras().times(0), "`steps` must be an integer >= 1"),
        (lambda: Karras().times(2.5), "`steps` must be an integer >= 1"),  # type: ignore[arg-type]
        (lambda: PathUniform(VP, sigma_max=1000.0), "`sigma_max` must be a level of the path"),
        (lambda: PathUniform(VP, sigma_max=0.1, sigma_min=1.0), "be two levels of the path"),
        (lambda: PathUniform("vp"), "`path` must be an AffinePath"),  # type: ignore[arg-type]
        (lambda: PathUniform(AffinePath.interpolant()), "`path` must have noise at its far end"),
        (lambda: PathUniform(power=-1.0), "`power` must be a finite number > 0"),
        (lambda: Shifted(Karras, 2.0), "`levels` must be Levels"),  # type: ignore[arg-type]
        (lambda: Shifted(Karras(), 0.0), "`factor` must be a finite number > 0"),
        (lambda: Shifted.for_size(Karras(), 0, 10), "`voxels` must be an integer >= 1"),
    ],
)
def test_mistakes_are_named(make: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()  # type: ignore[operator]


def test_grids_are_values() -> None:
    assert Karras(40.0) == Karras(40.0) != Karras(41.0)
    assert hash(PathUniform(VP)) == hash(PathUniform(AffinePath.vp()))
    assert torch.tensor(Karras().times(5)).isfinite().all()
