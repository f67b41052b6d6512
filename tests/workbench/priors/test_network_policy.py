"""Another size or spacing than the trained one: refused, or as the policy says."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from operators.grid import Grid, TimeAxis
from operators.space import Space
from tests.contracts import close
from tests.oracles import random_element
from tests.workbench.priors.network_cases import FLOW, Pointwise, Sizes, Small, made
from workbench.paths import AffinePath, Prediction
from workbench.priors.network import (
    Convolve,
    Exact,
    Execution,
    NetworkPrior,
    PathOutput,
    Resample,
    SizePolicy,
    Tile,
    Training,
)
from workbench.priors.network.sizing import Tiled

PLANE = Space.field(Grid.plane((12, 16), (1.0, 1.5), thickness=3.0))
VOLUME = Space.field(Grid.from_spacing((6, 8, 10), (2.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    "training",
    [
        Training(),
        Training(size=(12, 16)),
        Training(spacing=(3.0, 1.0, 1.5)),
        Training(spacing=(1.0, 1.5)),
        Training(size=(12, 16), spacing=(3.02, 1.009, 1.49)),
    ],
    ids=str,
)
def test_what_matches_is_taken_as_it_is(training: Training) -> None:
    prior = made(PLANE, training)
    z = random_element(PLANE, 2)
    assert torch.equal(prior.denoise(z, 0.5), made(PLANE, Training()).denoise(z, 0.5))
    assert prior.calibrated_score
    spacing = training.spacing
    assert prior.spacing == (None if spacing is None else (3.0, *spacing)[-3:])
    assert prior.dimensions == 2


@pytest.mark.parametrize(
    ("space", "training", "policy", "message"),
    [
        (
            PLANE,
            Training(size=(8, 8)),
            Exact(),
            "`space` must have the size .* on, 8 x 8, got 12 x 16. .*Tile",
        ),
        (PLANE, Training(spacing=(2.0, 2.0)), Exact(), r"on, \(2, 2\) mm, got \(1, 1.5\) mm. .*Resample\(\)"),
        (
            PLANE,
            Training(spacing=(1.0, 1.0, 1.5)),
            Exact(),
            "slices as thick as the trained ones, 1 mm, got 3 mm",
        ),
        (PLANE, Training(spacing=(1.0, 1.0, 1.5)), Resample(), "slices as thick as the trained ones, 1 mm"),
        (PLANE, Training(spacing=(1.0, 1.6)), Convolve(8), r"on, \(1, 1.6\) mm, got \(1, 1.5\) mm"),
        (PLANE, Training(size=(8, 8), spacing=(1.0, 1.6)), Tile(2), r"on, \(1, 1.6\) mm, got \(1, 1.5\) mm"),
        (PLANE, Training(spacing=(0.5, 1.5)), Resample(), "no coarser than the trained ones .*finer grid"),
        (PLANE, Training(spacing=(6.0, 1.5)), Resample(), "at most 4 times finer than the trained.*finest"),
        (PLANE, Training(spacing=(2.2, 1.5)), Resample(), "whole trained voxels of 2.2 mm.*= 5.45 of them"),
        (PLANE, Training(), Resample(), "`training` must state the spacing or the size to resample to"),
        (PLANE, Training(size=(8, 8), spacing=(2.0, 3.0)), Resample(), "the size .* on, 8 x 8, got 6 x 8"),
        (PLANE, Training(size=(24, 16)), Resample(), "`space` must have voxels no coarser than the trained"),
        (PLANE, Training(size=(8, 8)), Tile(8), "`overlap` must be less than a tile, 8 x 8, got 8 x 8"),
        (
            PLANE,
            Training(size=(16, 16)),
            Tile(2),
            "`space` must be no smaller than a tile, 16 x 16, got 12 x 16",
        ),
        (PLANE, Training(), Tile(2), "`training` must state the size of tiles"),
        (PLANE, Training(), Convolve((1, 2, 3)), "`multiple` must be one number or 2, one per axis"),
        (
            VOLUME,
            Training(size=(8, 10)),
            Exact(),
            "`space` must lie on a single slice, for a network of slices",
        ),
        (
            PLANE,
            Training(is_complex=True),
            Exact(),
            "`space` must be complex: the network was trained on such",
        ),
        (Space((8, 8)), Training(), Exact(), "`space` must lie on a Grid, .*Training.dimensions=2"),
        (Space((8, 8)), Training(spacing=(1.0, 1.0)), Exact(), r"`space` must lie on a Grid: .*\(1, 1\) mm"),
        (Space((8,)), Training(dimensions=2), Exact(), r"`space` must have 2 axes, those of the network's"),
    ],
)
def test_what_does_not_fit_is_refused(
    space: Space, training: Training, policy: SizePolicy, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(space, training, policy)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: Convolve(0), "`multiple` must be an integer >= 1, got 0"),
        (lambda: Tile(-1), "`overlap` must be an integer >= 0, got -1"),
        (lambda: Tile(1, size=(8, 0)), r"`size\[1\]` must be an integer >= 1"),
        (lambda: Resample(then=Training()), "`then` must be a SizePolicy, got Training"),
        (lambda: Resample(finest=0), "`finest` must be a finite number > 0"),
        (lambda: made(PLANE, Training(), "tile"), "`policy` must be a SizePolicy, got str"),
    ],
)
def test_bad_policies_are_named(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        attempt()


@pytest.mark.parametrize(
    ("space", "multiple", "size"),
    [(PLANE, 8, (16, 16)), (PLANE, (1, 32), (12, 32)), (PLANE, 4, (12, 16)), (VOLUME, 16, (16, 16, 16))],
)
def test_convolve_pads_to_the_multiple_and_crops(
    space: Space, multiple: int | tuple[int, ...], size: tuple[int, ...]
) -> None:
    trained = Training(size=(4,) * len(size))
    prior = made(space, trained, Convolve(multiple), Sizes())
    Sizes.seen.clear()
    z = random_element(space, 2)
    got = prior.denoise(z, 0.5)
    assert Sizes.seen == [(2, 1, *size)]
    assert close(got, made(space, Training(), None, Sizes()).denoise(z, 0.5), 1e-12)
    assert prior.calibrated_score


def test_padding_mirrors_with_the_end_voxel_repeated() -> None:
    class Mirror(nn.Module):
        """Each voxel's neighbour to the left, of the padded row."""

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return x.roll(1, dims=-1)

    space = Space.field(Grid.plane((2, 3), 1.0))
    data = PathOutput(AffinePath.edm(), Prediction.DATA)
    prior = NetworkPrior(Mirror(), space, data, policy=Convolve((2, 10)))
    z = random_element(space)
    # Ten voxels of [2 2 | 0 ... reflected three times: 1 0 0 | 0 1 2 | 2 1 0 0.
    assert torch.equal(prior.denoise(z, 1.0), z[..., [0, 0, 1]])


@pytest.mark.parametrize(
    "execution", [Execution(), Execution(microbatch=1), Execution(microbatch=7)], ids=str
)
@pytest.mark.parametrize(
    ("space", "size", "overlap"),
    [
        (PLANE, (8, 8), 2),
        (PLANE, (5, 7), (0, 3)),
        (PLANE, (12, 16), 4),
        (VOLUME, (4, 6, 6), 2),
        (VOLUME, (6, 3, 10), (5, 2, 0)),
    ],
)
def test_tiles_of_a_pointwise_network_are_invisible(
    space: Space, size: tuple[int, ...], overlap: int | tuple[int, ...], execution: Execution
) -> None:
    training = Training(size=size)
    prior = NetworkPrior(
        Pointwise(), space, FLOW, training=training, policy=Tile(overlap), execution=execution
    )
    whole = made(space, Training())
    z, v = (random_element(space, 2, seed=seed) for seed in (1, 2))
    sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)
    assert close(prior.denoise(z, sigma), whole.denoise(z, sigma), 1e-14)
    assert close(prior.denoise_scaled(z, 1 / sigma), whole.denoise_scaled(z, 1 / sigma), 1e-14)
    assert close(prior.covariance(z, sigma, v), whole.covariance(z, sigma, v), 1e-13)
    rows = torch.func.vmap(lambda row: prior.denoise(row, 0.3))(z)
    assert close(rows, whole.denoise(z, 0.3), 1e-14)
    one_tile = size == space.shape[-len(size) :]
    assert prior.calibrated_score == one_tile


def test_tiles_lie_inside_and_overlap_enough() -> None:
    for n, size, overlap in ((16, 8, 2), (17, 8, 3), (100, 32, 16), (33, 32, 0), (32, 32, 8), (9, 4, 3)):
        tiled = Tiled((n,), (size,), (overlap,))
        (starts,) = tiled.starts
        assert starts[0] == 0
        assert starts[-1] == n - size
        steps = [b - a for a, b in pairwise(starts)]
        assert all(0 < step <= size - overlap for step in steps)
        assert len(starts) == max(1, math.ceil((n - overlap) / (size - overlap)))


def test_tiles_run_one_of_each_image_at_a_time_unless_told_otherwise() -> None:
    training, tile = Training(size=(8, 8)), Tile(2)
    for microbatch, expected in ((None, [2] * 6), (4, [4] * 3), (1, [1] * 12)):
        prior = NetworkPrior(
            Sizes(), PLANE, FLOW, training=training, policy=tile, execution=Execution(microbatch=microbatch)
        )
        Sizes.seen.clear()
        prior.denoise(random_element(PLANE, 2), 1.0)
        assert [shape[0] for shape in Sizes.seen] == expected
        assert {shape[1:] for shape in Sizes.seen} == {(1, 8, 8)}


def test_tiles_of_a_network_with_neighbours_agree_where_they_have_seen_enough() -> None:
    space = Space.field(Grid.plane((12, 40), 1.0))
    whole = made(space, Training(), None, Small().double())
    tiled = made(space, Training(size=(12, 16)), Tile(8), Small().double())
    z = random_element(space, 1)
    expected, got = whole.denoise(z, 0.5), tiled.denoise(z, 0.5)
    # The network sees two voxels far; a seam is as wide as that, and its weight there is small.
    seams = tiled._sizing.starts[1][1:]
    near = {start + x for start in seams for x in (0, 1, 6, 7)}
    inside = [x for x in range(40) if x not in near]
    assert close(got[..., inside], expected[..., inside], 1e-12)
    assert not close(got, expected, 1e-6)
    assert close(got, expected, 0.1)


def test_components_and_frames_are_channels() -> None:
    grid = Grid.plane((4, 4), 1.0).with_time(TimeAxis(3))
    for space, channels in (
        (Space.field(grid), 3),
        (Space.field(Grid.plane((4, 4), 1.0), components=(2,)), 2),
        (Space.field(Grid.plane((4, 4), 1.0), is_complex=True, components=(2,)), 4),
        (Space.vectors(Grid.from_spacing((2, 4, 4), 1.0)), 3),
        (Space((2, 4, 4)), 2),
    ):
        prior = made(space, Training() if space.grid else Training(dimensions=2), None, Sizes())
        Sizes.seen.clear()
        z = random_element(space, 2)
        got = prior.denoise(z, 0.5)
        assert Sizes.seen[0][:2] == (2, channels)
        expected = z.real.tanh() + 1j * z.imag.tanh() if z.is_complex() else z.tanh()
        # D = y - t v on the flow, y = z / 1.5 and t = 1 / 3.
        scaled = (z / 1.5).real.tanh() + 1j * (z / 1.5).imag.tanh() if z.is_complex() else (z / 1.5).tanh()
        assert expected.shape == got.shape
        assert close(got, z / 1.5 - scaled / 3, 1e-14)
