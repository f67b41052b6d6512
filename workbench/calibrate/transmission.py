"""From photon counts to line integrals (Beer-Lambert) and the weights that belong to them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from operators.checks import check_finite, check_tensor
from operators.errors import value_error

__all__ = ["line_integrals", "log_weights"]

# A ray that counted nothing carries the information of half a count, not of an infinity.
STARVED = 0.5


def line_integrals(counts: Tensor, blank: float | Tensor) -> Tensor:
    """Return -log(counts / blank) for photon `counts` >= 0 and the `blank` count without an object.

    Rays that counted nothing are set to half a count, and the share of them is warned about: such
    data need a likelihood on the counts.
    """
    _check_counts(counts)
    reference = torch.as_tensor(blank, dtype=counts.dtype, device=counts.device)
    if not bool(torch.isfinite(reference).all() & (reference > 0).all()):
        raise value_error("blank", "be finite and > 0", blank)
    starved = float((counts <= 0).double().mean())
    if starved > 0:
        warnings.warn(
            f"{starved:.2%} of the rays counted no photon and are taken as half a count. "
            "Use more photons or a Poisson likelihood.",
            UserWarning,
            stacklevel=2,
        )
    return torch.log(reference / counts.clamp(min=STARVED))


def log_weights(counts: Tensor) -> Tensor:
    """Return 1 / variance of each line integral: Var[-log N] is about 1 / N for Poisson counts."""
    _check_counts(counts)
    return counts.clamp(min=STARVED)


def _check_counts(counts: Tensor) -> None:
    check_tensor(counts, "counts")
    check_finite(counts, "counts")
    if counts.is_complex() or bool((counts < 0).any()):
        raise value_error("counts", "be real and >= 0", f"a minimum of {float(counts.real.min())}")
