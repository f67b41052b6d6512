import pytest
import torch

from operators.diagonal import Diagonal
from operators.fourier import Fourier
from operators.grid import Grid, TimeAxis
from operators.mask import Mask
from operators.mask_patterns import missing, random_entries
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import dense, random_element

GRID = Grid.from_spacing((2, 4, 5), 1.0)
FIELD = Space.field(GRID)
COILS = Space.field(GRID, is_complex=True, components=(3,))
SOME = random_entries(GRID.shape, 0.6, seed=1)


class TestRestricting(LinearOperatorContract):
    covers = (Mask,)

    def make(self, dtype: torch.dtype) -> Mask:
        return Mask(FIELD, SOME, restrict=True)


class TestRestrictingWithComplexWeightsOfTheLastAxes(LinearOperatorContract):
    covers = (Mask,)

    def make(self, dtype: torch.dtype) -> Mask:
        kind = torch.complex64 if dtype == torch.float32 else torch.complex128
        weights = random_element(Space((4, 5), True), seed=4) * SOME[0]
        return Mask(COILS, weights.to(kind), restrict=True)


class TestZeroFillingWithWeights(LinearOperatorContract):
    covers = (Mask,)

    def make(self, dtype: torch.dtype) -> Mask:
        return Mask(FIELD, (random_element(FIELD, seed=4) * SOME).to(dtype), restrict=False)


def test_lists_what_is_kept_in_order_and_leaves_axes_in_front() -> None:
    x = random_element(COILS, 2)
    whole, plane = Mask(COILS, SOME.expand(3, 2, 4, 5), restrict=True), Mask(COILS, SOME[0], restrict=True)
    assert torch.equal(whole(x), x[:, SOME.expand(3, 2, 4, 5)])
    assert plane.codomain.shape == (3, 2, int(SOME[0].sum()))
    assert torch.equal(plane(x), x[..., SOME[0]])
    column = Mask(FIELD, torch.tensor([[True], [False], [True], [True]]), restrict=True)  # broadcast along x
    assert torch.equal(column(x[0, 0].real), x[0, 0].real[:, [0, 2, 3]].flatten(1))


def test_both_forms_are_one_physics() -> None:
    weights = random_element(FIELD, seed=4) * SOME
    listed, filled = (Mask(FIELD, weights, restrict=restrict) for restrict in (True, False))
    x = random_element(FIELD)
    assert torch.equal(filled(x)[listed.kept], listed(x))
    assert torch.equal(filled(x), Diagonal(FIELD, weights)(x))
    assert torch.equal(listed.gram(x), filled.gram(x))
    assert torch.equal(listed.kept, SOME)


@pytest.mark.parametrize("restrict", [True, False])
def test_pinv_divides_by_the_weights_and_leaves_the_rest_zero(restrict: bool) -> None:
    weights = (random_element(FIELD, seed=4).abs() + 0.1) * SOME
    op = Mask(FIELD, weights, restrict=restrict)
    x = random_element(FIELD)
    assert (op.pinv(op(x)) - x * SOME).abs().max() < 1e-13
    assert (op.normal_solve(x, 0.5) - x / (weights**2 + 0.5)).abs().max() < 1e-13


@pytest.mark.parametrize("restrict", [True, False])
@pytest.mark.parametrize("is_complex", [True, False])
def test_undersampled_fourier_solves_exactly_on_both_sides(is_complex: bool, restrict: bool) -> None:
    fourier = Fourier(Space.field(GRID, is_complex=is_complex))
    weights = random_element(Space(GRID.shape), seed=4).abs() * SOME
    op = Mask(fourier.codomain, weights, restrict=restrict) @ fourier
    assert op.has_closed_form
    b = random_element(op.domain, 2)
    solved = op.normal_solve(b, 0.3)
    assert (op.gram(solved) + 0.3 * solved - b).abs().max() < 1e-12
    r = random_element(op.codomain, 2)
    found = op.measurement_solve(r, 0.3)
    assert (op(op.adjoint(found)) + 0.3 * found - r).abs().max() < 1e-9
    if is_complex:
        assert op.H.has_closed_form
        factors = op.svd()
        assert (factors.u(factors.v.H(b) * factors.s) - op(b)).abs().max() < 1e-12
        values = torch.linalg.svdvals(dense(op))
        stated = factors.s.flatten().sort(descending=True).values[: len(values)]
        assert (stated - values).abs().max() < 1e-12


def test_missing_frames_of_a_film() -> None:
    film = Space.field(GRID.with_time(TimeAxis(4)))
    op = Mask(film, missing((4, 1, 1, 1), 0, [1]), restrict=True)
    x = random_element(film)
    assert torch.equal(op(x), x[[0, 2, 3]].flatten())


def test_fill_puts_data_where_they_were_measured() -> None:
    x = random_element(FIELD, 2)
    for op in (Mask(FIELD, 3.0 * SOME, restrict=True), Mask(FIELD, SOME, restrict=False)):
        shown = op.fill(op(x), 7.0)
        assert torch.equal(shown[:, ~SOME], torch.full_like(shown[:, ~SOME], 7.0))
        assert torch.equal(shown[:, SOME], op(x)[:, SOME] if op.codomain == FIELD else op(x))
    with pytest.raises(TypeError, match="`value` must be real on a real space, got 1j"):
        op.fill(op(x), 1j)


def test_a_mask_that_keeps_all_is_unitary() -> None:
    assert Mask(FIELD, torch.tensor(True), restrict=True).is_unitary
    assert not Mask(FIELD, SOME, restrict=True).is_unitary


@pytest.mark.parametrize(
    ("mask", "restrict", "error", "message"),
    [
        (torch.zeros(5, dtype=torch.bool), True, ValueError, "`mask` must keep at least one entry"),
        (torch.ones(4), True, ValueError, r"`mask` must broadcast to \(2, 4, 5\), got \(4,\)"),
        (torch.ones(1, 1, 1, 1), False, ValueError, "`mask` must broadcast"),
        (torch.ones(5) * 1j, True, TypeError, "`mask` must be boolean or real on a real space"),
        (torch.tensor([1, torch.inf, 1, 1, 1]), True, ValueError, "`mask` must hold finite values"),
        (torch.ones(5, dtype=torch.int64), True, TypeError, "`mask` must have dtype"),
        (torch.ones(5, requires_grad=True), True, ValueError, r"`mask` must not require a gradient"),
        ([True] * 5, True, TypeError, r"`mask` must be a torch\.Tensor"),
        (torch.ones(5), 1, TypeError, "`restrict` must be True or False"),
    ],
)
def test_bad_masks(mask: torch.Tensor, restrict: bool, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Mask(FIELD, mask, restrict=restrict)
