"""Beam hardening: what many energies measure behind water, and what one energy would have.

    p(L) = -log sum_k w_k exp(-mu_k L),  sum_k w_k = 1        measured
    t(L) = mu(E) L = a_1 p + a_2 p^2 + ... + a_n p^n          wanted, at a reference energy E

(Herman 1979.) Softer photons go first: p bends, and a uniform cylinder comes back with a cup. Right for water
and what is like it; bone hardens more, and keeps streaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from operators.checks import check_count, check_finite, check_number, check_tensor
from operators.ct.views import Float
from operators.errors import type_error, value_error
from workbench.calibrate.hounsfield import water_attenuation

__all__ = ["WaterCorrection", "water_line_integrals"]

#: Thicknesses that a polynomial is fitted at, and places where its slope is looked at.
POINTS = 400


@dataclass(frozen=True)
class WaterCorrection:
    """A polynomial a_1 p + ... + a_n p^n that rises over 0 <= p <= `largest`; beyond it goes on straight."""

    coefficients: tuple[float, ...]
    largest: float

    def __post_init__(self) -> None:
        values = tuple(check_number(a, f"coefficients[{k}]") for k, a in enumerate(self.coefficients))
        if not values:
            raise value_error("coefficients", "be one number or more", "none")
        object.__setattr__(self, "coefficients", values)
        object.__setattr__(self, "largest", check_number(self.largest, "largest", positive=True))
        slope = self._slope(np.linspace(0, self.largest, POINTS))
        if not slope.min() > 0:
            place = float(np.linspace(0, self.largest, POINTS)[int(np.argmin(slope))])
            remedy = "Fit a lower degree, or over a smaller range."
            raise value_error(
                "coefficients", "rise over the whole range", f"a fall at p = {place:.3g}", remedy
            )

    @classmethod
    def fitted(cls, measured: ArrayLike, wanted: ArrayLike, *, degree: int = 4) -> WaterCorrection:
        """Return the correction by least squares through pairs, such as those of a wedge of known steps."""
        pairs = []
        for name, given in (("measured", measured), ("wanted", wanted)):
            try:
                pairs.append(np.asarray(given, dtype=np.float64).reshape(-1))
            except (TypeError, ValueError) as error:
                raise type_error(name, "be line integrals", repr(given)) from error
        p, t = pairs
        terms = check_count(degree, "degree")
        if p.shape != t.shape or len(p) < terms or not (np.isfinite(p).all() and np.isfinite(t).all()):
            expected = f"be as many finite numbers as `measured`, {terms} or more"
            raise value_error("wanted", expected, f"{len(t)} and {len(p)}")
        if not p.max() > 0:
            raise value_error("measured", "hold line integrals > 0", f"a maximum of {p.max():g}")
        # Powers of p / max p have a good condition.
        scale = float(p.max())
        powers = (p[:, None] / scale) ** np.arange(1, terms + 1)
        found = np.linalg.lstsq(powers, t, rcond=None)[0] / scale ** np.arange(1, terms + 1)
        return cls(tuple(found.tolist()), scale)

    @classmethod
    def of_spectrum(
        cls,
        energies: Sequence[float],
        weights: Sequence[float],
        *,
        reference: float,
        thickness: float = 400.0,
        degree: int = 4,
    ) -> WaterCorrection:
        """Return the correction of a spectrum seen through up to `thickness` mm of water.

        `weights` are what the detector registers at each of the `energies` in keV, in air; images come
        back at the `reference` energy.
        """
        lengths = np.linspace(0, check_number(thickness, "thickness", positive=True), POINTS)
        measured = water_line_integrals(torch.from_numpy(lengths), energies, weights).numpy()
        return cls.fitted(measured, water_attenuation(reference) * lengths, degree=degree)

    def apply(self, line_integrals: Tensor) -> Tensor:
        """Return what the reference energy would have measured; below zero, as noise is, by a_1."""
        check_tensor(line_integrals, "line_integrals")
        if line_integrals.is_complex():
            raise type_error("line_integrals", "be real", line_integrals.dtype)
        check_finite(line_integrals, "line_integrals")
        inside = line_integrals.clamp(0, self.largest)
        value = torch.zeros_like(inside)
        for a in reversed(self.coefficients):
            value = (value + a) * inside
        below, above = line_integrals.clamp(max=0), (line_integrals - self.largest).clamp(min=0)
        ends = self._slope(np.array([0.0, self.largest]))
        return value + float(ends[0]) * below + float(ends[1]) * above

    def _slope(self, p: Float) -> Float:
        terms = np.arange(1, len(self.coefficients) + 1)
        slope: Float = (p[:, None] ** (terms - 1)) @ (terms * np.array(self.coefficients))
        return slope


def water_line_integrals(lengths: Tensor, energies: Sequence[float], weights: Sequence[float]) -> Tensor:
    """Return p(L) behind `lengths` of water in mm, for a spectrum: a simulation, or half of a calibration."""
    check_tensor(lengths, "lengths")
    try:
        share = np.asarray(weights, dtype=np.float64)
        kev = np.asarray(energies, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type_error("weights", "be numbers, one per energy", repr(weights)) from error
    bad = share.ndim != 1 or share.shape != kev.shape or len(share) == 0
    if bad or not (np.isfinite(share).all() and share.min() >= 0 and share.sum() > 0):
        raise value_error("weights", "be numbers >= 0, one per energy", repr(weights))
    log_share = torch.log(torch.tensor(share / share.sum()))
    mu = torch.tensor([water_attenuation(float(e)) for e in kev], dtype=torch.float64)
    # A sum of exponentials by its logarithms: behind much water each is too small to be a number.
    return -torch.logsumexp(log_share - lengths.double()[..., None] * mu, dim=-1).to(lengths.dtype)
