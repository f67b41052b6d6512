"""Randomness without a state: numbers out of (seed, draw, step, purpose, voxel)."""

from workbench.random.keys import Keys

__all__ = ["Keys"]
