"""Blur: convolution with a point-spread function, in mm or sampled, with the ends of the field stated."""

from operators.blur.blur import Blur, Boundary
from operators.blur.psf import PSF, BoxPSF, DiscPSF, GaussianPSF
from operators.blur.psf_sampled import MeasuredPSF, MotionPSF

__all__ = ["PSF", "Blur", "Boundary", "BoxPSF", "DiscPSF", "GaussianPSF", "MeasuredPSF", "MotionPSF"]
