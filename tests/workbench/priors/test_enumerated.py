"""Enumerated token laws, and the Ising model against sums over spins in plain Python."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from operators.grid import Grid
from operators.space import Space
from tests.token_prior_contract import TokenPriorContract
from workbench.priors import enumerated
from workbench.priors.enumerated import EnumeratedTokens
from workbench.random import Keys

PLANE = Grid.plane((2, 3), 1.0)
BOX = Grid.from_spacing((2, 2, 2), 1.0)


class TestIsing(TokenPriorContract):
    covers = (EnumeratedTokens,)

    def make(self, dtype: torch.dtype) -> EnumeratedTokens:
        return EnumeratedTokens.ising(PLANE, 0.4, 0.2)

    def other(self) -> EnumeratedTokens:
        return EnumeratedTokens.ising(PLANE, 0.4, 0.1)


class TestOfThreeClasses(TokenPriorContract):
    covers = (EnumeratedTokens,)
    space = Space((4,), classes=3)

    def make(self, dtype: torch.dtype) -> EnumeratedTokens:
        states = torch.tensor(list(itertools.product(range(3), repeat=4)))
        return EnumeratedTokens(self.space, states, 3 * torch.sin(torch.arange(81, dtype=torch.float64)))

    def other(self) -> EnumeratedTokens:
        prior = self.make(torch.float64)
        return EnumeratedTokens(self.space, prior.states, prior.log_probabilities.flip(0))


def spins_energy(
    spins: dict[tuple[int, ...], int], coupling: float, field: float, periodic: tuple[int, ...]
) -> float:
    total = field * sum(spins.values())
    for place, spin in spins.items():
        for axis in range(3):
            step = list(place)
            step[axis] += 1
            if periodic and periodic[axis] > 1:
                step[axis] %= periodic[axis]
            total += coupling * spin * spins.get(tuple(step), 0)
    return total


@pytest.mark.parametrize("grid", [PLANE, BOX], ids=["plane", "box"])
@pytest.mark.parametrize("periodic", [False, True])
def test_ising_is_the_sum_over_neighbours(grid: Grid, periodic: bool) -> None:
    prior = EnumeratedTokens.ising(grid, 0.3, -0.1, periodic=periodic)
    shape = (1, 2, 3) if grid is PLANE else (2, 2, 2)
    states = prior.states
    assert states.shape == (2 ** math.prod(shape), *prior.space.shape)
    energies = []
    for state in states:
        tokens = state.reshape(shape)
        spins = {p: int(2 * tokens[p] - 1) for p in itertools.product(*map(range, shape))}
        energies.append(spins_energy(spins, 0.3, -0.1, shape if periodic else ()))
    expected = torch.log_softmax(torch.tensor(energies, dtype=torch.float64), 0)
    assert (prior.log_probabilities - expected).abs().max() < 1e-12
    assert (prior.log_density(states) - expected).abs().max() < 1e-12
    assert torch.equal(prior.index_of(states), torch.arange(len(states)))


def test_a_field_of_its_own_for_each_voxel() -> None:
    field = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(PLANE.array_shape)
    prior = EnumeratedTokens.ising(PLANE, 0.0, field)
    chances = prior.conditional(prior.states[0], torch.ones(prior.space.shape, dtype=torch.bool))
    assert (chances[..., 1] - torch.sigmoid(2 * field)).abs().max() < 1e-12


def test_states_of_no_table_have_no_chance() -> None:
    space = Space((3,), classes=2)
    states = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 0]])
    logs = torch.tensor([0.5, 0.25, 0.0], dtype=torch.float64).log()
    prior = EnumeratedTokens(space, states, logs)
    assert prior.log_density(states).exp().tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert float(prior.log_density(torch.tensor([1, 0, 1]))) == -math.inf
    chances = prior.conditional(torch.tensor([0, 1, 1]), torch.tensor([True, False, True]))
    assert chances[[0, 2], 1].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="`tokens` must agree with a state of positive probability"):
        prior.conditional(torch.tensor([0, 1, 0]), torch.tensor([False, False, True]))
    with pytest.raises(ValueError, match="`u` must hold states of the table"):
        prior.index_of(torch.tensor([1, 0, 1]))
    draws = prior.draw(Keys(1, tuple(range(300))), like=torch.empty(0))
    assert not (prior.index_of(draws) == 2).any()


def test_small_chances_are_told_apart() -> None:
    space = Space((2,), classes=2)
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    logs = torch.tensor([0.0, 0.0, -2000.0, -2000.0 + math.log(3)], dtype=torch.float64)
    prior = EnumeratedTokens(space, states, logs)
    known = torch.tensor([False, True])
    assert prior.conditional(torch.tensor([1, 0]), known)[1].tolist() == pytest.approx([0.25, 0.75])


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = TestIsing().make(torch.float64)
    tokens, mask = TestIsing().some(prior, 40)
    whole = prior.conditional(tokens, mask), prior.log_density(tokens)
    for name, value in (("PAIRS", 64), ("SAMPLES", 1), ("STATES", 7)):
        monkeypatch.setattr(enumerated, name, value)
        assert (prior.conditional(tokens, mask) - whole[0]).abs().max() < 1e-13
        assert torch.equal(prior.log_density(tokens), whole[1])


SPACE = Space((3,), classes=2)
STATES = torch.tensor([[0, 0, 0], [1, 1, 1]])
LOGS = torch.zeros(2)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: EnumeratedTokens(Space((3,)), STATES, LOGS), TypeError, "`space` must be one of tokens"),
        (lambda: EnumeratedTokens(SPACE, STATES[0], LOGS), ValueError, r"`states` must have shape \(M, 3\)"),
        (
            lambda: EnumeratedTokens(SPACE, STATES + 1, LOGS),
            ValueError,
            "`states` must hold tokens 0 <= token < 2",
        ),
        (
            lambda: EnumeratedTokens(SPACE, STATES[[0, 0]], LOGS),
            ValueError,
            "`states` must be there once each",
        ),
        (
            lambda: EnumeratedTokens(SPACE, STATES, LOGS[:1]),
            TypeError,
            "`log_probabilities` must be a real tensor",
        ),
        (lambda: EnumeratedTokens(SPACE, STATES, [0, 0]), TypeError, "`log_probabilities` .*, got list"),
        (
            lambda: EnumeratedTokens(SPACE, STATES, LOGS - math.inf),
            ValueError,
            "`log_probabilities` must be numbers or -inf, one of them finite, got a largest of -inf",
        ),
        (
            lambda: EnumeratedTokens.ising(Grid.plane((3, 7), 1.0), 0.1),
            ValueError,
            r"`grid` must have at most 20 voxels, got 21 voxels, 2\^21 states. For larger ones",
        ),
        (lambda: EnumeratedTokens.ising(PLANE, math.nan), ValueError, "`coupling` must be a finite number"),
        (
            lambda: EnumeratedTokens.ising(PLANE, 0.1, torch.zeros(2)),
            ValueError,
            "`field` must be a number or",
        ),
        (lambda: EnumeratedTokens.ising((2, 3), 0.1), TypeError, "Grid"),
    ],
)
def test_mistakes(attempt: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()  # type: ignore[operator]


def test_too_many_states_are_refused_before_they_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumerated, "MOST_STATES", 1)
    with pytest.raises(ValueError, match="`states` must be at most 1 to be enumerated, got 2"):
        EnumeratedTokens(SPACE, STATES, LOGS)
