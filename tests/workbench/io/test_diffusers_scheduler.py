"""Without diffusers: tables of schedulers follow their formulas, what is no known training is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from workbench.io.diffusers_scheduler import alphas_bar, output_of_scheduler
from workbench.paths import AffinePath, Prediction
from workbench.priors.network.output import EDMOutput, Label, PathOutput

DDPM: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
# A product of n factors in single precision, each rounded.
SINGLE = 2.0**-24


def closed_form(kind: str, count: int) -> np.ndarray:
    """Return abar in double precision, by another way round than a table of betas where there is one."""
    first, last = DDPM["beta_start"], DDPM["beta_end"]
    share = np.arange(count) / (count - 1)
    if kind == "linear":
        return np.exp(np.cumsum(np.log1p(-(first + (last - first) * share))))
    if kind == "scaled_linear":
        roots = math.sqrt(first) + (math.sqrt(last) - math.sqrt(first)) * share
        return np.exp(np.cumsum(np.log1p(-(roots**2))))
    if kind == "sigmoid":
        logistic = 0.5 * (1 + np.tanh((-6 + 12 * share) / 2))
        return np.exp(np.cumsum(np.log1p(-(first + (last - first) * logistic))))
    ends = (np.arange(count) + 1) / count
    if kind == "exp":
        return np.exp(-12 * ends)
    angle = (ends + 0.008) / 1.008 * math.pi / 2
    abar = np.cos(angle) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    # The last beta is cut at 0.999.
    abar[-1] = abar[-2] * 0.001
    return abar


@pytest.mark.parametrize("count", [50, 1000])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2", "exp"])
def test_the_products_are_those_of_the_formulas(kind: str, count: int) -> None:
    table = alphas_bar({**DDPM, "beta_schedule": kind, "num_train_timesteps": count})
    expected = closed_form(kind, count)
    assert table.dtype == torch.float32 and table.shape == (count,)
    # The rounding of 1 - beta and of the product; a beta near 0.999 has 1000 times its own in 1 - beta.
    assert np.abs(table.numpy() / expected - 1)[:-1].max() < 2 * count * SINGLE
    assert abs(float(table[-1]) / expected[-1] - 1) < (2 * count + 1000) * SINGLE


def test_trained_betas_go_before_the_formula() -> None:
    betas = [0.1, 0.2, 0.5]
    table = alphas_bar({**DDPM, "trained_betas": betas})
    assert table.tolist() == pytest.approx([0.9, 0.72, 0.36], rel=4 * SINGLE)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2"])
@pytest.mark.parametrize("count", [50, 1000])
def test_a_table_of_zero_snr_begins_where_it_did_and_ends_in_noise(kind: str, count: int) -> None:
    config = {**DDPM, "beta_schedule": kind, "num_train_timesteps": count, "prediction_type": "v_prediction"}
    plain, rescaled = (
        alphas_bar(config).double(),
        alphas_bar({**config, "rescale_betas_zero_snr": True}).double(),
    )
    roots = plain.sqrt()
    expected = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    # Next to the end a difference of near numbers is squared; what is left there is told apart from 0.
    assert (rescaled - expected).abs().max() < 2 * count * SINGLE
    assert float(rescaled[0]) == pytest.approx(float(plain[0]), rel=4 * SINGLE)
    assert 0 < float(rescaled[-1]) <= 2**-24
    output = output_of_scheduler({**config, "rescale_betas_zero_snr": True})
    assert output.noise_range[1] >= 4095


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"prediction_type": "epsilon"}, Prediction.NOISE),
        ({"prediction_type": "sample"}, Prediction.DATA),
        ({"prediction_type": "v_prediction"}, Prediction.V),
        ({}, Prediction.NOISE),
        ({"predict_epsilon": True}, Prediction.NOISE),
        ({"predict_epsilon": False}, Prediction.DATA),
    ],
)
def test_a_table_of_betas_is_a_discrete_path(said: dict[str, Any], meant: Prediction) -> None:
    config = {name: value for name, value in DDPM.items() if name != "prediction_type"} | said
    output = output_of_scheduler(config)
    assert isinstance(output, PathOutput)
    assert (output.prediction, output.label, output.learned_variance) == (meant, Label.TIME, False)
    table = alphas_bar(config).double()
    at = output.path.at(torch.arange(1000.0))
    assert torch.allclose(at.a**2, table, rtol=1e-12)
    assert torch.allclose(at.c**2, 1 - table, rtol=1e-9)
    assert output.path.end == 999


def test_whole_labels_variances_flows_scores_and_edm_are_told_apart() -> None:
    learned = output_of_scheduler({**DDPM, "variance_type": "learned_range"}, whole=True)
    assert isinstance(learned, PathOutput)
    assert learned.learned_variance and learned.label is Label.INDEX
    flow = PathOutput(AffinePath.flow(), Prediction.VELOCITY, Label.THOUSANDTHS)
    euler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    assert output_of_scheduler(euler) == flow
    solver = {**DDPM, "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}
    assert output_of_scheduler(solver) == flow
    score = output_of_scheduler({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 50.0})
    assert score == PathOutput(AffinePath.ve(0.01, 50.0), Prediction.SCORE, Label.SIGMA)
    edm = output_of_scheduler({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.7})
    assert edm == EDMOutput(0.7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "LCMScheduler"}, "scheduler whose training is known"),
        ({"_class_name": None}, "scheduler whose training is known"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "distilled"),
        ({"prediction_type": "original"}, "`prediction_type` must be one of epsilon, sample, v_prediction"),
        ({"beta_schedule": "laplace"}, "`beta_schedule` must be one of linear"),
        ({"beta_schedule": None}, "`beta_schedule` must be one of linear"),
        ({"beta_start": -0.1}, "`beta_start` must be a finite number > 0"),
        ({"beta_end": 1.5}, "`beta_start, beta_end` must give betas between 0 and 1"),
        ({"num_train_timesteps": 1}, "`num_train_timesteps` must be an integer >= 2"),
        ({"num_train_timesteps": "1000"}, "`num_train_timesteps` must be an integer >= 2"),
        ({"trained_betas": [0.1]}, "`trained_betas` must be a list of two numbers"),
        ({"trained_betas": [0.1, 1.0]}, "`trained_betas` must give betas between 0 and 1"),
        ({"timestep_type": "continuous"}, "`timestep_type` must be 'discrete'"),
        ({"rescale_betas_zero_snr": True}, "zero SNR"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "`invert_sigmas` must be false",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 500},
            "`num_train_timesteps` must be 1000",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5, "prediction_type": "v_prediction"},
            "`prediction_type` must be 'epsilon'",
        ),
        ({"_class_name": "EDMEulerScheduler"}, "`sigma_data` must be a finite number > 0"),
    ],
)
def test_what_is_no_known_training_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        output_of_scheduler({**DDPM, **changes})


def test_entries_are_a_mapping() -> None:
    with pytest.raises(TypeError, match="entries of a scheduler_config.json"):
        output_of_scheduler([])  # type: ignore[arg-type]
