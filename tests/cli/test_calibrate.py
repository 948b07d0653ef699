import json
import re

import numpy as np
import pytest

import softargmax as sa
from softargmax.cli.calibrate import in_words


def test_what_calibrate_prints_and_writes(run, preds, overconfident):
    ran = run("calibrate", preds, "-o", "cal.json")
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
        assert run("calibrate", *words, "-o", "cal.json").code == 0
        assert sa.load("cal.json").temperature_ == sa.TemperatureScaling().fit(logits, labels).temperature_


def test_probabilities_and_log_probabilities_give_the_temperature_of_their_logits(run, tmp_path, overconfident):
    logits, labels = overconfident
    wanted = sa.TemperatureScaling().fit(logits, labels).temperature_
    for kind, scores in (("probs", sa.softmax(logits)), ("log_probs", sa.log_softmax(logits))):
        np.savez(tmp_path / "p.npz", labels=labels, **{kind: scores})
        assert run("calibrate", "p.npz", "-o", "cal.json").code == 0
        assert sa.load("cal.json").temperature_ == pytest.approx(wanted, rel=1e-9)


def test_logits_that_look_like_probabilities_are_told_once_and_taken_as_logits(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=sa.softmax(logits), labels=labels)
    for words in (["calibrate", "p.npz", "-o", "cal.json"], ["evaluate", "p.npz"], ["report", "p.npz", "-o", "r.html"]):
        ran = run(*words)
        assert ran.code == 0
        assert ran.err.startswith("softargmax: warning: the logits look like probabilities")
        assert ran.err.count("\n") == 1
    with pytest.warns(sa._checks.LikelyProbabilitiesWarning):
        fitted = sa.TemperatureScaling().fit(sa.softmax(logits), labels)
    assert sa.load("cal.json").temperature_ == fitted.temperature_


def test_rows_that_do_not_determine_a_temperature_are_told(run, tmp_path):
    np.savez(tmp_path / "p.npz", logits=np.array([[3.0, 0.0], [0.0, 3.0]] * 20), labels=np.array([0, 1] * 20))
    ran = run("calibrate", "p.npz", "-o", "cal.json")
    assert ran.code == 0
    assert ran.err.startswith("softargmax: warning: every label is its row's strict maximum")
    assert "these rows do not determine it" in ran.out


def test_it_does_not_write_over_what_it_reads(run, tmp_path, preds):
    content = preds.read_bytes()
    (tmp_path / "link.npz").symlink_to(preds)
    for out in ("preds.npz", "link.npz", "../" + tmp_path.name + "/preds.npz"):
        ran = run("calibrate", preds, "-o", out)
        assert ran.code == 2
        assert f"-o {out} is the file that is read" in ran.err
    assert preds.read_bytes() == content


def test_the_file_is_json(run, preds, tmp_path):
    run("calibrate", preds, "-o", "cal.json")
    assert json.loads((tmp_path / "cal.json").read_text())["method"] == "TemperatureScaling"


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
    ran = run("calibrate", "p.npz", "-o", "cal.json")
    assert ran.code == 0
    assert "rows: infinite before, " in ran.out
    assert note in ran.out
    ran = run("report", "p.npz", "--calibrator", "cal.json", "-o", "r.html")
    assert note in ran.out
    assert note.removeprefix("Note: ") in (tmp_path / "r.html").read_text("utf-8")


def test_a_huge_nll_is_a_short_number(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=1e200 * logits, labels=labels)
    ran = run("calibrate", "p.npz", "-o", "cal.json")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) < 120
    assert re.search(r"rows: \d\.\d+e\+\d+ before, ", ran.out)


def test_float16_is_measured_alike_on_both_ways(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=logits.astype("f2"), labels=labels)
    ran = run("calibrate", "p.npz", "-o", "cal.json")
    (after,) = re.search(r"before, (\S+) after", ran.out).groups()
    assert run("apply", "cal.json", "p.npz", "-o", "out.npz").code == 0
    assert round(json.loads(run("evaluate", "out.npz", "--json").out)["nll"], 4) == float(after)
