"""What `workbench train` can be told; `workbench train --show` prints it with every default."""

from __future__ import annotations

from typing import Annotated, Literal

from pipelines.config.loading import Config, Field, model_validator

__all__ = ["TrainConfig"]

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Count, Count]


class DataConfig(Config):
    """What is trained on."""

    manifests: tuple[str, ...] = Field(
        default=("data_manifests/ct.toml",), description="Manifests, from the folder of the call."
    )
    contrast: Literal["hounsfield", "magnetisation"] = Field(
        default="hounsfield", description="What images are made of: HU, or magnitudes with smooth phases."
    )
    procedural: Share = Field(
        default=0.5, description="The share of images of generated subjects, where there are both."
    )
    hold_out: tuple[str, ...] = Field(
        default=(), description="Subjects of the split train that are looked at and not trained on."
    )
    real: bool = Field(default=True, description="Whether measured volumes are used at all.")
    sizes: tuple[Size, ...] = Field(
        default=((128, 128),), min_length=1, description="Rows, columns; a step takes one of them."
    )
    spacing: tuple[Positive, Positive] = Field(
        default=(1.5, 3.0), description="Shortest and longest side of a voxel [mm]."
    )
    rotation: float = Field(default=10.0, ge=0, description="Largest turn within a plane [degrees].")
    tilt: float = Field(default=6.0, ge=0, description="Largest turn out of a plane [degrees].")
    scale: float = Field(default=0.1, ge=0, lt=1, description="Largest change of size, as a share.")
    bend: float = Field(default=3.0, ge=0, description="Root mean square of a smooth displacement [mm].")
    mirror: Share = Field(default=0.0, description="The share of images mirrored left to right.")


class NetworkConfig(Config):
    """The U-Net."""

    widths: tuple[Count, ...] = Field(default=(64, 80, 128, 192), description="Channels, finest first.")
    blocks: tuple[Count, ...] = Field(default=(1, 1, 2, 3), description="Residual blocks of each level.")
    attention: tuple[int, ...] = Field(default=(3,), description="Levels with attention.")


class ObjectiveConfig(Config):
    """What the network is trained for: denoising, preconditioned after EDM."""

    density: Literal["log-normal", "log-uniform", "uniform", "logit-normal"] = Field(
        default="log-normal",
        description="Of noise levels: normal, or uniform within noise_range, in log(sigma); uniform within "
        "noise_range, or logit-normal, in the time of the rectified flow, sigma / (1 + sigma).",
    )
    mean: float = Field(default=-1.2, description="Of log(sigma), or of the logit.")
    sd: Positive = Field(default=1.2, description="Of log(sigma), or of the logit.")
    noise_range: tuple[Positive, Positive] = Field(
        default=(0.002, 80.0), description="Levels that the prior is declared for."
    )
    data_sd: Positive = Field(default=0.5, description="Standard deviation of the images' values.")


class OptimiserConfig(Config):
    """How the weights move."""

    steps: Count = Field(default=20_000, description="Steps in all; a run goes on where it stopped.")
    rows: Count = Field(default=8, description="Images of a step, over all parts and ranks.")
    parts: Count = Field(default=1, description="In so many parts each rank computes its images.")
    rate: Positive = Field(default=6e-4, description="Highest learning rate.")
    warmup: int = Field(default=300, ge=0, description="Steps to it.")
    steady: Count = Field(
        default=5000, description="Step from which it falls as one over the root of the step."
    )
    decay: float = Field(default=0.0, ge=0, description="Of AdamW.")
    clip: Positive = Field(default=1.0, description="Largest norm of a gradient.")
    average: Positive = Field(
        default=0.08, description="Width of the weights' average, as a share of the run."
    )
    half: bool = Field(default=True, description="Whether bfloat16 is used inside the network.")


class ReportConfig(Config):
    """What a run shows while it runs."""

    every: Count = Field(default=100, description="Steps between lines.")
    keep: Count = Field(default=500, description="Steps between states on disk.")
    pictures: Count = Field(default=2500, description="Steps between samples and denoising curves.")
    split: Literal["train", "validate"] = Field(
        default="validate", description="Whose images the denoising curve is measured on; never the tested."
    )
    images: Count = Field(default=32, description="Images of the denoising curve.")
    levels: tuple[Positive, ...] = Field(
        default=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
        min_length=1,
        description="Noise levels of the curve.",
    )


class TrainConfig(Config):
    """The configuration of `workbench train`."""

    name: str = Field(default="prior", min_length=1, description="Of the prior.")
    licence: str = Field(default="", description="Of the weights, for their card.")
    notes: str = Field(default="", description="Anything else for the card.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of every random number in the run.")
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _levels_match(self) -> TrainConfig:
        if len(self.network.widths) != len(self.network.blocks):
            raise ValueError("network.blocks must have one entry for each of network.widths")
        return self

    @model_validator(mode="after")
    def _ranges_rise(self) -> TrainConfig:
        for name, (low, high), less in (
            ("objective.noise_range", self.objective.noise_range, False),
            ("data.spacing", self.data.spacing, True),
        ):
            if not (low < high or (less and low == high)):
                raise ValueError(f"{name} must rise, got {low:g}, {high:g}")
        return self

    @model_validator(mode="after")
    def _sizes_fit_the_network(self) -> TrainConfig:
        # Voxels are shuffled two by two, and every level but the first halves the image.
        multiple = 2 << (len(self.network.widths) - 1)
        for size in self.data.sizes:
            if any(n % multiple for n in size):
                raise ValueError(
                    f"data.sizes must be multiples of {multiple} for {len(self.network.widths)} levels, "
                    f"got {size[0]} x {size[1]}"
                )
        return self
