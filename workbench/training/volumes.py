"""Volumes that slices are cut from: the same way up, in memory, each of one subject."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_finite, check_number
from operators.errors import type_error, value_error
from workbench.priors.slice_frame import SliceAxis
from workbench.volume import Volume

__all__ = ["COARSEST", "SliceVolume"]

#: Slices are cut across an axis only where the voxels within them are not longer than this, in mm.
COARSEST = 3.25
#: And only where the slices are at least so wide and high, in mm: others are strips.
NARROWEST = 120.0
#: A plane belongs to the object where it has this share of the bright voxels of the fullest plane.
SHARE = 0.06


@dataclass(frozen=True, eq=False)
class SliceVolume:
    """One volume, (components, S, A, R) in float32: real in one component, complex in two.

    Parameters
    ----------
    above
        Physical values less `fill`.
    spacing
        In mm, along (S, A, R).
    subject, name
        Who was imaged, and what the volume is called in messages.
    fill
        What is beyond its faces: air.
    box
        First and last millimetre of the object along (S, A, R): couches and clothes may lie outside.
    axes
        Across which it may be cut; by default wherever its voxels are short enough and it is wide enough.
    weight
        How often it is chosen, beside others.
    """

    above: Tensor
    spacing: tuple[float, float, float]
    subject: str
    name: str
    fill: float
    box: tuple[tuple[float, float], ...]
    axes: tuple[SliceAxis, ...]
    weight: float = 1.0

    @classmethod
    def of(
        cls,
        volume: Volume,
        *,
        subject: str,
        name: str,
        fill: float,
        axes: tuple[SliceAxis, ...] | None = None,
        weight: float = 1.0,
    ) -> SliceVolume:
        """Return a volume turned to (S, A, R)."""
        if volume.grid.time is not None or volume.components:
            raise value_error("volume", "be a single image", repr(volume.grid), "Take one frame of it.")
        check_finite(volume.data, name)
        turned = volume.canonical()
        values = turned.data
        parts = (
            torch.view_as_real(values.resolve_conj()).movedim(-1, 0) if values.is_complex() else values[None]
        )
        spacing = turned.grid.spacing
        possible = tuple(axis for axis in SliceAxis if _within(spacing, axis) <= COARSEST)
        wide = tuple(axis for axis in possible if _narrowest(turned.grid.shape, spacing, axis) >= NARROWEST)
        chosen = wide if axes is None else tuple(axis for axis in axes if axis in wide)
        if not chosen:
            found = f"voxels of {spacing} mm (S, A, R), shape {turned.grid.shape}"
            remedy = f"A slice has voxels of at most {COARSEST} mm and sides of at least {NARROWEST} mm."
            raise value_error(name, "have an axis to cut slices across", found, remedy)
        above = (parts.to(torch.float32) - fill).contiguous()
        box = tuple(_object(above, along, step) for along, step in enumerate(spacing))
        return cls(above, spacing, subject, name, float(fill), box, chosen, check_number(weight, "weight"))

    def finest(self, axis: SliceAxis) -> float:
        """Return the length below which a voxel of a slice would show interpolation alone."""
        return 0.8 * _within(self.spacing, axis)

    @property
    def extent(self) -> tuple[float, float, float]:
        """From the first voxel's centre to the last one's, in mm."""
        sizes = self.above.shape[1:]
        s, a, r = ((n - 1) * d for n, d in zip(sizes, self.spacing, strict=True))
        return s, a, r

    @staticmethod
    def require_some(volumes: object) -> tuple[SliceVolume, ...]:
        """Return volumes to train on, at least one, all of as many components."""
        if not isinstance(volumes, (tuple, list)) or not all(isinstance(v, SliceVolume) for v in volumes):
            raise type_error("volumes", "be SliceVolumes", repr(type(volumes).__name__))
        if not volumes or not sum(v.weight for v in volumes) > 0:
            raise value_error("volumes", "hold one volume of weight > 0 or more", f"{len(volumes)} volumes")
        return tuple(volumes)


def _within(spacing: tuple[float, ...], axis: SliceAxis) -> float:
    """Return the longer side of a voxel within slices across `axis`; spacing goes (S, A, R)."""
    return max(spacing[2 - world] for world in axis.in_plane)


def _narrowest(shape: tuple[int, ...], spacing: tuple[float, ...], axis: SliceAxis) -> float:
    """Return the shorter side of slices across `axis`, in mm."""
    return min(shape[2 - world] * spacing[2 - world] for world in axis.in_plane)


def _object(above: Tensor, along: int, step: float) -> tuple[float, float]:
    """Return where the object begins and ends along an axis, by the count of voxels above half the mean."""
    size = torch.linalg.vector_norm(above, dim=0)
    bright = size > 0.5 * size.square().mean().sqrt()
    counts = bright.sum(dim=[axis for axis in range(3) if axis != along]).double()
    inside = (counts >= SHARE * counts.max()).nonzero()
    return float(inside[0]) * step, float(inside[-1]) * step
