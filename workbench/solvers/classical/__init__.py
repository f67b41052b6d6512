"""One image each, without a learned prior: least squares, penalties, proximal and algebraic iterations."""

from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.classical.plug_and_play import PlugAndPlay
from workbench.solvers.classical.sirt import SIRT
from workbench.solvers.classical.tikhonov import Tikhonov
from workbench.solvers.classical.total_variation import TotalVariation
from workbench.solvers.classical.wavelet_sparsity import WaveletSparsity

__all__ = ["SIRT", "ConjugateGradient", "PlugAndPlay", "Tikhonov", "TotalVariation", "WaveletSparsity"]
