"""Paths from the data to noise, x_t = a x0 + b x_in + c noise, and what a network predicts on one."""

from workbench.paths.affine import AffinePath, Point
from workbench.paths.noise_law import GaussianLaw, NoiseLaw, StudentT
from workbench.paths.prediction import Prediction

__all__ = ["AffinePath", "GaussianLaw", "NoiseLaw", "Point", "Prediction", "StudentT"]
