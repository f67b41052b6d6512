import itertools

import numpy as np
import pytest
import torch

from operators.grid import Grid
from operators.space import Space
from tests.prior_contract import PriorContract
from tests.workbench.training.training_cases import world_volume
from workbench.priors.gaussian import SpectralGaussian
from workbench.priors.slice_frame import SliceAxis, SliceFrame, slice_labels
from workbench.priors.turned import TurnedPrior

SQUARE = Grid.from_spacing((12, 12, 12), 2.0)


@pytest.mark.parametrize("axis", list(SliceAxis))
@pytest.mark.parametrize("flips", [(), (1,), (2,), (1, 2), (0, 1)])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_slice_is_seen_the_same_way_up_however_it_is_stored(axis, flips, swapped) -> None:
    normal = 2 - axis.world
    rest = [a for a in range(3) if a != normal]
    plain = SQUARE.slice_at(normal, 4).permute((normal, *rest))
    assert SliceFrame.of(plain).is_plain
    other = plain.permute((0, 2, 1)) if swapped else plain
    other = other.flip(*flips)
    frame = SliceFrame.of(other)
    assert (frame.axis, frame.spacing) == (axis, pytest.approx(2.0))
    seen = frame.seen(world_volume(other).data)
    assert torch.allclose(seen, world_volume(plain).data)
    assert torch.equal(frame.stored(seen), world_volume(other).data)
    assert torch.equal(frame.labels, slice_labels(2.0, axis))


def test_labels_tell_the_spacing_and_the_axis() -> None:
    assert slice_labels(4.0, SliceAxis.CORONAL).tolist() == [1.0, 0.0, 1.0, 0.0]
    assert slice_labels(1.0, SliceAxis.AXIAL).tolist() == [-1.0, 1.0, 0.0, 0.0]


def rotated(degrees: float) -> Grid:
    turn, angle = np.eye(4), np.deg2rad(degrees)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Grid((1, 8, 8), turn @ Grid.plane((8, 8), (2.0, 2.0)).affine)


def test_oblique_slices_are_what_they_are_nearest_to() -> None:
    assert SliceFrame.of(rotated(30)).axis is SliceAxis.AXIAL
    with pytest.raises(ValueError, match="`grid` must lie within 35 degrees of .* got 40 degrees away"):
        SliceFrame.of(rotated(40))


def test_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="`grid` must be a single slice, got 12 slices"):
        SliceFrame.of(SQUARE)
    with pytest.raises(ValueError, match="`grid` must have square voxels, got 2 x 3 mm"):
        SliceFrame.of(Grid.plane((8, 8), (2.0, 3.0)))


STORED = Grid.plane((5, 4), (2.0, 2.0)).permute((0, 2, 1)).flip(1)


class TestTurned(PriorContract):
    covers = (TurnedPrior,)
    can_be_drawn = False
    is_exact = False

    def make(self, dtype: torch.dtype) -> TurnedPrior:
        seen = Space.field(Grid.plane((5, 4), (2.0, 2.0)))
        inner = SpectralGaussian.smooth(seen, sd=0.8, length=5.0)
        return TurnedPrior(inner, Space.field(STORED), SliceFrame.of(STORED))


def test_a_turned_prior_is_the_inner_one_of_the_turned_image() -> None:
    prior = TestTurned().make(torch.float64)
    z = world_volume(STORED).data[None]
    expected = prior.frame.stored(prior.inner.denoise(prior.frame.seen(z), 0.7))
    assert torch.equal(prior.denoise(z, 0.7), expected)
    assert prior.frame.transposed
    assert prior.frame.flipped


def test_a_turned_prior_refuses_another_shape() -> None:
    inner = TestTurned().make(torch.float64).inner
    space = Space.field(Grid.plane((6, 4), (2.0, 2.0)))
    with pytest.raises(ValueError, match="`inner` must be over"):
        TurnedPrior(inner, space, SliceFrame.of(space.grid))
    assert list(itertools.islice(iter(inner.space.shape), 3)) == [1, 5, 4]
