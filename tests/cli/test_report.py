import numpy as np
import pytest

import softargmax as sa


def test_one_half_is_fitted_and_the_other_measured(run, preds, tmp_path):
    ran = run("report", preds, "-o", "r.html")
    assert (ran.code, ran.err) == (0, "")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "200 rows" in page
    assert ran.out.startswith("wrote r.html; open it in a browser: file:///")
    assert "after calibration" in ran.out


def test_a_calibrator_is_measured_on_every_row(run, preds, tmp_path, overconfident):
    logits, labels = overconfident
    sa.TemperatureScaling().fit(logits, labels).save("cal.json")
    assert run("report", preds, "--calibrator", "cal.json", "-o", "r.html").code == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "400 rows" in page
    assert "frog" in page


def test_same_predictions_same_page(run, preds, tmp_path):
    run("report", preds, "-o", "a.html")
    run("report", preds, "-o", "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("n", "labels", "note"),
    [(19, [0, 1], "19 rows are too few"), (1, [0], "1 row are too few"), (40, [1], "on one half of the rows, ")],
)
def test_what_cannot_be_calibrated_is_shown_as_it_is_and_why(run, tmp_path, n, labels, note):
    logits = np.random.default_rng(0).normal(size=(n, 3))
    np.savez(tmp_path / "p.npz", logits=logits, labels=np.resize(labels, n))
    ran = run("report", "p.npz", "-o", "r.html")
    assert ran.code == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    assert f"Not calibrated, measured as they came: {note}" in page
    assert "after calibration" not in ran.out
    assert f"Note: Not calibrated, measured as they came: {note}" in ran.out


def test_warnings_are_on_the_page_too(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=sa.softmax(logits), labels=labels)
    ran = run("report", "p.npz", "-o", "r.html")
    assert "look like probabilities" not in ran.out  # once on the terminal: it is a line on stderr
    assert (tmp_path / "r.html").read_text("utf-8").count("the logits look like probabilities") == 1


def test_a_calibrator_of_another_model(run, tmp_path, preds):
    np.savez(tmp_path / "four.npz", logits=np.zeros((3, 4)), labels=np.array([0, 1, 2]))
    run("calibrate", preds, "-o", "cal.json")
    ran = run("report", "four.npz", "--calibrator", "cal.json", "-o", "r.html")
    assert (ran.code, ran.out) == (2, "")
    assert "cal.json calibrates 3 classes, four.npz has 4" in ran.err
    ran = run("report", preds, "--calibrator", "cal.json", "-o", "cal.json")
    assert ran.code == 2
    assert "-o cal.json is the file that is read" in ran.err
