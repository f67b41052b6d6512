"""What is done where size or voxels are not those a network was trained on: said, never silent.

    Exact()             nothing: another size or spacing is refused (the default)
    Convolve(multiple)  another size as it is, padded to a multiple; the spacing must match
    Resample(then)      finer voxels: band-limited to the trained ones and back, then `then`
    Tile(overlap)       a larger image in overlapping tiles of the trained size; the spacing must match

`Resample` is exact for images without finer detail than the trained voxels hold. Tiles see nothing of each
other: what comes out is no posterior mean, and its scores do not count as calibrated.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from operators.space import Space
from workbench.priors.network.channels import Channels
from workbench.priors.network.sizing import Direct, Padded, Resampled, Sizing, Tiled
from workbench.priors.network.training import Training

__all__ = ["Convolve", "Exact", "Frame", "Resample", "SizePolicy", "Tile"]

#: By how much voxels may differ and count as the same.
SLACK = 0.01


@dataclass(frozen=True)
class Frame:
    """Voxels along the axes of an image and their spacing in mm, if known; a slice may have a thickness."""

    sizes: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    thickness: float | None = None

    @classmethod
    def of(cls, layout: Channels) -> Frame:
        """Return that of a space."""
        grid = layout.space.grid
        if grid is None:
            return cls(layout.sizes)
        spacing = grid.spacing
        return cls(
            layout.sizes, spacing[-layout.dimensions :], spacing[0] if layout.dimensions == 2 else None
        )

    @property
    def text(self) -> str:
        """Size and spacing, for errors."""
        voxels = " x ".join(map(str, self.sizes)) + " voxels"
        return voxels if self.spacing is None else f"{voxels} of {millimetres(self.spacing)}"


class SizePolicy(ABC):
    """What to do; subclasses are frozen values."""

    @abstractmethod
    def resolve(self, frame: Frame, training: Training) -> Sizing:
        """Return the way from images on `frame` to a network of `training`, or say why there is none."""

    @staticmethod
    def require(value: object, argument: str = "policy") -> SizePolicy:
        """Return `value` if it is a policy."""
        if not isinstance(value, SizePolicy):
            remedy = "Exact(), Convolve(multiple), Resample() or Tile(overlap)."
            raise type_error(argument, "be a SizePolicy", type(value).__name__, remedy)
        return value


@dataclass(frozen=True)
class Exact(SizePolicy):
    """Size, where the training states one, and spacing must be those of the training (within 1 %)."""

    def resolve(self, frame: Frame, training: Training) -> Sizing:
        """Return the image as it is."""
        check_voxels(frame, training)
        if training.size not in (None, frame.sizes):
            raise value_error(
                "space",
                f"have the size the network was trained on, {_sizes(training.size)}",
                _sizes(frame.sizes),
                "Or say what to do: policy=Convolve(multiple), for a network that takes any size, or "
                "policy=Tile(overlap), for a larger image.",
            )
        return Direct(frame.sizes)


@dataclass(frozen=True)
class Convolve(SizePolicy):
    """Any size, padded by mirroring to a multiple (one number, or one per axis) and cropped."""

    multiple: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "multiple", _axes(self.multiple, "multiple", 1))

    def resolve(self, frame: Frame, training: Training) -> Sizing:
        """Return the padded image, or the image as it is."""
        check_voxels(frame, training)
        multiple = _per_axis(self.multiple, len(frame.sizes), "multiple")
        size = tuple(math.ceil(n / k) * k for n, k in zip(frame.sizes, multiple, strict=True))
        return Direct(size) if size == frame.sizes else Padded(frame.sizes, size)


@dataclass(frozen=True)
class Resample(SizePolicy):
    """Finer voxels than the trained ones, up to `finest` times: band-limited to these, and back.

    Where the training states no spacing the image is resized to the trained size. `then` says what to do
    with the size after it. Coarser voxels are refused: the network would see images whose fine noise is
    missing, which nothing it was trained on has.
    """

    then: SizePolicy = field(default_factory=Exact)
    finest: float = 4.0

    def __post_init__(self) -> None:
        SizePolicy.require(self.then, "then")
        object.__setattr__(self, "finest", check_number(self.finest, "finest", positive=True))

    def resolve(self, frame: Frame, training: Training) -> Sizing:
        """Return the image on the trained voxels."""
        if training.spacing is None:
            if training.size is None:
                remedy = "Training(spacing=...) or Training(size=...)."
                raise value_error(
                    "training", "state the spacing or the size to resample to", training, remedy
                )
            coarse = training.size
        else:
            check_voxels(frame, training, planes=False)
            coarse = self._counts(frame, training)
        for n, m in zip(frame.sizes, coarse, strict=True):
            if m > n:
                raise value_error(
                    "space",
                    f"have voxels no coarser than the trained ones ({_trained(training)})",
                    frame.text,
                    "Solve on a finer grid, and resample the result.",
                )
            if n > self.finest * m:
                raise value_error(
                    "space",
                    f"have voxels at most {self.finest:g} times finer than the trained, {_trained(training)}",
                    frame.text,
                    "Take a coarser grid, or state Resample(finest=...): the prior knows no finer detail.",
                )
        spacing = None
        if frame.spacing is not None:
            spacing = tuple(h * n / m for h, n, m in zip(frame.spacing, frame.sizes, coarse, strict=True))
        inner = self.then.resolve(Frame(coarse, spacing, frame.thickness), training)
        return inner if coarse == frame.sizes else Resampled(frame.sizes, coarse, inner)

    def _counts(self, frame: Frame, training: Training) -> tuple[int, ...]:
        """Return how many trained voxels cover the extent along each axis."""
        trained = _image_axes(training, len(frame.sizes))
        counts = []
        for n, h, wanted in zip(frame.sizes, frame.spacing or (), trained, strict=True):
            m = n if abs(h / wanted - 1) <= SLACK else max(1, round(n * h / wanted))
            if abs(n * h / m / wanted - 1) > SLACK:
                raise value_error(
                    "space",
                    f"extend over whole trained voxels of {wanted:g} mm, within 1 %",
                    f"{n} x {h:g} mm = {n * h / wanted:.2f} of them",
                    "Extend the grid by a few voxels.",
                )
            counts.append(m)
        return tuple(counts)


@dataclass(frozen=True)
class Tile(SizePolicy):
    """Overlapping tiles of the trained size, or of `size`; `overlap` in voxels, one number or per axis."""

    overlap: int | tuple[int, ...]
    size: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "overlap", _axes(self.overlap, "overlap", 0))
        if self.size is not None:
            object.__setattr__(self, "size", _axes(self.size, "size", 1))

    def resolve(self, frame: Frame, training: Training) -> Sizing:
        """Return the tiles."""
        check_voxels(frame, training)
        size = training.size if self.size is None else self.size
        if size is None:
            raise value_error("training", "state the size of tiles", training, "Or Tile(overlap, size=...).")
        tile = _per_axis(size, len(frame.sizes), "size")
        overlap = _per_axis(self.overlap, len(frame.sizes), "overlap")
        for n, m, common in zip(frame.sizes, tile, overlap, strict=True):
            if n < m:
                raise value_error(
                    "space",
                    f"be no smaller than a tile, {_sizes(tile)}",
                    _sizes(frame.sizes),
                    "Extend the grid, or policy=Convolve(multiple) for a network that takes any size.",
                )
            if common >= m:
                raise value_error("overlap", f"be less than a tile, {_sizes(tile)}", _sizes(overlap))
        return Tiled(frame.sizes, tile, overlap)


def check_voxels(frame: Frame, training: Training, *, planes: bool = True) -> None:
    """Raise unless voxels are those of the training; without `planes` only what no resampling mends."""
    if training.spacing is None:
        return
    if frame.spacing is None:
        expected = f"lie on a Grid: the network was trained on voxels of {_trained(training)}"
        raise value_error("space", expected, "no grid", "Or state no spacing in its Training.")
    dims = len(frame.sizes)
    own, trained = frame.spacing, _image_axes(training, dims)
    if frame.thickness is not None and len(training.spacing) == 3:
        thick = training.spacing[0]
        if abs(frame.thickness / thick - 1) > SLACK:
            expected = f"have slices as thick as the trained ones, {thick:g} mm"
            remedy = "Grid.plane(..., thickness=...); a Training with spacing (y, x) does not care."
            raise value_error("space", expected, f"{frame.thickness:g} mm", remedy)
    if planes and any(abs(h / wanted - 1) > SLACK for h, wanted in zip(own, trained, strict=True)):
        raise value_error(
            "space",
            f"have the voxels the network was trained on, {millimetres(trained)}",
            millimetres(own),
            "Take such a grid, or say what to do: policy=Resample(), for finer voxels.",
        )


def require_dimensions(space: Space, training: Training) -> Channels:
    """Return the layout of a space for a network of `training`, or say what does not fit."""
    if training.is_complex not in (None, space.is_complex):
        names = {False: "real", True: "complex"}
        expected = f"be {names[not space.is_complex]}: the network was trained on such images"
        raise value_error("space", expected, names[space.is_complex])
    return Channels.of(space, training.dimensions)


def millimetres(spacing: Sequence[float]) -> str:
    """Return a spacing as text."""
    return f"({', '.join(f'{h:g}' for h in spacing)}) mm"


def _trained(training: Training) -> str:
    if training.spacing is not None:
        return millimetres(training.spacing)
    return f"size {training.size}"


def _image_axes(training: Training, dims: int) -> tuple[float, ...]:
    return (training.spacing or ())[-dims:]


def _sizes(size: Sequence[int] | None) -> str:
    return " x ".join(map(str, size or ()))


def _axes(value: int | Sequence[int], name: str, minimum: int) -> int | tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        return check_count(value, name, minimum=minimum)
    return tuple(check_count(n, f"{name}[{i}]", minimum=minimum) for i, n in enumerate(value))


def _per_axis(value: int | tuple[int, ...], dims: int, name: str) -> tuple[int, ...]:
    if isinstance(value, tuple) and len(value) != dims:
        raise value_error(name, f"be one number or {dims}, one per axis of the images", value)
    return value if isinstance(value, tuple) else (value,) * dims
