"""Noise of receiver coils: its covariance from a noise scan, and data in which it is white.

    C = E[n n^H] / 2        C_cc = sigma_c^2, the variance of EACH real component of coil c
    W = L^-1, C = L L^H     W n has sd 1 in each real component, independent between channels

A noise scan sampled with another dwell time sees another bandwidth: variance ~ 1 / dwell. Vendors
filter it too: `receiver_bandwidth` is the share of the sampled band in which there is noise (0.79 on
Siemens systems, ISMRMRD's relativeReceiverNoiseBandwidth).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_finite, check_number, check_tensor
from operators.errors import type_error, value_error
from workbench.calibrate.acs import checked_kspace, measured_samples
from workbench.calibrate.coil_matrix import CoilMatrix

__all__ = ["Prewhitening", "noise_covariance", "outer_kspace_sd", "prewhitening"]

#: Median of |w| for a standard normal w.
MEDIAN = 0.6744897501960817


@dataclass(frozen=True, eq=False)
class Prewhitening(CoilMatrix):
    """W, with as many channels as coils: `apply` to data of the dwell time that C was stated for."""


def noise_covariance(
    noise: Tensor,
    *,
    noise_dwell: float | None = None,
    scan_dwell: float | None = None,
    receiver_bandwidth: float = 1.0,
) -> Tensor:
    """Return C (coils, coils) in double precision from a noise scan (coils, samples...).

    With both dwell times (in one unit), C is that of the scan. The relative standard error of a
    variance is 1 / sqrt(samples). Noise has mean zero: no mean is subtracted.
    """
    samples = _noise_samples(noise)
    share = check_number(receiver_bandwidth, "receiver_bandwidth", positive=True)
    if (noise_dwell is None) != (scan_dwell is None):
        raise value_error("noise_dwell", "be given with `scan_dwell`", f"{noise_dwell} and {scan_dwell}")
    ratio = 1.0
    if noise_dwell is not None:
        ratio = check_number(noise_dwell, "noise_dwell", positive=True) / check_number(
            scan_dwell, "scan_dwell", positive=True
        )
    return samples @ samples.mH * (ratio / (2 * share * samples.shape[1]))


def prewhitening(covariance: Tensor) -> Prewhitening:
    """Return W = L^-1 of a covariance C (coils, coils) of the real components, sd 1 after it."""
    check_tensor(covariance, "covariance")
    check_finite(covariance, "covariance")
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise value_error("covariance", "have shape (coils, coils)", tuple(covariance.shape))
    matrix = covariance.detach().cpu().to(torch.complex128)
    skew = float((matrix - matrix.mH).abs().max())
    if skew > 1e-6 * float(matrix.abs().max()):
        raise value_error("covariance", "be Hermitian", f"entries that differ by {skew:g}")
    matrix = (matrix + matrix.mH) / 2
    variances = matrix.diagonal().real
    if not float(variances.min()) > 0:
        remedy = "Leave coils without noise, which are switched off, out of scan and noise scan."
        dead = torch.nonzero(variances <= 0).flatten().tolist()
        raise value_error("covariance", "have a variance > 0 for each coil", f"none for coils {dead}", remedy)
    # Coils of different gain are no reason for a bad condition: judge the correlations.
    scale = variances.rsqrt()
    correlation = scale[:, None] * matrix * scale
    least = float(torch.linalg.eigvalsh(correlation)[0])
    if least < 1e-9 * len(variances):
        remedy = "Coils that repeat each other: leave some out, or compress the coils first."
        raise value_error(
            "covariance", "be positive definite", f"correlations with an eigenvalue of {least:.1e}", remedy
        )
    factor = torch.linalg.cholesky(correlation)
    identity = torch.eye(len(variances), dtype=torch.complex128)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return Prewhitening(inverse * scale, sigma=1.0)


def outer_kspace_sd(kspace: Tensor, *, mask: Tensor | None = None, share: float = 0.1) -> Tensor:
    """Return sigma (coils,) of each real component, from k-space itself, where there is no noise scan.

    The median of |Re y| and |Im y| over 0.674, over that `share` of the measured samples which lies
    farthest from frequency zero, distances relative to the encoded half width on each axis. Its relative
    standard error is 0.82 / sqrt(samples). It errs upwards: by 13 % where a tenth of these samples is
    all signal, to sqrt(sigma^2 + s^2) where all of them have signal of sd s. Correlations between coils
    stay unknown, and k-space that was filtered or padded with zeros tells nothing.
    """
    given = checked_kspace(kspace)
    portion = check_number(share, "share", positive=True)
    if portion > 1:
        raise value_error("share", "be at most 1", share)
    sampled = torch.from_numpy(measured_samples(given, mask))
    distance = torch.zeros(given.shape[1:], dtype=torch.float64)
    for axis, n in enumerate(given.shape[1:]):
        offset = (torch.arange(n, dtype=torch.float64) - n // 2) / max(n / 2, 1)
        distance = distance + offset.square().reshape(-1, *[1] * (2 - axis))
    count = round(portion * int(sampled.sum()))
    least = 32
    if count < least:
        remedy = "Raise `share`, or give a noise scan to noise_covariance()."
        raise value_error("kspace", f"have at least {least} outer samples", count, remedy)
    distance[~sampled] = -1
    chosen = distance.flatten().topk(count).indices.to(given.device)
    outer = given.flatten(1)[:, chosen].to(torch.complex128)
    sd = torch.view_as_real(outer).flatten(1).abs().median(dim=1).values / MEDIAN
    if not float(sd.min()) > 0:
        silent = torch.nonzero(sd <= 0).flatten().tolist()
        remedy = "Padding with zeros is no measurement: pass `mask`. Leave dead coils out."
        raise value_error("kspace", "hold noise in its outer samples", f"zeros in coils {silent}", remedy)
    return sd


def _noise_samples(noise: Tensor) -> Tensor:
    check_tensor(noise, "noise")
    if not noise.is_complex():
        raise type_error("noise", "be complex", noise.dtype)
    if noise.ndim < 2:
        raise value_error("noise", "have shape (coils, samples)", tuple(noise.shape))
    check_finite(noise, "noise")
    samples = noise.detach().cpu().reshape(noise.shape[0], -1).to(torch.complex128)
    if samples.shape[1] < samples.shape[0]:
        raise value_error(
            "noise",
            f"have at least as many samples as its {samples.shape[0]} coils",
            samples.shape[1],
            "Coils lie on the first axis.",
        )
    return samples
