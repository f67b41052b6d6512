"""Hounsfield units and attenuation, at a stated energy.

    HU = 1000 (mu - mu_water) / mu_water,    mu = mu_water (1 + HU / 1000)

Air is at -1000 HU, where mu = 0: what lies below is no matter. Attenuation of water: mass attenuation
coefficients of NIST's tables (Hubbell and Seltzer, NISTIR 5632, "Water, Liquid") at 1 g/cm^3.
"""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor

from operators.checks import check_finite, check_number, check_tensor
from operators.errors import type_error, value_error
from workbench.noise.base import counted
from workbench.units import Units

__all__ = ["attenuation_of", "hounsfield_of", "hounsfield_units", "water_attenuation"]

#: keV and cm^2/g.
WATER = np.array(
    [
        (10, 5.329),
        (15, 1.673),
        (20, 0.8096),
        (30, 0.3756),
        (40, 0.2683),
        (50, 0.2269),
        (60, 0.2059),
        (80, 0.1837),
        (100, 0.1707),
        (150, 0.1505),
        (200, 0.1370),
        (300, 0.1186),
        (400, 0.1061),
        (500, 0.09687),
        (600, 0.08956),
        (800, 0.07865),
        (1000, 0.07072),
    ]
)
#: A cubic goes through this many neighbours in the table.
NEIGHBOURS = 4
AIR = -1000.0


def water_attenuation(energy: float) -> float:
    """Return the attenuation of water in 1/mm at a photon `energy` in keV, 10 to 1000.

    Between tabulated energies by a cubic in the logarithms of both.
    """
    kev = check_number(energy, "energy", positive=True)
    if not WATER[0, 0] <= kev <= WATER[-1, 0]:
        remedy = "Photons of a tube at 120 kV have about 60 to 70 keV."
        raise value_error("energy", "lie in 10 to 1000 keV", kev, remedy)
    first = int(np.searchsorted(WATER[:, 0], kev)) - NEIGHBOURS // 2
    first = min(max(first, 0), len(WATER) - NEIGHBOURS)
    x, y = np.log(WATER[first : first + NEIGHBOURS]).T
    at, value = np.log(kev), 0.0
    for i in range(NEIGHBOURS):
        others = np.delete(x, i)
        value += y[i] * float(np.prod((at - others) / (x[i] - others)))
    return float(np.exp(value)) / 10


def attenuation_of(hounsfield: Tensor, energy: float, *, clamp: bool = False) -> Tensor:
    """Return the attenuation in 1/mm at `energy` in keV.

    Values below -1000 HU, such as the padding of a scanner's image, are negative attenuation and warned
    about; `clamp` takes them for air, as a simulation must.
    """
    values = _real(hounsfield, "hounsfield")
    below = values < AIR
    if clamp:
        values = values.clamp(min=AIR)
    elif bool(below.any()):
        warnings.warn(
            f"{int(below.sum())} of {below.numel()} values lie below -1000 HU, "
            f"down to {float(values.min()):g}: their attenuation is negative. clamp=True takes them for air.",
            UserWarning,
            stacklevel=2,
        )
    return water_attenuation(energy) * (1 + values / 1000)


def hounsfield_of(attenuation: Tensor, energy: float) -> Tensor:
    """Return Hounsfield units of an attenuation in 1/mm at `energy` in keV."""
    return 1000 * (_real(attenuation, "attenuation") / water_attenuation(energy) - 1)


def hounsfield_units(energy: float) -> Units:
    """Return the units of a prior that speaks HU: attenuation = scale * HU + offset, in 1/mm at `energy`."""
    water = water_attenuation(energy)
    return Units(water / 1000, water, "1/mm")


def _real(values: Tensor, name: str) -> Tensor:
    if isinstance(values, Tensor):
        values = counted(values)
    check_tensor(values, name)
    if values.is_complex():
        raise type_error(name, "be real", values.dtype)
    check_finite(values, name)
    return values
