"""Predictions of any size: whatever the files and the cut, the rows of the whole; the words of the whole reader."""

import json
import os
import threading
import tracemalloc
from itertools import pairwise

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from softargmax.data import _formats, _records, predictions, read_batches, read_predictions
from softargmax.metrics import evaluate

N, K = 503, 4
NAMES = ("cat", "dog", "frog", "owl")
RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(N, K))
LABELS = (LOGITS + RNG.gumbel(size=LOGITS.shape)).argmax(axis=1)
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
SCORES = {"logits": LOGITS, "log_probs": np.log(PROBS), "probs": PROBS}


def write(path, scores=LOGITS, labels=LABELS, *, kind="logits", names=None, order="C", dtype=None, compressed=False):
    """One layout of every kind of file, by the suffix of `path`."""
    scores = np.asarray(scores, dtype)
    if path.suffix == ".npz":
        named = {} if names is None else {"class_names": np.array(names)}
        save = np.savez_compressed if compressed else np.savez
        save(path, **{kind: np.asarray(scores, order=order)}, labels=labels, **named)
    elif path.suffix == ".npy":
        np.save(path, np.asarray(scores, order=order))
    elif path.suffix == ".parquet":
        of = pyarrow.list_(pyarrow.from_numpy_dtype(scores.dtype))
        columns = {kind: pyarrow.array(list(scores), of), "label": labels}
        if names is not None:
            columns["class_names"] = pyarrow.array([names, *[None] * (len(scores) - 1)])
        parquet.write_table(pyarrow.table(columns), path, row_group_size=97, write_page_checksum=True)
    else:
        rows = zip(scores.tolist(), labels.tolist(), strict=True)
        if path.suffix == ".jsonl":
            lines = [json.dumps({kind: row, "label": label}) for row, label in rows]
        else:
            heads = NAMES if names is None else names
            lines = [",".join(["label", *heads]), *(f"{label},{','.join(map(repr, row))}" for row, label in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


def folder_of(path, suffixes=(".parquet", ".npz"), cuts=(0, 100, 101, 350, N), **options):
    """The same rows in several files, whose kinds take turns."""
    path.mkdir()
    for i, (start, stop) in enumerate(pairwise(cuts)):
        name = f"part-{i}{suffixes[i % len(suffixes)]}"
        write(path / name, SCORES[options.get("kind", "logits")][start:stop], LABELS[start:stop], **options)
    return path


def joined(batches):
    parts = list(batches)
    return np.concatenate([part.scores for part in parts]), np.concatenate([part.labels for part in parts])


def assert_same_rows(batches, scores=LOGITS):
    for _ in range(2):  # as often as wanted
        found, labels = joined(batches)
        assert found.tobytes() == np.ascontiguousarray(scores).tobytes()
        np.testing.assert_array_equal(labels, LABELS)
        assert labels.dtype == np.int64


@pytest.mark.parametrize("rows", [1, 7, 100, N - 1, N, 10 * N, None])
@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".jsonl", ".csv", ".npy"])
def test_any_cut_of_a_file_gives_its_rows(tmp_path, suffix, rows):
    path = write(tmp_path / f"p{suffix}")
    np.save(tmp_path / "y.npy", LABELS)
    options = {"kind": "logits", "labels": tmp_path / "y.npy" if suffix == ".npy" else None}
    batches = read_batches(path, rows=rows, **options)
    whole = read_predictions(path, **options)
    assert (batches.kind, batches.n_classes, batches.class_names) == ("logits", K, whole.class_names)
    assert batches.n_rows == (None if suffix in (".jsonl", ".csv") else N)
    assert batches.source == whole.source == str(path)
    assert_same_rows(batches)
    sizes = [len(batch.scores) for batch in batches]
    assert max(sizes) <= (rows or N)
    if suffix in (".npz", ".npy", ".csv"):
        assert set(sizes[:-1]) <= {rows}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_an_array_of_any_layout(tmp_path, dtype, order, compressed, suffix):
    scores = LOGITS.round().astype(dtype)
    path = write(tmp_path / f"p{suffix}", scores, order=order, compressed=compressed)
    np.save(tmp_path / "y.npy", LABELS)
    batches = read_batches(path, kind="logits", labels=tmp_path / "y.npy", rows=10)
    assert_same_rows(batches, scores.astype("f8" if dtype == "i2" else np.dtype(dtype).newbyteorder("=")))


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_a_folder_is_evaluated_as_one_array(tmp_path, suffix, dtype, kind):
    folder = folder_of(tmp_path / "all", (suffix,), kind=kind, dtype=dtype)
    whole = evaluate(LABELS, **{kind: SCORES[kind].astype(dtype)})
    for rows in (5, 64, None):
        merged = None
        for batch in read_batches(folder, rows=rows):
            assert batch.scores.dtype == dtype
            part = evaluate(batch.labels, **{kind: batch.scores})
            merged = part if merged is None else merged.merge(part)
        assert merged.n == N
        np.testing.assert_array_equal(merged.confusion, whole.confusion)
        np.testing.assert_array_equal(merged.reliability.count, whole.reliability.count)
        for name in ("nll", "brier", "ece", "accuracy", "mean_confidence"):
            assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-12, abs=0)


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
def test_a_folder_of_both_kinds_of_files(tmp_path, kind):
    folder = folder_of(tmp_path / "all", kind=kind, names=NAMES)
    batches = read_batches(folder)
    assert (batches.kind, batches.n_rows, batches.class_names) == (kind, N, NAMES)
    assert_same_rows(batches, SCORES[kind])
    assert [os.path.basename(batch.source) for batch in batches] == [
        "part-0.parquet", "part-1.npz", "part-2.parquet", "part-3.npz"
    ]  # fmt: skip


def test_what_others_leave_in_a_folder_and_files_without_rows(tmp_path):
    folder = folder_of(tmp_path / "all")
    left = ("_SUCCESS", "_metadata", "_common_metadata", ".part-0.parquet.crc", ".DS_Store", "_committed_12")
    for name in left:
        (folder / name).write_text("x")
    of = pyarrow.list_(pyarrow.float64())
    empty = pyarrow.table({"logits": pyarrow.array([], of), "label": pyarrow.array([], pyarrow.int64())})
    parquet.write_table(empty, folder / "part-0a.parquet")
    np.savez(folder / "Part.NPZ", logits=np.empty((0, 9)), labels=np.empty(0, int))
    assert_same_rows(read_batches(folder))


def test_labels_of_another_name_in_every_file(tmp_path):
    folder = tmp_path / "all"
    folder.mkdir()
    np.savez(folder / "a.npz", logits=LOGITS[:9], labels=0 * LABELS[:9], truth=LABELS[:9])
    columns = {"logits": LOGITS[9:].tolist(), "truth": LABELS[9:]}
    parquet.write_table(pyarrow.table(columns), folder / "b.parquet")
    assert_same_rows(read_batches(folder, labels="truth"))
    np.save(tmp_path / "y.npy", LABELS[:9])
    with pytest.raises(ValueError, match=r"--labels .*y\.npy: the labels of a folder are in its files"):
        read_batches(folder, labels=tmp_path / "y.npy")
    with pytest.raises(ValueError, match=r"b\.parquet: there is no column `label`; .*it has `logits` and `truth`"):
        read_batches(folder)


def changed(folder, name, **options):
    old = next(folder.glob("part-2.*"))
    old.unlink()
    write(folder / name, **options)


WRONG_FOLDERS = {
    "empty": (
        lambda f: [p.unlink() for p in f.iterdir()],
        r"all is a folder; give a file of predictions, or a folder of",
    ),
    "no rows": (
        lambda f: [np.savez(p, logits=LOGITS[:0], labels=LABELS[:0]) for p in f.iterdir()],
        r"array `logits` has no rows",
    ),
    "another ending": (lambda f: (f / "notes.txt").write_text("x"), r"all: every file in it .* and notes\.txt is not"),
    "a csv": (lambda f: write(f / "a.csv"), r"\.parquet or \.npz, and a\.csv is not"),
    "a hidden file": (lambda f: (f / ".part-9.npz.swp").write_text("x"), r"and \.part-9\.npz\.swp is not"),
    "a folder": (lambda f: (f / "b.npz").mkdir(), r"and b\.npz is a folder; move it"),
    "0 bytes": (lambda f: (f / "part-9.npz").write_bytes(b""), r"part-9\.npz is empty \(0 bytes\)"),
    "another kind": (
        lambda f: changed(f, "part-2.npz", scores=PROBS, kind="probs"),
        r"part-0\.npz and .*part-2\.npz hold `logits` and `probs`; the files of a folder",
    ),
    "another K": (
        lambda f: changed(f, "part-2.parquet", scores=np.zeros((N, 5))),
        r"part-0\.npz and .*part-2\.parquet have 4 and 5 classes",
    ),
    "names in one": (
        lambda f: changed(f, "part-2.npz", names=NAMES),
        r"part-2\.npz has class names and .*part-0\.npz has none",
    ),
    "no labels": (
        lambda f: np.savez(f / "part-2.npz", logits=LOGITS),
        r"part-2\.npz: there is no array `labels`; it has `logits`",
    ),
    "misnamed": (
        lambda f: parquet.write_table(pyarrow.table({"logit": [[1.0, 2.0]], "label": [0]}), f / "part-2.parquet"),
        r"part-2\.parquet: there is no column `logits`, .*did you mean `logits`\?",
    ),
    "cut short": (
        lambda f: (f / "x.parquet").write_bytes(write(f / "x.parquet").read_bytes()[:-100]),
        r"x\.parquet cannot be read: it is damaged or cut short",
    ),
    "labels from 1": (
        lambda f: changed(f, "part-2.npz", labels=LABELS + 1),
        r"part-2\.npz: labels must lie in \[0, 3\] .*do they start at 1",
    ),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_a_folder_that_is_wrong_is_told_before_the_work(tmp_path, case):
    folder = folder_of(tmp_path / "all", (".npz",))
    change, sentence = WRONG_FOLDERS[case]
    change(folder)
    with pytest.raises(ValueError, match=sentence):
        read_batches(folder)


def test_names_in_another_order(tmp_path):
    folder = folder_of(tmp_path / "all", names=NAMES)
    write(folder / "z.npz", names=("cat", "frog", "dog", "owl"))
    with pytest.raises(ValueError, match=r"part-0\.parquet and .*z\.npz call class 1 `dog` and `frog`"):
        read_batches(folder)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [("logits", np.nan), ("logits", np.inf), ("logits", -np.inf), ("probs", 0.9), ("log_probs", 3.0)],
)
def test_wrong_values_far_down_are_told_as_by_the_whole(tmp_path, suffix, kind, value):
    scores = SCORES[kind].copy()
    scores[400] = value
    path = write(tmp_path / f"p{suffix}", scores, kind=kind)
    with pytest.raises(ValueError) as whole:
        read_predictions(path, kind=kind)
    batches = read_batches(path, kind=kind, rows=30)
    good = iter(batches)
    for _ in range(400 // 30):
        next(good)
    with pytest.raises(ValueError) as told:
        list(batches)
    assert str(told.value) == str(whole.value)
    assert ("line 40" if suffix in (".csv", ".jsonl") else "row 400") in str(told.value)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize("label", [K, -1])
def test_a_wrong_label_far_down_is_told_as_by_the_whole(tmp_path, suffix, label):
    labels = LABELS.copy()
    labels[400] = label
    path = write(tmp_path / f"p{suffix}", labels=labels)
    with pytest.raises(ValueError) as whole:
        read_predictions(path, kind="logits")
    with pytest.raises(ValueError) as told:
        list(read_batches(path, kind="logits", rows=30))
    assert str(told.value) == str(whole.value)


@pytest.mark.parametrize("first", ["names", "integers"])
def test_names_and_integers_in_different_batches_are_one_mistake(tmp_path, first, monkeypatch):
    """A class called by its number is both, so that the first batch decides nothing."""
    heads = ("0", "dog", "frog", "owl")
    cells = ["0"] * 100 + (["dog"] * 100 + ["3"] * 100 if first == "names" else ["3"] * 100 + ["dog"] * 100)
    rows = [f"{cell},1.0,2.0,3.0,{i}.0" for i, cell in enumerate(cells)]
    path = tmp_path / "p.csv"
    path.write_text("\n".join([",".join(["label", *heads]), *rows]) + "\n")
    with pytest.raises(ValueError, match="integers and class names are mixed") as whole:
        read_predictions(path, kind="logits")
    monkeypatch.setattr(_formats, "_CSV_BYTES", 700)
    for rows in (1, 99, None):
        with pytest.raises(ValueError) as told:
            list(read_batches(path, kind="logits", rows=rows))
        assert str(told.value) == str(whole.value)


@pytest.mark.parametrize("wrong", ["x", "", "1.0,2.0", "0.5"])
def test_pieces_of_a_table_keep_their_lines(tmp_path, wrong, monkeypatch):
    monkeypatch.setattr(_formats, "_CSV_BYTES", 1000)
    path = write(tmp_path / "p.csv")
    assert_same_rows(read_batches(path, kind="logits"))
    lines = path.read_text().splitlines()
    path.write_text("\r\n".join(lines) + "\r\n \r\n\n")
    assert_same_rows(read_batches(path, kind="logits"))
    cells = lines[400].split(",")
    cells[2] = wrong
    lines[400] = ",".join(cells)
    path.write_text("\n".join(lines))
    if wrong == "0.5":
        assert joined(read_batches(path, kind="logits"))[0][399, 1] == 0.5
        return
    with pytest.raises(ValueError, match="line 401") as whole:
        read_predictions(path, kind="logits")
    with pytest.raises(ValueError) as told:
        list(read_batches(path, kind="logits"))
    assert str(told.value) == str(whole.value)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize("n", [N - 1, N + 1, 20])
def test_labels_of_another_file_and_another_number(tmp_path, suffix, n):
    path = write(tmp_path / f"p{suffix}")
    np.save(tmp_path / "y.npy", np.resize(LABELS, n))
    with pytest.raises(ValueError, match=rf"y\.npy has {n} labels, .*p{suffix} has {N} rows of scores"):
        list(read_batches(path, kind="logits", labels=tmp_path / "y.npy", rows=30))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_row_of_another_length_far_down(tmp_path, suffix):
    lists = LOGITS.tolist()
    lists[400] = [1.0, 2.0]
    path = tmp_path / f"p{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pyarrow.table({"logits": lists, "label": LABELS}), path)
    else:
        path.write_text("".join(json.dumps({"logits": z, "label": 0}) + "\n" for z in lists))
    batches = read_batches(path, rows=30)
    with pytest.raises(ValueError, match=r"(row 400|line 401): `logits` has length 2, in the first row 4"):
        list(batches)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressed", [False, True])
def test_damage_within_an_npz_is_told_by_its_checksum(tmp_path, order, compressed):
    path = write(tmp_path / "p.npz", order=order, compressed=compressed)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1  # a digit far behind the point
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.npz: array `logits` cannot be read: it is damaged"):
        list(read_batches(path, rows=20))


def test_an_array_file_that_ends_early(tmp_path):
    np.save(tmp_path / "y.npy", LABELS)
    path = write(tmp_path / "p.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"p\.npy cannot be read: it is damaged or cut short"):
        read_batches(path, kind="logits", labels=tmp_path / "y.npy")


@pytest.mark.parametrize(("rows", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_rows_that_are_none(tmp_path, rows, error):
    with pytest.raises(error):
        read_batches(write(tmp_path / "p.npz"), rows=rows)


def test_a_pipe_is_read_once(tmp_path):
    table, pipe = write(tmp_path / "p.csv").read_bytes(), tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(table,), daemon=True)
    writer.start()
    batches = read_batches(pipe, kind="logits")
    writer.join()
    assert batches.n_rows == N
    assert_same_rows(batches)


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".npz", {}),
        (".npz", {"compressed": True}),
        (".npz", {"order": "F"}),
        (".npy", {}),
        (".npy", {"order": "F"}),
        (".csv", {}),
        (".jsonl", {}),
        (".parquet", {}),
    ],
)
def test_a_batch_is_in_memory_at_a_time(tmp_path, suffix, options, monkeypatch):
    monkeypatch.setattr(_formats, "_CSV_BYTES", 1 << 16)
    monkeypatch.setattr(_records, "_BATCH_ELEMENTS", 1 << 13)
    scores = np.random.default_rng(0).normal(size=(20_000, 50)).round(3)  # 8 MB
    path = write(tmp_path / f"p{suffix}", scores, labels=np.zeros(20_000, "u1"), names=[f"c{k}" for k in range(50)]
                 if suffix == ".csv" else None, **options)  # fmt: skip
    np.save(tmp_path / "y.npy", np.zeros(20_000, "u1"))
    arguments = {"kind": "logits", "labels": tmp_path / "y.npy" if suffix == ".npy" else None}

    def read():
        assert sum(len(batch.scores) for batch in read_batches(path, rows=150, **arguments)) == 20_000

    read()  # what is imported is not counted
    bound = scores.nbytes / 2
    assert peak(read) < bound
    assert peak(lambda: predictions.read_predictions(path, **arguments)) > bound  # the measure can fail
