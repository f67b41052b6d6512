"""One solver on some slices of one problem: figures of each, and pictures of the first."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from operators.errors import NoClosedFormError
from pipelines.quality.metrics import expected_share, held_share, margin_of, nrmse, psnr, ssim
from pipelines.quality.posed import Case, Reference
from pipelines.quality.subjects import Place
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.samples import Samples
from workbench.solvers.base import Solver

__all__ = ["Outcome", "RefusedError", "answered", "evaluated"]

#: Draws from which 90 % intervals are worth looking at.
MANY = 64


class RefusedError(ValueError):
    """A solver cannot work on a problem, in its own words."""


@dataclass(frozen=True)
class Outcome:
    """Figures of one slice, JSON-able, and pictures (y, x) by name."""

    figures: dict[str, Any]
    pictures: dict[str, Tensor] = field(default_factory=dict)


def evaluated(case: Case, place: Place, solver: Solver[Any], posterior: Posterior, draws: int) -> Outcome:
    """Return what the answer to one slice is worth."""
    began = time.perf_counter()
    samples, said = answered(solver, posterior, draws, case.number)
    seconds = time.perf_counter() - began
    rows = samples.tensor()
    mean = _mean(samples, rows)
    shown = _drawn(samples, rows, draws, case.number)
    ledger = samples.record["ledger"]
    figures: dict[str, Any] = {
        "volume": place.volume,
        "axis": str(place.axis),
        "share": round(place.share, 3),
        "mean": _judged(mean, case),
        "draw": _averaged([_judged(row, case) for row in shown]),
        "kind": str(samples.kind),
        "rows": len(rows),
        "evaluations": ledger["network_evaluations"] / len(rows),
        "backward": ledger["backward_passes"] / len(rows),
        "operator_calls": ledger["operator_calls"] / len(rows),
        "seconds": seconds,
        **case.posed.told,
    }
    if not rows.is_complex():
        # A reference is a magnitude: the phase of a complex truth is not in it.
        figures["truth_chi2"] = case.posed.misfit(case.reference.truth)
    if said:
        figures["warnings"] = said
    if samples.log_weights is not None:
        figures["effective_number"] = samples.effective_size
    if samples.kind.has_spread and samples.log_weights is None and len(rows) > 1:
        figures |= _held(case.posed.seen(rows), case.reference)
    pictures = {"mean": mean, "draw": shown[0]}
    if samples.kind.has_spread and len(rows) > 1:
        pictures["sd"] = case.posed.seen(rows).std(dim=0)
    return Outcome(figures, {name: case.posed.seen(image)[0] for name, image in pictures.items()})


def answered(solver: Solver[Any], posterior: Posterior, draws: int, seed: int) -> tuple[Samples, list[str]]:
    """Return the samples of a run, and what it warned of; RefusedError before it began."""
    options: dict[str, Any] = {}
    if not solver.deterministic and solver.particles is None:
        options["draws"] = draws
    refusal = _refusal(solver, posterior)
    if refusal:
        raise RefusedError(refusal)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = sample(posterior, solver, seed=seed, **options)
    # The same warning with other numbers is the same warning.
    told = {re.sub(r"[-+.\de]*\d", "#", str(one.message)): one for one in caught}
    return samples, sorted(f"{one.category.__name__}: {one.message}" for one in told.values())


def _refusal(solver: Solver[Any], posterior: Posterior) -> str:
    """Return why the solver does not take the posterior, in its own words; nothing where it does."""
    try:
        solver.capabilities.check(posterior, type(solver).__name__)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            solver.plan(posterior)
    except (CapabilityError, NoClosedFormError) as error:
        return str(error)
    except (TypeError, ValueError) as error:
        # In the form that all refusals here have: an argument is named first. Others are mistakes.
        if not str(error).startswith("`"):
            raise
        return str(error)
    return ""


def _mean(samples: Samples, rows: Tensor) -> Tensor:
    weights = samples.weights.to(rows.real.dtype).reshape(-1, *[1] * (rows.ndim - 1))
    return (weights * rows).sum(dim=0)


def _drawn(samples: Samples, rows: Tensor, draws: int, seed: int) -> Tensor:
    """Return single draws: the rows themselves, or some chosen by weight."""
    if samples.log_weights is None:
        return rows
    chance = Keys(seed, (0,)).uniforms((draws,), "quality: draws", like=samples.weights)[0]
    chosen = torch.searchsorted(samples.weights.cumsum(dim=0), chance).clamp(max=len(rows) - 1)
    return rows[chosen]


def _judged(image: Tensor, case: Case) -> dict[str, float]:
    reference, seen = case.reference, case.posed.seen(image)
    return {
        "psnr": psnr(seen, reference.truth, reference.data_range),
        "ssim": ssim(seen, reference.truth, reference.data_range),
        "nrmse": nrmse(seen, reference.truth),
        "chi2": case.posed.misfit(image),
    }


def _averaged(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _held(seen: Tensor, reference: Reference) -> dict[str, Any]:
    count = len(seen)
    judge: Callable[[int], float] = lambda margin: held_share(  # noqa: E731
        seen, reference.truth, reference.inside, margin
    )
    found = {"held": judge(1), "held_expected": expected_share(count)}
    if count >= MANY:
        margin = margin_of(count, 0.9)
        found |= {"held90": judge(margin), "held90_expected": expected_share(count, margin)}
    return found
