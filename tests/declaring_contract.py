"""What holds for every prior, over fields or tokens: what it says of itself, and its conditions."""

from __future__ import annotations

import json

import pytest
import torch

from workbench.ledger import Ledger
from workbench.priors.base import Prior
from workbench.priors.declaration import Declaration
from workbench.units import Units


class DeclaringContract:
    """What holds for every prior: what it says of itself, and that it binds no condition unasked."""

    #: Whether `given` binds a condition.
    takes_condition = False

    def make(self, dtype: torch.dtype) -> Prior:
        raise NotImplementedError

    def other(self) -> Prior | None:
        """Return a prior of the same class with other contents, None where there is no other."""
        return None

    def test_it_declares_itself(self) -> None:
        prior = self.make(torch.float64)
        facts = prior.declared
        assert isinstance(facts, Declaration)
        assert facts.space == prior.space
        assert facts.units == prior.units
        assert facts.is_complex == prior.space.is_complex
        assert (facts.exact, facts.calibrated_score) == (prior.exact, prior.calibrated_score)
        grid = prior.space.grid
        if grid is not None:
            assert facts.spacing is None or (len(facts.spacing) == 3 and min(facts.spacing) > 0)
            assert facts.dimensions in (2, 3)
        if facts.data_range is not None:
            assert facts.data_range[0] < facts.data_range[1]
        assert facts.data_sd is None or facts.data_sd > 0
        assert len(json.dumps(facts.facts(), allow_nan=False)) > 100

    def test_its_hash_is_that_of_its_contents(self) -> None:
        prior, again = self.make(torch.float64), self.make(torch.float64)
        assert len(prior.hash) == 64
        assert prior.hash == again.hash == prior.declared.hash
        assert prior.counted(Ledger()).hash == prior.hash
        other = self.other()
        if other is not None:
            assert type(other) is type(prior)
            assert other.hash != prior.hash
        again.units = Units(unit="of another kind")
        assert again.hash != prior.hash

    def test_a_condition_is_refused_where_there_is_none(self) -> None:
        if self.takes_condition:
            pytest.skip("it takes one")
        prior = self.make(torch.float64)
        name = type(prior).__name__
        with pytest.raises(TypeError, match=f"`prior` must take a condition, got {name} and a Tensor"):
            prior.given(torch.zeros(prior.space.shape))
