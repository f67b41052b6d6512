"""Sums over the spectrum of A^H A against dense matrices: known spectra, small operators, quadrature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from operators import spectral_sums
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from operators.spectral_sums import SpectralSums
from tests.problems import operator_of, real_matrix

FACTORS = (0.01, 1.0, 300.0)
DOUBLE = torch.empty(0, dtype=torch.float64)


def by_hand(operator: LinearOperator, factors: tuple[float, ...]) -> float:
    """Return the sum over c of log det(I + c A^T A), between real components."""
    matrix = real_matrix(operator)
    eye = torch.eye(matrix.shape[1], dtype=torch.float64)
    return sum(float(torch.logdet(eye + c * matrix.T @ matrix)) for c in factors)


@pytest.mark.parametrize("name", ["mask", "blur", "ct", "coils"])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_small_operators_have_it_exactly(name: str, scale: float) -> None:
    operator = scale * operator_of(name, 6)
    found = SpectralSums.of(operator, DOUBLE)
    assert found.is_exact
    assert found.log_determinant(FACTORS).standard_error == 0
    assert found.log_determinant(FACTORS).value == pytest.approx(by_hand(operator, FACTORS), rel=1e-9)


@pytest.mark.parametrize("name", ["mask", "coils"])
def test_traces_of_powers(name: str) -> None:
    matrix = real_matrix(operator_of(name, 6))
    gram = matrix.T @ matrix
    found = SpectralSums.of(operator_of(name, 6), DOUBLE)
    assert found.trace_of(lambda g: g).value == pytest.approx(float(gram.trace()), rel=1e-12)
    assert found.trace_of(torch.square).value == pytest.approx(float((gram @ gram).trace()), rel=1e-12)


class RealPart(LinearOperator):
    """z -> Re(p z): linear over the real numbers alone."""

    def __init__(self) -> None:
        super().__init__(Space((5,), is_complex=True), Space((5,)))
        self.phases = torch.polar(torch.linspace(1, 2, 5).double(), torch.linspace(0, 3, 5).double())

    @property
    def over_complex(self) -> bool:
        return False

    def _apply(self, x: Tensor) -> Tensor:
        return (self.phases * x).real

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self.phases.conj() * y


def test_an_operator_that_is_real_linear_has_real_directions() -> None:
    """Each |p|^2 belongs to one of two directions, the other sees nothing."""
    found = SpectralSums.of(RealPart(), DOUBLE).log_determinant([2.0]).value
    expected = torch.log1p(2 * torch.linspace(1, 2, 5).double() ** 2).sum()
    assert found == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("name", ["ct", "coils"])
def test_quadrature_is_within_its_standard_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = operator_of(name, 8)
    monkeypatch.setattr(spectral_sums, "DENSE", 0)
    found = SpectralSums.of(operator, DOUBLE)
    assert not found.is_exact
    factors = (0.1, 10.0) if name == "coils" else (1e-4, 0.1)
    estimate, truth = found.log_determinant(factors), by_hand(operator, factors)
    assert 0 < estimate.standard_error < 0.1 * truth
    assert abs(estimate.value - truth) < 4 * estimate.standard_error


def test_an_operator_that_sees_nothing_has_none() -> None:
    space = Space((7,))
    nothing = Matrix(space, Space((2,)), torch.zeros(2, 7, dtype=torch.float64))
    assert SpectralSums.of(nothing, DOUBLE).log_determinant(FACTORS).value == 0


def test_too_few_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="`probes` must be"):
        SpectralSums.of(operator_of("ct", 6), DOUBLE, probes=1)
