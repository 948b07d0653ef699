import hashlib
import io
import json
import re
import resource
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from softargmax._checks import WrongKindError
from softargmax.data import (
    Predictions,
    _records,
    cifar10_resnet20,
    predictions,
    read_predictions,
    row_batches,
    write_batches,
    write_predictions,
)
from softargmax.data._arrays import did_you_mean

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

LOGITS = np.array([[2.0, 0.1, -1.0], [0.3, 1e-300, -np.inf], [1 / 3, 1.5, 2.5e17]])
LABELS = np.array([0, 1, 2])
NAMES = ("cat", "dog", "frog, tree")
PROBS = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
LOGITS_SHA256 = "0b49ac42d7b991290b5f4876497371babf1b615f678146c133085a78797cf08a"


def text(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(path, scores=LOGITS, labels=LABELS, names=NAMES):
    lines = [",".join(["label", *(f'"{name}"' for name in names)])]
    lines += [",".join([str(label), *(repr(float(v)) for v in row)]) for label, row in zip(labels, scores, strict=True)]
    return text(path, "\n".join(lines) + "\n")


def jsonl(path, records):
    return text(path, "".join(json.dumps(record) + "\n" for record in records))


def table_file(path, **columns):
    """A parquet file; a column is an array of pyarrow's, or values whose type it guesses."""
    parquet.write_table(pyarrow.table(columns), path)
    return path


def records(path, columns):
    """The same values as .jsonl or .parquet, by the suffix of `path`."""
    if path.suffix == ".parquet":
        return table_file(path, **columns)
    return jsonl(path, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


RECORDS = pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])


def test_an_npz_says_everything_itself(tmp_path):
    np.savez(tmp_path / "p.npz", logits=LOGITS.astype("f4"), labels=LABELS.astype("i2"), class_names=np.array(NAMES))
    found = read_predictions(tmp_path / "p.npz")
    assert (found.kind, found.class_names, found.n_classes) == ("logits", NAMES, 3)
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.scores, LOGITS.astype("f4"))
    assert found.labels.dtype == np.int64
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.source.endswith("p.npz")


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
def test_the_name_of_the_array_is_the_kind(tmp_path, kind):
    np.savez_compressed(
        tmp_path / "p.npz", labels=LABELS, **{kind: np.log([[0.5, 0.3, 0.2]] * 3) if kind == "log_probs" else PROBS}
    )
    (tmp_path / "p.npz").rename(tmp_path / "p.NPZ")
    assert read_predictions(tmp_path / "p.NPZ").kind == kind
    assert read_predictions(tmp_path / "p.NPZ", kind=kind).kind == kind


def test_a_flag_chooses_among_several_arrays(tmp_path):
    np.savez(tmp_path / "p.npz", logits=LOGITS, probs=PROBS, labels=LABELS)
    np.testing.assert_array_equal(read_predictions(tmp_path / "p.npz", kind="probs").scores, PROBS)


def test_logits_of_each_kind():
    assert Predictions(LOGITS, "logits").logits is LOGITS
    assert Predictions(LOGITS, "log_probs").logits is LOGITS
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(Predictions(PROBS, "probs").logits, np.log(PROBS), rtol=1e-15)


def test_npz_npy_and_csv_hold_the_same(tmp_path):
    np.savez(tmp_path / "p.npz", logits=LOGITS, labels=LABELS, class_names=np.array(NAMES))
    np.save(tmp_path / "p.npy", LOGITS)
    np.save(tmp_path / "y.npy", LABELS)
    one = read_predictions(tmp_path / "p.npz")
    two = read_predictions(tmp_path / "p.npy", kind="logits", labels=tmp_path / "y.npy")
    three = read_predictions(table(tmp_path / "p.csv"), kind="logits")
    for other in (two, three):
        assert other.scores.tobytes() == one.scores.tobytes()
        np.testing.assert_array_equal(other.labels, one.labels)
    assert three.class_names == one.class_names
    assert two.class_names is None


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbflabel,a,b\n0,1.5,-inf\n1,2,3\n",  # as Excel writes UTF-8
        b"label,a,b\r\n0,1.5,-inf\r\n1,2,3\r\n",
        b"label,a,b\r0,1.5,-inf\r1,2,3\r",
        b'"label","a","b"\n"0","1.5","-inf"\n1,2,3',
        b"label, a ,b\n 0 , 1.5 ,-Infinity\n+1,+2.0,3e0\n\n\n",
        b"label,a,b\na,1.5,-inf\nb,2,3\n",
    ],
)
def test_spellings_of_one_table(tmp_path, content):
    found = read_predictions(text(tmp_path / "p.csv", content), kind="logits")
    np.testing.assert_array_equal(found.scores, [[1.5, -np.inf], [2, 3]])
    np.testing.assert_array_equal(found.labels, [0, 1])
    assert found.class_names == ("a", "b")


def test_labels_may_be_elsewhere(tmp_path):
    y = LABELS[::-1]
    np.savez(tmp_path / "p.npz", logits=LOGITS, labels=LABELS, truth=y)
    np.savez(tmp_path / "y.npz", labels=y)
    np.save(tmp_path / "y.npy", y.astype("u1"))
    text(tmp_path / "y.txt", "\ufeff2\n1\r\n 0\n")
    text(tmp_path / "y.csv", "id,label\na,2\nb,1\nc,0\n")
    for place in ("truth", tmp_path / "y.npz", tmp_path / "y.npy", tmp_path / "y.txt", tmp_path / "y.csv"):
        np.testing.assert_array_equal(read_predictions(tmp_path / "p.npz", labels=place).labels, y)
    for place in (tmp_path / "y.txt", tmp_path / "y.csv"):
        found = read_predictions(table(tmp_path / "p.csv"), kind="logits", labels=place)
        np.testing.assert_array_equal(found.labels, y)
        assert found.n_classes == 3
    named = text(tmp_path / "named.csv", 'label\n"frog, tree"\ndog\ncat\n')
    np.testing.assert_array_equal(read_predictions(tmp_path / "p.csv", kind="logits", labels=named).labels, y)


def test_another_column_of_labels_is_no_class(tmp_path):
    path = text(tmp_path / "p.csv", "label,truth,a,b\n0,1,2.0,3.0\n")
    found = read_predictions(path, kind="logits", labels="truth")
    np.testing.assert_array_equal(found.labels, [1])
    assert found.class_names == ("a", "b")


def test_a_column_called_label_is_left_out_wherever_it_stands(tmp_path):
    path = text(tmp_path / "p.csv", "truth,a,label,b\n1,2.0,0,3.0\n")
    found = read_predictions(path, kind="logits", labels="truth")
    assert (found.labels.tolist(), found.class_names, found.scores.tolist()) == ([1], ("a", "b"), [[2, 3]])


def test_logits_of_float16_are_not_rounded_again(tmp_path):
    probs = np.array([[0.3, 0.7], [1.0, 0.0015]], np.float16)
    np.savez(tmp_path / "p.npz", probs=probs)
    logits = read_predictions(tmp_path / "p.npz", need_labels=False).logits
    np.testing.assert_array_equal(logits, np.log(probs.astype("f4")))
    assert Predictions(PROBS.astype("f2"), "logits").logits.dtype == np.float32


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("n_classes", [2, 10, 1000])
def test_log_probabilities_as_they_come_from_a_network(tmp_path, dtype, n_classes):
    logits = 3 * np.random.default_rng(0).normal(size=(2000, n_classes))
    logits[0, 0] = -np.inf
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.savez(tmp_path / "p.npz", log_probs=logits.astype(dtype))
    assert read_predictions(tmp_path / "p.npz", need_labels=False).kind == "log_probs"
    logits[-1] += 0.2
    np.savez(tmp_path / "p.npz", log_probs=logits.astype(dtype))
    with pytest.raises(ValueError, match="row 1999: log_probs must be"):
        read_predictions(tmp_path / "p.npz", need_labels=False)


def test_arrays_of_another_kind_are_type_errors(tmp_path):
    for wrong in ({"logits": PROBS * 1j}, {"logits": LOGITS, "labels": np.array(["a"] * 3)}):
        np.savez(tmp_path / "p.npz", **wrong)
        with pytest.raises(WrongKindError, match="must be (real numbers|integers)"):
            read_predictions(tmp_path / "p.npz", need_labels=False)
    assert issubclass(WrongKindError, TypeError)


def test_nothing_is_meant_to_be_itself():
    assert did_you_mean("Label", ["label", "table"]) == "; did you mean `label`?"
    assert did_you_mean("label", ["label"]) == ""


def test_without_labels(tmp_path):
    np.savez(tmp_path / "p.npz", logits=LOGITS)
    np.save(tmp_path / "p.npy", LOGITS)
    text(tmp_path / "p.csv", "a,b,c\n1,2,3\n")
    for name in ("p.npz", "p.npy", "p.csv"):
        assert read_predictions(tmp_path / name, kind="logits", need_labels=False).labels is None
        with pytest.raises(ValueError, match=f"{name}.*--labels"):
            read_predictions(tmp_path / name, kind="logits")


def test_a_misspelt_label_is_no_class(tmp_path):
    path = text(tmp_path / "p.csv", "Label,a,table\n0,1,2\n")
    with pytest.raises(ValueError, match="there is no column `label`.*did you mean `Label`"):
        read_predictions(path, kind="logits", need_labels=False)
    text(path, "a,table\n1,2\n")
    assert read_predictions(path, kind="logits", need_labels=False).class_names == ("a", "table")


def test_integers_and_other_byte_orders_are_numbers(tmp_path):
    np.savez(tmp_path / "p.npz", logits=np.array([[1, 2], [3, 4]]), labels=np.array([0, 1]))
    assert read_predictions(tmp_path / "p.npz").scores.dtype == np.float64
    np.savez(tmp_path / "p.npz", logits=LOGITS.astype(">f8"), labels=LABELS.astype(">i8"))
    assert read_predictions(tmp_path / "p.npz").scores.dtype == np.dtype("=f8")


def test_a_table_of_very_many_classes(tmp_path):
    scores = np.random.default_rng(0).normal(size=(2, 100_000))  # 2 MB a row
    write_predictions(tmp_path / "p.csv", scores, [0, 99_999])
    found = read_predictions(tmp_path / "p.csv", kind="logits")
    assert found.scores.tobytes() == scores.tobytes()
    np.testing.assert_array_equal(found.labels, [0, 99_999])


def test_a_large_table_keeps_its_rows_in_order(tmp_path):
    scores = np.random.default_rng(0).normal(size=(40_000, 4))
    labels = np.arange(40_000) % 4
    table(tmp_path / "p.csv", scores, labels, names=("a", "b", "c", "d"))
    found = read_predictions(tmp_path / "p.csv", kind="logits")
    assert found.scores.tobytes() == scores.tobytes()
    np.testing.assert_array_equal(found.labels, labels)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    lines[39_000] = "0,1,2,x,3"
    with pytest.raises(ValueError, match="line 39001, column `c`: got `x`"):
        read_predictions(text(tmp_path / "p.csv", "\n".join(lines)), kind="logits")
    lines[39_000] = "0,1,2,3"
    with pytest.raises(ValueError, match="line 39001: it has 4 cells; the header has 5"):
        read_predictions(text(tmp_path / "p.csv", "\n".join(lines)), kind="logits")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_what_is_written_is_read(tmp_path, suffix, dtype):
    path = tmp_path / f"p{suffix}"
    probs = PROBS.astype(dtype)
    write_predictions(path, probs, LABELS, NAMES)
    found = read_predictions(path, kind="probs", need_labels=suffix != ".npy")
    np.testing.assert_array_equal(found.scores.astype(dtype), probs)
    if suffix != ".npy":
        np.testing.assert_array_equal(found.labels, LABELS)
        assert found.class_names == NAMES
    write_predictions(path, probs)
    found = read_predictions(path, kind="probs", need_labels=False)
    np.testing.assert_array_equal(found.scores, probs)
    assert found.labels is None
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    arrays("f8", array_shapes(min_dims=2, max_dims=2).filter(lambda s: s[1] > 1), elements=st.floats(0, 1, width=64))
)
def test_every_double_survives_a_csv(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "p.csv"
    write_predictions(path, values)  # the writer does not judge: these rows do not sum to 1
    found = read_predictions(path, kind="logits", need_labels=False)
    assert found.scores.tobytes() == values.tobytes()


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".parquet", ".jsonl"])
def test_same_predictions_same_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        write_predictions((tmp_path / name).with_suffix(suffix), PROBS, LABELS, NAMES)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("p.arrow", (PROBS,), "supported are `.npz`, `.npy`, `.csv`, `.parquet` and `.jsonl`"),
        ("p.csv", (PROBS, LABELS, ("a", "a", "b")), "names of their own"),
        ("p.jsonl", (PROBS, LABELS, ("a", "a", "b")), "two classes have the same name"),
        ("p.parquet", (PROBS, LABELS, ("a", "a", "b")), "two classes have the same name"),
        ("p.csv", (PROBS, LABELS, ("a", "label", "b")), "names of their own"),
        ("p.csv", (PROBS, LABELS, ("a", "Target", "b")), "none of `label`, .* and `target`"),
        ("p.csv", (PROBS, LABELS, ("1", "2", "3")), "`1`, a number that is not its position"),
        ("p.npz", (PROBS, LABELS, ("a", "b")), "class_names must be 3"),
        ("p.npz", (PROBS, [0, 1, 3]), "labels must lie in"),
        ("p.npz", (PROBS, [0, 1]), "labels must have shape"),
        ("p.npz", (PROBS[0],), "shape \\(N, K\\)"),
        ("no/such/p.npz", (PROBS,), "cannot write"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, name, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_predictions(tmp_path / name, *arguments)
    assert list(tmp_path.iterdir()) == []


@RECORDS
@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
def test_records_hold_what_an_npz_holds(tmp_path, name, kind):
    scores = {"logits": LOGITS, "log_probs": np.log([[0.5, 0.3, 0.2]] * 3), "probs": PROBS}[kind]
    path = records(tmp_path / name, {"id": ["x", "y", "z"], kind: scores.tolist(), "label": LABELS.tolist()})
    found = read_predictions(path)
    assert (found.kind, found.class_names, found.source) == (kind, None, str(path))
    assert found.scores.tobytes() == scores.tobytes()
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.labels.dtype == np.int64


@RECORDS
def test_class_names_of_the_first_row_say_what_a_label_is(tmp_path, name):
    y = [NAMES[k] for k in (2, 0, 1)]
    columns = {"logits": LOGITS.tolist(), "label": y, "class_names": [list(NAMES), None, list(NAMES)]}
    found = read_predictions(records(tmp_path / name, columns))
    assert found.class_names == NAMES
    np.testing.assert_array_equal(found.labels, [2, 0, 1])  # not the order of the alphabet, nor of appearance
    del columns["class_names"]
    with pytest.raises(ValueError, match=r"(line 1|row 0), \w+ `label`: got the class name .*does not say which"):
        read_predictions(records(tmp_path / name, columns))
    columns["class_names"] = [list(NAMES), None, list(NAMES[::-1])]
    with pytest.raises(ValueError, match=r"(line 3|row 2): its `class_names` are not those of the first row"):
        read_predictions(records(tmp_path / name, columns))


def test_the_lines_of_the_guide_are_read(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "calibrate.md").read_text()
    (lines,) = re.findall(r"^```json\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL)
    found = read_predictions(text(tmp_path / "p.jsonl", lines))
    assert (found.class_names, found.labels.tolist()) == (("cat", "dog", "frog"), [1, 0])


@RECORDS
def test_records_with_labels_elsewhere_or_nowhere(tmp_path, name):
    np.save(tmp_path / "y.npy", LABELS[::-1])
    path = records(tmp_path / name, {"logits": LOGITS.tolist(), "label": [0, 0, 1], "truth": [2, 1, 0]})
    for place in ("truth", tmp_path / "y.npy"):
        np.testing.assert_array_equal(read_predictions(path, labels=place).labels, LABELS[::-1])
    path = records(tmp_path / name, {"logits": LOGITS.tolist(), "label": [None] * 3})
    assert read_predictions(path, need_labels=False).labels is None
    with pytest.raises(
        ValueError, match=r"(line 1|row 0), \w+ `label`: it is missing or null; wanted a label in every row$"
    ):
        read_predictions(path)
    path = records(tmp_path / name, {"logits": LOGITS.tolist(), "label": [0, None, 1]})
    with pytest.raises(ValueError, match=r"(line 2|row 1), .* in every row, or none of them"):
        read_predictions(path, need_labels=False)


@RECORDS
def test_a_flag_chooses_among_several_fields(tmp_path, name):
    path = records(tmp_path / name, {"logits": LOGITS.tolist(), "probs": PROBS.tolist(), "label": LABELS.tolist()})
    np.testing.assert_array_equal(read_predictions(path, kind="probs").scores, PROBS)
    with pytest.raises(ValueError, match="holds `logits` and `probs`; say which is meant: --logits or --probs"):
        read_predictions(path)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4"])
@pytest.mark.parametrize("as_list", ["list", "large", "fixed"])
def test_lists_of_every_kind(tmp_path, dtype, as_list):
    scores = np.arange(12).astype(dtype).reshape(4, 3)
    value = pyarrow.from_numpy_dtype(scores.dtype)
    of = {"list": pyarrow.list_(value), "large": pyarrow.large_list(value), "fixed": pyarrow.list_(value, 3)}[as_list]
    labels = pyarrow.array(["b", "a", "a", "c"]).dictionary_encode()  # as pandas writes a category
    names = pyarrow.array([["b", "a", "c"], None, None, None])
    path = table_file(tmp_path / "p.parquet", logits=pyarrow.array(list(scores), of), label=labels, class_names=names)
    found = read_predictions(path)
    assert found.scores.dtype == (np.float64 if dtype == "i4" else dtype)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.labels, [0, 1, 1, 2])


@pytest.mark.parametrize(
    "content",
    [
        '\ufeff{"logits": [1.5, -Infinity], "label": 0}\r\n{"label": 1, "logits": [2, 3e0]}\r\n\r\n',
        '{"label":0,"logits":[1.5,-1e999],"note":{"a":[1,"x",null]}}\n {"logits":[2,3],"label":1}',
        '{"label":"a","logits":[1.5,-Infinity],"class_names":["a","b"]}\n{"label":"b","logits":[2,3]}\n',
    ],
)
def test_spellings_of_the_same_lines(tmp_path, content):
    found = read_predictions(text(tmp_path / "p.jsonl", content))
    np.testing.assert_array_equal(found.scores, [[1.5, -np.inf], [2, 3]])
    np.testing.assert_array_equal(found.labels, [0, 1])


@RECORDS
def test_many_batches_keep_their_rows_in_order(tmp_path, name, monkeypatch):
    monkeypatch.setattr(_records, "_BATCH_ELEMENTS", 64)
    scores, labels = np.random.default_rng(0).normal(size=(1000, 7)), np.arange(1000) % 7
    columns = {"logits": scores.tolist(), "label": labels.tolist()}
    found = read_predictions(records(tmp_path / name, columns))
    assert found.scores.tobytes() == scores.tobytes()
    np.testing.assert_array_equal(found.labels, labels)
    where = "line 871" if name == "p.jsonl" else "row 870"
    for wrong, sentence in (
        (None, r"null|wanted a list of numbers"),
        ([1.0] * 6, "`logits` has length 6, in the first row 7"),
        ([1.0, 2.0, None, *[1.0] * 4], "`logits`, position 2: got `null`; wanted a number"),
        ([1.0, 2.0, np.nan, *[1.0] * 4], "`logits`, position 2: got nan"),
    ):
        changed = columns | {"logits": [*columns["logits"][:870], wrong, *columns["logits"][871:]]}
        with pytest.raises(ValueError, match=rf"{name}, {where}.*({sentence})"):
            read_predictions(records(tmp_path / name, changed))


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@RECORDS
def test_reading_takes_little_more_memory_than_the_result(tmp_path, name, monkeypatch):
    monkeypatch.setattr(_records, "_BATCH_ELEMENTS", 1 << 11)
    scores = np.random.default_rng(0).normal(size=(1500, 100)).round(3)
    path = records(tmp_path / name, {"logits": scores.tolist(), "label": [0] * 1500})
    read_predictions(path)  # what is imported is not counted
    assert peak(lambda: read_predictions(path)) < 1.5 * scores.nbytes
    monkeypatch.setattr(_records, "_BATCH_ELEMENTS", scores.size)  # all rows in one batch: the measure can fail
    if name == "p.jsonl":
        assert peak(lambda: read_predictions(path)) > 2 * scores.nbytes


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".parquet", ".jsonl"])
def test_what_is_written_in_batches_is_never_whole_in_memory(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(predictions, "_BATCH_ELEMENTS", 1 << 12)
    row = np.full(100, 0.01)
    path, n = tmp_path / f"p{suffix}", 3000

    def write():
        batches = (np.broadcast_to(row, (rows.stop - rows.start, 100)).copy() for rows in row_batches(n, 100))
        write_batches(path, batches, (n, 100), row.dtype, np.zeros(n, int))

    write()
    assert peak(write) < n * row.nbytes / 3
    found = read_predictions(path, kind="probs", need_labels=False)
    assert found.scores.shape == (n, 100)
    assert (found.scores == 0.01).all()


@pytest.mark.parametrize(("n", "k"), [(1, 2), (10, 3), (1_000_001, 10), (3, 10**8), (0, 5)])
def test_batches_hold_every_row_once_and_are_alike(n, k):
    slices = list(row_batches(n, k))
    rows = [s.stop - s.start for s in slices]
    assert [s.start for s in slices] == list(np.cumsum([0, *rows[:-1]]))
    assert sum(rows) == n
    assert max(rows) - min(rows) <= 1
    assert max(rows) * k <= (1 << 22) + k


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("what", ["the disk is full", "the rows fail"])
def test_a_file_that_cannot_be_finished_stays_as_it_was(tmp_path, suffix, what):
    path, limits = text(tmp_path / f"p{suffix}", "as it was"), resource.getrlimit(resource.RLIMIT_FSIZE)

    def batches():
        for i in range(40):
            if what == "the rows fail" and i == 20:
                raise ValueError("the rows fail")
            yield np.random.default_rng(i).random((1000, 10))

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if what == "the disk is full" else limits[0], limits[1]))
    try:
        with pytest.raises(ValueError, match="the rows fail|cannot write .*: file too large"):
            write_batches(path, batches(), (40_000, 10), np.dtype(float))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_every_flipped_byte_of_a_parquet_file_is_told_or_harmless(tmp_path):
    """Pages that we write carry checksums, so no damage gives other numbers."""
    write_predictions(tmp_path / "p.parquet", PROBS, LABELS, NAMES)
    content, outcomes = (tmp_path / "p.parquet").read_bytes(), set()
    for position in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        text(tmp_path / "p.parquet", bytes(damaged))
        said = ""
        try:
            found = read_predictions(tmp_path / "p.parquet")
        except (ValueError, TypeError) as error:
            said = str(error)
        assert "p.parquet" in said or found.scores.tobytes() == PROBS.tobytes()
        outcomes.add(said == "")
    assert outcomes == {False, True}


def test_without_pyarrow_a_table_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"softargmax\[app\]"):
        read_predictions(table(tmp_path / "p.csv"), kind="logits")


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match="kind must be one of `logits`, `log_probs` and `probs`; got 'scores'"):
        read_predictions(tmp_path / "p.npz", kind="scores")


def test_every_cut_of_a_file_is_a_sentence(tmp_path):
    whole = io.BytesIO()
    np.savez(whole, logits=LOGITS, labels=LABELS)
    npy = io.BytesIO()
    np.save(npy, LOGITS)
    for name, content in (("p.npz", whole.getvalue()), ("p.npy", npy.getvalue())):
        for end in range(0, len(content), 7):
            with pytest.raises(ValueError, match=name):
                read_predictions(text(tmp_path / name, content[:end]), kind="logits", need_labels=False)


def test_every_flipped_byte_is_read_or_a_sentence(tmp_path):
    whole = io.BytesIO()
    np.savez_compressed(whole, logits=LOGITS, labels=LABELS)
    content = whole.getvalue()
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        text(tmp_path / "p.npz", bytes(damaged))
        said = "p.npz"
        try:
            read_predictions(tmp_path / "p.npz")
        except (ValueError, TypeError) as error:
            said = str(error)
        assert "p.npz" in said


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        archive.writestr("logits", "1 2 3")
        archive.writestr("readme.txt", "no array")
    with pytest.raises(ValueError, match="there is no array `logits`, .*; it has nothing; "):
        read_predictions(tmp_path / "p.npz", need_labels=False)
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        archive.writestr("logits.npy", "1 2 3")
    with pytest.raises(ValueError, match="`logits` is not an array"):
        read_predictions(tmp_path / "p.npz", need_labels=False)


def test_the_shipped_predictions():
    found = cifar10_resnet20()
    assert found.scores.shape == (10_000, 10)
    assert (found.scores.dtype, found.kind) == (np.float32, "logits")
    np.testing.assert_array_equal(np.bincount(found.labels), [1000] * 10)
    assert found.class_names[0] == "airplane"
    # the accuracy that the source states for this network on these pictures
    assert (found.scores.argmax(axis=1) == found.labels).mean() == pytest.approx(0.8103)


def test_the_shipped_file_says_where_it_comes_from():
    file = Path(__file__).parents[2] / "src" / "softargmax" / "data" / "cifar10-resnet20.npz"
    with np.load(file, allow_pickle=False) as shipped:
        assert sorted(shipped.files) == ["class_names", "labels", "logits", "provenance"]
        assert shipped["labels"].dtype == np.int16
        for words in ("akamaster/pytorch_resnet_cifar10", "BSD-2-Clause", "JPEG", "Krizhevsky"):
            assert words in str(shipped["provenance"])
        logits = shipped["logits"].tobytes()
    # of the array in the source file, so a later compressor may write other bytes
    assert hashlib.sha256(logits).hexdigest() == LOGITS_SHA256
