"""Priors that come with the workbench: one line each.

    prior = shipped_prior("ct-slice", grid, energy=70.0)

`ct-slice`: slices of torsos, HU from -1000 to 3000, voxels of 1.5 to 3 mm. `mr-slice`: complex slices of
heads, voxels of 1 to 2.2 mm, scaled so that `workbench.calibrate.signal_scale` is about one. Their cards say
what they were trained on and what they were measured to be: `read_card(shipped_path(name))`.
"""

from __future__ import annotations

from pathlib import Path

from operators.errors import value_error
from operators.grid import Grid
from workbench.io.slice_prior import read_slice_prior
from workbench.priors.base import Denoiser
from workbench.priors.network import Execution

__all__ = ["SHIPPED", "shipped_path", "shipped_prior"]

#: Their names.
SHIPPED = ("ct-slice", "mr-slice")


def shipped_path(name: str) -> Path:
    """Return where the weights of a shipped prior lie."""
    if name not in SHIPPED:
        raise value_error("name", f"be one of {', '.join(SHIPPED)}", repr(name))
    return Path(__file__).parent / f"{name}.safetensors"


def shipped_prior(
    name: str, grid: Grid, *, energy: float | None = None, execution: Execution | None = None
) -> Denoiser:
    """Return a shipped prior over one slice; see `read_slice_prior`."""
    return read_slice_prior(shipped_path(name), grid, energy=energy, execution=execution)
