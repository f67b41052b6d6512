"""Synthetic subjects: anatomy drawn from a seed, with values and labels at every point of the world."""

from workbench.anatomy.subject import Lesion, Rendered, Subject
from workbench.anatomy.torso import Torso

__all__ = ["Lesion", "Rendered", "Subject", "Torso"]
