"""Brains in their heads as MR sees them."""

from workbench.anatomy.brain.brain import Brain

__all__ = ["Brain"]
