"""Deformations: displacement fields in mm, warping as an operator, motion-resolved imaging.

Conventions, stated here once
-----------------------------
- A field u of shape (..., 3, z, y, x) on a `Grid` holds, at the world position r of each voxel, the
  displacement u(r) in mm along world (R, A, S), whatever way the array is stored. It stands for the map
  phi_u(r) = r + u(r).
- Warping pulls back: (W_u x)(r) = x(r + u(r)). r runs over the grid of the field, the fixed or target
  image; r + u(r) lies in the moving image x, which may be on another grid. To show an object shifted by
  +d the field is -d.
- Composition follows the maps: (u o v)(r) = v(r) + u(r + v(r)), so that phi_(u o v) = phi_u(phi_v(r)),
  and warping by it is warping by u first: W_(u o v) = W_v W_u. What interpolates once differs from what
  interpolates twice by the second interpolation, so the latter holds up to that.
- Landmarks move the other way than images: `points_to_moving` maps a point p of the fixed image to
  p + u(p); `points_to_fixed` is its inverse.
- Values are linear between voxel centres. Between the outer voxel centres and the outer faces, half a
  voxel further, the edge value holds, as in `Volume.resample`; beyond there is 0 for an image
  ("zero"), the edge value for a field ("edge"), unless told otherwise.
- The Jacobian is J = 1 + du/dr, rows and columns in (R, A, S); det J > 1 where phi_u expands, that is
  where the warped image shows the moving one shrunk.

It is ITK's displacement field transform but for the world's axes, which are (L, P, S) there: the first
two components and coordinates change sign. ITK's transform ends at the outer faces ("zero").
"""

from operators.deformation.bspline import BSplineField
from operators.deformation.exponential import Exponential
from operators.deformation.fields import (
    affine_field,
    compose,
    exponentiate,
    identity_field,
    resample_field,
    squarings_for,
)
from operators.deformation.inverse import (
    inverse_error,
    invert,
    points_to_fixed,
    points_to_moving,
    target_registration_error,
)
from operators.deformation.jacobian import (
    FoldingError,
    FoldingWarning,
    check_diffeomorphic,
    folded_share,
    jacobian,
    jacobian_determinant,
)
from operators.deformation.motion import motion_resolved
from operators.deformation.pull import warp, warp_labels
from operators.deformation.warp import Warp, WarpField

__all__ = [
    "BSplineField",
    "Exponential",
    "FoldingError",
    "FoldingWarning",
    "Warp",
    "WarpField",
    "affine_field",
    "check_diffeomorphic",
    "compose",
    "exponentiate",
    "folded_share",
    "identity_field",
    "inverse_error",
    "invert",
    "jacobian",
    "jacobian_determinant",
    "motion_resolved",
    "points_to_fixed",
    "points_to_moving",
    "resample_field",
    "squarings_for",
    "target_registration_error",
    "warp",
    "warp_labels",
]
