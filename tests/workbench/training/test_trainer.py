import math
from collections.abc import Iterator

import pytest
import torch

from operators.errors import NonFiniteError
from tests.workbench.training.training_cases import OBJECTIVE, SETTINGS, Waves, trainer
from workbench.priors.unet import UNet
from workbench.training.ahead import Ahead
from workbench.training.averaging import Average
from workbench.training.batch import Batch
from workbench.training.curve import denoising_curve
from workbench.training.rates import LearningRate
from workbench.training.trainer import Trainer, TrainerSettings


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_that_goes_on_from_its_state_has_the_same_losses_and_weights() -> None:
    whole = trainer()
    losses = [report.loss for report in whole.run(Waves(), 12)]
    first = trainer()
    begun = [report.loss for report in first.run(Waves(), 5)]
    state = {name: value.clone() for name, value in first.state().items()}
    second = trainer()
    second.load(state)
    rest = [report.loss for report in second.run(Waves(), 12)]
    assert begun + rest == losses
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_training_learns() -> None:
    one = trainer(rate=LearningRate(2e-3, 10, 100), rows=8)
    curve = [denoising_curve(one.average.module, OBJECTIVE, Waves().batch(0, range(64), 64), (0.3, 1.0))]
    list(one.run(Waves(), 250))
    curve.append(denoising_curve(one.average.module, OBJECTIVE, Waves().batch(0, range(64), 64), (0.3, 1.0)))
    assert curve[1][0.3] < 0.6 * curve[0][0.3]
    assert curve[1][1.0] < 0.7 * curve[0][1.0]


def test_parts_change_rounding_alone() -> None:
    whole, parts = trainer(), trainer(parts=4)
    for _ in range(4):
        one, four = whole.advance(Waves()), parts.advance(Waves())
        assert four.loss == pytest.approx(one.loss, rel=1e-5)
        assert four.norm == pytest.approx(one.norm, rel=1e-3)


def test_batches_made_ahead_are_the_same() -> None:
    plain, ahead = trainer(parts=2), trainer(parts=2)
    with Ahead(Waves()) as source:
        for _ in range(4):
            assert plain.advance(Waves()).loss == ahead.advance(source).loss


def test_half_precision_trains_as_single_precision_does() -> None:
    single, half = trainer(), trainer(autocast=torch.bfloat16)
    for _ in range(5):
        assert half.advance(Waves()).loss == pytest.approx(single.advance(Waves()).loss, rel=0.02)
    assert all(w.dtype == torch.float32 for w in half.module.parameters())


def test_warm_starts_begin_anew_from_weights_alone() -> None:
    old = trainer()
    list(old.run(Waves(), 3))
    new = trainer()
    list(new.run(Waves(), 2))
    new.warm_start({name: value.half() for name, value in old.average.state().items()})
    assert new.step == 0
    for (name, mine), theirs in zip(
        new.module.named_parameters(), old.average.module.parameters(), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6), name
    fresh = trainer()
    fresh.warm_start(old.average.state())
    assert not any("exp_avg" in name for name in fresh.state())


class Broken(Waves):
    def batch(self, step: int, rows: range, whole: int) -> Batch:
        batch = super().batch(step, rows, whole)
        if step == 3:
            batch.images[1, 0, 4, 4] = math.nan
        return batch


def test_a_loss_that_is_not_finite_stops_the_run_and_moves_nothing() -> None:
    one = trainer()
    list(one.run(Broken(), 2))
    before = {name: value.clone() for name, value in one.state().items()}
    with pytest.raises(NonFiniteError, match=r"step 3 is not finite in 1 of 4 rows \(wave 1\); no weight"):
        one.advance(Broken())
    for name, value in one.state().items():
        assert torch.equal(value, before[name]), name


def test_a_gradient_that_is_not_finite_stops_the_run_too() -> None:
    one = trainer()
    one.advance(Waves())
    handle = next(one.module.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteError, match="the gradient of step 2 is not finite"):
        one.advance(Waves())
    handle.remove()
    assert one.step == 1


def test_states_of_other_networks_are_refused() -> None:
    state = trainer().state()
    with pytest.raises(ValueError, match="`state` must be that of this trainer, got lacking"):
        trainer().load({name: value for name, value in state.items() if "norm" not in name})
    with pytest.raises(ValueError, match="beside what it wants: extra"):
        trainer().load({**state, "extra": torch.zeros(1)})
    wider = Trainer(UNet(SETTINGS.with_(embedding=64)), OBJECTIVE, TrainerSettings(rows=4))
    with pytest.raises(ValueError, match="`state` must have the shape"):
        wider.load(state)


def test_the_average_covers_a_fixed_share_of_the_course() -> None:
    """Its weights over steps have mean (gamma + 1) / (gamma + 2) and the stated standard deviation."""
    net = torch.nn.Linear(1, 1)
    for steps in (400, 4000):
        mean, square = Average(net, 0.1), Average(net, 0.1)
        for step in range(1, steps + 1):
            net.weight.data.fill_(step / steps)
            mean.update(net, step)
            net.weight.data.fill_((step / steps) ** 2)
            square.update(net, step)
        centre = float(mean.module.weight)
        assert centre == pytest.approx((mean.gamma + 1) / (mean.gamma + 2), abs=5e-3)
        assert float(square.module.weight) - centre**2 == pytest.approx(0.01, rel=0.1)


def test_rates_rise_stay_and_fall() -> None:
    rate = LearningRate(1.0, warmup=10, steady=100)
    assert [rate.at(step) for step in (1, 10, 50, 100, 400)] == pytest.approx([0.1, 1, 1, 1, 0.5])
    assert LearningRate(1.0, warmup=0).at(1) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "`rows` must"),
        ({"parts": 3}, "`parts` must divide rows = 4"),
        ({"autocast": torch.float16}, "`autocast` must be None or torch.bfloat16"),
        ({"clip": 0.0}, "`clip` must"),
        ({"average": 0.5}, "`width` must be below 0.289"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(**change)


def test_all_ranks_stop_where_the_loss_of_one_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that went on would wait for the gradients of one that has stopped."""
    one = trainer()
    one.advance(Waves())
    one.rank, one.ranks = 0, 2

    def gathered(told: list[str], found: str) -> None:
        assert found == ""
        told[:] = [found, "in 1 of 2 rows (wave 3)"]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    with pytest.raises(NonFiniteError, match=r"step 2 is not finite in 1 of 2 rows \(wave 3\) of rank 1; no"):
        one.advance(Waves())
    assert one.step == 1


@pytest.mark.cuda
def test_a_run_on_a_gpu_goes_on_from_its_state() -> None:
    def begun() -> Trainer:
        return Trainer(UNet(SETTINGS, seed=3).cuda(), OBJECTIVE, TrainerSettings(rows=4), device="cuda")

    losses = [report.loss for report in begun().run(Waves(), 6)]
    first = begun()
    list(first.run(Waves(), 3))
    second = begun()
    second.load({name: value.cpu() for name, value in first.state().items()})
    held = second._optimiser.state.values()
    assert all(value.device.type == "cuda" for state in held for value in state.values())
    assert [report.loss for report in second.run(Waves(), 6)] == pytest.approx(losses[3:], rel=1e-4)
