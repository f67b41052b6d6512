"""From raw projections, flats and darks to photon counts with the beam that they belong to.

    counts N = (projection - dark) / g,    blank B = (flat - dark) / g,    line integral -log(N / B)

g is the detector's number per photon. A beam of flats that differ by nothing but photons tells it:
Var[flat] = g E[flat - dark] + Var[dark] (the photon transfer curve).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from operators.checks import check_number, check_tensor
from operators.errors import NonFiniteError, describe, type_error, value_error
from workbench.calibration import Calibration, calibrations
from workbench.measurement import Geometry, Measurement, Provenance
from workbench.noise.base import Noise, counted
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import LogTransmission, PoissonTransmission
from workbench.noise.transmission import STARVED, line_integrals

__all__ = ["Transmission", "numbers_per_photon", "transmission"]

Law = Literal["poisson", "log", "gaussian"]
Average = Literal["mean", "median"]
#: The sd of a line integral that nothing is known of, in multiples of that of half a photon.
UNKNOWN = 1e3
#: How far above the darks a flat has to lie, in sds of what the darks' own noise leaves in the difference.
LIT = 5.0


@dataclass(frozen=True, eq=False)
class Transmission:
    """Photon `counts` (views, rows, columns) >= 0 and the `blank` of the beam, which broadcasts to them.

    `bad` (rows, columns) are pixels that were dead or saturated, whose counts are their neighbours'.
    """

    counts: Tensor
    blank: Tensor
    bad: Tensor

    def line_integrals(self) -> Tensor:
        """Return -log(counts / blank); rays that counted nothing count half, and are warned about."""
        return line_integrals(self.counts, self.blank)

    def weights(self) -> Tensor:
        """Return 1 / variance of each line integral: its counts, 0 where it was starved or its pixel bad."""
        known = (self.counts > 0) & ~self.bad
        return torch.where(known, self.counts, 0.0)

    def measurement(
        self,
        geometry: Geometry,
        law: Law = "poisson",
        calibration: Calibration | tuple[Calibration, ...] = (),
        provenance: Provenance | None = None,
    ) -> Measurement:
        """Return the measurement: of counts ("poisson", or "log" where they are many), or of line integrals.

        "gaussian" gives each line integral its own sd, and one a thousand times too wide where nothing is
        known. The laws of counts take bad pixels for what their neighbours counted.
        """
        if law not in get_args(Law):
            raise value_error("law", f"be one of {', '.join(get_args(Law))}", repr(law))
        data, noise = self.counts, None
        if law == "gaussian":
            data, weights = self.line_integrals(), self.weights()
            sd = torch.where(weights > 0, weights.clamp(min=STARVED).rsqrt(), UNKNOWN * STARVED**-0.5)
            noise = Gaussian(sd)
        kinds: dict[str, type[PoissonTransmission] | type[LogTransmission]]
        kinds = {"poisson": PoissonTransmission, "log": LogTransmission}
        law_of_noise: Noise = kinds[law](self.blank) if noise is None else noise
        given = provenance or Provenance()
        return Measurement(data, geometry, law_of_noise, calibrations(calibration), given)


def transmission(
    projections: Tensor,
    flats: Tensor,
    darks: Tensor | None = None,
    *,
    average: Average = "median",
    gain: float = 1.0,
    repair: bool = False,
    saturation: float | None = None,
    air: slice | None = None,
) -> Transmission:
    """Return the counts of `projections` (views, rows, columns) from frames of flats and darks.

    Frames are averaged by `average`. `gain` is the detector's number per photon (`numbers_per_photon`).
    Pixels whose flat is not above its dark by more than noise, not a number, or at `saturation` are an error
    unless `repair` takes their columns' neighbours instead. `air` are columns beside the object: the beam of
    each view and row is scaled to what they count.
    """
    raw = _frames(projections, "projections", 3)
    lit = _frames(flats, "flats", raw.ndim, raw.shape[1:])
    beam, unlit = _averaged(lit, average), 0.0
    dark = torch.zeros_like(beam)
    if darks is not None:
        still = _frames(darks, "darks", raw.ndim, raw.shape[1:])
        dark, unlit = _averaged(still, average), _unlit(still, len(lit))
    per_photon = check_number(gain, "gain", positive=True)
    limit = None if saturation is None else check_number(saturation, "saturation")
    blank = (beam - dark) / per_photon
    bad = ~(torch.isfinite(blank) & (beam - dark > unlit))
    if limit is not None:
        bad = bad | (beam >= limit)
    if bool(bad.any()) and not repair:
        place = torch.nonzero(bad)[0].tolist()
        raise value_error(
            "flats",
            "lie above the darks and their noise, finite and below saturation, in every pixel",
            f"{int(bad.sum())} of {bad.numel()} pixels that do not, the first at row, column {place}",
            "repair=True takes their neighbours' values.",
        )
    holes = ~torch.isfinite(raw) & ~bad
    if bool(holes.any()):
        found = f"{int(holes.sum())} NaN or infinite values in {int(holes.flatten(1).any(1).sum())} views"
        raise NonFiniteError(describe("projections", "be finite", found, "Leave those views out."))
    dead = bad.all(dim=-1)
    if bool(dead.any()):
        found = f"{int(dead.sum())} of {len(dead)} rows of bad ones, the first row {int(dead.nonzero()[0])}"
        raise value_error("flats", "have a good pixel in every row", found, "Leave such rows out.")
    counts = ((raw - dark) / per_photon).clamp(min=0)
    if bool(bad.any()):
        # Neighbours are asked for their transmission: what they count is their own gain too.
        shares = _from_neighbours(counts / torch.where(bad, 1.0, blank), bad)
        blank = _from_neighbours(blank, bad)
        counts = torch.where(bad, shares * blank, counts)
    if air is not None:
        blank = blank * _drift(counts, blank, bad, air)
    return Transmission(counts, blank, bad)


def numbers_per_photon(flats: Tensor, darks: Tensor | None = None) -> float:
    """Return g from the differences of successive flats (frames, rows, columns), their means made equal.

    Var over mean, each averaged over the pixels: neighbours that share light lower it, a flickering beam does
    not raise it. Two frames or more; its relative standard error is at most 2 / sqrt(frames pixels).
    """
    frames = _frames(flats, "flats", 3)
    if len(frames) < 2:
        raise value_error("flats", "be two frames or more", len(frames), "State the gain.")
    still, noise = torch.zeros_like(frames[0]), torch.zeros_like(frames[0])
    if darks is not None:
        dark = _frames(darks, "darks", 3, frames.shape[1:])
        still = dark.mean(0)
        noise = dark.diff(dim=0).square().mean(0) / 2 if len(dark) > 1 else noise
    signal = frames - still
    level = signal.mean(dim=(1, 2), keepdim=True)
    scale = level.mean() / level
    steady = signal * scale
    variance = steady.diff(dim=0).square().mean(0) / 2
    # A frame times s: its photons' variance is s g mean, that of its noise s^2 times as large.
    share, noise = (scale[1:] + scale[:-1]).mean() / 2, noise * (scale[1:] ** 2 + scale[:-1] ** 2).mean() / 2
    mean = steady.mean(0) * share
    used = torch.isfinite(variance) & (mean > 0)
    if not bool(used.any()):
        raise value_error("flats", "lie above the darks", "no pixel that does")
    # Few frames: the mean of each variance is right, its median too small. Averages of pixels are both.
    ratio = float((variance - noise)[used].mean() / mean[used].mean())
    if not ratio > 0:
        raise value_error(
            "flats", "differ by more than the darks do", f"a gain of {ratio:g}", "State the gain."
        )
    return ratio


def _frames(values: object, name: str, ndim: int, pixels: torch.Size | None = None) -> Tensor:
    if isinstance(values, Tensor):
        values = counted(values)
    found = check_tensor(values, name)
    if found.is_complex():
        raise type_error(name, "be real", found.dtype)
    if pixels is not None and found.ndim == ndim - 1:
        found = found[None]
    if found.ndim != ndim or (pixels is not None and found.shape[1:] != pixels) or found.shape[0] == 0:
        shape = "rows, columns" if pixels is None else ", ".join(str(n) for n in pixels)
        raise value_error(name, f"have shape (frames, {shape})", tuple(found.shape))
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def _averaged(frames: Tensor, average: object) -> Tensor:
    if average not in get_args(Average):
        raise value_error("average", f"be one of {', '.join(get_args(Average))}", repr(average))
    if average == "mean":
        return frames.mean(dim=0)
    # The middle of an even number of frames lies between two of them.
    return frames.double().quantile(0.5, dim=0).to(frames.dtype)


def _unlit(darks: Tensor, flats: int) -> float:
    """Return what a pixel without light may show: how far noise takes averages of `flats` and darks apart."""
    if len(darks) < 2:
        return 0.0
    variance = darks.diff(dim=0).square().mean(0).flatten().nanmedian() / 2
    return LIT * math.sqrt(float(variance) * (1 / flats + 1 / len(darks)))


def _from_neighbours(values: Tensor, bad: Tensor) -> Tensor:
    """Return `values` (..., rows, columns) with bad pixels interpolated along their row."""
    out = values.clone()
    for row in torch.nonzero(bad.any(dim=-1)).flatten().tolist():
        good = torch.nonzero(~bad[row]).flatten()
        for column in torch.nonzero(bad[row]).flatten().tolist():
            after = int(torch.searchsorted(good, column))
            left, right = good[max(after - 1, 0)], good[min(after, len(good) - 1)]
            share = (column - int(left)) / max(int(right - left), 1)
            mixed = (1 - share) * values[..., row, left] + share * values[..., row, right]
            out[..., row, column] = mixed
    return out


def _drift(counts: Tensor, blank: Tensor, bad: Tensor, air: slice) -> Tensor:
    """Return the factor (views, rows, 1) of the beam in each view."""
    if not isinstance(air, slice):
        raise type_error("air", "be a slice of columns", repr(air), "Such as slice(0, 20).")
    good = (~bad[:, air]).to(counts.dtype)
    beam = (blank[:, air] * good).sum(-1)
    if not bool((beam > 0).all()):
        raise value_error("air", "hold good pixels in every row", air)
    factor = (counts[..., air] * good).sum(-1) / beam
    if not bool((factor > 0).all()):
        raise value_error("air", "be columns that count photons in every view", air)
    off = float((factor - 1).abs().max())
    if off > 0.5:
        warnings.warn(
            f"the beam in the air columns is up to {off:.0%} off its flats: is something in front of them?",
            UserWarning,
            stacklevel=3,
        )
    return factor[..., None]
