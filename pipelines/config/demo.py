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


class EarlyStopConfig(Config):
    """Conjugate gradients on weighted least squares, stopped early."""

    iterations: int = Field(
        default=30, ge=1, le=10_000, description="Iterations; stopping early is the only regularisation."
    )


class TotalVariationConfig(Config):
    """Weighted least squares with a penalty on the total variation, for attenuations >= 0."""

    weight: float = Field(
        default=1000.0,
        ge=0,
        le=1e12,
        description="What -log p gains per voxel for each 1/mm^2 of gradient [mm^2]: "
        "a step of 0.0025 1/mm to a voxel 2.5 mm away costs weight / 1000.",
    )
    iterations: int = Field(
        default=400,
        ge=1,
        le=100_000,
        description="Iterations at most; half as many meet the tolerance.",
    )
    tolerance: float = Field(
        default=1e-3,
        gt=0,
        lt=1,
        description="It ends where the optimality conditions hold to this share of their terms.",
    )


class DemoConfig(Config):
    """The configuration of `workbench demo`."""

    phantom: PhantomConfig = PhantomConfig()
    scan: ScanConfig = ScanConfig()
    cg: EarlyStopConfig = EarlyStopConfig()
    tv: TotalVariationConfig = TotalVariationConfig()
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of every random number in the run.")
