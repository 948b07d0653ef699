"""Run every line of docs/peers.md and print what the peers and softargmax say; --write rewrites the page.

python tools/peer_values.py [--write]       needs scipy, torch, jax, optax, tensorflow and keras
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).resolve().parents[1] / "docs" / "peers.md"
NAMES = {
    "numpy": "NumPy",
    "scipy": "SciPy",
    "torch": "PyTorch",
    "jax": "JAX",
    "optax": "Optax",
    "tensorflow_cpu": "TensorFlow",
    "keras": "Keras on JAX",
}
IMPORTS = {"scipy": "import scipy.special", "optax": "import optax", "keras": "import keras"}


@dataclass(frozen=True, eq=False)
class Case:
    """What a peer and what softargmax say of the same arrays.

    `setup`, `peer` and `ours` are Python statements; the last of `peer` and of `ours` is the expression that is shown.
    """

    library: str  # a key of NAMES
    setup: str
    peer: str
    ours: str
    right: Any  # from a closed form, never from softargmax; ValueError where the input is to be refused
    peer_is_right: bool = False

    @property
    def peers_program(self) -> str:
        """One line of Python that prints what the peer says."""
        return _printing(IMPORTS.get(self.library, ""), self.setup, self.peer)

    @property
    def our_program(self) -> str:
        """One line of Python that prints what softargmax says."""
        return _printing("import softargmax as sa", self.setup, self.ours)

    @property
    def command(self) -> str:
        """The line for a shell."""
        return f'{"KERAS_BACKEND=jax " if self.library == "keras" else ""}python -c "{self.peers_program}"'


def _printing(imports: str, setup: str, statements: str) -> str:
    *before, shown = statements.split("; ")
    return "; ".join(part for part in (imports, setup, *before, f"print({shown})") if part)


@dataclass(frozen=True)
class Topic:
    """A section of the page."""

    title: str
    text: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Shown:
    """What the lines of a case printed, and the version of the peer that did."""

    version: str
    peer: str
    ours: str


NUMPY = "import numpy as np"
TORCH = "import torch, torch.nn.functional as F"
JAX = "import jax, jax.numpy as jnp"
TENSORFLOW = "import tensorflow as tf"


# ---- what is right ----

LOG_K = math.log(65536)
NEAR_ONE = -math.log1p(math.exp(-16.9423847198486328125))  # 16.942385 in float32
PAIR = [1 / (1 + math.e), math.e / (1 + math.e)]  # softmax([0, 1, -inf]) without the last
PAIR_ENTROPY = -sum(p * math.log(p) for p in PAIR)
PAIR_ENTROPY_GRADIENT = [*(-p * (math.log(p) + PAIR_ENTROPY) for p in PAIR), 0.0]


def smoothed_loss() -> float:
    """The loss of the section on smoothing, summed from its definition."""
    rows = [  # torch.manual_seed(0); torch.randn(5, 3)
        [1.5409961, -0.2934289, -2.1787894],
        [0.5684313, -1.0845224, -1.3985955],
        [0.4033468, 0.8380263, -0.7192576],
        [-0.4033435, -0.5966353, 0.1820365],
        [-0.8566747, 1.1006042, -1.0711874],
    ]
    total = denominator = 0.0
    for row, label in zip(rows, (0, 1, 2, 2, 0), strict=True):
        log_sum = math.log(math.fsum(math.exp(z) for z in row))
        for k, class_weight in enumerate((1, 2, 10)):
            coefficient = class_weight * (0.8 * (k == label) + 0.2 / 3)
            total += coefficient * (log_sum - row[k])
            denominator += coefficient
    return total / denominator


# ---- the page ----

TOPICS = (
    Topic(
        "65,536 classes in float16",
        """\
The largest float16 is 65,504, and vocabularies are larger. A sum of exponentials kept in float16 becomes inf, so all
probabilities become 0. Half precision is summed in float32 here and rounded once.""",
        (
            Case("scipy", f"{NUMPY}; z = np.zeros(65504, np.float16)",
                 "scipy.special.softmax(z).sum(dtype=float)", "sa.softmax(z).sum(dtype=float)",
                 65504 * float(np.float16(1 / 65504)), peer_is_right=True),
            Case("scipy", f"{NUMPY}; z = np.zeros(65536, np.float16)",
                 "scipy.special.softmax(z).sum(dtype=float)", "sa.softmax(z).sum(dtype=float)", 1),
            Case("jax", f"{JAX}; z = jnp.zeros(65536, jnp.float16)",
                 "jax.nn.softmax(z)[0]", "sa.softmax(z)[0]", 2.0**-16),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z = tf.zeros(65536, tf.float16)",
                 "tf.nn.softmax(z)[0].numpy()", "sa.softmax(z)[0].numpy()", 2.0**-16),
            Case("scipy", f"{NUMPY}; z = np.zeros(65536, np.float16)",
                 "scipy.special.log_softmax(z)[0]", "sa.log_softmax(z)[0]", -LOG_K),
            Case("torch", f"{TORCH}; z = torch.zeros(65536, dtype=torch.float16)",
                 "torch.log_softmax(z, -1)[0]", "sa.log_softmax(z)[0]", -LOG_K),
            Case("jax", f"{JAX}; z = jnp.zeros(65536, jnp.float16)",
                 "jax.nn.log_softmax(z)[0]", "sa.log_softmax(z)[0]", -LOG_K),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z = tf.zeros(65536, tf.float16)",
                 "tf.nn.log_softmax(z)[0].numpy()", "sa.log_softmax(z)[0].numpy()", -LOG_K),
            Case("scipy", f"{NUMPY}; z = np.zeros(65536, np.float16)",
                 "scipy.special.logsumexp(z)", "sa.logsumexp(z)", LOG_K),
            Case("torch", f"{TORCH}; z = torch.zeros(65536, dtype=torch.float16)",
                 "torch.logsumexp(z, -1)", "sa.logsumexp(z)", LOG_K),
            Case("jax", f"{JAX}; z = jnp.zeros(65536, jnp.float16)",
                 "jax.nn.logsumexp(z)", "sa.logsumexp(z)", LOG_K),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z = tf.zeros(65536, tf.float16)",
                 "tf.reduce_logsumexp(z).numpy()", "sa.logsumexp(z).numpy()", LOG_K),
            Case("optax", f"{JAX}; z = jnp.zeros(65536, jnp.float16)",
                 "optax.softmax_cross_entropy_with_integer_labels(z, 0)", "sa.cross_entropy(z, 0)", LOG_K),
        ),
    ),
    Topic(
        "The loss of a sure prediction",
        """\
log p of the larger of two classes is −log(1 + exp(−d)), d the gap: −4.4e-08 at d = 16.942385, which float32 holds
well. As z − max − log(sum) it is 0, because 1 + 4.4e-08 rounds to 1, and a loss of 0 teaches nothing.""",
        (
            Case("scipy", f"{NUMPY}; z = np.array([16.942385, 0], np.float32)",
                 "scipy.special.log_softmax(z)[0]", "sa.log_softmax(z)[0]", NEAR_ONE),
            Case("torch", f"{TORCH}; z = torch.tensor([16.942385, 0])",
                 "F.cross_entropy(z, torch.tensor(0))", "sa.cross_entropy(z, 0)", -NEAR_ONE),
            Case("jax", f"{JAX}; z = jnp.array([16.942385, 0])",
                 "jax.nn.log_softmax(z)[0]", "sa.log_softmax(z)[0]", NEAR_ONE),
            Case("optax", f"{JAX}; z = jnp.array([16.942385, 0])",
                 "optax.softmax_cross_entropy_with_integer_labels(z, 0)", "sa.cross_entropy(z, 0)", -NEAR_ONE),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z = tf.constant([[16.942385, 0]])",
                 "tf.nn.sparse_softmax_cross_entropy_with_logits([0], z).numpy()", "sa.cross_entropy(z, [0]).numpy()",
                 -NEAR_ONE),
        ),
    ),
    Topic(
        "A score of +inf",
        """\
As one score grows, softmax tends to all the probability there; that limit is what softargmax gives. The peers give
NaN. JAX says so in its documentation.""",
        (
            Case("scipy", f"{NUMPY}; z = np.array([1, np.inf])",
                 "scipy.special.softmax(z)", "sa.softmax(z)", [0, 1]),
            Case("torch", f"{TORCH}; z = torch.tensor([1, torch.inf])",
                 "torch.softmax(z, -1)", "sa.softmax(z)", [0, 1]),
            Case("jax", f"{JAX}; z = jnp.array([1, jnp.inf])",
                 "jax.nn.softmax(z)", "sa.softmax(z)", [0, 1]),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z = tf.constant([1, float('inf')])",
                 "tf.nn.softmax(z).numpy()", "sa.softmax(z).numpy()", [0, 1]),
            Case("torch", f"{TORCH}; z, y = torch.tensor([torch.inf]), torch.tensor([1.0])",
                 "F.binary_cross_entropy_with_logits(z, y)", "sa.binary_cross_entropy(z, y)", 0),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z, y = tf.constant([float('inf')]), tf.constant([1.0])",
                 "tf.nn.sigmoid_cross_entropy_with_logits(y, z).numpy()",
                 "sa.binary_cross_entropy(z, y, reduction='none').numpy()", [0]),
        ),
    ),
    Topic(
        "A row that is masked out",
        """\
Filling what is masked with -inf leaves a row of -inf where nothing takes part: 0/0, NaN, which every product with
that row spreads. Of a row of -inf nobody can say a distribution, and softargmax says NaN for it too; but `mask=`
tells that nothing is wanted, and then it is 0, with a gradient of 0.""",
        (
            Case("scipy", f"{NUMPY}; z, mask = np.ones(2), np.zeros(2, bool)",
                 "scipy.special.softmax(np.where(mask, z, -np.inf))", "sa.softmax(z, mask=mask)", [0, 0]),
            Case("torch", f"{TORCH}; z, mask = torch.ones(2), torch.zeros(2, dtype=torch.bool)",
                 "torch.softmax(z.masked_fill(~mask, -torch.inf), -1)", "sa.softmax(z, mask=mask)", [0, 0]),
            Case("jax", f"{JAX}; z, mask = jnp.ones(2), jnp.zeros(2, bool)",
                 "jax.nn.softmax(jnp.where(mask, z, -jnp.inf))", "sa.softmax(z, mask=mask)", [0, 0]),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z, mask = tf.ones(2), tf.zeros(2, tf.bool)",
                 "tf.nn.softmax(tf.where(mask, z, -float('inf'))).numpy()", "sa.softmax(z, mask=mask).numpy()", [0, 0]),
            Case("torch", f"{TORCH}; z = torch.full([2], -torch.inf, requires_grad=True)",
                 "torch.logsumexp(z, -1).backward(); z.grad", "sa.logsumexp(z).backward(); z.grad", [0, 0]),
            Case("jax", f"{JAX}; z = jnp.full(2, -jnp.inf)",
                 "jax.grad(jax.nn.logsumexp)(z)", "jax.grad(sa.logsumexp)(z)", [0, 0]),
        ),
    ),
    Topic(
        "An ignored row that reaches the gradient",
        """\
Row 0 is ignored and holds -inf. The loss is finite, and the gradient of the row, which goes on to every shared
weight, is NaN.""",
        (
            Case("torch", f"{TORCH}; z, y = torch.zeros(4, 3), torch.tensor([-100, 1, 2, 0]); "
                 "z[0] = -torch.inf; z.requires_grad_()",
                 "F.cross_entropy(z, y).backward(); z.grad[0]",
                 "sa.cross_entropy(z, y, ignore_index=-100).backward(); z.grad[0]", [0, 0, 0]),
        ),
    ),
    Topic(
        "The entropy of a masked softmax",
        """\
p log p at p = 0 is 0·(−inf), NaN, in the value or only in the gradient. With H the entropy, its gradient is −p (log
p + H), and 0 at the masked place (google/jax#17070).""",
        (
            Case("torch", f"{TORCH}; z = torch.tensor([0, 1, -torch.inf], requires_grad=True)",
                 "p = torch.softmax(z, -1); torch.special.entr(p).sum().backward(); z.grad",
                 "sa.entropy(z).backward(); z.grad", PAIR_ENTROPY_GRADIENT),
            Case("jax", f"{JAX}; z = jnp.array([0, 1, -jnp.inf])",
                 "jax.grad(lambda z: jax.scipy.special.entr(jax.nn.softmax(z)).sum())(z)", "jax.grad(sa.entropy)(z)",
                 PAIR_ENTROPY_GRADIENT),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z = tf.constant([0, 1, -float('inf')])",
                 "-tf.reduce_sum(tf.nn.softmax(z) * tf.nn.log_softmax(z)).numpy()", "sa.entropy(z).numpy()",
                 PAIR_ENTROPY),
        ),
    ),
    Topic(
        "A target of 0 where the score is -inf",
        """\
0·log 0 is 0. A class that is impossible and that the target says is impossible costs nothing.""",
        (
            Case("torch", f"{TORCH}; z, q = torch.tensor([0, 1, -torch.inf]), torch.tensor([0.5, 0.5, 0])",
                 "F.cross_entropy(z, q)", "sa.cross_entropy(z, q)", math.log1p(math.e) - 0.5),
            Case("optax", f"{JAX}; z, q = jnp.array([0, 1, -jnp.inf]), jnp.array([0.5, 0.5, 0])",
                 "optax.softmax_cross_entropy(z, q)", "sa.cross_entropy(z, q)", math.log1p(math.e) - 0.5),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z, q = "
                 "tf.constant([0, 1, -float('inf')]), tf.constant([0.5, 0.5, 0])",
                 "tf.nn.softmax_cross_entropy_with_logits(q, z).numpy()", "sa.cross_entropy(z, q).numpy()",
                 math.log1p(math.e) - 0.5),
            Case("torch", f"{TORCH}; z = torch.tensor([0, 1, -torch.inf])",
                 "p = torch.log_softmax(z, -1); F.kl_div(p, p, log_target=True, reduction='sum')",
                 "sa.kl_divergence(z, z)", 0),
        ),
    ),
    Topic(
        "A label outside the classes",
        """\
A label of −1 is "unknown" in many files. Optax trains the last class on it, and gives
NaN for −100, the usual label of a row to be ignored; Keras on JAX gives a loss of 0. An error
is right where values can be looked at, and NaN under `jax.jit`, where they cannot: never another class's loss.
PyTorch and TensorFlow on the CPU raise; TensorFlow compiled gives NaN, as here.""",
        (
            Case("optax", f"{JAX}; z, y = jnp.array([[1.0, 2, 3]]), jnp.array([-1])",
                 "optax.softmax_cross_entropy_with_integer_labels(z, y)", "sa.cross_entropy(z, y)", ValueError),
            Case("optax", f"{JAX}; z, y = jnp.array([[1.0, 2, 3]]), jnp.array([-1])",
                 "jax.jit(optax.softmax_cross_entropy_with_integer_labels)(z, y)", "jax.jit(sa.cross_entropy)(z, y)",
                 math.nan),
            Case("optax", f"{JAX}; z, y = jnp.array([[1.0, 2, 3]]), jnp.array([-100])",
                 "optax.softmax_cross_entropy_with_integer_labels(z, y)",
                 "sa.cross_entropy(z, y, ignore_index=-100)", 0),
            Case("keras", f"{JAX}; z, y = jnp.array([[1.0, 2, 3]]), jnp.array([-1])",
                 "keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, z)", "sa.cross_entropy(z, y)",
                 ValueError),
            Case("keras", f"{JAX}; z, y = jnp.array([[1.0, 2, 3]]), jnp.array([7])",
                 "keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, z)", "sa.cross_entropy(z, y)",
                 ValueError),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z, y = tf.constant([[1.0, 2, 3]]), tf.constant([-1])",
                 "f = tf.nn.sparse_softmax_cross_entropy_with_logits; tf.function(f, jit_compile=True)(y, z).numpy()",
                 "tf.function(sa.cross_entropy, jit_compile=True)(z, y).numpy()", math.nan, peer_is_right=True),
        ),
    ),
    Topic(
        "Targets that are no distribution",
        """\
Rows that do not sum to 1 scale the loss; nothing says so.""",
        (
            Case("torch", f"{TORCH}; z, q = torch.zeros(1, 3), torch.tensor([[2.0, 3, 4]])",
                 "F.cross_entropy(z, q)", "sa.cross_entropy(z, q)", ValueError),
            Case("optax", f"{JAX}; z, q = jnp.zeros((1, 3)), jnp.array([[2.0, 3, 4]])",
                 "optax.softmax_cross_entropy(z, q)", "sa.cross_entropy(z, q)", ValueError),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z, q = tf.zeros([1, 3]), tf.constant([[2.0, 3, 4]])",
                 "tf.nn.softmax_cross_entropy_with_logits(q, z).numpy()", "sa.cross_entropy(z, q)", ValueError),
        ),
    ),
    Topic(
        "Probabilities or logits",
        """\
A loss on probabilities clips them at 1e-7, so that no mistake costs more than −log 1e-7 = 16.118, and the gradient
beyond is 0: the loss of softmax([100, 0, 0]) for class 1 is 100. And when it is handed logits, it takes them as
probabilities without a word: [5, −3, 1] with label 0 costs 0.018479. Losses here take logits; whoever has
probabilities says so by `logits_from_probs`, which refuses what is none. The other way round nothing can be refused: a
sure and right one-hot row passed as logits costs 1.4612, here too.""",
        (
            Case("keras", f"{JAX}; z, y = jnp.array([[100.0, 0, 0]]), jnp.array([1])",
                 "keras.losses.SparseCategoricalCrossentropy()(y, keras.ops.softmax(z))", "sa.cross_entropy(z, y)",
                 100 + math.log1p(2 * math.exp(-100))),
            Case("keras", f"{JAX}; z, y = jnp.array([[5.0, -3, 1]]), jnp.array([0])",
                 "keras.losses.SparseCategoricalCrossentropy()(y, z)", "sa.cross_entropy(z, y)",
                 math.log1p(math.exp(-8) + math.exp(-4))),
            Case("keras", f"{JAX}; z, y = jnp.array([[5.0, -3, 1]]), jnp.array([0])",
                 "keras.losses.SparseCategoricalCrossentropy()(y, z)", "sa.cross_entropy(sa.logits_from_probs(z), y)",
                 ValueError),
            Case("keras", f"{JAX}; z, y = jnp.array([[100.0, 0, 0]]), jnp.array([1])",
                 "keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, z)", "sa.cross_entropy(z, y)",
                 100 + math.log1p(2 * math.exp(-100)), peer_is_right=True),
            Case("keras", f"{JAX}; p, y = jnp.eye(10)[:1], jnp.array([0])",
                 "keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, p)", "sa.cross_entropy(p, y)",
                 math.log1p(9 / math.e), peer_is_right=True),
        ),
    ),
    Topic(
        "Smoothing with class weights",
        """\
The same smoothed target, once as labels with `label_smoothing=0.2` and once written out as a distribution, costs
1.5329 and 7.3579: the first mean is over the weights of the labels, the second over the rows. Here both are the sum
of the weighted terms over the sum of their weights (see [cross_entropy](ops/cross_entropy.md)).""",
        (
            Case("torch", f"{TORCH}; g = torch.manual_seed(0); z, y, w = "
                 "torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 0]), torch.tensor([1.0, 2, 10])",
                 "F.cross_entropy(z, y, weight=w, label_smoothing=0.2)",
                 "sa.cross_entropy(z, y, class_weights=w, label_smoothing=0.2)", smoothed_loss()),
            Case("torch", f"{TORCH}; g = torch.manual_seed(0); z, y, w = "
                 "torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 0]), torch.tensor([1.0, 2, 10])",
                 "q = 0.8 * F.one_hot(y) + 0.2 / 3; F.cross_entropy(z, q, weight=w)",
                 "q = 0.8 * F.one_hot(y) + 0.2 / 3; sa.cross_entropy(z, q, class_weights=w)", smoothed_loss()),
        ),
    ),
    Topic(
        "A mean over nothing",
        """\
A batch whose labels are all ignored. NaN here ends a training run; 0, with a gradient of 0, goes on. This is a
choice: `empty="nan"` and `empty="raise"` give the others.""",
        (
            Case("torch", f"{TORCH}; z, y = torch.zeros(2, 3), torch.tensor([-100, -100])",
                 "F.cross_entropy(z, y)", "sa.cross_entropy(z, y, ignore_index=-100)", 0),
        ),
    ),
    Topic(
        "Temperature 0",
        """\
The limit of a falling temperature is the largest score, as every "greedy" setting means it.""",
        (
            Case("torch", f"{TORCH}; z = torch.tensor([1.0, 2, 3])",
                 "F.gumbel_softmax(z, tau=0)", "sa.softmax(z, temperature=0)", [0, 0, 1]),
            Case("jax", f"{JAX}; z = jnp.array([1.0, 2, 3])",
                 "jax.nn.softmax(z / 0)", "sa.softmax(z, temperature=0)", [0, 0, 1]),
            Case("tensorflow_cpu", f"{TENSORFLOW}; z = tf.constant([1.0, 2, 3])",
                 "tf.nn.softmax(z / 0).numpy()", "sa.softmax(z, temperature=0).numpy()", [0, 0, 1]),
        ),
    ),
    Topic(
        "The axis nobody named",
        """\
SciPy's default is the whole array, not its rows.""",
        (
            Case("scipy", f"{NUMPY}; z = np.ones((2, 3))",
                 "scipy.special.softmax(z)", "sa.softmax(z)", [[1 / 3] * 3] * 2),
        ),
    ),
    Topic(
        "Samplers that refuse probabilities",
        """\
Probabilities in float32 sum to 1 only to rounding. In float64, where samplers check to 1e-8 or 1e-12, that is not 1.
`for_sampling` gives rows whose sum is 1.0 in any order of summation.""",
        (
            Case("numpy", f"{NUMPY}, scipy.special; p = scipy.special.softmax(np.zeros(3, np.float32))",
                 "np.random.default_rng(0).choice(3, p=p.astype(float))", "sa.for_sampling(p).sum()", 1),
            Case("numpy", f"{NUMPY}, scipy.special; p = scipy.special.softmax(np.array([20, 0, 0], np.float32))",
                 "np.random.default_rng(0).multinomial(1, p)",
                 "np.random.default_rng(0).multinomial(1, sa.for_sampling(p)).sum()", 1),
            Case("numpy", f"{NUMPY}, scipy.special; z = np.random.default_rng(0).standard_normal((800, 1000)); "
                 "p = scipy.special.softmax(z.astype(np.float32), -1)",
                 "(abs(p.astype(float).sum(-1) - 1) > 1e-8).sum()", "(abs(sa.for_sampling(p).sum(-1) - 1) > 1e-8).sum()",
                 0),
        ),
    ),
)  # fmt: skip


def last_words(program: str, library: str) -> str:
    """What a line of Python prints, in one line, or the first clause of the error it ends in."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    env.pop("KERAS_BACKEND", None)
    if library == "keras":
        env["KERAS_BACKEND"] = "jax"
    line = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(line, capture_output=True, text=True, check=False, env=env)
    if result.returncode == 0:
        return " ".join(result.stdout.split())
    return re.split("[.;] ", result.stderr.strip().splitlines()[-1])[0]


def measured(case: Case) -> Shown:
    """Run both lines of a case."""
    return Shown(
        version(case.library),
        last_words(case.peers_program, case.library),
        last_words(case.our_program, case.library),
    )


def right(value: Any) -> str:
    """The right value as the page has it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(right, value)) + "]"
    return value.__name__ if isinstance(value, type) else f"{value:.5g}"


def page(shown: Callable[[Case], Shown]) -> str:
    """Write docs/peers.md from what the cases showed."""
    parts = [HEAD]
    for topic in TOPICS:
        parts += [f"## {topic.title}\n", topic.text + "\n"]
        table = ["| peer | gives | right | softargmax |", "|---|---|---|---|"]
        for case in topic.cases:
            result = shown(case)
            table.append(
                f"| {NAMES[case.library]} {result.version}: `{case.peer}` | `{result.peer}` | {right(case.right)} "
                f"| `{case.ours}`: `{result.ours}` |"
            )
        parts += ["\n".join(table) + "\n", "```sh\n" + "\n".join(case.command for case in topic.cases) + "\n```\n"]
    return "\n".join(parts)


HEAD = """\
# Where peers are wrong

Every library gets softmax right in the middle. This page is about the edges: what a peer gave at the version named,
what is right, what softargmax gives for the same arrays, and the line that shows it. `sa` is softargmax; the lines
below a table are those of its rows. All on a CPU, on Linux. A newer version may have repaired what an older one did:
run the line. Those of Optax want `pip install optax`.

This page is written by `python tools/peer_values.py --write`; the tests recompute what is right and what softargmax
gives (`tests/ops/test_reproductions.py`).
"""


def main() -> None:
    """Print the table; with --write, write the page."""
    cases = [case for topic in TOPICS for case in topic.cases]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(cases, pool.map(measured, cases), strict=True))
    for case, result in results.items():
        print(f"{NAMES[case.library]} {result.version}: {case.peer}\n    {result.peer}")
        print(f"    right {right(case.right)}; {case.ours}\n    {result.ours}\n")
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(results.__getitem__), encoding="utf-8")
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
