"""What the demo can be told; `workbench config show` prints it with every default."""

from __future__ import annotations

from typing import Annotated

from pipelines.config.loading import Config, Field, field_validator

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


class PhantomConfig(Config):
    """The synthetic object."""

    shape: tuple[Count, Count, Count] = Field(
        default=(40, 96, 128), description="Voxels along z, y, x (array order)."
    )
    spacing: tuple[Positive, Positive, Positive] = Field(
        default=(4.0, 2.5, 2.5), description="Voxel size along z, y, x (array order) [mm]."
    )

    @field_validator("shape")
    @classmethod
    def _has_neighbours(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if max(shape) == 1:
            raise ValueError("must have two voxels or more along some axis, for a gradient to penalise")
        return shape


class ScanConfig(Config):
    """The simulated acquisition."""

    views: int = Field(default=60, ge=1, description="Number of views over half a turn.")
    photons: float = Field(
        default=2e4,
        ge=1,
        le=1e12,
        description="Mean photon count per ray before the object attenuates it, from 1 to 1e12.",
    )


class SolveConfig(Config):
    """The reconstruction."""

    iterations: int = Field(
        default=20, ge=1, le=10_000, description="Iterations of plain CG; stopping early is its prior."
    )
    gradient_sd: float = Field(
        default=6e-4,
        gt=0,
        description="Standard deviation of the attenuation gradient the quadratic penalty assumes [1/mm^2].",
    )
    tolerance: float = Field(
        default=1e-3,
        gt=0,
        lt=1,
        description="Penalised CG stops once the residual has fallen by this factor.",
    )


class DemoConfig(Config):
    """The configuration of `workbench demo`."""

    phantom: PhantomConfig = PhantomConfig()
    scan: ScanConfig = ScanConfig()
    solve: SolveConfig = SolveConfig()
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of every random number in the run.")
