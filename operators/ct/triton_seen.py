"""Where each view sees a voxel, and how far beside it the rays that touch it can end: numbers per view.

In coordinates (x0, x1, x2) along outwards, columns and rows, in mm from the source (parallel: from the
centre of the detector), with D = centre - source and p the pitches, a voxel is seen at

    parallel     column = (x1 - x0 t1 / t0 - across_0) / p1,  t the direction; rows likewise
    flat         column = (x1 D0 / x0 - D1 - across_0) / p1,  rows likewise
    cylindrical  column = R (asin(q1) - asin(across_0 / R)) / p1,  q = (s x - D) / R + (1, 0), |q| = 1
                 row    = (s x2 - D2 - up_0) / p2
    lifted       row    = (x2 - s D2 - up_0) / p2

A ray touches a voxel that it passes on the plane it walks through at less than one voxel on both other
axes. So it ends where the detector sees a point of a square of +-1 voxel; the shares of a step along axis w
in these coordinates are at most e_k = sum over a != w of |dx_k / da|. What is seen moves at most by

    flat         (e1 + |column| e0) / (x0 - e0), in the units above
    cylindrical  R (1 + |c|) / sqrt(1 - |c|^2) e / (r - e) / p1,  r = |(x0, x1)|, c the source beside the axis

and so on; a margin allows for the rounding of single precision. Pixels too many cost time only: the weight
of a ray that misses the voxel is zero.
"""

from __future__ import annotations

import itertools

import numpy as np

from operators.ct.rays import VolumeRays
from operators.ct.views import Float, Views

__all__ = ["kind_of", "seen_by"]

#: Allowance for rounding, in columns and rows.
MARGIN = 0.02
#: Numbers per view.
SEEN = 24


def kind_of(views: Views) -> int:
    """Return 0 for parallel rays, 1 for diverging ones, 2 for lifted fans."""
    return 0 if views.parallel else 2 if views.lifted else 1


def seen_by(rays: VolumeRays) -> Float:
    """Return the numbers (views, SEEN) that the gather reads: three affine functions of a voxel first."""
    views = rays.views
    basis = np.stack([views.outwards, views.columns, views.rows], axis=2)
    inverse = np.linalg.inv(basis)
    origin = views.centre if views.parallel else views.through
    local = np.concatenate([inverse, -np.einsum("vij,vj->vi", inverse, origin)[..., None]], axis=2)
    ahead = np.einsum("vij,vj->vi", inverse, views.through if views.parallel else views.centre - origin)
    column_pitch, row_pitch = views.pitch
    found = np.zeros((len(local), SEEN))
    begin = np.stack([np.full(len(local), views.across[0]), np.full(len(local), views.up[0])], axis=1)
    curved = np.isfinite(views.radius)
    if views.parallel:
        local[:, 1:] -= (ahead[:, 1:] / ahead[:, :1])[..., None] * local[:, :1]
    elif curved:
        begin[:, 0] = views.radius * np.arcsin(views.across[0] / views.radius)
        begin[:, 1] += 0.0 if views.lifted else ahead[:, 2]
        local[:, :2] /= views.radius
    else:
        begin += ahead[:, 1:]
        local[:, 0] /= ahead[:, :1]
        if views.lifted:
            local[:, 2] -= ahead[:, 2:] * local[:, 0]
            begin[:, 1] -= ahead[:, 2]
    local[:, 1] /= 1.0 if curved else column_pitch
    local[:, 2] /= row_pitch
    found[:, :12] = local.reshape(-1, 12)
    found[:, 12:15] = _moved(local[:, :, :3], _walked(views), curved)
    found[:, 15:17] = -begin / (column_pitch, row_pitch)
    if curved:
        beside = np.stack([ahead[:, 0] / views.radius - 1, ahead[:, 1] / views.radius], axis=1)
        off = np.linalg.norm(beside, axis=1)
        found[:, 17:19] = beside
        found[:, 19] = views.radius / column_pitch
        found[:, 20] = views.radius / column_pitch * (1 + off) / np.sqrt(1 - off**2)
        found[:, 21] = 1 + off
        # The way to the detector changes by its slant, per angle; asin(x) <= pi/2 x.
        found[:, 22] = 1 + np.pi / 2 * off / np.sqrt(1 - off**2)
        found[:, 23] = ahead[:, 2] / row_pitch
    return found


def _moved(slopes: Float, walked: Float, curved: bool) -> Float:
    """Return e0, e1, e2 (views, 3): the largest over the axes that a view walks along."""
    size = np.abs(slopes)
    # (views, walked axis, coordinate)
    moved = np.stack([np.delete(size, axis, axis=2).sum(axis=2) for axis in range(3)], axis=1)
    if curved:
        moved[..., 1] = np.hypot(moved[..., 0], moved[..., 1])
    found: Float = np.where(walked[..., None], moved, 0.0).max(axis=1)
    return found


def _walked(views: Views) -> Float:
    """Return which axes (views, 3) some ray of a view may walk along: no other is always longer."""
    if views.parallel:
        ends = views.through[None]
    else:
        corners = itertools.product(
            *((float(v.min()), float(v.max())) for v in (views.across, views.sag, views.up))
        )
        ahead = views.centre - views.through
        ends = np.stack(
            [
                ahead + a * views.columns + s * views.outwards + (0.0 if views.lifted else u) * views.rows
                for a, s, u in corners
            ]
        )
    longest = np.abs(ends).max(axis=0)
    # Linear between the corners: without a change of sign the shortest is at a corner.
    steady = (np.sign(ends) == np.sign(ends[:1])).all(axis=0)
    shortest = np.where(steady, np.abs(ends).min(axis=0), 0.0)
    found: Float = longest >= shortest.max(axis=1, keepdims=True) * (1 - 1e-9)
    return found
