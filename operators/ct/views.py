"""Where every ray of a scan runs: one description for all geometries, in any coordinates.

    pixel(v, r, c) = centre_v + across_c columns_v + sag_c outwards_v + up_r rows_v
    ray(v, r, c)   from the source: through_v (+ up_r rows_v where lifted) to the pixel
                   parallel:        through the pixel along through_v

`columns`, `rows` and `outwards` (from the source to the detector) are vectors per view, `across`, `sag`
and `up` lengths: a flat detector has no sag, a cylindrical one of radius D about the source has across =
D sin g and sag = D (cos g - 1) at the fan angle g. `pitch` is the step of columns, along the arc, and of
rows. A lifted source rises with the row: every row is a fan in a plane of its own. In world coordinates
lengths are mm and the vectors have length one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Float", "Views"]

Float = NDArray[np.float64]

#: Differences of directions and positions below this are rounding, in units of a voxel.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Views:
    """Rays of all views; see the module's head. Vectors are (views, 3)."""

    through: Float
    centre: Float
    columns: Float
    rows: Float
    outwards: Float
    across: Float
    sag: Float
    up: Float
    pitch: tuple[float, float]
    parallel: bool
    lifted: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                kept = np.array(value, dtype=np.float64)
                kept.setflags(write=False)
                object.__setattr__(self, item.name, kept)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of views, detector rows and detector columns."""
        return len(self.through), len(self.up), len(self.across)

    def mapped(self, matrix: Float) -> Views:
        """Return the same rays in other coordinates, those that the affine 4x4 `matrix` leads to."""
        linear, shift = matrix[:3, :3], matrix[:3, 3]
        return replace(
            self,
            through=self.through @ linear.T + (0.0 if self.parallel else shift),
            centre=self.centre @ linear.T + shift,
            columns=self.columns @ linear.T,
            rows=self.rows @ linear.T,
            outwards=self.outwards @ linear.T,
        )

    def part(self, views: slice | NDArray[np.intp]) -> Views:
        """Return some of the views."""
        names = ("through", "centre", "columns", "rows", "outwards")
        return replace(self, **{name: getattr(self, name)[views] for name in names})

    def pixels(self, view: int) -> Float:
        """Return the detector pixels (rows, columns, 3) of a view."""
        along = self.across[:, None] * self.columns[view] + self.sag[:, None] * self.outwards[view]
        found: Float = self.centre[view] + along + self.up[:, None, None] * self.rows[view]
        return found

    def rays(self, view: int) -> tuple[Float, Float]:
        """Return a point of each ray of a view and its direction, both (rows, columns, 3)."""
        pixels = self.pixels(view)
        if self.parallel:
            return pixels, np.broadcast_to(self.through[view], pixels.shape)
        source = np.broadcast_to(self.through[view], (len(self.up), 1, 3))
        if self.lifted:
            source = source + self.up[:, None, None] * self.rows[view]
        return np.broadcast_to(source, pixels.shape), pixels - source

    def seen_at(self, points: Float) -> tuple[Float, Float]:
        """Return the detector column and row, fractional, at which each view sees `points` (n, 3).

        Both are (views, n); NaN where the point is not in front of the source. In world coordinates.
        """
        apart = points[None] - self.centre[:, None]
        if self.parallel:
            height = _dot(apart, np.cross(self.columns, self.rows))
            beam = self.through / _dot(self.through[:, None], np.cross(self.columns, self.rows))
            hit = apart - height[..., None] * beam[:, None]
            return self._column(_dot(hit, self.columns)), self._row(_dot(hit, self.rows))
        source = np.broadcast_to((self.through - self.centre)[:, None], apart.shape)
        if self.lifted:
            # Its fan lies in the plane of the point: what is left of the height is no tilt.
            source = source + _dot(apart - source, self.rows)[..., None] * self.rows[:, None]
        ray = apart - source
        share = self._share_to_detector(source, ray)
        hit = source + share[..., None] * ray
        return self._column(_dot(hit, self.columns)), self._row(_dot(hit, self.rows))

    def _share_to_detector(self, source: Float, ray: Float) -> Float:
        """Return t for which source + t ray lies on the detector, NaN where it never will."""
        ahead, start = _dot(ray, self.outwards), _dot(source, self.outwards)
        with np.errstate(divide="ignore", invalid="ignore"):
            if not self.sag.any():
                share = -start / ahead
            else:
                # |q|^2 = D^2 in the plane of the fan, q from the cylinder's axis.
                radius = self.radius
                aside, begun = _dot(ray, self.columns), _dot(source, self.columns)
                a = ahead**2 + aside**2
                b = (start + radius) * ahead + begun * aside
                c = (start + radius) ** 2 + begun**2 - radius**2
                share = (np.sqrt(b**2 - a * c) - b) / a
        return np.where((ahead > 0) & (share > 0), share, np.nan)

    @property
    def radius(self) -> float:
        """Radius of a cylindrical detector, where across^2 + (radius + sag)^2 = radius^2; else infinite."""
        if not self.sag.any():
            return np.inf
        k = int(np.argmax(np.abs(self.sag)))
        return float(-(self.across[k] ** 2 + self.sag[k] ** 2) / (2 * self.sag[k]))

    def _column(self, across: Float) -> Float:
        radius, begun = self.radius, self.across[:1]
        if np.isfinite(radius):
            across, begun = (radius * np.arcsin(np.clip(place / radius, -1, 1)) for place in (across, begun))
        column: Float = (across - begun) / self.pitch[0]
        return column

    def _row(self, up: Float) -> Float:
        row: Float = (up - self.up[0]) / self.pitch[1]
        return row


def _dot(vectors: Float, per_view: Float) -> Float:
    """Return the products (views, n) of (views, n, 3) with (views, 3)."""
    found: Float = np.einsum("vni,vi->vn", vectors, per_view)
    return found
