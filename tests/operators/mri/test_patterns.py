"""Sampling patterns keep what they promise: numbers, blocks, distances, keys."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from operators.mri.patterns import (
    SamplingPattern,
    acs_box,
    equispaced,
    interleaved,
    partial_fourier,
    radius,
    variable_density,
)
from operators.mri.poisson_disc import poisson_disc


@pytest.mark.parametrize("law", ["polynomial", "gaussian"])
@pytest.mark.parametrize(("shape", "acs"), [(96, 12), ((40, 56), (6, 9)), ((9, 10, 12), 3)])
def test_variable_density_takes_what_it_was_asked_for(law: str, shape: object, acs: object) -> None:
    pattern = variable_density(shape, 4, seed=7, acs=acs, law=law)  # type: ignore[arg-type]
    assert int(pattern.mask.sum()) == round(pattern.mask.numel() / 4)
    assert pattern.acceleration == pytest.approx(4, rel=0.01)
    start, stop = acs_box(pattern.mask)
    wanted = np.broadcast_to(acs, pattern.mask.ndim)
    assert (np.subtract(stop, start) >= wanted).all()
    same = variable_density(shape, 4, seed=7, acs=acs, law=law)  # type: ignore[arg-type]
    other = variable_density(shape, 4, seed=8, acs=acs, law=law)  # type: ignore[arg-type]
    assert torch.equal(pattern.mask, same.mask)
    assert not torch.equal(pattern.mask, other.mask)


def test_variable_density_is_denser_towards_the_centre() -> None:
    taken = variable_density((200, 200), 5, seed=1).mask.numpy()
    rho = radius((200, 200))
    shares = [taken[(rho >= a) & (rho < a + 0.25)].mean() for a in (0, 0.25, 0.5, 0.75)]
    assert all(inner > outer for inner, outer in pairwise(shares))
    even = variable_density((200, 200), 5, seed=1, strength=0.0).mask.numpy()
    # A binomial share of about 7850 samples: 5 standard deviations.
    assert even[rho < 0.5].mean() == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 7850) ** 0.5)


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_equispaced_takes_every_step_and_the_block(offset: int) -> None:
    pattern = equispaced(32, 4, acs=6, offset=offset)
    index = np.arange(32)
    expected = (index % 4 == offset) | ((index >= 13) & (index < 19))
    assert pattern.mask.numpy().tolist() == expected.tolist()
    assert pattern.acceleration == 32 / expected.sum()
    both = equispaced((8, 9), (2, 3), offset=(1, 0)).mask
    assert torch.equal(torch.nonzero(both)[0], torch.tensor([1, 0]))
    assert int(both.sum()) == 4 * 3


@pytest.mark.parametrize("acceleration", [2, 4, 8, 12])
@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_poisson_disc_meets_its_acceleration(acceleration: float, slope: float) -> None:
    pattern = poisson_disc((96, 128), acceleration, seed=2, acs=(10, 12), slope=slope)
    assert pattern.acceleration == pytest.approx(acceleration, rel=0.03)
    start, stop = acs_box(pattern)
    assert (np.subtract(stop, start) >= (10, 12)).all()


def test_poisson_disc_keeps_its_distance_and_leaves_no_hole() -> None:
    taken = np.argwhere(poisson_disc((64, 64), 9, seed=3, slope=0.0).mask.numpy())
    apart = np.sqrt(((taken[:, None] - taken[None]) ** 2).sum(-1))
    np.fill_diagonal(apart, np.inf)
    lattice = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"), -1).reshape(-1, 1, 2)
    holes = np.sqrt(((lattice - taken) ** 2).sum(-1)).min(axis=1)
    # Radii vary by the rounding of r^2 to a whole number, up or down: r^2 and r^2 + 1 bound both.
    assert apart.min() >= 2.2
    assert holes.max() <= np.sqrt(apart.min() ** 2 + 2)
    scattered = np.argwhere(variable_density((64, 64), 9, seed=3, strength=0.0).mask.numpy())
    near = np.sqrt(((scattered[:, None] - scattered[None]) ** 2).sum(-1) + np.eye(len(scattered)) * 99)
    assert near.min() == 1  # which plain random samples do not do


def test_poisson_disc_thins_out_to_the_edges_and_is_keyed() -> None:
    pattern = poisson_disc((128, 128), 6, seed=5, slope=3.0)
    rho = radius((128, 128))
    taken = pattern.mask.numpy()
    assert taken[rho < 0.3].mean() > 3 * taken[rho > 0.9].mean()
    assert torch.equal(pattern.mask, poisson_disc((128, 128), 6, seed=5, slope=3.0).mask)
    round_one = poisson_disc((96, 128), 6, seed=5, elliptical=True)
    assert not round_one.mask.numpy()[radius((96, 128)) > 1].any()
    assert round_one.acceleration == pytest.approx(6, rel=0.03)


def test_poisson_disc_of_256_squared_takes_less_than_a_second() -> None:
    # The best of three: what else the machine does only adds.
    def seconds() -> float:
        start = time.process_time()
        poisson_disc((256, 256), 6, seed=0, acs=24)
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 1.0


@pytest.mark.parametrize(("side", "first"), [("low", 10), ("high", 0)])
def test_partial_fourier_leaves_one_side_out(side: str, first: int) -> None:
    taken = partial_fourier(40, 0.75, side=side).mask.numpy()  # type: ignore[arg-type]
    assert np.flatnonzero(taken).tolist() == list(range(first, first + 30))
    assert taken[20]
    both = SamplingPattern(taken) & equispaced(40, 2)
    assert both.acceleration == 40 / 15


@pytest.mark.parametrize(("size", "step"), [(24, 4), (25, 5), (32, 8), (9, 1)])
def test_interleaved_frames_hold_every_line_together(size: int, step: int) -> None:
    pattern = interleaved(2 * step, size, step)
    assert pattern.mask.shape == (2 * step, 1, size)
    assert torch.equal(pattern.mask[:step].int().sum(0), torch.ones((1, size), dtype=torch.int32))
    assert torch.equal(pattern.mask[step:], pattern.mask[:step])
    assert (interleaved(3, size, step, acs=3).mask[..., size // 2 - 1 : size // 2 + 2]).all()


def test_the_calibration_block_is_found_where_it_is() -> None:
    mask = equispaced((16, 20), (3, 2), acs=(5, 6)).mask
    assert acs_box(mask) == ((6, 7), (11, 13))
    assert acs_box(mask[:, :, None].expand(16, 20, 7)) == ((6, 7, 0), (11, 13, 7))
    assert acs_box(partial_fourier(20, 0.6)) == ((8,), (20,))
    assert acs_box(torch.ones((1, 1, 8), dtype=torch.bool)) == ((0, 0, 0), (1, 1, 8))


def test_a_mask_without_a_calibration_block_is_named() -> None:
    message = r"`mask` must have a fully sampled block \(ACS\) of at least \(4,\) samples .* one of \(1,\)"
    with pytest.raises(ValueError, match=message):
        acs_box(equispaced(32, 4), minimum=4)
    with pytest.raises(ValueError, match=r"one of \(0,\).*Take a pattern with acs="):
        acs_box(equispaced(32, 4, offset=1))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: variable_density(32, 0.5, seed=0), ValueError, "`acceleration` must be at least 1"),
        (
            lambda: variable_density(32, 8, seed=0, acs=6),
            ValueError,
            "`acceleration` must leave at least one",
        ),
        (lambda: variable_density(32, 2, seed=-1), ValueError, "`seed` must be an integer >= 0"),
        (lambda: variable_density(32, 2, seed=0, acs=33), ValueError, "`acs` must fit into the shape"),
        (lambda: variable_density(32, 2, seed=0, law="flat"), ValueError, "`law` must be"),
        (lambda: variable_density((), 2, seed=0), ValueError, "`acs` must fit into the shape"),
        (lambda: equispaced(32, 4, offset=4), ValueError, r"`offset\[0\]` must lie below the step"),
        (lambda: equispaced((8, 8), (2, 2, 2)), ValueError, "`step` must be one integer or 2"),
        (lambda: poisson_disc((32,), 4, seed=0), ValueError, "`shape` must have two axes"),
        (lambda: poisson_disc((32, 32), 1, seed=0, elliptical=True), ValueError, "be at least that of the"),
        (lambda: partial_fourier(32, 0.5), ValueError, "`fraction` must lie above 0.5"),
        (lambda: partial_fourier(32, 0.7, side="left"), ValueError, "`side` must be 'low' or 'high'"),
        (lambda: SamplingPattern(torch.zeros(4, dtype=torch.bool)), ValueError, "at least one sample"),
        (lambda: equispaced(8, 2) & equispaced(9, 2), ValueError, "`other` must have shape"),
        (lambda: equispaced(8, 2) | 3, TypeError, "`other` must be a SamplingPattern"),
    ],
)
def test_bad_patterns(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]
