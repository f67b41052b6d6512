"""The demo's two reconstructions of one posterior, by the engine, and what the engine recorded of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from operators.grid import Grid
from pipelines.config.demo import DemoConfig
from workbench import Measurement, Posterior, Samples, Volume, sample
from workbench.callbacks import ProgressLine
from workbench.priors.flat import Flat
from workbench.solvers.base import Solver
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.classical.total_variation import TotalVariation
from workbench.units import Units

__all__ = ["LABELS", "Reconstruction", "reconstruct"]

#: Names of files, and what people read.
LABELS = {"cg": "CG", "tv": "TV"}


@dataclass(frozen=True)
class Reconstruction:
    """The answer of a solver."""

    samples: Samples

    @property
    def volume(self) -> Volume:
        """The one image of a point estimate."""
        image = self.samples[0]
        if not isinstance(image, Volume):  # a space without a grid would give a tensor
            raise TypeError(f"an image on {self.samples.space!r} has no place in the world.")
        return image

    def relative_error(self, truth: Volume) -> float:
        """Return |x - truth| / |truth|."""
        return float((self.volume.data - truth.data).norm() / truth.data.norm())

    def facts(self) -> dict[str, Any]:
        """Return the record of the run, with its unit."""
        return {"unit": self.samples.unit, **self.samples.record}

    def summary(self) -> str:
        """Return what it took, in a line."""
        record = self.samples.record
        calls, seconds = record["ledger"]["operator_calls"], record["ledger"]["seconds"]
        return f"{record['steps_taken']} iterations, {calls} operator calls, {seconds:.1f} s"


def reconstruct(
    measurement: Measurement, grid: Grid, unit: str, config: DemoConfig, say: Callable[[str], None]
) -> dict[str, Reconstruction]:
    """Return both reconstructions by name.

    Both minimise -log p(y | x), which is weighted least squares: one stops early, the other adds the total
    variation.
    """
    likelihood = measurement.likelihood(grid)
    posterior = Posterior(Flat(likelihood.domain, Units(unit=unit)), likelihood)
    penalty = config.tv
    solvers: dict[str, Solver[Any]] = {
        "cg": ConjugateGradient(config.cg.iterations),
        "tv": TotalVariation(
            penalty.weight, lower=0.0, iterations=penalty.iterations, tolerance=penalty.tolerance
        ),
    }
    return {name: _solved(name, posterior, solver, config.seed, say) for name, solver in solvers.items()}


def _solved(
    name: str, posterior: Posterior, solver: Solver[Any], seed: int, say: Callable[[str], None]
) -> Reconstruction:
    indent = f"    {LABELS[name]:<4} "
    progress = ProgressLine(lambda line: say(indent + line))
    answer = Reconstruction(sample(posterior, solver, seed=seed, callbacks=[progress]))
    say(indent + answer.summary())
    return answer
