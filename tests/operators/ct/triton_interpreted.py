"""A program, started by test_volume_triton: the CUDA engine in Triton's interpreter, on the CPU.

    python -m tests.operators.ct.triton_interpreted NAME DTYPE BATCH

writes its distance from the readable engine, forward and adjoint, and its mismatch as a pair. Triton decides
when it is imported whether it interprets: TRITON_INTERPRET=1 has to be set before.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace

import torch

from operators.ct import torch_volume
from tests.operators.ct.volume_scans import rays_of


def main(names: list[str], dtype: torch.dtype, batch: int) -> dict[str, tuple[float, float, float]]:
    from operators.ct import triton_volume

    found = {}
    generator = torch.Generator().manual_seed(5)
    for name in names:
        rays = rays_of(name)
        # Two views do, and take less time.
        rays = replace(
            rays, views=rays.views.part(slice(1, 4, 2) if len(rays.views.through) > 1 else slice(1))
        )
        x = torch.randn((batch, *rays.size), generator=generator, dtype=dtype)
        y = torch.randn((batch, *rays.views.shape), generator=generator, dtype=dtype)
        image, back = triton_volume.forward(rays, x), triton_volume.adjoint(rays, y)
        expected, expected_back = torch_volume.forward(rays, x), torch_volume.adjoint(rays, y)
        products = (image.double() * y.double()).sum() - (x.double() * back.double()).sum()
        found[name] = (
            float((image - expected).abs().max() / expected.abs().max()),
            float((back - expected_back).abs().max() / expected_back.abs().max()),
            float(products.abs() / (image.double().norm() * y.double().norm())),
        )
        # Larger blocks after the first scan: it is their number that takes the interpreter's time.
        triton_volume.TILE, triton_volume.BLOCK = (8, 16), (8, 8, 8)
    return found


if __name__ == "__main__":
    warnings.simplefilter("error")
    chosen, kind, volumes = sys.argv[1].split(","), getattr(torch, sys.argv[2]), int(sys.argv[3])
    sys.stdout.write(json.dumps(main(chosen, kind, volumes)))
