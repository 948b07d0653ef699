import pytest

from softargmax.cli import demo
from softargmax.training import read_run
from tests.cases.images import few_images

pytest.importorskip("torch")
start = pytest.importorskip("softargmax.training.start")


def test_it_trains_both_networks_once_and_ends_with_one_table_and_one_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "read_images", few_images)
    monkeypatch.setattr(demo, "IMAGE_RUNS", (("cnn-max-pooling", "max", 2), ("cnn-no-pooling", None, 1)))
    ran = run("demo", "--images", "-o", "shown")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("epoch ") == 3
    table = ran.out[ran.out.rindex("epoch ") :]
    for said in ("with max pooling", "without pooling", "421,642", "6,442,762", "Accuracy", "ECE", "Brier", "NLL"):
        assert said in table
    page = (tmp_path / "shown" / "images.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "wrote shown/images.html; open it in a browser: file://" in ran.out
    for name in ("cnn-max-pooling", "cnn-no-pooling"):
        assert read_run(tmp_path / "shown" / name).status == "complete"
    again = run("demo", "--images", "-o", "shown")
    assert again.code == 0
    assert "calibration NLL" not in again.out  # nothing is trained twice
    assert (tmp_path / "shown" / "images.html").read_text() == page


def test_a_report_of_two_runs_side_by_side(run, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "read_images", few_images)
    for name, pooling in (("one", "max"), ("two", "none")):
        assert run("train", "fashion-mnist-mini", "--pooling", pooling, "--epochs", "1", "-o", name).code == 0
    ran = run("report", "one", "--beside", "two", "-o", "both.html")
    assert (ran.code, ran.err) == (0, "")
    page = (tmp_path / "both.html").read_text()
    assert "cnn with max pooling" in page
    assert "cnn without pooling" in page
    assert run("report", "one", "-o", "one.html").code == 0
    assert run("report", "one", "--calibrator", "c.json", "-o", "x.html").code == 2
    assert run("report", "one/test.npz", "--beside", "two", "-o", "x.html").code == 2
