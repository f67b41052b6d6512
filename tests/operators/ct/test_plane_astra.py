"""ASTRA as a reference, and what the project owes to it: accuracy on ellipses whose integrals are known."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from operators.ct import FanBeamGeometry, ParallelBeamGeometry
from operators.ct.geometry import RotationGeometry
from operators.grid import Grid
from tests.operators.ct.plane_cases import skewed_scan

pytest.importorskip("astra", reason="the reference engine needs the [ct] extra")
pytestmark = pytest.mark.filterwarnings("ignore::operators.ct.coverage.CoverageWarning")

#: Attenuation, centre, half axes (mm), angle: a body, two organs, a bone, a vessel.
ELLIPSES = (
    (0.02, (1.0, -2.0), (24.0, 17.0), 0.3),
    (-0.015, (-8.0, 3.0), (7.0, 9.0), -0.5),
    (-0.015, (10.0, -3.0), (6.0, 8.0), 0.7),
    (0.03, (2.0, -12.0), (3.0, 2.0), 0.0),
    (0.01, (-3.0, 9.0), (1.2, 1.2), 0.0),
)

Float = NDArray[np.float64]


def inside(place: Float) -> Float:
    """Return the attenuation at places (..., 2)."""
    total = np.zeros(place.shape[:-1])
    for value, centre, axes, angle in ELLIPSES:
        total += value * ((on_disc(place - centre, axes, angle) ** 2).sum(axis=-1) < 1)
    return total


def on_disc(vector: Float, axes: tuple[float, float], angle: float) -> Float:
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return vector @ turn.T / axes


def integrals(scan: RotationGeometry) -> Float:
    """Return the chords of the ellipses, (views, columns): p + t d meets a disc where |p + t d| = 1."""
    views = scan.views()
    found = []
    for view in range(views.shape[0]):
        point, ray = (np.broadcast_to(part, (1, views.shape[2], 3))[0, :, :2] for part in views.rays(view))
        total = np.zeros(len(point))
        for value, centre, axes, angle in ELLIPSES:
            p, d = on_disc(point - centre, axes, angle), on_disc(ray, axes, angle)
            a, b, c = (d**2).sum(-1), (p * d).sum(-1), (p**2).sum(-1) - 1
            chord = 2 * np.sqrt(np.maximum(b**2 - a * c, 0)) / a
            total += value * chord * np.linalg.norm(ray, axis=-1)
        found.append(total)
    return np.array(found)


def scans() -> dict[str, RotationGeometry]:
    grid, lengths = image_grid(), {"source_to_axis": 150.0, "source_to_detector": 250.0}
    return {
        "parallel": ParallelBeamGeometry.around(grid, 40),
        "flat": FanBeamGeometry.around(grid, 40, **lengths),
        "cylindrical": FanBeamGeometry.around(grid, 40, detector="cylindrical", **lengths),
    }


def image_grid() -> Grid:
    return Grid.from_spacing((1, 96, 88), (1.0, 0.6, 0.7))


def rasterised(grid: Grid, parts: int = 8) -> torch.Tensor:
    """Return the mean attenuation of each voxel, from parts^2 places in it."""
    total = np.zeros(grid.shape[1:])
    offsets = (np.arange(parts) + 0.5) / parts - 0.5
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)[0]
    for a in offsets:
        for b in offsets:
            total += inside(grid.index_to_world(index + np.array([0, a, b]))[..., :2])
    return torch.from_numpy(total[None] / parts**2)


@pytest.mark.parametrize("kind", ["parallel", "flat", "cylindrical"])
@pytest.mark.parametrize("name", ["numba", "torch", "matrix"])
def test_ellipses_are_projected_no_worse_than_by_astra(name: str, kind: str) -> None:
    grid, scan = image_grid(), scans()[kind]
    exact, image = torch.from_numpy(integrals(scan)), rasterised(grid).float()
    errors = {}
    # ASTRA has no cylindrical detector.
    for engine in (name,) if kind == "cylindrical" else (name, "astra"):
        difference = scan.operator(grid, engine=engine)(image)[:, 0] - exact
        errors[engine] = float(difference.norm() / exact.norm())
    assert errors[name] < 0.02  # voxels of 0.65 mm at edges of up to 24 mm radius
    # The parallel pair interpolates alike: what is left is ASTRA's single precision.
    assert errors[name] <= errors.get("astra", errors[name]) * (1 + 1e-4)


def test_fans_agree_where_rays_do_not_run_along_voxels() -> None:
    """Along voxels the line kernel jumps from one line to the next; elsewhere both follow a smooth image."""
    grid = image_grid()
    scan = FanBeamGeometry.around(grid, [0.3, 0.9, 2.0, 4.1], source_to_axis=150.0, source_to_detector=250.0)
    axes = [torch.linspace(-1, 1, n, dtype=torch.float32) for n in grid.shape[1:]]
    smooth = torch.exp(-8 * (axes[0][:, None] ** 2 + (axes[1] - 0.2) ** 2))[None]
    reference, other = scan.operator(grid, engine="torch"), scan.operator(grid, engine="astra")
    assert (other(smooth) - reference(smooth)).abs().max() <= 1e-3 * reference(smooth).max()


def test_a_skewed_fan_is_recovered_from_its_rays() -> None:
    """A sheared, turned grid and a shifted axis: a column beside would be far off."""
    grid, scan = skewed_scan("flat")
    axes = [torch.linspace(-1, 1, n, dtype=torch.float32) for n in grid.shape[1:]]
    smooth = torch.exp(-4 * (axes[0][:, None] ** 2 + axes[1] ** 2)).repeat(grid.shape[0], 1, 1)
    ours, theirs = (scan.operator(grid, engine=name)(smooth) for name in ("torch", "astra"))
    beside = scan.with_(axis_column=scan.axis_at + 0.5).operator(grid, engine="torch")(smooth)
    assert (theirs - ours).norm() <= 0.2 * (beside - ours).norm()


@pytest.mark.parametrize("columns", [1, 2])
def test_parallel_rays_may_be_few(columns: int) -> None:
    grid = image_grid()
    scan = ParallelBeamGeometry.around(grid, [0.2, 1.1], columns=columns)
    image = rasterised(grid, 2).float()
    ours, theirs = (scan.operator(grid, engine=name)(image) for name in ("torch", "astra"))
    assert (theirs - ours).abs().max() <= 1e-5 * ours.abs().max()


def test_what_astra_cannot_is_named() -> None:
    grid, scan = skewed_scan("cylindrical")
    operator = scan.operator(grid, engine="astra")
    with pytest.raises(ValueError, match=r"`engine` must suit the scan: ASTRA .* flat detector, got 'astra'"):
        operator(torch.ones(grid.shape))
    grid, scan = skewed_scan("flat")
    with pytest.raises(ValueError, match="fans of three columns or more"):
        scan.with_(columns=2, axis_column=0.5).operator(grid, engine="astra")(torch.ones(grid.shape))
