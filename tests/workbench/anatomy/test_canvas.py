"""What is painted where, on all of a canvas and on parts of it."""

from __future__ import annotations

import torch

from workbench.anatomy.canvas import Canvas

Q = torch.stack([torch.linspace(-5, 5, 21), torch.zeros(21), torch.zeros(21)])


def test_an_edge_is_a_ramp_and_a_label_is_what_covers_most() -> None:
    canvas = Canvas(Q, 10.0, edge=2.0)
    canvas.paint(canvas.whole, canvas.cover(Q[0].abs() - 3), 20.0, 7)
    at = dict(
        zip(Q[0].tolist(), zip(canvas.values.tolist(), canvas.labels.tolist(), strict=True), strict=True)
    )
    assert (at[0.0], at[3.0], at[-2.5], at[4.5]) == ((20, 7), (15, 0), (17.5, 7), (10, 0))
    sharp = canvas.cover(Q[0] - 0.25, edge=0.01)
    assert sharp.unique().tolist() == [0, 1]


def test_a_part_is_painted_as_the_whole_is() -> None:
    whole, parted = Canvas(Q, 0.0, edge=2.0), Canvas(Q, 0.0, edge=2.0)
    value, label = Q[0] * 3, (Q[0] > 0).short() + 4
    whole.paint(whole.whole, whole.cover(Q[0] - 1), value, label)
    for box in ((-9, -1, -1), (-0.1, 1, 1)), ((0, -1, -1), (9, 1, 1)):
        part = parted.part(*box)
        assert part is not None
        parted.paint(part, parted.cover(part.q[0] - 1), part.at(value), part.at(label))
    assert torch.equal(whole.values, parted.values)
    assert torch.equal(whole.labels, parted.labels)


def test_parts_of_parts_and_none() -> None:
    canvas = Canvas(Q, 0.0, edge=1.0)
    assert canvas.part((6, -1, -1), (9, 1, 1)) is None
    assert canvas.part((-6, -1, -1), (9, 1, 1)) is canvas.whole
    assert canvas.where(Q[0] < 9) is canvas.whole
    assert canvas.where(Q[0] > 9) is None
    right = canvas.where(Q[0] > 0)
    assert right is not None
    few = right.where(right.q[0] > 4)
    assert few is not None
    assert few.q[0].tolist() == few.at(Q[0]).tolist() == [4.5, 5.0]
    assert right.where(right.q[0] < 0) is None
    empty = Canvas(Q[:, :0], 0.0, edge=1.0)
    assert empty.part((-1, -1, -1), (1, 1, 1)) is None
    assert empty.where(torch.zeros(0, dtype=torch.bool)) is None
