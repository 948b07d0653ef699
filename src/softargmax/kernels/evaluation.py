"""Scores and labels -> what an evaluation sums: facts of every row, entries by class and bin, histograms. One read.

A class has an entry in every row, and nearly all of them lie in its first bin: few entries of a row that sums to 1 can
exceed 1/B. So entries of the first bin are added up side by side, and only the others, the *hits*, are placed one by
one: of short rows at once, of longer rows in a list that `add_hits` takes in the order of the rows.
Sums have two parts, so that neither a long bin nor the order of additions costs digits (`add_to`).
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels import (
    FINE_CELLS,
    HALF_CELLS,
    LABEL,
    OCTAVE_BITS,
    PLANES,
    PROB,
    PROB2,
    PROB_LABEL,
    ROWS,
    WEIGHT,
)
from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._parts import CHAIN, exponent, log1p, row_max, two_sum
from softargmax.kernels._tiles import load_tile, tile_max, tile_of, whole_fours
from softargmax.kernels.simd import (
    LANES,
    add,
    count_of_bits,
    divide,
    exp,
    lanes_above,
    load,
    load_one,
    load_part,
    log,
    lowest_bit,
    max_of_lanes,
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
from softargmax.kernels.softmax import exp_row

TOP, REST, SQUARES, AT_LABEL, OWN, LINES = 0, 1, 2, 3, 4, 5
"""Of 16 rows: the maximum, the sums of the other powers and of the squares of their p, the label's exponent, its p."""

TOGETHER = 2048  # rows whose entries of the first bin are added up before they join the sums


@inline
def add_to(high, low, at, x):
    """x joins the sum of two parts at a place (Knuth 1969, 4.2.2)."""
    a = high[at]
    s = a + x
    back = s - a
    low[at] += (a - (s - back)) + (x - back)
    high[at] = s


@inline
def add_weight(high, low, at, w, exact):
    """The same of a weight, which needs no second part where all weights are whole numbers."""
    if exact:
        high[at] += w
    else:
        add_to(high, low, at, w)


@inline
def bin_of(p, edges, B):
    """The bin (edges[b], edges[b + 1]] that holds p; the first has 0 too, the last all above."""
    b = min(max(int(p * B), 0), B - 1)
    while b > 0 and p <= edges[b]:
        b -= 1
    while b < B - 1 and p > edges[b + 1]:
        b += 1
    return b


@inline
def fine_cell(confidence, bits_of_doubt):
    """The cell of the fine histogram: by the confidence below 1/2, else by 1 - confidence >= 0, given as its bits."""
    if confidence < 0.5:
        return min(int(confidence * (2 * HALF_CELLS)), HALF_CELLS - 1)
    steps = (1022 << OCTAVE_BITS) - (bits_of_doubt >> (52 - OCTAVE_BITS))
    return min(HALF_CELLS + max(steps, 0), FINE_CELLS - 1)


@inline
def finish(one, table, n, r, is_logits, confidence, doubt, nll, brier, own_probs):
    """The facts of n rows from the table."""
    ones, zero = splat(one, 1.0), splat(one, 0.0)
    top, rest, at_label = load(one, table[TOP], 0), load(one, table[REST], 0), load(one, table[AT_LABEL], 0)
    squares, own = load(one, table[SQUARES], 0), load(one, table[OWN], 0)
    if is_logits:
        total = add(ones, rest)
        c, d = divide(ones, total), divide(rest, total)
        loss = subtract(log1p(one, rest), at_label)
        largest = zero
    else:
        c, d = top, maximum(subtract(ones, top), zero)
        loss = where_equal(own, zero, splat(one, np.inf), subtract(zero, log(own)))
        largest = top
    # the square of 1 - p of the label, and those of the others; p of the maximum is one of them unless it is the label
    right = add(multiply(d, d), squares)
    missed = subtract(ones, own)
    others = maximum(subtract(add(squares, multiply(c, c)), multiply(own, own)), zero)
    wrong = add(multiply(missed, missed), others)
    store_part(own_probs, r, n, own)
    store_part(confidence, r, n, c)
    store_part(doubt, r, n, d)
    store_part(nll, r, n, loss)
    store_part(brier, r, n, where_equal(at_label, largest, right, wrong))


# ---- rows that are read as they lie ----


@inline
def row_of_powers(x, a, K, beta, tolerance, out):
    """A row as powers relative to the first maximum, or probabilities (beta 0) as they are, with the maximum's as 0.

    Returns the maximum, where it is, and the sum of all; NaN for a row that is not sound.
    """
    one = 1.0
    top = row_max(one, x, a, None, 0, K)
    if beta > 0.0:
        if not (-np.inf < top < np.inf):
            return top, 0, np.nan
        total = exp_row(one, x, a, None, 0, K, top, beta, out, 0)
    else:
        s = splat(one, 0.0)
        lowest = splat(one, 0.0)
        for i in range(0, K, LANES):
            v = load_part(one, x, a + i, min(LANES, K - i), 0.0)
            store_part(out, i, min(LANES, K - i), v)
            s = add(s, v)
            lowest = maximum(subtract(splat(one, 0.0), v), lowest)
        total = sum_of_lanes(s)
        if not (abs(total - 1.0) <= tolerance and top <= 1.0 + tolerance and max_of_lanes(lowest) <= 0.0):
            return top, 0, np.nan
    if not total < np.inf:
        return top, 0, np.nan
    k = first_maximum(one, x, a, K, top)
    out[k] = 0.0
    return top, k, total


@inline
def first_maximum(one, x, a, K, top):
    """The class of the first maximum of a row."""
    tops = splat(one, top)
    i = 0
    while i + LANES <= K:
        below = lanes_above(tops, load(one, x, a + i))
        if below != (1 << LANES) - 1:
            return i + lowest_bit(~below)
        i += LANES
    return i + lowest_bit(~lanes_above(tops, load_part(one, x, a + i, K - i, -np.inf)))


@inline
def add_row_of_entries(e, K, factor, edge, w, low, hits, n_hits, r):
    """Entries p = factor e up to `edge` join `low` (2, K), larger ones the list of hits (rows, classes, entries).

    Returns the sum of e and that of the squares of p, and how many hits there are then. e is 0 beyond the row.
    """
    one = 1.0
    factors, edges, weight, zero = splat(one, factor), splat(one, edge), splat(one, w), splat(one, 0.0)
    total, error, total2, error2 = zero, zero, zero, zero
    sums, sums2 = low[0], low[1]
    i = 0
    while i < K:
        s, t = zero, zero
        end = min(K, i + CHAIN * LANES)
        while i < end:
            v = load(one, e, i)
            p = multiply(v, factors)
            above = lanes_above(p, edges)
            if above != 0:
                while above != 0:
                    j = lowest_bit(above)
                    above &= above - 1
                    hits[0][n_hits], hits[1][n_hits], hits[2][n_hits] = r, i + j, e[i + j] * factor
                    n_hits += 1
                kept = where_equal(maximum(p, edges), edges, p, zero)
                of_row = multiply(kept, weight)
                store(sums, i, add(load(one, sums, i), of_row))
                store(sums2, i, add(load(one, sums2, i), multiply(of_row, kept)))
            else:
                of_row = multiply(p, weight)
                store(sums, i, add(load(one, sums, i), of_row))
                store(sums2, i, add(load(one, sums2, i), multiply(of_row, p)))
            s, t = add(s, v), multiply_add(p, p, t)
            i += LANES
        total, error = two_sum(total, error, s)
        total2, error2 = two_sum(total2, error2, t)
    return sum_of_lanes(add(total, error)), sum_of_lanes(add(total2, error2)), n_hits


@inline
def is_in_top5(one, x, a, K, label, own):
    """Whether fewer than five entries come before the label's: larger ones, and equal ones of lower index."""
    owns = splat(one, own)
    ahead = 0
    for i in range(0, K, LANES):
        v = load(one, x, a + i) if i + LANES <= K else load_part(one, x, a + i, K - i, -np.inf)
        larger = lanes_above(v, owns)
        if i < label:
            earlier = (1 << min(label - i, LANES)) - 1
            larger |= ~lanes_above(owns, v) & earlier
        ahead += count_of_bits(larger)
        if ahead >= 5:
            return False
    return True


@kernel
def evaluation_of_long(x, labels, weights, K, beta, tolerance, edge, facts, cells, errors, hits, n_hits, start, stop):
    """Rows start to stop -> their facts (n,): predicted, top5, confidence, doubt, nll, brier, own; and entries of bins.

    beta is 1 / T of logits, 0 for probabilities, whose sums may miss 1 by `tolerance`. Sums over the entries of the
    first bin, whose edge is given, go to cells (2, K): PROB and PROB2; the others to the list of hits. Rows of weight 0
    are left out. Returns the first row that is not sound, or -1.
    """
    one = 1.0
    predicted, top5, confidence, doubt, nll, brier, own = facts
    powers = np.zeros(K + 2 * LANES)
    table = np.zeros((LINES, LANES))
    low = np.zeros((2, K + LANES))
    count = n_hits[0]
    joined = start
    for r0 in range(start, stop, LANES):
        n = min(LANES, stop - r0)
        for j in range(n):
            r = r0 + j
            a, w, y = r * K, weights[r], labels[r]
            table[TOP, j], table[REST, j], table[SQUARES, j], table[AT_LABEL, j] = 1.0, 0.0, 0.0, 1.0
            predicted[r], top5[r] = 0, False
            if w > 0.0:
                top, k, total = row_of_powers(x, a, K, beta, tolerance, powers)
                if not total > 0.0:
                    return r
                factor = 1.0 / total if beta > 0.0 else 1.0
                rest, squares, count = add_row_of_entries(powers, K, factor, edge, w, low, hits, count, r)
                p = 1.0 / (1.0 + rest) if beta > 0.0 else top
                if p > edge:
                    hits[0][count], hits[1][count], hits[2][count] = r, k, p
                    count += 1
                else:
                    low[0, k] += w * p
                    low[1, k] += w * p * p
                at_label = load_one(one, x, a + y)
                top5[r] = k == y or is_in_top5(one, x, a, K, y, at_label)
                if beta > 0.0:
                    at_label = (at_label * 0.5 - top * 0.5) * (2.0 * beta)
                table[TOP, j], table[REST, j], table[SQUARES, j], table[AT_LABEL, j] = top, rest, squares, at_label
                table[OWN, j] = p if k == y else powers[y] * factor  # what its bin was found by
                predicted[r] = k
        finish(one, table, n, r0, beta > 0.0, confidence, doubt, nll, brier, own)
        if r0 + LANES - joined >= TOGETHER or r0 + LANES >= stop:
            joined = r0 + LANES
            for i in range(2):
                for k in range(K):
                    add_to(cells, errors, (i, k), low[i, k])
                    low[i, k] = 0.0
    n_hits[0] = count
    return -1


@kernel
def add_hits(hits, n, weights, exact, edges, cells, errors):
    """Entries of the list into the bins of their classes (K, B, PLANES)."""
    rows, classes, entries = hits
    B = len(edges) - 1
    for i in range(n):
        p, w, k = entries[i], weights[rows[i]], classes[i]
        b = bin_of(p, edges, B)
        cells[k, b, ROWS] += 1.0
        add_weight(cells, errors, (k, b, WEIGHT), w, exact)
        add_to(cells, errors, (k, b, PROB), w * p)
        add_to(cells, errors, (k, b, PROB2), w * p * p)


# ---- short rows, in tiles ----


@inline
def ranks_of_tile(one, tile, K, labels, r, n, own, ranks):
    """How many entries come before the label's in each of n rows."""
    owns, ones, zero = load(one, own, 0), splat(one, 1.0), splat(one, 0.0)
    larger, equal = zero, zero
    for k in range(K):
        v = load(one, tile, k * LANES)
        larger = add(larger, where_equal(maximum(v, owns), owns, zero, ones))
        equal = add(equal, where_equal(v, owns, ones, zero))
    store(ranks, 0, larger)
    if lanes_above(equal, ones) != 0:
        for j in range(n):
            for k in range(labels[r + j]):
                ranks[j] += tile[k * LANES + j] == own[j]


@inline
def powers_of_tile(one, tile, K, top, beta, predicted):
    """A tile as powers relative to its maxima, or probabilities (beta 0) as they are; each first maximum is set to 0.

    Returns the sum of the others, and the least entry with its sign turned.
    """
    zero = splat(one, 0.0)
    half_top, twice_beta = multiply(top, splat(one, -0.5)), splat(one, 2.0 * beta)
    lowest = zero
    place = zero
    for k in range(K - 1, -1, -1):
        place = where_equal(load(one, tile, k * LANES), top, splat(one, one * k), place)
    store(predicted, 0, place)
    for k in range(K):
        e = load(one, tile, k * LANES)
        lowest = maximum(subtract(zero, e), lowest)
        if beta > 0.0:
            store(tile, k * LANES, exp(exponent(one, e, half_top, twice_beta)))
    for j in range(LANES):
        tile[int(predicted[j]) * LANES + j] = 0.0
    rest = zero
    for k in range(K):
        rest = add(rest, load(one, tile, k * LANES))
    return rest, lowest


@inline
def add_tile_of_entries(one, tile, K, lanes, w, edges, B, low, block):
    """Entries of the first bin join `low` (2, K LANES), the others their bins."""
    limit, zero = splat(one, edges[1]), splat(one, 0.0)
    for k in range(K):
        p = load(one, tile, k * LANES)
        above = lanes_above(p, limit)
        while above != 0:
            j = lowest_bit(above)
            above &= above - 1
            q = tile[k * LANES + j]
            b = bin_of(q, edges, B)
            block[k, b, ROWS] += 1.0
            block[k, b, WEIGHT] += w[j]
            block[k, b, PROB] += w[j] * q
            block[k, b, PROB2] += w[j] * q * q
        kept = where_equal(maximum(p, limit), limit, p, zero)
        of_rows = multiply(kept, lanes)
        store(low[0], k * LANES, add(load(one, low[0], k * LANES), of_rows))
        store(low[1], k * LANES, add(load(one, low[1], k * LANES), multiply(of_rows, kept)))


@kernel
def evaluation_of_short(
    x, labels, weights, K, beta, tolerance, edges, facts, cells, errors, low_cells, low_errors, start, stop
):
    """The same of short rows, the other bins at once: cells (K, B, PLANES)."""
    one = 1.0
    predicted, top5, confidence, doubt, nll, brier, own = facts
    B = len(edges) - 1
    ones, zero = splat(one, 1.0), splat(one, 0.0)
    tile = tile_of(whole_fours(K) * LANES, one)
    table = np.zeros((LINES, LANES))
    low = np.zeros((2, K * LANES))
    block = np.zeros((K, B, PLANES))
    w, sums, least, at, ranks, place = np.zeros((6, LANES))
    joined = start
    for r0 in range(start, stop, LANES):
        n = min(LANES, stop - r0)
        load_tile(one, x, r0, n, K, 1, tile, LANES)
        for j in range(LANES):
            w[j] = weights[r0 + j] if j < n else 0.0
            if w[j] == 0.0:
                for k in range(K):
                    tile[k * LANES + j] = 0.0  # whatever is there must not reach a sum, where 0 times NaN is NaN
        top = tile_max(one, tile, 0, LANES, K)
        store(table[TOP], 0, top)
        for j in range(n):
            at[j] = tile[labels[r0 + j] * LANES + j]
            table[AT_LABEL, j] = (at[j] * 0.5 - table[TOP, j] * 0.5) * (2.0 * beta) if beta > 0.0 else at[j]
        if K > 5:
            ranks_of_tile(one, tile, K, labels, r0, n, at, ranks)
        rest, lowest = powers_of_tile(one, tile, K, top, beta, place)
        share = divide(ones, add(ones, rest)) if beta > 0.0 else top
        lanes = load(one, w, 0)
        factor = where_equal(lanes, zero, zero, share if beta > 0.0 else ones)
        store(table[REST], 0, rest)
        store(sums, 0, add(rest, top))
        store(least, 0, lowest)
        for j in range(n):
            total = sums[j]
            sound = -np.inf < total < np.inf
            if beta == 0.0:
                sound = abs(total - 1.0) <= tolerance and table[TOP, j] <= 1.0 + tolerance and least[j] <= 0.0
            if w[j] > 0.0 and not sound:
                return r0 + j
        squares = zero
        for k in range(K):  # all but the maximum's
            p = multiply(load(one, tile, k * LANES), factor)
            squares = multiply_add(p, p, squares)
            store(tile, k * LANES, p)
        store(table[SQUARES], 0, squares)
        store(sums, 0, share)
        for j in range(LANES):
            tile[int(place[j]) * LANES + j] = sums[j] if w[j] > 0.0 else 0.0
        for j in range(n):
            predicted[r0 + j], top5[r0 + j] = int(place[j]), ranks[j] < 5.0
            table[OWN, j] = tile[labels[r0 + j] * LANES + j]
        finish(one, table, n, r0, beta > 0.0, confidence, doubt, nll, brier, own)
        add_tile_of_entries(one, tile, K, lanes, w, edges, B, low, block)
        if r0 + LANES - joined >= TOGETHER or r0 + LANES >= stop:
            joined = r0 + LANES
            for k in range(K):
                for i in range(2):
                    add_to(low_cells, low_errors, (i, k), sum_of_lanes(load(one, low[i], k * LANES)))
                    store(low[i], k * LANES, splat(one, 0.0))
                for b in range(B):
                    for i in range(PLANES):
                        if block[k, b, i] != 0.0:
                            add_to(cells, errors, (k, b, i), block[k, b, i])
                            block[k, b, i] = 0.0
    return -1


# ---- facts of rows -> sums ----


@kernel
def add_labels(labels, facts, weights, exact, edges, cells, errors, classes, class_errors, confusion, confusion_errors):
    """Labels into the bins of their classes, and with their predictions into the confusion matrix.

    classes (4, K): the weights of the rows of a class in the top 5; where there is no confusion matrix also those of
    rows with this label, with this prediction, and with both.
    """
    B = len(edges) - 1
    predicted, top5, _, _, _, _, own = facts
    for r in range(len(labels)):
        w = weights[r]
        if w > 0.0:
            y, k = labels[r], predicted[r]
            b = bin_of(own[r], edges, B)
            add_weight(cells, errors, (y, b, LABEL), w, exact)
            add_to(cells, errors, (y, b, PROB_LABEL), w * own[r])
            if top5[r]:
                add_weight(classes, class_errors, (3, y), w, exact)
            if confusion is not None:
                add_weight(confusion, confusion_errors, (y, k), w, exact)
            else:
                add_weight(classes, class_errors, (0, y), w, exact)
                add_weight(classes, class_errors, (1, k), w, exact)
                if y == k:
                    add_weight(classes, class_errors, (2, y), w, exact)


@kernel
def add_confidences(confidence, doubt, right, weights, exact, edges, bins, bin_errors, fine, fine_errors):
    """Rows into bins (8, B) and the fine histogram (3, FINE_CELLS).

    bins: rows, right rows, and with weights 1, w, r, c, c(1 - c), (r - c)^2. fine: w, wr, w(1 - c).
    """
    B = len(edges) - 1
    bits = doubt.view(np.int64)
    for i in range(len(confidence)):
        w = weights[i]
        if w > 0.0:
            c, d, r = confidence[i], doubt[i], right[i]
            b = bin_of(c, edges, B)
            bins[0, b] += 1.0
            add_weight(bins, bin_errors, (2, b), w, exact)
            add_weight(bins, bin_errors, (3, b), w * w, exact)
            if r:
                bins[1, b] += 1.0
                add_weight(bins, bin_errors, (4, b), w, exact)
            add_to(bins, bin_errors, (5, b), w * c)
            add_to(bins, bin_errors, (6, b), w * c * d)
            miss = d if r else c
            add_to(bins, bin_errors, (7, b), w * miss * miss)
            f = fine_cell(c, bits[i])
            add_weight(fine, fine_errors, (0, f), w, exact)
            if r:
                add_weight(fine, fine_errors, (1, f), w, exact)
            add_to(fine, fine_errors, (2, f), w * d)


@inline
def whole(total, error):
    """A sum of two parts, over all lanes; what rounding dropped is NaN where the sum is infinite."""
    s = sum_of_lanes(add(total, error))
    return s if s == s else sum_of_lanes(total)


@kernel
def add_means(nll, brier, confidence, weights, sums, errors):
    """Σwx and Σwx² of the three, (3, 2). An infinite NLL adds nothing; returns how many there are."""
    one = 1.0
    zero, inf = splat(one, 0.0), splat(one, np.inf)
    infinite = 0
    t0, t1, t2, t3, t4, t5 = zero, zero, zero, zero, zero, zero
    e0, e1, e2, e3, e4, e5 = zero, zero, zero, zero, zero, zero
    for i in range(0, len(weights), LANES):
        n = min(LANES, len(weights) - i)
        w, x = load_part(one, weights, i, n, 0.0), load_part(one, nll, i, n, 0.0)
        finite = where_equal(x, inf, zero, x)
        infinite += count_of_bits(lanes_above(w, zero) & ~lanes_above(inf, x))
        wx = multiply(w, finite)
        t0, e0 = two_sum(t0, e0, wx)
        t1, e1 = two_sum(t1, e1, multiply(wx, finite))
        x = load_part(one, brier, i, n, 0.0)
        wx = multiply(w, x)
        t2, e2 = two_sum(t2, e2, wx)
        t3, e3 = two_sum(t3, e3, multiply(wx, x))
        x = load_part(one, confidence, i, n, 0.0)
        wx = multiply(w, x)
        t4, e4 = two_sum(t4, e4, wx)
        t5, e5 = two_sum(t5, e5, multiply(wx, x))
    add_to(sums, errors, (0, 0), whole(t0, e0))
    add_to(sums, errors, (0, 1), whole(t1, e1))
    add_to(sums, errors, (1, 0), whole(t2, e2))
    add_to(sums, errors, (1, 1), whole(t3, e3))
    add_to(sums, errors, (2, 0), whole(t4, e4))
    add_to(sums, errors, (2, 1), whole(t5, e5))
    return infinite


@kernel
def join(high, low, more, more_low):
    """Sums of two parts, flat, join others."""
    for i in range(len(high)):
        if more[i] != 0.0:
            add_to(high, low, i, more[i])
            low[i] += more_low[i]
