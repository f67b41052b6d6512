from collections.abc import Callable

import pytest
import torch

from operators.mask_patterns import (
    boxes,
    ellipsoid,
    missing,
    random_entries,
    random_from,
    random_lines,
    regular_lines,
)

SHAPE = (3, 16, 20)


def test_random_entries_keep_the_share_and_follow_the_seed() -> None:
    keep = random_entries(SHAPE, 0.25, seed=1)
    assert keep.dtype == torch.bool
    assert int(keep.sum()) == 240
    assert torch.equal(keep, random_entries(SHAPE, 0.25, seed=1))
    assert not torch.equal(keep, random_entries(SHAPE, 0.25, seed=2))
    assert int(random_entries(SHAPE, 1e-9, seed=1).sum()) == 1
    assert random_entries(SHAPE, 1, seed=1).all()


def test_a_pattern_repeats_along_the_axes_that_are_alike() -> None:
    keep = random_entries(SHAPE, 0.25, seed=1, alike=(0, -1))
    assert torch.equal(keep, keep[:1, :, :1].expand(SHAPE))
    assert int(keep[0, :, 0].sum()) == 4


def test_random_from_a_density_has_its_mean() -> None:
    density = torch.tensor([0.0, 0.2, 1.0]).reshape(3, 1).expand(3, 4000)
    share = random_from(density, seed=3).double().mean(dim=1)
    assert share[0] == 0 and share[2] == 1
    assert abs(float(share[1]) - 0.2) < 5 * (0.2 * 0.8 / 4000) ** 0.5


def test_lines_are_whole_and_of_the_share() -> None:
    keep = random_lines((400, 2), 0, 0.25, seed=1)
    assert torch.equal(keep[:, 0], keep[:, 1])
    assert int(keep[:, 0].sum()) == 100
    assert 30 < int(keep[:200, 0].sum()) < 70  # 50 +- 4.3 sd: hypergeometric


def test_regular_lines_start_at_the_offset() -> None:
    keep = regular_lines((2, 10), -1, 4, offset=1)
    assert keep[0].nonzero().flatten().tolist() == [1, 5, 9]
    assert torch.equal(keep[0], keep[1])


def test_missing_planes_and_boxes_are_hidden() -> None:
    assert missing(SHAPE, -3, [1])[:, 0, 0].tolist() == [True, False, True]
    assert missing(SHAPE, 0, []).all()
    keep = boxes(SHAPE, [((2, 3), (5, 7)), ((0, 0, 0), (1, 1, 1))])
    assert int((~keep).sum()) == 3 * 3 * 4 + 1
    assert not keep[:, 2:5, 3:7].any()


def test_the_ellipsoid_has_its_volume_and_may_be_turned_inside_out() -> None:
    inside = ellipsoid((60, 80))
    assert abs(float(inside.double().mean()) - torch.pi / 4) < 0.01
    assert inside[30, 40] and not inside[0, 0]
    assert not (inside & ~inside).any()
    assert ellipsoid((1, 8), 2.0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_entries(SHAPE, 0.0, seed=1), "`fraction` must be a finite number > 0"),
        (lambda: random_entries(SHAPE, 1.5, seed=1), "`fraction` must lie between 0 and 1"),
        (lambda: random_entries((), 0.5, seed=1), "`shape` must have at least one axis"),
        (lambda: random_entries((0, 2), 0.5, seed=1), r"`shape\[0\]` must be an integer >= 1"),
        (lambda: random_entries(SHAPE, 0.5, seed=-1), "`seed` must be an integer >= 0"),
        (lambda: random_entries(SHAPE, 0.5, seed=1, alike=(7,)), "`alike` must name axes from -3 to 2"),
        (lambda: random_from(torch.tensor([1.2]), seed=1), "`density` must be probabilities"),
        (lambda: random_lines(SHAPE, 3, 0.5, seed=1), "`axis` must name axes from -3 to 2"),
        (lambda: regular_lines(SHAPE, 1, 0), "`every` must be an integer >= 1"),
        (lambda: regular_lines(SHAPE, 1, 2, offset=2), "`offset` must be below 2"),
        (lambda: missing(SHAPE, 0, [3]), r"`indices\[0\]` must be below 3"),
        (lambda: boxes(SHAPE, [((0, 0), (17, 2))]), r"`hidden\[0\]` must have 0 <= start < stop"),
        (lambda: boxes(SHAPE, [((0,), (1, 2))]), r"`hidden\[0\]` must have"),
        (lambda: boxes(SHAPE, [(1, 2, 3)]), r"`hidden\[0\]` must be a pair"),  # type: ignore[list-item]
        (lambda: ellipsoid(SHAPE, 0), "`radius` must be a finite number > 0"),
    ],
)
def test_bad_patterns(make: Callable[[], torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
