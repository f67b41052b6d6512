"""Names of the labels, and the HU of tissues without iodine and in an arterial or portal venous phase."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from operators.errors import value_error
from workbench.anatomy.dice import Dice

__all__ = ["LABELS", "NAMES", "PHASES", "draw_tissues"]

_NAMES = (
    "outside", "skin", "fat", "muscle", "lung right", "lung left", "airway", "lung vessel", "heart muscle",
    "heart chamber left", "heart chamber right", "aorta", "artery", "vein", "pulmonary artery", "oesophagus",
    "liver", "gallbladder", "spleen", "kidney right", "kidney left", "pancreas", "adrenal", "stomach",
    "small bowel", "colon", "bladder", "prostate or uterus", "visceral fat", "vertebra", "disc",
    "spinal canal", "rib", "costal cartilage", "sternum", "clavicle", "scapula", "humerus", "pelvis",
    "femur", "thyroid",
    "breast gland", "bowel gas", "table", "cloth", "lung nodule", "ground-glass nodule", "liver metastasis",
    "bone lesion", "pleural fluid",
)  # fmt: skip

#: Label to name: 0 is outside the body.
NAMES: Mapping[int, str] = MappingProxyType(dict(enumerate(_NAMES)))
#: Name to label.
LABELS: Mapping[str, int] = MappingProxyType({name: label for label, name in enumerate(_NAMES)})

PHASES = ("none", "arterial", "venous")

#: Mean HU without contrast, in the arterial and in the portal venous phase, and the sd between subjects.
_HU: dict[str, tuple[float, float, float, float]] = {
    "air": (-1000, -1000, -1000, 0),
    "skin": (10, 10, 12, 15),
    "fat": (-104, -104, -102, 5),
    "visceral fat": (-100, -99, -96, 6),
    "muscle": (54, 58, 64, 5),
    "lung": (-855, -850, -845, 30),
    "lung vessel": (40, 190, 140, 5),
    "heart muscle": (46, 85, 105, 6),
    "left": (42, 330, 165, 12),
    "right": (42, 210, 160, 15),
    "aorta": (42, 330, 165, 12),
    "artery": (42, 310, 160, 12),
    "vein": (42, 85, 165, 10),
    "superior cava": (42, 320, 160, 20),
    "pulmonary artery": (42, 240, 160, 15),
    "portal": (42, 90, 175, 10),
    "oesophagus": (38, 45, 55, 6),
    "liver": (58, 72, 110, 9),
    "gallbladder": (8, 8, 9, 6),
    "spleen": (49, 120, 122, 7),
    "kidney cortex": (33, 185, 185, 12),
    "kidney medulla": (30, 75, 165, 12),
    "renal pelvis": (6, 8, 15, 6),
    "pancreas": (38, 95, 88, 9),
    "adrenal": (25, 60, 65, 8),
    "gut wall": (38, 70, 82, 8),
    "gut content": (18, 18, 18, 14),
    "bladder": (6, 6, 8, 4),
    "prostate or uterus": (40, 60, 80, 8),
    "cortex": (800, 800, 805, 90),
    "marrow": (140, 140, 146, 30),
    "yellow marrow": (-40, -40, -38, 25),
    "disc": (85, 85, 88, 12),
    "canal": (26, 28, 30, 6),
    "cartilage": (105, 105, 108, 15),
    "pleural fluid": (8, 9, 10, 5),
    "thyroid": (95, 170, 150, 20),
    "breast gland": (30, 40, 50, 12),
}


def draw_tissues(dice: Dice, phase: str, bone: float) -> dict[str, float]:
    """Return the HU of each tissue in `phase`; `bone` is the mineral density, as a share of the average."""
    if phase not in PHASES:
        raise value_error("contrast", f"be one of {', '.join(PHASES)}", repr(phase))
    column = PHASES.index(phase)
    spread = dice.normals("HU", len(_HU)).clamp(-2, 2).tolist()
    drawn = {name: row[column] + row[3] * z for (name, row), z in zip(_HU.items(), spread, strict=True)}
    if phase != "none":
        # One bolus: what is enhanced is enhanced together.
        dose = dice.normal("dose", 1.0, 0.15, reach=2.0)
        for name, row in _HU.items():
            drawn[name] += (dose - 1.0) * (row[column] - row[0])
    if dice.chance("fatty liver", 0.2):
        drawn["liver"] -= dice.uniform("liver fat", 10, 50)
    for name in ("cortex", "marrow"):
        drawn[name] *= bone
    return drawn
