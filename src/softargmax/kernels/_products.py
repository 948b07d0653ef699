"""Small matrix products over rows in the lanes of vectors. Their sizes are those of tuples, so that LLVM unrolls them.

A tile holds 16 rows of d features: feature j of row i at x[j * 16 + i]. With sums in registers, every number that is
read takes part in as many multiplications as there are classes; the loop over memory is the only one that is left.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from softargmax.kernels.simd import _I64, _LLVM, LANES, _at, _broadcast, _call, _fma, _has, _lanes_of, _pointer


def _accumulators(builder, element, count):
    """Vectors that LLVM keeps in registers."""
    return [cgutils.alloca_once(builder, _lanes_of(element)) for _ in range(count)]


@intrinsic
def multiply_tiles(typing, one, x, a, d, theta, z, o, tiles, classes):
    """z = X theta of some tiles from x[a] on: theta (d + 1, M), the intercept last, z (tiles, M, 16) from z[o] on."""
    n_tiles, n_classes = tiles.count, classes.count

    def generate(context, builder, signature, args):
        element = _LLVM[one]
        _, x_value, at, n_features, theta_value, z_value, out, _, _ = args
        at, n_features, out = (
            context.cast(builder, value, kind, types.int64) for value, kind in ((at, a), (n_features, d), (out, o))
        )
        sums = _accumulators(builder, element, n_tiles * n_classes)
        intercepts = builder.mul(n_features, _I64(n_classes))
        coefficients = _pointer(context, builder, theta, theta_value, _I64(0), types.int64)
        size = builder.mul(n_features, _I64(LANES))

        def coefficient(place):
            return _broadcast(builder, element, builder.load(builder.gep(coefficients, [place])))

        for k in range(n_classes):
            first = coefficient(builder.add(intercepts, _I64(k)))
            for t in range(n_tiles):
                builder.store(first, sums[t * n_classes + k])
        with cgutils.for_range(builder, n_features) as loop:
            rows = []
            for t in range(n_tiles):
                place = builder.add(at, builder.add(builder.mul(_I64(t), size), builder.mul(loop.index, _I64(LANES))))
                rows.append(builder.load(_at(context, builder, x, x_value, place, types.int64), align=4))
            start = builder.mul(loop.index, _I64(n_classes))
            for k in range(n_classes):
                factor = coefficient(builder.add(start, _I64(k)))
                for t in range(n_tiles):
                    total = sums[t * n_classes + k]
                    builder.store(_fma(context, builder, one, rows[t], factor, builder.load(total)), total)
        for number, total in enumerate(sums):
            place = builder.add(out, _I64(number * LANES))
            builder.store(builder.load(total), _at(context, builder, z, z_value, place, types.int64), align=4)
        return context.get_dummy_value()

    return types.void(one, x, a, d, theta, z, o, tiles, classes), generate


@intrinsic
def add_products(typing, one, x, a, size, r, b, n, g, o, features, classes):
    """g += X'r in lanes: some features from x[a] on, n tiles of `size` numbers, g (features, M, 16) from g[o] on."""
    n_features, n_classes = features.count, classes.count

    def generate(context, builder, signature, args):
        element = _LLVM[one]
        _, x_value, at, x_step, r_value, r_at, n_tiles, g_value, out, _, _ = args
        at, x_step, r_at, n_tiles, out = (
            context.cast(builder, value, kind, types.int64)
            for value, kind in ((at, a), (x_step, size), (r_at, b), (n_tiles, n), (out, o))
        )
        sums = _accumulators(builder, element, n_features * n_classes)
        for number, total in enumerate(sums):
            place = builder.add(out, _I64(number * LANES))
            builder.store(builder.load(_at(context, builder, g, g_value, place, types.int64), align=4), total)
        with cgutils.for_range(builder, n_tiles) as loop:
            first = builder.add(at, builder.mul(loop.index, x_step))
            columns = [
                builder.load(
                    _at(context, builder, x, x_value, builder.add(first, _I64(f * LANES)), types.int64), align=4
                )
                for f in range(n_features)
            ]
            start = builder.add(r_at, builder.mul(loop.index, _I64(n_classes * LANES)))
            for k in range(n_classes):
                place = builder.add(start, _I64(k * LANES))
                residual = builder.load(_at(context, builder, r, r_value, place, types.int64), align=4)
                for f in range(n_features):
                    total = sums[f * n_classes + k]
                    builder.store(_fma(context, builder, one, columns[f], residual, builder.load(total)), total)
        for number, total in enumerate(sums):
            place = builder.add(out, _I64(number * LANES))
            builder.store(builder.load(total), _at(context, builder, g, g_value, place, types.int64), align=4)
        return context.get_dummy_value()

    return types.void(one, x, a, size, r, b, n, g, o, features, classes), generate


@intrinsic
def sum_of_rows(typing, one, factors, rows, start, stop, table, base, out, o, classes):
    """out[o], … = base[0], … + sum over q from start to stop - 1 of factors[q] * (row rows[q] of table), M numbers."""
    width = classes.count

    def generate(context, builder, signature, args):
        element = _LLVM[one]
        _, factor_value, row_value, first, last, table_value, base_value, out_value, place, _ = args
        first, last, place = (
            context.cast(builder, value, kind, types.int64)
            for value, kind in ((first, start), (last, stop), (place, o))
        )
        lanes = ir.VectorType(element, width)

        def at(array_type, array, index):
            pointer = _pointer(context, builder, array_type, array, index, types.int64)
            return builder.bitcast(pointer, lanes.as_pointer())

        total = cgutils.alloca_once(builder, lanes)
        builder.store(builder.load(at(base, base_value, _I64(0)), align=4), total)
        with cgutils.for_range_slice(builder, first, last, _I64(1), inc=True) as (q, _):
            factor = builder.load(_pointer(context, builder, factors, factor_value, q, types.int64))
            factor = _in_every_lane(builder, lanes, context.cast(builder, factor, factors.dtype, one))
            row = builder.load(_pointer(context, builder, rows, row_value, q, types.int64))
            row = context.cast(builder, row, rows.dtype, types.int64)
            entry = builder.load(at(table, table_value, builder.mul(row, _I64(width))), align=4)
            builder.store(_fma_of_any(context, builder, lanes, factor, entry, builder.load(total)), total)
        builder.store(builder.load(total), at(out, out_value, place), align=4)
        return context.get_dummy_value()

    return types.void(one, factors, rows, start, stop, table, base, out, o, classes), generate


@intrinsic
def add_to_rows(typing, one, factors, rows, start, stop, source, a, table, classes):
    """row rows[q] of table += factors[q] * (source[a], …), M numbers, for q in start to stop - 1."""
    width = classes.count

    def generate(context, builder, signature, args):
        element = _LLVM[one]
        _, factor_value, row_value, first, last, source_value, place, table_value, _ = args
        first, last, place = (
            context.cast(builder, value, kind, types.int64)
            for value, kind in ((first, start), (last, stop), (place, a))
        )
        lanes = ir.VectorType(element, width)

        def at(array_type, array, index):
            pointer = _pointer(context, builder, array_type, array, index, types.int64)
            return builder.bitcast(pointer, lanes.as_pointer())

        added = builder.load(at(source, source_value, place), align=4)
        with cgutils.for_range_slice(builder, first, last, _I64(1), inc=True) as (q, _):
            factor = builder.load(_pointer(context, builder, factors, factor_value, q, types.int64))
            factor = _in_every_lane(builder, lanes, context.cast(builder, factor, factors.dtype, one))
            row = builder.load(_pointer(context, builder, rows, row_value, q, types.int64))
            row = context.cast(builder, row, rows.dtype, types.int64)
            entry = at(table, table_value, builder.mul(row, _I64(width)))
            total = _fma_of_any(context, builder, lanes, factor, added, builder.load(entry, align=4))
            builder.store(total, entry, align=4)
        return context.get_dummy_value()

    return types.void(one, factors, rows, start, stop, source, a, table, classes), generate


def _in_every_lane(builder, lanes, scalar):
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
    vector = ir.Constant(lanes, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(vector, scalar, ir.IntType(32)(0)), vector, order)


def _fma_of_any(context, builder, lanes, a, b, c):
    """a * b + c of vectors of any width."""
    if not _has(context, "fma"):
        return builder.fadd(builder.fmul(a, b), c)
    bits = 32 if lanes.element == ir.FloatType() else 64
    return _call(builder, f"llvm.fma.v{lanes.count}f{bits}", lanes, [a, b, c])
