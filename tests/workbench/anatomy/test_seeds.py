"""A seed is the same subject in every version: priors were trained on what is recorded here."""

from __future__ import annotations

import pytest
import torch

from workbench.anatomy import Brain, Subject, Torso
from workbench.anatomy.brain.phase import phase_at

#: Points in RAS mm, away from edges, with the name of the label there and the value.
TORSO = (
    ((4.0, 28.0, 360.0), "aorta", 139.3959),
    ((70.0, 66.0, 192.0), "liver", 130.5943),
    ((32.0, 58.0, 278.0), "lung right", -860.6995),
    ((-1.0, -35.0, 18.0), "vertebra", 111.4874),
    ((53.0, 4.0, 82.0), "small bowel", 91.8003),
    ((10.0, -44.0, -23.0), "muscle", 61.7150),
    ((40.0, -23.0, 140.0), "kidney right", 186.6613),
)
BRAIN = (
    ((-22.0, -36.0, 15.0), "ventricle", 0.9030),
    ((29.0, -43.0, 30.0), "white", 0.1922),
    ((-8.0, -3.0, 69.0), "grey", 0.3204),
    ((37.0, -59.0, -32.0), "cerebellar white", 0.2391),
    ((-30.0, 57.0, -26.0), "eye", 0.9402),
    ((-28.0, -104.0, -52.0), "fat", 0.3836),
)

Recorded = tuple[tuple[tuple[float, float, float], str, float], ...]


def compare(subject: Subject, recorded: Recorded, atol: float) -> None:
    points, names, expected = zip(*recorded, strict=True)
    values, labels = subject.values(torch.tensor(points))
    assert [subject.label_names[label] for label in labels.tolist()] == list(names)
    assert values.tolist() == pytest.approx(expected, abs=atol)


def test_a_torso_is_the_one_that_was_trained_on() -> None:
    torso = Torso.draw(2, contrast="venous", noise=10.0, lesions={"lung nodule": 1})
    compare(torso, TORSO, 0.02)
    assert torso.lesions[0].centre == pytest.approx((76.83762, -9.44393, 416.02344), abs=1e-3)


def test_a_head_is_the_one_that_was_trained_on() -> None:
    brain = Brain.draw(2, contrast="t2", skull=True, lesions=1)
    compare(brain, BRAIN, 2e-4)
    assert brain.lesions[0].centre == pytest.approx((-35.13092, 35.43826, 19.45183), abs=1e-3)
    points = torch.tensor([[0.0, 0.0, 0.0], [20.0, -30.0, 10.0], [0.0, 42.0, -30.0]])
    assert phase_at(points, 2).tolist() == pytest.approx([0.2725, -0.1820, 1.4386], abs=1e-3)
