import pytest
import torch
from scipy import fft, ndimage

from operators.cosine import Cosine, even_response
from operators.grid import Grid
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import random_element

GRID = Grid.from_spacing((3, 4, 5), 1.0)


class TestCosine(LinearOperatorContract):
    covers = (Cosine,)

    def make(self, dtype: torch.dtype) -> Cosine:
        return Cosine(Space.field(GRID))


class TestCosineOfComplexImages(LinearOperatorContract):
    covers = (Cosine,)

    def make(self, dtype: torch.dtype) -> Cosine:
        return Cosine(Space.field(GRID, is_complex=True, components=(2,)), (-3, -1))


@pytest.mark.parametrize("axes", [(-1,), (0, 2), (-3, -2, -1)])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 8), (7, 1, 1)])
def test_is_scipys_orthonormal_dct(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    op, x = Cosine(Space(shape), axes), random_element(Space(shape))
    expected = fft.dctn(x.numpy(), type=2, norm="ortho", axes=axes)
    assert abs(op(x).numpy() - expected).max() < 1e-14
    assert (op.adjoint(op(x)) - x).abs().max() < 1e-14


@pytest.mark.parametrize("kernel", [[1.0, 3.0, 1.0], [2.0], [0.1, -1, 0.3, 4, 0.3, -1, 0.1]])
def test_diagonalises_an_even_filter_with_reflecting_ends(kernel: list[float]) -> None:
    """The kernel of seven reaches beyond the field of three: its copies go on."""
    space = Space((2, 3))
    psf = torch.tensor(kernel, dtype=torch.float64)
    x = random_element(space)
    transform = Cosine(space, (-1,))
    filtered = transform.adjoint(even_response(psf, space.shape) * transform(x))
    expected = ndimage.convolve1d(x.numpy(), psf.numpy(), axis=-1, mode="reflect")
    assert abs(filtered.numpy() - expected).max() < 1e-13


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ((-1, -2), ValueError, "`axes` must be in ascending order"),
        ((0, -3), ValueError, r"`axes` must name axes of \(3, 4, 5\), each once"),
        ((), ValueError, "`axes` must name axes"),
        ((1.5,), TypeError, "`axes` must be integers"),
        (1, TypeError, "`axes` must be integers"),
    ],
)
def test_bad_axes(axes: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Cosine(Space.field(GRID), axes)  # type: ignore[arg-type]
