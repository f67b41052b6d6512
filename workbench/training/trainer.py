"""The loop of training: one step after another, each a function of the seed and of its number.

    for report in trainer.run(source, steps): ...

A step's batch, levels and noise are keyed by (seed, step, row): a run that is stopped anywhere and goes on
from its state has the losses of one that was not, bit by bit on one machine with one number of threads. Rows
are summed over parts of a batch (accumulation) and over ranks (torchrun), so that neither changes what is
computed but for rounding. Nothing is written here: whoever runs it keeps `state()` where it likes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as ranks
from torch import Tensor, nn

from operators.checks import check_count, check_number, replaced
from operators.errors import NonFiniteError, type_error, value_error
from workbench.interrupts import interrupts_wait
from workbench.random import Keys
from workbench.training.averaging import Average
from workbench.training.batch import Batch
from workbench.training.objective import Objective, Strata
from workbench.training.rates import LearningRate

__all__ = ["Report", "Source", "Trainer", "TrainerSettings"]

#: What AdamW keeps of each weight.
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Source(Protocol):
    """Where batches come from: rows of a step, the same whenever they are asked for."""

    def batch(self, step: int, rows: range, whole: int) -> Batch:
        """Return the rows `rows` of the batch of a step, which has `whole` in all."""
        ...


@dataclass(frozen=True)
class TrainerSettings:
    """How the weights move.

    Parameters
    ----------
    rows
        Images of a step, over all parts and ranks.
    parts
        In so many parts a rank computes its rows: less memory, the same step.
    seed
        Of levels, noise and, through the source, of images.
    rate
        The learning rate's course.
    betas, decay
        Of AdamW.
    clip
        Largest norm of a gradient; a longer one is shortened.
    autocast
        torch.bfloat16 computes convolutions and products in half precision; weights stay in single.
    average
        Width of the average of the weights, as a share of the run.
    """

    rows: int = 8
    parts: int = 1
    seed: int = 0
    rate: LearningRate = field(default_factory=LearningRate)
    betas: tuple[float, float] = (0.9, 0.99)
    decay: float = 0.0
    clip: float = 1.0
    autocast: torch.dtype | None = None
    average: float = 0.08

    def __post_init__(self) -> None:
        for name in ("rows", "parts"):
            object.__setattr__(self, name, check_count(getattr(self, name), name))
        if self.rows % self.parts:
            raise value_error("parts", f"divide rows = {self.rows}", self.parts)
        object.__setattr__(self, "seed", check_count(self.seed, "seed", minimum=0))
        if not isinstance(self.rate, LearningRate):
            raise type_error("rate", "be a LearningRate", type(self.rate).__name__)
        object.__setattr__(self, "decay", check_number(self.decay, "decay", non_negative=True))
        object.__setattr__(self, "clip", check_number(self.clip, "clip", positive=True))
        if self.autocast not in (None, torch.bfloat16):
            remedy = "float16 would need its losses scaled; bfloat16 has the range of single precision."
            raise value_error("autocast", "be None or torch.bfloat16", repr(self.autocast), remedy)

    def with_(self, **changes: object) -> TrainerSettings:
        """Return the same settings with some of them changed."""
        return replaced(self, changes)


@dataclass(frozen=True)
class Report:
    """What a step did: its number from 1, the mean loss, the gradient's norm and the rate."""

    step: int
    loss: float
    norm: float
    rate: float


class Trainer:
    """A module, its optimiser and the average of its weights, after `step` steps.

    Parameters
    ----------
    module
        The network; its weights are moved in place.
    objective
        What it is trained for.
    settings
        How.
    device
        Where batches are sent; the module is there already.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        settings: TrainerSettings | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if not isinstance(module, nn.Module):
            raise type_error("module", "be a torch.nn.Module", type(module).__name__)
        self.module = module.train()
        self.objective = Objective.require(objective)
        self.settings = TrainerSettings() if settings is None else settings
        if not isinstance(self.settings, TrainerSettings):
            raise type_error("settings", "be TrainerSettings", type(settings).__name__)
        self.device = torch.device(device)
        self.rank, self.ranks = _ranks()
        if self.settings.rows % (self.ranks * self.settings.parts):
            raise value_error(
                "rows",
                f"be a multiple of {self.ranks} ranks times {self.settings.parts} parts",
                self.settings.rows,
            )
        self.step = 0
        self.average = Average(module, self.settings.average)
        self._optimiser = torch.optim.AdamW(
            module.parameters(),
            lr=self.settings.rate.peak,
            betas=self.settings.betas,
            weight_decay=self.settings.decay,
            fused=True,
        )

    def run(self, source: Source, steps: int) -> Iterator[Report]:
        """Take steps up to number `steps`, and report each."""
        while self.step < steps:
            yield self.advance(source)

    def advance(self, source: Source) -> Report:
        """Take one step; raises, before any weight has moved, where a loss or gradient is not finite."""
        step, whole = self.step + 1, self.settings.rows
        keys = Keys(self.settings.seed, draws=(0,), step=step)
        self._optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64)
        for rows in self._parts():
            batch = source.batch(step, rows, whole).to(self.device)
            with self._precision():
                losses = self.objective.losses(self.module, batch, Strata(keys, whole))
            self._require_finite(losses, batch, step)
            (losses.sum() / whole).backward()  # type: ignore[no-untyped-call]  # torch's
            total += losses.detach().double().sum().cpu() / whole
        self._over_ranks(total)
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip, foreach=True))
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"the gradient of step {step} is not finite, with a loss of {float(total):g}; no weight has "
                "moved. Begin anew from the averaged weights with a lower rate, or without its images."
            )
        rate = self.settings.rate.at(step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        # All of a step or nothing of it: a state kept after Ctrl-C is that of a number of steps.
        with interrupts_wait():
            self._optimiser.step()
            self.average.update(self.module, step)
            self.step = step
        return Report(step, float(total), norm, rate)

    def state(self) -> dict[str, Tensor]:
        """Return all that a run goes on from, as tensors by name."""
        state = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        state |= {f"average.{name}": value for name, value in self.average.state().items()}
        for name, weight in self.module.named_parameters():
            state |= {
                f"{kind}.{name}": value for kind, value in self._optimiser.state.get(weight, {}).items()
            }
        return {"step": torch.tensor(self.step)} | {name: value.detach() for name, value in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state()` returned."""
        wanted = {name: value.shape for name, value in self.state().items()}
        moments = {f"{kind}.{n}" for kind in MOMENTS for n, _ in self.module.named_parameters()}
        _require_names(state, {*wanted}, moments)
        for name, shape in wanted.items():
            if state[name].shape != shape:
                found = f"{tuple(state[name].shape)} for {name}"
                remedy = "It is the state of another network."
                raise value_error("state", f"have the shape {tuple(shape)} there", found, remedy)
        self.module.load_state_dict(_under(state, "module."))
        self.average.module.load_state_dict(_under(state, "average."))
        self._optimiser.state.clear()
        for name, weight in self.module.named_parameters():
            if f"step.{name}" in state:
                # Moments lie in memory, and counts on the device, as their weight does: the fused update
                # would pair others, or none.
                self._optimiser.state[weight] = {
                    kind: torch.empty_like(
                        weight, memory_format=torch.preserve_format, requires_grad=False
                    ).copy_(state[f"{kind}.{name}"])
                    for kind in MOMENTS
                    if kind != "step"
                } | {"step": state[f"step.{name}"].to(weight.device, torch.float32, copy=True)}
        self.step = int(state["step"])

    def warm_start(self, weights: Mapping[str, Tensor]) -> None:
        """Begin anew from weights alone, such as the average that an earlier run shipped."""
        for module in (self.module, self.average.module):
            module.load_state_dict({name: value.float() for name, value in weights.items()})
        self._optimiser.state.clear()
        self.step = 0

    def _parts(self) -> Iterator[range]:
        """Return the rows of each part of this rank."""
        mine = self.settings.rows // self.ranks
        size = mine // self.settings.parts
        for first in range(self.rank * mine, (self.rank + 1) * mine, size):
            yield range(first, first + size)

    def _precision(self) -> AbstractContextManager[object]:
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.settings.autocast)

    def _require_finite(self, losses: Tensor, batch: Batch, step: int) -> None:
        """Raise, on every rank, where a loss of any is NaN or infinite, and say of which image."""
        bad = (~torch.isfinite(losses.detach())).nonzero()[:, 0].tolist()
        named = [batch.names[i] if batch.names else f"row {batch.first + i}" for i in bad[:3]]
        found = f"in {len(bad)} of {len(losses)} rows ({', '.join(named)})" if bad else ""
        if self.ranks > 1:
            # A rank that raised alone would leave the others waiting for its gradients.
            told: list[str] = [""] * self.ranks
            ranks.all_gather_object(told, found)
            found = "; ".join(f"{text} of rank {rank}" for rank, text in enumerate(told) if text)
        if found:
            raise NonFiniteError(
                f"the loss of step {step} is not finite {found}; no weight has moved. Begin anew from the "
                "averaged weights with a lower rate, or without these images."
            )

    def _over_ranks(self, total: Tensor) -> None:
        """Sum gradients and loss over the ranks."""
        if self.ranks == 1:
            return
        gradients = [w.grad for w in self.module.parameters() if w.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        ranks.all_reduce(flat)
        for gradient, summed in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(summed.view_as(gradient))
        both = total.to(self.device)
        ranks.all_reduce(both)
        total.copy_(both)


def _ranks() -> tuple[int, int]:
    """Return the number of this process and of all, where torchrun started more than one."""
    if not (ranks.is_available() and ranks.is_initialized()):
        return 0, 1
    return ranks.get_rank(), ranks.get_world_size()


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _require_names(state: Mapping[str, Tensor], wanted: set[str], moments: set[str]) -> None:
    """Refuse a state with other names than this trainer's, with or without the optimiser's moments."""
    plain = wanted - moments
    missing = sorted(plain - {*state})
    strange = sorted({*state} - plain - moments)
    begun = {*state} & moments
    if missing or strange or begun not in (set(), moments):
        found = missing or strange or sorted(moments - begun)
        what = "lacking" if missing or not strange else "beside what it wants"
        remedy = "It is the state of another network, or half of one."
        raise value_error("state", "be that of this trainer", f"{what}: {', '.join(found[:3])}", remedy)
