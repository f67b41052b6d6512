"""The battery every operator's test subclasses.

    class TestBlur(LinearOperatorContract):
        covers = (PeriodicBlur,)

        def make(self, dtype):
            return PeriodicBlur(...)

`make` returns a small operator (at most a few hundred voxels: it is compared with its own dense
matrix) whose constants come in the given real dtype; `cases` lists variants by name, each passed to
`make_case`. Complex domains are recognised by themselves.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from operators.base import Operator
from operators.errors import InexactAdjointError, NoClosedFormError
from operators.linear import LinearOperator
from tests.oracles import (
    TOLERANCE,
    adjoint_mismatch,
    as_vectors,
    normal_matrix,
    random_element,
    recorded_graph,
)


class OperatorContract:
    """What holds for every operator, linear or not."""

    covers: tuple[type[Operator], ...] = ()
    #: Real precisions the operator declares; checked against the declaration.
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)

    def make(self, dtype: torch.dtype) -> Operator:
        """Return a small operator with constants of real dtype `dtype`."""
        raise NotImplementedError

    @pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
    def dtype(self, request: pytest.FixtureRequest) -> torch.dtype:
        if request.param not in self.dtypes:
            pytest.skip(f"the engine declares {self.dtypes} only")
        return request.param

    @pytest.fixture
    def op(self, dtype: torch.dtype) -> Operator:
        return self.make(dtype)

    @pytest.fixture
    def x(self, op: Operator, dtype: torch.dtype) -> Tensor:
        return random_element(op.domain, dtype=dtype)

    def test_covers_what_it_makes(self) -> None:
        made = self.make(self.dtypes[0])
        assert isinstance(made, self.covers)
        assert made.dtypes == self.dtypes

    def test_batch_axes_shape_and_dtype(self, op: Operator, dtype: torch.dtype) -> None:
        for batch in ((), (1,), (3,), (2, 3)):
            x = random_element(op.domain, *batch, dtype=dtype)
            y = op(x)
            assert y.shape == (*batch, *op.codomain.shape)
            assert y.dtype == op.codomain.dtype_like(x)
            assert y.device == x.device

    def test_batch_independence(self, op: Operator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 5, dtype=dtype)
        together = op(x)
        alone = torch.stack([op(row) for row in x])
        scale = together.abs().max()
        assert (together - alone).abs().max() <= TOLERANCE[dtype] * scale

    def test_argument_is_left_alone(self, op: Operator, x: Tensor) -> None:
        before = x.clone()
        y = op(x)
        y.mul_(2)
        assert torch.equal(x, before)

    def test_wrong_shape_is_named(self, op: Operator, x: Tensor) -> None:
        wrong = torch.cat([x, x], dim=-1)
        with pytest.raises(ValueError, match=r"`x` must have shape \(\.\.\., .*got") as error:
            op(wrong)
        assert str(tuple(wrong.shape)) in str(error.value)
        with pytest.raises(ValueError, match="shape"):
            op(x[0] if x.ndim > 1 else x[:0].sum())

    def test_wrong_kind_of_argument_is_named(self, op: Operator, x: Tensor) -> None:
        with pytest.raises(TypeError, match=r"`x` must be a torch\.Tensor"):
            op(x.numpy())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="`x` must have dtype"):
            op(torch.ones(x.shape, dtype=torch.int32))
        other = x.real.clone() if x.is_complex() else x.to(torch.complex64)
        with pytest.raises(TypeError, match="`x` must be (real|complex)"):
            op(other)

    def test_values_that_are_not_finite_are_refused(self, op: Operator, x: Tensor) -> None:
        for poison in (float("nan"), float("inf")):
            bad = x.clone()
            bad.view(-1)[0] = poison
            with pytest.raises(ValueError, match="`x` must hold finite values"):
                op(bad)

    def test_empty_batch_is_refused(self, op: Operator, x: Tensor) -> None:
        with pytest.raises(ValueError, match="`x` must not be empty"):
            op(x.expand(0, *x.shape))

    def test_wrong_device_is_named(self, op: Operator, x: Tensor) -> None:
        if op.device is None:
            pytest.skip("owns no tensor: runs on any device")
        with pytest.raises(ValueError, match="device"):
            op(x.to("meta"))

    @pytest.mark.cuda
    def test_cuda_agrees_with_cpu(self, op: Operator, x: Tensor, dtype: torch.dtype) -> None:
        on_gpu = op.to("cuda")(x.cuda())
        assert on_gpu.device.type == "cuda"
        expected = op(x)
        assert (on_gpu.cpu() - expected).abs().max() <= 10 * TOLERANCE[dtype] * expected.abs().max()

    def test_jvp_against_difference_quotient(self, op: Operator) -> None:
        if torch.float64 not in self.dtypes:
            pytest.skip("a difference quotient needs double precision")
        op = self.make(torch.float64)
        x, v = random_element(op.domain, 2), random_element(op.domain, 2, seed=3)
        step = 1e-5
        quotient = (op(x + step * v) - op(x - step * v)) / (2 * step)
        tangent = op.jvp(x, v)
        assert (tangent - quotient).abs().max() <= 1e-6 * quotient.abs().max()

    def test_vjp_is_the_transpose_of_jvp(self, op: Operator, dtype: torch.dtype) -> None:
        x, v = (random_element(op.domain, 2, dtype=dtype, seed=s) for s in (4, 5))
        r = random_element(op.codomain, 2, dtype=dtype, seed=6)
        forward = op.codomain.inner(op.jvp(x, v), r).real
        backward = op.domain.inner(v, op.vjp(x, r)).real
        scale = op.codomain.norm(op.jvp(x, v)) * op.codomain.norm(r)
        bound = max(TOLERANCE[dtype], getattr(op, "adjoint_error", 0.0))
        assert ((forward - backward).abs() <= bound * scale).all()

    def test_autograd_gives_the_vjp(self, op: Operator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 2, dtype=dtype).requires_grad_()
        r = random_element(op.codomain, 2, dtype=dtype, seed=7)
        (gradient,) = torch.autograd.grad(op(x), x, r)
        expected = op.vjp(x.detach(), r)
        assert (gradient - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()

    def test_vmap_is_a_batch(self, op: Operator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 3, dtype=dtype)
        mapped = torch.func.vmap(op)(x)
        assert (mapped - op(x)).abs().max() <= TOLERANCE[dtype] * mapped.abs().max()

    def test_compiled_agrees(self, op: Operator, x: Tensor, dtype: torch.dtype) -> None:
        # aot_eager traces forward and backward as the default backend does, without a C++ compiler.
        torch._dynamo.reset()
        compiled = torch.compile(lambda z: op(2 * z), backend="aot_eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # complex graphs are announced as slower
            expected = op(2 * x)
            assert (compiled(x) - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


class LinearOperatorContract(OperatorContract):
    """What holds for every linear operator."""

    def make(self, dtype: torch.dtype) -> LinearOperator:
        """Return a small operator with constants of real dtype `dtype`."""
        raise NotImplementedError

    @pytest.mark.parametrize("pair", ["random", "correlated", "positive"])
    def test_adjoint(self, op: LinearOperator, dtype: torch.dtype, pair: str) -> None:
        bound = max(TOLERANCE[dtype], op.adjoint_error)
        assert adjoint_mismatch(op, dtype, pair) <= bound

    def test_linearity(self, op: LinearOperator, dtype: torch.dtype) -> None:
        x, z = random_element(op.domain, dtype=dtype), random_element(op.domain, dtype=dtype, seed=8)
        a, b = (2.0 - 1.0j, 0.5j) if op.over_complex else (2.0, -0.5)
        left, right = op(a * x + b * z), a * op(x) + b * op(z)
        assert (left - right).abs().max() <= 10 * TOLERANCE[dtype] * right.abs().max()
        assert not op(torch.zeros_like(x)).any()

    def test_gradient_is_the_adjoint_without_a_graph(self, op: LinearOperator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 2, dtype=dtype).requires_grad_()
        y = op(x)
        r = random_element(op.codomain, 2, dtype=dtype, seed=9)
        nodes = list(recorded_graph(y))
        assert len(nodes) <= 4, f"a linear operator keeps no traced graph, found {nodes}"
        (gradient,) = torch.autograd.grad(y, x, r)
        assert torch.equal(gradient, op.adjoint(r))
        back = random_element(op.codomain, 2, dtype=dtype, seed=10).requires_grad_()
        (gradient,) = torch.autograd.grad(op.adjoint(back), back, x.detach())
        assert torch.equal(gradient, op(x.detach()))

    def test_jvp_is_the_forward(self, op: LinearOperator, dtype: torch.dtype) -> None:
        x, v = (random_element(op.domain, 2, dtype=dtype, seed=s) for s in (11, 12))
        _, tangent = torch.func.jvp(op, (x,), (v,))
        assert torch.equal(tangent, op(v))
        assert torch.equal(op.jvp(x, v), op(v))
        assert torch.equal(op.vjp(x, op(v)), op.adjoint(op(v)))

    def test_adjoint_as_operator(self, op: LinearOperator, dtype: torch.dtype) -> None:
        y = random_element(op.codomain, 2, dtype=dtype)
        expected = op.adjoint(y)
        assert op.H.domain.shape == op.codomain.shape
        assert (op.H(y) - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
        x = random_element(op.domain, 2, dtype=dtype)
        assert (op.H.adjoint(x) - op(x)).abs().max() <= TOLERANCE[dtype] * op(x).abs().max()
        assert (op.H.H(x) - op(x)).abs().max() <= TOLERANCE[dtype] * op(x).abs().max()

    def test_normal_operator(self, op: LinearOperator, dtype: torch.dtype) -> None:
        if op.adjoint_error > 0:
            with pytest.raises(InexactAdjointError, match="adjoint error"):
                _ = op.gram
            return
        x = random_element(op.domain, 2, dtype=dtype)
        expected = op.adjoint(op(x))
        assert (op.gram(x) - expected).abs().max() <= 10 * TOLERANCE[dtype] * expected.abs().max()
        assert (op.gram.adjoint(x) - op.gram(x)).abs().max() <= TOLERANCE[dtype] * expected.abs().max()

    def test_normal_solve_against_dense(self, op: LinearOperator, dtype: torch.dtype) -> None:
        b = random_element(op.domain, 3, dtype=dtype)
        if op.adjoint_error > 0:
            with pytest.raises(InexactAdjointError, match="adjoint error"):
                op.normal_solve(b, 1.0)
            return
        normal = normal_matrix(op)
        size = torch.linalg.matrix_norm(normal, 2).item()
        shifts = torch.tensor([0.02, 0.1, 2.0], dtype=torch.float64) * size
        solved = op.normal_solve(b, shifts)
        eye = torch.eye(len(normal), dtype=normal.dtype)
        for row, c, got in zip(as_vectors(op, b), shifts, as_vectors(op, solved), strict=True):
            expected = torch.linalg.solve(normal + c * eye, row)
            error = (got - expected).norm() / expected.norm()
            assert error <= (1e-4 if dtype == torch.float32 else 1e-8)
        again = op.normal_solve(b, shifts, start=solved)
        assert (again - solved).abs().max() <= (1e-4 if dtype == torch.float32 else 1e-8) * solved.abs().max()

    def test_measurement_solve_against_dense(self, op: LinearOperator, dtype: torch.dtype) -> None:
        r = random_element(op.codomain, 2, dtype=dtype)
        if op.adjoint_error > 0:
            with pytest.raises(InexactAdjointError, match="adjoint error"):
                op.measurement_solve(r, 1.0)
            return
        reference = op
        normal = normal_matrix(reference.H)
        c = 0.05 * torch.linalg.matrix_norm(normal, 2).item()
        solved = op.measurement_solve(r, c)
        image = reference(reference.adjoint(solved.to(torch.promote_types(solved.dtype, torch.float64))))
        residual = image + c * solved - r
        bound = 1e-4 if dtype == torch.float32 else 1e-8
        assert (op.codomain.norm(residual) <= bound * op.codomain.norm(r)).all()

    def test_normal_solve_is_differentiable(self, op: LinearOperator) -> None:
        if op.adjoint_error > 0 or torch.float64 not in self.dtypes:
            pytest.skip("needs an exact adjoint in double precision")
        op = self.make(torch.float64)
        b = random_element(op.domain, 1).requires_grad_()
        r = random_element(op.domain, 1, seed=13)
        (gradient,) = torch.autograd.grad(op.normal_solve(b, 1.0), b, r)
        expected = op.normal_solve(r, 1.0)  # the inverse is self-adjoint
        assert (gradient - expected).abs().max() <= 1e-8 * expected.abs().max()

    def test_norm_and_trace_against_dense(self, op: LinearOperator) -> None:
        if op.adjoint_error > 0 or torch.float64 not in self.dtypes:
            pytest.skip("needs an exact adjoint in double precision")
        normal = normal_matrix(op)
        largest = torch.linalg.eigvalsh(normal).max().item() ** 0.5
        assert op.norm(tolerance=1e-7, max_iterations=2000) == pytest.approx(largest, rel=1e-3)
        estimate = op.gram_trace(probes=64)
        exact = normal.diagonal().real.sum().item()
        slack = 5 * estimate.standard_error + 1e-5 * exact
        assert abs(estimate.value - exact) <= slack
        assert estimate.standard_error <= 0.2 * exact

    def test_pinv_against_dense_or_refused(self, op: LinearOperator, dtype: torch.dtype) -> None:
        y = random_element(op.codomain, 2, dtype=dtype)
        try:
            got = op.pinv(y, cutoff=1e-3)
        except NoClosedFormError as error:
            assert "normal_solve" in str(error)
            return
        normal = normal_matrix(op)
        back = as_vectors(op, op.adjoint(y))
        expected = (torch.linalg.pinv(normal, rtol=1e-6, hermitian=True) @ back.T).T
        error = (as_vectors(op, got) - expected).norm() / expected.norm()
        assert error <= (1e-3 if dtype == torch.float32 else 1e-8)

    def test_svd_or_refused(self, op: LinearOperator, dtype: torch.dtype) -> None:
        if not op.has_svd:
            with pytest.raises(NoClosedFormError, match="singular value"):
                op.svd()
            return
        factors = op.svd()
        x = random_element(op.domain, 2, dtype=dtype)
        coefficients = factors.v.H(x)
        assert coefficients.shape[1:] == factors.s.shape
        assert (factors.s >= 0).all()
        rebuilt = factors.u(coefficients * factors.s.to(x.real.dtype if x.is_complex() else x.dtype))
        assert (rebuilt - op(x)).abs().max() <= 10 * TOLERANCE[dtype] * op(x).abs().max()
        assert (factors.v(coefficients) - x).abs().max() <= 10 * TOLERANCE[dtype] * x.abs().max()

    def test_moving_keeps_the_operator(self, op: LinearOperator, x: Tensor) -> None:
        assert type(op.to("cpu")) is type(op)
        assert torch.equal(op.to("cpu")(x), op(x))
