"""Logits -> probabilities, and the losses on them, on any array library: what they mean, at every edge."""

from softargmax.ops.cross_entropy import cross_entropy, cross_entropy_and_grad
from softargmax.ops.softmax import log_softmax, logits_from_probs, logsumexp, softmax

__all__ = ["cross_entropy", "cross_entropy_and_grad", "log_softmax", "logits_from_probs", "logsumexp", "softmax"]
