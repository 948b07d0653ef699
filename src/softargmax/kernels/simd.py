"""Vectors of 16 lanes in Numba: load, store, arithmetic, exp and log, as LLVM vector code.

LLVM cuts the 16 lanes to the registers of the CPU that runs (one AVX-512 register of float32, two of AVX2, four of SSE
or NEON), so one source serves them all. Every reduction over lanes is a fixed tree: the result of a row does not depend
on the machine's width. Auto-vectorised Numba code for the same loops is 1.7 to 3 times slower.

The element type of a vector follows a *witness*, any scalar of that type: `load(one, x, i)` reads float32 memory into
float64 lanes if `one` is a float64. Lanes beyond the end of a row are read as `fill` and not written.
"""

from __future__ import annotations

import platform
import re

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16


class Vector(types.Type):
    """16 lanes of one element type."""

    def __init__(self, element):
        self.element = element
        super().__init__(name=f"Vector({element})")


_LLVM = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_SUFFIX = {types.float32: "v16f32", types.float64: "v16f64"}
_INT = {types.float32: ir.IntType(32), types.float64: ir.IntType(64)}
_I32 = ir.IntType(32)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _lanes_of(_LLVM[fe_type.element]))


def _lanes_of(element):
    return ir.VectorType(element, LANES)


def _constant(element, value):
    return ir.Constant(_lanes_of(element), [value] * LANES)


def _broadcast(builder, element, scalar):
    vector = ir.Constant(_lanes_of(element), ir.Undefined)
    first = builder.insert_element(vector, scalar, _I32(0))
    return builder.shuffle_vector(first, vector, _constant(_I32, 0))


def _call(builder, name, result, arguments):
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def _has_fma(context) -> bool:
    # Without the instruction llvm.fma is a library call per lane, measured at 10 to 27 times slower than mul and add.
    if platform.machine() in ("aarch64", "arm64"):
        return True
    return re.search(r"\+fma(,|$)", context.codegen()._tm_features) is not None


def _fma(context, builder, element, a, b, c):
    """a * b + c."""
    if _has_fma(context):
        return _call(builder, f"llvm.fma.{_SUFFIX[element]}", _lanes_of(_LLVM[element]), [a, b, c])
    return builder.fadd(builder.fmul(a, b), c)


def _pointer(context, builder, array_type, array, index, index_type):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [context.cast(builder, index, index_type, types.intp)])


def _lane_mask(builder, n):
    iota = ir.Constant(_lanes_of(_I32), list(range(LANES)))
    return builder.icmp_signed("<", iota, _broadcast(builder, _I32, builder.trunc(n, _I32)))


def _align(array_type):
    return array_type.dtype.bitwidth // 8


def _convert(builder, vector, source, target):
    if source == target:
        return vector
    cast = builder.fpext if target == types.float64 else builder.fptrunc
    return cast(vector, _lanes_of(_LLVM[target]))


@intrinsic
def load(typing, witness, x, i):
    """The 16 lanes from x[i] on."""

    def generate(context, builder, signature, args):
        element = _LLVM[x.dtype]
        pointer = _pointer(context, builder, x, args[1], args[2], i)
        pointer = builder.bitcast(pointer, _lanes_of(element).as_pointer())
        return _convert(builder, builder.load(pointer, align=_align(x)), x.dtype, witness)

    return Vector(witness)(witness, x, i), generate


@intrinsic
def load_part(typing, witness, x, i, n, fill):
    """Lanes 0 to n - 1 from x[i] on; the others are `fill`. Nothing beyond is read."""

    def generate(context, builder, signature, args):
        vector = _lanes_of(_LLVM[x.dtype])
        pointer = builder.bitcast(_pointer(context, builder, x, args[1], args[2], i), vector.as_pointer())
        mask = _lane_mask(builder, context.cast(builder, args[3], n, types.int64))
        filled = _broadcast(builder, _LLVM[x.dtype], context.cast(builder, args[4], fill, x.dtype))
        name = f"llvm.masked.load.{_SUFFIX[x.dtype]}.p0"
        lanes = _call(builder, name, vector, [pointer, _I32(_align(x)), mask, filled])
        return _convert(builder, lanes, x.dtype, witness)

    return Vector(witness)(witness, x, i, n, fill), generate


@intrinsic
def store(typing, out, i, vector):
    """Write the 16 lanes to out[i] on."""

    def generate(context, builder, signature, args):
        lanes = _convert(builder, args[2], vector.element, out.dtype)
        pointer = _pointer(context, builder, out, args[0], args[1], i)
        builder.store(lanes, builder.bitcast(pointer, lanes.type.as_pointer()), align=_align(out))
        return context.get_dummy_value()

    return types.void(out, i, vector), generate


@intrinsic
def store_part(typing, out, i, n, vector):
    """Write lanes 0 to n - 1 to out[i] on."""

    def generate(context, builder, signature, args):
        lanes = _convert(builder, args[3], vector.element, out.dtype)
        pointer = _pointer(context, builder, out, args[0], args[1], i)
        pointer = builder.bitcast(pointer, lanes.type.as_pointer())
        mask = _lane_mask(builder, context.cast(builder, args[2], n, types.int64))
        name = f"llvm.masked.store.{_SUFFIX[out.dtype]}.p0"
        _call(builder, name, ir.VoidType(), [lanes, pointer, _I32(_align(out)), mask])
        return context.get_dummy_value()

    return types.void(out, i, n, vector), generate


@intrinsic
def prefetch(typing, x, i):
    """Ask for the cache line of x[i]; i may lie beyond the end."""

    def generate(context, builder, signature, args):
        pointer = builder.bitcast(_pointer(context, builder, x, args[0], args[1], i), ir.IntType(8).as_pointer())
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(x, i), generate


@intrinsic
def splat(typing, witness, scalar):
    """The scalar in every lane."""

    def generate(context, builder, signature, args):
        return _broadcast(builder, _LLVM[witness], context.cast(builder, args[1], scalar, witness))

    return Vector(witness)(witness, scalar), generate


def _binary(operation):
    @intrinsic
    def function(typing, a, b):
        def generate(context, builder, signature, args):
            return operation(builder, *args)

        return a(a, b), generate

    return function


def _larger(builder, a, b):
    # one instruction; a NaN in `a` stays, one in `b` goes: kernels find NaN in their sums, not in their maxima
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


add = _binary(lambda builder, a, b: builder.fadd(a, b))
subtract = _binary(lambda builder, a, b: builder.fsub(a, b))
multiply = _binary(lambda builder, a, b: builder.fmul(a, b))
maximum = _binary(_larger)


def _tree(operation):
    """A reduction over lanes as halves: (0 with 8, 1 with 9, …), then 4, 2, 1. The order is the same on every CPU."""

    @intrinsic
    def function(typing, a):
        def generate(context, builder, signature, args):
            lanes, undefined = args[0], ir.Constant(args[0].type, ir.Undefined)
            half = LANES // 2
            while half:
                order = ir.Constant(_lanes_of(_I32), [k + half if k < half else 0 for k in range(LANES)])
                lanes = operation(builder, lanes, builder.shuffle_vector(lanes, undefined, order))
                half //= 2
            return builder.extract_element(lanes, _I32(0))

        return a.element(a), generate

    return function


sum_of_lanes = _tree(lambda builder, a, b: builder.fadd(a, b))
max_of_lanes = _tree(_larger)


@intrinsic
def multiply_add(typing, a, b, c):
    """a * b + c, rounded once where the CPU can."""

    def generate(context, builder, signature, args):
        return _fma(context, builder, a.element, *args)

    return a(a, b, c), generate


def _float32(value):
    return float(np.float32(value))


# exp(r) for |r| <= ln(2)/2: own minimax fits (Remez), 3e-9 and 2e-17 relative before rounding
_EXP32 = [1.0, 1.0, 0.4999999343212834, 0.16666520399498505, 0.04166839081105885, 0.008368745078931329]
_EXP32 += [0.0013814537971340707]
_EXP64 = [1.0, 1.0, 0.5000000000000011, 0.1666666666666641, 0.04166666666652973, 0.008333333333495003]
_EXP64 += [0.001388888894375891, 0.0001984126950571367, 2.4801492950619054e-05, 2.7557586861269417e-06]
_EXP64 += [2.763030593332016e-07, 2.4999999887036e-08]
# ln 2 in two parts (Cody & Waite 1980); n * high is exact
_LN2 = {
    types.float32: (0.693145751953125, _float32(1.42860682030941723212e-6)),
    types.float64: (6.93147180369123816490e-01, 1.90821492927058770002e-10),
}


@intrinsic
def exp(typing, a):
    """exp of lanes <= 0: within 0.9 ulp; -inf and what lies below the normal range give 0; NaN stays."""
    single = a.element == types.float32
    magic, bits, bias, lowest = (12582912.0, 23, 127, -87.9) if single else (6755399441055744.0, 52, 1023, -709.0)
    polynomial = [_float32(c) for c in _EXP32] if single else _EXP64
    high, low = _LN2[a.element]
    log2e = _float32(1.4426950408889634) if single else 1.4426950408889634

    def generate(context, builder, signature, args):
        element, integer = _LLVM[a.element], _INT[a.element]

        def all_lanes(value):
            return _constant(element, value)

        def fma(x, y, z):
            return _fma(context, builder, a.element, x, y, z)

        # at `lowest` the exponent below is -127 (-1023), whose bits are the number 0: one comparison serves -inf too
        bound = all_lanes(lowest)
        x = builder.select(builder.fcmp_ordered("<", args[0], bound), bound, args[0])
        shifted = fma(x, all_lanes(log2e), all_lanes(magic))  # the low bits of `shifted` are now the nearest integer
        n = builder.fsub(shifted, all_lanes(magic))
        r = fma(n, all_lanes(-low), fma(n, all_lanes(-high), x))
        exponent = builder.add(builder.bitcast(shifted, _lanes_of(integer)), _constant(integer, bias))
        power = builder.bitcast(builder.shl(exponent, _constant(integer, bits)), _lanes_of(element))
        value = all_lanes(polynomial[-1])
        for coefficient in polynomial[-2::-1]:
            value = fma(value, r, all_lanes(coefficient))
        return builder.fmul(value, power)

    return a(a), generate


@intrinsic
def log(typing, a):
    """log of positive normal lanes, within 1 ulp of the larger of 1 and the result."""
    single = a.element == types.float32
    bits, root_half, terms = (23, 0x3F3504F3, 5) if single else (52, 0x3FE6A09E667F3BCD, 11)
    high, low = _LN2[a.element]

    def generate(context, builder, signature, args):
        element, integer = _LLVM[a.element], _INT[a.element]

        def all_lanes(value):
            return _constant(element, value)

        def fma(x, y, z):
            return _fma(context, builder, a.element, x, y, z)

        # x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m - 1) / (m + 1)) by its series
        offset = builder.sub(builder.bitcast(args[0], _lanes_of(integer)), _constant(integer, root_half))
        e = builder.ashr(offset, _constant(integer, bits))
        mantissa = builder.sub(builder.bitcast(args[0], _lanes_of(integer)), builder.shl(e, _constant(integer, bits)))
        m = builder.bitcast(mantissa, _lanes_of(element))
        e = builder.sitofp(e, _lanes_of(element))
        t = builder.fdiv(builder.fsub(m, all_lanes(1.0)), builder.fadd(m, all_lanes(1.0)))
        t2 = builder.fmul(t, t)
        series = all_lanes(2.0 / (2 * terms + 1))
        for k in range(terms - 1, 0, -1):
            series = fma(series, t2, all_lanes(2.0 / (2 * k + 1)))
        series = fma(builder.fmul(series, t2), t, builder.fmul(t, all_lanes(2.0)))
        return fma(e, all_lanes(high), fma(e, all_lanes(low), series))

    return a(a), generate
