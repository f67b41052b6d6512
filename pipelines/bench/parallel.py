"""Parallel-beam CT: all slices in one call, beside ASTRA, scikit-image and deepinv; per slice."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.ct import ParallelBeamGeometry, Projector
from operators.grid import Grid
from pipelines.bench.ellipses import Lines, integrals, rasterised, relative_error
from pipelines.bench.session import PEERS, Session, attempted
from pipelines.bench.table import Quality, Row, Timing, Wanted
from pipelines.bench.timing import LocalTask, compared
from pipelines.bench.worker import RemoteTask, Worker
from workbench.random import Keys

__all__ = ["ADJOINT", "parallel_rows"]

Array = NDArray[Any]
Way = Literal["forward", "adjoint"]
#: How many times faster than any peer ours is to be.
WANTED: dict[Way, float] = {"forward": 40.0, "adjoint": 15.0}
WAYS: tuple[Way, Way] = ("forward", "adjoint")
#: Adjointness in single precision, and by how much ours may be less accurate than ASTRA.
ADJOINT, ROUNDING = 1e-6, 1e-3
#: Pairs of runs with the slower peers, with all threads and with one.
FEWER = (3, 2)


@dataclass(frozen=True)
class Problem:
    """A scan of slices of n x n voxels over half a turn, with random slices and data in single precision."""

    operator: Projector
    images: Tensor
    data: Tensor
    made: float

    @classmethod
    def of(cls, n: int, views: int, slices: int) -> Problem:
        """Return the problem; `made` is the seconds that its operator took."""
        keys, like = Keys(7, (0,)), torch.empty(0, dtype=torch.float32)
        begun = time.perf_counter()
        grid = Grid.from_spacing((slices, n, n), 1.0)
        operator = ParallelBeamGeometry.around(grid, views).operator(grid)
        made = time.perf_counter() - begun
        images = keys.normals(operator.domain.shape, "images", like=like)[0]
        # No peer's detector has more columns: each takes its own part of the same numbers.
        data = keys.normals(operator.codomain.shape, "data", like=like)[0]
        return cls(operator, images, data, made)

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Voxels of a side, views, slices, columns."""
        views, slices, columns = self.operator.codomain.shape
        return self.operator.grid.shape[1], views, slices, columns

    def task(self, way: Way) -> LocalTask:
        """Return one way of all slices, as work per slice."""
        operator, slices = self.operator, self.size[2]
        if way == "forward":
            return LocalTask(lambda: operator(self.images), slices)
        return LocalTask(lambda: operator.adjoint(self.data), slices)

    def arrays(self, slices: int) -> dict[str, Array]:
        """Return what a peer is given: slices, data (slices, views, columns or more) and ellipses."""
        return {
            "images": self.images[:slices].numpy(),
            "data": np.ascontiguousarray(self.data[:, :slices].movedim(1, 0).numpy()),
            "phantom": rasterised(self.size[0]),
        }


def parallel_rows(session: Session, case: str, n: int, views: int, slices: int) -> Iterator[Row]:
    """Yield the rows of one size."""
    session.say(f"{case}: {n}^2 x {views}, {slices} slices")
    problem = Problem.of(n, views, slices)
    work = f"parallel {n}^2 x {views}"
    own, first, exact = _own(problem)
    error = {"ours": own}
    large = n > 256
    # ASTRA has no batches: fewer slices at 512^2 cost it nothing but the wait.
    for name, count in (
        ("astra", 8 if large else 32),
        ("scikit-image", 1 if large else 4),
        ("deepinv", 2 if large else 8),
    ):
        peer, count = PEERS[name], min(count, slices)
        rows = _beside(session, case, name, work, problem, first, count, error)
        yield from attempted(rows, case, f"{work}, {slices} slices, per slice", peer.name)
    bound = error["astra"] * (1 + ROUNDING) if "astra" in error else None
    yield Quality(case, work, "ours", "adjointness", exact, ADJOINT, f"the worst of {slices} slices")
    yield Quality(case, work, "ours", "error, ellipses", own, bound, "wanted: ASTRA's")


def _own(problem: Problem) -> tuple[float, dict[Way, float], float]:
    """Return the error on ellipses, the seconds to the first result of each way, and the adjointness."""
    n, views, slices, columns = problem.size
    tasks = {way: problem.task(way) for way in WAYS}
    first: dict[Way, float] = {way: problem.made + tasks[way].seconds(0.0) for way in WAYS}
    phantom = torch.from_numpy(rasterised(n)).expand(slices, n, n)
    angles = np.arange(views)[:, None] * math.pi / views
    # Columns run along (cos, sin) of the angle, in the grid's x and y, which rise with the indices.
    lines = np.cos(angles), np.sin(angles), np.arange(columns) - (columns - 1) / 2
    error = relative_error(problem.operator(phantom)[:, 0].numpy(), integrals(n, lines))
    forward, back = problem.operator(problem.images), problem.operator.adjoint(problem.data)
    sinograms = problem.data.movedim(1, 0), forward.movedim(1, 0)
    return error, first, _mismatch(problem.images, *sinograms, back)


def _mismatch(x: Any, y: Any, forward: Any, back: Any) -> float:
    """Return the largest |<A x, y> - <x, B y>| / (|A x| |y|) over the slices, the first axis of all four."""
    found = 0.0
    for parts in zip(x, y, forward, back, strict=True):
        one, data, ahead, behind = (np.asarray(part, dtype=np.float64) for part in parts)
        apart = abs((ahead * data).sum() - (one * behind).sum())
        found = max(found, float(apart / (np.linalg.norm(ahead) * np.linalg.norm(data))))
    return found


def _beside(
    session: Session,
    case: str,
    name: str,
    work: str,
    problem: Problem,
    first: dict[Way, float],
    count: int,
    error: dict[str, float],
) -> Iterator[Row]:
    """Yield the rows of one peer that is given `count` slices; note its error under its name."""
    n, views, slices, columns = problem.size
    peer, plan, arrays = PEERS[name], session.plan, problem.arrays(count)
    if name != "astra":
        plan = replace(plan, pairs=min(plan.pairs, FEWER[0]), alone=min(plan.alone, FEWER[1]))
    settings = {"n": n, "views": views, "columns": columns}
    with session.worker(peer, settings, arrays) as worker:
        for way in WAYS:
            session.say(f"{case}: {way} beside {peer.name}")
            operation, begun, how = _fastest(worker, way)
            found = compared(problem.task(way), RemoteTask(worker, operation, count), plan)
            note = ", ".join(part for part in (f"{count} of its slices timed", how) if part)
            times = first[way], worker.prepared + begun
            line = f"{work}, {slices} slices, {way}, per slice"
            yield Timing(case, line, peer.name, found, (Wanted(WANTED[way]),), times, note)
        lines = _lines(name, n, views, columns)
        phantom = worker.result("phantom")
        error[name] = relative_error(phantom, integrals(n, lines))
        forward = worker.result("forward")
        pairs = [(operation, note) for operation, note in ADJOINTS if operation in worker.operations]
        for operation, note in pairs:
            data = arrays["data"][..., : forward.shape[-1]]
            value = _mismatch(arrays["images"], data, forward, worker.result(operation))
            yield Quality(case, work, peer.name, "adjointness", value, None, note)
        yield Quality(case, work, peer.name, "error, ellipses", error[name])


#: The adjoints that a peer may have, and what to say of them.
ADJOINTS = (("adjoint", ""), ("unmatched adjoint", "adjoint_via_backprop=False: its inverse Radon, rescaled"))


def _fastest(worker: Worker, way: Way) -> tuple[str, float, str]:
    """Return the peer's faster way, batched or one by one, the seconds of its first call, and what to say."""
    begun = worker.seconds(way, least=0.0)
    single = f"{way} one by one"
    if single not in worker.operations:
        return way, begun, ""
    alone, batched = (worker.seconds(one, least=0.0) for one in (single, way))
    return (single, begun, "one by one, its faster way") if alone < batched else (way, begun, "as a batch")


def _lines(name: str, n: int, views: int, columns: int) -> Lines:
    """Return where a peer's rays run, (a, b, c) of `ellipses`: their y axes point to the first row."""
    angles = np.arange(views)[:, None] * math.pi / views
    across, down = np.cos(angles), -np.sin(angles)
    if name == "astra":
        return across, down, np.arange(columns) - (columns - 1) / 2
    padded = math.ceil(math.sqrt(2) * n)
    if name == "deepinv":  # it turns about the middle of the padded image
        middle = (padded - 1) / 2
        shift = middle - (padded // 2 - n // 2) - (n - 1) / 2
    else:  # scikit-image about voxel n // 2
        middle, shift = float(padded // 2), n // 2 - (n - 1) / 2
    return across, down, np.arange(padded) - middle + shift * (across + down)
