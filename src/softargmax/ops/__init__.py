"""Logits -> probabilities, and the losses on them, on any array library: what they mean, at every edge."""

from softargmax.ops.cross_entropy import cross_entropy, cross_entropy_and_grad, log_prob
from softargmax.ops.entropy import entropy, kl_divergence
from softargmax.ops.jacobian import softmax_jacobian
from softargmax.ops.probs import for_sampling, logits_from_probs
from softargmax.ops.sigmoid import binary_cross_entropy, log_sigmoid, sigmoid
from softargmax.ops.softmax import log_softmax, logsumexp, softmax

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "cross_entropy_and_grad",
    "entropy",
    "for_sampling",
    "kl_divergence",
    "log_prob",
    "log_sigmoid",
    "log_softmax",
    "logits_from_probs",
    "logsumexp",
    "sigmoid",
    "softmax",
    "softmax_jacobian",
]
