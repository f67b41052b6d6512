"""Hounsfield units against values of the table and their definition."""

import math

import pytest
import torch

from operators.errors import NonFiniteError
from workbench.calibrate import hounsfield
from workbench.calibrate.hounsfield import attenuation_of, hounsfield_of, hounsfield_units, water_attenuation


@pytest.mark.parametrize(("energy", "value"), [(10, 0.5329), (60, 0.02059), (80, 0.01837), (1000, 0.007072)])
def test_tabulated_energies_are_met(energy: float, value: float) -> None:
    assert water_attenuation(energy) == pytest.approx(value, rel=1e-12)


def test_a_value_that_is_left_out_is_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = water_attenuation(60)
    monkeypatch.setattr(hounsfield, "WATER", hounsfield.WATER[hounsfield.WATER[:, 0] != 60])
    assert water_attenuation(60) == pytest.approx(wanted, rel=0.005)


def test_water_and_air_define_the_scale() -> None:
    mu = water_attenuation(70)
    assert attenuation_of(
        torch.tensor([0.0, -1000.0, 1000.0], dtype=torch.float64), 70
    ).tolist() == pytest.approx([mu, 0.0, 2 * mu])
    values = torch.linspace(-1000, 3000, 9, dtype=torch.float64)
    assert torch.allclose(hounsfield_of(attenuation_of(values, 120), 120), values)
    assert torch.allclose(hounsfield_units(70).physical(values), attenuation_of(values, 70))
    assert hounsfield_units(70).unit == "1/mm"


def test_integers_are_taken() -> None:
    assert float(attenuation_of(torch.tensor([0], dtype=torch.int16), 60)[0]) == pytest.approx(0.02059)


def test_what_is_less_than_air_is_warned_about_or_clamped() -> None:
    padded = torch.tensor([-2000.0, 40.0])
    with pytest.warns(UserWarning, match="1 of 2 values lie below -1000 HU, down to -2000"):
        assert float(attenuation_of(padded, 60)[0]) < 0
    assert float(attenuation_of(padded, 60, clamp=True)[0]) == 0


@pytest.mark.parametrize("energy", [5.0, 2000.0])
def test_other_energies_are_refused(energy: float) -> None:
    with pytest.raises(ValueError, match="`energy` must lie in 10 to 1000 keV"):
        water_attenuation(energy)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(NonFiniteError, match="`hounsfield` must hold finite values"):
        attenuation_of(torch.tensor([value, 0.0]), 60)
    with pytest.raises(NonFiniteError, match="`attenuation` must hold finite values"):
        hounsfield_of(torch.tensor([value, 0.0]), 60)


def test_complex_values_are_refused() -> None:
    with pytest.raises(TypeError, match="`hounsfield` must be real"):
        attenuation_of(torch.zeros(2, dtype=torch.complex64), 60)
