import math

import pytest
import torch

from operators.grid import Grid
from tests.workbench.training.training_cases import world_volume
from workbench.priors.slice_frame import SliceAxis
from workbench.training.contrast import Contrast, Hounsfield, Magnetisation
from workbench.training.slices import Cutting, SliceSource
from workbench.training.volumes import SliceVolume

STILL = Cutting(sizes=((32, 24),), rotation=0, tilt=0, scale=0, bend=0)
GRID = Grid.from_spacing((90, 80, 70), (2.0, 2.5, 3.0), centre=(5.0, -10.0, 40.0))


class Raw(Hounsfield):
    """Values as they are."""

    def images(self, values, keys):
        return values


def cut(cutting: Cutting, grid: Grid = GRID, contrast: Contrast | None = None, step: int = 1, **changes):
    volume = SliceVolume.of(world_volume(grid), subject="ramp", name="ramp", fill=-1000.0, **changes)
    return SliceSource([volume], contrast or Raw(), cutting).batch(step, range(12), 12)


def slopes(image: torch.Tensor) -> tuple[float, float]:
    """Return the change of a value from row to row and column to column, in the middle of a slice."""
    middle = image[12:20, 8:16]
    return float((middle[1:] - middle[:-1]).mean()), float((middle[:, 1:] - middle[:, :-1]).mean())


STEEP = {"axial": (10, 1), "coronal": (100, 1), "sagittal": (100, 10)}


@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_slices_lie_where_their_labels_say_however_the_volume_was_stored(flips, order) -> None:
    batch = cut(STILL, GRID.permute(order).flip(*flips))
    seen = set()
    for image, label in zip(batch.images, batch.labels, strict=True):
        spacing = 2.0 * 2 ** float(label[0])
        axis = list(SliceAxis)[int(label[1:].argmax())]
        seen.add(axis)
        down, across = STEEP[axis]
        got = slopes(image[0])
        assert got[0] == pytest.approx(down * spacing / 10, rel=2e-3)
        assert got[1] == pytest.approx(across * spacing / 10, rel=2e-2, abs=2e-3)
        assert 1.5 <= spacing <= 3.0
    assert seen == set(SliceAxis)


def test_the_same_step_and_rows_give_the_same_slices_in_parts() -> None:
    volume = SliceVolume.of(world_volume(GRID), subject="ramp", name="ramp", fill=-1000.0)
    source = SliceSource([volume], Raw(), Cutting(sizes=((32, 32), (16, 48))), seed=4)
    whole = source.batch(7, range(8), 8)
    parts = [source.batch(7, range(a, a + 4), 8) for a in (0, 4)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    assert sum((part.names for part in parts), ()) == whole.names
    assert not torch.equal(source.batch(8, range(8), 8).images[0], whole.images[0])
    assert {tuple(source.batch(s, range(1), 1).images.shape[2:]) for s in range(12)} == {(32, 32), (16, 48)}


def test_turns_and_scales_stay_within_what_is_stated() -> None:
    law = Cutting(sizes=((32, 24),), rotation=10, tilt=6, scale=0.1, bend=0)
    angles, scales = [], []
    for step in range(12):
        batch = cut(law, contrast=Raw(), step=step, axes=(SliceAxis.AXIAL,))
        for image, label in zip(batch.images, batch.labels, strict=True):
            down, across = (slope / (2.0 * 2 ** float(label[0]) / 10) for slope in slopes(image[0]))
            angles.append(abs(math.degrees(math.atan2(across - down / 10, down))))
            scales.append(math.hypot(down, across))
    assert max(angles) > 5
    assert torch.tensor(scales).std() > 0.3


def test_bends_have_the_stated_size() -> None:
    """Of a ramp along S a bend of 3 mm in all moves values by 3 / sqrt(3) mm times the slope."""
    law = Cutting(sizes=((48, 24),), rotation=0, tilt=0, scale=0, bend=3.0)
    straight = cut(law.__class__(**{**law.__dict__, "bend": 0.0}), axes=(SliceAxis.CORONAL,)).images
    bent = cut(law, axes=(SliceAxis.CORONAL,)).images
    inside = (straight > -900).all(dim=1)[:, 8:40, 6:18]
    moved = ((bent - straight)[:, 0, 8:40, 6:18])[inside] / 10
    assert moved.square().mean().sqrt().item() == pytest.approx(math.sqrt(3), rel=0.35)


def test_beyond_the_faces_there_is_air_and_beyond_the_last_slice_that_slice() -> None:
    slab = Grid.from_spacing((4, 80, 70), (2.0, 2.5, 3.0))
    batch = cut(Cutting(sizes=((96, 96),), spacing=(3.0, 3.0)), slab)
    assert batch.labels[:, 1].bool().all()  # a slab of 8 mm has axial slices alone
    assert (batch.images[:, 0, 0, 0] == -1000).all()
    assert (batch.images[:, 0, 48, 48] > -900).all()


def test_fine_detail_is_averaged_and_not_aliased() -> None:
    grid = Grid.from_spacing((90, 160, 160), 1.0)
    volume = world_volume(grid)
    checks = torch.arange(160) % 2 * 200.0
    volume = volume.with_data((volume.data * 0 + checks).double())
    one = SliceVolume.of(volume, subject="s", name="s", fill=0.0, axes=(SliceAxis.AXIAL,))
    law = Cutting(sizes=((24, 24),), spacing=(2.0, 2.0), rotation=0, tilt=0, scale=0, bend=0)
    images = SliceSource([one], Raw(low=-1e4), law).batch(1, range(4), 4).images
    assert images.std(dim=(1, 2, 3)).max() < 30  # of a pattern whose own standard deviation is 100


def test_images_are_mirrored_only_when_asked() -> None:
    law = Cutting(sizes=((32, 24),), rotation=0, tilt=0, scale=0, bend=0, mirror=1.0)
    plain, mirrored = cut(STILL, axes=(SliceAxis.AXIAL,)), cut(law, axes=(SliceAxis.AXIAL,))
    assert torch.allclose(plain.images.flip(-1), mirrored.images, atol=1e-3)
    sagittal = [cut(one, axes=(SliceAxis.SAGITTAL,)).images for one in (STILL, law)]
    assert torch.equal(*sagittal)


def test_weights_choose_among_volumes() -> None:
    def volume(name: str, weight: float) -> SliceVolume:
        return SliceVolume.of(world_volume(GRID), subject=name, name=name, fill=0.0, weight=weight)

    source = SliceSource([volume("often", 9.0), volume("seldom", 1.0)], Raw(), STILL)
    names = [name for step in range(25) for name in source.batch(step, range(8), 8).names]
    share = sum("often" in name for name in names) / len(names)
    assert share == pytest.approx(0.9, abs=0.06)


def test_real_volumes_stand_beside_complex_ones() -> None:
    real = world_volume(GRID)
    turned = real.with_data(torch.polar(real.data.abs(), torch.full_like(real.data, 0.5)))
    both = [
        SliceVolume.of(v, subject="s", name="s", fill=0.0) for v in (real.with_data(real.data.abs()), turned)
    ]
    law = Magnetisation(gain=0.0, bias=0.0, phase=0.0)
    mixed = SliceSource(both, law, STILL).batch(1, range(12), 12)
    alone = SliceSource(both[:1], law, STILL).batch(1, range(12), 12)
    assert mixed.images.shape == (12, 2, 32, 24)
    assert torch.allclose(mixed.images.square().sum(dim=1), alone.images.square().sum(dim=1), atol=1e-4)


def test_volumes_that_cannot_be_cut_are_refused() -> None:
    coarse = Grid.from_spacing((40, 64, 64), (2.0, 4.0, 4.0))
    with pytest.raises(ValueError, match="`ramp` must have an axis to cut slices across"):
        cut(STILL, coarse)
    with pytest.raises(ValueError, match="`ramp` must have an axis"):
        cut(STILL, Grid.from_spacing((20, 20, 20), 2.0))
    broken = world_volume(GRID)
    broken.data[3, 4, 5] = math.nan
    with pytest.raises(ValueError, match="`broken` must"):
        SliceVolume.of(broken, subject="b", name="broken", fill=0.0)
    with pytest.raises(ValueError, match="`volumes` must hold one volume"):
        SliceSource([], Raw())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ()}, "`sizes` must be pairs"),
        ({"sizes": ((32,),)}, "`sizes` must be pairs"),
        ({"spacing": (3.0, 1.0)}, "`spacing` must be"),
        ({"bend": -1.0}, "`bend` must"),
    ],
)
def test_bad_cuttings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Cutting(**change)  # type: ignore[arg-type]
