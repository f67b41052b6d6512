"""Synthetic subjects: anatomy drawn from a seed, with values and labels at every point of the world.

The files here know no anatomy: chance, random fields, shapes, canvases, motion. `torso` and `brain` are made
of them. Priors are trained on what they draw: a change keeps the image of a seed, bit by bit, or says so.
"""

from workbench.anatomy.brain import Brain
from workbench.anatomy.subject import Lesion, Rendered, Subject
from workbench.anatomy.torso import Torso

__all__ = ["Brain", "Lesion", "Rendered", "Subject", "Torso"]
