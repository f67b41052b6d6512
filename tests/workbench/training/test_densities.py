import math

import pytest
import torch

from workbench.paths.affine import AffinePath
from workbench.training.densities import Density, LogitNormal, LogNormal, LogUniform, UniformTime

U = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def test_log_normal_has_the_stated_moments() -> None:
    log = LogNormal(-1.2, 1.2).quantile(U).log()
    assert log.mean() == pytest.approx(-1.2, abs=1e-3)
    assert log.std() == pytest.approx(1.2, abs=2e-3)


def test_log_uniform_lies_between_its_ends_with_their_geometric_mean_in_the_middle() -> None:
    sigma = LogUniform(0.01, 100.0).quantile(torch.tensor([0.0, 0.5, 1.0]))
    assert sigma.tolist() == pytest.approx([0.01, 1.0, 100.0])


@pytest.mark.parametrize("path", [AffinePath.flow(), AffinePath.vp(), AffinePath.vp_cosine()])
def test_uniform_time_is_uniform_in_the_paths_time(path: AffinePath) -> None:
    inside = U[1000:-1000:97]
    time = path.time_of(UniformTime(path).quantile(inside))
    assert torch.allclose(time, path.end * inside, atol=1e-6)


def test_uniform_time_keeps_to_its_part_of_the_path() -> None:
    sigma = UniformTime(AffinePath.flow(), 0.2, 0.5).quantile(U)
    assert float(sigma.min()) == pytest.approx(0.25, rel=1e-3)
    assert float(sigma.max()) == pytest.approx(1.0, rel=1e-3)


def test_logit_normal_of_a_flow_is_log_normal() -> None:
    """t = sigma / (1 + sigma): logit(t) = log(sigma)."""
    got = LogitNormal(AffinePath.flow(), 0.3, 0.7).quantile(U[::999])
    assert torch.allclose(got, LogNormal(0.3, 0.7).quantile(U[::999]), rtol=1e-9)


def test_logit_normal_of_another_path_is_so_in_its_time() -> None:
    path = AffinePath.vp()
    share = path.time_of(LogitNormal(path, -0.5, 0.8).quantile(U[50::499])) / path.end
    logit = (share / (1 - share)).log()
    assert torch.allclose(logit, -0.5 + 0.8 * torch.special.ndtri(U[50::499]), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogNormal(sd=0.0), "`sd` must"),
        (lambda: LogNormal(mean=math.nan), "`mean` must"),
        (lambda: LogUniform(1.0, 0.5), "`high` must be above low = 1"),
        (lambda: UniformTime(AffinePath.flow(), 0.5, 0.5), "`first` must lie below last"),
        (lambda: Density.require("edm"), "`density` must be a Density"),
    ],
)
def test_bad_laws_are_refused(make: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()  # type: ignore[operator]
