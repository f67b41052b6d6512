"""Guidance solvers: what a step costs beside a bare loop of its network and operator, and beside deepinv's.

The bare loop is written out here: the network with its scaling, its backward pass where the method has one,
A and A^H (of a prox, of conjugate gradients the same ones), and nothing else: no noise is drawn, no state is
moved, nothing is guarded or counted. It runs inside the solver's own run, one bare step after each of the
solver's, so that both see the machine in the same state; ratios are those of neighbours. What it takes the
driver to tell a callback is counted as the solver's.

deepinv is given the same network, code and weights, the same mask, data, batch and number of steps. Both draw
four samples from the start to the end; what a run does before its first step is part of the figure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.batch import column, dots
from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mask import Mask
from operators.space import Space
from pipelines.bench.serving import peak_of
from pipelines.bench.session import PEERS, Session, attempted
from pipelines.bench.table import Quality, Row, Timing, Wanted
from pipelines.bench.timing import Compared, LocalTask, Paired, compared, median_interval, threads
from pipelines.bench.worker import RemoteTask, Worker
from workbench.callbacks import Callback, StepEvent
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.posterior import Posterior
from workbench.priors.network import EDMOutput, NetworkPrior, Training
from workbench.priors.unet import UNet, UNetSettings
from workbench.random import Keys
from workbench.samples import Samples
from workbench.solvers.descent import Descent
from workbench.solvers.guidance.ddnm import DDNM
from workbench.solvers.guidance.ddrm import DDRM
from workbench.solvers.guidance.dds import DDS
from workbench.solvers.guidance.diffpir import DiffPIR
from workbench.solvers.guidance.dps import DPS

__all__ = ["beside_deepinv_rows", "overhead_rows"]

#: 1.1 million weights, 0.38e9 multiplications for an image of 128 x 128.
NETWORK = UNetSettings(widths=(32, 48, 64, 96), blocks=(1, 1, 2, 2))
#: The spread of the images, draws at once, the noise of the data as a share of theirs.
SPREAD, DRAWS, NOISE = 0.5, 4, 0.05
#: How many times the bare loop a step may take.
ALLOWED = 1.1
#: Steps measured for each pair of the plan, and those before them that are not counted.
STEPS_PER_PAIR, SKIPPED = 8, 2
#: Pairs of whole runs beside deepinv, with all threads and with one.
FEWER = (5, 3)
#: What DPS pulls by, ours and theirs: the default of 1000 steps would leave the data aside in 50.
SCALE, WEIGHT = 6.0, 200.0

Bare = Callable[["Problem", Tensor, float], object]


@dataclass(frozen=True, eq=False)
class Problem:
    """Images of n x n, seen by `operator` with some noise; `name` is that of the operator."""

    name: str
    network: UNet
    operator: LinearOperator
    image: Tensor
    data: Tensor
    sigma: float

    @classmethod
    def of(cls, name: str, network: UNet, operator: LinearOperator) -> Problem:
        """Return the data of an image of values between 0 and 1."""
        keys = Keys(7, (0,))
        like = torch.empty(0, dtype=torch.float32)
        image = (0.5 + 0.25 * keys.normals(operator.domain.shape, "image", like=like)[0]).clamp(0, 1)
        clean = operator(image)
        sigma = NOISE * float(clean.square().mean().sqrt())
        data = clean + sigma * keys.normals(operator.codomain.shape, "noise", like=like)[0]
        return cls(name, network, operator, image, data, sigma)

    @cached_property
    def posterior(self) -> Posterior:
        """What the solvers are given."""
        training = Training(data_sd=SPREAD)
        prior = NetworkPrior(self.network, self.operator.domain, EDMOutput(SPREAD), training=training)
        return Posterior(prior, Likelihood(self.operator, Gaussian(self.sigma), self.data))

    def run(self, solver: Descent, *callbacks: Callback) -> Samples:
        """Return draws."""
        return sample(self.posterior, solver, draws=DRAWS, microbatch=DRAWS, seed=7, callbacks=callbacks)

    @cached_property
    def squares(self) -> Tensor:
        """The diagonal of A^H A of a mask."""
        return self.operator.gram.apply(torch.ones(self.operator.domain.shape))

    @cached_property
    def _white(self) -> Tensor:
        like = torch.empty(0, dtype=torch.float32)
        return Keys(7, tuple(range(DRAWS))).normals(self.operator.domain.shape, "state", like=like)

    def state(self, sigma: float) -> Tensor:
        """Return something of the size of z at a level."""
        return math.hypot(sigma, SPREAD) * self._white

    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        """Return c_skip z + c_out F by hand."""
        square = sigma**2 + SPREAD**2
        label = torch.full((z.shape[0],), math.log(sigma) / 4)
        value = self.network(z / math.sqrt(square), label)
        found: Tensor = SPREAD**2 / square * z + sigma * SPREAD / math.sqrt(square) * value
        return found

    def misfit(self, x: Tensor) -> float:
        """Return |y - A x| / |y|, root mean square over the draws: 1 for an empty x."""
        rest = self.data - self.operator(x)
        return float(rest.square().mean().sqrt() / self.data.square().mean().sqrt())


def masked(n: int, network: UNet) -> Problem:
    """Return half of the voxels."""
    grid = Grid.plane((n, n), 1.0)
    like = torch.empty(0, dtype=torch.float32)
    mask = Keys(7, (0,)).uniforms(grid.shape, "mask", like=like)[0] < 0.5
    return Problem.of("random mask", network, Mask(Space.field(grid), mask, restrict=False))


def projected(n: int, network: UNet, views: int = 30) -> Problem:
    """Return few views of a slice."""
    grid = Grid.plane((n, n), 1.0)
    return Problem.of(f"CT, {views} views", network, ParallelBeamGeometry.around(grid, views).operator(grid))


def random_network() -> UNet:
    """Return the network with weights everywhere: a new one gives zero, and so do its gradients."""
    network = UNet(NETWORK, seed=7).eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if weight.ndim > 1 and not bool(weight.any()):
            white = Keys(7, (0,)).normals(weight.shape, name, like=weight)[0]
            weight.copy_(0.1 * white / math.sqrt(weight[0].numel()))
    return network


# -- the bare loops --------------------------------------------------------------------------------


def bare_dps(problem: Problem, z: Tensor, sigma: float) -> object:
    """Network forward and backward, A and A^H."""
    operator = problem.operator
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        clean = problem.denoise(point, sigma)
    force = operator.apply_adjoint(problem.data - operator.apply(clean.detach()))
    return torch.autograd.grad(clean, point, force)


def bare_products(problem: Problem, z: Tensor, sigma: float) -> object:
    """Network forward, A and A^H."""
    clean, operator = problem.denoise(z, sigma), problem.operator
    return operator.apply_adjoint(problem.data - operator.apply(clean))


def bare_prox(problem: Problem, z: Tensor, sigma: float) -> object:
    """Network forward and the prox of a mask in closed form."""
    clean, operator = problem.denoise(z, sigma), problem.operator
    rest = operator.apply_adjoint(problem.data - operator.apply(clean))
    return clean + rest / (problem.squares + (problem.sigma / sigma) ** 2)


def bare_gradients(problem: Problem, z: Tensor, sigma: float) -> object:
    """Network forward, A and A^H, five conjugate gradients."""
    clean, operator = problem.denoise(z, sigma), problem.operator
    gamma = (sigma * SPREAD / math.hypot(sigma, SPREAD) / problem.sigma) ** 2
    rest = gamma * operator.apply_adjoint(problem.data - operator.apply(clean))
    x, p, energy = torch.zeros_like(rest), rest, dots(rest, rest)
    for _ in range(DDS().iterations):
        image = p + gamma * operator.gram.apply(p)
        step = column(energy / dots(p, image), p)
        x, rest = x + step * p, rest - step * image
        fresh = dots(rest, rest)
        p, energy = rest + column(fresh / energy, p) * p, fresh
    return clean + x


#: Solver, the operators that it is measured on, its bare loop and what that does.
MEASURED: tuple[tuple[type[Descent], tuple[str, ...], Bare, str], ...] = (
    (DPS, ("mask", "ct"), bare_dps, "network, its backward pass, A, A^H"),
    (DiffPIR, ("mask",), bare_prox, "network, the prox"),
    (DDNM, ("mask",), bare_products, "network, A, A^H"),
    (DDRM, ("mask",), bare_products, "network, A, A^H"),
    (DDS, ("ct",), bare_gradients, "network, A, A^H, 5 conjugate gradients"),
)


@dataclass
class Alternating(Callback):
    """Runs a bare step after each of the run's, and times both: wall and processor seconds, ours first."""

    problem: Problem
    bare: Bare
    wall: list[tuple[float, float]] = field(default_factory=list)
    processor: list[tuple[float, float]] = field(default_factory=list)
    _left: tuple[float, float] = (0.0, 0.0)

    def step(self, event: StepEvent) -> None:
        """Note the time since the last bare step, and that of the next."""
        came = _clocks()
        # The last step moves nothing and draws no noise: it is cheaper than a step.
        if event.step == event.steps:
            return
        sigma = event.row.number("sigma")
        z = self.problem.state(sigma)
        begun = _clocks()
        self.bare(self.problem, z, sigma)
        ended = _clocks()
        if event.step > SKIPPED:
            ours, theirs = (
                [b - a for a, b in zip(*ends, strict=True)] for ends in ((self._left, came), (begun, ended))
            )
            self.wall.append((ours[0], theirs[0]))
            self.processor.append((ours[1], theirs[1]))
        self._left = _clocks()


def _clocks() -> tuple[float, float]:
    """Return wall and processor seconds, those of all threads."""
    return time.perf_counter(), time.process_time()


def overhead_rows(session: Session, case: str, n: int) -> Iterator[Row]:
    """Yield each solver's step beside its bare loop."""
    network = random_network()
    problems = {"mask": masked(n, network), "ct": projected(n, network)}
    for kind, names, bare, what in MEASURED:
        for name in names:
            problem = problems[name]
            work = f"{kind.__name__}, {problem.name}, {DRAWS} x {n}^2, per step"
            session.say(f"{case}: {work}")
            rows = _overhead(session, case, work, problem, kind, bare, what)
            yield from attempted(rows, case, work, "bare loop")


def _overhead(
    session: Session, case: str, work: str, problem: Problem, kind: type[Descent], bare: Bare, what: str
) -> Iterator[Row]:
    plan = session.plan
    together, note = _alternated(problem, kind, bare, plan.pairs)
    alone = None
    if plan.alone and torch.get_num_threads() > 1:
        with threads(1, LocalTask(_nothing)):
            alone, other = _alternated(problem, kind, bare, plan.alone)
        note += f"; one thread: {other}"
    z = problem.state(1.0)
    with torch.no_grad():
        memory = peak_of(lambda: problem.run(kind(steps=3))), peak_of(lambda: bare(problem, z, 1.0))
    found = Compared(together, alone, memory, (1, 1))
    yield Timing(case, work, f"bare loop: {what}", found, (Wanted(1 / ALLOWED),), note=note)


def _alternated(problem: Problem, kind: type[Descent], bare: Bare, pairs: int) -> tuple[Paired, str]:
    """Return the figures of one run, and what to say of the processor's time and of the interval."""
    count = STEPS_PER_PAIR * pairs
    watch = Alternating(problem, bare)
    problem.run(kind(steps=count + SKIPPED + 1), watch)
    ours, theirs = (sorted(times) for times in zip(*watch.wall, strict=True))
    ratio, low, high = median_interval([b / a for a, b in watch.wall])
    middle, least, most = median_interval([a / b for a, b in watch.processor])
    note = f"takes {1 / ratio:.3f} ({1 / high:.3f}-{1 / low:.3f}) of it, "
    note += f"of processor time {middle:.3f} ({least:.3f}-{most:.3f}), 95 % intervals"
    return Paired(ours[count // 2], theirs[count // 2], ratio, low, high, count), note


def _nothing() -> None:
    """Do nothing."""


# -- beside deepinv --------------------------------------------------------------------------------


def counterparts(steps: int) -> Mapping[str, Descent]:
    """Return the operations of peers/deepinv_guidance.py, and which solver of ours does the same."""
    return {"DPS": DPS(steps=steps, scale=SCALE), "DiffPIR": DiffPIR(steps=steps)}


def beside_deepinv_rows(session: Session, case: str, n: int, steps: int) -> Iterator[Row]:
    """Yield whole runs of DPS and DiffPIR beside deepinv's, per step."""
    problem = masked(n, random_network())
    work = f"{problem.name}, {DRAWS} x {n}^2, {steps} steps, per step"
    peer = PEERS["deepinv-guidance"]
    yield from attempted(_beside(session, case, work, problem, steps), case, work, peer.name)


def _beside(session: Session, case: str, work: str, problem: Problem, steps: int) -> Iterator[Row]:
    peer = PEERS["deepinv-guidance"]
    settings = {
        "network": NETWORK.to_dict(),
        "spread": SPREAD,
        "sigma": problem.sigma,
        "steps": steps,
        "weight": WEIGHT,
    }
    with session.worker(peer, settings, _arrays(problem)) as worker:
        for name, solver in counterparts(steps).items():
            yield from _compared(session, case, f"{name}, {work}", problem, solver, worker, name)


def _compared(
    session: Session, case: str, work: str, problem: Problem, solver: Descent, worker: Worker, name: str
) -> Iterator[Row]:
    session.say(f"{case}: {work}")
    plan, peer = session.plan, PEERS["deepinv-guidance"].name
    plan = replace(plan, pairs=min(plan.pairs, FEWER[0]), alone=min(plan.alone, FEWER[1]))
    task = LocalTask(lambda: problem.run(solver), solver.steps)
    found = compared(task, RemoteTask(worker, name, solver.steps), plan)
    once = LocalTask(lambda: problem.run(replace(solver, steps=1))).seconds(plan.least)
    yield Timing(case, work, peer, found, note=f"whole runs; a run of one step of ours: {once * 1e3:.0f} ms")
    samples = problem.run(solver)
    counted = samples.record["ledger"]["network_evaluations"] / (DRAWS * solver.steps)
    evaluations = {"ours": counted, peer: float(worker.result(f"{name}: evaluations")) / solver.steps}
    answers = {"ours": samples.tensor(), peer: torch.from_numpy(worker.result(name))}
    for who in answers:
        yield Quality(case, work, who, "network evaluations per step", evaluations[who])
        # 1 is that of an empty image: no comparison of pictures, only that both take the data in.
        yield Quality(case, work, who, "misfit |y - A x| / |y|", problem.misfit(answers[who]), 1.0)


def _arrays(problem: Problem) -> dict[str, NDArray[Any]]:
    """Return what the peer is given: mask, data (draws, 1, n, n), and the weights by name."""
    weights = {f"weights {name}": value.numpy() for name, value in problem.network.state_dict().items()}
    mask = problem.operator.apply(torch.ones(1, *problem.operator.domain.shape))
    data = problem.data.expand(DRAWS, *problem.data.shape).contiguous()
    return {"mask": mask[0].numpy(), "data": data.numpy(), **weights}
