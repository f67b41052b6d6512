"""A law of token fields given state by state: conditionals by enumeration, exact.

    p(token_i = k | known) = sum of p(t) over the states t that agree with what is known and have t_i = k
                             / sum of p(t) over those that agree

Referee of everything that unmasks. The Ising model of spins s = 2 token - 1, on pairs of neighbours <i, j>:

    p(s) ~ exp(coupling sum_<ij> s_i s_j + sum_i field_i s_i)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.checks import check_finite, check_number
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.space import Space
from workbench.priors.chances import chosen_by
from workbench.priors.tokens import TokenPrior
from workbench.random import Keys

__all__ = ["EnumeratedTokens"]

#: States that are enumerated at most.
MOST_STATES = 2**20
#: Pairs of a sample and a state that are compared at once, and samples that share the writing out of states.
PAIRS = 2**20
SAMPLES = 16
#: States whose tokens are written out at once.
STATES = 2**14


class EnumeratedTokens(TokenPrior):
    """States (M, *space.shape), each once, with their log-probabilities (M,), up to a constant.

    What is not among the states has the probability 0, and so has a state of log-probability -inf.
    """

    exact = True
    calibrated_score = True

    def __init__(self, space: Space, states: Tensor, log_probabilities: Tensor) -> None:
        super().__init__(space)
        space.check(states, "states")
        if states.ndim != space.ndim + 1:
            expected = f"have shape (M, {', '.join(map(str, space.shape))})"
            raise value_error("states", expected, tuple(states.shape), "One state has that axis too.")
        _require_enumerable(len(states), "states")
        rows = states.detach().reshape(len(states), -1)
        if len(torch.unique(rows, dim=0)) < len(rows):
            raise value_error(
                "states", "be there once each", "some of them twice", "Add their probabilities."
            )
        self._states = rows.to(torch.uint8 if self.classes <= 256 else torch.int64, copy=True)
        self._logs = _normalised(log_probabilities, len(rows))

    @classmethod
    def ising(
        cls, grid: Grid, coupling: float, field: float | Tensor = 0.0, *, periodic: bool = False
    ) -> EnumeratedTokens:
        """Return the Ising model on the voxels of `grid`, 20 of them at most.

        Parameters
        ----------
        grid
            Neighbours are voxels that share a face, along any axis of more than one voxel.
        coupling
            Positive where neighbours tend to be alike; over the temperature.
        field
            Of each voxel, a number or a tensor of the grid's shape; positive where a token tends to be 1.
        periodic
            Whether the ends of an axis are neighbours too; along two voxels they are so twice.
        """
        space = Space.tokens(Grid.require(grid), 2)
        coupling = check_number(coupling, "coupling")
        if space.size > math.log2(MOST_STATES):
            remedy = "For larger ones, draw by Gibbs sampling."
            count = f"{space.size} voxels, 2^{space.size} states"
            raise value_error("grid", f"have at most {int(math.log2(MOST_STATES))} voxels", count, remedy)
        if not isinstance(field, Tensor):
            field = torch.full(space.shape, check_number(field, "field"), dtype=torch.float64)
        if field.is_complex() or tuple(field.shape) != space.shape:
            got = f"{field.dtype}, {tuple(field.shape)}"
            raise value_error("field", f"be a number or real and of shape {space.shape}", got)
        check_finite(field, "field")
        bits = torch.arange(space.size)
        states = (torch.arange(2**space.size)[:, None] >> bits & 1).reshape(-1, *space.shape)
        spins = (2 * states - 1).to(torch.int8)
        pairs = torch.zeros(len(states), dtype=torch.int64)
        for axis in range(1, space.ndim + 1):
            length = spins.shape[axis]
            if length == 1:
                continue
            ends = spins.narrow(axis, 0, length - 1) * spins.narrow(axis, 1, length - 1)
            pairs += ends.flatten(1).sum(dim=1)
            if periodic:
                pairs += (spins.select(axis, 0) * spins.select(axis, length - 1)).flatten(1).sum(dim=1)
        energy = coupling * pairs.double()
        for column, strength in zip(spins.flatten(1).T, field.double().flatten().tolist(), strict=True):
            energy += strength * column.double()
        return cls(space, states, energy)

    @property
    def states(self) -> Tensor:
        """The states (M, *space.shape), int64."""
        return self._states.long().reshape(-1, *self.space.shape)

    @property
    def log_probabilities(self) -> Tensor:
        """Their log-probabilities (M,), in double precision; the probabilities sum to 1."""
        return self._logs

    def draw(self, keys: Keys, *, like: Tensor) -> Tensor:
        """Return states drawn by one uniform of `keys` each, on the device of `like`."""
        chosen = chosen_by(keys, self._logs.exp(), "prior: state")
        rows = self._states[chosen.to(self._states.device)].long()
        return rows.reshape(-1, *self.space.shape).to(like.device)

    def log_density(self, u: Tensor) -> Tensor:
        """Return the log-probability per batch element, -inf of what is not among the states."""
        self.space.check(u, "u")
        rows = u.reshape(-1, self.space.size)
        known = torch.ones_like(rows, dtype=torch.bool)
        logs = [self._agreeing(*part).amax(dim=1) for part in self._parts(rows, known)]
        return torch.cat(logs).reshape(u.shape[: u.ndim - self.space.ndim])

    def index_of(self, u: Tensor) -> Tensor:
        """Return the number of the state that each batch element is; one at least is none: an error."""
        self.space.check(u, "u")
        rows = u.reshape(-1, self.space.size)
        known = torch.ones_like(rows, dtype=torch.bool)
        found = [self._matches(*part).max(dim=1) for part in self._parts(rows, known)]
        if not all(bool(part.values.all()) for part in found):
            raise value_error("u", "hold states of the table", "another one")
        return torch.cat([part.indices for part in found]).reshape(u.shape[: u.ndim - self.space.ndim])

    def _conditional(self, tokens: Tensor, mask: Tensor) -> Tensor:
        rows, known = tokens.reshape(len(tokens), -1), ~mask.reshape(len(mask), -1)
        chances = torch.cat([self._given(*part) for part in self._parts(rows, known)])
        return chances.reshape(*tokens.shape, self.classes)

    def _given(self, rows: Tensor, known: Tensor) -> Tensor:
        """Return the law of every token (batch, size, classes)."""
        logs = self._agreeing(rows, known)
        if bool((logs.amax(dim=1) == -math.inf).any()):
            raise value_error("tokens", "agree with a state of positive probability", "some that do not")
        weights = torch.softmax(logs, dim=1)
        total = torch.zeros(
            len(rows), self.space.size * self.classes, dtype=torch.float64, device=rows.device
        )
        for start in range(0, len(self._states), STATES):
            total += weights[:, start : start + STATES] @ self._written(start, rows.device)
        return total.reshape(len(rows), self.space.size, self.classes)

    def _agreeing(self, rows: Tensor, known: Tensor) -> Tensor:
        """Return the log-probabilities (batch, M) of the states, -inf of those that do not agree."""
        return self._logs.to(rows.device).masked_fill(~self._matches(rows, known), -math.inf)

    def _matches(self, rows: Tensor, known: Tensor) -> Tensor:
        """Return which states agree with the known tokens, (batch, M)."""
        one_hot = torch.nn.functional.one_hot(rows, self.classes).double() * known[..., None]
        wanted = known.sum(dim=1, keepdim=True)
        states = range(0, len(self._states), STATES)
        return torch.cat(
            [one_hot.flatten(1) @ self._written(start, rows.device).T == wanted for start in states], dim=1
        )

    def _written(self, start: int, device: torch.device) -> Tensor:
        """Return some of the states, a column for each class of each token."""
        some = self._states[start : start + STATES].to(device).long()
        return torch.nn.functional.one_hot(some, self.classes).flatten(1).double()

    def _parts(self, rows: Tensor, known: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return rows in parts whose pairs with the states fit into memory."""
        height = max(SAMPLES, PAIRS // len(self._states))
        return [(rows[i : i + height], known[i : i + height]) for i in range(0, len(rows), height)]


def _require_enumerable(count: int, argument: str) -> None:
    if count > MOST_STATES:
        raise value_error(argument, f"be at most {MOST_STATES} to be enumerated", count)


def _normalised(logs: object, count: int) -> Tensor:
    """Return log-probabilities that sum to 1."""
    if not isinstance(logs, Tensor) or not logs.is_floating_point() or tuple(logs.shape) != (count,):
        got = f"{logs.dtype}, {tuple(logs.shape)}" if isinstance(logs, Tensor) else type(logs).__name__
        raise type_error("log_probabilities", f"be a real tensor of shape ({count},)", got)
    values = logs.detach().to(torch.float64, copy=True)
    if bool(values.isnan().any()) or not math.isfinite(float(values.max())):
        got = f"a largest of {float(values.max())}"
        raise value_error("log_probabilities", "be numbers or -inf, one of them finite", got)
    return torch.log_softmax(values, dim=0)
