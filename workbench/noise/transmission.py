"""From photon counts to line integrals (Beer-Lambert) and the weights that belong to them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from operators.checks import check_finite, check_number, check_tensor
from operators.errors import type_error, value_error

__all__ = ["line_integrals", "log_weights"]

# A ray that counted nothing carries the information of half a count, not of an infinity.
STARVED = 0.5


def line_integrals(counts: Tensor, blank: float | Tensor) -> Tensor:
    """Return -log(counts / blank) for photon `counts` >= 0 and the `blank` count without an object.

    `blank` is one number, or a tensor that broadcasts to the counts, such as one per detector column.
    Rays that counted nothing are set to half a count, and the share of them is warned about: such
    data need a likelihood on the counts.
    """
    _check_counts(counts)
    reference = _reference(blank, counts)
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


def _reference(blank: object, counts: Tensor) -> Tensor:
    if not isinstance(blank, Tensor):
        return counts.new_tensor(check_number(blank, "blank", positive=True))
    if blank.is_complex():
        raise type_error("blank", "be real", blank.dtype)
    pairs = zip(reversed(blank.shape), reversed(counts.shape), strict=False)
    if blank.ndim > counts.ndim or any(b not in (1, n) for b, n in pairs):
        raise value_error(
            "blank", f"be a number or broadcast to {tuple(counts.shape)}", f"shape {tuple(blank.shape)}"
        )
    reference = blank.to(counts)
    if not bool((torch.isfinite(reference) & (reference > 0)).all()):
        raise value_error("blank", "be finite and > 0", f"a minimum of {float(reference.min())}")
    return reference


def _check_counts(counts: Tensor) -> None:
    check_tensor(counts, "counts")
    if counts.is_complex():
        raise type_error("counts", "be real", counts.dtype)
    check_finite(counts, "counts")
    if bool((counts < 0).any()):
        raise value_error("counts", "be >= 0", f"a minimum of {float(counts.min())}")
