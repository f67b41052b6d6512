"""The part of the battery about solves, closed forms and spectra, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from operators.errors import InexactAdjointError, NoClosedFormError
from operators.linear import LinearOperator
from tests.oracles import TOLERANCE, as_vectors, dense, normal_matrix, random_element

SOLVED = {torch.float32: 1e-4, torch.float64: 1e-8}


def skip_unless_exact(op: LinearOperator) -> None:
    if op.adjoint_error > 0:
        pytest.skip("declares an inexact adjoint: refused, and tested to be")


class SolveContract:
    """Mixed into `LinearOperatorContract`, which provides `make` and the fixtures."""

    dtypes: tuple[torch.dtype, ...]

    def make(self, dtype: torch.dtype) -> LinearOperator:
        """Return the operator; written by the test."""
        raise NotImplementedError

    @pytest.fixture
    def double(self) -> LinearOperator:
        """The operator in double precision, if its adjoint is exact."""
        op = self.make(torch.float64)
        skip_unless_exact(op)
        return op

    def test_inexact_pairs_are_refused(self, op: LinearOperator, dtype: torch.dtype) -> None:
        if op.adjoint_error == 0:
            pytest.skip("declares an exact adjoint")
        b, r = random_element(op.domain, dtype=dtype), random_element(op.codomain, dtype=dtype)
        solves = (
            lambda: op.normal_solve(b, 1.0),
            lambda: op.measurement_solve(r, 1.0),
            op.norm,
            op.gram_trace,
        )
        for attempt in solves:
            with pytest.raises(InexactAdjointError, match="adjoint error"):
                attempt()

    def test_normal_solve_against_dense(self, op: LinearOperator, dtype: torch.dtype) -> None:
        skip_unless_exact(op)
        b = random_element(op.domain, 3, dtype=dtype)
        normal = normal_matrix(op)
        size = torch.linalg.matrix_norm(normal, 2).item()
        shifts = torch.tensor([0.02, 0.1, 2.0], dtype=torch.float64) * size
        solved = op.normal_solve(b, shifts)
        assert solved.dtype == b.dtype
        eye = torch.eye(len(normal), dtype=normal.dtype)
        for row, c, got in zip(as_vectors(op, b), shifts, as_vectors(op, solved), strict=True):
            expected = torch.linalg.solve(normal + c * eye, row)
            assert (got - expected).norm() <= SOLVED[dtype] * expected.norm()
        again = op.normal_solve(b, shifts, start=solved)
        assert (again - solved).abs().max() <= SOLVED[dtype] * solved.abs().max()

    def test_normal_solve_without_a_shift(self, double: LinearOperator) -> None:
        normal = normal_matrix(double)
        eigenvalues = torch.linalg.eigvalsh(normal)
        if eigenvalues.min() < 1e-6 * eigenvalues.max():
            pytest.skip("A^H A is singular")
        b = random_element(double.domain, 2)
        solved = as_vectors(double, double.normal_solve(b))
        expected = torch.linalg.solve(normal, as_vectors(double, b).T).T
        assert (solved - expected).norm() <= 1e-6 * expected.norm()

    def test_batches_of_shifts_and_starts_broadcast(self, double: LinearOperator) -> None:
        b, c = random_element(double.domain, 2, 3), torch.tensor([[0.6, 0.9, 1.4], [0.5, 1.1, 1.3]])
        one_by_one = [double.normal_solve(b[i, j], float(c[i, j])) for i in range(2) for j in range(3)]
        expected = torch.stack(one_by_one).reshape(b.shape)
        got = double.normal_solve(b, c, start=b[0])
        assert (got - expected).abs().max() <= 1e-7 * expected.abs().max()
        shared = (c[0], c[:, :1])
        spelt_out = double.normal_solve(torch.stack([b, b]), torch.stack([s.expand(2, 3) for s in shared]))
        for s, expected in zip(shared, spelt_out, strict=True):
            got = double.normal_solve(b, s)
            assert (got - expected).abs().max() <= 1e-7 * expected.abs().max()
        mapped, expected = torch.func.vmap(double.normal_solve)(b[0], c[0]), spelt_out[0, 0]
        assert (mapped - expected).abs().max() <= 1e-7 * expected.abs().max()
        number = float(c[0, 0])
        expected = torch.stack([double.normal_solve(one, number) for one in b[0]])
        mapped = torch.func.vmap(lambda v: double.normal_solve(v, number))(b[0])
        for got in (double.normal_solve(b[0], number), mapped):
            assert (got - expected).abs().max() <= 1e-7 * expected.abs().max()

    def test_solves_at_any_scale_of_the_data(self, op: LinearOperator, dtype: torch.dtype) -> None:
        skip_unless_exact(op)
        b = random_element(op.domain, 1, dtype=dtype)
        expected = op.normal_solve(b, 1.0)
        for factor in (1e25, 1e-25):
            got = op.normal_solve(b * factor, 1.0)
            assert (got / factor - expected).abs().max() <= 10 * SOLVED[dtype] * expected.abs().max()
        assert not op.normal_solve(0 * b, 1.0, start=b).any()

    def test_measurement_solve_against_dense(self, op: LinearOperator, dtype: torch.dtype) -> None:
        skip_unless_exact(op)
        r = random_element(op.codomain, 2, dtype=dtype)
        c = 0.05 * torch.linalg.matrix_norm(normal_matrix(op.H), 2).item()
        solved = op.measurement_solve(r, c)
        wide = solved.to(torch.promote_types(solved.dtype, torch.float64))
        residual = op(op.adjoint(wide)) + c * wide - r
        assert (op.codomain.norm(residual) <= SOLVED[dtype] * op.codomain.norm(r)).all()

    def test_normal_solve_is_differentiable(self, double: LinearOperator) -> None:
        b = random_element(double.domain, 2).requires_grad_()
        c = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
        x = double.normal_solve(b, c)
        r = random_element(double.domain, 2, seed=13)
        in_b, in_c = torch.autograd.grad(x, (b, c), r)
        expected = double.normal_solve(r, c.detach())  # the inverse is self-adjoint
        assert (in_b - expected).abs().max() <= 1e-8 * expected.abs().max()
        step = 1e-5
        up, down = (double.normal_solve(b.detach(), c.detach() + s) for s in (step, -step))
        quotient = double.domain.inner((up - down) / (2 * step), r).real
        assert (in_c - quotient).abs().max() <= 1e-5 * quotient.abs().max()
        _, tangent = torch.func.jvp(lambda z: double.normal_solve(z, c.detach()), (b.detach(),), (r,))
        assert (tangent - expected).abs().max() <= 1e-8 * expected.abs().max()

    def test_solution_may_be_changed_in_place_under_autograd(self, double: LinearOperator) -> None:
        b = random_element(double.domain, 2).requires_grad_()
        x = double.normal_solve(b, 1.0)
        x += 1
        x.abs().sum().backward()

    def test_bad_solves_are_named(self, op: LinearOperator, dtype: torch.dtype) -> None:
        skip_unless_exact(op)
        b = random_element(op.domain, 2, dtype=dtype)
        bad = b.clone()
        bad.view(-1)[0] = float("nan")
        for attempt, message in (
            (lambda: op.normal_solve(bad, 1.0), "`b` must hold finite values"),
            (lambda: op.normal_solve(b, -1.0), r"`c` must be a finite number >= 0, got -1\.0"),
            (lambda: op.normal_solve(b, 1.0, start=bad), "`start` must hold finite values"),
            (lambda: op.normal_solve(b, 1.0, start=torch.cat([b, b])), "`start` must broadcast to"),
            (lambda: op.normal_solve(b, 1.0, tolerance=-1.0), "`tolerance` must be a finite number > 0"),
            (lambda: op.normal_solve(b, 1.0, max_iterations=0), "`max_iterations` must be an integer >= 1"),
            (lambda: op.normal_solve(torch.cat([b, b], dim=-1), 1.0), "`b` must have shape"),
        ):
            with pytest.raises(ValueError, match=message):
                attempt()

    def test_norm_and_trace_against_dense(self, op: LinearOperator) -> None:
        skip_unless_exact(op)
        normal = normal_matrix(op)
        largest = torch.linalg.eigvalsh(normal).max().item() ** 0.5
        assert op.norm() == pytest.approx(largest, rel=2e-6)
        estimate = op.gram_trace(probes=64)
        exact = normal.diagonal().real.sum().item()
        slack = 5 * estimate.standard_error + 1e-5 * exact
        assert abs(estimate.value - exact) <= slack
        assert estimate.standard_error <= 0.2 * exact

    @pytest.mark.parametrize("cutoff", [None, 1e-3])
    def test_pinv_against_dense_or_refused(
        self, op: LinearOperator, dtype: torch.dtype, cutoff: float | None
    ) -> None:
        y = random_element(op.codomain, 2, dtype=dtype)
        try:
            got = op.pinv(y, cutoff=cutoff)
        except NoClosedFormError as error:
            assert "normal_solve" in str(error)
            return
        normal = normal_matrix(op)
        expected = (torch.linalg.pinv(normal, rtol=1e-6, hermitian=True) @ as_vectors(op, op.adjoint(y)).T).T
        error = (as_vectors(op, got) - expected).norm() / expected.norm()
        assert error <= (1e-3 if dtype == torch.float32 else 1e-8)
        with pytest.raises(ValueError, match="`cutoff` must be a finite number >= 0"):
            op.pinv(y, cutoff=float("nan"))

    def test_svd_or_refused(self, op: LinearOperator, dtype: torch.dtype) -> None:
        if not op.has_svd:
            with pytest.raises(NoClosedFormError, match="singular value"):
                op.svd()
            return
        factors = op.svd()
        x = random_element(op.domain, 2, dtype=dtype)
        coefficients = factors.v.H(x)
        assert coefficients.shape[1:] == factors.s.shape
        # The values are those of the matrix, and not only a product that happens to be right.
        expected = torch.linalg.svdvals(dense(op)) if op.over_complex or not op.domain.is_complex else None
        if expected is not None and not (op.codomain.is_complex and not op.domain.is_complex):
            stated = factors.s.flatten().double().sort(descending=True).values
            assert (stated[: len(expected)] - expected).abs().max() <= 1e-5 * expected.max()
        s = factors.s.to(x.real.dtype if x.is_complex() else x.dtype)
        rebuilt = factors.u(coefficients * s)
        assert (rebuilt - op(x)).abs().max() <= 10 * TOLERANCE[dtype] * op(x).abs().max()
        assert (factors.v(coefficients) - x).abs().max() <= 10 * TOLERANCE[dtype] * x.abs().max()
        kept = coefficients * (s > 0)
        length = factors.u.codomain.norm(factors.u(kept))
        assert (length - factors.v.domain.norm(kept)).abs().max() <= 1e-4 * length.max()

    def test_unitary_if_it_says_so(self, op: LinearOperator) -> None:
        if not op.is_unitary:
            pytest.skip("does not claim to be unitary")
        matrix = dense(op)
        eye = torch.eye(len(matrix), dtype=matrix.dtype)
        assert (matrix.conj().T @ matrix - eye).abs().max() <= 1e-6
        assert (matrix @ matrix.conj().T - eye).abs().max() <= 1e-6

    @pytest.mark.cuda
    def test_solves_on_cuda_agree_with_cpu(self, op: LinearOperator, x: Tensor, dtype: torch.dtype) -> None:
        skip_unless_exact(op)
        there = op.to("cuda")
        y = op(x)
        for got, expected in (
            (there.adjoint(y.cuda()), op.adjoint(y)),
            (there.gram(x.cuda()), op.gram(x)),
            (there.normal_solve(x.cuda(), 1.0), op.normal_solve(x, 1.0)),
            (there.measurement_solve(y.cuda(), 1.0), op.measurement_solve(y, 1.0)),
        ):
            assert got.device.type == "cuda"
            assert (got.cpu() - expected).abs().max() <= SOLVED[dtype] * expected.abs().max()
        assert there.norm() == pytest.approx(op.norm(), rel=1e-4)
        assert there.gram_trace().value == pytest.approx(op.gram_trace().value, rel=1e-3)
