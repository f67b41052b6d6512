import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from operators.diagonal import Diagonal
from operators.differences import FiniteDifferences
from operators.errors import NonFiniteError
from operators.fourier import Fourier
from operators.frame import SamplingMask
from operators.grid import Grid
from operators.identity import Identity
from operators.linear import LinearOperator, Scaled
from operators.space import Space
from operators.stack import Stack
from tests.noise_contract import NoiseContract, keys
from tests.oracles import dense, random_element
from workbench.noise.gaussian import CorrelatedGaussian, Gaussian

REAL = Space((2, 3))
COMPLEX = Space((2, 3), is_complex=True)
DATUM = torch.linspace(0.2, 1.5, 3, dtype=torch.float64)


class Independent(NoiseContract):
    covers = (Gaussian,)
    sigma: float | Tensor

    def make(self, dtype: torch.dtype) -> Gaussian:
        return Gaussian(self.sigma.to(dtype) if isinstance(self.sigma, Tensor) else self.sigma)

    def data(self, dtype: torch.dtype) -> Tensor:
        return random_element(self.space, dtype=torch.float64, seed=2).to(self.space.dtype_like(torch.empty(0, dtype=dtype)))

    def oracle(self, predicted: np.ndarray, data: np.ndarray) -> float:
        sigma = np.asarray(self.sigma)
        total = stats.norm.logpdf(data.real, predicted.real, sigma).sum()
        return total + (stats.norm.logpdf(data.imag, predicted.imag, sigma).sum() if self.space.is_complex else 0)


class TestOneSigma(Independent):
    space, sigma = REAL, 0.7


class TestSigmaPerDatum(Independent):
    space, sigma = REAL, DATUM


class TestComplex(Independent):
    space, sigma = COMPLEX, 0.7


class TestComplexPerDatum(Independent):
    space, sigma = COMPLEX, DATUM
