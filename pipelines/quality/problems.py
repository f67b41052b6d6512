"""The problems by name. CT at 1e5 photons and MRI of a quarter of all lines at 40 dB are the core."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pipelines.quality.ct import CTProblem
from pipelines.quality.images import BlurProblem, MissingProblem
from pipelines.quality.mri import KSpaceProblem
from pipelines.quality.posed import Problem

__all__ = ["CORE", "PROBLEMS"]

_ALL: tuple[Problem, ...] = (
    CTProblem("ct20", views=20),
    CTProblem("ct40", views=40),
    CTProblem("ct60", views=60),
    KSpaceProblem("mri4"),
    CTProblem("arc60", views=60, arc=90.0),
    CTProblem("ct20-dim", views=20, photons=2e4),
    CTProblem("ct40-dim", views=40, photons=2e4),
    CTProblem("ct60-dim", views=60, photons=2e4),
    CTProblem("arc60-dim", views=60, arc=90.0, photons=2e4),
    KSpaceProblem("mri8", step=20, centre=10),
    KSpaceProblem("mri4-noisy", decibels=20.0),
    KSpaceProblem("mri8-noisy", step=20, centre=10, decibels=20.0),
    BlurProblem("blur"),
    MissingProblem("missing"),
)
#: In the order of the tables.
PROBLEMS: Mapping[str, Problem] = MappingProxyType({problem.name: problem for problem in _ALL})
#: Cells of 24 slices and 8 draws; the floor is asked for here.
CORE = ("ct20", "ct40", "ct60", "mri4")
