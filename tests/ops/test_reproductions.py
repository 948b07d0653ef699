"""Where peers are wrong: softargmax is right on the same arrays, and docs/peers.md quotes what the script ran."""

import math
import re

import numpy as np
import pytest

import softargmax as sa
from tools import peer_values

CASES = [
    pytest.param(case, id=f"{topic.title}, {case.library} {number}")
    for topic in peer_values.TOPICS
    for number, case in enumerate(topic.cases)
]
LIBRARY = {"tensorflow_cpu": "tensorflow", "optax": "jax", "keras": "jax"}


def as_numpy(value):
    return np.asarray(value.detach() if hasattr(value, "detach") else value)


def is_right(value, right):
    """Zeros, infinities and NaN exactly, the rest to a few units of the dtype; the closed forms are in float64."""
    eps = np.finfo(value.dtype).eps if value.dtype.kind == "f" else 0
    return np.shape(value) == np.shape(right) and np.allclose(
        value.astype(np.float64), right, rtol=10 * float(eps), atol=0, equal_nan=True
    )


def run(case):
    if "scipy" in case.setup:
        pytest.importorskip("scipy")
    if case.library not in ("numpy", "scipy"):
        pytest.importorskip(LIBRARY.get(case.library, case.library))
    *statements, expression = [*case.setup.split("; "), *case.ours.split("; ")]
    words = {"sa": sa}
    exec("\n".join(statements), words)
    return as_numpy(eval(expression, words))


@pytest.mark.parametrize("case", CASES)
def test_ours_is_right(case):
    if isinstance(case.right, type):
        with pytest.raises(case.right):
            run(case)
    else:
        value = run(case)
        assert is_right(value, case.right), value


def test_the_comparison_rejects_what_is_not_right():
    for value, right in (
        (np.float32(0), peer_values.NEAR_ONE),
        (np.float16(-math.inf), -peer_values.LOG_K),
        (np.float32([0, 1e-30]), [0, 0]),
        (np.float32(math.nan), 0),
        (np.float32([1.5329]), peer_values.smoothed_loss()),
    ):
        assert not is_right(value, right)


@pytest.mark.parametrize("k", [2, 10, 1000, 50257])
def test_samplers_take_every_row(k):
    rng = np.random.default_rng(0)
    refused = 0
    for z in rng.standard_normal((200, k), np.float32) * 3:
        p = sa.softmax(z)
        exact = sa.for_sampling(p)
        assert 0 <= rng.choice(k, p=exact) < k
        assert rng.multinomial(3, exact).sum() == 3
        try:
            rng.choice(k, p=p.astype(np.float64))
        except ValueError:
            refused += 1
    assert refused or k == 2  # else this tests nothing


# ---- the page ----


ROW = re.compile(r"\| [^:]+ (\S+): `(.+?)` \| `(.+?)` \| (.+?) \| `(.+?)`: `(.+)` \|")


def quoted():
    """What the page says the cases showed, in their order."""
    rows = [ROW.fullmatch(line) for line in peer_values.PAGE.read_text().splitlines() if re.match(r"\| .+`", line)]
    assert all(rows)
    assert len(rows) == len(CASES)
    cases = [param.values[0] for param in CASES]
    return {case: peer_values.Shown(row[1], row[3], row[6]) for case, row in zip(cases, rows, strict=True)}


def numbers(printed):
    printed = re.sub(r"dtype=[\w.]+|grad_fn=\S+|tf\.Tensor|shape=\(.*?\)", "", printed)
    found = re.findall(r"-?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf|nan)", printed)
    return np.array([float(x) for x in found])


def test_the_page_is_what_the_script_writes_of_what_was_measured():
    # titles, texts, commands, right values: all but the values that were printed
    assert peer_values.page(quoted().__getitem__) == peer_values.PAGE.read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_page_quotes_a_wrong_value_of_the_peer_and_a_right_one_of_ours(case):
    shown = quoted()[case]
    if isinstance(case.right, type):
        assert shown.ours.startswith(case.right.__name__)
        assert numbers(shown.peer).size
        return
    right = np.ravel(case.right)
    np.testing.assert_allclose(numbers(shown.ours), right, rtol=1e-3, atol=0)  # as many digits as are printed
    if re.match(r"\w+Error", shown.peer):
        return
    peer = numbers(shown.peer)
    same = peer.shape == right.shape and np.allclose(peer, right, rtol=1e-3, atol=0, equal_nan=True)
    assert same == case.peer_is_right
