"""The card of a network: all that is needed to use its weights, and where they come from.

    {"format": 1, "architecture": ..., "output": ..., "calling": ..., "training": ..., "provenance": ...,
     "tensors": {"sha256": ..., "dtype": ...}}

It is text in JSON and comes back as it was, to the last bit. Each part names its kind, one of a closed list;
keys that this version does not know are refused: what they mean to say would be lost.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from operators.checks import check_count, check_number, replaced
from operators.errors import type_error, value_error
from workbench.paths.affine import AffinePath
from workbench.paths.facts import facts_of_path, path_of_facts
from workbench.paths.noise_law import GaussianLaw, StudentT
from workbench.priors.network.architecture import Architecture, frozen_json
from workbench.priors.network.calling import Calling, Diffusers, Labelled, Monai, Plain
from workbench.priors.network.output import EDMOutput, Output, PathOutput
from workbench.priors.network.training import Training
from workbench.units import Units

__all__ = ["FORMAT", "Card", "Provenance"]

#: Raised when a card can say what earlier versions would misread.
FORMAT = 1

Kinds = Mapping[str, type[Any]]
OUTPUTS: Kinds = {kind.__name__: kind for kind in (PathOutput, EDMOutput)}
CALLINGS: Kinds = {kind.__name__: kind for kind in (Plain, Labelled, Monai, Diffusers)}
LAWS: Kinds = {kind.__name__: kind for kind in (GaussianLaw, StudentT)}
#: JSON has no infinity.
INFINITE = "inf"


@dataclass(frozen=True)
class Provenance:
    """Where weights come from; empty where nobody said.

    Parameters
    ----------
    data
        What the network was trained on.
    licence
        Of the weights, as an SPDX expression where there is one.
    attribution
        Whom to name: authors, paper, address.
    steps
        Steps of its training.
    metrics
        Measured qualities by name.
    notes
        Anything else, JSON-able: settings of the training, versions, what a foreign layout said.
    """

    data: str = ""
    licence: str = ""
    attribution: str = ""
    steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    notes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("data", "licence", "attribution"):
            if not isinstance(getattr(self, name), str):
                raise type_error(name, "be text, empty where nobody said", repr(getattr(self, name)))
        if self.steps is not None:
            object.__setattr__(self, "steps", check_count(self.steps, "steps", minimum=0))
        for name in ("metrics", "notes"):
            object.__setattr__(self, name, frozen_json(getattr(self, name), name))
        numbers = {name: check_number(value, f"metrics[{name!r}]") for name, value in self.metrics.items()}
        object.__setattr__(self, "metrics", numbers)

    def with_(self, **changes: object) -> Provenance:
        """Return the same with some entries changed."""
        return replaced(self, changes)


@dataclass(frozen=True)
class Card:
    """What a file of weights says of them.

    Parameters
    ----------
    architecture
        The network: its name and the arguments of its constructor.
    output
        What it gives, on which path, and what it is told of the noise.
    calling
        How it is called.
    training
        What it was trained on: size, voxels, units, scale, noise.
    provenance
        Data, licence, attribution, metrics.
    sha256, dtype
        Of the tensors as they are stored; written by `write_network`, empty before.
    """

    architecture: Architecture
    output: Output
    calling: Calling = field(default_factory=Plain)
    training: Training = field(default_factory=Training)
    provenance: Provenance = field(default_factory=Provenance)
    sha256: str = ""
    dtype: str = ""

    def __post_init__(self) -> None:
        for name, kind in (
            ("architecture", Architecture),
            ("output", Output),
            ("calling", Calling),
            ("training", Training),
            ("provenance", Provenance),
        ):
            if not isinstance(getattr(self, name), kind):
                found = type(getattr(self, name)).__name__
                raise type_error(name, f"be of type {kind.__name__}", found)
        if not isinstance(self.sha256, str) or not re.fullmatch("([0-9a-f]{64})?", self.sha256):
            raise value_error("sha256", "be 64 hexadecimal digits, or empty", repr(self.sha256))
        if not isinstance(self.dtype, str):
            raise type_error("dtype", "be text", repr(self.dtype))

    def with_(self, **changes: object) -> Card:
        """Return the same card with some entries changed."""
        return replaced(self, changes)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "format": FORMAT,
            "architecture": {"name": self.architecture.name, "settings": dict(self.architecture.settings)},
            "output": _tagged(self.output, OUTPUTS, "output"),
            "calling": _tagged(self.calling, CALLINGS, "calling"),
            "training": _plain(self.training),
            "provenance": _plain(self.provenance),
            "tensors": {"sha256": self.sha256, "dtype": self.dtype},
        }

    def text(self) -> str:
        """Return it as text."""
        return json.dumps(self.facts(), allow_nan=False)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Card:
        """Return the card of which these are the facts."""
        if not isinstance(facts, Mapping):
            raise type_error("card", "be an object of JSON", type(facts).__name__)
        number = facts.get("format")
        if type(number) is not int or number < 1:
            raise value_error("card", "begin with its format, a number from 1", f"format {number!r:.80}")
        if number > FORMAT:
            remedy = "A later version of the workbench wrote it: install that."
            raise value_error("card", f"be of a format up to {FORMAT}", f"format {number}", remedy)
        names = ("architecture", "output", "calling", "training", "provenance", "tensors")
        parts = {name: _part(facts, name) for name in _all_known(facts, ("format", *names), "card")[1:]}
        tensors = parts["tensors"]
        _all_known(tensors, ("sha256", "dtype"), "card.tensors")
        return cls(
            architecture=_read(Architecture, parts["architecture"], "card.architecture"),
            output=_untagged(OUTPUTS, parts["output"], "card.output"),
            calling=_untagged(CALLINGS, parts["calling"], "card.calling"),
            training=_read(Training, parts["training"], "card.training"),
            provenance=_read(Provenance, parts["provenance"], "card.provenance"),
            sha256=tensors["sha256"],
            dtype=tensors["dtype"],
        )

    @classmethod
    def from_text(cls, text: str) -> Card:
        """Return the card that `text` is."""
        try:
            facts = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise value_error("card", "be JSON", f"{text!r:.100}", str(error)) from error
        return cls.from_facts(facts)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of a key that comes twice nobody knows which is meant."""
    facts = dict(pairs)
    if len(facts) < len(pairs):
        raise ValueError("a key is there twice")
    return facts


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = facts[name]
    if not isinstance(part, Mapping):
        raise value_error(f"card.{name}", "be an object of JSON", f"{part!r:.80}")
    return part


def _all_known(facts: Mapping[str, Any], names: tuple[str, ...], place: str) -> tuple[str, ...]:
    """Return `names` if they are the keys of `facts`, all of them and no other."""
    _known(facts, names, place)
    for name in names:
        if name not in facts:
            raise value_error(place, f"hold {', '.join(names)}", f"none of the name {name!r}")
    return names


def _known(keys: Iterable[str], names: Iterable[str], place: str) -> None:
    """Refuse a key that is none of `names`."""
    listed = tuple(names)
    for key in keys:
        if key not in listed:
            near = difflib.get_close_matches(key, listed, n=1)
            remedy = f"Did you mean {near[0]}?" if near else "Did a later version of the workbench write it?"
            raise value_error(place, f"have keys among {', '.join(listed)}", repr(key), remedy)


# -- values as JSON and back -------------------------------------------------------------------------


def _tagged(value: Any, kinds: Kinds, argument: str) -> dict[str, Any]:
    """Return a value with the name of its kind."""
    name = type(value).__name__
    if kinds.get(name) is not type(value):
        expected = f"be one of {', '.join(kinds)} to be written"
        raise type_error(argument, expected, name, "A class of one's own has no name that others could read.")
    return {"name": name, **_plain(value)}


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a value as JSON has them."""
    return {entry.name: _json(getattr(value, entry.name)) for entry in fields(value)}


def _json(value: Any) -> Any:
    if isinstance(value, AffinePath):
        return facts_of_path(value)
    if isinstance(value, Units):
        return _plain(value)
    if dataclasses.is_dataclass(value):
        return _tagged(value, LAWS, type(value).__name__)
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return INFINITE if value > 0 else f"-{INFINITE}"
    return str(value) if isinstance(value, str) else value


def _untagged(kinds: Kinds, facts: Mapping[str, Any], place: str) -> Any:
    """Return the value of which these are the fields and the name of the kind."""
    name = facts.get("name")
    if not isinstance(name, str) or name not in kinds:
        near = difflib.get_close_matches(str(name), kinds, n=1)
        remedy = f"Did you mean {near[0]}?" if near else "Did a later version of the workbench write it?"
        raise value_error(place, f"have a name among {', '.join(kinds)}", f"{name!r:.80}", remedy)
    return _read(kinds[name], {key: value for key, value in facts.items() if key != "name"}, place)


def _read(kind: type[Any], facts: Mapping[str, Any], place: str) -> Any:
    """Return the value of a kind from its fields; one that is missing has its default."""
    _known(facts, (entry.name for entry in fields(kind)), place)
    try:
        return kind(**{name: _value(kind, name, value, place) for name, value in facts.items()})
    except (TypeError, ValueError) as error:
        raise value_error(
            place, f"hold the facts of a {kind.__name__}", f"{facts!r:.200}", str(error)
        ) from error


def _value(kind: type[Any], name: str, value: Any, place: str) -> Any:
    """Return the field `name` of a kind from JSON."""
    if kind in (Architecture, Provenance):
        return value  # JSON themselves
    if isinstance(value, Mapping):
        if name == "path":
            return path_of_facts(value)
        return _read(Units, value, f"{place}.{name}") if name == "units" else _untagged(LAWS, value, place)
    if isinstance(value, list):
        ends = {INFINITE: math.inf, f"-{INFINITE}": -math.inf}
        return tuple(
            ends.get(item, item) if isinstance(item, str) and kind is Training else item for item in value
        )
    return value
