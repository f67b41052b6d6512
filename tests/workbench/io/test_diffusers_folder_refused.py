"""Without diffusers: a folder that lacks something, or holds another thing, is refused by name."""

from __future__ import annotations

import importlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from operators.extras import MissingExtraError
from operators.grid import Grid
from operators.space import Space
from workbench.io.diffusers_folder import card_of_diffusers_folder, read_diffusers_folder
from workbench.io.tensor_file import write_tensors
from workbench.priors.network.calling import Diffusers
from workbench.priors.network.training import Training

pytest.importorskip("safetensors", reason="weights need the [io] extra")

SPACE = Space.field(Grid.from_spacing((1, 8, 8), 1.0))
NETWORK: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.42.1",
    "sample_size": [8, 6],
    "in_channels": 1,
    "out_channels": 1,
}
NOISE: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 10,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
    "clip_sample_range": 2.0,
    "lambda_min_clipped": -float("inf"),
}
WEIGHTS = "diffusion_pytorch_model"


def folder(root: Path, network: object = NETWORK, noise: object = NOISE) -> Path:
    """Return a folder with both configurations and no weights."""
    for name, file, entries in (
        ("unet", "config.json", network),
        ("scheduler", "scheduler_config.json", noise),
    ):
        (root / name).mkdir()
        text = entries if isinstance(entries, str) else json.dumps(entries)
        (root / name / file).write_text(text)
    return root


def test_a_card_is_made_without_the_package(tmp_path: Path) -> None:
    card = card_of_diffusers_folder(folder(tmp_path), training=Training(data_sd=0.5))
    assert card.architecture.name == "diffusers.UNet2DModel"
    assert card.architecture.settings == {"sample_size": [8, 6], "in_channels": 1, "out_channels": 1}
    assert card.training == Training((8, 6), data_range=(-2.0, 2.0), data_sd=0.5)
    assert card.calling == Diffusers()
    notes = card.provenance.notes
    assert notes["network"] == {"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1"}
    assert notes["scheduler"]["lambda_min_clipped"] == "-inf"
    stated = card_of_diffusers_folder(tmp_path, training=Training((4, 4), data_range=(0.0, 1.0)))
    assert stated.training == Training((4, 4), data_range=(0.0, 1.0))


@pytest.mark.parametrize(
    ("changes", "calling"),
    [
        ({"num_class_embeds": 10}, Diffusers(classes=10)),
        (
            {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768},
            Diffusers(context_width=768),
        ),
        ({"_class_name": "UNet2DConditionModel"}, Diffusers(context_width=1280)),
        (
            {"_class_name": "UNet2DConditionModel", "cross_attention_dim": [32, 32]},
            Diffusers(context_width=32),
        ),
    ],
)
def test_conditions_follow_from_the_configuration(
    tmp_path: Path, changes: dict[str, Any], calling: Diffusers
) -> None:
    card = card_of_diffusers_folder(folder(tmp_path, NETWORK | changes), images=("image",))
    assert card.calling == Diffusers(calling.classes, calling.context_width, ("image",))


@pytest.mark.parametrize(
    ("network", "noise", "said"),
    [
        ("", NOISE, "configurations in JSON.*config.json"),
        ("[" * 100_000, NOISE, "configurations in JSON"),
        ("[1]", NOISE, "objects of JSON"),
        (" " * (2**22 + 1), NOISE, "configurations of at most 4194304 bytes"),
        (
            NETWORK | {"_class_name": "UNet3DConditionModel"},
            NOISE,
            "`_class_name` must be one of UNet2DModel",
        ),
        ({}, NOISE, "`_class_name` must be one of UNet2DModel"),
        (NETWORK | {"class_embed_type": "timestep"}, NOISE, "`class_embed_type` must be null"),
        (NETWORK | {"addition_embed_type": "text_time"}, NOISE, "`addition_embed_type` must be null"),
        (NETWORK | {"time_cond_proj_dim": 256}, NOISE, "`time_cond_proj_dim` must be null"),
        (
            NETWORK | {"_class_name": "UNet2DConditionModel", "cross_attention_dim": [16, 32]},
            NOISE,
            "`cross_attention_dim` must be one width",
        ),
        (NETWORK, "{", "configurations in JSON.*scheduler_config.json"),
        (NETWORK, NOISE | {"_class_name": "LCMScheduler"}, "scheduler whose training is known"),
    ],
)
def test_configurations_that_say_something_else_are_refused(
    tmp_path: Path, network: object, noise: object, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        card_of_diffusers_folder(folder(tmp_path, network, noise))


def test_a_network_of_codes_is_no_network_of_images(tmp_path: Path) -> None:
    root = folder(tmp_path)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "safety": [None, None],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="hold a network of images.*codes of its vae.*scheduler="):
        card_of_diffusers_folder(root)
    alone = card_of_diffusers_folder(root / "unet", scheduler=root / "scheduler")
    (root / "model_index.json").write_text(
        json.dumps({"unet": ["diffusers", "UNet2DModel"], "vae": [None, None]})
    )
    assert card_of_diffusers_folder(root) == alone
    assert card_of_diffusers_folder(root, scheduler=root / "scheduler" / "scheduler_config.json") == alone


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("unet/config.json", "hold config.json, got .* without it"),
        ("scheduler/scheduler_config.json", "hold scheduler_config.json, got .* without it"),
    ],
)
def test_a_missing_configuration_is_named(tmp_path: Path, file: str, said: str) -> None:
    root = folder(tmp_path)
    (root / file).unlink()
    with pytest.raises(ValueError, match=said):
        card_of_diffusers_folder(root)


def test_what_is_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_diffusers_folder(tmp_path / "none", SPACE)
    file = tmp_path / "a.safetensors"
    file.touch()
    with pytest.raises(ValueError, match="folder that diffusers wrote, got the file.*read_network"):
        read_diffusers_folder(file, SPACE)


class Malicious:
    """Whoever unpickles it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{WEIGHTS}.bin", "A .bin file is a pickle, which runs whatever code is in it.*save_file"),
        (f"{WEIGHTS}.safetensors", "whole safetensors file, got .*, a pickle"),
    ],
)
def test_no_pickle_is_run(tmp_path: Path, name: str, said: str) -> None:
    root, mark = folder(tmp_path), tmp_path / "mark"
    (root / "unet" / name).write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(ValueError, match=said):
        read_diffusers_folder(root, SPACE)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "with no weights"),
        ((f"{WEIGHTS}.fp16.safetensors",), "variant='fp16'"),
        ((f"{WEIGHTS}.safetensors.index.json",), "makes one file"),
    ],
)
def test_weights_that_lie_elsewhere_are_told(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    root = folder(tmp_path)
    for name in names:
        (root / "unet" / name).touch()
    with pytest.raises(ValueError, match=f"hold {WEIGHTS}.safetensors.*{said}"):
        read_diffusers_folder(root, SPACE)


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path)
    write_tensors(root / "unet" / f"{WEIGHTS}.safetensors", {"a": torch.ones(1)}, {})
    real = importlib.import_module

    def absent(name: str) -> Any:
        if name == "diffusers":
            raise ModuleNotFoundError(name=name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        MissingExtraError, match=r"UNet2DModel needs diffusers.*inverse-workbench\[diffusers\]"
    ):
        read_diffusers_folder(root, SPACE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": None}, "`variant` must be text"),
        ({"training": {"size": (8, 8)}}, "`training` must be a Training"),
        ({"scheduler": 3}, "`scheduler` must be a path"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        read_diffusers_folder(folder(tmp_path), SPACE, **options)
