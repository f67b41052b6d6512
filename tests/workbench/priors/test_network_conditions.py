"""What a network is conditioned on, how modules are called; what is wrong with them is found before a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from operators.grid import Grid
from operators.space import Space
from tests.contracts import close
from tests.oracles import random_element
from tests.workbench.priors.network_cases import FLOW, PLANE, VOLUME, Analytic, Pointwise, Small, mixture
from workbench.ledger import Ledger
from workbench.paths import AffinePath, Prediction
from workbench.priors.network import (
    Calling,
    Convolve,
    Diffusers,
    Labelled,
    Monai,
    NetworkPrior,
    PathOutput,
    Plain,
    Resample,
    Tile,
    Training,
)
from workbench.priors.unet import UNet, UNetSettings

RESFUSION = PathOutput(AffinePath.resfusion(), Prediction.VELOCITY)
X_IN = random_element(PLANE, seed=7)


class Sum(nn.Module):
    """x plus the sum of further channels, plus any numbers: everything it is given shows."""

    def forward(
        self,
        x: Tensor,
        label: Tensor,
        labels: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        result = x[:, :1] + x[:, 1:].sum(1, keepdim=True)
        if condition is not None:
            result = result + 2 * condition.sum(1, keepdim=True)
        return result if labels is None else result + labels.sum(1).reshape(-1, *[1] * (x.ndim - 1))


def data_prior(module: nn.Module, calling: Calling, space: Space = PLANE, **settings: Any) -> NetworkPrior:
    """Return a prior whose D is what the module gives."""
    return NetworkPrior(module, space, PathOutput(AffinePath.edm(), "data"), calling=calling, **settings)


def test_a_path_to_an_image_needs_it() -> None:
    network = Analytic(mixture(), RESFUSION.path, RESFUSION.prediction)
    prior = NetworkPrior(network, PLANE, RESFUSION, calling=Plain(images=("image",)))
    assert prior.conditions == ("image",)
    z = random_element(PLANE, 2)
    for attempt in (lambda: prior.denoise(z, 0.5), lambda: prior.denoise_scaled(z, 0.0)):
        with pytest.raises(
            ValueError, match="`prior` must be bound to its condition, got a prior without image"
        ):
            attempt()
    x_in = X_IN.clone()
    bound = prior.given(x_in)
    expected = bound.denoise(z, 0.5)
    assert close(expected, mixture().denoise(z, 0.5), 1e-12)
    assert torch.equal(prior.given({"image": X_IN}).denoise(z, 0.5), expected)
    before = bound.hash
    x_in.add_(1.0)
    assert torch.equal(bound.denoise(z, 0.5), expected)
    assert bound.hash == before
    assert len({prior.hash, before, prior.given(x_in).hash}) == 3
    with pytest.raises(ValueError, match="`prior` must be bound once"):
        bound.given(x_in)
    assert not prior.is_bound


def test_a_path_may_lead_to_an_image_that_the_network_does_not_see() -> None:
    # D = 0 from a network that predicts data: x_in is in x alone.
    seen = []

    class Watched(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros_like(x)

    path = AffinePath.mean_reverting()
    prior = NetworkPrior(Watched(), PLANE, PathOutput(path, Prediction.DATA)).given(X_IN)
    z = random_element(PLANE, 2)
    prior.denoise(z, 0.5)
    at = path.at(path.time_of(0.5))
    assert close(seen[-1], (at.a * z + at.b * X_IN), 1e-14)


@pytest.mark.parametrize(
    ("calling", "condition", "added"),
    [
        (Plain(images=("scout",)), torch.full(PLANE.shape, 3.0), 3.0),
        (
            Plain(images=("scout", "mask")),
            {"mask": torch.ones(2, *PLANE.shape), "scout": torch.ones(PLANE.shape)},
            3.0,
        ),
        (Plain(images=("scout",)), torch.full(PLANE.shape, 1 + 2j), 3.0),
        (Labelled(labels=2), torch.tensor([1.0, 2.0]), 3.0),
        (Labelled(labels=2), {"labels": torch.tensor([1, 2])}, 3.0),
        (
            Labelled(labels=1, images=("scout",)),
            {"labels": torch.ones(1), "scout": torch.ones(PLANE.shape)},
            3.0,
        ),
    ],
    ids=["image", "two images", "complex image", "labels", "whole labels", "both"],
)
def test_conditions_reach_the_module(calling: Calling, condition: Any, added: float) -> None:
    prior = data_prior(Sum(), calling)
    z = random_element(PLANE, 3, dtype=torch.float32)
    bound = prior.given(condition)
    assert close(bound.denoise(z, 0.5), z + added, 1e-6)
    assert bound.denoise(z.double(), 0.5).dtype == torch.float64
    for value in condition.values() if isinstance(condition, dict) else [condition]:
        value += 1  # the prior has its own
    assert close(bound.denoise(z, 0.5), z + added, 1e-6)
    assert bound.counted(Ledger()).denoise(z, 0.5).shape == z.shape
    assert bound.hash != prior.hash


@pytest.mark.parametrize(
    ("policy", "training"),
    [
        (Convolve(8), Training()),
        (Tile(1), Training(size=(2, 3))),
        (Resample(), Training(spacing=(2.0, 2.0))),
    ],
    ids=["convolve", "tile", "resample"],
)
def test_conditions_go_the_way_of_the_image(policy: Any, training: Training) -> None:
    space = Space.field(Grid.plane((4, 6), 1.0))
    prior = data_prior(Sum(), Plain(images=("scout",)), space, policy=policy, training=training)
    # Of images without fine detail nothing is lost on the way.
    waves = [(torch.pi * torch.arange(n, dtype=torch.float64).add(0.5) / n).cos() for n in (4, 6)]
    z, scout = 1 + waves[0][:, None] * waves[1], 2 - waves[1].expand(4, 6)
    got = prior.given(scout.reshape(space.shape)).denoise(torch.stack([z, 2 * z])[:, None], 0.5)
    assert close(got, torch.stack([z, 2 * z])[:, None] + scout, 1e-12)


@pytest.mark.parametrize(
    ("calling", "condition", "message"),
    [
        (Plain(), torch.zeros(PLANE.shape), "`prior` must take a condition, got NetworkPrior and a Tensor"),
        (Plain(images=("scout",)), torch.zeros(1, 4, 4), r"`scout` must have the shape \(\.\.\., 1, 3, 4\)"),
        (Plain(images=("scout",)), torch.full(PLANE.shape, float("nan")), "`scout` must hold finite values"),
        (Plain(images=("scout",)), "scout", "`scout` must be a torch.Tensor, got str"),
        (Plain(images=("scout",)), {"image": X_IN}, "`condition` must have the names scout, got image"),
        (Plain(images=("a", "b")), X_IN, "`condition` must have the names a, b, got one tensor"),
        (
            Labelled(labels=2),
            torch.zeros(3),
            r"`labels` must be real numbers of shape \(2\), got torch.float32 of",
        ),
        (Labelled(labels=2), torch.zeros(2) * 1j, r"`labels` must be real numbers of shape \(2\)"),
        (Monai(classes=3), torch.tensor(3), "`class` must be one whole number, 0 <= class < 3, got 3"),
        (Monai(classes=3), torch.tensor(1.0), "`class` must be one whole number, .* torch.float32"),
        (Monai(context_width=4), torch.zeros(4), r"`context` must be real numbers of shape \(any, 4\)"),
    ],
)
def test_wrong_conditions_are_named(calling: Calling, condition: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        data_prior(Sum(), calling).given(condition)


def test_the_image_of_a_path_is_an_element_of_the_space() -> None:
    prior = NetworkPrior(Pointwise(), PLANE, PathOutput(AffinePath.residual(), "data"))
    for value, message in (
        (X_IN[None], r"`image` must have the shape \(1, 3, 4\), got \(1, 1, 3, 4\)"),
        (X_IN * 1j, "`image` must be real"),
        (X_IN[..., :3], r"`image` must have shape \(\.\.\., 1, 3, 4\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            prior.given(value)


@dataclass
class Result:
    sample: Tensor


class Diffusion(nn.Module):
    """Called as the U-Nets of diffusers are."""

    def __init__(self, result: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.result = result

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        class_labels: Tensor | None = None,
    ) -> object:
        total = sample
        if encoder_hidden_states is not None:
            total = total + encoder_hidden_states.mean((1, 2)).reshape(-1, 1, 1, 1)
        return self.result(total if class_labels is None else total + class_labels.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("result", [Result, lambda x: (x,), lambda x: x], ids=["sample", "tuple", "tensor"])
def test_diffusers_are_called_by_their_names(result: Callable[[Tensor], object]) -> None:
    prior = data_prior(Diffusion(result), Diffusers(classes=5, context_width=2))
    bound = prior.given({"class": torch.tensor(4), "context": torch.ones(3, 2)})
    z = random_element(PLANE, 2)
    assert close(bound.denoise(z, 0.5), z + 5, 1e-12)
    assert close(data_prior(Diffusion(result), Diffusers()).denoise(z, 0.5), z, 1e-12)


@pytest.mark.parametrize(
    ("module", "space", "calling", "message"),
    [
        (
            Small(2),
            PLANE,
            Plain(),
            r"`module` must take images of shape \(2, 1, 3, 4\).*RuntimeError.*channels",
        ),
        (Small(1), Space.field(PLANE.grid, is_complex=True), Plain(), r"shape \(3, 2, 3, 4\), as Plain.*two"),
        (Small(1, dims=3), PLANE, Plain(), "`module` must take images of shape .*the dimensions"),
        (Small(1), VOLUME, Plain(), "`module` must take images of shape .*the dimensions"),
        (
            Small(1, outputs=3),
            PLANE,
            Plain(),
            r"`module` must give images of shape \(2, 1, 3, 4\), got \(2, 3,",
        ),
        (nn.Linear(4, 4), PLANE, Plain(), "`module` must take images .*TypeError"),
        (UNet(UNetSettings()), PLANE, Labelled(), "`module` must take images .*multiple of 16"),
        (Small(1), PLANE, Monai(), "`module` must take images .*timesteps"),
        (Diffusion(lambda x: {"sample": x}), PLANE, Diffusers(), "`module` must return a tensor, or one as"),
        (Pointwise(), PLANE, "plain", "`calling` must be a Calling, got str"),
    ],
)
def test_a_module_that_does_not_fit_is_found_when_the_prior_is_made(
    module: nn.Module, space: Space, calling: Calling, message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        data_prior(module, calling, space)


def test_a_module_that_does_not_fit_its_condition_is_found_when_it_is_bound() -> None:
    prior = data_prior(Small(2, outputs=1), Plain(images=("scout",)))
    assert prior.given(X_IN).denoise(X_IN[None], 1.0).shape == (1, *PLANE.shape)
    with pytest.raises(
        ValueError, match=r"`module` must take images of shape \(2, 1, 3, 4\), as Plain\(images="
    ):
        prior.given(random_element(PLANE, 2))


def test_a_module_that_gives_something_else_in_a_run_is_named() -> None:
    class Moody(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return x[:1] if x.shape[0] > 3 else x

    prior = data_prior(Moody(), Plain())
    with pytest.raises(
        ValueError, match=r"`module` must give images of shape \(5, 1, 3, 4\), got \(1, 1, 3, 4\)"
    ):
        prior.denoise(random_element(PLANE, 5), 1.0)


def test_large_images_are_probed_without_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    import workbench.priors.network.frozen as frozen

    devices = []

    class Watched(Small):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            devices.append(x.device.type)
            return super().forward(x, label)

    monkeypatch.setattr(frozen, "LARGE", 0)
    prior = data_prior(Watched(), Plain())
    assert devices == ["meta"]
    assert prior.denoise(X_IN[None], 1.0).device.type == "cpu"
    with pytest.raises(ValueError, match="`module` must take images of shape"):
        data_prior(Watched(2), Plain())

    class Numbers(Small):
        """Looks at its numbers, which meta tensors do not have."""

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return super().forward(x, label) * (2.0 if float(label[0]) > 0 else 1.0)

    assert data_prior(Numbers(), Plain()).denoise(X_IN[None], 1.0).isfinite().all()


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: Plain(images="scout"), r"`images` must be a tuple of names, got 'scout'\. Such as"),
        (lambda: Plain(images=("a", "a")), "`images` must be names of their own"),
        (lambda: Labelled(labels=1, images=("labels",)), "`images` must be names of their own"),
        (lambda: Labelled(labels=-1), "`labels` must be an integer >= 0"),
        (lambda: Monai(classes=1.5), "`classes` must be an integer >= 0"),
    ],
)
def test_bad_callings_are_named(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        attempt()


def test_other_devices_are_the_module_moved() -> None:
    prior = data_prior(Small(2, outputs=1), Plain(images=("scout",))).given(X_IN)
    moved = prior.to("cpu")
    assert torch.equal(moved.denoise(X_IN[None], 1.0), prior.denoise(X_IN[None], 1.0))
    assert moved.hash == prior.hash
    assert FLOW.with_(negated=True).negated
