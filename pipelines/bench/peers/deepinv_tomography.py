"""deepinv's Tomography: batches of slices; its adjoint by differentiation, or by its inverse Radon."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

PACKAGES = ("deepinv", "torch", "torchvision", "numpy")
_KEPT: list[object] = []


def _deepinv() -> Any:
    try:
        return importlib.import_module("deepinv")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    # The wheel of torchvision that PyPI has is built for CUDA: beside the CPU torch its compiled part does
    # not load, and it stumbles over operators that Tomography never calls.
    make: Callable[..., Any] = torch.library.Library
    library = make("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # Collected, it would take its operators along.
    _KEPT.append(library)
    return importlib.import_module("deepinv")


DEEPINV = _deepinv()


def prepare(settings: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return projections of slices (k, n, n), back-projections of data (k, views, columns or more)."""
    n, views = settings["n"], settings["views"]
    columns = math.ceil(math.sqrt(2) * n)
    angles = torch.arange(views, dtype=torch.float32) * (180.0 / views)

    def made(exact: bool) -> Any:
        return DEEPINV.physics.Tomography(
            angles=angles, img_width=n, circle=False, normalize=False, adjoint_via_backprop=exact
        )

    physics = made(True)
    unmatched: list[Any] = []
    images, phantom = (torch.from_numpy(arrays[name]) for name in ("images", "phantom"))
    cropped = np.ascontiguousarray(arrays["data"][..., :columns].transpose(0, 2, 1))
    data = torch.from_numpy(cropped)

    # Images are (batch, 1, n, n), data (batch, 1, columns, views).
    def forward(x: Any) -> Any:
        with torch.no_grad():
            return physics.A(x[:, None])[:, 0].transpose(-1, -2)

    def adjoint(y: Any) -> Any:
        return physics.A_adjoint(y[:, None])[:, 0].detach()

    def other(y: Any) -> Any:
        if not unmatched:
            unmatched.append(made(False))
        with torch.no_grad():
            # Its inverse Radon transform scales by the step of the angle over two, which an adjoint has not.
            return unmatched[0].A_adjoint(y[:, None])[:, 0]

    return {
        "forward": lambda: forward(images),
        "adjoint": lambda: adjoint(data),
        "forward one by one": lambda: torch.cat([forward(one[None]) for one in images]),
        "adjoint one by one": lambda: torch.cat([adjoint(one[None]) for one in data]),
        "unmatched adjoint": lambda: other(data),
        "phantom": lambda: forward(phantom[None])[0],
    }
