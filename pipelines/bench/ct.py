"""CT projectors beside their peers: ASTRA on the CPU, scikit-image, deepinv in its own environment."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.ct import ConeBeamGeometry, ParallelBeamGeometry, Projector
from operators.ct.astra_plane import astra_module
from operators.extras import require
from operators.grid import Grid
from pipelines.bench.table import Row
from pipelines.bench.timing import Paired, Work, paired, threads
from workbench.random import Keys

__all__ = ["cone_rows", "parallel_rows"]

SLICES = 32


@dataclass(frozen=True)
class Problem:
    """A scan of `slices` slices of n x n voxels, and random data of single precision."""

    operator: Projector
    image: Tensor
    data: Tensor
    setup: float

    @classmethod
    def parallel(cls, n: int, views: int, slices: int = SLICES) -> Problem:
        """Return a parallel scan over half a turn, with as many columns as the diagonal needs."""
        grid = Grid.from_spacing((slices, n, n), 1.0)
        return cls.of(ParallelBeamGeometry.around(grid, views).operator(grid))

    @classmethod
    def of(cls, operator: Projector) -> Problem:
        """Return the problem of an operator, whose first calls, compilation included, are the set-up."""
        keys, like = Keys(7, (0,)), torch.empty(0, dtype=torch.float32)
        image, data = (
            keys.uniforms(space.shape, "bench", like=like)[0]
            for space in (operator.domain, operator.codomain)
        )
        begun = time.perf_counter()
        operator(image)
        operator.adjoint(data)
        return cls(operator, image, data, time.perf_counter() - begun)

    def forward(self) -> Tensor:
        """Return all data."""
        return self.operator(self.image)

    def adjoint(self) -> Tensor:
        """Return all back-projections."""
        return self.operator.adjoint(self.data)

    def mismatch(self) -> float:
        """Return |<A x, y> - <x, A^H y>| / (|A x| |y|)."""
        forward, back = self.forward().double(), self.adjoint().double()
        apart = (forward * self.data.double()).sum() - (self.image.double() * back).sum()
        return float(apart.abs() / (forward.norm() * self.data.double().norm()))


def parallel_rows(n: int, views: int) -> Iterator[Row]:
    """Yield ours beside ASTRA's CPU projector "linear", slice after slice, and scikit-image's transforms."""
    problem = Problem.parallel(n, views)
    note = f"adjointness {problem.mismatch():.0e}"
    name = f"parallel {n}^2 x {views}, {SLICES} slices"
    forward, adjoint = _astra(problem)
    for way, ours, theirs, wanted in (
        ("forward", problem.forward, forward, 40.0),
        ("adjoint", problem.adjoint, adjoint, 15.0),
    ):
        both, alone = _both(ours, theirs)
        yield Row(
            f"{name}, {way}",
            "ASTRA linear",
            both.ours,
            both.theirs,
            both.ratio,
            alone,
            wanted,
            problem.setup,
            note,
        )
    radon, iradon = _skimage(problem, n)
    for way, ours, theirs in (("forward", problem.forward, radon), ("adjoint", problem.adjoint, iradon)):
        # One slice of theirs is timed, and counted for all: they have no batches.
        found = paired(ours, theirs, pairs=3)
        yield Row(
            f"{name}, {way}",
            f"scikit-image, {SLICES} x one slice",
            found.ours,
            found.theirs * SLICES,
            found.ratio * SLICES,
        )


def cone_rows() -> Iterator[Row]:
    """Yield the cone beam on the CPU, where ASTRA has nothing: the adjoint beside the forward."""
    for n, views, pixels in ((64, 60, 96), (128, 180, 192)):
        grid = Grid.from_spacing((n, n, n), 1.0)
        scan = ConeBeamGeometry.around(grid, views, source_to_axis=4.0 * n, source_to_detector=6.0 * n)
        problem = Problem.of(scan.with_(columns=pixels, rows=pixels).operator(grid))
        found = paired(problem.forward, problem.adjoint)
        name = f"cone {n}^3 x {views}, {pixels}^2 pixels: forward, beside its adjoint"
        note = f"adjointness {problem.mismatch():.0e}"
        yield Row(name, "own adjoint", found.ours, found.theirs, found.ratio, setup=problem.setup, note=note)


def _both(ours: Work, theirs: Work) -> tuple[Paired, float]:
    together = paired(ours, theirs)
    with threads(1):
        return together, paired(ours, theirs, pairs=3).ratio


def _astra(problem: Problem) -> tuple[Work, Work]:
    """Return ASTRA's forward and adjoint of all slices, one after the other, its projector made before."""
    astra = astra_module("The comparison with ASTRA")
    operator = problem.operator
    views, rows, columns = operator.codomain.shape
    n = operator.grid.shape[1]
    angles = np.arange(views) * math.pi / views
    projector = astra.create_projector(
        "linear", astra.create_proj_geom("parallel", 1.0, columns, angles), astra.create_vol_geom(n, n)
    )
    optomo = astra.OpTomo(projector)
    images = [np.ascontiguousarray(image) for image in problem.image.numpy()]
    data = [np.ascontiguousarray(problem.data[:, row].numpy()) for row in range(rows)]
    return lambda: [optomo.FP(image) for image in images], lambda: [optomo.BP(one) for one in data]


def _skimage(problem: Problem, n: int) -> tuple[Work, Work]:
    """Return scikit-image's Radon transform of one slice and its unfiltered back-projection."""
    transform = require("skimage.transform", feature="The comparison with scikit-image", extra="io")
    views = problem.operator.codomain.shape[0]
    angles = np.arange(views) * 180.0 / views
    image = problem.image[0].numpy()
    sinogram = transform.radon(image, angles, circle=False)
    return (
        lambda: transform.radon(image, angles, circle=False),
        lambda: transform.iradon(sinogram, angles, circle=False, filter_name=None, output_size=n),
    )
