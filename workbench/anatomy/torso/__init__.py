"""Torsos as CT sees them, from the neck to the thighs, breathing and beating."""

from workbench.anatomy.torso.motion import Beating, Breathing
from workbench.anatomy.torso.torso import Torso

__all__ = ["Beating", "Breathing", "Torso"]
