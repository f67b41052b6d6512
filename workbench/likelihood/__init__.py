"""p(y | x) under a law of noise: gradient, curvature, prox, exact draws from prox laws."""

from workbench.likelihood.likelihood import BatchTrace, Likelihood

__all__ = ["BatchTrace", "Likelihood"]
