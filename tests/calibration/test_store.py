import contextlib
import hashlib
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as serialized

import softargmax as sa
from softargmax import CalibrationDegenerateWarning, calibration
from softargmax.calibration import _store
from softargmax.calibration._base import LogitCalibrator
from softargmax.calibration._store import State

DOCS = Path(__file__).parents[2] / "docs"
METHODS = [
    found
    for found in (getattr(calibration, name) for name in calibration.__all__)
    if isinstance(found, type) and issubclass(found, LogitCalibrator)
]


def fitted(**options):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((300, 4)) * 3
    labels = (logits / 2 + rng.gumbel(size=(300, 4))).argmax(-1)
    names = np.array(options["classes"]) if options.get("classes") else np.arange(4)
    return sa.TemperatureScaling(**options).fit(logits, names[labels]), logits


@pytest.mark.parametrize(
    "options", [{}, {"keep_zero": True}, {"classes": ["a", "b", "ü", "d"]}, {"classes": [5, 6, 7, 9]}]
)
def test_a_round_trip_is_bit_for_bit(options, tmp_path):
    calibrator, logits = fitted(**options)
    calibrator.save(tmp_path / "c.json")
    again = sa.load(tmp_path / "c.json")
    assert type(again) is type(calibrator)
    for dtype in (np.float16, np.float32, np.float64):
        X = logits.astype(dtype)
        np.testing.assert_array_equal(again.predict_proba(X), calibrator.predict_proba(X))
        np.testing.assert_array_equal(again.predict(X), calibrator.predict(X))
    assert again.interval(0.9) == calibrator.interval(0.9)
    for name in vars(calibrator):
        if name != "_profile":
            np.testing.assert_array_equal(getattr(again, name), getattr(calibrator, name), err_msg=name)
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "c.json").read_bytes()


def test_degenerate_fits_round_trip_too(tmp_path):
    for logits, labels in (
        (np.zeros((4, 2)), [0, 1, 0, 1]),
        (np.array([[3.0, 0], [0, 9]]), [0, 1]),
        ([[3.0, 0], [0, 9]], [1, 0]),
    ):
        with pytest.warns(CalibrationDegenerateWarning):
            calibrator = sa.TemperatureScaling().fit(logits, labels)
        calibrator.save(tmp_path / "c.json")
        again = sa.load(tmp_path / "c.json")
        assert again.interval() == calibrator.interval()
        assert again.temperature_ == calibrator.temperature_


def test_minus_infinity_is_lifted_alike_after_loading(tmp_path):
    calibrator, logits = fitted()
    calibrator.save(tmp_path / "c.json")
    logits[:, 0] = -np.inf
    np.testing.assert_array_equal(sa.load(tmp_path / "c.json").predict_proba(logits), calibrator.predict_proba(logits))


def document(tmp_path):
    fitted()[0].save(tmp_path / "c.json")
    return json.loads((tmp_path / "c.json").read_text())


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("format",), "other", "it is not a softargmax calibrator file"),
        (("format",), None, "`format` must be a string"),
        (("version",), 3, "it has version 3; this release reads versions 1 to 2"),
        (("version",), 0, "it has version 0; this release reads versions 1 to 2"),
        (("version",), True, "`version` must be an integer"),
        (("method",), "load", "its method 'load' is not known to this release"),
        (("method",), "__class__", "is not known to this release"),
        (("method",), "os.system", "is not known to this release"),
        (("classes",), [0, 1], "classes must be a list of one label for each of the 4 columns; got [0, 1]"),
        (("classes",), [[0], [1], [2], [3]], "`classes` must be null or a list"),
        (("classes",), ["a", "b", "c", "d" * 1001], "`classes` must be null or a list"),
        (("method",), "CalibratedClassifier", "is not known to this release"),
        (("params",), [], "`params` must be an object"),
        (("params",), {}, "`keep_zero` is missing"),
        (("params", "keep_zero"), 1, "`keep_zero` must be true or false"),
        (("params", "other"), 1, "it has keys that this release does not know: other"),
        (("classes",), [1, 2, 3, 1 << 70], "`classes` must be null or a list"),
        (("n_features",), 0, "`n_features` is out of range"),
        (("n_features",), 1 << 24, "`n_features` is out of range"),
        (("n_features",), 1 << 40, "`n_features` is out of range"),
        (("feature_names",), ["a"], "`feature_names` must be 4 strings"),
        (("absent_classes",), [17], "`absent_classes` are not among the classes"),
        (("absent_classes",), ["1"], "`absent_classes` are not among the classes"),
        (("drop",), -1.0, "`drop` must be a finite number above 0"),
        (("nll_after",), "much", "`nll_after` must be a number"),
        (("state",), [], "`state` must be an object"),
        (("state", "temperature"), 0, "`temperature` must be a finite number above 0"),
        (("state", "temperature"), "inf", "`temperature` must be a finite number above 0"),
        (("state", "temperature"), "2.5", "`temperature` must be a finite number above 0"),
        (("state", "n_iter"), -1, "`n_iter` must be an integer, 0 or more"),
        (("state", "profile"), [[1.0]] * 3, "`profile` must be 4 lists of finite numbers"),
        (("state", "profile"), [[1.0], [1.0], [1.0], []], "`profile` must be 4 lists"),
        (
            ("state", "profile"),
            [[1.0, 0.5], [0.0, 9.0], [0.0, 1.0], [1.0, 1.0]],
            "`profile` must be of increasing log T",
        ),
        (("state", "profile"), [[0.0, 5000.0], [0.0, 9.0], [0.0, 1.0], [1.0, 1.0]], "none beyond 1000"),
        (("state", "profile"), [[0.0, 1.0], [0.0, -9.0], [0.0, 1.0], [1.0, 1.0]], "rises that are not negative"),
        (("state", "extra"), 1, "it has keys that this release does not know: extra"),
        (("extra",), 1, "it has keys that this release does not know: extra"),
        (("a\nb" * 100,), 1, "it has keys that this release does not know: a\\nba"),
        (("arrays",), 1, "`arrays` must be an object or null"),
        (("arrays",), {}, "`file` is missing"),
    ],
)
def test_what_is_not_known_is_refused_with_the_reason(path, value, sentence, tmp_path):
    changed = document(tmp_path)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"cannot load .*changed.json: ") as caught:
        sa.load(file)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_missing_key_is_named(tmp_path):
    whole = document(tmp_path)
    for key in whole:
        (tmp_path / "x.json").write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(ValueError, match=f"`{key}` is missing"):
            sa.load(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not a calibrator file in JSON"),
        (b"[1, 2]", "not a softargmax calibrator file"),
        (b'{"a": 1, "a": 2}', "a key is repeated"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"version": ' + b"9" * 5000 + b"}", "not a calibrator file in JSON"),
        (b"\x80\x04\x95\x05", "not a calibrator file in JSON"),
        (b"\xff\xfe{", "not a calibrator file in JSON"),
    ],
)
def test_what_is_no_calibrator_file(content, sentence, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        sa.load(tmp_path / "x.json")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"cannot load .*none.json: no such file"):
        sa.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"cannot load .*: is a directory"):
        sa.load(tmp_path)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="it is larger than"):
        sa.load(tmp_path / "huge.json")


def test_an_unfitted_calibrator_is_not_saved(tmp_path):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        sa.TemperatureScaling().save(tmp_path / "c.json")
    assert not list(tmp_path.iterdir())


# ---- every method ----


def rows(n=80, k=3, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, k)) * 3
    return logits, (logits / 2 + rng.gumbel(size=(n, k))).argmax(-1)


def quietly_fitted(method, logits, labels, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method(**options).fit(logits, labels)


def assert_the_same(one, other, logits):
    for X in (logits, logits.astype(np.float32), logits.astype(np.float16)):
        for prediction in ("predict_proba", "predict_log_proba", "transform", "decision_function", "predict"):
            np.testing.assert_array_equal(getattr(one, prediction)(X), getattr(other, prediction)(X), prediction)


@pytest.mark.parametrize("threshold", [0, 4096, 1 << 60])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_back_bit_for_bit(method, threshold, tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "_MOST_NUMBERS", threshold)
    names = np.array(["a", "ü", "\ud800"])
    logits, labels = rows()
    low = logits.copy()
    low[np.arange(40), (labels[:40] + 1) % 3] = -np.inf
    for X, y, options in (
        (logits, labels, {}),
        (logits[:, :2], logits[:, 0] > 0.3, {"classes": [False, True]}),
        (logits[:, :1], (labels == 0).astype(int), {}),
        (low, names[labels], {"classes": names.tolist(), "keep_zero": True}),
        (logits, np.minimum(labels, 1), {}),
    ):
        calibrator = quietly_fitted(method, X, y, **options)
        calibrator.save(tmp_path / "c.json")
        again = sa.load(tmp_path / "c.json")
        assert type(again) is method
        assert again.get_params() == calibrator.get_params()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_the_same(again, calibrator, X)
        for name, value in vars(calibrator).items():
            if name.endswith("_") and isinstance(value, (np.ndarray, int, float, str)):
                np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)
        again.save(tmp_path / "again.json")
        text = (tmp_path / "c.json").read_text()
        assert (tmp_path / "again.json").read_text() == text.replace('"c.', '"again.')


class Wide(LogitCalibrator):
    """A method with options of every kind, arrays and calibrators inside."""

    preserves_argmax = False

    def __init__(self, *, strength=1.0, prior=None, kind="a", classes=None, keep_zero=False):
        self.strength, self.prior, self.kind, self.classes, self.keep_zero = strength, prior, kind, classes, keep_zero

    def _check_params(self):
        if not self.strength > 0:
            raise ValueError(f"strength must be above 0; got {self.strength!r}")

    def _fit(self, logits, labels, weights, spread):
        k = logits.shape[1]
        self.nll_before_, self.nll_after_ = np.float64(np.inf), math.nan
        self.matrix_ = np.random.default_rng(len(labels)).standard_normal((k, k))
        self.odd_ = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324, 1 / 3])
        self.counts_ = np.bincount(labels, minlength=k)
        self.members_ = [sa.TemperatureScaling().fit(logits, labels), sa.TemperatureScaling().fit(-logits, labels)]

    def _transform(self, logits):
        return sum(member.transform(logits) for member in self.members_) + self.strength * logits @ self.matrix_

    def _state(self):
        return {"matrix": self.matrix_, "odd": self.odd_, "counts": self.counts_, "members": self.members_,
                "of_each": [{"n": np.int64(n)} for n in self.counts_]}  # fmt: skip

    def _set_state(self, state):
        k = len(self.classes_)
        self.matrix_ = state.array("matrix", (k, k))
        self.odd_ = state.array("odd", (None,), finite=False)
        self.counts_ = state.array("counts", (k,)).astype(np.int64)
        self.members_ = state.calibrators("members")
        if [inner.count("n") for inner in state.inners("of_each")] != self.counts_.tolist():
            state.fail("`of_each` must be the counts")


@pytest.fixture
def wide(monkeypatch):
    """Calibrators of `Wide` with so many classes, fitted to so many rows."""
    monkeypatch.setattr(calibration, "Wide", Wide, raising=False)
    monkeypatch.setattr(calibration, "__all__", [*calibration.__all__, "Wide"])

    def fit(k, n=90, **options):
        return quietly_fitted(Wide, *rows(n, k), **options)

    return fit


@pytest.mark.parametrize("k", [3, 64])
def test_options_arrays_and_calibrators_within(k, wide, tmp_path):
    options = {"strength": math.inf, "prior": [0.25, None, "x", math.nan], "kind": None}
    for strength in (math.inf, 1 / 3):
        calibrator = wide(k, **options | {"strength": strength})
        calibrator.save(tmp_path / "c.json")
        again = sa.load(tmp_path / "c.json")
        assert repr(again.get_params()) == repr(calibrator.get_params())
        assert again.odd_.tobytes() == calibrator.odd_.tobytes()
        np.testing.assert_array_equal(again.counts_, calibrator.counts_)
        assert (again.nll_before_, str(again.nll_after_)) == (math.inf, "nan")
        assert [m.temperature_ for m in again.members_] == [m.temperature_ for m in calibrator.members_]
    assert_the_same(again, calibrator, rows(50, k)[0])
    document = json.loads((tmp_path / "c.json").read_text())
    if k == 3:
        assert document["arrays"] is None
        assert document["state"]["odd"] == ["nan", "inf", "-inf", -0.0, 5e-324, 1 / 3]
        assert os.listdir(tmp_path) == ["c.json"]
    else:  # 64 * 64 numbers and a few more
        (file,) = set(os.listdir(tmp_path)) - {"c.json"}
        content = (tmp_path / file).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        assert document["arrays"] == {"file": file, "bytes": len(content), "sha256": digest}
        assert file == f"c.{digest[:16]}.safetensors"
        assert document["state"]["matrix"] == {"tensor": "state.matrix"}
        np.testing.assert_array_equal(tensors_of(content)["state.matrix"], calibrator.matrix_)


def test_what_has_no_words_in_the_file_is_not_saved(wide, tmp_path):
    for calibrator, sentence in (
        (wide(3, kind=open), "`params.kind` cannot be saved: it is a builtin_function_or_method; numbers, text"),
        (wide(3, prior={1}), "`params.prior` cannot be saved: it is a set"),
    ):
        with pytest.raises(ValueError, match=sentence):
            calibrator.save(tmp_path / "c.json")
    named = quietly_fitted(sa.TemperatureScaling, rows()[0], [0.5, 1.0] * 40, classes=[0.5, 1.0, math.inf])
    with pytest.raises(ValueError, match="classes can be saved if they are finite numbers or .*; got .0.5, 1.0, inf"):
        named.save(tmp_path / "c.json")
    assert not os.listdir(tmp_path)


def test_a_file_that_could_not_be_loaded_is_not_written(wide, tmp_path, monkeypatch):
    calibrator = wide(3)
    for name, limit, sentence in (
        ("_LARGEST_FILE", 1000, "it is larger than 1000 bytes; nothing was changed there"),
        ("_MOST_VALUES", 20, "it holds more than 20 values; nothing was changed there"),
        ("_MOST_CLASSES", 2, "a calibrator of up to 2 classes can be saved; got 3"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(_store, name, limit)
            with pytest.raises(ValueError, match=sentence):
                calibrator.save(tmp_path / "c.json")
    assert not os.listdir(tmp_path)


# by hand, as version 1 had it
VERSION_1 = """{
  "format": "softargmax calibrator", "version": 1, "method": "TemperatureScaling", "classes": ["cat", "dog"],
  "keep_zero": true, "n_features": 2, "feature_names": null, "absent_classes": ["dog"], "drop": 3.5,
  "drop_is_seen": true, "n_lifted": 0, "nll_before": 0.5, "nll_after": "inf",
  "state": {"temperature": 2.0, "converged": true, "n_iter": 4, "grad_norm": 1e-12, "at_bound": false,
            "profile": [[0.5, 0.75, 1.0], [1.5, 0.0, 1.5], [-2.0, 0.0, 2.0], [8.0, 8.0, 8.0]]}
}"""


def test_version_1_is_still_read(tmp_path):
    (tmp_path / "c.json").write_text(VERSION_1)
    calibrator = sa.load(tmp_path / "c.json")
    assert calibrator.keep_zero is True
    assert calibrator.absent_classes_.tolist() == ["dog"]
    logits = np.array([[2.0, -4.0], [0.0, -np.inf]])
    np.testing.assert_allclose(calibrator.predict_proba(logits), [[1 / (1 + np.exp(-3)), 1 / (1 + np.exp(3))], [1, 0]])
    for key in json.loads(VERSION_1):
        document = json.loads(VERSION_1)
        del document[key]
        (tmp_path / "x.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match=f"`{key}` is missing"):
            sa.load(tmp_path / "x.json")
    document = json.loads(VERSION_1) | {"arrays": None}
    (tmp_path / "x.json").write_text(json.dumps(document))
    sa.load(tmp_path / "x.json")


# ---- the schema ----


def faults(value, schema, root, at="$"):
    """Where a JSON value breaks a JSON Schema, for the words of draft 2020-12 that the schema of the docs uses."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}

    def is_a(kind):
        if kind in ("number", "integer"):
            return type(value) is int or (kind == "number" and isinstance(value, float))
        return isinstance(value, kinds[kind])

    def fits(inner):
        return not list(faults(value, inner, root, at))

    known = {"$schema", "$defs", "title", "description", "required", "properties", "additionalProperties", "if", "then"}
    for word, wanted in schema.items():
        fine = True
        if word == "type":
            fine = any(map(is_a, wanted if isinstance(wanted, list) else [wanted]))
        elif word == "$ref":
            yield from faults(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, at)
        elif word == "const":
            fine = value == wanted and type(value) is type(wanted)
        elif word == "enum":
            fine = value in wanted
        elif word == "anyOf":
            fine = any(map(fits, wanted))
        elif word == "allOf":
            fine = all(map(fits, wanted))
        elif word in ("minimum", "exclusiveMinimum"):
            fine = not is_a("number") or (value >= wanted if word == "minimum" else value > wanted)
        elif word == "pattern":
            fine = not is_a("string") or re.search(wanted, value) is not None
        elif word in ("minItems", "maxItems"):
            fine = not is_a("array") or (len(value) >= wanted if word == "minItems" else len(value) <= wanted)
        elif word == "items":
            for i, item in enumerate(value if is_a("array") else ()):
                yield from faults(item, wanted, root, f"{at}[{i}]")
        elif word not in known:
            raise NotImplementedError(word)
        if not fine:
            yield f"{at}: {word}"
    if isinstance(value, dict):
        yield from (f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
            if inner is False:
                yield f"{at}: {name} is not known"
            else:
                yield from faults(item, inner, root, f"{at}.{name}")
    if "if" in schema and fits(schema["if"]):
        yield from faults(value, schema["then"], root, at)


SCHEMA = json.loads((DOCS / "calibrator.schema.json").read_text())


@pytest.mark.parametrize("threshold", [0, 4096])
@pytest.mark.parametrize("method", METHODS)
def test_files_of_every_method_are_as_the_schema_says(method, threshold, tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "_MOST_NUMBERS", threshold)
    logits, labels = rows()
    for options in ({}, {"classes": [0, 1, 2], "keep_zero": True}):
        quietly_fitted(method, logits, labels, **options).save(tmp_path / "c.json")
        document = json.loads((tmp_path / "c.json").read_text())
        assert list(faults(document, SCHEMA, SCHEMA)) == []
        assert list(document) == SCHEMA["required"]


def test_the_schema_refuses_what_is_none(tmp_path):
    sound = document(tmp_path)
    for path, value in (
        (("version",), 1),
        (("version",), True),
        (("method",), "Other"),
        (("extra",), 1),
        (("drop",), 0),
        (("n_features",), 1.5),
        (("classes",), [[0], [1]]),
        (("params",), {}),
        (("params",), {"keep_zero": False, "other": 1}),
        (("state", "temperature"), "2"),
        (("state", "extra"), 1),
        (("state", "profile"), [[1.0]] * 3),
        (("arrays",), {"file": "../c.safetensors", "bytes": 1, "sha256": "0" * 64}),
        (("arrays",), {"file": "c.safetensors", "bytes": 1, "sha256": "0"}),
    ):
        changed = json.loads(json.dumps(sound))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        assert list(faults(changed, SCHEMA, SCHEMA)), path
    for key in sound:
        assert list(faults({k: v for k, v in sound.items() if k != key}, SCHEMA, SCHEMA)), key


def test_the_schema_on_the_page_is_a_part_of_the_whole_one():
    (block,) = re.findall(r"```json\n(.*?)```", (DOCS / "formats.md").read_text(), re.DOTALL)
    page = json.loads(block)
    (of_temperature,) = (rule["then"]["properties"] for rule in SCHEMA["allOf"])
    assert page["required"] == SCHEMA["required"]
    for name, described in page["properties"].items():
        if name == "state":
            assert described == of_temperature["state"]
        elif name not in ("method", "params", "arrays"):
            assert described == SCHEMA["properties"][name]


# ---- the pair of files ----


@pytest.fixture
def two(wide):
    """Two calibrators whose arrays lie beside the JSON, and rows they disagree on."""
    return wide(65), wide(65, n=100), rows(5, 65)[0]


def which(path, one, other, logits):
    got = sa.load(path).predict_proba(logits)
    found = [np.array_equal(got, each.predict_proba(logits)) for each in (one, other)]
    assert found in ([True, False], [False, True])
    return found.index(True)


def test_another_save_takes_its_arrays_along(two, wide, tmp_path):
    one, other, logits = two
    path = tmp_path / "c.json"
    one.save(path)
    first = set(os.listdir(tmp_path))
    other.save(path)
    second = set(os.listdir(tmp_path))
    assert len(first) == len(second) == 2
    assert first & second == {"c.json"}
    assert which(path, one, other, logits) == 1
    other.save(path)  # the same again: the same files
    assert set(os.listdir(tmp_path)) == second
    shutil.copy(path, tmp_path / "copy.json")
    assert which(tmp_path / "copy.json", one, other, logits) == 1
    one.save(tmp_path / "copy.json")  # the arrays that it shared stay
    assert which(path, one, other, logits) == 1
    wide(3).save(tmp_path / "copy.json")
    wide(3).save(path)
    assert set(os.listdir(tmp_path)) == {"c.json", "copy.json"}


def test_a_save_removes_nothing_that_is_not_its_own(two, wide, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "c.0123456789abcdef.safetensors").write_bytes(b"of somebody else")
    digest = hashlib.sha256(b"weights").hexdigest()
    for name in ("model.safetensors", f"other.{digest[:16]}.safetensors", f"../c.{digest[:16]}.safetensors", None, [1]):
        arrays = {"file": name, "bytes": 7, "sha256": digest}
        (tmp_path / "c.json").write_text(json.dumps({"arrays": arrays}))
        wide(3).save(tmp_path / "c.json")
    for document in (
        {"arrays": {"file": "c..safetensors", "sha256": ""}},
        {"arrays": {"sha256": 7}},
        {"arrays": 1},
        {},
    ):
        (tmp_path / "c.json").write_text(json.dumps(document))
        two[0].save(tmp_path / "c.json")
    assert len(os.listdir(tmp_path)) == 4
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def test_links_to_the_files(two, tmp_path):
    one, other, logits = two
    for folder in ("there", "here", "links"):
        (tmp_path / folder).mkdir()
    link = tmp_path / "here" / "link.json"
    link.symlink_to(tmp_path / "there" / "c.json")
    one.save(link)
    assert which(link, one, other, logits) == 0
    other.save(link)
    assert which(link, one, other, logits) == which(tmp_path / "there" / "c.json", one, other, logits) == 1
    assert len(os.listdir(tmp_path / "there")) == 2
    named = json.loads((tmp_path / "there" / "c.json").read_text())["arrays"]["file"]
    for name, blob in (("c.json", "0"), (named, "1")):  # a cache that keeps files under names of its own
        (tmp_path / "there" / name).rename(tmp_path / "there" / blob)
        (tmp_path / "links" / name).symlink_to(tmp_path / "there" / blob)
    assert which(tmp_path / "links" / "c.json", one, other, logits) == 1


def killed_at(step, save):
    """Run `save` in a child that is killed before its `step`-th change of the file system; whether it was."""
    child = os.fork()
    if not child:
        steps = itertools.count()

        def kill(event, args):
            changes = event in ("os.rename", "os.remove", "os.chmod") or (
                event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if changes and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        with contextlib.suppress(BaseException):
            save()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def law_the_old_pair_or_the_new_one(two, wide, folder):
    one, other, logits = two
    for old, new in ((one, other), (other, one), (one, one)):
        seen = []
        for step in itertools.count():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            old.save(folder / "c.json")
            killed = killed_at(step, lambda new=new: new.save(folder / "c.json"))
            if old is new:
                assert which(folder / "c.json", one, other, logits) == 0
            else:
                got = which(folder / "c.json", old, new, logits)
                seen.append(got)
            new.save(folder / "c.json")
            assert which(folder / "c.json", one, other, logits) == (new is other)
            if not killed:
                break
        assert step >= 5
        if old is not new:
            assert seen == sorted(seen)
            assert set(seen) == {0, 1}


def test_kill_9_at_any_step_leaves_the_old_pair_or_the_new_one(two, wide, tmp_path):
    law_the_old_pair_or_the_new_one(two, wide, tmp_path / "c")


def test_the_law_rejects_a_save_that_writes_the_json_first(two, wide, tmp_path, monkeypatch):
    arrays = []

    def json_first(path, content):
        if str(path).endswith(".safetensors"):
            arrays.append((path, content))
            return
        write_whole(path, content)
        if arrays:
            write_whole(*arrays.pop())

    write_whole = _store.write_whole
    monkeypatch.setattr(_store, "write_whole", json_first)
    with pytest.raises(ValueError, match="its arrays file .* is not beside it"):
        law_the_old_pair_or_the_new_one(two, wide, tmp_path / "c")


def test_names_are_on_disk_before_the_next_step(two, tmp_path, monkeypatch):
    """For a power failure: the arrays, their name, the JSON, its name, and only then is the old file removed."""
    one, other, _ = two
    one.save(tmp_path / "c.json")
    steps = []

    def recorded(cls, name, told):
        real = getattr(cls, name)
        monkeypatch.setattr(cls, name, lambda *args: (steps.append(told(args)), real(*args))[1])

    recorded(os, "fsync", lambda args: "flush " + os.path.basename(os.readlink(f"/proc/self/fd/{args[0]}"))[-6:])
    recorded(Path, "replace", lambda args: f"rename {args[1].suffix}")
    recorded(Path, "unlink", lambda args: f"remove {args[0].suffix}")
    other.save(tmp_path / "c.json")
    folder = f"flush {tmp_path.name[-6:]}"
    part = [step for step in steps if step.endswith(".part")]
    assert len(part) == 2
    assert steps == [part[0], "rename .safetensors", folder, part[1], "rename .json", folder, "remove .safetensors"]


def test_a_full_disk_leaves_the_old_pair(two, tmp_path, monkeypatch):
    one, other, logits = two
    one.save(tmp_path / "c.json")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    arrays = max(map(len, before.values()))
    for limit in (1000, arrays + 1000):
        if limit > arrays:  # room for the arrays, and not for the JSON
            monkeypatch.setattr(Wide, "_state", lambda self: {"matrix": self.matrix_, "text": "x" * 2 * arrays})
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            with pytest.raises(ValueError, match=r"cannot write .*c.*: file too large; nothing was changed there"):
                other.save(tmp_path / "c.json")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert which(tmp_path / "c.json", one, other, logits) == 0


def test_a_folder_that_takes_no_files(two, tmp_path):
    for calibrator in (two[0], fitted()[0]):
        with pytest.raises(ValueError, match="cannot write /proc/.*: its folder takes no files; nothing was changed"):
            calibrator.save("/proc/c.json")
        with pytest.raises(ValueError, match="cannot write .*: there is no folder"):
            calibrator.save(tmp_path / "none" / "c.json")


def test_a_reader_beside_a_writer_gets_one_of_the_two(two, tmp_path):
    one, other, logits = two
    path = tmp_path / "c.json"
    one.save(path)
    done = threading.Event()

    def write():
        while not done.is_set():
            other.save(path)
            one.save(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {which(path, one, other, logits) for _ in range(60)}
    finally:
        done.set()
        writer.join()
    assert seen == {0, 1}
    assert len(os.listdir(tmp_path)) == 2


# ---- damage ----


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"file": "../c.safetensors"}, "`file` must be the name of a .safetensors file in the same folder"),
        ({"file": "/etc/c.safetensors"}, "`file` must be the name of a .safetensors file in the same folder"),
        ({"file": "within/c.safetensors"}, "`file` must be the name of a .safetensors file in the same folder"),
        ({"file": ".."}, "`file` must be the name of a .safetensors file in the same folder"),
        ({"file": "c.json"}, "`file` must be the name of a .safetensors file in the same folder"),
        ({"file": None}, "`file` must be a string"),
        ({"file": "none.safetensors"}, "its arrays file 'none.safetensors' is not beside it; keep the two together"),
        ({"file": "n" * 300 + ".safetensors"}, "cannot be read: file name too long"),
        ({"file": "\0.safetensors"}, "cannot be read: embedded null byte"),
        ({"file": "\ud800.safetensors"}, "cannot be read: "),
        ({"file": "pipe.safetensors", "bytes": 0}, "has not the 0 bytes that it was saved with"),
        ({"file": "folder.safetensors"}, "bytes that it was saved with: it is damaged or of another save"),
        ({"bytes": 17}, "has not the 17 bytes that it was saved with: it is damaged or of another save"),
        ({"bytes": 1e3}, "`bytes` must be an integer"),
        ({"sha256": "0" * 64}, "has not the SHA-256 that it was saved with: it is damaged or of another save"),
        ({"sha256": None}, "`sha256` must be a string"),
        ({"other": 1}, "it has keys that this release does not know: other"),
    ],
)
def test_an_arrays_file_that_is_not_the_one(change, sentence, two, tmp_path):
    two[0].save(tmp_path / "c.json")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    document = json.loads((tmp_path / "c.json").read_text())
    document["arrays"] |= change
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=re.escape(f"cannot load {tmp_path / 'c.json'}: ")) as caught:
        sa.load(tmp_path / "c.json")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def with_arrays(folder, content):
    """The calibrator file in `folder` with other arrays, and all that it says about their file right."""
    document = json.loads((folder / "c.json").read_text())
    (folder / "x.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    document["arrays"] = {"file": "x.safetensors", "bytes": len(content), "sha256": digest}
    (folder / "x.json").write_text(json.dumps(document))
    return folder / "x.json"


def test_arrays_of_another_kind(two, tmp_path):
    one, other, logits = two
    one.save(tmp_path / "c.json")
    (file,) = tmp_path.glob("*.safetensors")
    sound = tensors_of(file.read_bytes())
    assert which(with_arrays(tmp_path, serialized(sound)), one, other, logits) == 0
    for changes, sentence in (
        ({"state.matrix": sound["state.matrix"].astype(np.float32)}, "holds F32 where F64 is wanted"),
        ({"state.matrix": np.zeros((65, 65), np.int64)}, "holds I64 where F64 is wanted"),
        ({"state.matrix": np.zeros((65, 64))}, "`matrix` must be finite numbers of shape (65, 65)"),
        ({"state.matrix": np.zeros(65 * 65)}, "`matrix` must be finite numbers of shape (65, 65)"),
        ({"state.matrix": np.zeros(())}, "`matrix` must be finite numbers of shape (65, 65)"),
        ({"state.matrix": np.zeros((0, 65))}, "`matrix` must be finite numbers of shape (65, 65)"),
        ({"state.matrix": np.full((65, 65), np.nan)}, "`matrix` must be finite numbers of shape (65, 65)"),
        ({"state.odd": np.zeros((1, 2))}, "`odd` must be numbers of shape (any)"),
        ({"state.odd": np.zeros(0)}, "`odd` must be numbers of shape (any)"),
        ({"other\n": np.zeros(2)}, "its arrays file has arrays that it does not name: other\\n"),
    ):
        path = with_arrays(tmp_path, serialized(sound | changes))
        with pytest.raises(ValueError, match=re.escape(f"cannot load {path}: ")) as caught:
            sa.load(path)
        assert sentence in str(caught.value)
    for name in sound:
        path = with_arrays(tmp_path, serialized({k: v for k, v in sound.items() if k != name}))
        with pytest.raises(ValueError, match="must name one of the arrays in the file beside it"):
            sa.load(path)
    for content in (b"", b"x" * 100, (10**9).to_bytes(8, "little") + b"{}", file.read_bytes()[:-1]):
        with pytest.raises(ValueError, match="is no safetensors file"):
            sa.load(with_arrays(tmp_path, content))
    document = json.loads((tmp_path / "c.json").read_text())
    for reference in ({"tensor": "none"}, {"tensor": 1}, {}, {"tensor": "state.matrix", "more": 1}):
        document["state"]["matrix"] = reference
        (tmp_path / "x.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match="`matrix` must name one of the arrays in the file beside it"):
            sa.load(tmp_path / "x.json")


def test_damaged_arrays_are_refused(two, tmp_path):
    two[0].save(tmp_path / "c.json")
    (file,) = tmp_path.glob("*.safetensors")
    sound = file.read_bytes()
    for end in range(0, len(sound), 997):
        file.write_bytes(sound[:end])
        with pytest.raises(ValueError, match="cannot load .*c.json: its arrays file .* bytes that it was saved with"):
            sa.load(tmp_path / "c.json")
    for at in range(0, len(sound), 997):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(ValueError, match="cannot load .*c.json: its arrays file .* SHA-256 that it was saved with"):
            sa.load(tmp_path / "c.json")


@given(st.integers(0, 2**32))
def test_damaged_files_are_right_or_refused(tmp_path_factory, seed):
    folder = tmp_path_factory.getbasetemp()
    file = folder / "fuzz.json"
    if not (folder / "sound.json").exists():
        fitted()[0].save(folder / "sound.json")
    content = bytearray((folder / "sound.json").read_bytes())
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 4)):
        where = rng.randrange(len(content))
        kind = rng.randrange(4)
        if kind == 0:
            content[where] = rng.randrange(256)
        elif kind == 1:
            del content[where : where + rng.randint(1, 40)]
        elif kind == 2:
            content[where:where] = bytes(
                rng.choice(b'0123456789eE-+.,:{}[]"ntrufalse ') for _ in range(rng.randint(1, 6))
            )
        else:
            del content[where:]
        if not content:
            break
    file.write_bytes(content)
    try:
        loaded = sa.load(file)
    except ValueError as error:
        assert str(error).startswith(f"cannot load {file}: ")  # noqa: PT017
        return
    p = loaded.predict_proba(np.array([[1.0, 2.0, 3.0, 4.0][: loaded.n_features_in_]]))
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1)


RAW = ["null", "true", '"x"', '"inf"', "-1", "0", "1e999", "NaN", "9" * 400, "9" * 5000, "[]", "{}", '""',
       "[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a": 1, "a": 1}', '{"tensor": "state"}']  # fmt: skip


def places(value, path=()):
    """The paths of all values of a document; of a list the first, the second and the last."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for i in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from places(value[i], (*path, i))


def replaced(document, path, text):
    """The document as JSON with `text` in one place."""
    if not path:
        return text
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "<here>"
    return json.dumps(changed).replace('"<here>"', text)


def right_or_refused(file, logits):
    """Whether it loads; then it must calibrate, else say in one sentence why not."""
    try:
        loaded = sa.load(file)
    except ValueError as error:
        assert str(error).startswith(f"cannot load {file}: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 700  # noqa: PT017
        return False
    X = logits[:, : loaded.n_features_in_]
    if X.shape[1] == loaded.n_features_in_:
        p = loaded.predict_proba(X)
        assert not np.isnan(p).any()
        np.testing.assert_allclose(p.sum(-1), 1, atol=1e-9)
        loaded.predict(X)
    return True


@pytest.mark.parametrize("method", METHODS)
def test_any_value_replaced_is_right_or_refused(method, tmp_path):
    def loads(text):
        (tmp_path / "x.json").write_text(text)
        return right_or_refused(tmp_path / "x.json", logits)

    logits, labels = rows(60)
    quietly_fitted(method, logits, labels).save(tmp_path / "c.json")
    sound = json.loads((tmp_path / "c.json").read_text())
    assert loads(json.dumps(sound))
    assert any([loads(replaced(sound, path, text)) for path in places(sound) for text in RAW])
    text = json.dumps(sound)
    for end in range(0, len(text), 50):
        assert not loads(text[:end])
    for match in re.finditer(r'"\w+": ', text):  # every key twice, and a key that is not known beside it
        for more in (match.group(), '"unknown": '):
            assert not loads(text[: match.start()] + more + "1, " + text[match.start() :])
    assert not loads(json.dumps(sound | {"version": 99}))


@pytest.mark.parametrize("method", METHODS)
def test_any_array_replaced_is_right_or_refused(method, tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "_MOST_NUMBERS", -1)
    logits, labels = rows(60)
    quietly_fitted(method, logits, labels).save(tmp_path / "c.json")
    (file,) = tmp_path.glob("*.safetensors")
    sound = tensors_of(file.read_bytes())
    assert right_or_refused(with_arrays(tmp_path, serialized(sound)), logits)
    for name, array in sound.items():
        for other in (
            np.full_like(array, np.nan), np.full_like(array, np.inf), 0 * array, -array - 1, array[::-1].copy(),
            array[1:].copy(), np.array(1.0), np.zeros((2, *array.shape)), array.astype(np.float32),
        ):  # fmt: skip
            right_or_refused(with_arrays(tmp_path, serialized(sound | {name: other})), logits)
        without = {other: sound[other] for other in sound if other != name}
        assert not right_or_refused(with_arrays(tmp_path, serialized(without)), logits)


def test_the_law_rejects_a_method_that_trusts_its_file(wide, tmp_path, monkeypatch):
    logits = rows(60)[0]
    wide(3).save(tmp_path / "c.json")
    sound = json.loads((tmp_path / "c.json").read_text())
    trusting = Wide._set_state

    def set_state(self, state):
        taken = state._values["matrix"]
        trusting(self, State({**state._values, "matrix": [[0.0] * 3] * 3}, ""))
        state._values.clear()
        self.matrix_ = np.array(taken)

    monkeypatch.setattr(Wide, "_set_state", set_state)
    wrong = 0
    for text in RAW:
        (tmp_path / "x.json").write_text(replaced(sound, ("state", "matrix", 0, 0), text))
        try:
            right_or_refused(tmp_path / "x.json", logits)
        except (AssertionError, TypeError, ArithmeticError, RuntimeError):
            wrong += 1
    assert wrong >= 5


@pytest.mark.parametrize("method", METHODS)
def test_ten_million_values_are_refused_at_once(method, tmp_path):
    logits, labels = rows(60)
    quietly_fitted(method, logits, labels).save(tmp_path / "c.json")
    sound = json.loads((tmp_path / "c.json").read_text())
    many = "[" + "0," * 10**7 + "0]"
    for path in (("classes",), ("state", next(iter(sound["state"])))):
        (tmp_path / "x.json").write_text(replaced(sound, path, many))
        start = time.process_time()
        with pytest.raises(ValueError, match="it is larger than 16777216 bytes"):
            sa.load(tmp_path / "x.json")
        assert time.process_time() - start < 2


@pytest.mark.parametrize("item", ['{"a":1}', '"é"'])
def test_the_largest_file_takes_little_memory(item, tmp_path):
    sound = document(tmp_path)
    n = min(((1 << 24) - 5000) // (len(item.encode()) + 1), (1 << 20) // (1 + sum(map(item.count, ",[{"))) - 200)
    (tmp_path / "x.json").write_text(replaced(sound, ("classes",), "[" + (item + ",") * n + item + "]"))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"cannot load .*x.json: ") as caught:
            sa.load(tmp_path / "x.json")
        assert "larger" not in str(caught.value)
        assert "more than" not in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_a_long_text_takes_little_memory(tmp_path):
    sound = document(tmp_path)
    text = replaced(sound, ("classes",), '["' + "a" * ((1 << 24) - 10_000) + '\U0001f600"]')
    (tmp_path / "x.json").write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"cannot load .*x.json: `classes` must be null or a list") as caught:
            sa.load(tmp_path / "x.json")
        assert len(str(caught.value)) < 700
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_calibrators_within_calibrators_without_end(wide, tmp_path):
    calibrator = wide(3)
    calibrator.save(tmp_path / "c.json")
    whole = json.loads((tmp_path / "c.json").read_text())
    record = {name: value for name, value in whole.items() if name not in ("format", "version", "arrays")}
    text = replaced(whole, ("state", "members"), "[<within>]")
    for _ in range(320):
        text = text.replace("<within>", replaced(record, ("state", "members"), "[<within>]"))
    (tmp_path / "x.json").write_text(text.replace("<within>", ""))
    with pytest.raises(ValueError, match="cannot load .*x.json: .*nested too deeply"):
        sa.load(tmp_path / "x.json")
