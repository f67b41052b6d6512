"""What diffusers writes is read as diffusers reads it: its own predictions of the data are the referee."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from workbench.io.diffusers_folder import card_of_diffusers_folder, read_diffusers_folder
from workbench.io.weights import read_network, write_network
from workbench.priors.network.card import Card
from workbench.priors.network.policy import Convolve
from workbench.priors.network.prior import NetworkPrior
from workbench.priors.network.training import Training
from workbench.units import Units

safetensors = pytest.importorskip("safetensors.torch", reason="weights need the [io] extra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip(
        "diffusers", reason="its own networks and schedulers need diffusers: pip install diffusers"
    )

# Its schedulers speak to numpy as it was before numpy 2.
OLD_NUMPY = "ignore:__array_.*:DeprecationWarning"
GRID = Grid.from_spacing((1, 8, 8), (3.0, 1.0, 1.0))
SPACE = Space.field(GRID)
SMALL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
TABLES: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "fifty": {"beta_schedule": "linear", "num_train_timesteps": 50},
    "trained": {"trained_betas": [0.01 * (k + 1) for k in range(30)], "num_train_timesteps": 30},
}
# D is (x - sqrt(1 - abar) eps) / sqrt(abar): single precision is lost by 1 / sqrt(abar), so that where
# little data is left D is compared in units of the noise level that multiplied the rounding.
ROUNDING = 1e-5


def network(seed: int = 0, **changes: Any) -> torch.nn.Module:
    """Return a network of diffusers of which no part is zero."""
    torch.manual_seed(seed)
    return diffusers.UNet2DModel(**{**SMALL, **changes}).eval()


def saved(folder: Path, module: torch.nn.Module, scheduler: Any) -> Path:
    """Return the folder that diffusers itself writes of both."""
    module.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def images(seed: int = 1, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, 8, 8, generator=generator)


def read(folder: Path, **options: Any) -> NetworkPrior:
    return read_diffusers_folder(folder, SPACE, **options)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("table", TABLES)
def test_the_mean_is_the_prediction_of_the_data_of_ddim(tmp_path: Path, table: str, prediction: str) -> None:
    module = network()
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False, **TABLES[table])
    prior = read(saved(tmp_path, module, scheduler))
    last = scheduler.config.num_train_timesteps - 1
    scheduler.set_timesteps(last + 1)
    for t in (0, 1, last // 3, last // 2, last):
        x = images(t)
        with torch.no_grad():
            theirs = scheduler.step(module(x, t).sample, t, x).pred_original_sample
        abar = scheduler.alphas_cumprod[t].double()
        sigma = float(((1 - abar) / abar).sqrt())
        ours = prior.denoise((x / abar.sqrt()).float(), sigma)
        assert (ours - theirs).abs().max() < ROUNDING * max(1.0, sigma), t


ALIKE = (
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)


@pytest.mark.filterwarnings(OLD_NUMPY)
@pytest.mark.parametrize("name", ALIKE)
def test_all_samplers_of_one_table_describe_one_network(tmp_path: Path, name: str) -> None:
    module = network()
    same: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "v_prediction"}
    first = saved(tmp_path, module, diffusers.DDIMScheduler(**same))
    getattr(diffusers, name)(**same).save_pretrained(tmp_path / "other")
    known = card_of_diffusers_folder(first)
    other = card_of_diffusers_folder(first, scheduler=tmp_path / "other")
    assert other.output == known.output
    assert other.provenance.notes["scheduler"]["_class_name"] == name
    assert Card.from_text(other.text()) == other


@pytest.mark.parametrize("sampler", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_a_flow_ends_in_its_mean(tmp_path: Path, sampler: str) -> None:
    module = network()
    scheduler = getattr(diffusers, sampler)(shift=3.0)
    prior = read(saved(tmp_path, module, scheduler))
    for t in (0.02, 0.5, 0.9):
        x = images()
        # One step from t to 0 on the straight line.
        with torch.no_grad():
            theirs = x + (0.0 - t) * module(x, torch.tensor(1000 * t)).sample
        assert (prior.denoise(x / (1 - t), t / (1 - t)) - theirs).abs().max() < ROUNDING / (1 - t)
    with torch.no_grad():
        theirs = images() - module(images(), torch.tensor(1000.0)).sample
    assert (prior.denoise_scaled(images(), 0.0) - theirs).abs().max() < ROUNDING
    assert card_of_diffusers_folder(tmp_path).provenance.notes["scheduler"]["shift"] == 3.0


def test_a_step_of_the_flow_scheduler_goes_along_the_mean(tmp_path: Path) -> None:
    module = network()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    prior = read(saved(tmp_path, module, scheduler))
    scheduler.set_timesteps(4)
    x = images()
    for k, step in enumerate(scheduler.timesteps):
        t, following = float(scheduler.sigmas[k]), float(scheduler.sigmas[k + 1])
        with torch.no_grad():
            theirs = scheduler.step(module(x, step).sample, step, x).prev_sample
        mean = prior.denoise_scaled(x / t, (1 - t) / t)
        ours = mean + following * (x - mean) / t
        assert (ours - theirs).abs().max() < ROUNDING
        x = theirs


def test_edm_is_preconditioned_as_in_diffusers(tmp_path: Path) -> None:
    module = network()
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.7)
    prior = read(saved(tmp_path, module, scheduler))
    for sigma in (0.01, 0.6, 5.0, 80.0):
        z = images() * sigma
        with torch.no_grad():
            label = scheduler.precondition_noise(torch.tensor(sigma))
            raw = module(scheduler.precondition_inputs(z, sigma), label).sample
        theirs = scheduler.precondition_outputs(z, raw, sigma)
        assert (prior.denoise(z, sigma) - theirs).abs().max() < ROUNDING * max(1.0, sigma)


def test_a_score_in_sigma_gives_its_mean(tmp_path: Path) -> None:
    module = network(time_embedding_type="fourier")
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    prior = read(saved(tmp_path, module, scheduler))
    assert prior.noise_range == pytest.approx((0.01, 50.0))
    for sigma in (0.02, 1.0, 40.0):
        z = images() * sigma
        with torch.no_grad():
            theirs = z + sigma**2 * module(z, torch.full((2,), sigma)).sample
        assert (prior.denoise(z, sigma) - theirs).abs().max() < ROUNDING * max(1.0, sigma)


@pytest.mark.filterwarnings(OLD_NUMPY)
def test_with_zero_snr_the_last_level_is_the_one_of_schedulers_in_sigma(tmp_path: Path) -> None:
    module = network()
    options = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "beta_schedule": "scaled_linear",
    }
    scheduler = diffusers.EulerDiscreteScheduler(**options)
    prior = read(saved(tmp_path, module, scheduler))
    assert prior.noise_range[1] == pytest.approx(float(scheduler.sigmas[0]), rel=1e-6)
    x, sigma = images(), float(scheduler.sigmas[0])
    scheduler.set_timesteps(1000)
    with torch.no_grad():
        step = scheduler.timesteps[0]
        raw = module(x, step).sample
        theirs = scheduler.step(raw, step, x * (1 + sigma**2) ** 0.5).pred_original_sample
    ours = prior.denoise(x * (1 + sigma**2) ** 0.5, sigma)
    assert (ours - theirs).abs().max() < ROUNDING


def test_a_network_with_a_table_of_labels_is_told_whole_numbers(tmp_path: Path) -> None:
    module = network(time_embedding_type="learned", num_train_timesteps=1000)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    prior = read(saved(tmp_path, module, scheduler))
    scheduler.set_timesteps(1000)
    x, t = images(), 321
    with torch.no_grad():
        theirs = scheduler.step(module(x, t).sample, t, x).pred_original_sample
    abar = scheduler.alphas_cumprod[t].double()
    sigma = float(((1 - abar) / abar).sqrt())
    assert (prior.denoise((x / abar.sqrt()).float(), sigma) - theirs).abs().max() < ROUNDING * max(1.0, sigma)


def test_variances_are_dropped(tmp_path: Path) -> None:
    module = network(out_channels=2)
    prior = read(
        saved(tmp_path, module, diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False))
    )
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    x, t = images(), 500
    with torch.no_grad():
        theirs = scheduler.step(module(x, t).sample, t, x).pred_original_sample
    abar = scheduler.alphas_cumprod[t].double()
    sigma = float(((1 - abar) / abar).sqrt())
    assert (prior.denoise((x / abar.sqrt()).float(), sigma) - theirs).abs().max() < ROUNDING * sigma


def test_a_class_and_tokens_are_conditions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = diffusers.UNet2DConditionModel(
        **{
            **SMALL,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 6,
            "attention_head_dim": 4,
            "num_class_embeds": 3,
        }
    ).eval()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    prior = read(saved(tmp_path, module, scheduler))
    tokens, kind = images(4)[0, 0, :5, :6], torch.tensor(2)
    bound = prior.given({"context": tokens, "class": kind})
    x, t = images(), 400
    scheduler.set_timesteps(1000)
    with torch.no_grad():
        raw = module(x, t, encoder_hidden_states=tokens.expand(2, 5, 6), class_labels=kind.expand(2)).sample
    theirs = scheduler.step(raw, t, x).pred_original_sample
    abar = scheduler.alphas_cumprod[t].double()
    sigma = float(((1 - abar) / abar).sqrt())
    assert (bound.denoise((x / abar.sqrt()).float(), sigma) - theirs).abs().max() < ROUNDING * sigma


def test_one_file_holds_what_the_folder_held(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(), diffusers.DDPMScheduler())
    training = Training(spacing=(1.0, 1.0), units=Units(1000.0, 0.0, "HU"))
    card = card_of_diffusers_folder(folder, training=training)
    assert card.training.size == (8, 8) and card.training.data_range == (-1.0, 1.0)
    path = write_network(tmp_path / "one.safetensors", network(), card)
    first, second = read(folder, training=training), read_network(path, SPACE)
    z = images() * 2
    assert torch.equal(first.denoise(z, 0.8), second.denoise(z, 0.8))
    assert first.units == second.units == Units(1000.0, 0.0, "HU")


def test_the_random_state_is_left_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(), diffusers.DDPMScheduler())
    before = torch.get_rng_state()
    read(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_files_in_one_folder_variants_and_old_names_are_read(tmp_path: Path) -> None:
    folder = saved(tmp_path / "pipeline", network(), diffusers.DDPMScheduler())
    z = images()
    expected = read(folder).denoise(z, 0.5)
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(folder / "unet" / "config.json", flat)
    shutil.copy(folder / "scheduler" / "scheduler_config.json", flat)
    tensors = safetensors.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    old = {name: value.clone() for name, value in tensors.items()}
    for now, then in (
        (".to_q.", ".query."),
        (".to_k.", ".key."),
        (".to_v.", ".value."),
        (".to_out.0.", ".proj_attn."),
    ):
        old = {name.replace(now, then): value for name, value in old.items()}
    assert old.keys() != tensors.keys()
    safetensors.save_file(old, flat / "diffusion_pytorch_model.old.safetensors")
    assert torch.equal(read(flat, variant="old").denoise(z, 0.5), expected)
    with pytest.raises(ValueError, match="hold diffusion_pytorch_model.safetensors.*variant='fp16'"):
        read(flat)


def test_another_size_needs_a_policy(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(), diffusers.DDPMScheduler())
    space = Space.field(Grid.from_spacing((1, 12, 10), 1.0))
    with pytest.raises(ValueError, match="size the network was trained on"):
        read_diffusers_folder(folder, space)
    prior = read_diffusers_folder(folder, space, policy=Convolve(2))
    assert prior.denoise(torch.zeros(space.shape), 1.0).shape == space.shape


def test_wrong_channels_are_refused_before_the_run(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(in_channels=3, out_channels=3), diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="channels"):
        read(folder)
    with pytest.raises(ValueError, match="channels"):
        read_diffusers_folder(folder, Space.field(GRID, is_complex=True))


def test_weights_of_other_settings_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(), diffusers.DDPMScheduler())
    config = folder / "unet" / "config.json"
    entries = json.loads(config.read_text())
    config.write_text(json.dumps({**entries, "block_out_channels": [8, 12]}))
    with pytest.raises(ValueError, match="module's shapes"):
        read(folder)
    config.write_text(json.dumps({**entries, "layers_per_block": 2}))
    with pytest.raises(ValueError, match="whose names lack"):
        read(folder)
    config.write_text(json.dumps({**entries, "norm_num_gruops": 2}))
    with pytest.raises(ValueError, match="Did you mean norm_num_groups"):
        read(folder)
