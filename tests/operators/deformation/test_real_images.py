"""Real images: pairs of a known transform, and a registration between two brains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.deformation import (
    BSplineField,
    Exponential,
    Warp,
    WarpField,
    affine_field,
    folded_share,
    inverse_error,
    invert,
    jacobian_determinant,
    warp,
)
from operators.grid import RAS_TO_LPS, REVERSE_AXES, Grid
from operators.space import Space
from tests.operators.deformation.cases import about_centre, itk_image, itk_transform, sitk

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "registration"
PAIRS = DATA / "itk_2d_pairs"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"real images are not here: {DATA}")


def slice_of(name: str) -> tuple[Tensor, Grid]:
    """Return a 2D image of ITK's as one slice, with the frame its header gives (LPS)."""
    image: Any = sitk().ReadImage(str(PAIRS / name))
    values = sitk().GetArrayFromImage(image).astype(np.float64)
    values = values[..., 0] if values.ndim == 3 else values
    affine = np.eye(4)
    affine[:2, :2] = np.array(image.GetDirection()).reshape(2, 2) * np.array(image.GetSpacing())
    affine[:2, 3] = image.GetOrigin()
    return torch.from_numpy(values)[None], Grid((1, *values.shape), RAS_TO_LPS @ affine @ REVERSE_AXES)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize("direction", ["", "DirectionPlus30", "DirectionMinus30"])
def test_a_known_shift_is_undone_to_the_bit(direction: str) -> None:
    fixed, grid = slice_of(f"BrainProtonDensitySliceBorder20{direction}.mhd")
    moving, there = slice_of(f"BrainProtonDensitySliceShifted13x17y{direction}.mhd")
    assert there.matches(grid)
    # 13 columns and 17 rows of 1 mm: along the image's axes, wherever these point in the world.
    shift = grid.affine[:3, :3] @ np.array([0.0, 17.0, 13.0])
    u = torch.from_numpy(shift)[:, None, None, None].expand(3, *grid.shape)
    seen = Warp(Space.field(grid), u.contiguous())(moving)
    assert correlation(moving, fixed) < 0.8
    assert (seen - fixed)[:, :-17, :-13].abs().max() < 1e-9
    assert not seen[:, -17:].any()


def turned(grid: Grid, degrees: float, scale: float, shift: tuple[float, float]) -> Tensor:
    """Return the field of a turn in the plane about the centre, a scale and a shift in mm (R, A)."""
    angle = np.radians(degrees)
    linear = np.eye(3)
    linear[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return affine_field(about_centre(linear, grid, (*shift, 0.0)), grid, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "degrees", "scale", "shift"),
    [
        ("Rotated10", 10.0, 1.0, (0.0, 0.0)),
        ("R10X13Y17", 10.0, 1.0, (-13.0, -16.0)),
        # As ITK's guide finds them: turned by -9.999 degrees, scale 0.8332, fixed to moving.
        ("R10X13Y17S12", -10.0, 1 / 1.2, (13.0, 12.0)),
    ],
)
def test_a_known_turn_and_scale_are_undone_the_right_way_round(
    name: str, degrees: float, scale: float, shift: tuple[float, float]
) -> None:
    fixed, grid = slice_of("BrainProtonDensitySliceBorder20.png")
    moving, there = slice_of(f"BrainProtonDensitySlice{name}.png")
    assert there.matches(grid)
    assert correlation(warp(moving, turned(grid, degrees, scale, shift), grid), fixed) > 0.98
    wrong = [(-degrees, scale, shift)]
    wrong += [(degrees, scale, (-shift[0], -shift[1]))] if any(shift) else []
    wrong += [(degrees, 1 / scale, shift)] if scale != 1 else []
    for other in wrong:
        assert correlation(warp(moving, turned(grid, *other), grid), fixed) < 0.9


def test_two_oblique_frames_are_brought_together_as_simpleitk_does() -> None:
    # The same pixels under axes turned by +30 and by -30 degrees: the map between the frames undoes it.
    fixed, grid = slice_of("BrainProtonDensitySliceBorder20DirectionPlus30.mhd")
    moving, there = slice_of("BrainProtonDensitySliceBorder20DirectionMinus30.mhd")
    assert not there.matches(grid)
    u = affine_field(there.affine @ np.linalg.inv(grid.affine), grid, dtype=torch.float64)
    seen = warp(moving, u, grid, moving_grid=there)
    assert (seen - fixed).abs().max() < 1e-9
    # And half a pixel and 7 degrees beside it, where interpolation counts.
    u = u + turned(grid, 7.0, 1.1, (0.5, -0.5))
    frames = itk_image(moving, there), itk_image(fixed, grid)
    theirs = sitk().Resample(*frames, itk_transform(u, grid), sitk().sitkLinear, 0.0)
    ours = warp(moving, u, grid, moving_grid=there)
    assert ours.count_nonzero() > 0.5 * ours.numel()
    assert (ours - torch.from_numpy(sitk().GetArrayFromImage(theirs))).abs().max() < 1e-8


def brain(name: str) -> tuple[Tensor, Grid]:
    """Return a template at 6 mm, its intensities scaled to their 99th percentile."""
    pytest.importorskip("nibabel")
    from workbench.io.nifti import read_nifti

    volume = read_nifti(DATA / "brain_templates" / f"{name}.nii.gz")
    size = [n // 6 * 6 for n in volume.grid.shape]
    coarse = volume.crop((0, 0, 0), size).downsample(6)
    values = coarse.data.float()
    return values / values.flatten().sort().values[int(0.99 * values.numel())], coarse.grid


def test_registration_of_two_brains_by_a_spline_of_velocities() -> None:
    fixed, grid = brain("mni")
    moving, moving_grid = brain("ch2")
    splines = BSplineField(BSplineField.control_grid(grid, 20.0), grid)
    model = WarpField(moving, moving_grid, grid=grid) @ Exponential(grid, squarings=4) @ splines
    c = torch.zeros(splines.domain.shape, requires_grad=True)
    optimiser = torch.optim.Adam([c], lr=1.0)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = (model(c) - fixed).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    u = Exponential(grid, squarings=4)(splines(c.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert folded_share(u, grid) == 0
    assert jacobian_determinant(u, grid).min() > 0.1
    w = invert(u, grid)
    assert inverse_error(u, w, grid).max() < 1e-4 * min(grid.spacing)
    # Back again: the moving brain as the fixed one shows it.
    back = warp(warp(moving, u, grid, moving_grid=moving_grid), w, grid)
    still = warp(moving, torch.zeros_like(u), grid, moving_grid=moving_grid)
    assert correlation(back, still) > 0.97
