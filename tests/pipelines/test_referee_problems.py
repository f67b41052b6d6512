"""The problems of the referee are what they say."""

from __future__ import annotations

import math

import pytest
import torch

from operators.grid import Grid
from operators.matrix import Matrix
from operators.mri.patterns import acs_box
from pipelines.verify.referee import fields, images, small, twins
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.nonlinear import phase_posterior
from pipelines.verify.referee.problem import PROBLEMS, problem
from pipelines.verify.referee.truth import reals
from tests.problems import real_matrix
from workbench.driver import sample
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.exact_gaussian import ExactGaussian

#: Those that are built at once.
QUICK = (
    *("P1", "P2", "P3", "blur8", "mask8", "ct8", "coils8", "images16", "views16", "lines16"),
    *("phase2", "blur64"),
)


def posterior_of(name: str) -> Posterior:
    """Return the posterior alone, made anew."""
    if name == "P3":
        return small.bimodal_posterior()
    if name in ("P1", "P2"):
        return small.vector_posterior(name)
    if name in ("images16", "phase2"):
        return images.images_posterior() if name == "images16" else phase_posterior()
    if name in ("views16", "lines16"):
        return twins.twins_posterior(name)
    if name.endswith("64"):
        return fields.field_posterior(name.removesuffix("64"))
    return small.posterior_of(name.removesuffix("8"))


def test_the_names_are_those_of_the_tables() -> None:
    assert set(PROBLEMS) == {*QUICK, "mask64", "ct64", "mri64"}
    with pytest.raises(ValueError, match="`name` must be one of P1, P2, P3, .*, got 'P4'"):
        problem("P4")
    with pytest.raises(ValueError, match="`name` must be one of P1"):
        small.small_problem("blur64")
    with pytest.raises(ValueError, match="`name` must be one of blur64"):
        fields.field_problem("blur8")


@pytest.mark.parametrize("name", QUICK)
def test_a_problem_says_what_it_is(name: str) -> None:
    found = problem(name)
    assert found is problem(name)
    assert found.name == name
    assert found.note and "\n" not in found.note
    assert 2 <= found.fast_draws <= found.draws
    assert found.prior_is_gaussian == isinstance(found.posterior.prior, Gaussian)
    components = 2 if found.posterior.space.is_complex else 1
    assert found.truth.size == components * found.posterior.space.size
    assert found.truth.mean.dtype == torch.float64
    assert bool((found.truth.sd > 0).all())
    assert float(found.truth.mode_weights.sum()) == pytest.approx(1, abs=1e-12)
    weights = torch.linalg.eigvalsh(found.truth.covariance)
    assert float(weights.min()) > 0
    diagonal = found.truth.covariance.diagonal().sqrt()
    assert torch.allclose(diagonal, found.truth.sd[found.truth.patch], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_data_are_those_of_fixed_seeds_in_double_precision(name: str) -> None:
    posterior, again = posterior_of(name), posterior_of(name)
    assert posterior.physical_likelihood is not None
    assert again.physical_likelihood is not None
    data = posterior.physical_likelihood.data
    assert torch.equal(data, again.physical_likelihood.data)
    assert data.dtype == (torch.complex128 if posterior.space.is_complex else torch.float64)


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "phase2"])
def test_data_are_as_likely_as_data_of_the_model(name: str) -> None:
    posterior = posterior_of(name)
    b, z = posterior.measured.whitened
    objects = posterior.prior.draw(Keys(99, tuple(range(12))), like=torch.empty(0, dtype=torch.float64))
    clean = b.apply(objects)
    others = clean + Keys(98, tuple(range(12))).normals(clean.shape[1:], "noise", like=clean)
    energy = reals(others).square().mean(1)
    assert 0.2 * float(energy.min()) < float(reals(z[None]).square().mean()) < 5 * float(energy.max())


@pytest.mark.parametrize("name", QUICK)
def test_rows_are_those_of_u_in_the_problems_frame(name: str) -> None:
    found = problem(name)
    posterior, space = found.posterior, found.posterior.space
    u = posterior.prior.draw(Keys(3, (0, 1)), like=torch.empty(0, dtype=torch.float64))
    assert torch.allclose(found.rows(posterior.to_physical(u)), reals(u), rtol=0, atol=1e-12)
    assert space.grid is not None
    size, _, kind = space.shape[-1], space.shape[-2], space.kind
    assert kind == ("complex field" if name in ("coils8", "lines16") else "scalar field")
    expected = {"P": Grid.plane((2, 4), 1.0), "p": Grid.plane((1, 2), 1.0)}.get(name[0], small.grid_of(size))
    assert space.grid.matches(expected)


def noise_of(posterior: Posterior) -> float:
    assert posterior.physical_likelihood is not None
    noise = posterior.physical_likelihood.noise
    assert isinstance(noise, GaussianNoise)
    return float(noise.sigma)


@pytest.mark.parametrize("name", ["P1", "P2", "P3"])
def test_the_vectors_are_seen_through_known_singular_values(name: str) -> None:
    posterior = problem(name).posterior
    assert posterior.physical_likelihood is not None
    operator = posterior.physical_likelihood.operator
    assert isinstance(operator, Matrix)
    values = torch.linalg.svdvals(operator.matrix.value)
    assert torch.allclose(values, torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64), rtol=0, atol=1e-12)
    assert noise_of(posterior) == 0.2
    assert operator.domain.shape == (1, 2, 4)


def test_the_vectors_have_the_priors_that_they_state() -> None:
    def eigenvalues(prior: Gaussian) -> list[float]:
        root = real_matrix(prior.root)
        return torch.linalg.eigvalsh(root @ root.T).tolist()

    first, second, third = (problem(name).posterior.prior for name in ("P1", "P2", "P3"))
    assert eigenvalues(first) == pytest.approx([1.0] * 8, abs=1e-12)
    assert eigenvalues(second) == pytest.approx([2 * 0.025 ** (i / 7) for i in range(7, -1, -1)], abs=1e-12)
    # No eigenvectors are those of A: what is not measured is told by what is.
    s, a = real_matrix(second.root), real_matrix(problem("P2").posterior.measured.whitened[0])
    null = torch.linalg.svd(a).Vh[3:]
    assert float((null @ s @ a.T).abs().max()) > 0.1
    for component in third.components:
        assert eigenvalues(component) == pytest.approx(
            [0.3 * 6 ** (-i / 7) for i in range(7, -1, -1)], abs=1e-12
        )
    half = (third.components[0].mean - third.components[1].mean).flatten() / 2
    left, values, right = torch.linalg.svd(real_matrix(problem("P3").posterior.measured.whitened[0]))
    del left, values
    assert abs(float(right[0] @ half)) == pytest.approx(0.15, abs=1e-12)
    assert float((right[1:3] @ half).abs().max()) < 1e-12
    assert float((right[3:] @ half).norm()) == pytest.approx(1.5, abs=1e-12)
    assert problem("P3").truth.mode_weights.tolist() == pytest.approx([0.585, 0.415], abs=1e-12)


def test_images_leave_two_kinds_that_differ_where_nothing_is_measured() -> None:
    found = problem("images16")
    weights = found.truth.mode_weights
    alive = (weights > 0.1).nonzero()[:, 0].tolist()
    assert len(alive) == 2
    assert float(weights[alive].sum()) > 0.99
    above, below = images.templates()[:, :10], images.templates()[:, 10:]
    assert torch.equal(above[alive[0]], above[alive[1]])
    assert float((below[alive[0]] - below[alive[1]]).abs().max()) == 1
    assert found.posterior.physical_likelihood is not None
    kept = found.posterior.physical_likelihood.operator.kept  # type: ignore[attr-defined]
    assert not bool(kept[:, 10:].any())
    assert 0.4 < float(kept[:, :10].double().mean()) < 0.6
    # Modes far apart in their own spread: one component could not stand for two.
    apart = found.truth.means[alive[0]] - found.truth.means[alive[1]]
    solved = torch.linalg.solve(found.truth.covariances[0], apart)
    assert float(apart @ solved) ** 0.5 > 5


def test_the_two_signs_have_unequal_weights() -> None:
    weights = problem("phase2").truth.mode_weights.tolist()
    assert weights == pytest.approx([0.7, 0.3], abs=0.02)
    point = torch.tensor([[0.4, -1.1], [-0.4, 1.1]], dtype=torch.float64).reshape(2, 1, 1, 2)
    values = problem("phase2").posterior.measured.predicted(point)
    assert torch.equal(values[0], values[1])


def test_mri_takes_a_quarter_of_the_lines_and_the_middle_ones_by_several_coils() -> None:
    posterior = fields.field_posterior("mri")
    assert posterior.physical_likelihood is not None
    assert posterior.space.kind == "complex field"
    assert posterior.physical_likelihood.data.shape == (4, 16, 64)
    lines = fields.sampled_lines(64)
    assert lines.acceleration == 4
    (start,), (stop,) = acs_box(lines)
    assert start <= 28 and stop >= 36
    maps = fields.coil_maps(64)
    assert maps.shape == (4, 1, 64, 64)
    # Smooth: neighbours differ by a few per cent. Together they see all, each its own side best.
    assert float((maps[..., 1:] - maps[..., :-1]).abs().max()) < 0.06
    energy = maps.abs().square().sum(0)
    assert float(energy.max() / energy.min()) < 3
    assert len({int(m.abs().flatten().argmax()) for m in maps}) == 4


@pytest.mark.parametrize(
    ("name", "shape"), [("blur", (1, 64, 64)), ("mask", (2048,)), ("ct", (20, 1, 92)), ("mri", (4, 16, 64))]
)
def test_fields_are_measured_in_part_and_noisily(name: str, shape: tuple[int, ...]) -> None:
    posterior = fields.field_posterior(name)
    assert posterior.physical_likelihood is not None
    data = posterior.physical_likelihood.data
    assert data.shape == shape
    components = 2 if data.is_complex() else 1
    size = math.sqrt(float(data.abs().square().mean()) / components)
    assert noise_of(posterior) == pytest.approx(fields.NOISE[name] * size, rel=0.05)
    assert posterior.units.unit == ("1/mm" if name == "ct" else "")
    assert posterior.prior.data_sd == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("name", "size"), [("blur64", 64), ("mask64", 16), ("ct64", 16), ("mri64", 12)])
def test_another_exact_sampler_is_found_exact(name: str, size: int) -> None:
    found = problem(name) if size == 64 else fields.field_problem(name, size)
    count = 200
    samples = sample(found.posterior, ExactGaussian(), draws=count, seed=5)
    assert samples.grid == found.posterior.grid
    seen, floor = (
        measure(rows, found.truth)
        for rows in (found.rows(samples.tensor()), found.truth.draw(count, 6))  # type: ignore[list-item]
    )
    # Of a field with few effective components both figures vary: twice what exact draws show.
    assert seen.mean_error < 2 * floor.mean_error
    assert seen.covariance_error < 2 * floor.covariance_error  # type: ignore[operator]
    assert seen.variance_ratio == pytest.approx(1, abs=0.05)
    assert seen.coverage == pytest.approx(0.9, abs=0.01)
    assert seen.sliced_wasserstein < 2 * floor.sliced_wasserstein  # type: ignore[operator]
