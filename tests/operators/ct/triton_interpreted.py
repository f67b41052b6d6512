"""A program, started by test_volume_triton: the CUDA engine in Triton's interpreter, on the CPU.

    python -m tests.operators.ct.triton_interpreted DTYPE BATCH NAMES [DTYPE BATCH NAMES ...]

writes for each precision and scan its distance from the readable engine, forward and adjoint, and its
mismatch as a pair. Triton decides when it is imported whether it interprets: TRITON_INTERPRET=1 has to be
set before.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace

import torch

from operators.ct import torch_volume
from tests.operators.ct.volume_scans import rays_of


def compared(name: str, dtype: torch.dtype, batch: int) -> tuple[float, float, float]:
    from operators.ct import triton_volume

    generator = torch.Generator().manual_seed(5)
    rays = rays_of(name)
    # Two views do, and take less time.
    some = slice(1, 4, 2) if len(rays.views.through) > 1 else slice(1)
    rays = replace(rays, views=rays.views.part(some))
    x = torch.randn((batch, *rays.size), generator=generator, dtype=dtype)
    y = torch.randn((batch, *rays.views.shape), generator=generator, dtype=dtype)
    image, back = triton_volume.forward(rays, x), triton_volume.adjoint(rays, y)
    expected, expected_back = torch_volume.forward(rays, x), torch_volume.adjoint(rays, y)
    products = (image.double() * y.double()).sum() - (x.double() * back.double()).sum()
    # Larger blocks after the first scan: it is their number that takes the interpreter's time.
    triton_volume.TILE, triton_volume.BLOCK = (8, 16), (8, 8, 8)
    return (
        float((image - expected).abs().max() / expected.abs().max()),
        float((back - expected_back).abs().max() / expected_back.abs().max()),
        float(products.abs() / (image.double().norm() * y.double().norm())),
    )


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    wanted = zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3], strict=True)
    found = {
        kind: {name: compared(name, getattr(torch, kind), int(batch)) for name in names.split(",")}
        for kind, batch, names in wanted
    }
    sys.stdout.write(json.dumps(found))
