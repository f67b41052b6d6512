"""deepinv's DPS and DiffPIR on a mask, with the workbench's own U-Net: the same code and the same weights."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch

PACKAGES = ("deepinv", "torch", "torchvision", "numpy")
_KEPT: list[object] = []


def _deepinv() -> Any:
    try:
        return importlib.import_module("deepinv")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    # As in deepinv_tomography.py: PyPI's torchvision is built for CUDA, and these operators are never called.
    make: Callable[..., Any] = torch.library.Library
    library = make("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    return importlib.import_module("deepinv")


DEEPINV = _deepinv()


def prepare(settings: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return runs of `steps` steps on data (draws, 1, n, n), and how often each asked the network."""
    unet = importlib.import_module("workbench.priors.unet")
    network = unet.UNet(unet.UNetSettings.from_dict(settings["network"])).eval().requires_grad_(False)
    prefix = "weights "
    weights = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    model, steps = _Denoiser(network, settings["spread"]), settings["steps"]
    mask, data = torch.from_numpy(arrays["mask"]), torch.from_numpy(arrays["data"])
    noise = DEEPINV.physics.GaussianNoise(sigma=settings["sigma"])
    physics = DEEPINV.physics.Inpainting(img_size=tuple(mask.shape), mask=mask, noise_model=noise)
    # `steps` steps lie between one more times; float32 is what ours computes in, its own default is float64.
    dps = DEEPINV.sampling.DPS(model, num_steps=steps + 1, weight=settings["weight"], dtype=torch.float32)
    fidelity = DEEPINV.optim.data_fidelity.L2()
    diffpir = DEEPINV.sampling.DiffPIR(model, fidelity, sigma=settings["sigma"], max_iter=steps)

    def run(sampler: Any) -> Any:
        return sampler(data, physics).detach()

    def evaluations(sampler: Any) -> int:
        before = model.calls
        run(sampler)
        return int(model.calls - before)

    return {
        "DPS": lambda: run(dps),
        "DPS: evaluations": lambda: evaluations(dps),
        "DiffPIR": lambda: run(diffpir),
        "DiffPIR: evaluations": lambda: evaluations(diffpir),
    }


class _Denoiser(DEEPINV.models.Denoiser):  # type: ignore[misc,name-defined]
    """D = c_skip z + c_out F(c_in z, log(sigma) / 4), as pipelines/bench/guidance.py has it."""

    def __init__(self, network: Any, spread: float) -> None:
        super().__init__()
        self.network, self.spread, self.calls = network, spread, 0

    def forward(self, x: Any, sigma: Any, **_: object) -> Any:
        self.calls += 1
        level = float(sigma)
        square = level**2 + self.spread**2
        label = torch.full((x.shape[0],), math.log(level) / 4)
        value = self.network(x / math.sqrt(square), label)
        return self.spread**2 / square * x + level * self.spread / math.sqrt(square) * value
