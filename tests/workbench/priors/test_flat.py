import pytest
import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from tests.oracles import random_element
from tests.prior_contract import PriorContract
from workbench.priors.flat import Flat
from workbench.units import Units

GRID = Grid.from_spacing((2, 3, 4), 1.0)


class TestFlat(PriorContract):
    covers = (Flat,)
    can_be_drawn = False
    is_affine = True
    is_proper = False
    knows_pure_noise = False

    def make(self, dtype: torch.dtype) -> Flat:
        return Flat(Space.vectors(GRID))

    def smoothed_log_density(self, z: Tensor, sigma: float) -> Tensor:
        return (z * 0).sum(dim=(-4, -3, -2, -1))


class TestFlatOnComplexFields(TestFlat):
    def make(self, dtype: torch.dtype) -> Flat:
        return Flat(Space.field(GRID, is_complex=True))

    def smoothed_log_density(self, z: Tensor, sigma: float) -> Tensor:
        return (z.real * 0).sum(dim=(-3, -2, -1))


def test_it_says_nothing() -> None:
    prior = Flat(Space.field(GRID), Units(2.0, 1.0, "HU"))
    z = random_element(prior.space, 2)
    assert torch.equal(prior.denoise(z, 3.0), z)
    assert not prior.score(z, 3.0).any()
    assert not prior.log_density(z).any()
    assert prior.exact
    assert prior.units.unit == "HU"


def test_tokens_have_no_flat_prior_here() -> None:
    with pytest.raises(TypeError, match="`space` must be of real, complex or vector fields.*tokens"):
        Flat(Space.tokens(GRID, 4))
    with pytest.raises(TypeError, match="`space` must be a Space"):
        Flat(GRID)  # type: ignore[arg-type]
