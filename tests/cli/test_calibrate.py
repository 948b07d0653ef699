import json
import re

import numpy as np
import pytest

import softargmax as sa
from softargmax import calibration
from softargmax.cli import _arguments
from softargmax.report import in_words

METHODS = sorted(_arguments._methods())
T = ("--method", "TemperatureScaling")


def test_what_calibrate_prints_and_writes(run, preds, overconfident):
    ran = run("calibrate", preds, "-o", "cal.json", *T)
    assert (ran.code, ran.err) == (0, "")
    fitted = sa.TemperatureScaling().fit(*overconfident)
    low, high = fitted.interval()
    assert f"T = {fitted.temperature_:.3f} ({low:.2f} to {high:.2f}): the model was over-confident; divide" in ran.out
    before, after = map(float, re.search(r"rows: (\S+) before, (\S+) after", ran.out).groups())
    assert (before, after) == (round(fitted.nll_before_, 4), round(fitted.nll_after_, 4))
    assert "wrote cal.json" in ran.out
    assert sa.load("cal.json").temperature_ == fitted.temperature_


def test_every_format_gives_the_same_temperature_to_the_last_bit(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=logits, labels=labels)
    np.save(tmp_path / "p.npy", logits)
    np.save(tmp_path / "y.npy", labels)
    lines = [",".join([str(y), *map(repr, map(float, z))]) for y, z in zip(labels, logits, strict=True)]
    (tmp_path / "p.csv").write_text("\n".join(["label,a,b,c", *lines]))
    for words in (["p.npz"], ["p.npz", "--logits"], ["p.npy", "--logits", "--labels", "y.npy"], ["p.csv", "--logits"]):
        assert run("calibrate", *words, "-o", "cal.json", *T).code == 0
        assert sa.load("cal.json").temperature_ == sa.TemperatureScaling().fit(logits, labels).temperature_


def test_probabilities_and_log_probabilities_give_the_temperature_of_their_logits(run, tmp_path, overconfident):
    logits, labels = overconfident
    wanted = sa.TemperatureScaling().fit(logits, labels).temperature_
    for kind, scores in (("probs", sa.softmax(logits)), ("log_probs", sa.log_softmax(logits))):
        np.savez(tmp_path / "p.npz", labels=labels, **{kind: scores})
        assert run("calibrate", "p.npz", "-o", "cal.json", *T).code == 0
        assert sa.load("cal.json").temperature_ == pytest.approx(wanted, rel=1e-9)


def test_logits_that_look_like_probabilities_are_told_once_and_taken_as_logits(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=sa.softmax(logits), labels=labels)
    for words in (
        ["evaluate", "p.npz"],
        ["report", "p.npz", "-o", "r.html", *T],
        ["calibrate", "p.npz", "-o", "cal.json", *T],
    ):
        ran = run(*words)
        assert ran.code == 0
        assert ran.err.startswith("softargmax: warning: the logits look like probabilities")
        assert ran.err.count("\n") == 1
    with pytest.warns(sa._checks.LikelyProbabilitiesWarning):
        fitted = sa.TemperatureScaling().fit(sa.softmax(logits), labels)
    assert sa.load("cal.json").temperature_ == fitted.temperature_


def test_rows_that_do_not_determine_a_temperature_are_told(run, tmp_path):
    np.savez(tmp_path / "p.npz", logits=np.array([[3.0, 0.0], [0.0, 3.0]] * 20), labels=np.array([0, 1] * 20))
    ran = run("calibrate", "p.npz", "-o", "cal.json", *T)
    assert ran.code == 0
    assert ran.err.startswith("softargmax: warning: every label is its row's strict maximum")
    assert "these rows do not determine it" in ran.out


def test_it_does_not_write_over_what_it_reads(run, tmp_path, preds):
    content = preds.read_bytes()
    (tmp_path / "link.npz").symlink_to(preds)
    for out in ("preds.npz", "link.npz", "../" + tmp_path.name + "/preds.npz"):
        ran = run("calibrate", preds, "-o", out, *T)
        assert ran.code == 2
        assert f"-o {out} is the file that is read" in ran.err
    assert preds.read_bytes() == content


def test_the_file_is_json_and_of_the_default_method(run, preds, tmp_path):
    ran = run("calibrate", preds, "-o", "cal.json")
    assert json.loads((tmp_path / "cal.json").read_text())["method"] == "AutoCalibrator"
    auto = sa.load("cal.json")
    assert auto.summary_ in ran.out
    for name, weight in auto.weights_.items():
        assert re.search(rf"^  {re.escape(name)} +{100 * weight:.1f}%$", ran.out, flags=re.MULTILINE)


def test_a_file_of_arrays_beside_it_is_named(run, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "p.npz", logits=rng.normal(size=(300, 70)), labels=rng.permutation(np.arange(300) % 70))
    ran = run("calibrate", "p.npz", "-o", "cal.json", "--method", "MatrixScaling")
    (beside,) = tmp_path.glob("*.safetensors")
    assert f"wrote cal.json and {beside.name}, which belongs beside it" in ran.out
    assert run("apply", "cal.json", "p.npz", "-o", "out.npy").code == 0


@pytest.mark.parametrize(
    ("temperature", "interval", "said"),
    [
        (2.559, (2.5, 2.62), "T = 2.559 (2.50 to 2.62): the model was over-confident; divide the logits by T"),
        (0.5, (0.45, 0.56), "T = 0.500 (0.45 to 0.56): the model was under-confident; divide the logits by T"),
        (1.0, (0.9, 1.1), "T = 1.000 (0.90 to 1.10): the interval holds 1, so the model was neither clearly"),
        (1e-5, (1e-6, 1e-4), "T = 1e-05 (1e-06 to 0.0001): the model was under-confident"),
        (2.0, (0.0, np.inf), "T = 2.000: these rows do not determine it"),
        (2.0, (0.5, np.inf), "T = 2.000 (0.50 to infinite): the interval holds 1"),
    ],
)
def test_the_temperature_in_words(temperature, interval, said):
    assert in_words(temperature, interval).startswith(said)


def test_infinities_and_what_became_of_them_are_told(run, tmp_path, overconfident):
    logits, labels = overconfident
    logits[0, labels[0]] = -np.inf
    np.savez(tmp_path / "p.npz", logits=logits, labels=labels)
    note = "Note: 1 logit of -inf (a probability of exactly 0) on the calibration rows was lifted to a finite value. "
    ran = run("calibrate", "p.npz", "-o", "cal.json", *T)
    assert ran.code == 0
    assert "rows: infinite before, " in ran.out
    assert note in ran.out
    ran = run("report", "p.npz", "--calibrator", "cal.json", "-o", "r.html")
    assert note in ran.out
    assert note.removeprefix("Note: ") in (tmp_path / "r.html").read_text("utf-8")


def test_a_huge_nll_is_a_short_number(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=1e200 * logits, labels=labels)
    ran = run("calibrate", "p.npz", "-o", "cal.json", *T)
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) < 120
    assert re.search(r"rows: \d\.\d+e\+\d+ before, ", ran.out)


def test_float16_is_measured_alike_on_both_ways(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=logits.astype("f2"), labels=labels)
    ran = run("calibrate", "p.npz", "-o", "cal.json", *T)
    (after,) = re.search(r"before, (\S+) after", ran.out).groups()
    assert run("apply", "cal.json", "p.npz", "-o", "out.npz").code == 0
    assert round(json.loads(run("evaluate", "out.npz", "--json").out)["nll"], 4) == float(after)


def test_every_calibrator_that_learns_from_labels_is_a_method():
    assert "TemperatureScaling" in METHODS
    others = set(calibration.__all__) - set(METHODS)
    # another prior, another classifier: neither is learnt from scores with labels alone
    assert others <= {"CalibratedClassifier", "LabelShiftEM", "LogitAdjustment", "PriorCorrection", "load"}
    assert set(METHODS) - set(calibration.__all__) <= {"auto"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_fitted_told_applied_measured_and_shown(run, preds, tmp_path, overconfident, method):
    ran = run("calibrate", preds, "-o", "cal.json", "--method", method)
    assert ran.code == 0
    logits, labels = overconfident
    loaded = sa.load("cal.json")
    assert type(loaded).__name__ == {"auto": "AutoCalibrator"}.get(method, method)
    assert ran.out.startswith(type(loaded).__name__)
    assert ("The first choice of a row may change" in ran.out) != loaded.preserves_argmax
    probs = loaded.predict_proba(logits)
    before, after = (sa.evaluate(labels, **scores).nll for scores in ({"logits": logits}, {"probs": probs}))
    printed = map(float, re.search(r"calibration rows: (\S+) before, (\S+) after", ran.out).groups())
    assert list(printed) == pytest.approx([before, after], abs=6e-5)
    assert run("apply", "cal.json", preds, "-o", "out.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal([row["probs"] for row in rows], probs)
    ran = run("evaluate", preds, "--calibrator", "cal.json", "--json")
    assert json.loads(ran.out)["nll"] == pytest.approx(after, abs=1e-9)
    assert run("report", preds, "--calibrator", "cal.json", "-o", "r.html").code == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    assert f"<dt>Method</dt>\n<dd>{type(loaded).__name__}." in page


@pytest.mark.parametrize("command", ["calibrate", "report"])
@pytest.mark.parametrize("name", ["temperature", "temperaturescaling", "PriorCorrection", "load", ""])
def test_a_method_that_is_none(run, preds, command, name):
    ran = run(command, preds, "-o", "out", "--method", name)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"softargmax: error: --method {name}: there is no such method")
    assert ran.err.endswith(f"there are {', '.join(_arguments._methods())}\n")
    if name.startswith("temp"):
        assert "did you mean `TemperatureScaling`?" in ran.err


def test_warnings_of_a_fit_are_lines(run, tmp_path, overconfident):
    logits, labels = overconfident
    few = np.flatnonzero(labels == 2)[5:]
    np.savez(tmp_path / "p.npz", logits=np.delete(logits, few, axis=0), labels=np.delete(labels, few))
    ran = run("calibrate", "p.npz", "-o", "cal.json", "--method", "VectorScaling")
    assert (ran.code, ran.err.count("\n")) == (0, 1)
    assert ran.err.startswith("softargmax: warning: 1 of 3 classes have fewer than 10 rows")
    np.savez(tmp_path / "p.npz", logits=logits[labels < 2], labels=labels[labels < 2])
    ran = run("report", "p.npz", "-o", "r.html", "--method", "TemperatureScaling")
    assert ran.err.startswith("softargmax: warning: 1 of 3 classes have no row in the calibration set: 2")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<dt>Classes without a calibration row</dt>\n<dd>2</dd>" in page
    assert "1 of 3 classes have no row in the calibration set" in page


def sets(tmp_path, seed, sharper, n=2000):
    """Two sets of predictions of one model; in the first it claims `sharper` times as much, and is as often right."""
    rng = np.random.default_rng(seed)
    for name, scale in (("train.npz", sharper), ("held-out.npz", 1.0)):
        honest = rng.normal(size=(n, 3)) * 2 * scale
        labels = (honest + rng.gumbel(size=honest.shape)).argmax(axis=1)
        np.savez(tmp_path / name, logits=1.5 * honest, labels=labels)


def test_rows_of_the_training_are_told_by_other_rows(run, tmp_path):
    sets(tmp_path, 0, sharper=4.0)
    ran = run("calibrate", "train.npz", "-o", "cal.json", "--check", "held-out.npz", *T)
    assert ran.code == 0
    assert "train.npz may be the rows the network was trained on" in ran.err
    assert ran.err.count("\n") == 1
    with np.load("held-out.npz") as held:
        logits, labels = held["logits"], held["labels"]
    probs = sa.load("cal.json").predict_proba(logits)
    before, after = (sa.evaluate(labels, **scores).nll for scores in ({"logits": logits}, {"probs": probs}))
    assert f"NLL on the 2,000 rows of held-out.npz: {before:.4f} before, {after:.4f} after" in ran.out
    ran = run("calibrate", "held-out.npz", "-o", "cal.json", "--check", "train.npz", *T)  # the right way round
    assert (ran.code, ran.err) == (0, "")


def test_rows_of_the_same_kind_are_not_suspected(run, tmp_path):
    suspected = 0
    for seed in range(20):
        sets(tmp_path, seed, sharper=1.0, n=200)
        ran = run("calibrate", "train.npz", "-o", "cal.json", "--check", "held-out.npz", *T)
        suspected += "may be the rows" in ran.err
    assert suspected == 0  # 3 standard errors are met once in 700 times


def test_a_check_of_another_model_or_without_labels(run, preds, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "two.npz", logits=logits[:, :2], labels=labels % 2)
    np.savez(tmp_path / "names.npz", logits=logits, labels=labels, class_names=np.array(["dog", "cat", "frog"]))
    np.save(tmp_path / "z.npy", logits)
    np.save(tmp_path / "y.npy", labels)
    for words, sentence in (
        ([preds, "--check", "two.npz"], f"--check two.npz has 2 classes, {preds} has 3"),
        ([preds, "--check", "names.npz"], "--check names.npz: its class names are not those of"),
        ([preds, "--check", "nope.npz"], "there is no file nope.npz"),
        (["z.npy", "--logits", "--labels", "y.npy", "--check", "z.npy"], "--check z.npy: a .npy file has no labels"),
        ([preds, "--check", "cal.npz", "-o", "cal.npz"], "-o cal.npz is the file that is read"),
    ):
        (tmp_path / "cal.npz").write_bytes(preds.read_bytes())
        ran = run("calibrate", *words, *([] if "-o" in words else ["-o", "cal.json"]))
        assert (ran.code, ran.out) == (2, "")
        assert sentence in ran.err
        assert not (tmp_path / "cal.json").exists()
    ran = run("calibrate", "z.npy", "--logits", "--labels", "y.npy", "--check", preds, "-o", "cal.json", *T)
    assert (ran.code, ran.err) == (0, "")  # the file of labels is of z.npy alone
