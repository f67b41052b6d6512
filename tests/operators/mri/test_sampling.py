"""Which samples of a Cartesian box were taken: lists or zeros, closed forms, frames, mistakes."""

import numpy as np
import pytest
import torch

from operators.diagonal import Diagonal
from operators.grid import Grid, TimeAxis
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.encoding import CartesianEncoding, KSpaceSamples
from operators.mri.patterns import equispaced, interleaved
from tests.contracts import LinearOperatorContract
from tests.oracles import dense, random_element

GRID = Grid.from_spacing((2, 4, 5), (3.0, 1.0, 2.0))
ENCODING = CartesianGeometry.around(GRID)
SCATTERED = torch.rand((2, 4, 5), generator=torch.Generator().manual_seed(3)) < 0.5
LINES = torch.tensor([True, False, True, True])


class TestLinesOfAnOversampledReadoutOfCoils(LinearOperatorContract):
    covers = (CartesianEncoding,)

    def make(self, dtype: torch.dtype) -> CartesianEncoding:
        encoding = CartesianGeometry.around(GRID.flip(1), readout_oversampling=2)
        return SampledCartesianGeometry.lines(encoding, LINES).operator(GRID, components=(2,))


class TestSamplesOfAPaddedAxis(LinearOperatorContract):
    covers = (CartesianEncoding,)

    def make(self, dtype: torch.dtype) -> CartesianEncoding:
        encoding = ENCODING.with_(matrix=(2, 3, 10), field_of_view=(6.0, 4.0, 20.0))
        mask = torch.arange(10) % 3 != 0
        return SampledCartesianGeometry(encoding, mask, zero_filled=False).operator(GRID)


class TestKSpaceSamples(LinearOperatorContract):
    covers = (KSpaceSamples,)

    def make(self, dtype: torch.dtype) -> KSpaceSamples:
        encoding = ENCODING.with_(matrix=(2, 3, 4))
        mask = SCATTERED[:, :3, :1]
        return SampledCartesianGeometry(encoding, mask, zero_filled=False).operator(GRID).samples


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (SCATTERED, (int(SCATTERED.sum()),)),
        (SCATTERED[:, :, :1], (int(SCATTERED[:, :, 0].sum()), 5)),
        (LINES[:, None], (6, 5)),  # each line in both partitions
        (torch.tensor([True, False, True, True, False]), (24,)),
        (torch.tensor([True, False])[:, None, None], (1, 4, 5)),
    ],
)
def test_the_list_holds_the_values_that_the_box_shows(mask: torch.Tensor, shape: tuple[int, ...]) -> None:
    x = random_element(ENCODING.operator(GRID).domain)
    full = ENCODING.operator(GRID)(x)
    shown = SampledCartesianGeometry(ENCODING, mask).operator(GRID)(x)
    op = SampledCartesianGeometry(ENCODING, mask, zero_filled=False).operator(GRID)
    whole = mask.reshape(*[1] * (3 - mask.ndim), *mask.shape).expand(full.shape)
    assert torch.equal(shown, full * whole)
    assert op.codomain.shape == shape
    assert torch.equal(op(x).flatten(), full[whole])


@pytest.mark.parametrize("zero_filled", [True, False])
def test_one_coil_is_solved_in_closed_form(zero_filled: bool) -> None:
    op = SampledCartesianGeometry(ENCODING, SCATTERED, zero_filled).operator(GRID)
    assert op.has_closed_form
    assert op.has_svd
    values = torch.linalg.svdvals(dense(op))
    assert torch.allclose(values.sum(), SCATTERED.sum().double())  # ones and zeros
    weights = torch.linspace(0.5, 2.0, op.codomain.size, dtype=torch.float64).reshape(op.codomain.shape)
    weighted = Diagonal(op.codomain, weights) @ op
    matrix = dense(weighted)
    x = random_element(op.domain)
    shifted = matrix.conj().T @ matrix + 0.3 * torch.eye(len(matrix.T), dtype=matrix.dtype)
    expected = torch.linalg.solve(shifted, x.flatten())
    assert weighted.has_closed_form
    assert (weighted.normal_solve(x, 0.3).flatten() - expected).abs().max() < 1e-11


def test_a_readout_that_is_oversampled_and_whole_costs_no_closed_form() -> None:
    encoding = CartesianGeometry.around(GRID, readout_oversampling=2)
    assert SampledCartesianGeometry.lines(encoding, LINES).operator(GRID).has_closed_form
    partial = torch.arange(10) > 3
    assert not SampledCartesianGeometry(encoding, partial).operator(GRID).has_closed_form


@pytest.mark.parametrize("zero_filled", [True, False])
def test_each_frame_has_its_own_mask(zero_filled: bool) -> None:
    pattern = interleaved(4, 4, 2)
    assert pattern.mask.any(dim=0).all()
    geometry = SampledCartesianGeometry.lines(ENCODING, pattern, zero_filled=zero_filled)
    series = GRID.with_time(TimeAxis(4))
    op = geometry.operator(series, components=(2,))
    x = random_element(op.domain)
    for t in range(4):
        alone = SampledCartesianGeometry.lines(ENCODING, pattern.mask[t], zero_filled=zero_filled).operator(
            GRID
        )
        assert torch.equal(op(x)[1, t], alone(x[1, t]))
    assert (op.gram(x) - op.adjoint(op(x))).abs().max() < 1e-13
    assert op.has_closed_form
    assert geometry.acceleration == 2


def test_patterns_are_masks() -> None:
    pattern = equispaced(4, 2)
    by_pattern = SampledCartesianGeometry.lines(ENCODING, pattern)
    by_array = SampledCartesianGeometry(ENCODING, np.asarray(pattern.mask)[:, None])
    assert torch.equal(by_pattern.mask, by_array.mask)
    assert by_pattern.acceleration == 2
    assert by_pattern.with_(zero_filled=False).zero_filled is False


RAGGED = torch.stack([LINES, torch.ones(4, dtype=torch.bool)])[:, None, :, None]

NOTHING = ~SCATTERED & SCATTERED


def sampled(mask: object, zero_filled: object = True) -> SampledCartesianGeometry:
    return SampledCartesianGeometry(ENCODING, mask, zero_filled)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: sampled(LINES),
            ValueError,
            "`mask` must broadcast to the matrix",
        ),
        (lambda: sampled(equispaced(5, 2)), ValueError, r"`mask` must not be a pattern of lines.*\.lines\("),
        (lambda: sampled(LINES.float()), TypeError, "`mask` must be boolean"),
        (lambda: sampled([True]), TypeError, "`mask` must be a boolean tensor"),
        (
            lambda: sampled(NOTHING),
            ValueError,
            "at least one sample",
        ),
        (lambda: SampledCartesianGeometry(GRID, SCATTERED), TypeError, "`encoding` must be a Cartesian"),
        (lambda: sampled(SCATTERED, 1), TypeError, "`zero_filled` must be True"),
        (
            lambda: sampled(RAGGED, False),
            ValueError,
            "as many samples of every frame",
        ),
        (
            lambda: sampled(RAGGED).operator(GRID),
            ValueError,
            "`grid` must have the 2 frames of the mask, got no time axis",
        ),
        (
            lambda: sampled(RAGGED).operator(GRID.with_time(TimeAxis(3))),
            ValueError,
            "`grid` must have the 2 frames of the mask, got 3 frames",
        ),
    ],
)
def test_bad_samplings(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]
