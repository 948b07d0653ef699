import numpy as np

import softargmax as sa
from softargmax.data import cifar10_resnet20


def test_the_demo_measures_rows_it_was_not_fitted_on(run, tmp_path):
    ran = run("demo")
    assert (ran.code, ran.err) == (0, "")
    found = cifar10_resnet20()
    order = np.random.default_rng(0).permutation(10_000)
    fitted, rest = order[:5000], order[5000:]
    calibrator = sa.TemperatureScaling().fit(found.scores[fitted], found.labels[fitted])
    before = sa.evaluate(found.labels[rest], logits=found.scores[rest])
    after = sa.evaluate(found.labels[rest], probs=calibrator.predict_proba(found.scores[rest]))
    for value in (f"{before.ece:.4f}", f"{after.ece:.4f}", f"{after.nll:.4f}", f"{calibrator.temperature_:.4g}"):
        assert value in ran.out
    assert after.ece < before.ece / 5
    page = tmp_path / "softargmax-demo" / "report.html"
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert f"open it in a browser: {page.as_uri()}" in ran.out


def test_the_folder_may_be_another_and_exist(run, tmp_path):
    for _ in range(2):
        assert run("demo", "-o", "a/b").code == 0
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["report.html"]
