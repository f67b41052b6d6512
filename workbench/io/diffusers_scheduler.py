"""What a diffusers scheduler says of the network beside it: path, prediction, noise label.

    abar_i = prod_(j <= i) (1 - beta_j),   x_i = sqrt(abar_i) x0 + sqrt(1 - abar_i) noise
    linear             beta evenly spaced
    scaled_linear      sqrt(beta) evenly spaced
    sigmoid            beta_start + (beta_end - beta_start) / (1 + exp(-s)),    s from -6 to 6
    squaredcos_cap_v2  beta_i = min(1 - g((i + 1)/n) / g(i/n), 0.999),   g(s) = cos^2(pi/2 (s + 0.008)/1.008)
    exp                the same with g(s) = exp(-12 s)

A scheduler is a sampler; of it only what the network was trained with counts. Its own steps, spacings, shifts
and clippings are those of its sampler and are left to the card's notes. The tables are made in single
precision, as the ones of training were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from workbench.paths.affine import AffinePath
from workbench.paths.prediction import Prediction
from workbench.paths.schedules import Discrete
from workbench.priors.network.output import EDMOutput, Label, Output, PathOutput

__all__ = ["alphas_bar", "output_of_scheduler"]

#: Samplers of networks that were trained with a table of betas.
BETAS = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMInverseScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
    "RePaintScheduler",
)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
PRECONDITIONED = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
SCORES = ("ScoreSdeVeScheduler",)
PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": Prediction.NOISE,
    "sample": Prediction.DATA,
    "v_prediction": Prediction.V,
}
#: Stands in for abar = 0 at the last index, as in diffusers' own schedulers in sigma.
ALMOST_ZERO = 2.0**-24


def output_of_scheduler(config: Mapping[str, Any], *, whole: bool = False) -> Output:
    """Return what the network is trained to give, from the entries of a scheduler_config.json.

    `whole`: whether the network takes whole numbers only for the index of a table; else the index of a
    level between two of the table lies between theirs.
    """
    if not isinstance(config, Mapping):
        raise type_error("config", "be the entries of a scheduler_config.json", type(config).__name__)
    name = config.get("_class_name")
    if name in FLOWS or (name in BETAS and config.get("prediction_type") == "flow_prediction"):
        return _flow(config)
    if name in PRECONDITIONED:
        return _preconditioned(config)
    if name in SCORES:
        low, high = (_number(config, key) for key in ("sigma_min", "sigma_max"))
        return PathOutput(AffinePath.ve(low, high), Prediction.SCORE, Label.SIGMA)
    if name not in BETAS:
        known = ", ".join((*FLOWS, *PRECONDITIONED, *SCORES, *BETAS))
        raise value_error(
            "_class_name",
            f"be a scheduler whose training is known: {known}",
            repr(name),
            "A network distilled to few steps is no denoiser at every level. If yours is one, state its "
            "output: NetworkPrior(module, space, PathOutput(...), calling=Diffusers()).",
        )
    if config.get("timestep_type", "discrete") != "discrete":
        remedy = "Its label is no index; state the output: NetworkPrior(module, space, PathOutput(...))."
        raise value_error("timestep_type", "be 'discrete'", repr(config["timestep_type"]), remedy)
    prediction = _prediction(config)
    if config.get("rescale_betas_zero_snr") and prediction is Prediction.NOISE:
        remedy = "The last level is noise alone, whose noise says nothing; such networks predict v."
        raise value_error("prediction_type", "be v_prediction or sample", "'epsilon' with zero SNR", remedy)
    path = AffinePath(Discrete.of_alphas_bar(alphas_bar(config)))
    learned = config.get("variance_type") in ("learned", "learned_range")
    label = Label.INDEX if whole else Label.TIME
    return PathOutput(path, prediction, label, learned_variance=learned)


def alphas_bar(config: Mapping[str, Any]) -> Tensor:
    """Return the cumulative products abar_i of a scheduler's table, float32, none of them 0."""
    product = (1.0 - _betas(config)).cumprod(0)
    if not config.get("rescale_betas_zero_snr"):
        return product
    # sqrt(abar) shifted to end at 0 and scaled to begin where it began (Lin et al. 2024, algorithm 1).
    roots = product.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    rescaled = ((roots - last) * (first / (first - last))) ** 2
    # Back through betas and up again, as diffusers goes: the same rounding.
    ratios = torch.cat((rescaled[:1], rescaled[1:] / rescaled[:-1]))
    product = (1.0 - (1 - ratios)).cumprod(0)
    # Some tables fall below it before their end.
    product[-1] = ALMOST_ZERO if product[-2] > ALMOST_ZERO else product[-2] / 4
    return product


def _betas(config: Mapping[str, Any]) -> Tensor:
    """Return the betas, float32."""
    trained = config.get("trained_betas")
    if trained is not None:
        if not isinstance(trained, list | tuple) or len(trained) < 2:
            raise type_error("trained_betas", "be a list of two numbers or more", f"{trained!r:.80}")
        numbers = [check_number(beta, f"trained_betas[{i}]", positive=True) for i, beta in enumerate(trained)]
        return _checked(torch.tensor(numbers, dtype=torch.float32), "trained_betas")
    kind = config.get("beta_schedule")
    count = check_count(config.get("num_train_timesteps"), "num_train_timesteps", minimum=2)
    if kind in CURVES:
        curve = CURVES[kind]
        steps = (1 - curve((i + 1) / count) / curve(i / count) for i in range(count))
        return torch.tensor([min(step, 0.999) for step in steps], dtype=torch.float32)
    first, last = (_number(config, key) for key in ("beta_start", "beta_end"))
    if kind == "linear":
        betas = torch.linspace(first, last, count, dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float32) ** 2
    elif kind == "sigmoid":
        ramp = torch.linspace(-6, 6, count, dtype=torch.float32)
        betas = torch.sigmoid(ramp) * (last - first) + first
    else:
        known = ", ".join(("linear", "scaled_linear", "sigmoid", *CURVES))
        raise value_error("beta_schedule", f"be one of {known}", repr(kind), "Or list its trained_betas.")
    return _checked(betas, "beta_start, beta_end")


def _checked(betas: Tensor, argument: str) -> Tensor:
    if not bool(((betas > 0) & (betas < 1)).all()):
        found = f"{float(betas.min()):g} to {float(betas.max()):g}"
        raise value_error(argument, "give betas between 0 and 1", found)
    return betas


def _cosine(s: float) -> float:
    return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2


def _exponential(s: float) -> float:
    return math.exp(-12.0 * s)


CURVES: Mapping[Any, Callable[[float], float]] = {"squaredcos_cap_v2": _cosine, "exp": _exponential}


def _prediction(config: Mapping[str, Any]) -> Prediction:
    # The oldest files have none, and some say it by a truth value; the noise is the default of all.
    kind = config.get("prediction_type", "epsilon" if config.get("predict_epsilon", True) else "sample")
    if kind not in PREDICTIONS:
        raise value_error("prediction_type", f"be one of {', '.join(PREDICTIONS)}", repr(kind))
    return PREDICTIONS[kind]


def _flow(config: Mapping[str, Any]) -> Output:
    """Return the velocity noise - x0 on the straight line, its label n t."""
    count = check_count(config.get("num_train_timesteps"), "num_train_timesteps")
    if count != 1000:
        raise value_error("num_train_timesteps", "be 1000 for a flow, whose label is 1000 t", count)
    if config.get("invert_sigmas"):
        remedy = (
            "Its time runs the other way; state the output: PathOutput(path, Prediction.VELOCITY, label)."
        )
        raise value_error("invert_sigmas", "be false", True, remedy)
    return PathOutput(AffinePath.flow(), Prediction.VELOCITY, Label.THOUSANDTHS)


def _preconditioned(config: Mapping[str, Any]) -> Output:
    """Return EDM's scaled output; in diffusers "epsilon" is its sign, "v_prediction" the other."""
    kind = config.get("prediction_type", "epsilon")
    if kind != "epsilon":
        remedy = "Its c_out is negative: give a module that returns the negative, with EDMOutput(sigma_data)."
        raise value_error("prediction_type", "be 'epsilon' for EDM's preconditioning", repr(kind), remedy)
    return EDMOutput(_number(config, "sigma_data"))


def _number(config: Mapping[str, Any], key: str) -> float:
    return check_number(config.get(key), key, positive=True)
