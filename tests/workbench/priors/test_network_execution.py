"""Parts, precision, memory format, compilation and recomputation change nothing but rounding and memory."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from operators.grid import Grid
from operators.space import Space
from tests.contracts import close
from tests.oracles import random_element
from tests.workbench.priors.network_cases import FLOW, Small, small_prior
from workbench.paths import AffinePath, Prediction
from workbench.paths.schedules import Discrete
from workbench.priors.network import Calling, Execution, Label, NetworkPrior, PathOutput

PLANE = Space.field(Grid.plane((6, 8), 1.0))
VOLUME = Space.field(Grid.from_spacing((4, 6, 5), 1.0))
COMPLEX = Space.field(PLANE.grid, is_complex=True)
SIGMA = torch.tensor([0.1, 0.5, 1.0, 2.0, 30.0], dtype=torch.float64)
SPACES = {"plane": PLANE, "volume": VOLUME, "complex": COMPLEX}
WAYS = {
    "parts": Execution(microbatch=2),
    "kept": Execution(microbatch=2, checkpoint=False),
    "recomputed": Execution(checkpoint=True),
    "channels_last": Execution(channels_last=True),
    "all": Execution(microbatch=3, channels_last=True, checkpoint=True),
}


@pytest.fixture(params=SPACES.values(), ids=SPACES)
def space(request: pytest.FixtureRequest) -> Space:
    return request.param


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_way_of_running_changes_nothing(space: Space, way: Execution) -> None:
    reference, prior = small_prior(space), small_prior(space, way)
    z, v = (random_element(space, len(SIGMA), dtype=torch.float32, seed=seed) for seed in (1, 2))
    expected = reference.denoise(z, SIGMA)
    assert close(prior.denoise(z, SIGMA), expected, 1e-6)
    assert close(prior.covariance(z, SIGMA, v), reference.covariance(z, SIGMA, v), 2e-6)
    leaf, level = z.clone().requires_grad_(), SIGMA.clone().requires_grad_()
    got = torch.autograd.grad(prior.denoise(leaf, level), (leaf, level), v)
    for one, other in zip(
        got, torch.autograd.grad(reference.denoise(leaf, level), (leaf, level), v), strict=True
    ):
        assert close(one, other, 1e-5)


@pytest.mark.parametrize("way", [Execution(), WAYS["parts"], WAYS["recomputed"]], ids=str)
def test_transforms_and_higher_derivatives(way: Execution) -> None:
    prior, reference = small_prior(PLANE, way), small_prior(PLANE)
    z, v = (random_element(PLANE, 3, seed=seed) for seed in (1, 2))
    rows = torch.func.vmap(lambda row: prior.denoise(row, 0.5))(z)
    assert close(rows, reference.denoise(z, 0.5), 1e-6)
    _, tangent = torch.func.jvp(lambda point: prior.denoise(point, 0.5), (z,), (v,))
    _, expected = torch.func.jvp(lambda point: reference.denoise(point, 0.5), (z,), (v,))
    assert close(tangent, expected, 1e-6)

    def curvature(of: NetworkPrior) -> Tensor:
        leaf = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(of.denoise(leaf, 0.5), leaf, v, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), leaf)[0]

    assert close(curvature(prior), curvature(reference), 1e-5)


def test_a_network_may_return_what_it_was_given() -> None:
    z, v = (random_element(PLANE, 3, seed=seed) for seed in (1, 2))
    for way in (Execution(), Execution(microbatch=1)):
        prior = NetworkPrior(
            nn.Identity(), PLANE, PathOutput(AffinePath.edm(), "data"), calling=Alone(), execution=way
        )
        got = prior.denoise(z, 0.5)
        assert torch.equal(got, z)
        assert got.data_ptr() != z.data_ptr()
        assert close(prior.covariance(z, 0.5, v), v / 4, 1e-14)


@dataclass(frozen=True)
class Alone(Calling):
    """A calling of one's own: a module that is told no noise level."""

    images: tuple[str, ...] = ()

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        label: Tensor,
        images: Tensor | None,
        numbers: Mapping[str, Tensor],
    ) -> Tensor:
        return module(x)


class Rows(nn.Module):
    """Keeps how many images it was given."""

    seen: ClassVar[list[int]] = []

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.seen.append(x.shape[0])
        return x * label.reshape(-1, 1, 1, 1).to(x.dtype)


def test_parts_are_no_larger_than_the_microbatch() -> None:
    prior = NetworkPrior(Rows(), PLANE, FLOW, execution=Execution(microbatch=2))
    Rows.seen.clear()
    prior.denoise(random_element(PLANE, 5), 1.0)
    assert Rows.seen == [2, 2, 1]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_is_for_the_network_alone(half: torch.dtype) -> None:
    seen = []

    class Watched(Small):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            h = self.first(x)
            seen.append((h.dtype, label.dtype))
            return self.last(torch.tanh(h))

    prior = NetworkPrior(Watched(), PLANE, FLOW, execution=Execution(autocast=half, microbatch=2))
    z = random_element(PLANE, 3, dtype=torch.float32)
    sigma = torch.tensor([1e-4, 1e-3, 2.0])
    got = prior.denoise(z, sigma)
    assert seen[-1] == (half, torch.float32)
    assert got.dtype == torch.float32
    # What is left of z at low noise was never rounded to half precision: D - z is of the order of sigma.
    assert ((got - z)[:2].abs().amax((1, 2, 3)) <= 10 * sigma[:2]).all()
    plain = NetworkPrior(Watched(), PLANE, FLOW)
    full = plain.denoise(z, sigma)
    with torch.autocast("cpu", half):
        assert torch.equal(plain.denoise(z, sigma), full)
    assert close(got, full, 8 * torch.finfo(half).eps)
    assert close(prior.covariance(z, 1.0, z), plain.covariance(z, 1.0, z), 0.05)


@pytest.mark.parametrize("weights", [torch.float32, torch.float64, torch.bfloat16])
def test_the_module_computes_in_its_own_precision(weights: torch.dtype) -> None:
    seen = []

    class Watched(Small):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            seen.append((x.dtype, label.dtype))
            return super().forward(x, label)

    path = AffinePath(Discrete.of_linear_betas())
    output = PathOutput(path, Prediction.NOISE)
    prior = NetworkPrior(Watched().to(weights), PLANE, output)
    z = random_element(PLANE, 2)
    got = prior.denoise(z, path.schedule.sigmas[999])
    # In bfloat16 index 999 would be 1000.
    assert seen[-1] == (weights, torch.promote_types(weights, torch.float32))
    assert got.dtype == torch.float64
    assert close(got, NetworkPrior(Watched(), PLANE, output).denoise(z, path.schedule.sigmas[999]), 0.05)


def test_channels_last_reaches_weights_and_images() -> None:
    seen = []

    class Watched(Small):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            seen.append((x.is_contiguous(memory_format=torch.channels_last), self.last.weight.stride()))
            return super().forward(x, label)

    module = Watched(2)
    before = module.last.weight.stride()
    prior = NetworkPrior(module, COMPLEX, FLOW, execution=Execution(channels_last=True))
    assert prior.denoise(random_element(COMPLEX, 2), 1.0).is_contiguous()
    assert seen[-1] == (True, (36, 1, 12, 4))
    assert module.last.weight.stride() == before


def test_a_compiled_network_is_differentiable_and_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compiled(module: nn.Module) -> Any:
        calls.append(module)
        return real(module, backend="aot_eager")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compiled)
    prior, reference = small_prior(PLANE, Execution(compile=True)), small_prior(PLANE)
    z, v = (random_element(PLANE, 3, dtype=torch.float32, seed=seed) for seed in (1, 2))
    assert calls == []  # not before it is needed
    for _ in range(2):
        assert close(prior.denoise(z, 0.5), reference.denoise(z, 0.5), 1e-6)
    assert len(calls) == 1
    assert prior.differentiable
    assert close(prior.covariance(z, 0.5, v), reference.covariance(z, 0.5, v), 1e-5)
    leaf = z.clone().requires_grad_()
    (got,) = torch.autograd.grad(prior.denoise(leaf, 0.5), leaf, v)
    assert close(got * 0.25, reference.covariance(z, 0.5, v), 1e-5)
    twin = copy.deepcopy(prior)
    assert close(twin.denoise(z, 0.5), reference.denoise(z, 0.5), 1e-6)
    assert twin.hash == prior.hash != reference.hash


def test_priors_are_pickled_with_their_weights() -> None:
    prior = small_prior(PLANE, Execution(microbatch=2))
    twin = pickle.loads(pickle.dumps(prior))
    z = random_element(PLANE, 3)
    assert torch.equal(twin.denoise(z, 0.5), prior.denoise(z, 0.5))
    assert twin.hash == prior.hash


def test_the_caller_keeps_his_module() -> None:
    module = Small().train()
    prior = NetworkPrior(module, PLANE, FLOW)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    leaf = random_element(PLANE, 1).requires_grad_()
    prior.denoise(leaf, 0.5).sum().backward()
    assert all(parameter.grad is None for parameter in module.parameters())
    # The weights lie in memory once.
    assert prior._network._memo_module.last.weight.data_ptr() == module.last.weight.data_ptr()


def test_training_the_weights_on_is_noticed() -> None:
    module = Small()
    prior = NetworkPrior(module, PLANE, FLOW)
    with torch.no_grad():
        module.last.bias.add_(1.0)
    for attempt in (lambda: prior.denoise(random_element(PLANE, 1), 0.5), lambda: copy.deepcopy(prior)):
        with pytest.raises(ValueError, match="`module` must stay as it was .* copy.deepcopy"):
            attempt()
    assert NetworkPrior(module, PLANE, FLOW).hash != prior.hash


def test_weights_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import workbench.priors.network.frozen as frozen

    hashed = []

    def counted(*values: object, name: str) -> str:
        hashed.append(values)
        return original(*values, name=name)

    original = frozen.fingerprint
    monkeypatch.setattr(frozen, "fingerprint", counted)
    prior = small_prior(PLANE)
    assert len({prior.hash, prior.declared.hash, copy.copy(prior).hash}) == 1
    assert len(hashed) == 1
    with torch.no_grad():
        module = Small()
        module.first.bias[0] += 1e-6
    assert NetworkPrior(module, PLANE, FLOW).hash != prior.hash


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: Execution(microbatch=0), "`microbatch` must be an integer >= 1, got 0"),
        (
            lambda: Execution(autocast=torch.float32),
            "`autocast` must be None, torch.bfloat16 or torch.float16",
        ),
        (lambda: Execution(compile=1), "`compile` must be True or False, got 1"),
        (lambda: Execution(checkpoint=0), "`checkpoint` must be True, False or None, got 0"),
        (
            lambda: Execution().with_(batch=2),
            "`with_` must name one of microbatch, .*Did you mean microbatch",
        ),
        (lambda: NetworkPrior(torch.tanh, PLANE, FLOW), "`module` must be a torch.nn.Module, got builtin"),
        (
            lambda: NetworkPrior(nn.LazyConv2d(1, 3), PLANE, FLOW),
            "`module` must have its weights, got a lazy",
        ),
        (lambda: NetworkPrior(uncopied(), PLANE, FLOW), "`module` must be one that copy.deepcopy can copy"),
        (
            lambda: NetworkPrior(Small(), PLANE, FLOW, execution="fast"),
            "`execution` must be of type Execution",
        ),
    ],
)
def test_bad_settings_are_named(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        attempt()


def uncopied() -> nn.Module:
    """Return a module that keeps a tensor with a history, as old weight norms do."""
    module = Small()
    module.kept = module.first.weight * 2
    return module


def test_index_labels_go_through_recomputation() -> None:
    path = AffinePath.discrete((0.1, 0.3, 1.0, 3.0))
    output = PathOutput(path, Prediction.NOISE, Label.INDEX)
    z, v = (random_element(PLANE, 3, seed=seed) for seed in (1, 2))
    made = functools.partial(NetworkPrior, Small(), PLANE, output)
    whole, parts = made(), made(execution=Execution(microbatch=1))
    assert close(parts.denoise(z, 0.35), whole.denoise(z, 0.35), 1e-6)
    assert close(parts.covariance(z, 0.35, v), whole.covariance(z, 0.35, v), 1e-6)
