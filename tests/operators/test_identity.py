import torch

from operators.grid import Grid
from operators.identity import Identity
from operators.space import Space
from tests.contracts import LinearOperatorContract


class TestIdentity(LinearOperatorContract):
    covers = (Identity,)

    def make(self, dtype: torch.dtype) -> Identity:
        return Identity(Space.field(Grid.from_spacing((2, 3, 4), 1.0)))


class TestComplexIdentity(LinearOperatorContract):
    covers = (Identity,)

    def make(self, dtype: torch.dtype) -> Identity:
        return Identity(Space((5, 3), is_complex=True))
