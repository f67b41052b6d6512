"""A chest made of ellipsoids, in attenuation (1/mm) on any grid: something to scan before there are data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from operators.checks import check_count
from operators.grid import Grid
from workbench.random import Keys
from workbench.volume import Volume

__all__ = ["WATER", "chest_phantom"]

#: Attenuation of water in 1/mm near 70 keV.
WATER = 0.0193

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and semi-axes in mm (R, A, S) about the middle of the chest, attenuation in waters."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    value: float

    def cover(self, points: Points, edge: float) -> Points:
        """Return 1 inside, 0 outside, with a linear edge of `edge` mm."""
        radius = np.sqrt((((points - self.centre) / self.axes) ** 2).sum(axis=-1))
        # (1 - radius) times the smallest semi-axis is the depth below the surface, to first order.
        cover: Points = np.clip(0.5 + (1 - radius) * min(self.axes) / edge, 0, 1)
        return cover


FAR = 1e4  # semi-axis of what runs through the whole field: spine, aorta
ORGANS = (
    Ellipsoid((0, 0, 0), (148, 104, FAR), 0.91),  # fat under the skin
    Ellipsoid((0, 0, 0), (136, 92, FAR), 1.04),  # muscle
    Ellipsoid((66, 6, 10), (54, 68, 110), 0.26),  # right lung
    Ellipsoid((-68, 4, 10), (50, 66, 110), 0.26),  # left lung
    Ellipsoid((-24, 26, -12), (46, 38, 44), 1.05),  # heart
    Ellipsoid((-36, 18, -14), (22, 18, 24), 1.10),  # ventricle
    Ellipsoid((56, -2, -96), (62, 66, 62), 1.07),  # dome of the liver
    Ellipsoid((0, -62, 0), (19, 17, FAR), 1.35),  # vertebral bodies
    Ellipsoid((0, -86, 0), (9, 9, FAR), 1.55),  # vertebral arches
    Ellipsoid((0, -79, 0), (7, 6, FAR), 1.02),  # spinal canal
    Ellipsoid((-20, -44, 0), (11, 11, FAR), 1.09),  # aorta
    Ellipsoid((0, 82, 6), (15, 6, 60), 1.40),  # sternum
    Ellipsoid((4, 6, 40), (9, 9, 40), 0.02),  # trachea
    Ellipsoid((84, 30, 22), (9, 9, 9), 1.02),  # a nodule in the right lung
)


def chest_phantom(grid: Grid, *, seed: int = 0, vessels: int = 90) -> Volume:
    """Return a chest on `grid`, about the grid's centre, in 1/mm; `seed` places the lung vessels."""
    Grid.require(grid)
    organs = [*ORGANS, *_vessels(check_count(seed, "seed", minimum=0), vessels)]
    edge = max(grid.spacing)
    data = np.empty(grid.shape)
    rows, columns = np.meshgrid(*[np.arange(n) for n in grid.shape[1:]], indexing="ij")
    for k in range(grid.shape[0]):
        index = np.stack([np.full(rows.shape, k), rows, columns], axis=-1)
        points = grid.index_to_world(index) - grid.centre
        image = np.zeros(rows.shape)
        for organ in organs:
            if abs(points[..., 2] - organ.centre[2]).min() > organ.axes[2] + edge:
                continue
            cover = organ.cover(points, edge)
            image += cover * (organ.value - image)
        ribs = _ribs(points, edge)
        image += ribs * (1.5 - image)
        data[k] = image * WATER
    return Volume(torch.from_numpy(data).float(), grid.with_time(None), "1/mm")


def _ribs(points: Points, edge: float) -> Points:
    """Return a cage of slanted rings between the lungs and the muscle."""
    x, y, z = np.moveaxis(points, -1, 0)
    radius = np.sqrt((x / 128) ** 2 + (y / 84) ** 2)
    wall = 1 - np.abs(radius - 1) * 84 / 4.5
    # Ribs fall from the spine to the front, one every 26 mm.
    height = (z + 0.25 * y) % 26 - 13
    ring = 1 - np.abs(height) / 6.5
    cover: Points = np.clip(np.minimum(wall * 4.5, ring * 6.5) / edge + 0.5, 0, 1)
    return cover


def _vessels(seed: int, count: int) -> list[Ellipsoid]:
    """Return strokes of blood in both lungs, thicker near the hilum."""
    number = check_count(count, "vessels", minimum=0)
    if number == 0:
        return []
    table = Keys(seed, (0,)).uniforms((number, 8), "vessels", like=torch.empty(0, dtype=torch.float64))[0]
    vessels = []
    for side, far, turn, rise, thick, *longer in table.tolist():
        distance = 0.1 + 0.75 * far
        angle = 2 * math.pi * turn
        centre = (
            (66 if side < 0.5 else -66) + distance * 44 * math.cos(angle),
            5 + distance * 58 * math.sin(angle),
            -60 + 130 * rise,
        )
        size = 1.5 + 4.0 * (1 - distance) * (0.4 + 0.6 * thick)
        stretch = 1.0 + 2.5 * np.array(longer)
        vessels.append(Ellipsoid(centre, tuple(size * stretch / stretch.min()), 1.03))
    return vessels
