"""Every op as a float64 loop over rows (n, K), and its gradient as the formula says, edges written out."""

import math

import numpy as np

from tests.cases.rows import row_log_probability

INF, NAN = math.inf, math.nan


def _rows(z, mask, temperature):
    n = len(z)
    valid = np.ones(z.shape, bool) if mask is None else np.broadcast_to(mask, z.shape)
    return zip(z, valid, np.broadcast_to(np.ravel(temperature), (n,)) if n else [], strict=True)


def log_softmax(z, mask=None, temperature=1.0):
    return np.array([row_log_probability(*row) for row in _rows(z, mask, temperature)]).reshape(z.shape)


def softmax(z, mask=None, temperature=1.0):
    return np.exp(log_softmax(z, mask, temperature))


def logsumexp(z, mask=None):
    values = []
    for row, valid, _ in _rows(z, mask, 1.0):
        inside = [x for x, v in zip(row, valid, strict=True) if v]
        top = max(inside, default=-INF)
        if any(math.isnan(x) for x in inside):
            values.append(NAN)
        elif math.isinf(top):
            values.append(top)
        else:
            values.append(top + math.log(math.fsum(math.exp(x - top) for x in inside)))
    return np.array(values)


def softmax_jacobian(z):
    """p_i times the sum of the others on the diagonal, -p_i p_j elsewhere; where nothing moves, 0."""
    k = z.shape[-1]
    jacobian = np.zeros((*z.shape, k))
    for row, p, of_row in zip(z, softmax(z), jacobian, strict=True):
        if INF in row and not np.isnan(row).any():
            continue
        for i in range(k):
            for j in range(k):
                if -INF not in (row[i], row[j]):
                    of_row[i, j] = p[i] * math.fsum(np.delete(p, i)) if i == j else -p[i] * p[j]
    return jacobian


def entropy(z, mask=None):
    return np.array([math.fsum(-math.exp(x) * x for x in row if x != -INF) for row in log_softmax(z, mask)])


def kl_divergence(z, other, mask=None):
    values = []
    for log_p, log_q in zip(log_softmax(z, mask), log_softmax(other, mask), strict=True):
        # where NaN is a whole row, 0 log 0 = 0 must not hide it
        terms = [
            0.0 if lp == -INF and not math.isnan(lq) else math.exp(lp) * (lp - lq)
            for lp, lq in zip(log_p, log_q, strict=True)
        ]
        values.append(INF if INF in terms and not np.isnan(terms).any() else math.fsum(terms))
    return np.array(values)


def log_prob(z, labels, mask=None):
    return log_softmax(z, mask)[np.arange(len(z)), labels]


def log_sigmoid(z):
    values = [NAN if math.isnan(x) else min(x, 0.0) - math.log1p(math.exp(-abs(x))) for x in np.ravel(z)]
    return np.array(values).reshape(np.shape(z))


def sigmoid(z):
    return np.exp(log_sigmoid(z))


def binary_cross_entropy(z, y, mask=None, pos_weight=1.0, weights=1.0):
    """A loss an element; a coefficient of 0 gives 0, even times infinity."""
    arguments = (z, y, True if mask is None else mask, pos_weight, weights)
    values = []
    for x, t, valid, positive, weight in np.broadcast(*arguments):
        pairs = ((weight * positive * t, -x), (weight * (1 - t), x))
        terms = [a * -float(log_sigmoid(np.float64(-s))) for a, s in pairs if a != 0 and valid]
        values.append(math.fsum(terms))
    return np.array(values).reshape(np.broadcast_shapes(*(np.shape(a) for a in arguments)))


# ---- gradients of <op, g>: pairs of the gradient and of where it is 0 by rule ----


def still(z, mask=None, temperature=1.0):
    """Where nothing moves: masked or -inf, T = 0 and T = inf, rows that hold +inf and no NaN."""
    valid = np.ones(z.shape, bool) if mask is None else np.broadcast_to(mask, z.shape)
    temperature = np.broadcast_to(temperature, (*z.shape[:-1], 1))
    nan = np.any(np.isnan(z) & valid, axis=-1, keepdims=True)
    level = np.any((z == INF) & valid, axis=-1, keepdims=True) & ~nan
    return ~valid | (z == -INF) | level | (temperature == 0) | (temperature == INF)


def _ruled(gradient, zero):
    return np.where(zero, 0.0, gradient), zero


def _moved(p, g):
    """p (g - <g, p>), what does not take part left out."""
    g = np.where(p == 0, 0.0, g)
    return p * (g - (g * p).sum(-1, keepdims=True))


@np.errstate(all="ignore")
def softmax_gradient(z, g, mask=None, temperature=1.0):
    return _ruled(_moved(softmax(z, mask, temperature), g) / temperature, still(z, mask, temperature))


@np.errstate(all="ignore")
def log_softmax_gradient(z, g, mask=None, temperature=1.0):
    log_p = log_softmax(z, mask, temperature)
    g = np.where(log_p == -INF, 0.0, g)
    return _ruled((g - np.exp(log_p) * g.sum(-1, keepdims=True)) / temperature, still(z, mask, temperature))


@np.errstate(all="ignore")
def temperature_gradient(of_logits, z, g, mask=None, temperature=1.0):
    """At one temperature a row: minus <z, the gradient at z> / T, where a shift of z changes nothing."""
    at_z, zero = of_logits(z, g, mask, temperature)
    top = np.where(zero, -INF, z).max(-1, keepdims=True)
    gradient = np.where(zero, 0.0, at_z * (top - z)).sum(-1, keepdims=True) / temperature
    return _ruled(gradient, zero.all(-1, keepdims=True))


@np.errstate(all="ignore")
def logsumexp_gradient(z, g, mask=None):
    return _ruled(softmax(z, mask) * g[:, None], still(z, mask))


@np.errstate(all="ignore")
def softmax_jacobian_gradient(z, g):
    """<J, g> = sum_i p_i g_ii - p'gp, so at p it is g_ii - (g p)_i - (g'p)_i."""
    p = np.nan_to_num(softmax(z))
    at_p = np.diagonal(g, axis1=-2, axis2=-1) - np.einsum("nij,nj->ni", g + np.swapaxes(g, -1, -2), p)
    return softmax_gradient(z, at_p)


@np.errstate(all="ignore")
def entropy_gradient(z, g, mask=None):
    log_p = log_softmax(z, mask)
    p = np.exp(log_p)
    gradient = np.where(p == 0, 0.0, -p * (log_p + entropy(z, mask)[:, None])) * g[:, None]
    return _ruled(gradient, still(z, mask))


@np.errstate(all="ignore")
def kl_divergence_gradients(z, other, g, mask=None):
    """At both logits, where the divergence is finite."""
    p, q = softmax(z, mask), softmax(other, mask)
    ratio = np.where(p == 0, 0.0, log_softmax(z, mask) - log_softmax(other, mask))
    at_z = _ruled(_moved(p, ratio) * g[:, None], still(z, mask))
    return at_z, _ruled((q - p) * g[:, None], still(other, mask))


@np.errstate(all="ignore")
def cross_entropy_gradient(z, coefficients, mask=None):
    """Of the sum of the losses; coefficients are w_i c_k q_ik. A row without one counts nowhere."""
    total = coefficients.sum(-1, keepdims=True)
    return _ruled(softmax(z, mask) * total - coefficients, still(z, mask) | (total == 0))


def log_prob_gradient(z, labels, g, mask=None):
    """0 where the value is -inf, as for log_softmax."""
    g = np.where(log_prob(z, labels, mask) == -INF, 0.0, g)
    return log_softmax_gradient(z, np.eye(z.shape[1])[labels] * g[:, None], mask)


@np.errstate(all="ignore")
def sigmoid_gradient(z, g):
    return _ruled(sigmoid(z) * sigmoid(-z) * g, np.isinf(z))


@np.errstate(all="ignore")
def log_sigmoid_gradient(z, g):
    return _ruled(sigmoid(-z) * g, np.isinf(z))


@np.errstate(all="ignore")
def binary_cross_entropy_gradient(z, y, g, mask=None, pos_weight=1.0, weights=1.0):
    positive, negative = weights * pos_weight * y, weights * (1 - y)
    outside = ~np.broadcast_to(True if mask is None else mask, z.shape)
    dead = np.isinf(z) | (positive + negative == 0) | outside
    return _ruled((negative * sigmoid(z) - positive * sigmoid(-z)) * g, dead)


@np.errstate(all="ignore")
def logits_from_probs_gradient(p, g):
    return _ruled(g / p, p == 0)


# ---- second derivatives: gradients at z of <the gradient above, v> ----


@np.errstate(all="ignore")
def softmax_second(z, g, v, mask=None, temperature=1.0):
    p = softmax(z, mask, temperature)
    g, v = (np.where(p == 0, 0.0, x) for x in (g, v))
    at_p = g * v - v * (g * p).sum(-1, keepdims=True) - g * (v * p).sum(-1, keepdims=True)
    return softmax_gradient(z, at_p / temperature, mask, temperature)


@np.errstate(all="ignore")
def log_softmax_second(z, g, v, mask=None, temperature=1.0):
    g = np.where(log_softmax(z, mask, temperature) == -INF, 0.0, g)
    return softmax_gradient(z, -g.sum(-1, keepdims=True) * v / temperature, mask, temperature)


def logsumexp_second(z, g, v, mask=None):
    return softmax_gradient(z, g[:, None] * v, mask)


def cross_entropy_second(z, coefficients, v, mask=None):
    total = coefficients.sum(-1, keepdims=True)
    gradient, zero = softmax_gradient(z, total * v, mask)
    return _ruled(gradient, zero | (total == 0))
