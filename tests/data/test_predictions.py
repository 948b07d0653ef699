import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from softargmax._checks import WrongKindError
from softargmax.data import Predictions, cifar10_resnet20, read_predictions, write_predictions
from softargmax.data._arrays import did_you_mean

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


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv"])
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


def test_same_predictions_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_predictions(tmp_path / name, PROBS, LABELS, NAMES)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("p.parquet", (PROBS,), "supported are `.npz`, `.npy` and `.csv`"),
        ("p.csv", (PROBS, LABELS, ("a", "a", "b")), "names of their own"),
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
