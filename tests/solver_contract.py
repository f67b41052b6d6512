"""The battery every solver's test subclasses.

    class TestDPS(SolverContract):
        covers = (DPS,)

        def make(self):
            return DPS(...)

`make` returns a cheap instance; `posterior` a problem that it can solve: of a solver that draws from the
prior alone, a prior. One of tokens brings its own problems. That its answers are right
is each solver's own test, against a closed form; what holds of all is here: answers follow from
seed and draw alone, resuming changes nothing, nothing is hidden in the solver, units are nobody's
business but the posterior's.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from operators.linear import LinearOperator
from operators.space import Space
from tests.problems import UNITS, grid_of, posterior_of, prior_on
from workbench.callbacks import Callback, StepEvent
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.engine.guards import DivergedError
from workbench.kinds import Kind
from workbench.likelihood import Likelihood
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.samples import Samples
from workbench.snapshot import pack, unpack
from workbench.solvers.base import Solver
from workbench.store import TensorStore
from workbench.units import Units


class StopAfter(Callback):
    """Interrupts after `steps` steps of this session."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, event: StepEvent) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Count(Callback):
    """Counts steps."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, event: StepEvent) -> None:
        self.steps += 1


class Poisoned(LinearOperator):
    """An operator that gives NaN once `left[0]` calls are used up."""

    def __init__(self, op: LinearOperator) -> None:
        super().__init__(op.domain, op.codomain)
        self.op, self.left = op, [10**9]

    def _spoilt(self, y: Tensor) -> Tensor:
        self.left[0] -= 1
        return y * torch.nan if self.left[0] < 0 else y

    def _apply(self, x: Tensor) -> Tensor:
        return self._spoilt(self.op._apply(x))

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self._spoilt(self.op._apply_adjoint(y))


class PoisonedDenoiser(Denoiser):
    """A prior that gives NaN once `left` evaluations are used up."""

    exact = calibrated_score = True

    def __init__(self, prior: Denoiser, left: int) -> None:
        super().__init__(prior.space, prior.units)
        self.prior, self.left, self.law = prior, [left], prior.law
        self.knows_pure_noise = prior.knows_pure_noise

    def _spoilt(self, x: Tensor) -> Tensor:
        self.left[0] -= 1
        return x * torch.nan if self.left[0] < 0 else x

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self._spoilt(self.prior._denoise(z, sigma))

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        return self._spoilt(self.prior._denoise_scaled(u, inv_sigma))


def close(a: Tensor, b: Tensor, bound: float) -> bool:
    return bool((a - b).abs().max() <= bound * b.abs().max())


class SolverContract:
    """What holds for every solver."""

    covers: tuple[type[Solver[Any]], ...] = ()
    #: Draws of a run in these tests.
    draws = 5
    #: What answers in single precision come in.
    single_dtypes = (torch.float32, torch.complex64)
    #: Whether its answers have a unit: tokens have none.
    has_units = True

    def make(self) -> Solver[Any]:
        """Return a cheap instance."""
        raise NotImplementedError

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        """Return a problem on a small grid, with data in the real precision `dtype`."""
        if self.prior_only:
            return Posterior(prior_on(Space.field(grid_of(8)), units))
        return posterior_of("ct", dtype=dtype, units=units)

    def posterior_complex(self) -> Posterior:
        """Return a problem on complex images, of the same prior family."""
        if self.prior_only:
            return Posterior(prior_on(Space.field(grid_of(8), is_complex=True)))
        return posterior_of("coils")

    def poisoned(self, after: int) -> Posterior:
        """Return the problem with what it calls, A or the prior, giving NaN `after` calls from now."""
        posterior = self.posterior()
        likelihood = posterior.physical_likelihood
        if likelihood is None:
            return Posterior(PoisonedDenoiser(posterior.prior, after))  # type: ignore[arg-type]
        spoilt = Poisoned(likelihood.operator)  # type: ignore[arg-type]
        bad = Posterior(posterior.prior, Likelihood(spoilt, likelihood.noise, likelihood.data))
        spoilt.left[0] = after
        return bad

    @property
    def prior_only(self) -> bool:
        return bool(self.make().capabilities.prior_only)

    def run(
        self, posterior: Posterior | None = None, precision: torch.dtype = torch.float64, **options: Any
    ) -> Samples:
        solver = self.make()
        if not solver.deterministic:
            options.setdefault("draws", self.draws)
        problem = self.posterior(precision) if posterior is None else posterior
        if problem.likelihood is None:
            options.setdefault("dtype", precision)
        return sample(problem, solver, **options)

    # -- what it is ------------------------------------------------------------------------------

    def test_it_is_a_frozen_value(self) -> None:
        solver = self.make()
        assert (type(solver),) == self.covers
        assert dataclasses.is_dataclass(solver)
        assert solver == self.make()
        assert hash(solver) == hash(self.make())
        for field in dataclasses.fields(solver):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(solver, field.name, None)

    def test_answers_carry_their_kind_and_record(self) -> None:
        samples = self.run(seed=3)
        solver = self.make()
        assert isinstance(samples.kind, Kind)
        assert samples.kind == solver.kind
        record = samples.record
        assert record["kind"] == str(solver.kind)
        assert record["seed"] == 3
        assert record["prior"] == self.posterior().prior.declared.facts()
        assert record["plan"]["sha256"] == solver.plan(self.posterior()).hash
        assert record["ledger"]["seconds"] > 0
        assert samples.grid == self.posterior().grid
        assert samples.unit == self.posterior().units.unit

    def test_the_plan_is_the_same_each_time(self) -> None:
        assert self.make().plan(self.posterior()) == self.make().plan(self.posterior())

    # -- randomness, batches ---------------------------------------------------------------------

    def test_draws_follow_from_seed_and_number(self) -> None:
        one = self.run(seed=1, microbatch=2).tensor()
        assert torch.equal(one, self.run(seed=1, microbatch=2).tensor())
        if self.make().deterministic:
            return
        assert not torch.equal(one, self.run(seed=2, microbatch=2).tensor())
        assert not torch.equal(one[0], one[1])
        if self.make().particles is None:
            # A short batch is filled up: fewer draws are the first of more, bit by bit.
            more = self.run(seed=1, microbatch=2, draws=self.draws + 2).tensor()
            assert torch.equal(more[: self.draws], one)

    def test_batches_of_any_size_agree(self) -> None:
        if self.make().deterministic or self.make().particles is not None:
            pytest.skip("it has no microbatches")
        for dtype in (torch.float64, torch.float32):
            posterior = self.posterior(dtype)
            whole = self.run(posterior, dtype, microbatch=self.draws).tensor()
            for size in (1, 3):
                other = self.run(posterior, dtype, microbatch=size).tensor()
                assert close(other, whole, 1e-5), (dtype, size)

    def test_single_precision_is_close_to_double(self) -> None:
        single, double = (self.run(precision=t).tensor() for t in (torch.float32, torch.float64))
        assert single.dtype in self.single_dtypes
        assert close(single.to(double.dtype), double, 1e-3)

    # -- state -----------------------------------------------------------------------------------

    def test_a_step_changes_neither_state_nor_solver(self) -> None:
        solver, posterior = self.make(), self.posterior()
        keys = Keys(0, tuple(range(solver.particles or (1 if solver.deterministic else 3))))
        with torch.no_grad():
            state = solver.init(posterior, keys, posterior.like())
            before, tensors = pack(state)
            copies = {name: tensor.clone() for name, tensor in tensors.items()}
            row = solver.plan(posterior).row(0)
            first, _ = solver.step(posterior, state, row, keys.at(1))
            again, _ = solver.step(posterior, state, row, keys.at(1))
        after, now = pack(state)
        assert after == before
        assert all(torch.equal(now[name], copies[name]) or now[name].isnan().any() for name in copies)
        left, right = pack(first)[1], pack(again)[1]
        assert all(torch.equal(left[name], right[name]) for name in left)

    def test_a_state_survives_a_checkpoint(self) -> None:
        solver, posterior = self.make(), self.posterior()
        with torch.no_grad():
            state = solver.init(posterior, Keys(0, tuple(range(solver.particles or 1))), posterior.like())
        skeleton, tensors = pack(state)
        back = unpack(skeleton, tensors, solver.state_type)
        assert type(back) is type(state) is solver.state_type
        assert pack(back)[0] == skeleton

    def test_resuming_at_any_step_changes_nothing(self) -> None:
        counter = Count()
        whole = self.run(microbatch=2, callbacks=[counter]).tensor()
        places = random.Random(4).sample(range(1, counter.steps + 1), min(4, counter.steps))
        solver = self.make()
        for at in places:
            store = TensorStore()
            with pytest.raises(KeyboardInterrupt) as caught:
                self.run(microbatch=2, store=store, callbacks=[StopAfter(at)])
            assert any("The same call goes on" in note for note in caught.value.__notes__)
            resumed = self.run(microbatch=2, store=store)
            assert torch.equal(resumed.tensor(), whole), f"{solver} resumed after step {at}"
            assert resumed.record["ledger"]["operator_calls"] >= 0

    # -- units, costs, failures --------------------------------------------------------------------

    def test_units_times_a_thousand_give_the_same_draws(self) -> None:
        other = Units(1000 * UNITS.scale, 1000 * UNITS.offset, "1/m")
        if not self.has_units:
            with pytest.raises(ValueError, match="`units` must be the identity"):
                self.posterior(units=other)
            return
        plain = self.run().tensor()
        scaled = self.run(self.posterior(units=other))
        assert scaled.unit == "1/m"
        assert close(scaled.tensor(), 1000 * plain, 1e-9)

    def test_the_declared_cost_is_not_more_than_the_real_one(self) -> None:
        solver, posterior = self.make(), self.posterior()
        cost = solver.cost(posterior, solver.plan(posterior))
        ledger = self.run().record["ledger"]
        number = solver.particles or (1 if solver.deterministic else self.draws)
        for name in ("network_evaluations", "backward_passes", "operator_calls"):
            assert getattr(cost, name) * number <= ledger[name], name
        if self.prior_only:
            assert ledger["network_evaluations"] > 0
        else:
            assert ledger["operator_calls"] + ledger["solves"] > 0

    def test_a_measurement_is_refused_by_what_would_not_look_at_it(self) -> None:
        if not self.prior_only:
            pytest.skip("it looks at measurements")
        with pytest.raises(CapabilityError, match="`posterior` must have no likelihood, which would be"):
            self.run(posterior_of("ct"))

    def test_a_nan_stops_the_run_and_says_where(self) -> None:
        for after in (0, 1, 7):
            bad = self.poisoned(after)
            try:
                self.run(bad)
            except DivergedError as error:
                assert "met a NaN or an infinity" in str(error)
                assert "step" in str(error)
                assert self.make().remedy in str(error)
            except FloatingPointError as error:  # before the run: the operator's norm
                pytest.fail(f"not reported by the driver: {error}")

    def test_complex_fields(self) -> None:
        if "complex field" not in self.make().capabilities.spaces:
            with pytest.raises(CapabilityError, match="`prior.space` must be"):
                self.run(self.posterior_complex())
            return
        samples = self.run(self.posterior_complex())
        assert samples.tensor().is_complex()
