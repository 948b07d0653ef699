"""Vectors of 16 lanes in Numba: load, store, arithmetic, exp and log, as LLVM vector code.

LLVM cuts the 16 lanes to the registers of the CPU that runs (one AVX-512 register of float32, two of AVX2, four of SSE
or NEON), so one source serves them all. Every reduction over lanes is a fixed tree: the result of a row does not depend
on the machine's width. Auto-vectorised Numba code for the same loops is 1.7 to 3 times slower.

The element type of a vector follows `one`, any scalar of that type: `load(one, x, i)` reads float32 memory into
float64 lanes if `one` is a float64. Lanes beyond the end of a row are read as `fill` and not written.

Lanes are float32 or float64. Memory may also be half precision, which Numba has no numbers for: float16 comes as a view
of uint16, bfloat16 as one of int16; both are exact in float32 and are rounded once when they are written.
"""

from __future__ import annotations

import platform
import re

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from softargmax.kernels import LANES as LANES


class Vector(types.Type):
    """16 lanes of one element type."""

    def __init__(self, element):
        self.element = element
        super().__init__(name=f"Vector({element})")


_FLOAT16, _BFLOAT16 = types.uint16, types.int16  # what views of half precision are called here
_I8, _I16, _I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_LLVM = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), _FLOAT16: _I16, _BFLOAT16: _I16}
_SUFFIX = {types.float32: "v16f32", types.float64: "v16f64", _FLOAT16: "v16i16", _BFLOAT16: "v16i16"}
_INT = {types.float32: ir.IntType(32), types.float64: ir.IntType(64)}


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


def _has(context, feature) -> bool:
    if platform.machine() in ("aarch64", "arm64"):  # where both fma and half precision are always there
        return True
    return re.search(rf"\+{feature}(,|$)", context.codegen()._tm_features) is not None


def _fma(context, builder, element, a, b, c):
    """a * b + c. Without the instruction llvm.fma is a library call per lane, 10 to 27 times slower (measured)."""
    if _has(context, "fma"):
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


def _read(context, builder, lanes, memory, element):
    """Lanes as they are in memory -> lanes of `element`, exactly."""
    if memory in (_FLOAT16, _BFLOAT16):
        lanes = _from_float16(context, builder, lanes) if memory == _FLOAT16 else _from_bfloat16(builder, lanes)
        memory = types.float32
    if memory == element:
        return lanes
    return (builder.fpext if element == types.float64 else builder.fptrunc)(lanes, _lanes_of(_LLVM[element]))


def _written(context, builder, lanes, element, memory):
    """Lanes of `element` -> lanes as they are in memory, rounded to nearest, ties to even."""
    if memory == element:
        return lanes
    if memory in (types.float32, types.float64):
        return _read(context, builder, lanes, element, memory)
    lanes = _read(context, builder, lanes, element, types.float32)
    return _to_float16(context, builder, lanes) if memory == _FLOAT16 else _to_bfloat16(builder, lanes)


def _from_bfloat16(builder, lanes):
    wide = builder.zext(lanes, _lanes_of(_I32))
    return builder.bitcast(builder.shl(wide, _constant(_I32, 16)), _lanes_of(ir.FloatType()))


def _to_bfloat16(builder, lanes):
    bits = builder.bitcast(lanes, _lanes_of(_I32))
    odd = builder.and_(builder.lshr(bits, _constant(_I32, 16)), _constant(_I32, 1))
    rounded = builder.add(bits, builder.add(odd, _constant(_I32, 0x7FFF)))
    quiet = builder.or_(bits, _constant(_I32, 0x400000))  # a NaN that lost its low bits must not become an infinity
    rounded = builder.select(builder.fcmp_unordered("uno", lanes, lanes), quiet, rounded)
    return builder.trunc(builder.lshr(rounded, _constant(_I32, 16)), _lanes_of(_I16))


def _from_float16(context, builder, lanes):
    if _has(context, "f16c"):
        return builder.fpext(builder.bitcast(lanes, _lanes_of(ir.HalfType())), _lanes_of(ir.FloatType()))
    wide = builder.zext(lanes, _lanes_of(_I32))
    magnitude = builder.and_(wide, _constant(_I32, 0x7FFF))
    bits = builder.shl(magnitude, _constant(_I32, 13))
    # the exponent's offset grows from 15 to 127, exactly for subnormals too; that of inf and NaN has all bits set
    value = builder.fmul(builder.bitcast(bits, _lanes_of(ir.FloatType())), _constant(ir.FloatType(), 2.0**112))
    special = builder.or_(bits, _constant(_I32, 0x7F800000))
    is_special = builder.icmp_unsigned(">=", magnitude, _constant(_I32, 0x7C00))
    bits = builder.select(is_special, special, builder.bitcast(value, _lanes_of(_I32)))
    sign = builder.shl(builder.and_(wide, _constant(_I32, 0x8000)), _constant(_I32, 16))
    return builder.bitcast(builder.or_(bits, sign), _lanes_of(ir.FloatType()))


def _to_float16(context, builder, lanes):
    if _has(context, "f16c"):
        return builder.bitcast(builder.fptrunc(lanes, _lanes_of(ir.HalfType())), _lanes_of(_I16))

    def c(value):
        return _constant(_I32, value)

    signed = builder.bitcast(lanes, _lanes_of(_I32))
    bits = builder.and_(signed, c(0x7FFFFFFF))
    # normal: the offset of the exponent shrinks by 112, and half of the last place is added (less one, but for odd)
    odd = builder.and_(builder.lshr(bits, c(13)), c(1))
    normal = builder.lshr(builder.add(bits, builder.add(odd, c(0xFFF - (112 << 23) & 0xFFFFFFFF))), c(13))
    # below 2**-14: added to 1/2, whose last place is that of a subnormal; the addition rounds
    half = _constant(ir.FloatType(), 0.5)
    moved = builder.fadd(builder.bitcast(bits, _lanes_of(ir.FloatType())), half)
    subnormal = builder.sub(builder.bitcast(moved, _lanes_of(_I32)), c(0x3F000000))
    result = builder.select(builder.icmp_unsigned("<", bits, c(113 << 23)), subnormal, normal)
    is_nan = builder.icmp_unsigned(">", bits, c(0x7F800000))
    result = builder.select(builder.icmp_unsigned(">=", bits, c(143 << 23)), c(0x7C00), result)
    result = builder.select(is_nan, c(0x7E00), result)
    sign = builder.and_(builder.lshr(signed, c(16)), c(0x8000))
    return builder.trunc(builder.or_(result, sign), _lanes_of(_I16))


def _at(context, builder, array_type, array, index, index_type):
    """The address of 16 lanes."""
    pointer = _pointer(context, builder, array_type, array, index, index_type)
    return builder.bitcast(pointer, _lanes_of(_LLVM.get(array_type.dtype, _I8)).as_pointer())


@intrinsic
def load(typing, one, x, i):
    """The 16 lanes from x[i] on."""

    def generate(context, builder, signature, args):
        lanes = builder.load(_at(context, builder, x, args[1], args[2], i), align=_align(x))
        return _read(context, builder, lanes, x.dtype, one)

    return Vector(one)(one, x, i), generate


@intrinsic
def load_part(typing, one, x, i, n, fill):
    """Lanes 0 to n - 1 from x[i] on; the others are `fill`. Nothing beyond is read."""

    def generate(context, builder, signature, args):
        pointer = _at(context, builder, x, args[1], args[2], i)
        mask = _lane_mask(builder, context.cast(builder, args[3], n, types.int64))
        nothing = _constant(_LLVM[x.dtype], 0)
        name = f"llvm.masked.load.{_SUFFIX[x.dtype]}.p0"
        lanes = _call(builder, name, nothing.type, [pointer, _I32(_align(x)), mask, nothing])
        filled = _broadcast(builder, _LLVM[one], context.cast(builder, args[4], fill, one))
        return builder.select(mask, _read(context, builder, lanes, x.dtype, one), filled)

    return Vector(one)(one, x, i, n, fill), generate


@intrinsic
def keep(typing, a, mask, i, n, fill):
    """Lanes of `a` where the bytes mask[i], …, mask[i + n - 1] are not 0, elsewhere `fill`. n is at most 16."""

    def generate(context, builder, signature, args):
        pointer = _at(context, builder, mask, args[1], args[2], i)
        there = _lane_mask(builder, context.cast(builder, args[3], n, types.int64))
        nothing = _constant(_I8, 0)
        read = _call(builder, "llvm.masked.load.v16i8.p0", nothing.type, [pointer, _I32(1), there, nothing])
        filled = _broadcast(builder, _LLVM[a.element], context.cast(builder, args[4], fill, a.element))
        return builder.select(builder.icmp_unsigned("!=", read, nothing), args[0], filled)

    return a(a, mask, i, n, fill), generate


@intrinsic
def store(typing, out, i, vector):
    """Write the 16 lanes to out[i] on."""

    def generate(context, builder, signature, args):
        lanes = _written(context, builder, args[2], vector.element, out.dtype)
        builder.store(lanes, _at(context, builder, out, args[0], args[1], i), align=_align(out))
        return context.get_dummy_value()

    return types.void(out, i, vector), generate


@intrinsic
def store_part(typing, out, i, n, vector):
    """Write lanes 0 to n - 1 to out[i] on."""

    def generate(context, builder, signature, args):
        lanes = _written(context, builder, args[3], vector.element, out.dtype)
        pointer = _at(context, builder, out, args[0], args[1], i)
        mask = _lane_mask(builder, context.cast(builder, args[2], n, types.int64))
        name = f"llvm.masked.store.{_SUFFIX[out.dtype]}.p0"
        _call(builder, name, ir.VoidType(), [lanes, pointer, _I32(_align(out)), mask])
        return context.get_dummy_value()

    return types.void(out, i, n, vector), generate


@intrinsic
def load_one(typing, one, x, i):
    """x[i] as a scalar. Not a part of one lane: LLVM 20 makes a scalar of that and writes four bytes for two."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, x, args[1], args[2], i)
        lanes = _broadcast(builder, _LLVM[x.dtype], builder.load(pointer, align=_align(x)))
        return builder.extract_element(_read(context, builder, lanes, x.dtype, one), _I32(0))

    return one(one, x, i), generate


@intrinsic
def store_one(typing, one, out, i, value):
    """out[i] = value."""

    def generate(context, builder, signature, args):
        lanes = _broadcast(builder, _LLVM[one], context.cast(builder, args[3], value, one))
        number = builder.extract_element(_written(context, builder, lanes, one, out.dtype), _I32(0))
        builder.store(number, _pointer(context, builder, out, args[1], args[2], i), align=_align(out))
        return context.get_dummy_value()

    return types.void(one, out, i, value), generate


# ---- 16 rows of four entries each, as four vectors: entry k of row j is lane j of vector k ----

ROWS = range(0, LANES, 4)


def _shuffled(builder, a, b, order):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(order)), order))


def _exchanged(builder, four):
    """Rows and columns exchanged within every block of four lanes of four vectors."""

    def pairs(a, b, first, second):  # of each block: lanes `first` and `second` of a and of b, in turn
        order = [lane for c in ROWS for lane in (first(c), second(c))]
        return _shuffled(builder, a, b, [lane for two in order for lane in two])

    def singles(a, b, k):
        return pairs(a, b, lambda c: (c + k, LANES + c + k), lambda c: (c + k + 1, LANES + c + k + 1))

    low = singles(four[0], four[1], 0), singles(four[2], four[3], 0)
    high = singles(four[0], four[1], 2), singles(four[2], four[3], 2)
    result = []
    for two in (low, high):
        for k in (0, 2):
            result.append(
                pairs(*two, lambda c, k=k: (c + k, c + k + 1), lambda c, k=k: (LANES + c + k, LANES + c + k + 1))
            )
    return result


def _offset(context, builder, start, factor, number):
    return builder.add(start, builder.mul(factor, ir.IntType(64)(number)))


@intrinsic
def load_columns(typing, one, x, i, row_step, tile, t, width):
    """Entries x[i], …, x[i + 3] of 16 rows that lie row_step apart -> four vectors, `width` apart, from tile[t] on."""

    def generate(context, builder, signature, args):
        _, source, start, step, target, begin, apart = args
        memory = _LLVM[x.dtype]

        def row(j):
            at = _pointer(context, builder, x, source, _offset(context, builder, start, step, j), types.int64)
            at = builder.bitcast(at, ir.VectorType(memory, 4).as_pointer())
            return builder.load(at, align=_align(x))

        four = []
        for j in range(4):
            halves = [_shuffled(builder, row(j + g), row(j + g + 4), list(range(8))) for g in (0, 8)]
            four.append(_read(context, builder, _shuffled(builder, *halves, list(range(LANES))), x.dtype, one))
        for k, column in enumerate(_exchanged(builder, four)):
            at = _at(context, builder, tile, target, _offset(context, builder, begin, apart, k), types.int64)
            builder.store(column, at, align=_align(tile))
        return context.get_dummy_value()

    return types.void(one, x, types.int64, types.int64, tile, types.int64, types.int64), generate


@intrinsic
def store_columns(typing, one, tile, t, width, out, o, row_step):
    """The way back: four vectors -> out[o], …, out[o + 3] of 16 rows, written in their order."""

    def generate(context, builder, signature, args):
        _, source, start, apart, target, begin, step = args
        four = []
        for k in range(4):
            at = _at(context, builder, tile, source, _offset(context, builder, start, apart, k), types.int64)
            four.append(builder.load(at, align=_align(tile)))
        four = [_written(context, builder, lanes, one, out.dtype) for lanes in _exchanged(builder, four)]
        for j in range(LANES):
            block = list(range(j // 4 * 4, j // 4 * 4 + 4))
            at = _pointer(context, builder, out, target, _offset(context, builder, begin, step, j), types.int64)
            part = _shuffled(builder, four[j % 4], four[j % 4], block)
            builder.store(part, builder.bitcast(at, part.type.as_pointer()), align=_align(out))
        return context.get_dummy_value()

    return types.void(one, tile, types.int64, types.int64, out, types.int64, types.int64), generate


@intrinsic
def prefetch(typing, x, i):
    """Ask for the cache line of x[i]; i may lie beyond the end."""

    def generate(context, builder, signature, args):
        pointer = builder.bitcast(_pointer(context, builder, x, args[0], args[1], i), ir.IntType(8).as_pointer())
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(x, i), generate


@intrinsic
def splat(typing, one, scalar):
    """The scalar in every lane."""

    def generate(context, builder, signature, args):
        return _broadcast(builder, _LLVM[one], context.cast(builder, args[1], scalar, one))

    return Vector(one)(one, scalar), generate


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
divide = _binary(lambda builder, a, b: builder.fdiv(a, b))
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
def first_lane(typing, a):
    """Lane 0 as a scalar."""

    def generate(context, builder, signature, args):
        return builder.extract_element(args[0], _I32(0))

    return a.element(a), generate


@intrinsic
def where_equal(typing, a, b, same, other):
    """Lanes of `same` where a equals b, of `other` elsewhere, also where one is NaN."""

    def generate(context, builder, signature, args):
        first, second, if_same, if_other = args
        return builder.select(builder.fcmp_ordered("==", first, second), if_same, if_other)

    return a(a, b, same, other), generate


@intrinsic
def lanes_above(typing, a, b):
    """The lanes of a that are larger than those of b, as bits of an integer."""

    def generate(context, builder, signature, args):
        larger = builder.fcmp_ordered(">", *args)
        return builder.zext(builder.bitcast(larger, ir.IntType(LANES)), _I64)

    return types.int64(a, b), generate


@intrinsic
def lowest_bit(typing, bits):
    """Which bit of an integer above 0 is the first."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def count_of_bits(typing, bits):
    """How many bits of an integer are set."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), generate


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
    """exp of lanes <= 0: within 0.95 ulp; -inf and what lies below the normal range give 0; NaN stays."""
    single = a.element == types.float32
    # adding `magic`, 1.5 * 2^bits and the bias of exponents, rounds to an integer and leaves its biased bits at the end
    magic, bits, lowest = (12582912.0 + 127, 23, -87.9) if single else (6755399441055744.0 + 1023, 52, -709.0)
    polynomial = [_float32(c) for c in _EXP32] if single else _EXP64
    high, low = _LN2[a.element]
    log2e = _float32(1.4426950408889634) if single else 1.4426950408889634

    def generate(context, builder, signature, args):
        element, integer = _LLVM[a.element], _INT[a.element]

        def all_lanes(value):
            return _constant(element, value)

        def fma(x, y, z):
            return _fma(context, builder, a.element, x, y, z)

        # at `lowest` the biased exponent is 0, which makes the power 0: one comparison serves -inf too
        bound = all_lanes(lowest)
        x = builder.select(builder.fcmp_ordered("<", args[0], bound), bound, args[0])
        shifted = fma(x, all_lanes(log2e), all_lanes(magic))
        n = builder.fsub(shifted, all_lanes(magic))
        near = fma(n, all_lanes(-high), x)
        r = fma(n, all_lanes(-low), near)
        biased = builder.bitcast(shifted, _lanes_of(integer))
        power = builder.bitcast(builder.shl(biased, _constant(integer, bits)), _lanes_of(element))
        fused = _has(context, "fma")
        value = all_lanes(polynomial[-1])
        for coefficient in polynomial[-2::-1] if fused else polynomial[-2:1:-1]:
            value = fma(value, r, all_lanes(coefficient))
        if not fused:  # each step rounds twice: 1 + (r + (r^2 q + what r lost)) makes up for it
            lost = builder.fsub(builder.fsub(near, r), builder.fmul(n, all_lanes(low)))
            rest = builder.fadd(builder.fmul(value, builder.fmul(r, r)), lost)
            value = builder.fadd(builder.fadd(rest, r), all_lanes(1.0))
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
