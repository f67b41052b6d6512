"""What the tissues of a head look like to a scanner: relaxation times, sequences and their signal equations.

    spin echo            rho (1 - e^(-TR/T1)) e^(-TE/T2)
    inversion recovery   rho |1 - 2 e^(-TI/T1) + e^(-TR/T1)| e^(-TE/T2)
    gradient echo        rho sin(a) (1 - E1) / (1 - cos(a) E1) e^(-TE/T2*),  E1 = e^(-TR/T1)
    prepared train       rho sin(a) |m| e^(-TE/T2*), m the periodic state at the train's centre (as MPRAGE)

Times are in ms. The tables hold round numbers from the literature, about which each subject is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from workbench.anatomy.dice import Dice

__all__ = ["CONTRASTS", "LABEL_NAMES", "Sequence", "Tissue", "draw_signals"]

CONTRASTS = ("t1", "t2", "flair", "pd", "t1c", "t2s")


class Tissue(IntEnum):
    """The labels of a head."""

    OUTSIDE = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    MARROW = 5
    AIR = 6
    DURA = 7
    MUCOSA = 8
    EYE = 9
    LENS = 10
    NERVE = 11
    BLOOD = 12
    CSF = 13
    VENTRICLE = 14
    GREY = 15
    WHITE = 16
    CAUDATE = 17
    PUTAMEN = 18
    PALLIDUM = 19
    THALAMUS = 20
    HIPPOCAMPUS = 21
    STEM = 22
    CEREBELLAR_GREY = 23
    CEREBELLAR_WHITE = 24
    CHOROID = 25
    STROKE = 30
    MS = 31
    TUMOUR_CORE = 32
    TUMOUR_RIM = 33
    OEDEMA = 34


LABEL_NAMES: Mapping[int, str] = MappingProxyType(
    {int(tissue): tissue.name.lower().replace("_", " ") for tissue in Tissue}
)


@dataclass(frozen=True)
class Matter:
    """Proton density and relaxation times in ms at 1.5 T and 3 T; `agent` is the uptake of contrast agent."""

    rho: float
    t1: tuple[float, float]
    t2: tuple[float, float]
    t2s: tuple[float, float]
    agent: float = 0.0


MATTER: Mapping[Tissue, Matter] = MappingProxyType(
    {
        Tissue.SKIN: Matter(0.72, (700, 900), (35, 32), (25, 20), 0.25),
        Tissue.FAT: Matter(0.90, (280, 370), (95, 110), (45, 35)),
        Tissue.MUSCLE: Matter(0.75, (950, 1350), (42, 36), (30, 25), 0.10),
        Tissue.BONE: Matter(0.10, (400, 500), (1.0, 1.0), (0.5, 0.4)),
        Tissue.MARROW: Matter(0.62, (380, 480), (60, 55), (14, 9), 0.05),
        Tissue.DURA: Matter(0.45, (700, 900), (22, 18), (14, 10), 0.9),
        Tissue.MUCOSA: Matter(0.85, (950, 1250), (95, 85), (35, 22), 1.0),
        Tissue.EYE: Matter(0.98, (3800, 4100), (1100, 900), (400, 250)),
        Tissue.LENS: Matter(0.65, (1000, 1350), (32, 28), (22, 18)),
        Tissue.NERVE: Matter(0.72, (750, 950), (80, 72), (45, 35)),
        Tissue.BLOOD: Matter(0.90, (1450, 1750), (160, 110), (90, 45), 3.0),
        Tissue.CSF: Matter(1.00, (4000, 4200), (1500, 1300), (600, 400)),
        Tissue.VENTRICLE: Matter(1.00, (4100, 4300), (1700, 1500), (700, 450)),
        Tissue.GREY: Matter(0.82, (1030, 1400), (98, 92), (72, 55), 0.03),
        Tissue.WHITE: Matter(0.70, (620, 850), (78, 70), (62, 47), 0.02),
        Tissue.CAUDATE: Matter(0.82, (980, 1300), (92, 82), (58, 46), 0.03),
        Tissue.PUTAMEN: Matter(0.81, (930, 1230), (86, 76), (52, 40), 0.03),
        Tissue.PALLIDUM: Matter(0.76, (780, 1030), (66, 57), (34, 24), 0.03),
        Tissue.THALAMUS: Matter(0.79, (840, 1130), (86, 78), (60, 46), 0.03),
        Tissue.HIPPOCAMPUS: Matter(0.84, (1050, 1420), (102, 96), (74, 56), 0.03),
        Tissue.STEM: Matter(0.74, (690, 930), (82, 74), (60, 45), 0.02),
        Tissue.CEREBELLAR_GREY: Matter(0.81, (980, 1320), (96, 90), (70, 53), 0.03),
        Tissue.CEREBELLAR_WHITE: Matter(0.72, (660, 890), (82, 74), (60, 45), 0.02),
        Tissue.CHOROID: Matter(0.88, (1300, 1700), (190, 170), (60, 40), 1.6),
        Tissue.STROKE: Matter(0.92, (1700, 2200), (190, 180), (120, 95), 0.15),
        Tissue.MS: Matter(0.86, (1150, 1500), (145, 135), (100, 78), 0.05),
        Tissue.TUMOUR_CORE: Matter(0.92, (1800, 2300), (220, 200), (110, 80), 0.05),
        Tissue.TUMOUR_RIM: Matter(0.84, (1150, 1500), (115, 105), (70, 52), 0.9),
        Tissue.OEDEMA: Matter(0.88, (1200, 1550), (150, 138), (105, 85)),
    }
)
#: A prepared train: so many small flips before its centre, so many ms apart.
HALF_TRAIN, SPACING = 80, 7.0
BRAIN = (Tissue.GREY, Tissue.WHITE, Tissue.CSF)


@dataclass(frozen=True)
class Sequence:
    """A sequence as played out, times in ms, the flip angle in rad; inversion time 0: none."""

    name: str
    tr: float
    te: float
    ti: float = 0.0
    flip: float = math.pi / 2
    spoiled: bool = False

    def signal(self, rho: float, t1: float, t2: float, t2s: float) -> float:
        """Return the magnitude by the equations at the head of this module."""
        if self.spoiled and self.ti:
            return rho * math.sin(self.flip) * abs(self._prepared(t1)) * math.exp(-self.te / t2s)
        e1 = math.exp(-self.tr / t1)
        if self.spoiled:
            steady = math.sin(self.flip) * (1 - e1) / (1 - math.cos(self.flip) * e1)
            return rho * steady * math.exp(-self.te / t2s)
        along = abs(1 - 2 * math.exp(-self.ti / t1) + e1) if self.ti else 1 - e1
        return rho * along * math.exp(-self.te / t2)

    def _prepared(self, t1: float) -> float:
        """Return the longitudinal magnetisation at the centre of the train, TI after an inversion.

        A wait and half a train are affine maps m -> c + d (m - c), and the cycle of all has a fixed point.
        """
        keep = math.cos(self.flip) * math.exp(-SPACING / t1)
        half = (keep**HALF_TRAIN, (1 - math.exp(-SPACING / t1)) / (1 - keep))
        before = (math.exp(-(self.ti - HALF_TRAIN * SPACING) / t1), 1.0)
        after = (math.exp(-(self.tr - self.ti - HALF_TRAIN * SPACING) / t1), 1.0)
        slope, offset = 1.0, 0.0  # of the cycle that starts at the centre of the train
        for decay, aim in (half, after, (-1.0, 0.0), before, half):
            slope, offset = decay * slope, aim + decay * (offset - aim)
        return offset / (1 - slope)

    @classmethod
    def draw(cls, dice: Dice, name: str, high_field: bool) -> Sequence:
        """Return a sequence of the contrast `name`, as protocols have them, at 3 T or 1.5 T."""

        def time(what: str, low: float, high: float) -> float:
            return dice.uniform(f"sequence {what}", low, high)

        if name in ("t1", "t1c"):
            if time("kind", 0, 1) < 0.6:
                ti = time("ti", 850, 1050) * (1.0 if high_field else 0.9)
                flip = math.radians(time("flip", 7, 11))
                return cls(name, time("tr", 1900, 2400), time("te", 2.2, 4.5), ti, flip, True)
            return cls(name, time("tr", 420, 620) * (1.15 if high_field else 1), time("te", 8, 14))
        if name == "t2":
            return cls(name, time("tr", 3200, 6500), time("te", 80, 115))
        if name == "flair":
            tr = time("tr", 7000, 11000)
            t1 = MATTER[Tissue.CSF].t1[high_field]
            null = t1 * (math.log(2) - math.log1p(math.exp(-tr / t1)))
            return cls(name, tr, time("te", 80, 130), null * time("null", 0.97, 1.01))
        if name == "pd":
            return cls(name, time("tr", 2200, 4500), time("te", 10, 26))
        flip = math.radians(time("flip", 14, 26))
        return cls(name, time("tr", 450, 800), time("te", 16, 28), 0.0, flip, True)


def draw_signals(dice: Dice, contrast: str, high_field: bool, sequence: Sequence) -> Mapping[Tissue, float]:
    """Return the signal of each tissue, in units of the brightest of grey matter, white matter and CSF.

    Each tissue's density and times vary from subject to subject by a few percent. Blood is drawn as it
    flows: spin echoes lose it between their pulses, gradient echoes see it fresh.
    """
    names = sorted(MATTER)
    spread = dice.normals("tissue spread", len(names), 4).clamp(-2, 2).tolist()
    signals = {Tissue.OUTSIDE: 0.0, Tissue.AIR: 0.0}
    # Relaxivity times concentration in 1/s, of a tissue with uptake 1.
    uptake = dice.uniform("contrast agent", 0.9, 1.6) if contrast == "t1c" else 0.0
    for tissue, row in zip(names, spread, strict=True):
        matter = MATTER[tissue]
        vary = [math.exp(0.035 * n) for n in row]
        t1 = 1 / (1 / (matter.t1[high_field] * vary[1]) + matter.agent * uptake / 1000)
        t2, t2s = matter.t2[high_field] * vary[2], matter.t2s[high_field] * vary[3]
        signals[tissue] = sequence.signal(matter.rho * (1 + (vary[0] - 1) / 2), t1, t2, t2s)
    if contrast in ("t2", "flair", "pd"):
        signals[Tissue.BLOOD] *= dice.uniform("flow void", 0.02, 0.3)
    elif contrast == "t1":
        signals[Tissue.BLOOD] *= dice.uniform("flow void", 0.1, 1.6)
    unit = max(signals[tissue] for tissue in BRAIN)
    return MappingProxyType({tissue: signal / unit for tissue, signal in signals.items()})
