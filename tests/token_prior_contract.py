"""The battery that every test of a prior over tokens subclasses.

    class TestEnumerated(TokenPriorContract):
        covers = (EnumeratedTokens,)

        def make(self, dtype): ...

`make` returns a prior on a small space, in float64 whatever dtype it is asked for. One that learned its
conditionals says `is_exact = False`: they need not be those of one law then.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.declaring_contract import DeclaringContract
from workbench.ledger import Ledger
from workbench.priors.tokens import TokenPrior
from workbench.random import Keys

DRAWS = 5000


class TokenPriorContract(DeclaringContract):
    """What holds for every prior over tokens."""

    covers: tuple[type[TokenPrior], ...] = ()
    #: Whether its conditionals are those of one law, whose density it knows.
    is_exact = True
    #: Whether it can be drawn from directly.
    can_be_drawn = True

    def make(self, dtype: torch.dtype) -> TokenPrior:
        raise NotImplementedError

    @pytest.fixture
    def prior(self) -> TokenPrior:
        return self.make(torch.float64)

    def some(self, prior: TokenPrior, *batch: int) -> tuple[Tensor, Tensor]:
        """Return tokens that are possible, and a mask that hides about half of them."""
        generator = torch.Generator().manual_seed(3)
        shape = (*batch, *prior.space.shape)
        if self.can_be_drawn:
            count = torch.Size(batch).numel()
            tokens = prior.draw(Keys(5, range(count)), like=torch.empty(0)).reshape(shape)  # type: ignore[arg-type]
        else:
            tokens = torch.randint(prior.classes, shape, generator=generator)
        return tokens, torch.rand(shape, generator=generator) < 0.5

    def test_covers_what_it_makes(self, prior: TokenPrior) -> None:
        assert self.covers == (type(prior),)
        assert prior.exact == self.is_exact
        assert prior.space.kind == "token field"
        assert prior.classes == prior.space.classes
        assert prior.declared.noise_range is None
        assert len(repr(prior)) < 300

    def test_conditionals_are_probabilities(self, prior: TokenPrior) -> None:
        for batch in ((), (1,), (2, 3)):
            tokens, mask = self.some(prior, *batch)
            chances = prior.conditional(tokens, mask)
            assert chances.shape == (*tokens.shape, prior.classes)
            assert chances.dtype == torch.float64
            assert bool((chances >= 0).all())
            assert (chances.sum(-1) - 1).abs().max() < 1e-12
            assert torch.equal(
                chances[~mask], torch.nn.functional.one_hot(tokens, prior.classes)[~mask].double()
            )

    def test_rows_do_not_depend_on_one_another(self, prior: TokenPrior) -> None:
        tokens, mask = self.some(prior, 2, 3)
        whole = prior.conditional(tokens, mask)
        for i, j in itertools.product(range(2), range(3)):
            assert (prior.conditional(tokens[i, j], mask[i, j]) - whole[i, j]).abs().max() < 1e-12

    def test_what_is_masked_does_not_matter(self, prior: TokenPrior) -> None:
        tokens, mask = self.some(prior, 4)
        before = tokens.clone(), mask.clone()
        other = torch.where(mask, prior.classes - 1 - tokens, tokens)
        assert not torch.equal(other, tokens)
        assert torch.equal(prior.conditional(other, mask), prior.conditional(tokens, mask))
        assert torch.equal(tokens, before[0])
        assert torch.equal(mask, before[1])

    def test_one_unknown_token_is_bayes_rule(self, prior: TokenPrior) -> None:
        if not self.is_exact:
            pytest.skip("no density is known")
        tokens, _ = self.some(prior, 3)
        for place in itertools.product(*map(range, prior.space.shape)):
            mask = torch.zeros_like(tokens, dtype=torch.bool)
            mask[(slice(None), *place)] = True
            variants = torch.stack([tokens.clone() for _ in range(prior.classes)])
            for k in range(prior.classes):
                variants[(k, slice(None), *place)] = k
            expected = torch.softmax(prior.log_density(variants), dim=0).T
            got = prior.conditional(tokens, mask)[(slice(None), *place)]
            assert (got - expected).abs().max() < 1e-12

    def test_any_order_of_unmasking_gives_the_same_law(self, prior: TokenPrior) -> None:
        if not self.is_exact:
            pytest.skip("learned conditionals need not agree")
        tokens, _ = self.some(prior, 3)
        size = prior.space.size
        for order in (torch.arange(size), torch.arange(size).flip(0), torch.randperm(size)):
            total = torch.zeros(3, dtype=torch.float64)
            mask = torch.ones_like(tokens, dtype=torch.bool)
            for place in order.tolist():
                chances = prior.conditional(tokens, mask).reshape(3, size, prior.classes)[:, place]
                total += chances.gather(1, tokens.reshape(3, size)[:, place, None])[:, 0].log()
                mask.view(3, size)[:, place] = False
            assert (total - prior.log_density(tokens)).abs().max() < 1e-10

    def test_draws_have_the_marginals_and_keys(self, prior: TokenPrior) -> None:
        like = torch.empty(0)
        if not self.can_be_drawn:
            with pytest.raises(TypeError, match="`prior` must be .*drawn from"):
                prior.draw(Keys(7, (0,)), like=like)
            return
        draws = prior.draw(Keys(7, tuple(range(DRAWS))), like=like)
        assert draws.dtype == torch.int64
        assert draws.shape == (DRAWS, *prior.space.shape)
        chances = prior.conditional(draws[0], torch.ones(prior.space.shape, dtype=torch.bool))
        counts = torch.nn.functional.one_hot(draws, prior.classes).double().mean(0)
        # Five standard deviations of a binomial.
        assert ((counts - chances).abs() <= 5 * (chances * (1 - chances) / DRAWS).sqrt() + 1e-12).all()
        assert torch.equal(prior.draw(Keys(7, (5, 3)), like=like), draws[[5, 3]])
        assert not torch.equal(prior.draw(Keys(8, tuple(range(50))), like=like), draws[:50])

    def test_evaluations_are_counted(self, prior: TokenPrior) -> None:
        ledger = Ledger()
        prior.counted(ledger).conditional(*self.some(prior, 2, 3))
        assert ledger.network_evaluations == 6

    def test_bad_arguments_are_named(self, prior: TokenPrior) -> None:
        tokens, mask = self.some(prior, 2)
        for attempt, error, message in (
            (
                lambda: prior.conditional(tokens.double(), mask),
                TypeError,
                "`tokens` must be a torch.Tensor of",
            ),
            (
                lambda: prior.conditional(tokens + prior.classes, mask),
                ValueError,
                "`tokens` must hold tokens",
            ),
            (lambda: prior.conditional(tokens[..., :1], mask), ValueError, "`tokens` must have shape"),
            (lambda: prior.conditional(tokens, mask[0]), ValueError, "`mask` must be a bool tensor of shape"),
            (lambda: prior.conditional(tokens, mask.long()), ValueError, "`mask` must be a bool tensor"),
            (lambda: prior.conditional(tokens, None), ValueError, "`mask` must be .*got NoneType"),
        ):
            with pytest.raises(error, match=message):
                attempt()
