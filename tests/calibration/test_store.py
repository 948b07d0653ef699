import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import softargmax as sa
from softargmax import CalibrationDegenerateWarning


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
        (("version",), 2, "it has version 2; this release reads version 1"),
        (("version",), True, "`version` must be an integer"),
        (("method",), "load", "its method 'load' is not known to this release"),
        (("method",), "__class__", "is not known to this release"),
        (("method",), "os.system", "is not known to this release"),
        (("classes",), [0, 1], "classes must be a list of one label for each of the 4 columns; got [0, 1]"),
        (("classes",), [[0], [1], [2], [3]], "`classes` must be null or a list"),
        (("keep_zero",), 1, "`keep_zero` must be true or false"),
        (("n_features",), 0, "`n_features` is out of range"),
        (("n_features",), 1 << 40, "`n_features` is out of range"),
        (("feature_names",), ["a"], "`feature_names` must be 4 strings"),
        (("absent_classes",), [17], "`absent_classes` are not among the classes"),
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


def test_an_unfitted_calibrator_is_not_saved(tmp_path):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        sa.TemperatureScaling().save(tmp_path / "c.json")
    assert not list(tmp_path.iterdir())
