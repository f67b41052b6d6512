import pytest
import torch

from operators import cg, linalg
from operators.space import Space
from tests.oracles import random_element


def positive_definite(n: int, condition: float, *, is_complex: bool = False) -> torch.Tensor:
    basis, _ = torch.linalg.qr(random_element(Space((n, n), is_complex)))
    eigenvalues = torch.logspace(0, torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)
    return (basis * eigenvalues) @ basis.conj().T


@pytest.mark.parametrize("is_complex", [False, True])
def test_solves_each_sample(is_complex: bool) -> None:
    g = positive_definite(30, 1e3, is_complex=is_complex)
    b = random_element(Space((30,), is_complex), 4)
    result = cg.conjugate_gradient(lambda v: v @ g.T, b, tolerance=1e-10)
    assert bool(result.converged.all())
    expected = torch.linalg.solve(g, b.T).T
    assert (result.solution - expected).abs().max() <= 1e-8 * expected.abs().max()
    residual = (b - result.solution @ g.T).norm(dim=1) / b.norm(dim=1)
    assert torch.allclose(residual, result.relative_residual)


def test_exact_after_as_many_iterations_as_distinct_eigenvalues() -> None:
    diagonal = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).repeat(10)
    result = cg.conjugate_gradient(lambda v: v * diagonal, random_element(Space((30,)), 1), tolerance=1e-12)
    assert int(result.iterations) == 3


def test_each_sample_stops_for_itself() -> None:
    # Entry by entry, so that a sample's arithmetic is the same in any batch.
    diagonal = torch.logspace(0, 3, 30, dtype=torch.float64)
    hard = random_element(Space((30,)), 1)
    easy = torch.eye(30, dtype=torch.float64)[:1]  # an eigenvector: one step
    zero = torch.zeros_like(hard)
    batch = torch.cat([hard, easy, zero])
    result = cg.conjugate_gradient(lambda v: v * diagonal, batch, tolerance=1e-8)
    # The sample alone takes as long and arrives at the same place.
    alone = cg.conjugate_gradient(lambda v: v * diagonal, hard, tolerance=1e-8)
    assert result.iterations.tolist()[1:] == [1, 0]
    assert int(result.iterations[0]) == int(alone.iterations)
    assert (result.solution[:1] - alone.solution).abs().max() <= 1e-12 * alone.solution.abs().max()
    assert not result.solution[2].any()


def test_warm_start_saves_iterations() -> None:
    g = positive_definite(40, 1e4)
    b = random_element(Space((40,)), 2)
    exact = torch.linalg.solve(g, b.T).T
    cold = cg.conjugate_gradient(lambda v: v @ g.T, b, tolerance=1e-6)
    warm = cg.conjugate_gradient(lambda v: v @ g.T, b, start=exact * (1 + 1e-5), tolerance=1e-6)
    assert int(warm.iterations.max()) < int(cold.iterations.max())
    at_goal = cg.conjugate_gradient(lambda v: v @ g.T, b, start=exact, tolerance=1e-6)
    assert not at_goal.iterations.any()


def test_the_stop_is_on_the_true_residual() -> None:
    """In single precision the recursion claims more than the solution holds; the claim is checked."""
    g = positive_definite(60, 1e3).float()
    b = random_element(Space((60,)), 1, dtype=torch.float32)
    b = b / b.abs().max()  # of unit size, as it is solved: both residuals then round alike
    result = cg.conjugate_gradient(lambda v: v @ g.T, b, tolerance=1e-9, max_iterations=2000)
    true = (b - result.solution @ g.T).norm() / b.norm()
    assert not bool(result.converged)  # 1e-9 is beyond single precision, and it says so
    assert float(result.relative_residual) == pytest.approx(float(true), rel=1e-3)
    assert int(result.iterations) < 2000  # it gives up when restarts no longer help


def test_a_recursion_that_misses_is_restarted_on_the_true_residual() -> None:
    # Far away, b - G x is known to 1e-7 * |G x| only: the recursion goes to where that leads.
    g = positive_definite(20, 10.0).float()
    b = random_element(Space((20,)), 2, dtype=torch.float32)
    start = 1e4 * random_element(Space((20,)), 2, dtype=torch.float32).flip(1)
    result = cg.conjugate_gradient(lambda v: v @ g.T, b, start=start, tolerance=2e-6)
    assert bool(result.converged.all())
    true = (b.double() - result.solution.double() @ g.double().T).norm(dim=1) / b.double().norm(dim=1)
    assert float(true.max()) <= 4e-6


@pytest.mark.parametrize("begun", [0.0, 0.5])
def test_no_answer_is_worse_than_where_it_began(begun: float) -> None:
    # b has a part in the null space: the first step along it is 4 times too long.
    diagonal = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    b = torch.ones(2, 4, dtype=torch.float64)
    b[1, 1:] = 0
    start = torch.zeros_like(b)
    start[:, 1] = begun
    result = cg.conjugate_gradient(lambda v: v * diagonal, b, start=start, max_iterations=1)
    assert torch.equal(result.solution[0], start[0])
    assert torch.allclose(result.solution[1], start[1] + diagonal)  # a sample beside it is not held back
    assert result.relative_residual.tolist() == pytest.approx([1.0, 0.0])
    assert result.converged.tolist() == [False, True]


def test_callback_sees_every_iteration() -> None:
    seen: list[float] = []
    cg.conjugate_gradient(
        lambda v: v * torch.arange(1.0, 9.0),
        torch.ones(1, 8),
        max_iterations=4,
        callback=lambda i, r: seen.append(float(r)) or None,  # type: ignore[func-returns-value]
    )
    assert len(seen) == 4
    assert seen[-1] < seen[0]


def test_a_non_finite_operator_is_named() -> None:
    with pytest.raises(FloatingPointError, match="NaN or infinity at iteration 1. Rescale"):
        cg.conjugate_gradient(lambda v: v * torch.inf, torch.ones(1, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "`tolerance` must be a finite number > 0, got 0.0"),
        ({"max_iterations": 0}, "`max_iterations` must be an integer >= 1, got 0"),
        ({"start": torch.ones(2, 3)}, r"`start` must have the shape of b, \(1, 3\), got \(2, 3\)"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cg.conjugate_gradient(lambda v: v, torch.ones(1, 3), **options)  # type: ignore[arg-type]


def test_largest_eigenvalue_and_trace() -> None:
    g = positive_definite(50, 1e2)
    start = linalg.normals((1, 50), seed=0, index=0, like=g)
    assert linalg.largest_eigenvalue(lambda v: v @ g.T, start, tolerance=1e-9) == pytest.approx(
        100.0, rel=1e-4
    )
    estimate = linalg.estimate_trace(lambda v: v @ g.T, (50,), g, probes=200, seed=1)
    assert abs(estimate.value - float(g.trace())) <= 4 * estimate.standard_error
    assert estimate.standard_error < 0.05 * float(g.trace())
    assert linalg.largest_eigenvalue(lambda v: 0 * v, start) == 0.0


def test_probes_are_keyed_and_complex_normals_have_unit_sd_in_each_component() -> None:
    like = torch.empty(0, dtype=torch.complex128)
    a, b = (linalg.normals((20000,), seed=3, index=1, like=like) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, linalg.normals((20000,), seed=3, index=2, like=like))
    assert float(a.real.std()) == pytest.approx(1.0, abs=0.02)
    assert float(a.imag.std()) == pytest.approx(1.0, abs=0.02)
