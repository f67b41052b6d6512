"""What weights come from: their data, whom to name, and every stage of training that led to them.

Weights that a run begins from bring their own: who was trained on before is trained on still, and may not be
tested on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from operators.errors import value_error
from pipelines.config.manifest import Manifest
from pipelines.training.data import counted
from workbench.priors.network import Card
from workbench.training.volumes import SliceVolume

__all__ = ["Origin", "attribution_of", "check_warm"]

#: Between those whom to name, and between subjects.
BETWEEN = "; "


@dataclass(frozen=True)
class Origin:
    """Where the weights of a run come from.

    Parameters
    ----------
    data, attribution
        What was trained on, and whom to name.
    subjects
        Who was trained on, of those who were measured.
    first
        The SHA-256 of the weights that it began from, or nothing.
    before
        Steps up to these.
    stages
        What is known of each stage up to these.
    """

    data: str
    attribution: str
    subjects: tuple[str, ...] = ()
    first: str = ""
    before: int = 0
    stages: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @classmethod
    def of(
        cls, manifests: Sequence[Manifest], measured: Sequence[SliceVolume], made: Sequence[SliceVolume]
    ) -> Origin:
        """Return that of a run over these volumes, from the beginning."""
        subjects = tuple(sorted({volume.subject for volume in measured}))
        text = ": ".join([counted(measured, made), *([BETWEEN.join(subjects)] if subjects else [])])
        return cls(text, attribution_of(manifests) if measured else "", subjects)

    def after(self, card: Card) -> Origin:
        """Return that of a run that begins from the weights of a card."""
        told, notes = card.provenance, card.provenance.notes
        again = told.data in ("", self.data)
        stage = {
            "steps": (told.steps or 0) - sum(int(one["steps"]) for one in notes.get("stages", ())),
            "config_sha256": notes.get("config_sha256", ""),
            "weights_sha256": card.sha256,
        }
        return Origin(
            self.data if again else f"{self.data}. Before: {told.data}",
            BETWEEN.join(dict.fromkeys([*_parts(self.attribution), *_parts(told.attribution)])),
            tuple(sorted({*self.subjects, *trained_on(card)})),
            card.sha256,
            told.steps or 0,
            (*notes.get("stages", ()), stage),
        )

    def notes(self) -> dict[str, Any]:
        """Return what a card says of it beside text."""
        facts: dict[str, Any] = {"subjects": list(self.subjects)}
        return facts | ({"stages": [dict(stage) for stage in self.stages]} if self.stages else {})


def attribution_of(manifests: Sequence[Manifest]) -> str:
    """Return whom to name for what was trained on, each once."""
    entries = [entry for manifest in manifests for entry in manifest.volumes if entry.split == "train"]
    return BETWEEN.join(dict.fromkeys(f"{e.attribution} ({e.licence})" for e in entries if e.attribution))


def trained_on(card: Card) -> tuple[str, ...]:
    """Return who was trained on, as a card says; those of the first format list them after a colon."""
    noted = card.provenance.notes.get("subjects")
    if noted is not None:
        return tuple(str(subject) for subject in noted)
    return tuple(_parts(card.provenance.data.partition(": ")[2]))


def check_warm(card: Card, own: Card, manifests: Sequence[Manifest]) -> None:
    """Refuse weights of other images than a run's, or of somebody whom it holds out."""
    for what, theirs, mine in (
        ("output", card.output, own.output),
        ("calling", card.calling, own.calling),
        *(
            (name, getattr(card.training, name), getattr(own.training, name))
            for name in ("units", "is_complex", "data_range", "data_sd")
        ),
    ):
        if theirs != mine:
            remedy = "Begin from weights of the same contrast and objective, or from none."
            raise value_error("from", f"be weights with the {what} {mine!r}", repr(theirs), remedy)
    known = {_folded(subject) for subject in trained_on(card)}
    held = {
        e.subject for m in manifests for e in m.volumes if e.split != "train" and _folded(e.subject) in known
    }
    if held:
        remedy = "Their test would be no test: begin from other weights, or let them train."
        listed = f"weights that were trained on {', '.join(sorted(held))}"
        raise value_error("from", "know nobody who is looked at or tested on", listed, remedy)


def _folded(subject: str) -> str:
    return " ".join(subject.split()).casefold()


def _parts(text: str) -> list[str]:
    return [part for part in text.split(BETWEEN) if part]
