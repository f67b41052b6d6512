"""A folder that diffusers wrote, as a prior: its U-Net, and from its scheduler how that was trained.

    model_index.json                            (a pipeline; optional)
    unet/config.json                            the network's arguments
    unet/diffusion_pytorch_model.safetensors    its weights
    scheduler/scheduler_config.json             path, prediction and label (diffusers_scheduler)

The files of either part may lie in the folder itself. diffusers builds the network and does nothing else: no
address is asked, no pickle opened. Pixels have no size in such a folder, and no unit: `training` states them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from operators.errors import type_error, value_error
from operators.space import Space
from workbench.io.checks import checked_path
from workbench.io.diffusers_scheduler import output_of_scheduler
from workbench.io.module_state import check_fits, fill, state_of
from workbench.io.tensor_file import CONVERT, TensorFile, open_tensors
from workbench.priors.network.architecture import ARCHITECTURES, Architecture
from workbench.priors.network.calling import Diffusers
from workbench.priors.network.card import Card, Provenance
from workbench.priors.network.execution import Execution
from workbench.priors.network.policy import SizePolicy
from workbench.priors.network.prior import NetworkPrior
from workbench.priors.network.training import Training

__all__ = ["card_of_diffusers_folder", "read_diffusers_folder"]

NETWORKS = tuple(name for name in ARCHITECTURES if name.startswith("diffusers."))
#: Parts of a pipeline whose network denoises what an autoencoder made of images.
LATENTS = ("vae", "vqvae", "vqgan", "movq", "first_stage_model")
WEIGHTS = "diffusion_pytorch_model"
#: Far more than any configuration; a file that is larger is none.
LARGEST = 2**22
#: Settings that ask for more than a class and tokens.
UNSUPPORTED = (
    "class_embed_type",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "encoder_hid_dim",
    "time_cond_proj_dim",
)
#: What the attention of old files called its matrices.
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def read_diffusers_folder(
    path: str | Path,
    space: Space,
    *,
    training: Training | None = None,
    scheduler: str | Path | None = None,
    variant: str = "",
    images: Sequence[str] = (),
    policy: SizePolicy | None = None,
    execution: Execution | None = None,
) -> NetworkPrior:
    """Return the prior over `space` that a folder of diffusers makes.

    Parameters
    ----------
    path
        The folder of a pipeline, or of its U-Net alone.
    space
        What the prior is over.
    training
        What the folder does not say: spacing, units, standard deviation of the data. What is stated here
        goes before the size and the range that the folder says.
    scheduler
        A scheduler_config.json, or its folder, if it lies elsewhere.
    variant
        Of the weights: "fp16" for diffusion_pytorch_model.fp16.safetensors.
    images
        Names of condition images whose channels follow those of the image.
    policy, execution
        As in `NetworkPrior`.
    """
    Space.require(space, "space")
    card = card_of_diffusers_folder(path, training=training, scheduler=scheduler, images=images)
    file = _weights(_network_folder(checked_path(path)), variant)
    module = card.architecture.build()
    file = _modern(file, state_of(module))
    check_fits(file, module)
    fill(module, file.tensors(), file.path, built=True)
    return NetworkPrior(
        module,
        space,
        card.output,
        training=card.training,
        calling=card.calling,
        policy=policy,
        execution=execution,
    )


def card_of_diffusers_folder(
    path: str | Path,
    *,
    training: Training | None = None,
    scheduler: str | Path | None = None,
    images: Sequence[str] = (),
) -> Card:
    """Return the card that a folder of diffusers amounts to, with which `write_network` makes one file of it.

    What the folder says and no prior needs (steps, shift, clipping of its sampler) is in the notes. The
    arguments are those of `read_diffusers_folder`.
    """
    root = checked_path(path)
    if not root.is_dir():
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist.")
        remedy = "One file of weights: read_network, or load_weights into a module."
        raise value_error("path", "be a folder that diffusers wrote", f"the file {root}", remedy)
    config = _json(_network_folder(root) / "config.json")
    noise = _json(_scheduler_file(root, scheduler))
    kind, settings = _settings(config)
    stated = training if training is not None else Training()
    if not isinstance(stated, Training):
        raise type_error("training", "be a Training", type(stated).__name__)
    notes = {
        "layout": "diffusers",
        "network": {name: value for name, value in config.items() if name.startswith("_")},
        "scheduler": {name: _noted(value) for name, value in noise.items() if name != "trained_betas"},
    }
    return Card(
        architecture=Architecture(kind, settings),
        output=output_of_scheduler(noise, whole=settings.get("time_embedding_type") == "learned"),
        calling=_calling(kind, settings, images),
        training=_trained(settings, noise, stated),
        provenance=Provenance(notes=notes),
    )


def _settings(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the architecture's name and its arguments."""
    kind = f"diffusers.{config.get('_class_name')}"
    if kind not in NETWORKS:
        known = ", ".join(name.removeprefix("diffusers.") for name in NETWORKS)
        remedy = "Build another one yourself: NetworkPrior(module, space, output, calling=Diffusers())."
        raise value_error("_class_name", f"be one of {known}", repr(config.get("_class_name")), remedy)
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    for name in UNSUPPORTED:
        if settings.get(name) is not None:
            remedy = "Build it yourself, with a Calling of your own: NetworkPrior(..., calling=...)."
            raise value_error(name, "be null: no other condition is known", repr(settings[name]), remedy)
    return kind, settings


def _calling(kind: str, settings: Mapping[str, Any], images: Sequence[str]) -> Diffusers:
    """Return how the network is called."""
    width = 0
    if kind == "diffusers.UNet2DConditionModel":
        said = settings.get("cross_attention_dim", 1280)
        widths = set(said) if isinstance(said, list) else {said}
        width = widths.pop()
        if widths or not isinstance(width, int):
            raise value_error("cross_attention_dim", "be one width for all levels", repr(said))
    return Diffusers(classes=settings.get("num_class_embeds") or 0, context_width=width, images=tuple(images))


def _trained(settings: Mapping[str, Any], noise: Mapping[str, Any], stated: Training) -> Training:
    """Return what is stated, and for the rest what the folder says."""
    side = settings.get("sample_size")
    size = tuple(side) if isinstance(side, list) else (side, side) if isinstance(side, int) else None
    end = noise.get("clip_sample_range", 1.0) if noise.get("clip_sample") else None
    found = Training(size=size, dimensions=2, data_range=None if end is None else (-float(end), float(end)))
    names = [entry.name for entry in dataclasses.fields(Training)]
    return found.with_(**{name: getattr(stated, name) for name in names if getattr(stated, name) is not None})


def _network_folder(root: Path) -> Path:
    """Return the folder of the U-Net."""
    index = root / "model_index.json"
    if index.is_file():
        parts = _json(index)
        coded = [name for name in LATENTS if parts.get(name) not in (None, [None, None])]
        if coded:
            raise value_error(
                "path",
                "hold a network of images",
                f"{root}, whose network denoises the codes of its {coded[0]}",
                "A prior over those codes: path=folder / 'unet', scheduler=folder / 'scheduler'.",
            )
    return next((folder for folder in (root / "unet", root) if (folder / "config.json").is_file()), root)


def _scheduler_file(root: Path, stated: str | Path | None) -> Path:
    name = "scheduler_config.json"
    if stated is not None:
        if not isinstance(stated, str | Path):
            raise type_error("scheduler", "be a path", repr(stated))
        given = checked_path(stated)
        return given / name if given.is_dir() else given
    return next((path for path in (root / "scheduler" / name, root / name) if path.is_file()), root / name)


def _weights(folder: Path, variant: str) -> TensorFile:
    """Return the header of the weights, or say what is there instead."""
    if not isinstance(variant, str):
        raise type_error("variant", "be text, such as 'fp16'", repr(variant))
    name = f"{WEIGHTS}.{variant}.safetensors" if variant else f"{WEIGHTS}.safetensors"
    if (folder / name).is_file():
        return open_tensors(folder / name)
    here = sorted(path.name for path in folder.glob(f"{WEIGHTS}*"))
    found = f"{folder} with {', '.join(here) or 'no weights'}"
    remedy = "Copy or download it again."
    if any(other.endswith(".bin") for other in here):
        remedy = f"A .bin file is a pickle, which runs whatever code is in it. {CONVERT}"
    if any(other.endswith(".safetensors") for other in here):
        remedy = "A name between points is a variant: variant='fp16'."
    if any(other.endswith(".index.json") for other in here):
        remedy = "Where it was made: unet.save_pretrained(folder, max_shard_size='100GB') makes one file."
    raise value_error("path", f"hold {name}", found, remedy)


def _modern(file: TensorFile, wanted: Mapping[str, Any]) -> TensorFile:
    """Return the file under the names of today; attention's matrices had others once."""
    names = {}
    for name in file.shapes:
        new = name
        for old, now in RENAMED.items():
            new = new.replace(old, now)
        names[new if name not in wanted and new in wanted else name] = name
    return file.named(names)


def _json(path: Path) -> dict[str, Any]:
    """Return the object that a configuration holds."""
    if not path.is_file():
        remedy = "A folder of diffusers has unet/config.json and scheduler/scheduler_config.json."
        raise value_error("path", f"hold {path.name}", f"{path.parent} without it", remedy)
    size = path.stat().st_size
    if size > LARGEST:
        raise value_error("path", f"hold configurations of at most {LARGEST} bytes", f"{path} of {size}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise value_error("path", "hold configurations in JSON", f"{path}: {error}") from error
    if not isinstance(entries, dict):
        raise value_error("path", "hold configurations, objects of JSON", f"{path}: {entries!r:.80}")
    return entries


def _noted(value: Any) -> Any:
    """Return an entry for the notes: JSON has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
