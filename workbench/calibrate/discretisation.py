"""What voxels cannot represent: the difference of data behind an object and behind its means over voxels.

    excess = rms (A_fine x - A_coarse mean(x))

Along edges a voxel's mean is nowhere the object, and rays that graze one see it: behind few views of a body
and many photons this is more than the noise. Told of counting noise alone, a solver fits it, and pays with
streaks. No image of the object is needed: any other of its kind, drawn finely, has edges like it. The errors
of neighbouring rays are alike and most are small; a variance for all is what a Gaussian law can say of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from operators.errors import value_error
from operators.grid import Grid
from operators.linear import LinearOperator
from workbench.volume import Volume

__all__ = ["Acquisition", "discretisation_error"]

#: An object that fills less of its grid is a corner of one, or lies elsewhere.
LITTLE = 0.1


class Acquisition(Protocol):
    """A geometry: what measures images of any grid."""

    def operator(self, grid: Grid) -> LinearOperator:
        """Return the operator over images of `grid`."""


def discretisation_error(geometry: Acquisition, fine: Volume, factor: Sequence[int] | int = 2) -> float:
    """Return the rms change of data when `fine` is replaced by its means over blocks of `factor` voxels.

    `fine` is an object of the kind that is measured, drawn on a grid `factor` times as fine as the one that
    is reconstructed, in the unit that `geometry` measures; with line integrals of counts the result is the
    `excess` of `LogTransmission`.
    """
    coarse = fine.downsample(factor)
    size = fine.data.abs()
    share = float((size > 0.05 * size.max()).float().mean())
    if share < LITTLE:
        warnings.warn(
            f"the object fills {share:.1%} of its grid and has few edges to tell of: place one of the kind "
            "that is measured in the middle of the field of view.",
            UserWarning,
            stacklevel=2,
        )
    if coarse.grid.shape == fine.grid.shape:
        raise value_error("factor", "make one axis coarser", factor, "Such as 2, or (1, 2, 2) for a slice.")
    apart: Tensor = geometry.operator(fine.grid)(fine.data) - geometry.operator(coarse.grid)(coarse.data)
    return float(apart.abs().double().square().mean().sqrt())
