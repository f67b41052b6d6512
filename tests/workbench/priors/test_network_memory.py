"""Memory for a gradient through a network: that of one part, or one tile."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from operators.grid import Grid
from operators.space import Space
from tests.oracles import random_element
from tests.workbench.priors.network_cases import FLOW
from workbench.priors.network import Exact, Execution, NetworkPrior, Tile


class Live(TorchDispatchMode):
    """Counts the bytes of what operations have made and is still alive; keeps the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.untyped_storage()._cdata in self.known:
                continue
            storage = tensor.untyped_storage()
            self.known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, key: int, count: int) -> None:
        self.known.discard(key)
        self.now -= count


class Deep(nn.Module):
    """Thirty activations per image."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        for _ in range(30):
            x = torch.tanh(x + 0.1)
        return x


@pytest.mark.parametrize("transform", [False, True], ids=["autograd", "vjp"])
def test_memory_for_a_gradient_is_that_of_one_part(transform: bool) -> None:
    space = Space.field(Grid.plane((32, 32), 1.0))
    z, v = (random_element(space, 16, dtype=torch.float32, seed=seed) for seed in (1, 2))
    image = 32 * 32 * 4

    def peak(execution: Execution, tile: int | None = None) -> float:
        policy = Exact() if tile is None else Tile(0, size=(tile, tile))
        prior = NetworkPrior(Deep(), space, FLOW, execution=execution, policy=policy)
        with Live() as live:
            if transform:
                prior.covariance(z, 0.5, v)
            else:
                leaf = z.clone().requires_grad_()
                torch.autograd.grad(prior.denoise(leaf, 0.5), leaf, v)
        return live.peak / image

    whole, parts = peak(Execution()), peak(Execution(microbatch=1))
    kept = peak(Execution(microbatch=1, checkpoint=False))
    # 16 images of 30 activations, or one image's beside some copies of the batch.
    assert min(whole, kept) >= 16 * 30
    assert parts <= 30 * 3 + 16 * 10
    # Tiles of a quarter: one of each image, 16 quarters of 30 activations.
    assert peak(Execution(), tile=16) <= 30 * 4 * 3 + 16 * 10
