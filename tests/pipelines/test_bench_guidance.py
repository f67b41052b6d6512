"""The guidance section of the bench: bare loops that do the solvers' work, medians with intervals, rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.bench import guidance
from pipelines.bench.cases import CASES
from pipelines.bench.environment import Environment
from pipelines.bench.guidance import Problem
from pipelines.bench.session import PEERS, Session
from pipelines.bench.table import Absent, Timing
from pipelines.bench.timing import Plan, median_interval
from workbench.solvers.guidance.dds import DDS

QUICK = Plan(pairs=1, alone=0, least=0.001)


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    network = guidance.random_network()
    return {"mask": guidance.masked(16, network), "ct": guidance.projected(16, network, views=6)}


@pytest.mark.parametrize(
    ("count", "first", "last"), [(3, 1, 3), (5, 1, 5), (6, 1, 6), (10, 2, 9), (100, 40, 61)]
)
def test_the_interval_of_a_median_ends_at_the_ranks_of_the_tables(count: int, first: int, last: int) -> None:
    """Ranks of the distribution-free interval of at least 95 %, as printed in tables of the sign test."""
    values = [float((7 * k) % count + 1) if count % 7 else float(k + 1) for k in range(count)]
    assert sorted(values) == [k + 1.0 for k in range(count)]
    assert median_interval(values) == ((count + 1) / 2, first, last)


def test_a_bare_loop_does_what_the_solver_does(problems: dict[str, Problem]) -> None:
    """To rounding: the same denoiser, the same pull, the same prox, the same conjugate gradients."""
    mask, ct = problems["mask"], problems["ct"]
    sigma = 0.3
    z = mask.state(sigma)
    prior, likelihood = mask.posterior.prior, mask.posterior.measured
    clean = prior.denoise(z, sigma)
    assert float((clean - 25 / 34 * z).abs().max()) > 0.01  # the network has a say
    torch.testing.assert_close(mask.denoise(z, sigma), clean)
    torch.testing.assert_close(guidance.bare_prox(mask, z, sigma), likelihood.prox(clean, sigma))
    with torch.enable_grad():
        point = z.clone().requires_grad_()
        estimate = prior.denoise(point, sigma)
    pull = mask.sigma**2 * likelihood.gradient(estimate.detach())
    (expected,) = torch.autograd.grad(estimate, point, pull)
    (found,) = guidance.bare_dps(mask, z, sigma)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(guidance.bare_products(mask, z, sigma), pull)
    z = ct.state(sigma)
    clean = ct.posterior.prior.denoise(z, sigma)
    gamma = (sigma * 0.5) ** 2 / (sigma**2 + 0.5**2)
    corrected = clean + DDS()._correction(ct.posterior, clean, gamma)
    torch.testing.assert_close(guidance.bare_gradients(ct, z, sigma), corrected, rtol=1e-4, atol=1e-4)


def test_every_solver_has_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "STEPS_PER_PAIR", 2)
    session = Session(QUICK, Environment(tmp_path), lambda _: None)
    rows = list(CASES["guidance-64"].measure(session, "small", 16))
    assert [row.work.split(", 4 x")[0] for row in rows if isinstance(row, Timing)] == [
        "DPS, random mask",
        "DPS, CT, 30 views",
        "DiffPIR, random mask",
        "DDNM, random mask",
        "DDRM, random mask",
        "DDS, CT, 30 views",
    ]
    for row in rows:
        assert row.compared.together.pairs == 2
        assert "of processor time" in row.note


def test_without_deepinv_its_row_says_so_and_its_peer_may_import_the_network(tmp_path: Path) -> None:
    session = Session(QUICK, Environment(tmp_path), lambda _: None)
    (row,) = CASES["guidance-deepinv"].rows(session, "guidance-deepinv")
    assert isinstance(row, Absent)
    assert "make bench" in row.reason
    assert PEERS["deepinv-guidance"].shared
    assert not PEERS["deepinv"].shared


def test_the_same_data_and_weights_are_handed_over(problems: dict[str, Problem]) -> None:
    mask = problems["mask"]
    arrays = guidance._arrays(mask)
    assert arrays["mask"].shape == (1, 16, 16)
    assert arrays["data"].shape == (guidance.DRAWS, 1, 16, 16)
    weights = {name for name in arrays if name.startswith("weights ")}
    assert {f"weights {name}" for name in mask.network.state_dict()} == weights
    image = mask.image.expand(guidance.DRAWS, -1, -1, -1)
    assert mask.misfit(image) < 1.2 * guidance.NOISE / (1 + guidance.NOISE**2) ** 0.5
    assert mask.misfit(torch.zeros_like(image)) == pytest.approx(1.0)
