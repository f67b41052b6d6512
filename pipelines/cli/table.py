"""The table of verbs: what `workbench` can do, and where each verb lives. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines import DISTRIBUTION, installed_version

PROGRAM = "workbench"
DISCLAIMER = "research use, not a medical device"
DEBUG_VARIABLE = "WORKBENCH_DEBUG"


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb lives: `attribute` of `module` is a function, or a typer.Typer with subcommands."""

    module: str
    attribute: str
    help: str
    example: str


# A new verb is one more line here; its module may import typer, and should import torch inside the function.
VERBS = {
    "demo": Verb("pipelines.demo", "demo", "Run a small reconstruction end to end.", "demo"),
    "config": Verb(
        "pipelines.cli.verbs", "config", "Show, describe or check a configuration.", "config show"
    ),
    "train": Verb(
        "pipelines.train",
        "train",
        "Train a prior from manifests.",
        "train ct-slice --data data --out runs/ct",
    ),
    "phantom": Verb(
        "pipelines.phantom",
        "phantom",
        "Draw synthetic subjects with labels and known lesions.",
        "phantom torso --seed 3 --lesions 2 --out phantoms",
    ),
    "verify": Verb(
        "pipelines.verify.verbs",
        "verify",
        "Hold results against answers known in closed form.",
        "verify --fast --out report",
    ),
    "doctor": Verb("pipelines.cli.verbs", "doctor", "Report what works on this machine.", "doctor --json"),
}


def version_line() -> str:
    """Return the line `workbench --version` prints."""
    return f"{DISTRIBUTION} {installed_version() or '(not installed, running from a checkout)'}: {DISCLAIMER}"
