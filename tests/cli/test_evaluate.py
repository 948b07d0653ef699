import json

import numpy as np
import pytest

import softargmax as sa
from softargmax.cli.evaluate import _condition


def test_json_is_all_there_is_on_stdout(run, preds, overconfident):
    ran = run("evaluate", preds, "--json", "--bins", "10")
    assert (ran.code, ran.err) == (0, "")
    logits, labels = overconfident
    assert json.loads(ran.out) == json.loads(sa.evaluate(labels, logits=logits, n_bins=10).to_json())


def test_probabilities_are_evaluated_as_such(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", probs=sa.softmax(logits), labels=labels)
    ran = run("evaluate", "p.npz", "--json")
    assert json.loads(ran.out) == json.loads(sa.evaluate(labels, probs=sa.softmax(logits)).to_json())


def test_the_table_holds_the_numbers(run, preds, overconfident):
    ran = run("evaluate", preds)
    assert (ran.code, ran.err) == (0, "")
    logits, labels = overconfident
    evaluation = sa.evaluate(labels, logits=logits)
    for value in (evaluation.ece, evaluation.nll, *evaluation.interval("ece")):
        assert f"{value:.4f}" in ran.out


def test_what_a_calibrator_makes_of_them(run, preds, overconfident):
    logits, labels = overconfident
    calibrator = sa.TemperatureScaling().fit(logits, labels)
    calibrator.save("cal.json")
    ran = run("evaluate", preds, "--calibrator", "cal.json", "--json", "--bins", "10", "--fail-if", "ece_lower > 0")
    assert (ran.code, ran.err) == (0, "")
    after = sa.evaluate(labels, logits=calibrator.predict_log_proba(logits), n_bins=10)
    assert json.loads(ran.out) == json.loads(after.to_json())
    ran = run("evaluate", preds, "--calibrator", "cal.json", "--bins", "10")
    before = sa.evaluate(labels, logits=logits, n_bins=10)
    for value in (before.ece, after.ece, before.nll, after.nll):
        assert f"{value:.4f}" in ran.out
    assert f"{calibrator.temperature_:.4g} (" in ran.out
    np.savez("four.npz", logits=np.zeros((3, 4)), labels=[0, 1, 2])
    assert (
        "cal.json calibrates 3 classes, four.npz has 4" in run("evaluate", "four.npz", "--calibrator", "cal.json").err
    )


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("ece_upper > 0.05", 1),
        ("ece_upper<0.05", 0),
        (" n == 400 ", 1),
        ("n != 400", 0),
        ("n >= 400", 1),
        ("n<=399.5", 0),
        ("nll > -inf", 1),
        ("accuracy > 1e0", 0),
    ],
)
def test_conditions(run, preds, condition, code):
    ran = run("evaluate", preds, "--json", "--fail-if", condition)
    assert ran.code == code
    assert json.loads(ran.out)["n"] == 400
    assert ran.err == "" if code == 0 else ran.err.startswith(f"softargmax: check failed: {condition.strip()} (")


def test_conditions_add_up(run, preds):
    conditions = ["--fail-if", "n > 1", "--fail-if", "n > 1000", "--fail-if", "ece > 0"]
    ran = run("evaluate", preds, *conditions)
    assert ran.code == 1
    assert [line.split(": ")[2].split(" (")[0] for line in ran.err.splitlines()] == ["n > 1", "ece > 0"]


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("ece_uper > 0.05", "there is no number `ece_uper`; there are n, "),
        ("ece_uper > 0.05", "did you mean ece_upper?"),
        ("ECE_Upper > 0.05", "did you mean ece_upper?"),
        ("ece_upper > 5", "ece_upper is one of the fractions: write 0.05 for 5%"),
        ("accuracy < 90", "write 0.05 for 5%"),
        ("ece_null > -1", "write 0.05 for 5%"),
        ("top5 > 0.5", "there is no number `top5`"),  # three classes
        ("confusion > 1", "there is no number `confusion`"),
        ("ece", "wanted NAME OP NUMBER with OP one of < <= > >= == !="),
        ("ece = 0.05", "wanted NAME OP NUMBER"),
        ("ece > much", "wanted NAME OP NUMBER"),
        ("ece > nan", "wanted NAME OP NUMBER"),
        ("0.05 < ece", "wanted NAME OP NUMBER"),
        ("ece > 0.1 > 0.2", "wanted NAME OP NUMBER"),
        ("", "wanted NAME OP NUMBER"),
    ],
)
def test_conditions_that_say_nothing(run, preds, condition, sentence):
    ran = run("evaluate", preds, "--fail-if", "n > 1", "--fail-if", condition)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f'softargmax: error: --fail-if "{condition}": ')
    assert sentence in ran.err


def test_an_infinite_number_is_a_number_and_one_not_defined_is_an_error(run, tmp_path):
    np.savez(tmp_path / "p.npz", logits=np.array([[1.0, -np.inf]] * 3), labels=np.array([1, 0, 1]))
    ran = run("evaluate", "p.npz", "--fail-if", "nll > 100")
    assert (ran.code, "nll is inf" in ran.err) == (1, True)
    _, _, holds = _condition("ece > 0.5")
    with pytest.raises(ValueError, match="ece is not defined for these predictions"):
        holds({"ece": float("nan")})


@pytest.mark.parametrize("bins", ["0", "-1", "ten", "10001", "99999999999999999999"])
def test_bins_that_are_none(run, preds, bins):
    ran = run("evaluate", preds, "--bins", bins)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    if bins != "ten":
        assert ran.err == f"softargmax: error: --bins {bins}: wanted a number of bins from 1 to 10,000\n"
