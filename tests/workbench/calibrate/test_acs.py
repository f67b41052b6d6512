"""The calibration box is the centred one whose narrowest side is widest; a grid has its place in it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry
from operators.mri.patterns import equispaced
from workbench.calibrate.acs import Placement, acs_widths, centred_box, encoded, is_encoded


def brute_force(sampled: np.ndarray) -> tuple[int, int]:
    """Return the narrowest encoded width and the volume of the best box, out of all."""
    best = (0, 0)
    for widths in itertools.product(*[range(1, n + 1) for n in sampled.shape]):
        if sampled[centred_box(sampled.shape, widths)].all():
            narrow = [w for w, n in zip(widths, sampled.shape, strict=True) if n > 1]
            best = max(best, (min(narrow, default=1), int(np.prod(widths))))
    return best


@pytest.mark.parametrize("shape", [(1, 9, 8), (7, 6, 5), (1, 1, 9), (4, 1, 6)])
def test_the_box_is_the_best_of_all(shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(0)
    seen = set()
    for share in (0.0, 0.5, 0.9, 0.97, 1.0):
        for _ in range(5):
            sampled = generator.random(shape) < share
            sampled[centred_box(shape, tuple(min(2, n) for n in shape))] = share > 0
            widths = acs_widths(sampled)
            expected = brute_force(sampled)
            seen.add(expected)
            if expected == (0, 0):
                assert widths == (0, 0, 0)
                continue
            assert sampled[centred_box(shape, widths)].all()
            narrow = [w for w, n in zip(widths, shape, strict=True) if n > 1]
            assert (min(narrow), int(np.prod(widths))) == expected
    assert len(seen) > 3


def test_lines_of_a_plane() -> None:
    sampled = np.zeros((1, 64, 40), dtype=bool)
    sampled[:, ::4] = sampled[:, 32 - 12 : 32 + 12] = True
    assert acs_widths(sampled) == (1, 25, 40)  # the line 44 continues the box by one on one side
    assert centred_box((64,), (25,)) == (slice(20, 45),)


@pytest.mark.parametrize(
    ("flip", "permuted"), [((), False), ((1,), False), ((0, 2), False), ((), True), ((1, 2), True)]
)
def test_a_voxel_keeps_its_phase(flip: tuple[int, ...], permuted: bool) -> None:
    # k-space of a point, by the geometry; after `centred` and a plain centred transform the point must be
    # at the voxel that `on_grid` reads for it.
    shape = (5, 8, 7)
    grid = Grid.from_spacing(shape, (3.0, 2.0, 1.5), centre=(4.0, -9.0, 2.0))
    grid = grid.permute((2, 0, 1)) if permuted else grid
    geometry = CartesianGeometry.around(grid).with_(zero_phase=(0.75, -2.0, 3.0))
    grid = grid.flip(*flip)
    place = Placement.of(geometry, grid)
    point = torch.zeros(grid.shape, dtype=torch.complex128)
    point[1, 4, 3] = 1
    y = geometry.operator(grid, components=(1,))(point[None])
    turned = torch.fft.ifftn(
        torch.fft.ifftshift(place.centred(y), dim=(1, 2, 3)), dim=(1, 2, 3), norm="ortho"
    )
    image = place.on_grid(torch.fft.fftshift(turned, dim=(1, 2, 3)), grid)
    assert torch.allclose(image[0], point, atol=1e-12)


def test_slices_are_not_encoded() -> None:
    grid = Grid.from_spacing((4, 8, 8), 2.0)
    geometry = CartesianGeometry.around(grid, multislice=True)
    assert is_encoded(geometry) == (False, True, True)
    assert is_encoded(CartesianGeometry.around(grid)) == (True, True, True)
    assert Placement.of(geometry, grid).backwards is False
    assert Placement.of(geometry, grid.flip(0)).backwards is True


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.full((8, 8), 2.0), ValueError, "`mask` must hold True and False only"),
        (torch.ones(3, 8), ValueError, r"`mask` must broadcast to \(kz, ky, kx\) = \(1, 8, 8\)"),
        (torch.zeros(8, 8), ValueError, "`mask` must mark at least one sample"),
        (equispaced(8, 2), ValueError, r"`mask` must not be a pattern of lines.*pattern\.mask\[:, None\]"),
        ("all", TypeError, "`mask` must be a torch.Tensor or a sampling pattern, got str"),
    ],
)
def test_bad_masks(mask: object, error: type[Exception], message: str) -> None:
    kspace = torch.ones(2, 1, 8, 8, dtype=torch.complex64)
    with pytest.raises(error, match=message):
        encoded(kspace, Grid.plane((8, 8), 1.0), None, mask)  # type: ignore[arg-type]
