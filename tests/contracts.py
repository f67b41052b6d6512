"""The battery every operator's test subclasses.

    class TestBlur(LinearOperatorContract):
        covers = (Blur,)

        def make(self, dtype):
            return Blur(...)

`make` returns a small operator (at most a few hundred voxels: it is compared with its own dense
matrix) whose constants come in the given real dtype. `covers` names its class, which must be the
class of what `make` returns. Complex domains are recognised by themselves. The solves stand in
`tests/solve_contract.py`, which `LinearOperatorContract` contains.
"""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from operators.base import Operator
from operators.errors import InexactAdjointError
from operators.linear import LinearOperator
from tests.oracles import TOLERANCE, adjoint_mismatch, random_element, recorded_graph
from tests.solve_contract import SolveContract

#: What may stand in the graph of a linear operator: itself, its check, batch axes, the leaf.
UNTRACED = {
    "_LinearBackward",
    "ViewBackward0",
    "ReshapeAliasBackward0",
    "UnsafeViewBackward0",
    "torch::autograd::AccumulateGrad",
}


def close(got: Tensor, expected: Tensor, bound: float) -> bool:
    """Tell whether two tensors agree to `bound` relative to the largest expected entry."""
    same_kind = got.shape == expected.shape and got.dtype == expected.dtype
    return same_kind and bool((got - expected).abs().max() <= bound * expected.abs().max())


def spread_out(x: Tensor) -> Tensor:
    """Return the same values, no two of them neighbours in memory."""
    return torch.stack([x, torch.full_like(x, 7.0)], dim=-1)[..., 0]


class OperatorContract:
    """What holds for every operator, linear or not."""

    covers: tuple[type[Operator], ...] = ()
    #: Real precisions the operator declares; checked against the declaration.
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    #: Whether torch.compile sees it whole; kernels compiled elsewhere split the graph.
    traceable = True
    #: Whether this class tries torch.compile; None: the first of its module that covers the operator does.
    compiled: bool | None = None

    def make(self, dtype: torch.dtype) -> Operator:
        """Return a small operator with constants of real dtype `dtype`."""
        raise NotImplementedError

    @pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
    def dtype(self, request: pytest.FixtureRequest) -> torch.dtype:
        if request.param not in self.dtypes:
            pytest.skip(f"the operator declares {self.dtypes} only")
        return request.param

    @pytest.fixture
    def op(self, dtype: torch.dtype) -> Operator:
        return self.make(dtype)

    @pytest.fixture
    def x(self, op: Operator, dtype: torch.dtype) -> Tensor:
        return random_element(op.domain, dtype=dtype)

    def test_covers_what_it_makes(self) -> None:
        made = self.make(self.dtypes[0])
        assert len(self.covers) == 1
        assert type(made) is self.covers[0] or (self.covers[0] is Operator and isinstance(made, Operator))
        assert made.dtypes == self.dtypes

    def test_domain_lies_on_its_grid(self, op: Operator) -> None:
        if op.domain.grid is None:
            with pytest.raises(ValueError, match="`domain` must be a field on a Grid"):
                _ = op.grid
            return
        assert op.grid == op.domain.grid
        tail = op.grid.array_shape
        assert op.domain.shape[-len(tail) :] == tail
        if isinstance(op, LinearOperator):
            assert op.H.codomain.grid == op.grid
            assert (2.0 * op).grid == op.grid

    def test_batch_axes_shape_and_dtype(self, op: Operator, dtype: torch.dtype) -> None:
        for batch in ((), (1,), (3,), (2, 3)):
            x = random_element(op.domain, *batch, dtype=dtype)
            y = op(x)
            assert y.shape == (*batch, *op.codomain.shape)
            assert y.dtype == op.codomain.dtype_like(x)
            assert y.device == x.device

    def test_batch_independence(self, op: Operator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 5, dtype=dtype)
        assert close(op(x), torch.stack([op(row) for row in x]), TOLERANCE[dtype])

    def test_memory_layout_does_not_matter(self, op: Operator, x: Tensor, dtype: torch.dtype) -> None:
        assert close(op(spread_out(x)), op(x), TOLERANCE[dtype])
        conjugate = x.conj() if x.is_complex() else torch.complex(x, -x).conj().imag  # a lazy negative
        assert close(op(conjugate), op(conjugate.clone()), TOLERANCE[dtype])
        pair = x.expand(2, *x.shape)
        assert close(op.jvp(pair, pair), op.jvp(pair.clone(), pair.clone()), TOLERANCE[dtype])
        y = op(x).expand(2, *op.codomain.shape)
        assert close(op.vjp(pair, y), op.vjp(pair.clone(), y.clone()), TOLERANCE[dtype])

    def test_argument_and_result_are_apart(self, op: Operator, x: Tensor) -> None:
        before = x.clone()
        y = op(x)
        y.mul_(2)
        assert torch.equal(x, before)

    def test_result_may_be_changed_in_place_under_autograd(self, op: Operator, x: Tensor) -> None:
        y = op(x.clone().requires_grad_())
        y += 1
        y.abs().sum().backward()

    def test_changing_the_argument_too_late_is_noticed(self, op: Operator, x: Tensor) -> None:
        leaf = x.clone().requires_grad_()
        moved = leaf * 1
        y = op(moved)
        moved += 1
        try:
            (gradient,) = torch.autograd.grad(y.abs().sum(), leaf)
        except RuntimeError as error:
            assert "inplace operation" in str(error)  # as torch says it for its own operations
            return
        (expected,) = torch.autograd.grad(op(leaf).abs().sum(), leaf)
        assert close(gradient, expected, 1e-4)

    def test_overflow_is_not_silent(self, op: Operator, x: Tensor) -> None:
        huge = torch.full_like(x, torch.finfo(x.dtype).max / 2)
        try:
            y = op(huge)
        except ValueError as error:
            assert "`A(x)` must hold finite values" in str(error)
        else:
            assert torch.isfinite(y).all()

    def test_wrong_shape_is_named(self, op: Operator, x: Tensor) -> None:
        wrong = torch.cat([x, x], dim=-1)
        with pytest.raises(ValueError, match=r"`x` must have shape \(\.\.\., .*got") as error:
            op(wrong)
        assert str(tuple(wrong.shape)) in str(error.value)
        with pytest.raises(ValueError, match="shape"):
            op(x[0] if x.ndim > 1 else x.sum())

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
            for attempt in (lambda b=bad: op(b), lambda b=bad: op.jvp(x, b)):
                with pytest.raises(ValueError, match="`[xv]` must hold finite values"):
                    attempt()

    def test_empty_batch_is_refused(self, op: Operator, x: Tensor) -> None:
        with pytest.raises(ValueError, match="`x` must not be empty"):
            op(x.expand(0, *x.shape))

    def test_moving(self, op: Operator, x: Tensor) -> None:
        assert type(op.to("cpu")) is type(op)
        assert torch.equal(op.to("cpu")(x), op(x))
        with pytest.raises(ValueError, match="`device` must be a torch.device or its name"):
            op.to("nowhere")
        if op.device is None:
            return  # owns no tensor: runs on any device
        assert op.to("meta").device == torch.device("meta")
        with pytest.raises(ValueError, match="must be on the operator's device cpu, got meta"):
            op(x.to("meta"))

    @pytest.mark.cuda
    def test_cuda_agrees_with_cpu(self, op: Operator, x: Tensor, dtype: torch.dtype) -> None:
        on_gpu = op.to("cuda")(x.cuda())
        assert on_gpu.device.type == "cuda"
        assert close(on_gpu.cpu(), op(x), 10 * TOLERANCE[dtype])

    def test_jvp_against_difference_quotient(self, op: Operator) -> None:
        if torch.float64 not in self.dtypes:
            pytest.skip("a difference quotient needs double precision")
        op = self.make(torch.float64)
        x, v = random_element(op.domain, 2), random_element(op.domain, 2, seed=3)
        step = 1e-5
        quotient = (op(x + step * v) - op(x - step * v)) / (2 * step)
        assert close(op.jvp(x, v), quotient, 1e-6)

    def test_vjp_is_the_transpose_of_jvp(self, op: Operator, dtype: torch.dtype) -> None:
        x, v = (random_element(op.domain, 2, dtype=dtype, seed=s) for s in (4, 5))
        r = random_element(op.codomain, 2, dtype=dtype, seed=6)
        forward = op.codomain.inner(op.jvp(x, v), r).real
        backward = op.domain.inner(v, op.vjp(x, r)).real
        scale = op.codomain.norm(op.jvp(x, v)) * op.codomain.norm(r)
        bound = max(TOLERANCE[dtype], getattr(op, "adjoint_error", 0.0))
        assert ((forward - backward).abs() <= bound * scale).all()

    def test_pairs_of_different_batches_are_named(self, op: Operator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 2, dtype=dtype)
        with pytest.raises(ValueError, match="`v` must have shape .*, beside x"):
            op.jvp(x, random_element(op.domain, 3, dtype=dtype))
        with pytest.raises(ValueError, match="`r` must have shape .*, beside x"):
            op.vjp(x, random_element(op.codomain, dtype=dtype))

    def test_autograd_gives_the_vjp(self, op: Operator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 2, dtype=dtype).requires_grad_()
        r = random_element(op.codomain, 2, dtype=dtype, seed=7)
        (gradient,) = torch.autograd.grad(op(x), x, r)
        assert close(gradient, op.vjp(x.detach(), r), TOLERANCE[dtype])

    def test_function_transforms(self, op: Operator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 3, dtype=dtype)
        assert close(torch.func.vmap(op)(x), op(x), TOLERANCE[dtype])
        moved = torch.func.vmap(op, in_dims=1)(x.movedim(0, 1))
        assert close(moved, op(x), TOLERANCE[dtype])
        r = random_element(op.codomain, 3, dtype=dtype, seed=7)
        rows = torch.func.vmap(lambda a, b: torch.func.vjp(op, a)[1](b)[0])(x, r)
        assert close(rows, op.vjp(x, r), TOLERANCE[dtype])

    # Dynamo announces that it does not generate code for complex numbers.
    @pytest.mark.filterwarnings("ignore:.*omplex:UserWarning")
    # Where a graph is split, Dynamo looks at the gradient of the tensor in between.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    def test_compiled_agrees(self) -> None:
        # One precision and one graph per operator, with its gradient: a graph costs seconds.
        if not (self._is_first() if self.compiled is None else self.compiled):
            pytest.skip("another class compiles the same operator")
        dtype = self.dtypes[0]
        op = self.make(dtype)
        x = random_element(op.domain, dtype=dtype).requires_grad_()
        # aot_eager traces forward and backward as the default backend does, without a C++ compiler.
        torch._dynamo.reset()
        compiled = torch.compile(lambda z: op(2 * z), backend="aot_eager", fullgraph=self.traceable)
        got, expected = compiled(x), op(2 * x)
        assert close(got.detach(), expected.detach(), TOLERANCE[dtype])
        gradients = [torch.autograd.grad(y.abs().sum(), x)[0] for y in (got, expected)]
        assert close(*gradients, TOLERANCE[dtype])

    def _is_first(self) -> bool:
        """Return whether no test class of the module covers the same operator before this one."""
        others = vars(sys.modules[type(self).__module__]).items()
        tests = [other for name, other in others if name.startswith("Test")]
        return type(self) is next(other for other in tests if getattr(other, "covers", ()) == self.covers)


class LinearOperatorContract(SolveContract, OperatorContract):
    """What holds for every linear operator."""

    def make(self, dtype: torch.dtype) -> LinearOperator:
        """Return a small operator with constants of real dtype `dtype`."""
        raise NotImplementedError

    @pytest.mark.parametrize("pair", ["random", "correlated", "positive"])
    def test_adjoint(self, op: LinearOperator, dtype: torch.dtype, pair: str) -> None:
        bound = max(TOLERANCE[dtype], op.adjoint_error)
        assert adjoint_mismatch(op, dtype, pair) <= bound

    def test_adjoint_shape_dtype_batches_and_memory(self, op: LinearOperator, dtype: torch.dtype) -> None:
        y = random_element(op.codomain, 5, dtype=dtype)
        before = y.clone()
        back = op.adjoint(y)
        assert back.shape == (5, *op.domain.shape)
        assert back.dtype == op.domain.dtype_like(y)
        assert close(back, torch.stack([op.adjoint(row) for row in y]), TOLERANCE[dtype])
        assert close(op.adjoint(spread_out(y)), back, TOLERANCE[dtype])
        op.adjoint(y).mul_(2)
        assert torch.equal(y, before)

    def test_bad_arguments_of_the_adjoint_are_named(self, op: LinearOperator, dtype: torch.dtype) -> None:
        y = random_element(op.codomain, dtype=dtype)
        with pytest.raises(ValueError, match=r"`y` must have shape \(\.\.\., "):
            op.adjoint(torch.cat([y, y], dim=-1))
        with pytest.raises(TypeError, match=r"`y` must be a torch\.Tensor"):
            op.adjoint(y.numpy())  # type: ignore[arg-type]
        bad = y.clone()
        bad.view(-1)[-1] = float("nan")
        with pytest.raises(ValueError, match="`y` must hold finite values"):
            op.adjoint(bad)
        with pytest.raises(ValueError, match="`y` must not be empty"):
            op.adjoint(y.expand(0, *y.shape))

    def test_linearity(self, op: LinearOperator, dtype: torch.dtype) -> None:
        x, z = random_element(op.domain, dtype=dtype), random_element(op.domain, dtype=dtype, seed=8)
        a, b = (2.0 - 1.0j, 0.5j) if op.over_complex else (2.0, -0.5)
        assert close(op(a * x + b * z), a * op(x) + b * op(z), 10 * TOLERANCE[dtype])
        assert not op(torch.zeros_like(x)).any()
        if op.domain.is_complex and op.codomain.is_complex:
            turned = op(1j * x)
            assert close(turned, 1j * op(x), 10 * TOLERANCE[dtype]) == op.over_complex

    def test_gradient_is_the_adjoint_without_a_graph(self, op: LinearOperator, dtype: torch.dtype) -> None:
        x = random_element(op.domain, 2, dtype=dtype).requires_grad_()
        y = op(x)
        r = random_element(op.codomain, 2, dtype=dtype, seed=9)
        nodes = set(recorded_graph(y))
        assert nodes <= UNTRACED, f"a linear operator keeps no traced graph, found {nodes - UNTRACED}"
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
        x, y = random_element(op.domain, 2, dtype=dtype), random_element(op.codomain, 2, dtype=dtype)
        assert op.H.domain.shape == op.codomain.shape
        assert op.H.codomain == op.domain
        assert close(op.H(y), op.adjoint(y), TOLERANCE[dtype])
        assert close(op.H.adjoint(x), op(x), TOLERANCE[dtype])
        assert close(op.H.H(x), op(x), TOLERANCE[dtype])

    def test_normal_operator(self, op: LinearOperator, dtype: torch.dtype) -> None:
        if op.adjoint_error > 0:
            with pytest.raises(InexactAdjointError, match="adjoint error"):
                _ = op.gram
            return
        x = random_element(op.domain, 5, dtype=dtype)
        before = x.clone()
        expected = op.adjoint(op(x))
        assert close(op.gram(x), expected, 10 * TOLERANCE[dtype])
        assert close(op.gram.adjoint(x), expected, 10 * TOLERANCE[dtype])
        backwards = range(x.ndim - 1, -1, -1)
        fortran = x.permute(*backwards).contiguous().permute(*backwards)
        assert close(op.gram(fortran), expected, 10 * TOLERANCE[dtype])
        op.gram(x).mul_(2)
        assert torch.equal(x, before)
