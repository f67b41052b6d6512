"""One image that a descent moves to where data and prior agree: point estimates."""

from workbench.solvers.variational.first_order import Adam, GradientDescent
from workbench.solvers.variational.red_diff import REDDiff

__all__ = ["Adam", "GradientDescent", "REDDiff"]
