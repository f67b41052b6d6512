"""Priors of slices that `workbench train` made, for whatever slice a grid is: one line.

    prior = read_slice_prior("runs/ct/prior.safetensors", grid, energy=70.0)

The grid says how long its voxels are, across which axis the slice lies and how it is stored; the network is
told, and sees the slice the way up it was trained on.
"""

from __future__ import annotations

from pathlib import Path

import torch

from operators.checks import check_number
from operators.errors import value_error
from operators.grid import Grid
from operators.space import Space
from workbench.calibrate.hounsfield import hounsfield_units
from workbench.io.weights import read_card, read_network
from workbench.priors.base import Denoiser
from workbench.priors.network import Card, Convolve, Execution
from workbench.priors.network.prior import NetworkPrior
from workbench.priors.slice_frame import SliceFrame
from workbench.priors.turned import TurnedPrior

__all__ = ["read_slice_prior"]

#: Trained lengths as rounding may have them.
SLACK = 1.005
#: A slice is at most so many of the longest trained voxels thick, and its sides a trained side over SMALLER.
THICKEST, SMALLER = 4.0, 4


def read_slice_prior(
    path: str | Path, grid: Grid, *, energy: float | None = None, execution: Execution | None = None
) -> Denoiser:
    """Return the prior of a file of weights over one slice.

    Parameters
    ----------
    path
        A file that `workbench train` wrote.
    grid
        One slice with square voxels, near an axial, coronal or sagittal plane, in any orientation.
    energy
        Of the photons in keV, for a prior in HU: its images are attenuations in 1/mm then, as CT measures
        them. Without it they are HU.
    execution
        Microbatch, autocast and the like; by default 16 slices at once.
    """
    card = read_card(path)
    frame = SliceFrame.of(grid)
    low, high = _spacings(card, path)
    if not low / SLACK <= frame.spacing <= high * SLACK:
        raise value_error(
            "grid",
            f"have voxels of {low:g} to {high:g} mm, as the prior was trained on",
            f"{frame.spacing:g} mm",
            "Reconstruct on a grid of such voxels, and resample the answer.",
        )
    _check_extent(grid, card, high)
    thickness = grid.spacing[0]
    sizes = (grid.shape[2], grid.shape[1]) if frame.transposed else grid.shape[1:]
    seen = Grid.plane(sizes, (frame.spacing, frame.spacing), thickness=thickness)
    is_complex = bool(card.training.is_complex)
    network = read_network(
        path,
        Space.field(seen, is_complex=is_complex),
        policy=Convolve(_multiple(card)),
        execution=Execution(microbatch=16, channels_last=True) if execution is None else execution,
    )
    bound = network.given(frame.labels.to(torch.float32))
    if energy is not None:
        bound = _in_attenuation(bound, energy)
    space = Space.field(grid, is_complex=is_complex)
    return TurnedPrior(bound, space, frame)


def _spacings(card: Card, path: str | Path) -> tuple[float, float]:
    slices = card.provenance.notes.get("slices")
    if not isinstance(slices, dict) or slices.get("frame") != 1:
        remedy = "read_network(path, space) reads any other network."
        raise value_error("path", "hold a prior of slices, as `workbench train` writes it", str(path), remedy)
    low, high = slices["spacing"]
    return float(low), float(high)


def _check_extent(grid: Grid, card: Card, longest: float) -> None:
    """Refuse slices that are thicker, or smaller, than anything that was trained on."""
    if grid.spacing[0] > THICKEST * longest:
        raise value_error(
            "grid",
            f"be at most {THICKEST * longest:g} mm thick",
            f"{grid.spacing[0]:g} mm",
            "Such a slice is a projection: reconstruct thinner ones, and average them.",
        )
    trained = min((min(size) for size in card.provenance.notes["slices"].get("sizes", ())), default=0)
    if min(grid.shape[1:]) < trained / SMALLER:
        rows, columns = grid.shape[1:]
        expected = f"have sides of {-(-trained // SMALLER)} voxels or more: it was trained on {trained}"
        raise value_error("grid", expected, f"{rows} x {columns}", "Take a wider field of view.")


def _multiple(card: Card) -> int:
    """Return what the sides of an image are padded to."""
    settings = card.architecture.settings
    return int(settings["shuffle"]) << (len(settings["widths"]) - 1)


def _in_attenuation(prior: NetworkPrior, energy: float) -> NetworkPrior:
    """Return the prior with u = HU / 1000 read as attenuation."""
    if prior.units.unit != "HU":
        remedy = "Leave it out for images that are no attenuation."
        raise value_error("energy", "be None: the prior is not in HU", check_number(energy, "energy"), remedy)
    return prior.in_units(prior.units.then(hounsfield_units(energy)))
