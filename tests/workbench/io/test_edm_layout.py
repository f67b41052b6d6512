"""Networks in EDM's layout give the D of the formulas in the paper's table 1, whatever stands around them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from operators.grid import Grid
from operators.space import Space
from workbench.io.edm_layout import (
    EDMPreconditioning,
    IDDPMPreconditioning,
    Preconditioning,
    Relabelled,
    VEPreconditioning,
    VPPreconditioning,
    read_edm_weights,
)
from workbench.io.tensor_file import write_tensors
from workbench.paths import AffinePath
from workbench.priors.network.calling import Plain
from workbench.priors.network.output import Label, PathOutput
from workbench.priors.network.prior import NetworkPrior

pytest.importorskip("safetensors", reason="weights need the [io] extra")

SPACE = Space.field(Grid.from_spacing((1, 6, 6), 1.0))


class Raw(nn.Module):
    """Called as the networks of EDM's code; sensitive to its label at every scale."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, outputs, 3, padding=1, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-0.3, 0.5, self.layer.weight.numel()).reshape(-1, 1, 3, 3))
            self.layer.bias.fill_(0.1)

    def forward(
        self, x: Tensor, label: Tensor, class_labels: Tensor | None, augment: Tensor | None = None
    ) -> Tensor:
        assert class_labels is None and augment is None
        column = label.reshape(-1, 1, 1, 1)
        return self.layer(x).tanh() * (1 + 0.5 * torch.sin(3 * column)) + torch.cos(0.05 * column)


def raw(x: Tensor, label: float, outputs: int = 1) -> Tensor:
    with torch.no_grad():
        return Raw(outputs)(x, torch.tensor([label], dtype=torch.float64), None)[:, :1]


def table1(kind: str, z: Tensor, sigma: float) -> Tensor:
    """Return D_theta of Karras et al. (2022), table 1, with its constants."""
    if kind == "edm":
        data = 0.6
        total = sigma**2 + data**2
        inner = raw(z / math.sqrt(total), math.log(sigma) / 4)
        return data**2 / total * z + sigma * data / math.sqrt(total) * inner
    if kind == "vp":
        beta_d, beta_min = 19.9, 0.1
        root = math.sqrt(beta_min**2 + 2 * beta_d * math.log(1 + sigma**2))
        label = 999 * (root - beta_min) / beta_d
        return z - sigma * raw(z / math.sqrt(sigma**2 + 1), label)
    return z + sigma * raw(z, math.log(sigma / 2))


KINDS: dict[str, Preconditioning] = {
    "edm": EDMPreconditioning(0.6),
    "vp": VPPreconditioning(),
    "ve": VEPreconditioning(),
}


def stored(tmp_path: Path, prefix: str, outputs: int = 1) -> Path:
    state = {prefix + name: tensor + 0 for name, tensor in Raw(outputs).state_dict().items()}
    return write_tensors(tmp_path / "edm.safetensors", {**state, "sigma_data": torch.tensor(0.5)}, {})


def blank(outputs: int = 1) -> Raw:
    network = Raw(outputs)
    nn.init.zeros_(network.layer.weight)
    return network


def z_at(sigma: float) -> Tensor:
    return (1 + sigma) * torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(1, *SPACE.shape)


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 7.0, 79.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_that_of_table_1(tmp_path: Path, kind: str, sigma: float) -> None:
    prior = read_edm_weights(stored(tmp_path, "model."), SPACE, blank(), KINDS[kind])
    z = z_at(sigma)
    # Labels up to 999, in double precision; cos and sin turn at most 3 times as fast.
    assert (prior.denoise(z, sigma) - table1(kind, z, sigma)).abs().max() < 1e-10 * (1 + sigma)


def iddpm_table(steps: int = 1000, c_1: float = 0.001, c_2: float = 0.008) -> list[float]:
    """Return u_0 > ... > u_steps = 0 by the recursion as it is written in table 1."""
    levels = [0.0]
    for j in range(steps, 0, -1):
        below, at = (math.sin(math.pi / 2 * k / steps / (c_2 + 1)) ** 2 for k in (j - 1, j))
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / max(below / at, c_1) - 1))
    return levels[::-1]


def test_the_levels_of_iddpm_are_those_of_its_recursion() -> None:
    levels = iddpm_table()
    sigmas = IDDPMPreconditioning().sigmas
    assert len(sigmas) == 1000
    # 1e-5 of itself is what the first squares are told apart from 0 by.
    assert sigmas == pytest.approx(levels[-2::-1], rel=1e-9)


@pytest.mark.parametrize("j", [0, 3, 500, 998, 999])
def test_the_mean_of_iddpm_is_that_of_table_1(tmp_path: Path, j: int) -> None:
    prior = read_edm_weights(stored(tmp_path, "model.", 2), SPACE, blank(2), IDDPMPreconditioning())
    sigma = iddpm_table()[j]
    z = z_at(sigma)
    expected = z - sigma * raw(z / math.sqrt(sigma**2 + 1), 999 - j, 2)
    assert (prior.denoise(z, sigma) - expected).abs().max() < 1e-8 * (1 + sigma)


def test_a_preconditioned_module_gives_its_own_mean() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Raw()

        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
            column = sigma.reshape(-1, 1, 1, 1)
            total = (column**2 + 0.6**2).sqrt()
            inner = self.model(x / total, column.log().flatten() / 4, class_labels)
            return (0.6 / total) ** 2 * x + 0.6 * column / total * inner

    prior = NetworkPrior(Whole(), SPACE, PathOutput(AffinePath.edm(), "data", Label.SIGMA), calling=Plain())
    z = z_at(3.0)
    assert (prior.denoise(z, 3.0) - table1("edm", z, 3.0)).abs().max() < 1e-12


def test_the_beginning_of_names_is_said_and_not_guessed(tmp_path: Path) -> None:
    path = stored(tmp_path, "unet.")
    with pytest.raises(ValueError, match=r"`prefix` must begin names.*'unet.' \(2\)"):
        read_edm_weights(path, SPACE, blank(), EDMPreconditioning())
    prior = read_edm_weights(path, SPACE, blank(), EDMPreconditioning(0.6), prefix="unet.")
    assert (prior.denoise(z_at(1.0), 1.0) - table1("edm", z_at(1.0), 1.0)).abs().max() < 1e-12


def test_a_label_is_told_in_another_scale() -> None:
    class Echo(nn.Module):
        def forward(self, x: Tensor, label: Tensor, *more: object) -> Tensor:
            assert len(more) in (0, 2)
            return label

    label = torch.tensor([0.0, 0.5])
    assert Relabelled(Echo(), 999.0, -1.0)(torch.zeros(2), label).tolist() == [-1.0, 498.5]
    assert Relabelled(Echo(), 2.0)(torch.zeros(2), label, None, None).tolist() == [0.0, 1.0]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`preconditioning` must be a Preconditioning, got str"):
        read_edm_weights(stored(tmp_path, "model."), SPACE, blank(), "edm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`steps` must be an integer >= 2"):
        VPPreconditioning(steps=1)
    with pytest.raises(ValueError, match="`c_1` must be a finite number > 0"):
        IDDPMPreconditioning(c_1=0.0)
    with pytest.raises(ValueError, match="`sigma_data` must be a finite number > 0"):
        EDMPreconditioning(-1.0).output  # noqa: B018
