import math

import numpy as np
import pytest
import torch

from operators.fourier import Fourier
from operators.grid import Grid
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import random_element


def volume(shape: tuple[int, int, int], *, is_complex: bool = True) -> Space:
    return Space.field(Grid.from_spacing(shape, 1.0), is_complex=is_complex)


class TestFourier(LinearOperatorContract):
    covers = (Fourier,)

    def make(self, dtype: torch.dtype) -> Fourier:
        return Fourier(volume((4, 5, 6)))


class TestFourierOnRealImages(LinearOperatorContract):
    covers = (Fourier,)

    def make(self, dtype: torch.dtype) -> Fourier:
        return Fourier(volume((3, 4, 5), is_complex=False), axes=(-2, -1))


class TestFourierWithPhaseAndSigns(LinearOperatorContract):
    covers = (Fourier,)

    def make(self, dtype: torch.dtype) -> Fourier:
        return Fourier(volume((3, 4, 5)), zero_phase=(0.5, 1.5, -3.0), signs=(1, -1, -1))


class TestPlainFourier(LinearOperatorContract):
    covers = (Fourier,)

    def make(self, dtype: torch.dtype) -> Fourier:
        return Fourier(volume((3, 4, 5)), axes=(-3, -1), centred=False)


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7), (1, 8, 5)])
def test_is_the_shifted_orthonormal_fft(shape: tuple[int, int, int]) -> None:
    x = random_element(volume(shape))
    axes = tuple(a for a in (-3, -2, -1) if shape[a] > 1)
    expected = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)
    assert np.abs(Fourier(volume(shape))(x).numpy() - expected).max() < 1e-13


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n0", [0.0, 3.0, 3.5, -2.25])
def test_is_the_stated_sum(n: int, sign: int, n0: float) -> None:
    space = volume((1, 1, n))
    x = random_element(space)
    m = torch.arange(n, dtype=torch.float64)[:, None] - n // 2
    kernel = torch.exp(-2j * math.pi * sign * m * (torch.arange(n) - n0) / n) / math.sqrt(n)
    got = Fourier(space, (-1,), zero_phase=(n0,), signs=(sign,))(x)
    assert (got.flatten() - kernel @ x.flatten()).abs().max() < 1e-13


def test_is_unitary() -> None:
    transform = Fourier(volume((4, 5, 6)))
    x = random_element(transform.domain)
    assert (transform.adjoint(transform(x)) - x).abs().max() < 1e-13
    assert transform.norm() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": (-4,)}, "`axes` must name axes"),
        ({"axes": (-1, -2)}, "`axes` must be in ascending order"),
        ({"zero_phase": (1.0,)}, "`zero_phase` must have one entry per transformed axis"),
        ({"zero_phase": (1.0, math.nan, 0.0)}, r"`zero_phase\[1\]` must be a finite number"),
        ({"signs": (1, 2, 1)}, r"`signs` must be \+1 or -1"),
    ],
)
def test_bad_arguments(options: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fourier(volume((4, 5, 6)), **options)  # type: ignore[arg-type]
