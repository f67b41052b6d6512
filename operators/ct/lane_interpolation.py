"""Linear interpolation at evenly spaced places of a line, eight at once, for numba; its transpose.

    sum_between(sums, at, values, start, step)    sums[at + k] += values at start + k step,   k = 0 .. 7
    add_between(values, apart, start, step, given, at)                          the other way

`start` and `step` are in double precision; from the place below `start` the others are counted in whole
numbers of 2^-26 or, in double precision, 2^-47: both ways find the same shares to the last bit. They fit as
long as |step| is at most STEEPEST. Neighbours are loaded and stored in pairs, which halves the traffic, and
unchecked. The transpose adds every fourth lane to the same of BUFFERS lines, `apart` from one another in
`values`, their sum being meant: the next lane would have to wait for what the one before it stores.
Written as loops both were measured 1.5 times as slow: numba does not vectorise them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["BUFFERS", "LANES", "STEEPEST", "add_between", "sum_between"]

LANES, BUFFERS, STEEPEST = 8, 4, 4
INDEX = ir.IntType(32)


class _Eight:
    """Instructions on eight values of one kind."""

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
        self.context, self.builder, self.aligned = context, builder, dtype.bitwidth // 8
        single = dtype.bitwidth == 32
        self.scalar = ir.FloatType() if single else ir.DoubleType()
        self.whole, self.digits = (ir.IntType(32), 26) if single else (ir.IntType(64), 47)

    def repeated(self, value: Any) -> Any:
        """Return a number in every lane."""
        kind = ir.VectorType(value.type, LANES)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(INDEX, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INDEX, LANES), None))

    def shuffled(self, first: Any, second: Any, places: Any) -> Any:
        """Return the values at `places` of two vectors, one after the other."""
        mask = ir.Constant(ir.VectorType(INDEX, len(places)), list(places))
        return self.builder.shuffle_vector(first, second, mask)

    def start(self, array_type: Any, array: Any, at: Any) -> Any:
        """Return the address of a place in an array."""
        first = self.context.make_array(array_type)(self.context, self.builder, array).data
        return self.builder.gep(first, [at])

    def load(self, place: Any, count: int) -> Any:
        """Return `count` values from an address."""
        kind = ir.VectorType(self.scalar, count).as_pointer()
        found = self.builder.load(self.builder.bitcast(place, kind))
        found.align = self.aligned
        return found

    def store(self, values: Any, place: Any) -> None:
        """Write values to an address."""
        kind = values.type.as_pointer()
        self.builder.store(values, self.builder.bitcast(place, kind)).align = self.aligned

    def places(self, start: Any, step: Any) -> tuple[Any, list[Any], Any]:
        """Return the place below `start`, how far from there each lane's is, and the shares above those."""
        builder, double, wide = self.builder, ir.DoubleType(), ir.IntType(64)
        unit = ir.Constant(double, 2.0**self.digits)
        below = self._floor(start)
        rest = builder.fptosi(builder.fmul(builder.fsub(start, below), unit), self.whole)
        rounded = self._floor(builder.fadd(builder.fmul(step, unit), ir.Constant(double, 0.5)))
        apart = builder.fptosi(rounded, self.whole)
        lanes = ir.Constant(ir.VectorType(self.whole, LANES), list(range(LANES)))
        at = builder.add(self.repeated(rest), builder.mul(self.repeated(apart), lanes))
        part = builder.and_(at, self.repeated(ir.Constant(self.whole, 2**self.digits - 1)))
        share = builder.sitofp(part, ir.VectorType(self.scalar, LANES))
        share = builder.fmul(share, self.repeated(ir.Constant(self.scalar, 2.0**-self.digits)))
        # Anew, one by one: to take numbers out of a vector takes longer than to compute them beside it.
        first, by, digits = (
            builder.sext(rest, wide),
            builder.sext(apart, wide),
            ir.Constant(wide, self.digits),
        )
        each = [builder.add(first, builder.mul(by, ir.Constant(wide, k))) for k in range(LANES)]
        return builder.fptosi(below, wide), [builder.ashr(one, digits) for one in each], share

    def _floor(self, value: Any) -> Any:
        kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType()])
        name = "llvm.floor.f64"
        floor = cgutils.get_or_insert_function(self.builder.module, kind, name)  # type: ignore[no-untyped-call]
        return self.builder.call(floor, [value])


def _sum_between(_: Any, sums: Any, _at: Any, values: Any, _start: Any, _step: Any) -> Any:
    """Add the values at start + k step to sums[at + k]."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        eight = _Eight(context, builder, values.dtype)
        below, each, share = eight.places(given[3], given[4])
        base = eight.start(values, given[2], below)
        found = [eight.load(builder.gep(base, [one]), 2) for one in each]
        while len(found) > 1:
            width = range(2 * found[0].type.count)
            found = [eight.shuffled(a, b, width) for a, b in zip(found[::2], found[1::2], strict=True)]
        lower = eight.shuffled(found[0], found[0], range(0, 2 * LANES, 2))
        upper = eight.shuffled(found[0], found[0], range(1, 2 * LANES, 2))
        place = eight.start(sums, given[0], given[1])
        rise = builder.fmul(share, builder.fsub(upper, lower))
        eight.store(builder.fadd(builder.fadd(eight.load(place, LANES), lower), rise), place)
        return context.get_dummy_value()

    return types.void(sums, types.intp, values, types.float64, types.float64), generate


def _add_between(_: Any, values: Any, _apart: Any, _start: Any, _step: Any, given_type: Any, _at: Any) -> Any:
    """Add given[at + k] to the neighbours of start + k step."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        eight = _Eight(context, builder, values.dtype)
        below, each, share = eight.places(given[2], given[3])
        whole = eight.load(eight.start(given_type, given[4], given[5]), LANES)
        upper = builder.fmul(share, whole)
        lower = builder.fsub(whole, upper)
        bases = [eight.start(values, given[0], below)]
        for _ in range(1, BUFFERS):
            bases.append(builder.gep(bases[-1], [given[1]]))
        for k, one in enumerate(each):
            place = builder.gep(bases[k % BUFFERS], [one])
            pair = eight.shuffled(lower, upper, (k, LANES + k))
            eight.store(builder.fadd(eight.load(place, 2), pair), place)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.float64, types.float64, given_type, types.intp), generate


# What a kernel calls has other arguments than what builds it: no type checker knows them.
sum_between: Any = intrinsic(_sum_between)
add_between: Any = intrinsic(_add_between)
