import pytest
import torch

from operators.differences import FiniteDifferences
from operators.grid import Grid
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import random_element

GRID = Grid.from_spacing((3, 4, 5), (4.0, 2.0, 0.5))


class TestReplicate(LinearOperatorContract):
    covers = (FiniteDifferences,)

    def make(self, dtype: torch.dtype) -> FiniteDifferences:
        return FiniteDifferences(Space.field(GRID))


class TestPeriodic(LinearOperatorContract):
    covers = (FiniteDifferences,)

    def make(self, dtype: torch.dtype) -> FiniteDifferences:
        return FiniteDifferences(Space.field(GRID, is_complex=True), boundary="periodic")


class TestOneAxis(LinearOperatorContract):
    covers = (FiniteDifferences,)

    def make(self, dtype: torch.dtype) -> FiniteDifferences:
        return FiniteDifferences(Space.field(GRID, components=(2,)), axes=(0,))


def test_a_ramp_has_its_slope_per_mm() -> None:
    z, y, x = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in GRID.shape], indexing="ij")
    ramp = 4.0 * z * 1.0 + 2.0 * y * 3.0 + 0.5 * x * -2.0  # slopes 1, 3, -2 per mm
    slopes = FiniteDifferences(Space.field(GRID))(ramp)
    assert torch.allclose(slopes[0, :-1], torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(slopes[1, :, :-1], torch.tensor(3.0, dtype=torch.float64))
    assert torch.allclose(slopes[2, :, :, :-1], torch.tensor(-2.0, dtype=torch.float64))
    assert not slopes[0, -1].any()  # no flow through the last face


def test_periodic_ends_meet() -> None:
    x = random_element(Space.field(GRID))
    wrapped = FiniteDifferences(Space.field(GRID), axes=(2,), boundary="periodic")(x)[0]
    assert torch.allclose(wrapped[..., -1], (x[..., 0] - x[..., -1]) / 0.5)


def test_periodic_penalty_is_solved_exactly() -> None:
    op = FiniteDifferences(Space.field(GRID), boundary="periodic")
    b = random_element(op.domain)
    x = op.normal_solve(b, 0.3, max_iterations=1)
    assert (op.gram(x) + 0.3 * x - b).abs().max() < 1e-12


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`domain` must lie on a Grid"):
        FiniteDifferences(Space((3, 4)))
    with pytest.raises(ValueError, match="`axes` must name array axes"):
        FiniteDifferences(Space.field(GRID), axes=(0, 3))
    with pytest.raises(ValueError, match="`boundary` must be"):
        FiniteDifferences(Space.field(GRID), boundary="mirror")  # type: ignore[arg-type]
