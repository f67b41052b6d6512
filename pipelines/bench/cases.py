"""What can be measured, by name; each alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.bench.cone import Scan, cpu_rows, cuda_rows
from pipelines.bench.guidance import beside_deepinv_rows, overhead_rows
from pipelines.bench.mri import Radial, cartesian_rows, radial_rows
from pipelines.bench.parallel import parallel_rows
from pipelines.bench.session import Session
from pipelines.bench.table import Row

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One comparison: `measure` is called with the session, the name, and a problem, `full` or `quick`."""

    title: str
    measure: Callable[..., Iterator[Row]]
    full: tuple[object, ...]
    quick: tuple[object, ...]

    def rows(self, session: Session, name: str) -> Iterator[Row]:
        """Yield the rows."""
        return self.measure(session, name, *(self.quick if session.plan.quick else self.full))


CASES = {
    "parallel-256": Case(
        "CT, parallel, 32 slices of 256^2 x 180 views: ASTRA, scikit-image, deepinv",
        parallel_rows,
        (256, 180, 32),
        (48, 30, 4),
    ),
    "parallel-512": Case(
        "CT, parallel, 32 slices of 512^2 x 360 views: ASTRA, scikit-image, deepinv",
        parallel_rows,
        (512, 360, 32),
        (64, 45, 4),
    ),
    "cone-64": Case(
        "CT, cone, 64^3 x 60 views of 96^2 on the CPU: our torch engine",
        cpu_rows,
        (Scan(64, 60, 96, 96), True, 0.030),
        (Scan(16, 12, 24, 24), True, 0.030),
    ),
    "cone-128": Case(
        "CT, cone, 128^3 x 180 views of 192^2 on the CPU: forward beside adjoint",
        cpu_rows,
        (Scan(128, 180, 192, 192), False),
        (Scan(24, 16, 36, 36), False),
    ),
    "cone-cuda": Case(
        "CT, cone, 512^3 x 720 views of 512 x 768 on a GPU: the memory's speed",
        cuda_rows,
        (Scan(512, 720, 512, 768),),
        (Scan(64, 60, 96, 96),),
    ),
    "radial-64": Case(
        "MRI, radial, 64 spokes, 8 coils of 256^2: sigpy, torchkbnufft",
        radial_rows,
        (Radial(256, 8, 64),),
        (Radial(48, 8, 12),),
    ),
    "radial-400": Case(
        "MRI, radial, 400 spokes, 8 coils of 256^2: sigpy, torchkbnufft",
        radial_rows,
        (Radial(256, 8, 400),),
        (Radial(48, 8, 75),),
    ),
    "cartesian": Case(
        "MRI, Cartesian, 8 coils of 32 x 256^2: its bare FFTs",
        cartesian_rows,
        (8, 32, 256),
        (4, 4, 48),
    ),
    "guidance-64": Case(
        "guidance, 4 draws of 64^2: a step beside its bare network and operator",
        overhead_rows,
        (64,),
        (16,),
    ),
    "guidance-128": Case(
        "guidance, 4 draws of 128^2: a step beside its bare network and operator",
        overhead_rows,
        (128,),
        (32,),
    ),
    "guidance-deepinv": Case(
        "guidance, 4 draws of 64^2, 50 steps of DPS and DiffPIR: deepinv",
        beside_deepinv_rows,
        (64, 50),
        (16, 4),
    ),
}
