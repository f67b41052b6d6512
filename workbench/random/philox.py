"""Philox4x32-10 and the transforms behind `workbench.random`: the same bits on every machine.

A block is 128 random bits, a function of a 128-bit counter (block, step, draw) and a 64-bit key:
10 rounds of  (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)),
the key raised by (W0, W1) between rounds (Salmon et al., Parallel random numbers, SC 2011).

The number of a voxel may not depend on the chunk, the thread or the device it is computed with.
torch's log, sin, cos and sqrt do: their vectorised bodies differ in the last bit from their
remainders and from CUDA's. So everything here is made of +, -, *, / and integer operations, which
IEEE 754 rounds in one way only, each its own eager operation so that nothing is fused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "make_key",
    "minus_log",
    "normal_pair",
    "polynomial",
    "sign_pair",
    "square_root",
    "uniform",
    "words",
]

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF

MANTISSA = (1 << 52) - 1
ONE = 0x3FF << 52  # the bits of 1.0
SIGN = -(1 << 63)
LN2 = 0.6931471805599453
PI = 3.141592653589793
ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
#: Added to half the bits of x: those of the root with the exponent halved and a linear mantissa.
LINEAR_ROOT = 0x1FF7A3BEA91D9B1B

# Minimax coefficients of fdlibm, of absolute error < 2^-58: 2 atanh(s)/s - 2 on |s| <= 0.1716 in powers
# s^2, s^4, ...; sin(t)/t - 1 and (cos(t) - 1 + t^2/2)/t^2 on |t| <= pi/4 in powers t^2, t^4, ...
LOG = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
SIN = (
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
)
COS = (
    -0.5,
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
)


def make_key(seed: int, kind: str, purpose: str, lane: int = 0) -> tuple[int, int]:
    """Return the key (k0, k1): 64 bits of BLAKE2b over all that is not in the counter.

    The counter holds the voxel, the step and the draw as they are: for one key no two of them share
    a block. `kind` parts normals from uniforms of one purpose, `lane` successive trials for one voxel.
    """
    text = f"{seed}|{kind}|{lane}|{purpose}".encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return number & LOW, number >> 32


def words(block: Tensor, draw: Tensor, step: int, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the 128 bits of each block as two int64 words, (c0 << 32 | c1) and (c2 << 32 | c3).

    The counter is (low half of `block`, its high half, step, draw); `draw` broadcasts to `block`.
    A product of two 32-bit numbers wraps mod 2^64 in int64: its bits are those of the unsigned one.
    c1 and c3 carry waste above bit 31, which the last mask of a round removes.
    """
    k0, k1 = key
    c0 = block.bitwise_and(LOW)
    c1 = block.bitwise_right_shift(32)
    c2 = torch.full_like(block, step)
    c3 = torch.empty_like(block).copy_(draw)
    high = torch.empty_like(block)
    for _ in range(9):
        p0, p1 = c0.mul_(M0), c2.mul_(M1)
        torch.bitwise_right_shift(p1, 32, out=high)
        c0 = c1.bitwise_xor_(k0).bitwise_xor_(high).bitwise_and_(LOW)
        torch.bitwise_right_shift(p0, 32, out=high)
        c2 = c3.bitwise_xor_(k1).bitwise_xor_(high).bitwise_and_(LOW)
        c1, c3 = p1, p0
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    # In the last round hi ^ c ^ k belongs above lo, where the product has its hi already.
    p0, p1 = c0.mul_(M0), c2.mul_(M1)
    first = c1.bitwise_xor_(k0).bitwise_left_shift_(32).bitwise_xor_(p1)
    second = c3.bitwise_xor_(k1).bitwise_left_shift_(32).bitwise_xor_(p0)
    return first, second


def uniform(word: Tensor) -> Tensor:
    """Return (j + 1/2) 2^-52 in float64, j the upper 52 bits of `word`, which is overwritten."""
    word.bitwise_right_shift_(12).bitwise_and_(MANTISSA).bitwise_or_(ONE)
    return word.view(torch.float64).sub_(1.0 - 2.0**-53)


def normal_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two independent standard normals in float64 from two words, which are overwritten.

    Box-Muller: sqrt(-2 ln u) (cos a, sin a), u in (0, 1) from 52 bits of `first`, so that no normal
    exceeds 8.6. The angle a is pi/4 + t in the first quadrant, t in (-pi/4, pi/4) from 51 bits of
    `second`, and two of its bits are the signs: sqrt(2) (cos a, sin a) = (cos t - sin t, cos t + sin t).
    """
    radius = square_root(minus_log(uniform(first)))
    cos_sign = second.bitwise_and(SIGN)
    sin_sign = second.bitwise_left_shift(1).bitwise_and_(SIGN)
    # The lowest bit set: t is on odd multiples of the spacing, as often below 0 as above.
    second.bitwise_and_(MANTISSA).bitwise_or_(ONE | 1)
    t = second.view(torch.float64).sub_(1.5).mul_(PI / 2)
    square = t * t
    sine = polynomial(square, SIN).mul_(t).add_(t)
    cosine = polynomial(square, COS).add_(1.0)
    x = torch.sub(cosine, sine, out=square).mul_(radius)
    y = cosine.add_(sine).mul_(radius)
    x.view(torch.int64).bitwise_xor_(cos_sign)
    y.view(torch.int64).bitwise_xor_(sin_sign)
    return x, y


def sign_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return +1 or -1 in float64 for each word by its top bit; the words are overwritten."""
    x, y = (word.bitwise_and_(SIGN).bitwise_or_(ONE) for word in (first, second))
    return x.view(torch.float64), y.view(torch.float64)


def minus_log(x: Tensor) -> Tensor:
    """Return -ln x of normal numbers x > 0 in float64, to a few units in the last place.

    x = 2^k z with z in [sqrt(1/2), sqrt(2)) and -ln z = 2 atanh(s) for s = (1 - z) / (1 + z).
    """
    exponent = x.view(torch.int64).sub(ROOT_HALF).bitwise_right_shift_(52)
    k = exponent.to(torch.float64)
    z = x.view(torch.int64).sub(exponent.bitwise_left_shift_(52)).view(torch.float64)
    s = (1.0 - z).div_(z.add_(1.0))
    square = torch.mul(s, s, out=z)
    return polynomial(square, LOG).add_(2.0).mul_(s).sub_(k.mul_(LN2))


def square_root(x: Tensor) -> Tensor:
    """Return sqrt(x) of normal numbers x > 0 in float64, to one unit in the last place.

    Half the exponent and a linear mantissa are right to 3.5 %; Heron's step squares the error and
    halves it: 6e-4, 2e-7, 1e-14, rounding.
    """
    root = x.view(torch.int64).bitwise_right_shift(1).add_(LINEAR_ROOT).view(torch.float64)
    quotient = torch.empty_like(root)
    for _ in range(4):
        torch.div(x, root, out=quotient)
        root.add_(quotient).mul_(0.5)
    return root


def polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return c1 x + c2 x^2 + ... by Horner's rule."""
    value = x * coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value.add_(coefficient).mul_(x)
    return value
