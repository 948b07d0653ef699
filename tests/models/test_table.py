"""Columns -> features, against statistics, scikit-learn and a definition; and the model in files, bit for bit."""

import json
import math
import statistics

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.sparse import hstack, issparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import OneHotEncoder

from softargmax.data.columns import Columns
from softargmax.models import table as table_module
from softargmax.models.table import ARRAYS, MANY, MODEL, TableFeatures, TableModel, fitted, read_model

TEXTS = ["the cat sat", "the dog sat", None, "a cat, a dog", "THE CAT"]


def table(**columns):
    arrays = {
        name: np.array(values, object if any(isinstance(v, str) for v in values) else float)
        for name, values in columns.items()
    }
    n = len(next(iter(arrays.values())))
    return Columns("t.csv", arrays, "line", np.arange(2, n + 2))


TRAIN = table(
    age=[20.0, math.nan, 35.5, 50.0, 41.0],
    fare=[1.0, 2.0, 3.0, 4.0, 10.0],
    port=["S", "C", None, "S", "Q"],
    note=TEXTS,
)
KINDS = {"age": "number", "fare": "number", "port": "category", "note": "text"}
NEW = table(
    age=[math.nan, 30.0], fare=[math.nan, 2.5], port=["Z", None], note=["a dog and the cat", "cat"],
)  # fmt: skip


def features(*names, of=TRAIN):
    return TableFeatures.fit(of, {name: KINDS[name] for name in names})


def dense(matrix):
    return matrix.toarray() if issparse(matrix) else matrix


# ---- features ----


def test_numbers_are_standardised_by_the_training_rows():
    found = features("age", "fare")
    assert found.names == ("age", "age is missing", "fare")
    present = [20.0, 35.5, 50.0, 41.0]
    mean, deviation = statistics.fmean(present), statistics.pstdev(present)
    fares = TRAIN.columns["fare"].tolist()
    wanted = [
        [0, 1, (fares[1] - statistics.fmean(fares)) / statistics.pstdev(fares)],
        [(30 - mean) / deviation, 0, (2.5 - statistics.fmean(fares)) / statistics.pstdev(fares)],
    ]
    np.testing.assert_allclose(found.matrix(TRAIN)[1], wanted[0], rtol=1e-12)
    np.testing.assert_allclose(found.matrix(NEW)[1], wanted[1], rtol=1e-12)
    # a number that is missing where none was in training counts as the mean
    np.testing.assert_array_equal(found.matrix(NEW)[0], [0, 1, 0])


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1.0, 1e150, 1e300])
def test_standard_numbers_know_no_unit(scale):
    x = np.random.default_rng(0).normal(3, 2, 50)
    found = TableFeatures.fit(table(x=x * scale), {"x": "number"}).matrix(table(x=x * scale))
    np.testing.assert_allclose(found[:, 0], (x - x.mean()) / x.std(), rtol=1e-9, atol=1e-9)


def test_a_number_beyond_all_measure_is_told():
    found = TableFeatures.fit(table(x=[1e-300, 2e-300]), {"x": "number"})
    with pytest.raises(ValueError, match="t.csv, line 3, column `x`: got 1e[+]10, which is beyond all measure"):
        found.matrix(table(x=[1e-300, 1e10]))


@pytest.mark.parametrize("value", [1e120, -1e308])
def test_a_number_that_no_sum_could_hold_is_told_with_its_place(value):
    found = features("fare")
    with pytest.raises(ValueError, match=r"t.csv, line 3, column `fare`: got .*, which is beyond all measure"):
        found.matrix(table(fare=[1.0, value]))


def of_numbers(rng, draw, n=300):
    return draw(rng, n), draw(rng, 10_000)


USUAL = {
    "normal": lambda rng, n: rng.normal(50, 3, n),
    "counts": lambda rng, n: rng.poisson(2, n).astype(float),
    "waiting times": lambda rng, n: rng.exponential(1, n),
    "incomes": lambda rng, n: rng.lognormal(10, 0.8, n),
    "flags": lambda rng, n: (rng.random(n) < 0.02).astype(float),
}
MISTAKEN = {
    "grams": lambda x: 1000 * x,
    "sentinel": lambda x: np.full(len(x), -99999.0 * np.abs(x).max()),
    "per cent": lambda x: 100 * x + 1,
}


def law_numbers_of_another_kind_are_told(draw, seed):
    train, new = of_numbers(np.random.default_rng(seed), draw)
    found = TableFeatures.fit(table(x=train), {"x": "number"})
    assert found.unusual(table(x=train)) == {}
    assert found.unusual(table(x=new)) == {}
    for mistaken in MISTAKEN.values():
        wrong = mistaken(new[np.abs(new) > np.median(np.abs(train))])
        (said,) = found.unusual(table(x=np.append(new, wrong)))["x"]
        assert said == f"{len(wrong):,} far outside {train.min():.3g} to {train.max():.3g}"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", USUAL)
def test_numbers_of_another_kind_are_told_and_usual_ones_are_not(name, seed):
    law_numbers_of_another_kind_are_told(USUAL[name], seed)


@pytest.mark.parametrize("far", [0, 1000])
def test_the_law_rejects_a_range_that_is_too_narrow_or_too_wide(monkeypatch, far):
    monkeypatch.setattr(table_module, "FAR", far)
    with pytest.raises((AssertionError, KeyError)):
        law_numbers_of_another_kind_are_told(USUAL["incomes"], 0)


def test_numbers_that_are_missing_for_the_first_time_are_told():
    found = features("age", "fare")
    assert found.unusual(NEW) == {"fare": ["1 missing, counted as the mean 4"]}  # of ages some were missing before
    same = TableFeatures.fit(table(x=[7.0, 7.0]), {"x": "number"})
    assert same.unusual(table(x=[1e9])) == {}  # the model does not go by it
    wide = TableFeatures.fit(table(x=[-1e308, 1e308]), {"x": "number"})
    assert wide.unusual(table(x=[-1e308, 1.5e308])) == {}


def test_numbers_that_say_nothing_are_zero():
    of = table(same=[7.1] * 5, none=[math.nan] * 5)
    found = TableFeatures.fit(of, {"same": "number", "none": "number"})
    assert found.names == ("same", "none", "none is missing")
    np.testing.assert_array_equal(found.matrix(of), [[0, 0, 1]] * 5)


def test_categories_are_one_hot_as_scikit_learn_has_them():
    found = features("port")
    assert found.names == ("port = C", "port = Q", "port = S", "port is missing")
    peer = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    cells = {
        name: np.array(of.columns["port"].tolist(), object).reshape(-1, 1) for name, of in (("t", TRAIN), ("n", NEW))
    }
    np.testing.assert_array_equal(found.matrix(TRAIN), peer.fit_transform(cells["t"]))
    np.testing.assert_array_equal(found.matrix(NEW), peer.transform(cells["n"]))  # Z is none of them
    assert found.unseen(NEW) == {"port": ["`Z`"]}
    assert found.unseen(TRAIN) == {}


def test_what_is_missing_for_the_first_time_is_told():
    found = TableFeatures.fit(table(port=["S", "C"]), {"port": "category"})
    assert found.unseen(NEW) == {"port": ["`Z`", "missing"]}
    np.testing.assert_array_equal(found.matrix(NEW), np.zeros((2, 2)))


def test_text_is_tf_idf_as_scikit_learn_has_it():
    found = features("note")
    assert found.is_sparse
    peers = [
        TfidfVectorizer(ngram_range=(1, 2), min_df=2),
        TfidfVectorizer(analyzer="char", ngram_range=(2, 5), min_df=2),
    ]
    train, new = ([text or "" for text in of.columns["note"]] for of in (TRAIN, NEW))
    np.testing.assert_allclose(
        dense(found.matrix(TRAIN)), hstack([peer.fit_transform(train) for peer in peers]).toarray(), rtol=1e-15
    )
    np.testing.assert_allclose(
        dense(found.matrix(NEW)), hstack([p.transform(new) for p in peers]).toarray(), rtol=1e-15
    )
    words = [f'note: "{word}"' for word in peers[0].get_feature_names_out()]
    assert found.names[: len(words)] == tuple(words)
    assert 'note: characters "cat"' in found.names
    assert not dense(found.matrix(TRAIN))[2].any()  # a missing text


def test_text_without_words_has_characters():
    found = TableFeatures.fit(table(note=["x y", "x y z", "y z"]), {"note": "text"})
    assert all("characters" in name for name in found.names)
    assert found.matrix(table(note=["x y"])).shape == (1, len(found.names))


def test_texts_with_nothing_in_common_are_refused():
    with pytest.raises(ValueError, match="column `note`: no two of its training texts have a word in common"):
        TableFeatures.fit(table(note=["ab", "cd"]), {"note": "text"})


def test_the_matrix_is_sparse_where_nearly_all_of_it_is_zero():
    few, many = (table(c=[f"{i}" for i in range(n)], x=list(range(n))) for n in (MANY, MANY + 1))
    kinds = {"x": "number", "c": "category"}
    for of, sparse in ((few, False), (many, True)):
        found = TableFeatures.fit(of, kinds)
        matrix = found.matrix(of)
        assert issparse(matrix) == found.is_sparse == sparse
        assert matrix.shape == (len(of), len(found.names))
        assert matrix.dtype == np.float64
        np.testing.assert_array_equal(dense(matrix)[:, 1:].sum(axis=1), 1)
        np.testing.assert_allclose(dense(matrix)[:, 0].std(), 1)


# ---- the model in files ----


def model(n_classes):
    of = features("age", "fare", "port", "note")
    rng = np.random.default_rng(n_classes)
    rows = 1 if n_classes == 2 else n_classes
    names = tuple('<b>é\n"' if k == 0 else f"class {k}" for k in range(n_classes))
    return TableModel(of, fitted(0.1, rng.normal(size=(rows, len(of.names))), rng.normal(size=rows), n_classes), names)


def kept(folder, found):
    for name, content in found.files().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_a_model_is_read_back_to_the_same_bits(tmp_path, n_classes):
    found = model(n_classes)
    again = read_model(kept(tmp_path, found))
    assert again.class_names == found.class_names
    assert again.features.names == found.features.names
    assert again.features.kinds == KINDS
    for of in (TRAIN, NEW):
        assert again.logits(of).tobytes() == found.logits(of).tobytes()
        assert again.logits(of).shape == (len(of), n_classes)
    assert again.files() == found.files()


def test_logits_are_the_features_times_the_coefficients():
    for found in (model(2), model(3)):
        X = dense(found.features.matrix(NEW))
        scores = X @ found.regression.coef_.T + found.regression.intercept_
        wanted = np.column_stack([np.zeros(2), scores]) if len(found.class_names) == 2 else scores
        np.testing.assert_allclose(found.logits(NEW), wanted, rtol=1e-13, atol=1e-13)
        p = found.regression.predict_proba(found.features.matrix(NEW))
        z = np.exp(wanted)
        np.testing.assert_allclose(p, z / z.sum(axis=1, keepdims=True), rtol=1e-12)


def test_no_pickle_is_in_the_files(tmp_path):
    files = model(3).files()
    assert set(files) == {MODEL, ARRAYS}
    assert json.loads(files[MODEL])["format"] == "softargmax table"
    assert set(load(files[ARRAYS])) == {"coef", "intercept", "columns.3.word_idf", "columns.3.character_idf"}


DAMAGES = {
    "version": (lambda d: d.update(version=2), "version '?2"),
    "format": (lambda d: d.update(format="x"), "it is a 'x'"),
    "class": (lambda d: d["class_names"].append("more"), "coefficients .* are not those of 4 classes"),
    "feature": (lambda d: d["columns"][2]["values"].append("W"), "features, and model.safetensors has"),
    "field": (lambda d: d["columns"][0].pop("mean"), "mean"),
    "unknown": (lambda d: d["columns"][0].update(more=1), "more"),
    "kind": (lambda d: d["columns"][0].update(kind="sound"), "there is no 'sound'"),
    "array": (lambda d: d["columns"].insert(0, d["columns"].pop()), "there is no 'columns.0.word_idf'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_files_that_disagree_are_refused(tmp_path, name):
    damage, sentence = DAMAGES[name]
    kept(tmp_path, model(3))
    document = json.loads((tmp_path / MODEL).read_text())
    damage(document)
    (tmp_path / MODEL).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=sentence):
        read_model(tmp_path)


def test_arrays_of_another_file_are_refused(tmp_path):
    kept(tmp_path, model(3))
    (tmp_path / ARRAYS).write_bytes(save({"coef": np.zeros((3, 2)), "intercept": np.zeros(3)}))
    with pytest.raises(ValueError, match="there is no 'columns.3"):
        read_model(tmp_path)
    (tmp_path / ARRAYS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        read_model(tmp_path)
