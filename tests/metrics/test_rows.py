"""Rows of any layout are the same rows: blocks, facts and probabilities, and errors that name their place."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from softargmax.metrics._rows import BLOCK_ROWS, Rows, Scored, rows_of

CLOSE = {"rtol": 1e-13, "atol": 1e-300}


def some_rows(shape=(60,), k=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, k, shape), rng.normal(size=(*shape, k)) * 3


def scored_by_definition(labels, log_probs, weights) -> Scored:
    """One row after the other, those of weight 0 left out."""
    rows = []
    for y, row, w in zip(labels.ravel(), log_probs.reshape(-1, log_probs.shape[-1]), weights.ravel(), strict=True):
        if w > 0:
            first = min(range(len(row)), key=lambda k, row=row: (-row[k], k))
            doubt = math.fsum(math.exp(row[k]) for k in range(len(row)) if k != first)
            rows.append((y, w, first, first == y, math.exp(row[first]), doubt, -row[y]))
    return Scored(*(np.array(column) for column in zip(*rows, strict=True)))


def assert_same(scored: Scored, expected: Scored) -> None:
    for name, one, other in zip(Scored._fields, scored, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-15, err_msg=name)


# ---- layouts


def memory_mapped(logits, folder):
    np.save(folder / "logits.npy", logits)
    return np.load(folder / "logits.npy", mmap_mode="r")


LAYOUTS = {
    "as they are": lambda z, _: z,
    "Fortran": lambda z, _: np.asfortranarray(z),
    "turned twice": lambda z, _: z[::-1].copy()[::-1],
    "every other column": lambda z, _: np.repeat(z, 2, axis=-1)[..., ::2],
    "a part of more rows": lambda z, _: np.concatenate([z, z])[: len(z)],
    "other byte order": lambda z, _: z.astype(">f8"),
    "read-only": lambda z, _: np.broadcast_to(z, z.shape),
    "memory-mapped": memory_mapped,
    "lists": lambda z, _: z.tolist(),
}


@pytest.mark.parametrize("shape", [(60,), (4, 5, 3)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_do_not_matter(layout, shape, tmp_path, engine):
    labels, logits = some_rows(shape)
    weights = np.random.default_rng(1).integers(0, 3, shape) / 2
    expected = scored_by_definition(labels, log_softmax(logits, axis=-1), weights)
    laid = LAYOUTS[layout](logits, tmp_path)
    assert_same(rows_of(labels, logits=laid, weights=weights, caller="f").scored(), expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_classes_lie_along_any_axis(axis, engine):
    labels, logits = some_rows((4, 5, 3))
    expected = scored_by_definition(labels, log_softmax(logits, axis=-1), np.ones((4, 5, 3)))
    moved = np.ascontiguousarray(np.moveaxis(logits, -1, axis))
    assert_same(rows_of(labels, logits=moved, axis=axis, caller="f").scored(), expected)
    probs = softmax(moved, axis=axis)
    assert_same(rows_of(labels, probs=probs, axis=axis, caller="f").scored(), expected)


@pytest.mark.parametrize("k", [2, 24, 25, 300])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_facts_are_those_of_the_definition(kind, k, engine):
    labels, logits = some_rows(k=k, seed=k)
    logits[3, (labels[3] + 1) % k] = -np.inf
    logits[4, labels[4]] = -np.inf
    expected = scored_by_definition(labels, log_softmax(logits, axis=1), np.ones(60))
    rows = rows_of(labels, **{kind: logits if kind == "logits" else softmax(logits, axis=1)}, caller="f")
    assert_same(rows.scored(), expected)
    assert rows.scored().nll[4] == math.inf


def test_the_doubt_of_sure_rows_has_its_digits(engine):
    scored = rows_of([0, 1], logits=[[50.0, 0.0], [0.0, 700.0]], caller="f").scored()
    np.testing.assert_allclose(scored.doubt, [math.exp(-50), math.exp(-700)], **CLOSE)
    np.testing.assert_allclose(scored.nll, [math.exp(-50), math.exp(-700)], **CLOSE)
    assert not np.allclose(1 - scored.confidence, scored.doubt, **CLOSE)  # what a difference from 1 would leave


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_one_column_is_the_score_of_class_one_of_two(kind, engine):
    labels, column = np.array([0, 1, 1]), np.array([[0.3], [0.75], [0.1]])
    two = np.concatenate([np.zeros((3, 1)) if kind == "logits" else 1 - column, column], axis=1)
    rows = rows_of(labels, **{kind: column}, caller="f")
    assert rows.n_classes == 2
    assert_same(rows.scored(), rows_of(labels, **{kind: two}, caller="f").scored())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_, np.float16, np.float32])
def test_every_dtype_is_computed_in_float64(dtype, engine):
    labels = np.array([0, 1, 2, 2])
    logits = np.array([[3, 0, 1], [1, 1, 0], [0, 1, 5], [1, 0, 0]]).astype(dtype)
    expected = scored_by_definition(labels, log_softmax(logits.astype(np.float64), axis=1), np.ones(4))
    rows = rows_of(labels, logits=logits, caller="f")
    assert_same(rows.scored(), expected)
    ((_, _, probs),) = rows.probs()
    np.testing.assert_allclose(probs, softmax(logits.astype(np.float64), axis=1), **CLOSE)
    sure = np.eye(3)[labels].astype(dtype)
    assert rows_of(labels, probs=sure, caller="f").scored().nll.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_probabilities_come_block_by_block(kind):
    labels, logits = some_rows((3 * BLOCK_ROWS - 5,), k=3)
    weights = np.random.default_rng(1).integers(0, 3, len(labels))
    expected, kept = softmax(logits, axis=1), weights > 0
    rows = rows_of(labels, **{kind: logits if kind == "logits" else expected}, weights=weights, caller="f")
    own, w, probs = (np.concatenate(column) for column in zip(*rows.probs(), strict=True))
    np.testing.assert_array_equal(own, labels[kept])
    np.testing.assert_array_equal(w, weights[kept])
    np.testing.assert_allclose(probs, expected[kept], **CLOSE)
    assert len(list(rows.probs())) == 3


# ---- rows that count for nothing


@pytest.mark.parametrize("k", [3, 50])
@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("ignored", [-100, 255, 10**15, -(2**62)])
def test_ignored_rows_may_hold_anything(ignored, kind, k, engine):
    """The label is then no place in the row: far from it there may be no memory at all."""
    labels, logits = some_rows(k=k)
    scores = logits if kind == "logits" else softmax(logits, axis=1)
    out = np.arange(60) % 3 == 0
    expected = rows_of(labels[~out], **{kind: scores[~out]}, caller="f").scored()
    scores[out] = np.array([np.nan, np.inf, -np.inf, 7.0])[np.arange(out.sum()) % 4, None]
    marked = np.where(out, ignored, labels)
    assert_same(rows_of(marked, **{kind: scores}, ignore_index=ignored, caller="f").scored(), expected)
    assert_same(rows_of(marked, **{kind: scores}, weights=~out, caller="f").scored(), expected)


def test_nothing_is_left_of_no_rows(engine):
    for labels, option in (([], {}), ([-1, -1], {"ignore_index": -1}), ([0, 1], {"weights": [0, 0]})):
        rows = rows_of(labels, logits=np.full((len(labels), 3), np.nan), **option, caller="f")
        scored = rows.scored()
        assert [len(column) for column in scored] == [0] * 7
        assert [column.dtype.kind for column in scored] == list("ifibfff")
        assert sum(len(own) for own, _, _ in rows.probs()) == 0


# ---- errors


@pytest.mark.parametrize("laid", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("ask", [Rows.scored, lambda rows: list(rows.probs())], ids=["scored", "probs"])
def test_errors_name_the_row_of_the_whole(ask, laid, engine):
    labels, logits = some_rows((9000,), k=3)
    wrong = logits.copy()
    wrong[[8500, 8990], [1, 2]] = np.nan
    with pytest.raises(ValueError, match=r"^logits must be finite .*; row 8500 \(and 1 other row\) holds NaN$"):
        ask(rows_of(labels, logits=laid(wrong), caller="f"))
    wrong = softmax(logits, axis=1)
    wrong[8500] = 0.5
    with pytest.raises(ValueError, match=r"^probs must be probabilities .*; row 8500 sums to 1.5$"):
        ask(rows_of(labels, probs=laid(wrong), caller="f"))


@pytest.mark.parametrize("ask", [Rows.scored, lambda rows: list(rows.probs())], ids=["scored", "probs"])
def test_errors_name_the_place_in_every_dimension(ask):
    labels, logits = some_rows((4, 5, 3))
    wrong = np.moveaxis(logits, -1, 1).copy()
    wrong[2, 1, 4, 0] = np.inf
    with pytest.raises(ValueError, match=r"; row \(2, 4, 0\) holds \+inf$"):
        ask(rows_of(labels, logits=wrong, axis=1, caller="f"))
    wrong = softmax(np.moveaxis(logits, -1, 1), axis=1)
    wrong[3, 0, 0, 2] = -0.25
    with pytest.raises(ValueError, match=r"; row \(3, 0, 2\) holds -0.25 and sums to "):
        ask(rows_of(labels, probs=wrong, axis=1, caller="f"))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({}, TypeError, r"^f wants exactly one of logits= and probs=; got neither$"),
        ({"logits": [[1.0]], "probs": [[1.0]]}, TypeError, r"; got both$"),
        ({"logits": [[1.0, 2.0]], "axis": 2}, ValueError, r"^axis must be one of the 2 dimensions of logits; got 2$"),
        ({"logits": np.zeros((1, 0))}, ValueError, r"^logits have no classes along axis -1: shape \(1, 0\)$"),
        (
            {"logits": np.zeros((2, 3))},
            ValueError,
            r"^labels must have shape \(2,\), .*; got shape \(1,\)",
        ),
        ({"logits": [[1.0, 2.0]], "weights": [1e-200]}, ValueError, r"^weights must be 0 or lie in \[1e-100, 1e100\]"),
        ({"logits": [[1.0, 2.0]], "weights": [-1.0]}, ValueError, r"^weights must be finite and not negative"),
        ({"logits": [1.0, 2.0], "labels": [0, 1]}, ValueError, r"for one score a row, .* pass logits\[:, None\]$"),
        ({"logits": [[1.0, 2.0]], "labels": [2]}, ValueError, r"^labels must lie in \[0, 1\] .*; got 2 at index 0"),
    ],
)
def test_bad_arguments_are_named(given, kind, message):
    with pytest.raises(kind, match=message):
        rows_of(**{"labels": [0], "caller": "f", **given})


# ---- blocks


@st.composite
def any_rows(draw):
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)))
    k = draw(st.integers(1, 6))
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    order = draw(st.permutations(range(len(shape) + 1)))  # how they lie in memory
    scores = 2.0 + np.arange(math.prod(shape) * k).reshape(*shape, k)  # no row looks like probabilities
    laid = np.ascontiguousarray(scores.transpose(order)).transpose(np.argsort(order))
    return scores, np.moveaxis(laid, -1, axis), axis, draw(st.integers(1, 40)), draw(st.booleans())


def law_blocks_are_the_whole(blocks_of, case) -> None:
    """In order, contiguous, of at most so many elements, and every row once."""
    scores, laid, axis, elements, whole = case
    k = scores.shape[-1]
    blocks = blocks_of(rows_of(np.zeros(scores.shape[:-1], int), logits=laid, axis=axis, caller="f"), elements, whole)
    stop = 0
    for where, block in blocks:
        assert (where.start, where.stop) == (stop, stop + len(block))
        assert block.flags.c_contiguous
        assert len(block) >= 1
        assert whole or block.size <= max(elements, max(k, 2))
        stop = where.stop
    expected = scores.reshape(-1, k) if k > 1 else np.insert(scores.reshape(-1, 1), 0, 0.0, axis=1)
    found = np.concatenate([np.empty((0, max(k, 2))), *(block for _, block in blocks)])
    np.testing.assert_array_equal(found, expected)


@given(any_rows())
def test_blocks_are_the_whole(case):
    law_blocks_are_the_whole(lambda rows, elements, whole: list(rows.blocks(elements, whole=whole)), case)


def test_the_law_of_blocks_rejects_the_order_of_memory():
    def as_they_lie(rows, _, whole):
        flat = rows.scores.reshape(-1, rows.scores.shape[-1], order="F")
        return [(slice(0, len(flat)), np.ascontiguousarray(flat))]

    scores = np.arange(24.0).reshape(2, 3, 4)
    with pytest.raises(AssertionError):
        law_blocks_are_the_whole(as_they_lie, (scores, scores, -1, 40, True))


def test_a_block_of_the_default_size_has_at_most_4096_rows():
    rows = rows_of(np.zeros(10_000, int), logits=np.zeros((10_000, 2)), caller="f")
    assert [len(block) for _, block in rows.blocks()] == [4096, 4096, 1808]
    many = rows_of(np.zeros(600, int), logits=np.broadcast_to(np.zeros(5000), (600, 5000)), caller="f")
    assert [len(block) for _, block in many.blocks()] == [209, 209, 182]


def test_rows_are_not_copied_where_they_lie_side_by_side():
    logits = np.zeros((100, 3))
    assert all(np.shares_memory(block, logits) for _, block in rows_of([0] * 100, logits=logits, caller="f").blocks(30))
    ((where, block),) = rows_of([0] * 100, logits=logits, caller="f").blocks(30, whole=True)
    assert (where, np.shares_memory(block, logits)) == (slice(0, 100), True)


def test_memory_is_that_of_a_block():
    logits = np.broadcast_to(np.linspace(0, 9, 300), (100_000, 300))  # 240 MB, were they in memory
    rows = rows_of(np.zeros(100_000, int), logits=logits, caller="f")
    rows_of([0], logits=logits[:1], caller="f").scored()
    tracemalloc.start()
    try:
        assert len(rows.scored().nll) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
