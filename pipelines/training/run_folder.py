"""What a training run keeps, and reads again to go on: names, the record of losses, the state's identity.

    config.toml           the settings, as used
    run.json              what the run is, on what data, how far it has come
    losses.csv            step, loss, norm of the gradient, rate: one line a step
    state.safetensors     all it goes on from
    prior.safetensors     the averaged weights in half precision, with their card: what is used
    curves.json           denoising curves, by step
    samples/              pictures of draws, by step
    subjects/             generated subjects, made once

This module reads; `pipelines.train` writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.errors import value_error
from pipelines.config.training import TrainConfig
from workbench.training.trainer import Report

__all__ = ["HEADER", "RunFolder", "identity_of", "line_of"]

HEADER = "step,loss,norm,rate"


@dataclass(frozen=True)
class RunFolder:
    """The names within the folder of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / "config.toml"

    @property
    def record(self) -> Path:
        """What the run is."""
        return self.path / "run.json"

    @property
    def losses(self) -> Path:
        """One line a step."""
        return self.path / "losses.csv"

    @property
    def state(self) -> Path:
        """What it goes on from."""
        return self.path / "state.safetensors"

    @property
    def weights(self) -> Path:
        """What is used."""
        return self.path / "prior.safetensors"

    @property
    def lock(self) -> Path:
        """What the one process that writes holds."""
        return self.path / ".lock"

    @property
    def curves(self) -> Path:
        """Denoising curves by step."""
        return self.path / "curves.json"

    @property
    def samples(self) -> Path:
        """The folder of pictures."""
        return self.path / "samples"

    def losses_up_to(self, step: int) -> list[str]:
        """Return the lines of the steps up to `step`; what came after it is computed again."""
        if not self.losses.exists():
            return []
        lines = self.losses.read_text(encoding="utf-8").split("\n")[1:]
        kept = [line for line in lines if line.count(",") == 3 and int(line.split(",")[0]) <= step]
        return kept

    def metrics_up_to(self, step: int) -> tuple[dict[str, float], int]:
        """Return the metrics that were measured last, not after `step`, and the step they are of."""
        if not self.record.exists():
            return {}, 0
        record = json.loads(self.record.read_text(encoding="utf-8"))
        measured = int(record.get("measured", {}).get("step", 0))
        return (dict(record["metrics"]), measured) if 0 < measured <= step else ({}, 0)

    def last_kept(self) -> str:
        """Return what there is to begin anew from."""
        if not self.state.exists():
            return "no state was kept before it"
        return f"the last state that was kept is untouched: begin anew with --out NEW --from {self.weights}"

    def known_curves(self) -> dict[str, Any]:
        """Return the curves that are there."""
        if not self.curves.exists():
            return {}
        curves: dict[str, Any] = json.loads(self.curves.read_text(encoding="utf-8"))
        return curves

    def check_goes_on(self, metadata: dict[str, str], identity: str) -> None:
        """Refuse to go on with other settings or data than the state has."""
        if metadata.get("workbench.training") != identity:
            raise value_error(
                "out",
                "be new, or hold a run of the same settings and data",
                f"{self.path}, whose state has others",
                "Choose another folder; begin from its weights with --from "
                f"{self.weights}. Steps and what is reported may change, all else not.",
            )


def identity_of(config: TrainConfig, data: str, warm: str) -> str:
    """Return the SHA-256 of all that decides the course of a run: settings, data, first weights."""
    facts = config.model_dump(mode="json", exclude={"report", "notes", "licence", "name"})
    facts["optimiser"].pop("steps")
    text = json.dumps([facts, data, warm], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def line_of(report: Report) -> str:
    """Return a step's line; numbers come back as they were."""
    return f"{report.step},{report.loss!r},{report.norm!r},{report.rate!r}"


def text_of(lines: Iterable[str]) -> str:
    """Return the whole record."""
    return "\n".join([HEADER, *lines]) + "\n"
