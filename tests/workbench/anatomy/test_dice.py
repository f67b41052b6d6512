"""Numbers by name."""

from __future__ import annotations

import torch

from workbench.anatomy.dice import Dice

DICE = Dice(3, "test/")


def test_a_name_has_its_number_whatever_else_is_drawn() -> None:
    first = DICE.uniform("one")
    assert DICE.normal("two") != DICE.normal("three")
    assert Dice(3, "test/").uniform("one") == first
    assert len({first, DICE.uniform("two"), Dice(4, "test/").uniform("one"), Dice(3, "").uniform("one")}) == 4
    # The prefix is text and nothing more.
    assert Dice(3, "").uniform("test/one") == first
    assert float(DICE.uniforms("one", 1)) == first


def test_numbers_lie_where_they_should() -> None:
    names = [str(k) for k in range(400)]
    drawn = torch.tensor([DICE.normal(name, 5.0, 2.0, reach=1.5) for name in names])
    assert drawn.min() == 2.0
    assert drawn.max() == 8.0
    assert abs(float(drawn.mean()) - 5) < 0.3
    assert all(-1 < DICE.uniform(name, -1, 4) < 4 for name in names)
    assert 70 < sum(DICE.chance(name, 0.25) for name in names) < 130
    chosen = [DICE.choice(name, ("a", "b", "b", "b")) for name in names]
    assert 70 < chosen.count("a") < 130
    assert DICE.normals("table", 2, 3).shape == DICE.uniforms("table", 2, 3).shape == (2, 3)
