"""Stripe removal: stripes of known size go, the object stays."""

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from tests.workbench.solvers.analytic.ct_cases import chords
from workbench.calibrate.rings import Method, remove_rings

METHODS = ("sorting", "mean")


def phantom() -> Tensor:
    geometry = ParallelBeamGeometry.around(Grid.plane((512, 512), 0.25), 90)
    whole = chords(geometry, 50.0, (3.0, -4.0, 0.0), ball=False)
    return whole + 0.5 * chords(geometry, 20.0, (12.0, 15.0, 0.0), ball=False)


@pytest.mark.parametrize("method", METHODS)
def test_stripes_go(method: Method) -> None:
    clean = phantom()
    stripes = torch.zeros(clean.shape[-1], dtype=clean.dtype)
    places = np.random.Generator(np.random.Philox(2)).permutation(np.arange(230, 500, 9))
    for k, place in enumerate(places):
        stripes[place : place + 1 + k % 2] = 0.05 * (-1) ** k * float(clean.max())
    cleaned = remove_rings(clean + stripes, method=method)
    left = (cleaned - remove_rings(clean, method=method)).square().mean().sqrt()
    assert left < stripes.square().mean().sqrt() / 5


@pytest.mark.parametrize("method", METHODS)
def test_an_object_without_stripes_hardly_changes(method: Method) -> None:
    clean = phantom()
    change = remove_rings(clean, method=method) - clean
    assert change.square().mean().sqrt() < 0.01 * (clean.max() - clean.min())
    assert bool(torch.isfinite(change).all())


def test_what_is_the_same_in_all_columns_is_untouched() -> None:
    views = torch.linspace(0, 1, 30)[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    data = views[:, None, None].expand(30, 2, 40).contiguous()
    assert torch.equal(remove_rings(data), data)
    assert torch.allclose(remove_rings(data, method="mean"), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 4}, "`width` must be an odd number of at most 40 columns"),
        ({"width": 41}, "`width` must be an odd number"),
        ({"method": "fourier"}, "`method` must be one of sorting, mean"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remove_rings(torch.zeros(3, 1, 40), **options)  # type: ignore[arg-type]


def test_bad_data_are_named() -> None:
    with pytest.raises(ValueError, match="have shape"):
        remove_rings(torch.zeros(3, 40))
    with pytest.raises(ValueError, match="`line_integrals` must hold finite values"):
        remove_rings(torch.full((3, 1, 40), torch.nan))
