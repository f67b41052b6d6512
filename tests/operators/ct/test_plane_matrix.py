"""The matrix that the engine keeps: what is in it, how large it is, and when it is refused."""

import gc
import weakref

import numpy as np
import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from tests.operators.ct.plane_cases import RAYS, expected, plane_rays, small

pytest.importorskip("numba", reason="the compiled engines need the [ct] extra")
from operators.ct import matrix_plane

pytestmark = pytest.mark.filterwarnings("ignore::operators.ct.coverage.CoverageWarning")


def dense(rows: matrix_plane.Rows, shape: tuple[int, int]) -> torch.Tensor:
    starts, columns, weights = rows
    matrix = np.zeros(shape)
    np.add.at(matrix, (np.repeat(np.arange(shape[0]), np.diff(starts)), columns), weights)
    return torch.from_numpy(matrix)


@pytest.mark.parametrize("kind", RAYS)
def test_both_matrices_hold_the_weights_of_the_reference(kind: str) -> None:
    rays = RAYS[kind]()
    pixels, count = int(np.prod(rays.size)), int(np.prod(rays.shape))
    forward, adjoint = matrix_plane._matrices(rays, torch.float64)
    basis = torch.eye(pixels, dtype=torch.float64).reshape(pixels, *rays.size)
    wanted = expected(rays, basis).reshape(pixels, count)
    assert torch.equal(dense(adjoint, (pixels, count)), dense(forward, (count, pixels)).T)
    assert (dense(forward, (count, pixels)).T - wanted).abs().max() <= 2.0**-40
    stored = sum(part.nbytes for rows in (forward, adjoint) for part in rows)
    at_most = matrix_plane.kept_bytes(rays, torch.float64)
    # Steps at the edge have one neighbour in the image instead of two.
    assert stored <= at_most
    assert stored >= 0.5 * at_most


def test_it_is_built_once_per_precision_and_goes_with_the_projector() -> None:
    operator = small("matrix", 2, 12, 9)
    assert operator.slices is not None
    rays = operator.slices.rays
    for dtype in (torch.float32, torch.float64, torch.float32):
        image = operator(torch.ones(operator.domain.shape, dtype=dtype))
        kept = matrix_plane._KNOWN[rays][dtype]
        operator.adjoint(image)
        assert matrix_plane._KNOWN[rays][dtype] is kept
    gone = weakref.ref(rays)
    del operator, rays, kept
    gc.collect()
    assert gone() is None


def test_a_matrix_beyond_the_limit_is_refused_before_it_is_built() -> None:
    rays = plane_rays("parallel")
    needed = matrix_plane.kept_bytes(rays, torch.float32)
    matrix_plane.check(rays, torch.float32, needed)
    with pytest.raises(ValueError, match=rf"`matrix_bytes` must allow {needed} bytes .*raise matrix_bytes"):
        matrix_plane.check(rays, torch.float32, needed - 1)
    reference = small("torch", 1, 16, 9)
    assert reference.slices is not None
    needed = matrix_plane.kept_bytes(reference.slices.rays, torch.float32)
    grid = Grid.from_spacing((1, 16, 16), 1.0)
    scan = ParallelBeamGeometry.around(grid, 9)
    with pytest.raises(ValueError, match="`matrix_bytes` must allow"):
        scan.operator(grid, engine="matrix", matrix_bytes=needed - 1)
    single = scan.operator(grid, engine="matrix", matrix_bytes=needed)
    single(torch.ones(grid.shape))
    with pytest.raises(ValueError, match=r"`matrix_bytes` must allow .* in torch\.float64"):
        single(torch.ones(grid.shape, dtype=torch.float64))


def test_volumes_have_no_matrix() -> None:
    grid = Grid.from_spacing((4, 8, 8), 1.0)
    tilted = ParallelBeamGeometry.around(grid, 5).with_(tilt=0.2)
    with pytest.raises(ValueError, match="`engine` must project volumes, since its rays are not parallel"):
        tilted.operator(grid, engine="matrix")
