"""The name somebody probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

CUTOFF = 0.6


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `name`, or None when nothing comes close.

    Dotted names are compared whole and by their last part alone, so a right key in the wrong section
    (`solve.views`) or without one (`views`) still finds `scan.views`.
    """
    best, best_score = None, CUTOFF
    for candidate in known:
        whole = _likeness(name, candidate)
        leaf = 0.9 * _likeness(name.rpartition(".")[2], candidate.rpartition(".")[2])
        score = max(whole, leaf)
        if score > best_score:
            best, best_score = candidate, score
    return best


def _likeness(left: str, right: str) -> float:
    return SequenceMatcher(None, left.lower(), right.lower()).ratio()
