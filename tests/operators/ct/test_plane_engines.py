"""The compiled engines of slices against the reference in torch: every ray, every width, every layout."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.ct.rays import PlaneRays
from operators.grid import Grid
from tests.operators.ct.plane_cases import (
    RAYS,
    ROUNDING,
    applied,
    expected,
    expected_back,
    plane_rays,
    positive,
    returned,
    skewed_scan,
)
from tests.oracles import random_element

pytest.importorskip("numba", reason="the compiled engines need the [ct] extra")
from operators.ct.plane_kernels import Walks

pytestmark = pytest.mark.filterwarnings("ignore::operators.ct.coverage.CoverageWarning")

COMPILED = ("numba", "matrix")


@pytest.fixture(params=COMPILED)
def engine(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"operators.ct.{request.param}_plane")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("kind", RAYS)
def test_weights_are_those_of_the_reference(engine: ModuleType, kind: str, dtype: torch.dtype) -> None:
    """Terms and weights round once or twice each; positions are 2^-47 voxels off after at most 2^5 steps."""
    rays = RAYS[kind]()
    x, y = positive((3, *rays.size), dtype), positive((3, *rays.shape), dtype)
    for got, wanted, terms in (
        (applied(engine, rays, x), expected(rays, x), 2 * max(rays.size)),
        (returned(engine, rays, y), expected_back(rays, y), int(np.prod(rays.shape))),
    ):
        bound = (terms + 4) * ROUNDING[dtype] * wanted + 2.0**-40 * wanted.max()
        assert ((got.double() - wanted).abs() <= bound).all()
        assert wanted.max() > 0


@pytest.mark.parametrize("kind", ["parallel", "flat", "edges"])
def test_the_adjoint_is_exact(engine: ModuleType, kind: str) -> None:
    rays = RAYS[kind]()
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        x, y = positive((5, *rays.size), dtype) - 0.9, positive((5, *rays.shape), dtype, seed=4) - 1.1
        image, back = applied(engine, rays, x).double(), returned(engine, rays, y).double()
        mismatch = (image * y).sum() - (x * back).sum()
        assert mismatch.abs() <= bound * image.norm() * y.double().norm()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 17, 32, 33, 70])
def test_a_slice_does_not_depend_on_its_company(engine: ModuleType, count: int) -> None:
    rays = plane_rays("flat")
    x, y = positive((count, *rays.size), torch.float32), positive((count, *rays.shape), torch.float32)
    image, back = applied(engine, rays, x), returned(engine, rays, y)
    for k in (0, count // 2, count - 1):
        assert torch.equal(image[k], applied(engine, rays, x[k : k + 1])[0])
        assert torch.equal(back[k], returned(engine, rays, y[k : k + 1])[0])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", COMPILED)
def test_results_do_not_depend_on_the_number_of_threads(name: str) -> None:
    # More views than are kept at a time on the way back, more lines than one thread's share.
    grid = Grid.from_spacing((3, 70, 66), 1.0)
    operator = ParallelBeamGeometry.around(grid, 70).operator(grid, engine=name)
    x = random_element(operator.domain, 2, dtype=torch.float32)
    found = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        image = operator(x)
        found.append((image, operator.adjoint(image)))
        assert torch.get_num_threads() == number
    for image, back in found[1:]:
        assert torch.equal(image, found[0][0])
        assert torch.equal(back, found[0][1])


@pytest.mark.parametrize("name", [*COMPILED, "torch"])
@pytest.mark.parametrize("kind", ["parallel", "flat", "cylindrical"])
def test_slices_may_lie_along_any_axis_in_any_order(name: str, kind: str) -> None:
    grid, geometry = skewed_scan(kind)
    operator = geometry.operator(grid, engine="torch")
    x = random_element(operator.domain, 2)
    image = operator(x)
    back = operator.adjoint(image)
    for order, flipped in (((0, 1, 2), 0), ((1, 0, 2), 1), ((2, 1, 0), 2), ((1, 2, 0), 2)):
        other = grid.permute(order).flip(flipped)
        stored = x.permute(0, *(axis + 1 for axis in order)).flip(flipped + 1)
        turned = geometry.operator(other, engine=name)
        assert (turned(stored) - image).abs().max() <= 1e-11 * image.abs().max()
        wanted = back.permute(0, *(axis + 1 for axis in order)).flip(flipped + 1)
        assert (turned.adjoint(image) - wanted).abs().max() <= 1e-11 * back.abs().max()


@pytest.mark.parametrize("name", COMPILED)
def test_memory_may_have_any_order(name: str) -> None:
    grid, geometry = skewed_scan("flat")
    operator = geometry.operator(grid, engine=name)
    x, y = random_element(operator.domain, 3), random_element(operator.codomain, 3)
    image, back = operator(x), operator.adjoint(y)
    apart = torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]
    for other in (x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0), apart):
        assert torch.equal(operator(other), image)
    other = y.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert torch.equal(operator.adjoint(other), back)
    one = x[:1].expand(3, *x.shape[1:])
    assert torch.equal(operator(one), image[:1].expand_as(image))


@pytest.mark.parametrize("name", [*COMPILED, "torch"])
def test_rows_may_share_a_slice(name: str) -> None:
    """Rows closer than the tolerance of a slice see the same one, and give back to it together."""
    grid = Grid.from_spacing((1, 8, 9), 1.0)
    geometry = ParallelBeamGeometry.around(grid, 5).with_(rows=3, row_pitch=1e-4)
    operator = geometry.operator(grid, engine=name)
    assert operator.layouts[0] == "plane"
    y = random_element(operator.codomain)
    alone = ParallelBeamGeometry.around(grid, 5).operator(grid, engine=name)
    wanted = alone.adjoint(y.sum(dim=1, keepdim=True))
    assert (operator.adjoint(y) - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def test_slices_too_long_for_whole_numbers_are_named(engine: ModuleType) -> None:
    rays = PlaneRays((1, 2**14 + 1), np.ones((1, 1), bool), *(np.ones((1, 1)) for _ in range(3)))
    with pytest.raises(ValueError, match=r"`grid` must have at most 16384 voxels.*Use engine='torch'"):
        applied(engine, rays, torch.ones(1, *rays.size))


@pytest.mark.parametrize("kind", RAYS)
def test_steps_lie_within_the_image(kind: str) -> None:
    """Rays that pass it by have none; the kernels look no further than the last."""
    rays = RAYS[kind]()
    walks = Walks.of(rays)
    steps = np.where(rays.along_u, *rays.size)
    assert ((walks.first >= 0) & (walks.first <= walks.last) & (walks.last <= steps)).all()
    seen = expected(rays, torch.ones(1, *rays.size))[0].numpy() > 0
    assert (walks.last > walks.first)[seen].all()
    far = np.abs(rays.start) > 3 * max(rays.size)
    assert not walks.last[far].any()
