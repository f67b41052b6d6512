"""Cone-beam CT: on a CPU, where ASTRA has nothing, beside our torch engine; on CUDA beside a copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from operators.ct import ConeBeamGeometry, Projector
from operators.grid import Grid
from pipelines.bench.parallel import ADJOINT
from pipelines.bench.session import Session
from pipelines.bench.table import Absent, Quality, Row, Timing, Wanted
from pipelines.bench.timing import LocalTask, compared
from workbench.random import Keys

__all__ = ["cpu_rows", "cuda_rows"]


@dataclass(frozen=True)
class Scan:
    """n^3 voxels of 1 mm seen in a whole turn by a detector of rows x columns."""

    n: int
    views: int
    rows: int
    columns: int

    def operator(self, engine: str = "auto") -> Projector:
        """Return the projector."""
        grid = Grid.from_spacing((self.n, self.n, self.n), 1.0)
        scan = ConeBeamGeometry.around(
            grid,
            self.views,
            source_to_axis=4.0 * self.n,
            source_to_detector=6.0 * self.n,
            columns=self.columns,
            rows=self.rows,
        )
        return scan.operator(grid, engine=engine)

    def __str__(self) -> str:
        return f"cone {self.n}^3 x {self.views} x {self.rows} x {self.columns}"


def cpu_rows(session: Session, case: str, scan: Scan, torch_too: bool, longest: float = 0.0) -> Iterator[Row]:
    """Yield forward and adjoint beside each other and, with `torch_too`, each beside the torch engine.

    `longest` is the seconds that the forward may take, where that is bounded.
    """
    session.say(f"{case}: {scan}")
    begun = time.perf_counter()
    operator = scan.operator()
    made = time.perf_counter() - begun
    image, data = _random(operator, torch.device("cpu"))
    ahead, back = LocalTask(lambda: operator(image)), LocalTask(lambda: operator.adjoint(data))
    first = made + ahead.seconds(0.0), made + back.seconds(0.0)
    engine = operator.engine_for("cpu")
    # What is named as the peer here is the adjoint of the same pair.
    wanted = [Wanted(2.0, "ratio at most")] + ([Wanted(longest, "ours at most")] if longest else [])
    found = compared(ahead, back, session.plan)
    yield Timing(case, f"{scan}, forward", f"its adjoint, {engine}", found, tuple(wanted), first)
    yield Quality(
        case, str(scan), f"ours, {engine}", "adjointness", _mismatch(operator, image, data), ADJOINT
    )
    if not torch_too:
        return
    plan = replace(session.plan, pairs=min(session.plan.pairs, 3), alone=min(session.plan.alone, 2))
    slow = scan.operator("torch")
    for way, ours, theirs in (
        ("forward", ahead, LocalTask(lambda: slow(image))),
        ("adjoint", back, LocalTask(lambda: slow.adjoint(data))),
    ):
        session.say(f"{case}: {way} beside the torch engine")
        yield Timing(case, f"{scan}, {way}", "our torch engine", compared(ours, theirs, plan))


def cuda_rows(session: Session, case: str, scan: Scan) -> Iterator[Row]:
    """Yield the forward and the adjoint on a GPU beside the time in which the volume and the data are copied.

    A projector has to read the one and to write the other, once: at the speed at which the memory copies,
    measured in the same run, that is the floor. The ratio is the share of it that the projector reaches.
    """
    values = scan.n**3 + scan.views * scan.rows * scan.columns
    least = f"{4 * values / 1e9:.3g} GB must pass the memory once"
    if not torch.cuda.is_available():
        yield Absent(case, str(scan), "its memory's floor", f"no GPU is visible to torch; {least}")
        return
    session.say(f"{case}: {scan}, {least}")
    device = torch.device("cuda")
    begun = time.perf_counter()
    operator = scan.operator()
    made = time.perf_counter() - begun
    image, data = _random(operator, device)
    # As many bytes read and written as the projector has to read and write.
    source = torch.empty(values // 2, device=device)
    target = torch.empty_like(source)
    copy = LocalTask(_waited(lambda: target.copy_(source)))
    once = replace(session.plan, alone=0)
    for way, work in (("forward", lambda: operator(image)), ("adjoint", lambda: operator.adjoint(data))):
        task = LocalTask(_waited(work))
        first = made + task.seconds(0.0)
        found = compared(task, copy, once)
        floor = found.together.theirs
        note = (
            f"{least}: {floor * 1e3:.2g} ms at the {4 * values / floor / 1e12:.2f} TB/s of a copy; "
            f"share of the floor {floor / found.together.ours:.1%}"
        )
        yield Timing(
            case, f"{scan}, {way}, {operator.engine_for(device)}", "a copy", found, (), (first, None), note
        )
    yield Quality(case, str(scan), "ours, CUDA", "adjointness", _mismatch(operator, image, data), ADJOINT)


def _waited(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        result = work()
        torch.cuda.synchronize()
        return result

    return run


def _random(operator: Projector, device: torch.device) -> tuple[Tensor, Tensor]:
    keys, like = Keys(7, (0,)), torch.empty(0, dtype=torch.float32, device=device)
    image = keys.normals(operator.domain.shape, "image", like=like)[0]
    return image, keys.normals(operator.codomain.shape, "data", like=like)[0]


def _mismatch(operator: Projector, image: Tensor, data: Tensor) -> float:
    """Return |<A x, y> - <x, B y>| / (|A x| |y|), summed in double precision where the tensors lie."""
    ahead, behind = operator(image).double(), operator.adjoint(data).double()
    apart = (ahead * data.double()).sum() - (image.double() * behind).sum()
    return float(apart.abs() / (ahead.norm() * data.double().norm()))
