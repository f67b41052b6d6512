"""Vectors for numba: the values of several slices at one pixel, side by side in memory, as one number.

    load(array, at, lanes)             the values array[at : at + len(lanes)] of a flat array
    store(array, at, values)           the other way
    zeros(array, lanes)                as many zeros, of the kind of `array`
    add_product(sums, weight, values)  sums + weight * values, fused where the processor can

`lanes` is a tuple whose length says how many: known to the compiler, which keeps the values in registers.
Places are unchecked. Loops that numba vectorises by itself were measured 4 times as slow.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

__all__ = ["add_product", "load", "store", "zeros"]


class Vector(types.Type):
    """The type of `count` values of `dtype`."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Vector({dtype}, {count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        scalar = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(scalar, kind.count))  # type: ignore[no-untyped-call]


def _place(context: Any, builder: Any, array_type: Any, array: Any, at: Any, vector: Any) -> Any:
    start = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [at]), vector.as_pointer())


def _load(_: Any, array: Any, _at: Any, lanes: Any) -> Any:
    """Return the values array[at : at + len(lanes)]."""
    kind = Vector(array.dtype, lanes.count)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        vector = context.get_value_type(kind)
        found = builder.load(_place(context, builder, signature.args[0], given[0], given[1], vector))
        found.align = array.dtype.bitwidth // 8
        return found

    return kind(array, types.intp, lanes), generate


def _store(_: Any, array: Any, _at: Any, values: Any) -> Any:
    """Write `values` to array[at : at + their number]."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        vector = context.get_value_type(values)
        place = _place(context, builder, signature.args[0], given[0], given[1], vector)
        builder.store(given[2], place).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, values), generate


def _zeros(_: Any, array: Any, lanes: Any) -> Any:
    """Return len(lanes) zeros of the kind of `array`."""
    kind = Vector(array.dtype, lanes.count)

    def generate(context: Any, *_: Any) -> Any:
        return ir.Constant(context.get_value_type(kind), None)

    return kind(array, lanes), generate


def _add_product(_: Any, sums: Any, _weight: Any, values: Any) -> Any:
    """Return sums + weight * values."""

    def generate(_: Any, builder: Any, _signature: Any, given: Any) -> Any:
        total, scalar, factor = given
        undefined, index = ir.Constant(factor.type, ir.Undefined), ir.IntType(32)
        first = builder.insert_element(undefined, scalar, ir.Constant(index, 0))
        everywhere = ir.Constant(ir.VectorType(index, values.count), None)
        repeated = builder.shuffle_vector(first, undefined, everywhere)
        name = f"llvm.fmuladd.v{values.count}f{values.dtype.bitwidth}"
        kind = ir.FunctionType(factor.type, [factor.type] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        return builder.call(fused, [repeated, factor, total])

    return sums(sums, values.dtype, values), generate


# What a kernel calls has other arguments than what builds it: no type checker knows them.
load: Any = intrinsic(_load)
store: Any = intrinsic(_store)
zeros: Any = intrinsic(_zeros)
add_product: Any = intrinsic(_add_product)
