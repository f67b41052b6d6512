"""What a step of training sees: images, what they are conditioned on, and what each one is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from operators.errors import type_error, value_error

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Rows first .. first + len - 1 of the batch of a step.

    Parameters
    ----------
    images
        (rows, channels, [z,] y, x), in the units of the network.
    labels
        (rows, labels): conditioning numbers, or None.
    images_by_name
        Other images on the same grids by name: conditions, targets, fields.
    names
        Of each row: what it was cut from, for messages.
    first
        The number of the first row within the whole batch of the step; its noise goes by it.
    """

    images: Tensor
    labels: Tensor | None = None
    images_by_name: Mapping[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    first: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor) or self.images.ndim < 3 or not len(self.images):
            got = getattr(self.images, "shape", type(self.images).__name__)
            raise type_error("images", "be a tensor (rows, channels, [z,] y, x), one row or more", got)
        for name, value in {"labels": self.labels, **self.images_by_name}.items():
            if value is not None and len(value) != len(self.images):
                raise value_error(name, f"have {len(self.images)} rows, as the images have", len(value))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def rows(self) -> tuple[int, ...]:
        """The numbers of the rows within the batch of the step."""
        return tuple(range(self.first, self.first + len(self)))

    def to(self, device: torch.device | str) -> Batch:
        """Return it on `device`."""
        return Batch(
            self.images.to(device),
            None if self.labels is None else self.labels.to(device),
            {name: value.to(device) for name, value in self.images_by_name.items()},
            self.names,
            self.first,
        )
