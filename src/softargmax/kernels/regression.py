"""Features and coefficients -> loss, gradient and products with the Hessian of softmax regression, in one read.

Up to 16 columns of logits: features lie in tiles of 16 rows (`_products`), classes are unrolled, a block of tiles stays
in cache between the logits and the gradient. The width M is that of a tuple, so every M is compiled for itself. M = 1
is two classes by one logit. Weights and labels are padded with zeros to whole tiles.
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._parts import log1p, row_max
from softargmax.kernels._products import add_products, multiply_tiles
from softargmax.kernels.simd import (
    LANES,
    add,
    divide,
    exp,
    load,
    load_columns,
    load_part,
    maximum,
    multiply,
    multiply_add,
    splat,
    store,
    store_part,
    subtract,
    sum_of_lanes,
    where_equal,
)

BLOCK = 1 << 16  # numbers of a block of tiles: half the second cache of small CPUs


@kernel
def column_sums(x, start, stop, weights, shift, sums, largest):
    """Add w (x - shift) of every column to `sums`; raise `largest` to |x - shift|. NaN and inf show in the sums."""
    for r in range(start, stop):
        w = weights[r]
        for j in range(x.shape[1]):
            t = np.float64(x[r, j]) - shift[j]
            sums[j] += w * t
            largest[j] = max(largest[j], abs(t))


@kernel
def rows_to_tiles(x, start, stop, mean, factor, tiles, first):
    """(x - mean) * factor of rows start to stop - 1 of x into tiles, from tile `first` on; rows beyond are zeros."""
    d = x.shape[1]
    flat = x.reshape(x.size)
    one = np.float64(0)
    four = np.empty(4 * LANES, np.float64)
    for t in range((stop - start + LANES - 1) // LANES):
        r = start + t * LANES
        out = (first + t) * d * LANES
        n = min(LANES, stop - r)
        j = 0
        if n == LANES:
            while j + 4 <= d:
                load_columns(one, flat, r * d + j, d, four, 0, LANES)
                for q in range(4):
                    v = subtract(load(one, four, q * LANES), splat(one, mean[j + q]))
                    store(tiles, out + (j + q) * LANES, multiply(v, splat(one, factor[j + q])))
                j += 4
        while j < d:
            for i in range(LANES):
                value = (flat[(r + i) * d + j] - mean[j]) * factor[j] if i < n else 0.0
                tiles[out + j * LANES + i] = value
            j += 1


@inline
def softmax_of_tile(one, z, c, e, M):
    """exp(z - max) of 16 rows into e; their sums and maxima."""
    top = load(one, z, c)
    for k in range(1, M):
        top = maximum(load(one, z, c + k * LANES), top)
    total = splat(one, 0.0)
    for k in range(M):
        v = exp(subtract(load(one, z, c + k * LANES), top))
        total = add(total, v)
        store(e, k * LANES, v)
    return total, top


@inline
def sigmoid_of_tile(one, z, c):
    """exp(-|z|), and the probabilities, of 16 rows with one logit."""
    zero, ones = splat(one, 0.0), splat(one, 1.0)
    v = load(one, z, c)
    size = maximum(v, subtract(zero, v))
    rest = exp(subtract(zero, size))
    smaller = divide(rest, add(ones, rest))
    return rest, where_equal(size, v, subtract(ones, smaller), smaller)


@inline
def residual_of_tile(one, z, c, labels, weights, row, e, r, o, M):
    """w (p - y) of 16 rows into r; their loss. p - 1 is taken from the other classes: 1 would swallow its digits."""
    zero, ones = splat(one, 0.0), splat(one, 1.0)
    y, w = load(one, labels, row), load(one, weights, row)
    if M == 1:
        sign = subtract(ones, add(y, y))
        v = multiply(sign, load(one, z, c))
        store(e, 0, v)
        rest, wrong = sigmoid_of_tile(one, e, 0)
        store(r, o, multiply(multiply(w, sign), wrong))
        return sum_of_lanes(multiply(w, add(maximum(v, zero), log1p(one, rest))))
    total, top = softmax_of_tile(one, z, c, e, M)
    scale = divide(w, total)
    at_label, of_label, others = zero, zero, zero
    for k in range(M):
        is_label = where_equal(y, splat(one, k), ones, zero)
        v = load(one, e, k * LANES)
        at_label = multiply_add(is_label, load(one, z, c + k * LANES), at_label)
        of_label = multiply_add(is_label, v, of_label)
        others = add(others, multiply(subtract(ones, is_label), v))
    for k in range(M):
        v = multiply(load(one, e, k * LANES), scale)
        at = splat(one, k)
        store(r, o + k * LANES, where_equal(y, at, subtract(zero, multiply(others, scale)), v))
    # log of the sum, of which `of_label` is 1 where the label is on top
    return sum_of_lanes(multiply(w, add(subtract(top, at_label), log_of_sum(one, others, of_label))))


@inline
def log_of_sum(one, others, of_label):
    """log(others + of_label), at least 0, with the digits of `others` where `of_label` is 1."""
    ones = splat(one, 1.0)
    return log1p(one, add(others, subtract(of_label, ones)))


@inline
def curvature_of_tile(one, z, c, weights, row, e, r, o, M):
    """w p (v - p.v) of 16 rows in place of v in r."""
    ones, w = splat(one, 1.0), load(one, weights, row)
    if M == 1:
        _, p = sigmoid_of_tile(one, z, c)
        store(r, o, multiply(multiply(w, multiply(p, subtract(ones, p))), load(one, r, o)))
        return
    total, _ = softmax_of_tile(one, z, c, e, M)
    mean = splat(one, 0.0)
    for k in range(M):
        mean = multiply_add(load(one, e, k * LANES), load(one, r, o + k * LANES), mean)
    mean = divide(mean, total)
    scale = divide(w, total)
    for k in range(M):
        p = multiply(load(one, e, k * LANES), scale)
        store(r, o + k * LANES, multiply(p, subtract(load(one, r, o + k * LANES), mean)))


@inline
def logits_of_tiles(one, x, d, theta, z, first, n, at, classes):
    """n tiles from tile `first` of x on -> z, from tile `at` on."""
    M = len(classes)
    t = 0
    if M <= 2:
        while t + 8 <= n:
            multiply_tiles(one, x, (first + t) * d * LANES, d, theta, z, (at + t) * M * LANES, (0,) * 8, classes)
            t += 8
    elif M <= 7:
        while t + 4 <= n:
            multiply_tiles(one, x, (first + t) * d * LANES, d, theta, z, (at + t) * M * LANES, (0,) * 4, classes)
            t += 4
    else:
        while t + 2 <= n:
            multiply_tiles(one, x, (first + t) * d * LANES, d, theta, z, (at + t) * M * LANES, (0,) * 2, classes)
            t += 2
    while t < n:
        multiply_tiles(one, x, (first + t) * d * LANES, d, theta, z, (at + t) * M * LANES, (0,), classes)
        t += 1


@inline
def add_gradient(one, x, d, first, n, r, lanes, classes):
    """lanes += X'r of n tiles from tile `first` of x on."""
    M = len(classes)
    j = 0
    if M <= 2:
        while j + 8 <= d:
            a = (first * d + j) * LANES
            add_products(one, x, a, d * LANES, r, 0, n, lanes, j * M * LANES, (0,) * 8, classes)
            j += 8
    elif M <= 5:
        while j + 4 <= d:
            a = (first * d + j) * LANES
            add_products(one, x, a, d * LANES, r, 0, n, lanes, j * M * LANES, (0,) * 4, classes)
            j += 4
    else:
        while j + 2 <= d:
            a = (first * d + j) * LANES
            add_products(one, x, a, d * LANES, r, 0, n, lanes, j * M * LANES, (0,) * 2, classes)
            j += 2
    while j < d:
        a = (first * d + j) * LANES
        add_products(one, x, a, d * LANES, r, 0, n, lanes, j * M * LANES, (0,), classes)
        j += 1


@inline
def finish_gradient(one, lanes, intercepts, gradient, d, M):
    """Lanes (d + 1, M, 16) -> gradient (M, d + 1) in float64."""
    for j in range(d):
        for k in range(M):
            gradient[k, j] = np.float64(sum_of_lanes(load(one, lanes, (j * M + k) * LANES)))
    for k in range(M):
        gradient[k, d] = np.float64(sum_of_lanes(load(one, intercepts, k * LANES)))


@inline
def add_intercepts(one, r, n, intercepts, M):
    """intercepts += the sums of r over n tiles, in lanes."""
    for t in range(n):
        for k in range(M):
            v = add(load(one, intercepts, k * LANES), load(one, r, (t * M + k) * LANES))
            store(intercepts, k * LANES, v)


@kernel
def gradient_of_tiles(x, d, theta, labels, weights, z, first, start, stop, gradient, classes):
    """Of tiles start to stop - 1, which lie from `first` on in x and z: z and the gradient; returns the loss."""
    M = len(classes)
    one = x.dtype.type(0)
    block = max(8, BLOCK // (d * LANES) // 8 * 8)
    r, e = np.empty(block * M * LANES, x.dtype), np.empty(M * LANES, x.dtype)
    lanes, intercepts = np.zeros(d * M * LANES, x.dtype), np.zeros(M * LANES, x.dtype)
    loss = 0.0
    for t in range(start, stop, block):
        n = min(block, stop - t)
        at = first + t - start
        logits_of_tiles(one, x, d, theta, z, at, n, at, classes)
        for i in range(n):
            loss += residual_of_tile(
                one, z, (at + i) * M * LANES, labels, weights, (t + i) * LANES, e, r, i * M * LANES, M
            )
        add_gradient(one, x, d, at, n, r, lanes, classes)
        add_intercepts(one, r, n, intercepts, M)
    finish_gradient(one, lanes, intercepts, gradient, d, M)
    return loss


@kernel
def curvature_of_tiles(x, d, direction, weights, z, start, stop, product, classes):
    """The product of the Hessian at logits z with a direction, of tiles start to stop - 1."""
    M = len(classes)
    one = x.dtype.type(0)
    block = max(8, BLOCK // (d * LANES) // 8 * 8)
    r, e = np.empty(block * M * LANES, x.dtype), np.empty(M * LANES, x.dtype)
    lanes, intercepts = np.zeros(d * M * LANES, x.dtype), np.zeros(M * LANES, x.dtype)
    for t in range(start, stop, block):
        n = min(block, stop - t)
        logits_of_tiles(one, x, d, direction, r, t, n, 0, classes)
        for i in range(n):
            curvature_of_tile(one, z, (t + i) * M * LANES, weights, (t + i) * LANES, e, r, i * M * LANES, M)
        add_gradient(one, x, d, t, n, r, lanes, classes)
        add_intercepts(one, r, n, intercepts, M)
    finish_gradient(one, lanes, intercepts, product, d, M)


@inline
def _exp_of_row(one, z, a, M, top, e):
    """exp(z - top) of a row of M logits into e; their sum."""
    total = splat(one, 0.0)
    i = 0
    while i + LANES <= M:
        v = exp(subtract(load(one, z, a + i), top))
        store(e, i, v)
        total = add(total, v)
        i += LANES
    if i < M:
        v = exp(subtract(load_part(one, z, a + i, M - i, -np.inf), top))
        store_part(e, i, M - i, v)
        total = add(total, v)
    return sum_of_lanes(total)


@inline
def residual_of_row(one, z, a, M, label, weight, e, out, o):
    """w (p - y) of the row of M logits from z[a] on, into out from out[o] on; the loss. e is of M numbers.

    p - 1 is taken from the other classes.
    """
    top = row_max(one, z, a, None, 0, M)
    _exp_of_row(one, z, a, M, splat(one, top), e)
    of_label = e[label]
    e[label] = 0
    sums = splat(one, 0.0)
    for k in range(0, M, LANES):
        sums = add(sums, load_part(one, e, k, min(LANES, M - k), 0.0))
    others = sum_of_lanes(sums)
    factor = weight / (others + of_label)
    scale = splat(one, factor)
    k = 0
    while k + LANES <= M:
        store(out, o + k, multiply(load(one, e, k), scale))
        k += LANES
    if k < M:
        store_part(out, o + k, M - k, multiply(load_part(one, e, k, M - k, 0.0), scale))
    out[o + label] = -others * factor
    rest = np.float64(others) + (np.float64(of_label) - 1.0)
    return weight * (np.float64(top) - np.float64(z[a + label]) + np.log1p(rest))


@inline
def curvature_of_row(one, z, a, M, weight, e, v, o):
    """w p (v - p.v) of the row of M numbers from v[o] on, in place, at logits from z[a] on; e is of M numbers."""
    total = _exp_of_row(one, z, a, M, splat(one, row_max(one, z, a, None, 0, M)), e)
    dot = splat(one, 0.0)
    for k in range(0, M, LANES):
        m = min(LANES, M - k)
        dot = multiply_add(load_part(one, e, k, m, 0.0), load_part(one, v, o + k, m, 0.0), dot)
    mean, scale = splat(one, sum_of_lanes(dot) / total), splat(one, weight / total)
    for k in range(0, M, LANES):
        m = min(LANES, M - k)
        change = subtract(load_part(one, v, o + k, m, 0.0), mean)
        store_part(v, o + k, m, multiply(multiply(load_part(one, e, k, m, 0.0), scale), change))


@kernel
def residuals_of_rows(z, labels, weights, r):
    """w (p - y) of rows z (n, M) into r (n, M); returns the loss."""
    n, M = z.shape
    one = z.dtype.type(0)
    flat, out = z.reshape(z.size), r.reshape(r.size)
    e = np.empty(M, z.dtype)
    loss = 0.0
    for i in range(n):
        loss += residual_of_row(one, flat, i * M, M, labels[i], weights[i], e, out, i * M)
    return loss


@kernel
def curvatures_of_rows(z, weights, v):
    """w p (v - p.v) of rows v (n, M), in place, at logits z (n, M)."""
    n, M = z.shape
    one = z.dtype.type(0)
    flat, out = z.reshape(z.size), v.reshape(v.size)
    e = np.empty(M, z.dtype)
    for i in range(n):
        curvature_of_row(one, flat, i * M, M, weights[i], e, out, i * M)


@kernel
def loss_along_tiles(z, to, step, labels, weights, start, stop, M):
    """Loss and slope at logits z + step (to - z) of tiles start to stop - 1."""
    one = z.dtype.type(0)
    here, r, e = np.empty(M * LANES, z.dtype), np.empty(M * LANES, z.dtype), np.empty(M * LANES, z.dtype)
    loss, slope = 0.0, 0.0
    for t in range(start, stop):
        a = t * M * LANES
        for k in range(0, M * LANES, LANES):
            change = subtract(load(one, to, a + k), load(one, z, a + k))
            store(here, k, multiply_add(splat(one, step), change, load(one, z, a + k)))
        loss += residual_of_tile(one, here, 0, labels, weights, t * LANES, e, r, 0, M)
        along = splat(one, 0.0)
        for k in range(0, M * LANES, LANES):
            change = subtract(load(one, to, a + k), load(one, z, a + k))
            along = multiply_add(load(one, r, k), change, along)
        slope += sum_of_lanes(along)
    return loss, slope


@kernel
def loss_along_rows(z, to, step, labels, weights):
    """Loss and slope at rows of logits z + step (to - z), (n, M)."""
    n, M = z.shape
    one = z.dtype.type(0)
    a, b = z.reshape(z.size), to.reshape(to.size)
    here, r, e = np.empty(M, z.dtype), np.empty(M, z.dtype), np.empty(M, z.dtype)
    loss, slope = 0.0, 0.0
    for i in range(n):
        for k in range(0, M, LANES):
            m, at = min(LANES, M - k), i * M + k
            start = load_part(one, a, at, m, 0.0)
            change = subtract(load_part(one, b, at, m, 0.0), start)
            store_part(here, k, m, multiply_add(splat(one, step), change, start))
        loss += residual_of_row(one, here, 0, M, labels[i], weights[i], e, r, 0)
        along = splat(one, 0.0)
        for k in range(0, M, LANES):
            m, at = min(LANES, M - k), i * M + k
            change = subtract(load_part(one, b, at, m, 0.0), load_part(one, a, at, m, 0.0))
            along = multiply_add(load_part(one, r, k, m, 0.0), change, along)
        slope += np.float64(sum_of_lanes(along))
    return loss, slope


@kernel
def spread_of_tiles(z, weights, start, stop, h, sums):
    """w p (1 - p) of tiles start to stop - 1 into h, as z lies; add its sums over rows to `sums` (M,)."""
    M = len(sums)
    one = z.dtype.type(0)
    e = np.empty(M * LANES, z.dtype)
    ones = splat(one, 1.0)
    for t in range(start, stop):
        a = t * M * LANES
        w = load(one, weights, t * LANES)
        if M == 1:
            _, p = sigmoid_of_tile(one, z, a)
            v = multiply(w, multiply(p, subtract(ones, p)))
            store(h, a, v)
            sums[0] += sum_of_lanes(v)
            continue
        total, _ = softmax_of_tile(one, z, a, e, M)
        for k in range(M):
            p = divide(load(one, e, k * LANES), total)
            v = multiply(w, multiply(p, subtract(ones, p)))
            store(h, a + k * LANES, v)
            sums[k] += sum_of_lanes(v)


@kernel
def spread_of_rows(z, weights, h, sums):
    """w p (1 - p) of rows z (n, M) into h (n, M); add its sums over rows to `sums` (M,)."""
    n, M = z.shape
    one = z.dtype.type(0)
    flat = z.reshape(z.size)
    e = np.empty(M, z.dtype)
    for i in range(n):
        total = _exp_of_row(one, flat, i * M, M, splat(one, row_max(one, flat, i * M, None, 0, M)), e)
        for k in range(M):
            p = e[k] / total
            h[i, k] = weights[i] * p * (one + 1 - p)
            sums[k] += h[i, k]


@inline
def _random(number):
    """In [0, 1), of a counter (the finaliser of Steele, Lea & Flood 2014)."""
    x = np.uint64(number) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64(x >> np.uint64(40)) / 16777216.0


@kernel
def draw_rows(h, n, M, steps, k, threshold, rows, weights):
    """Row i with probability min(1, h / threshold), its weight then max(h, threshold): sums stay right on average.

    Entry (i, k) lies at h[i // 16 * 16 M + i % 16 * steps[0] + k * steps[1]]. Returns how many were drawn.
    """
    count = 0
    for i in range(n):
        share = h[i // LANES * LANES * M + i % LANES * steps[0] + k * steps[1]]
        if share > 0 and share >= _random(i * M + k) * threshold and count < len(rows):
            rows[count] = i
            weights[count] = np.sqrt(max(share, threshold))
            count += 1
    return count


@kernel
def gather_rows(x, rows, weights, mean, factor, out):
    """out (m, d + 1) = weight * ((x - mean) * factor, 1) of some rows."""
    d = x.shape[1]
    for i in range(len(rows)):
        r, w = rows[i], weights[i]
        for j in range(d):
            out[i, j] = (x[r, j] - mean[j]) * factor[j] * w
        out[i, d] = w


@inline
def _dot(one, a, i, b, n):
    """a[i], … with b[0], …; n numbers."""
    s0 = splat(one, 0.0)
    s1 = s0
    s2 = s0
    s3 = s0
    j = 0
    while j + 4 * LANES <= n:
        s0 = multiply_add(load(one, a, i + j), load(one, b, j), s0)
        s1 = multiply_add(load(one, a, i + j + LANES), load(one, b, j + LANES), s1)
        s2 = multiply_add(load(one, a, i + j + 2 * LANES), load(one, b, j + 2 * LANES), s2)
        s3 = multiply_add(load(one, a, i + j + 3 * LANES), load(one, b, j + 3 * LANES), s3)
        j += 4 * LANES
    while j < n:
        m = min(LANES, n - j)
        s0 = multiply_add(load_part(one, a, i + j, m, 0.0), load_part(one, b, j, m, 0.0), s0)
        j += LANES
    return np.float64(sum_of_lanes(add(add(s0, s1), add(s2, s3))))


@inline
def _add_multiple(one, c, a, i, b, n):
    """b += c a[i], …; n numbers."""
    factor = splat(one, c)
    j = 0
    while j + LANES <= n:
        store(b, j, multiply_add(factor, load(one, a, i + j), load(one, b, j)))
        j += LANES
    if j < n:
        m = n - j
        store_part(b, j, m, multiply_add(factor, load_part(one, a, i + j, m, 0.0), load_part(one, b, j, m, 0.0)))


@kernel
def two_loop_down(steps, changes, rho, order, alphas, q):
    """The first of the two loops of L-BFGS (Nocedal 1980), over pairs from the newest to the oldest."""
    one, n = q.dtype.type(0), q.size
    s, y = steps.reshape(steps.size), changes.reshape(changes.size)
    for i in range(len(order) - 1, -1, -1):
        k = order[i]
        alphas[k] = rho[k] * _dot(one, s, k * n, q, n)
        _add_multiple(one, -alphas[k], y, k * n, q, n)


@kernel
def two_loop_up(steps, changes, rho, order, alphas, q):
    """The second."""
    one, n = q.dtype.type(0), q.size
    s, y = steps.reshape(steps.size), changes.reshape(changes.size)
    for i in range(len(order)):
        k = order[i]
        _add_multiple(one, alphas[k] - rho[k] * _dot(one, y, k * n, q, n), s, k * n, q, n)


@kernel
def centre(vectors):
    """Take from each number of vectors (V, M, n) its mean over the M classes."""
    n_vectors, M, n = vectors.shape
    mean = np.empty(n, vectors.dtype)
    for v in range(n_vectors):
        mean[:] = 0
        for k in range(M):
            for j in range(n):
                mean[j] += vectors[v, k, j]
        for j in range(n):
            mean[j] /= M
        for k in range(M):
            for j in range(n):
                vectors[v, k, j] -= mean[j]


@kernel
def precondition(inverse, q, out, start, stop):
    """out[v, k] = inverse[k] q[v, k] for vectors v and classes start to stop - 1; one inverse may serve all classes."""
    one = q.dtype.type(0)
    vectors, M, n = q.shape
    matrix, x = inverse.reshape(inverse.size), q.reshape(q.size)
    for k in range(start, stop):
        base = (k if len(inverse) > 1 else 0) * n * n
        for i in range(n):
            for v in range(vectors):
                out[v, k, i] = _dot(one, matrix, base + i * n, x[(v * M + k) * n :], n)


@kernel
def moments_of_tiles(z, weights, start, stop, out):
    """Add the Hessian over the intercepts, sum of w (diag p - p p'), of tiles start to stop - 1 to out (M, M)."""
    M = len(out)
    one = z.dtype.type(0)
    e, lanes = np.empty(M * LANES, z.dtype), np.zeros(M * M * LANES, z.dtype)
    ones = splat(one, 1.0)
    for t in range(start, stop):
        a = t * M * LANES
        w = load(one, weights, t * LANES)
        if M == 1:
            _, p = sigmoid_of_tile(one, z, a)
            store(lanes, 0, multiply_add(w, multiply(p, subtract(ones, p)), load(one, lanes, 0)))
            continue
        total, _ = softmax_of_tile(one, z, a, e, M)
        for k in range(M):
            p = divide(load(one, e, k * LANES), total)
            wp = multiply(w, p)
            for i in range(k):
                q = divide(load(one, e, i * LANES), total)
                at = (k * M + i) * LANES
                store(lanes, at, multiply_add(wp, q, load(one, lanes, at)))
    if M == 1:
        out[0, 0] += np.float64(sum_of_lanes(load(one, lanes, 0)))
        return
    for k in range(M):
        for i in range(k):
            v = np.float64(sum_of_lanes(load(one, lanes, (k * M + i) * LANES)))
            out[k, i] -= v
            out[i, k] -= v
            out[k, k] += v
            out[i, i] += v
