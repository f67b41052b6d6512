from collections.abc import Callable

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from workbench.kinds import Kind
from workbench.volume import Volume

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def slopes(
    shape: tuple[int, int, int] = (4, 6, 8), time: TimeAxis | None = None, space: str = "scanner"
) -> Volume:
    """Return an oblique volume whose value is a linear function of the world point."""
    affine = np.eye(4)
    affine[:3, :3] = ROTATION @ np.diag([3.0, 2.0, 1.0])
    affine[:3, 3] = (10.0, -20.0, 30.0)
    grid = Grid(shape, affine, time)
    return Volume(value_at(grid), grid, "HU", space)


def value_at(grid: Grid) -> torch.Tensor:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    values = torch.from_numpy(grid.index_to_world(index) @ np.array([1.0, 10.0, 100.0]))
    return values if grid.time is None else values.expand(grid.array_shape).clone()


CHANGES = [
    lambda v: v.crop((1, 0, 2), (3, 6, 7)),
    lambda v: v.crop(np.array([1, 0, 2]), (3, 6, 7)),
    lambda v: v.crop(1, np.int64(4)),
    lambda v: v.pad(1).crop((1, 1, 1), (5, 7, 9)),
    lambda v: v.pad((1, 0, 2), 2).crop((1, 0, 2), (5, 6, 10)),
    lambda v: v.pad(np.int64(1), np.array([0, 2, 1])).crop((1, 1, 1), (5, 7, 9)),
    lambda v: v.with_data(v.data),
    lambda v: v.flip(0, 2),
    lambda v: v.permute((2, 0, 1)),
    lambda v: v.downsample((2, 3, 4)),
    lambda v: v.resample(v.grid.resample(shape=(5, 7, 4)).crop((1, 1, 1), (4, 6, 3)), outside=0.0),
    lambda v: v.resample(v.grid.flip(1), outside=0.0),
]


@pytest.mark.parametrize("time", [None, TimeAxis(2)])
@pytest.mark.parametrize("change", CHANGES)
def test_voxels_and_frame_move_together(change: Callable[[Volume], Volume], time: TimeAxis | None) -> None:
    """A linear function of the world point stays that function, whatever is done to the grid."""
    changed = change(slopes(time=time, space="mni"))
    assert (changed.data - value_at(changed.grid)).abs().max() < 1e-9
    assert changed.grid.time == time
    assert (changed.unit, changed.space) == ("HU", "mni")


@pytest.mark.parametrize("time", [None, TimeAxis(2)])
@pytest.mark.parametrize("change", CHANGES)
def test_components_move_along(change: Callable[[Volume], Volume], time: TimeAxis | None) -> None:
    """Displacements in world mm stay what they are where they are, each component as a volume alone would."""
    volume = slopes(time=time)
    factors = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).reshape(-1, *[1] * volume.data.ndim)
    vectors = Volume(factors * volume.data, volume.grid, "mm", "mni", ("R", "A", "S"))
    changed = change(vectors)
    assert (changed.data - factors * change(volume).data).abs().max() < 1e-9
    assert (changed.grid, changed.unit, changed.space) == (change(volume).grid, "mm", "mni")
    assert changed.components == ("R", "A", "S")


def test_components_are_named() -> None:
    volume = slopes()
    vectors = volume.with_data(volume.data.expand(3, -1, -1, -1), components=("R", "A", "S"))
    assert vectors.components == ("R", "A", "S")
    length = vectors.with_data(vectors.data.norm(dim=0), components=())
    assert (length.components, length.unit) == ((), "HU")
    assert vectors.with_data(2 * vectors.data).components == ("R", "A", "S")
    assert Volume(vectors.data, volume.grid, components=["a", "b", "c"]).components == ("a", "b", "c")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`data` must have components and the grid's axes, \(2, 4, 6, 8\)"):
        vectors.with_data(vectors.data, components=("R", "A"))
    with pytest.raises(
        ValueError, match="`data` must have the grid's array shape .*An axis of components is named"
    ):
        Volume(vectors.data, volume.grid)
    for names in ("RAS", 3):
        with pytest.raises(TypeError, match="`components` must be a sequence of names, got"):
            Volume(vectors.data, volume.grid, components=names)  # type: ignore[arg-type]
    for names in (("R", "R", "S"), ("", "A", "S"), (1, 2, 3)):
        with pytest.raises(ValueError, match="`components` must be names, each another, got"):
            Volume(vectors.data, volume.grid, components=names)  # type: ignore[arg-type]


def test_pad_adds_the_stated_value_around() -> None:
    volume = slopes()
    padded = volume.pad((1, 0, 2), (0, 3, 1), value=-7.0)
    assert torch.equal(padded.crop((1, 0, 2), (5, 6, 10)).data, volume.data)
    assert (padded.data == -7.0).sum() == padded.data.numel() - volume.data.numel()


def test_resample_outside_gives_the_stated_value() -> None:
    volume = slopes()
    wider = volume.resample(volume.grid.pad(1), outside=-1000.0)
    assert (wider.data[0] == -1000).all()
    assert torch.allclose(wider.crop((1, 1, 1), (5, 7, 9)).data, volume.data)


def test_the_edge_value_holds_up_to_the_outer_face() -> None:
    grid = Grid.from_spacing((1, 1, 4), 8.0)
    row = Volume(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), grid)
    fine = row.resample(grid.pad((0, 0, 1)).resample(shape=(1, 1, 24)), outside=-5.0).data.flatten()
    # Four samples per voxel, at -3/8, -1/8, 1/8, 3/8 of it.
    assert fine[:4].tolist() == [-5.0] * 4
    assert fine[4:8].tolist() == [1.0, 1.0, 1.125, 1.375]
    assert fine[16:20].tolist() == [3.625, 3.875, 4.0, 4.0]
    assert fine[20:].tolist() == [-5.0] * 4


def test_a_thick_slice_holds_its_value_inside_its_thickness() -> None:
    plane = Grid.plane((3, 4), 1.0, thickness=8.0)
    thin = Volume(torch.full(plane.shape, 7.0), plane).resample(
        Grid.from_spacing((10, 3, 4), 1.0), outside=0.0
    )
    assert thin.data[:, 1, 2].tolist() == [0.0] + [7.0] * 8 + [0.0]


@pytest.mark.parametrize("flips", [(), (1,), (0, 2)])
def test_a_nan_stays_where_it_is_on_the_same_voxels(flips: tuple[int, ...]) -> None:
    volume = slopes()
    volume.data[2, 3, 4] = torch.nan
    again = volume.resample(volume.grid.flip(*flips), outside=0.0).flip(*flips).data
    assert torch.equal(torch.isnan(again), torch.isnan(volume.data))
    assert torch.equal(again.nan_to_num(), volume.data.nan_to_num())


def test_one_slice_can_be_resampled() -> None:
    plane = slopes((1, 6, 8))
    assert torch.allclose(plane.resample(plane.grid.flip(2), outside=0.0).data, plane.data.flip(-1))


def test_resampling_keeps_the_kind_of_numbers_and_their_gradient() -> None:
    grid = slopes().grid
    data = torch.ones(grid.shape, dtype=torch.complex64, requires_grad=True)
    shifted = Volume(data, grid).resample(grid.pad(1), outside=2j)
    assert (shifted.data.dtype, shifted.data[0, 0, 0].detach().item()) == (torch.complex64, 2j)
    shifted.data[1:-1].real.sum().backward()
    assert data.grad is not None
    assert torch.allclose(data.grad, torch.ones_like(data))


def test_time_is_kept_by_resampling_and_not_resampled() -> None:
    volume = slopes(time=TimeAxis(2, 0.5))
    assert volume.resample(volume.grid.with_time(None), outside=0.0).grid.time == TimeAxis(2, 0.5)
    with pytest.raises(ValueError, match="`grid` must have no time axis or the volume's"):
        volume.resample(volume.grid.with_time(TimeAxis(2, 1.0)), outside=0.0)
    with pytest.raises(ValueError, match="`grid` must have no time axis or the volume's, None"):
        slopes().resample(volume.grid, outside=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.resample(v, outside=0.0), "`grid` must be a Grid, got Volume. Pass its .grid."),
        (lambda v: v.resample(v.grid, outside=1j), "`outside` must be real for data of torch.float64"),
        (lambda v: v.resample(v.grid, outside=None), "`outside` must be a number, got None"),
        (lambda v: v.resample(v.grid), "outside"),
        (lambda v: v.pad(1, value="x"), "`value` must be a number, got 'x'"),
        (lambda v: v.pad(1, value=2j), "`value` must be real"),
        (lambda v: v.downsample(2.5), "`factor` must be an integer or three"),
        (lambda v: v.crop(None, 2), "`start` must be an integer or three"),
        (lambda v: Volume(v.data, v.grid, None), "`unit` must be text, empty for none, got None"),
        (lambda v: Volume(v.data, v.grid, 3), "`unit` must be text"),
        (lambda v: v.with_data(v.data, unit=3), "`unit` must be text"),
        (lambda v: Volume(v.data, v.grid.affine), "`grid` must be a Grid, got ndarray"),
    ],
)
def test_wrong_kinds_of_argument(change: Callable[[Volume], Volume], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        change(slopes())


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        (torch.uint8, 255, True),
        (torch.uint8, 256, False),
        (torch.uint8, -1, False),
        (torch.int16, 0.5, False),
        (torch.int16, np.float32(3), True),
        (torch.int16, float("nan"), False),
        (torch.bool, 1, True),
        (torch.bool, 2, False),
        (torch.float32, 1e300, False),
        (torch.float32, float("nan"), True),
        (torch.complex64, 1j, True),
    ],
)
def test_a_padding_value_fits_the_data_or_is_refused(dtype: torch.dtype, value: complex, fits: bool) -> None:
    grid = Grid.from_spacing((1, 1, 1), 1.0)
    volume = Volume(torch.zeros(grid.shape, dtype=dtype), grid)
    if fits:
        corner = volume.pad(1, value=value).data[0, 0, 0]
        assert corner.item() == value or value != value
    else:
        with pytest.raises(ValueError, match=f"`value` must fit data of {dtype}, got"):
            volume.pad(1, value=value)


def test_other_values_may_bring_another_unit() -> None:
    volume = slopes(space="aligned")
    changed = volume.with_data(volume.data * 2, unit="1/mm")
    assert (changed.unit, changed.space, changed.grid) == ("1/mm", "aligned", volume.grid)


def test_an_unknown_space_is_refused() -> None:
    volume = slopes()
    with pytest.raises(ValueError, match="`space` must be one of scanner, aligned, .*, got 'MNI152'"):
        Volume(volume.data, volume.grid, space="MNI152")


def test_bad_volumes() -> None:
    grid = Grid.from_spacing((2, 3, 4), 1.0)
    with pytest.raises(
        ValueError, match=r"`data` must have the grid's array shape \(2, 3, 4\), got \(2, 3, 5\)"
    ):
        Volume(torch.zeros(2, 3, 5), grid)
    with pytest.raises(TypeError, match=r"`data` must be a torch\.Tensor, got ndarray"):
        Volume(np.zeros((2, 3, 4)), grid)  # type: ignore[arg-type]
    labels = Volume(torch.zeros(2, 3, 4, dtype=torch.int16), grid)
    with pytest.raises(TypeError, match="be floating point or complex to downsample, got torch.int16"):
        labels.downsample((2, 1, 1))


def test_the_kind_of_an_answer_moves_with_it() -> None:
    grid = Grid.from_spacing((2, 4, 4), 1.0)
    volume = Volume(torch.zeros(2, 4, 4), grid, kind="exact sample", statistic="sd")  # type: ignore[arg-type]
    assert volume.kind is Kind.EXACT_SAMPLE
    for other in (
        volume.crop(0, (1, 2, 2)),
        volume.flip(0),
        volume.downsample(2),
        volume.with_data(volume.data),
    ):
        assert (other.kind, other.statistic) == (Kind.EXACT_SAMPLE, "sd")
    with pytest.raises(ValueError, match="`kind` must be a Kind: exact sample, .*, got 'truth'"):
        Volume(volume.data, grid, kind="truth")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`statistic` must be text, empty for none, got 3"):
        Volume(volume.data, grid, statistic=3)  # type: ignore[arg-type]


def test_a_slice_of_a_volume_lies_where_it_was() -> None:
    volume = slopes(time=TimeAxis(2, 1.0))
    for axis in range(3):
        plane = volume.slice_at(axis, 2)
        assert plane.grid.shape[axis] == 1
        assert torch.allclose(plane.data, value_at(plane.grid))
    with pytest.raises(ValueError, match="`index` must lie in 0..3 along axis 0, got 4"):
        volume.slice_at(0, 4)
