"""What looks on sees the whole run, once, whatever interrupts it, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.problems import posterior_of
from tests.solver_contract import StopAfter
from tests.workbench.toys import Walk, prior_only, walk
from workbench.callbacks import Callback, LiveEstimate, ProgressLine, StepEvent, Trajectory
from workbench.driver import sample
from workbench.posterior import Posterior
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.exact_gaussian import ExactGaussian
from workbench.store import TensorStore
from workbench.units import Units


def steps_of(trajectory: Trajectory) -> list[dict[str, Any]]:
    """Return the rows without what a step that was done twice has cost."""
    return [{k: v for k, v in row.items() if k != "network_evaluations"} for row in trajectory.rows]


def test_a_callback_cannot_change_the_run() -> None:
    class Meddle(Callback):
        def step(self, event: StepEvent) -> None:
            assert event.estimate is not None
            event.estimate.zero_()
            event.ledger.count("network_evaluations", 1000)

    plain = Posterior(prior_only().prior, units=Units())
    before = sample(plain, Walk(), draws=3)
    after = sample(plain, Walk(), draws=3, callbacks=[Meddle()])
    assert torch.equal(before.tensor(), after.tensor())
    assert after.record["ledger"]["network_evaluations"] == 30


def test_progress_says_where_it_is_and_what_is_left() -> None:
    lines: list[str] = []
    walk(callbacks=[ProgressLine(lines.append, every=0)])
    assert len(lines) == 30
    assert lines[0].startswith("approximate samples 0-1: step 1/10, size ")
    assert lines[0].endswith(" s left")
    assert lines[-1].startswith("approximate sample 4: step 10/10")
    one: list[str] = []
    walk(draws=1, callbacks=[ProgressLine(one.append, every=0)])
    assert one[0].startswith("approximate sample: step 1/10")  # no number where there is but one draw
    few: list[str] = []
    walk(callbacks=[ProgressLine(few.append, every=3600)])
    assert len(few) == 1  # the end


def test_live_estimates_are_physical() -> None:
    shown: list[tuple[int, torch.Tensor]] = []
    samples = walk(callbacks=[LiveEstimate(lambda step, x: shown.append((step, x)), every=5)])
    assert [step for step, _ in shown] == [5, 10] * 3
    assert torch.equal(shown[1][1], samples.tensor()[:2])
    assert shown[-1][1].shape[0] == 1


class Keep(Callback):
    """Keeps every estimate."""

    def __init__(self) -> None:
        self.all: dict[tuple[int, int], torch.Tensor] = {}

    def step(self, event: StepEvent) -> None:
        assert event.estimate is not None
        for row, estimate in enumerate(event.estimate):
            self.all[event.first + row, event.step] = estimate.double()


def test_a_trajectory_has_the_moments_of_all_estimates() -> None:
    keep, trajectory, window = Keep(), Trajectory(), Trajectory(window=(6, 9))
    walk(callbacks=[keep, trajectory, window])
    for recorder, steps in ((trajectory, range(1, 11)), (window, range(6, 10))):
        stack = torch.stack([torch.stack([keep.all[draw, step] for step in steps]) for draw in range(5)])
        expected = stack.var(dim=1).mean(dim=0).sqrt()
        assert recorder.temporal_sd is not None
        assert torch.allclose(recorder.temporal_sd, expected, rtol=1e-9)
    assert len(trajectory.rows) == 30
    assert trajectory.rows[3]["step"] == 4
    assert trajectory.rows[3]["sigma"] == pytest.approx(0.25)
    assert trajectory.rows[-1]["network_evaluations"] == 60


def test_a_trajectory_goes_on_with_more_draws_and_in_any_order() -> None:
    whole = Trajectory()
    walk(draws=7, callbacks=[whole])
    for stop in (0, 25, 29):
        store, first = TensorStore(), Trajectory()
        try:
            walk(store, draws=5, callbacks=[StopAfter(stop), first])
        except KeyboardInterrupt:
            assert stop
        grown = Trajectory()
        walk(store, draws=7, callbacks=[grown])
        assert steps_of(grown) == steps_of(whole)
        assert grown.temporal_sd is not None and whole.temporal_sd is not None
        assert torch.equal(grown.temporal_sd, whole.temporal_sd), stop


def test_two_trajectories_keep_their_own_memories() -> None:
    store = TensorStore()
    with pytest.raises(KeyboardInterrupt):
        walk(store, callbacks=[Trajectory(), Trajectory(window=(6, 9)), StopAfter(8)])
    both = Trajectory(), Trajectory(window=(6, 9))
    walk(store, callbacks=[both[1], both[0]])
    fresh = Trajectory(), Trajectory(window=(6, 9))
    walk(callbacks=fresh)
    for resumed, expected in zip(both, fresh, strict=True):
        assert resumed.temporal_sd is not None and expected.temporal_sd is not None
        assert torch.equal(resumed.temporal_sd, expected.temporal_sd)


def test_the_time_left_is_not_known_where_the_plan_is_a_limit() -> None:
    lines: list[str] = []
    sample(
        posterior_of("ct"),
        ExactGaussian(),
        draws=4,
        microbatch=2,
        callbacks=[ProgressLine(lines.append, every=0)],
    )
    assert "of at most" in lines[0]
    assert "left" not in lines[0]
    assert "left" in lines[-1]


def test_a_trajectory_is_resumed_with_its_run() -> None:
    whole, store = Trajectory(), TensorStore()
    walk(callbacks=[whole])
    for steps in (3, 9, 4):
        with pytest.raises(KeyboardInterrupt):
            walk(store, callbacks=[Trajectory(), StopAfter(steps)])
    resumed = Trajectory()
    walk(store, callbacks=[resumed])
    assert steps_of(resumed) == steps_of(whole)
    assert resumed.temporal_sd is not None and whole.temporal_sd is not None
    assert torch.equal(resumed.temporal_sd, whole.temporal_sd)


def test_what_a_callback_is_handed_is_a_copy() -> None:
    class Spoil(Callback):
        def step(self, event: StepEvent) -> None:
            estimate = event.info.estimate
            (estimate if isinstance(estimate, torch.Tensor) else estimate()).zero_()  # type: ignore[misc]
            for value in event.info.values.values():
                value.zero_()

    posterior = posterior_of("mask")
    solver = AnnealedLangevin(3.0, 0.5, levels=2, steps_per_level=2)
    plain = sample(posterior, solver, draws=2).tensor()
    assert torch.equal(sample(posterior, solver, draws=2, callbacks=[Spoil()]).tensor(), plain)


def test_columns_of_the_plan_do_not_take_the_place_of_the_number_of_the_step() -> None:
    """Annealed Langevin's plan has a column `step`: the length of the steps."""
    record = Trajectory()
    solver = AnnealedLangevin(3.0, 0.5, levels=2, steps_per_level=2)
    sample(posterior_of("mask"), solver, draws=3, microbatch=2, callbacks=[record])
    assert [row["step"] for row in record.rows] == [1, 2, 3, 4] * 2
    assert record.rows[0]["plan.step"] > 0
