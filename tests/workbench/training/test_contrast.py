import math

import pytest
import torch

from workbench.random import Keys
from workbench.training.contrast import Contrast, Hounsfield, Magnetisation, smooth_field

KEYS = Keys(2, draws=tuple(range(40)), step=3)


def brains(rows: int = 40) -> torch.Tensor:
    """Discs of brightness 300 with an inner part of 500, in an empty field."""
    at = torch.linspace(-1, 1, 64)
    radius = (at[:, None] ** 2 + at**2).sqrt()
    return (300.0 * (radius < 0.7) + 200.0 * (radius < 0.3)).expand(rows, 1, 64, 64)


def test_hounsfield_units_become_thousands_within_the_window() -> None:
    values = torch.tensor([-3000.0, -1000.0, 0.0, 40.0, 3000.0, 9000.0]).reshape(1, 1, 1, 6)
    contrast = Hounsfield()
    u = contrast.images(values, KEYS.of((0,)))
    assert u.flatten().tolist() == pytest.approx([-1, -1, 0, 0.04, 3, 3])
    assert contrast.units.physical(u).flatten()[3] == pytest.approx(40.0)
    assert contrast.data_range == (-1.0, 3.0)


def test_magnetisation_has_the_magnitude_at_the_stated_scale() -> None:
    images = Magnetisation(bias=0.0, gain=0.0).images(brains(), KEYS)
    magnitude = torch.linalg.vector_norm(images, dim=1)
    inside = brains()[:, 0] > 0
    for row, mask in zip(magnitude, inside, strict=True):
        assert torch.quantile(row[mask], 0.99).item() == pytest.approx(1.0, rel=1e-4)
    assert torch.allclose(magnitude, brains()[:, 0] / 500, atol=1e-6)


def test_its_gain_covers_the_stated_range_evenly() -> None:
    law = Magnetisation(bias=0.0, gain=0.35)
    keys = Keys(1, draws=tuple(range(400)))
    gains = torch.linalg.vector_norm(law.images(brains(400), keys), dim=1).amax(dim=(1, 2)).log()
    assert gains.min() < -0.33
    assert gains.max() > 0.33
    assert gains.mean().abs() < 0.03
    assert gains.std().item() == pytest.approx(0.35 / math.sqrt(3), rel=0.1)


def test_its_phase_is_smooth_and_its_constant_is_anything() -> None:
    images = Magnetisation(bias=0.0).images(torch.ones(40, 1, 64, 64), KEYS)
    values = torch.complex(images[:, 0], images[:, 1])
    across = (values[:, :, 1:] * values[:, :, :-1].conj()).angle()
    assert across.abs().max() < 1.0
    assert across.square().mean().sqrt() > 0.005
    middle = values[:, 32, 32].angle()
    assert middle.min() < -2
    assert middle.max() > 2


def test_complex_volumes_keep_their_own_phase() -> None:
    parts = torch.zeros(1, 2, 16, 16)
    parts[:, 0, :, :8], parts[:, 1, :, 8:] = 1.0, 1.0
    images = Magnetisation(bias=0.0, gain=0.0, phase=0.0).images(parts, KEYS.of((0,)))
    values = torch.complex(images[0, 0], images[0, 1])
    assert (values[:, 8:] / values[:, :8]).angle().mean().item() == pytest.approx(math.pi / 2, abs=1e-5)


def test_an_empty_slice_stays_empty() -> None:
    assert not Magnetisation().images(torch.zeros(2, 1, 16, 16), KEYS.of((0, 1))).any()


def test_smooth_fields_go_by_row_and_have_their_size() -> None:
    keys = Keys(0, draws=tuple(range(3000)))
    field = smooth_field(keys, (16, 16), "shade", first=1)
    assert torch.allclose(smooth_field(keys.of((7,)), (16, 16), "shade", first=1)[0], field[7])
    # A field without its constant has a mean of zero over the image.
    assert field.mean(dim=(1, 2)).abs().max() < 1e-9
    shares = [1 / (1 + p * p + q * q) for p in range(4) for q in range(4) if p + q >= 1]
    assert field.square().mean().item() == pytest.approx(sum(s * s for s in shares), rel=0.05)


def test_bad_contrasts_are_refused() -> None:
    with pytest.raises(ValueError, match="`high` must be above"):
        Hounsfield(0.0, -5.0)
    with pytest.raises(ValueError, match="`quantile` must"):
        Magnetisation(quantile=0.0)
    with pytest.raises(TypeError, match="`contrast` must be a Contrast"):
        Contrast.require("hu")
    with pytest.raises(ValueError, match="`values` must be real"):
        Hounsfield().images(torch.zeros(1, 2, 4, 4), KEYS.of((0,)))
