"""Floor 1: y = A(x). Geometry and physics on torch tensors; no noise, no prior, no network, no file."""

from operators.base import Operator
from operators.grid import Grid
from operators.linear import LinearOperator

__all__ = ["Grid", "LinearOperator", "Operator"]
