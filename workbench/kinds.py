"""What an answer is: carried by every result, and shown wherever the result is shown."""

from __future__ import annotations

from enum import StrEnum

from operators.checks import check_member

__all__ = ["Kind"]


class Kind(StrEnum):
    """The kind of an answer; its text is what people read."""

    #: Draws from the posterior itself, in the limit of the solver's own accuracy parameter.
    EXACT_SAMPLE = "exact sample"
    #: Draws from something near the posterior; the solver says what the difference is.
    APPROXIMATE_SAMPLE = "approximate sample"
    #: Particles that stand for the posterior together, with their weights.
    WEIGHTED_ENSEMBLE = "weighted ensemble"
    #: One image with no spread: a mode, a mean, a regularised fit.
    POINT_ESTIMATE = "point estimate"
    #: The output of a network trained on pairs, tied to the scanner it was trained for.
    SUPERVISED_ESTIMATE = "supervised estimate"
    #: An image changed on purpose: no patient looks like this.
    SYNTHETIC_EDIT = "synthetic edit"
    #: The best of several by some score: more extreme than a draw.
    BEST_OF = "best-of"

    @classmethod
    def require(cls, value: object) -> Kind:
        """Return the kind that `value` is, or is the text of."""
        return check_member(cls, value, "kind")

    @property
    def has_spread(self) -> bool:
        """Whether the spread of several answers says something about the uncertainty."""
        return self in (Kind.EXACT_SAMPLE, Kind.APPROXIMATE_SAMPLE, Kind.WEIGHTED_ENSEMBLE)
