"""What a training states is checked, and holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from operators.grid import Grid
from operators.space import Space
from tests.oracles import random_element
from tests.workbench.priors.network_cases import FLOW, Pointwise
from workbench.paths import AffinePath, Prediction
from workbench.priors.network import EDMOutput, NetworkPrior, PathOutput, Training
from workbench.units import Units

PLANE = Space.field(Grid.plane((12, 16), (1.0, 1.5), thickness=3.0))
HU = Units(1000.0, -1000.0, "HU")


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: Training(size=(8,)), r"`size` must have two entries \(y, x\) or three"),
        (lambda: Training(size=8), r"`size` must have two entries \(y, x\) or three"),
        (lambda: Training(size=(8, 8), dimensions=3), r"`size` must have 3 entries, got \(8, 8\)"),
        (lambda: Training(dimensions=4), "`dimensions` must be one of None, 2, 3, got 4"),
        (lambda: Training(is_complex=1), "`is_complex` must be one of None, False, True, got 1"),
        (lambda: Training(spacing=(1.0,)), "`spacing` must have three lengths"),
        (lambda: Training(spacing=(1.0, 1.0), dimensions=3), "`spacing` must have three lengths"),
        (lambda: Training(spacing=(1.0, -1.0)), r"`spacing\[1\]` must be a finite number > 0"),
        (lambda: Training(units="HU"), "`units` must be a Units, got str"),
        (lambda: Training(data_range=(1.0, 0.0)), "`data_range` must be two numbers low < high"),
        (lambda: Training(data_sd=0.0), "`data_sd` must be a finite number > 0"),
        (lambda: Training(noise_range=(-1.0, 1.0)), "`noise_range` must begin at a level >= 0"),
        (lambda: Training(noise_range=3.0), r"`noise_range` must be two numbers \(low, high\)"),
        (lambda: Training(calibrated_score=None), "`calibrated_score` must be True or False"),
        (lambda: Training().with_(sizes=(8, 8)), "Did you mean size"),
        (
            lambda: NetworkPrior(Pointwise(), PLANE, FLOW, training={"size": (8, 8)}),
            "`training` must be of type Training, got dict",
        ),
    ],
)
def test_bad_trainings_are_named(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        attempt()


def test_levels_are_those_of_path_and_training() -> None:
    path = AffinePath.edm(sigma_max=80.0)
    output = PathOutput(path, Prediction.DATA)
    assert NetworkPrior(Pointwise(), PLANE, output).noise_range == (0.0, 80.0)
    assert NetworkPrior(Pointwise(), PLANE, EDMOutput()).noise_range == (0.0, math.inf)
    prior = NetworkPrior(Pointwise(), PLANE, output, training=Training(noise_range=(0.002, 50.0)))
    assert prior.noise_range == prior.declared.noise_range == (0.002, 50.0)
    for sigma in (0.0, 0.001, 51.0):
        with pytest.raises(
            ValueError, match="`sigma` must lie in the range that the NetworkPrior knows, 0.002"
        ):
            prior.denoise(random_element(PLANE, 1), sigma)
    with pytest.raises(
        ValueError, match=r"`training.noise_range` must lie on the output's path, 0 <= sigma <= 80"
    ):
        NetworkPrior(Pointwise(), PLANE, output, training=Training(noise_range=(0.1, 100.0)))
    capped = NetworkPrior(Pointwise(), PLANE, FLOW, training=Training(noise_range=(0.0, 100.0)))
    assert FLOW.knows_pure_noise
    assert not capped.knows_pure_noise


def test_units_are_those_of_the_training() -> None:
    stated = Training(units=HU)
    assert NetworkPrior(Pointwise(), PLANE, FLOW, training=stated).units == HU
    assert NetworkPrior(Pointwise(), PLANE, FLOW, training=stated, units=HU).units == HU
    assert NetworkPrior(Pointwise(), PLANE, FLOW, units=HU).units == HU
    assert NetworkPrior(Pointwise(), PLANE, FLOW).units == Units()
    for other in (Units(1.0, 0.0, "1/mm"), Units(500.0, -1000.0, "HU"), Units()):
        with pytest.raises(
            ValueError, match="`units` must be those the network was trained in, .*HU.*, got Uni"
        ):
            NetworkPrior(Pointwise(), PLANE, FLOW, training=stated, units=other)


def test_the_declaration_is_that_of_the_training() -> None:
    training = Training(
        size=(12, 16),
        spacing=(3.0, 1.0, 1.5),
        is_complex=False,
        units=HU,
        data_range=(-1.0, 3.0),
        data_sd=0.4,
        noise_range=(0.01, 40.0),
        calibrated_score=False,
    )
    facts = NetworkPrior(Pointwise(), PLANE, FLOW, training=training).declared
    assert (facts.units, facts.spacing, facts.dimensions) == (HU, (3.0, 1.0, 1.5), 2)
    assert (facts.data_range, facts.data_sd, facts.noise_range) == ((-1.0, 3.0), 0.4, (0.01, 40.0))
    assert not facts.calibrated_score
    assert not facts.exact
    assert NetworkPrior(Pointwise(), PLANE, FLOW).declared.calibrated_score
