import numpy as np
import pytest

import softargmax as sa
from softargmax.data import read_predictions


@pytest.fixture
def cal(run, preds):
    assert run("calibrate", preds, "-o", "cal.json", "--method", "TemperatureScaling").code == 0
    return "cal.json"


@pytest.mark.parametrize("out", ["out.npz", "out.npy", "out.csv", "out.parquet", "out.jsonl"])
def test_the_probabilities_are_those_of_the_library(run, preds, cal, overconfident, out):
    logits, labels = overconfident
    ran = run("apply", cal, preds, "-o", out)
    assert (ran.code, ran.err) == (0, "")
    assert f"wrote {out}: probabilities of 400 rows over 3 classes" in ran.out
    found = read_predictions(out, kind="probs", need_labels=out != "out.npy")
    np.testing.assert_array_equal(found.scores, sa.TemperatureScaling().fit(logits, labels).predict_proba(logits))
    if out != "out.npy":
        np.testing.assert_array_equal(found.labels, labels)
        assert found.class_names == ("cat", "dog", "frog")


def test_labels_are_not_needed(run, cal, tmp_path, overconfident):
    np.save(tmp_path / "new.npy", overconfident[0].astype("f4"))
    assert run("apply", cal, "new.npy", "--logits", "-o", "out.npz").code == 0
    with np.load("out.npz") as out:
        assert out.files == ["probs"]
        assert out["probs"].dtype == np.float32


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
def test_batches_are_not_seen_in_the_result(run, cal, tmp_path, overconfident, kind, monkeypatch):
    logits, _ = overconfident
    scores = {"logits": logits, "log_probs": sa.log_softmax(logits), "probs": sa.softmax(logits)}[kind]
    np.savez(tmp_path / "p.npz", **{kind: scores.astype("f2" if kind == "logits" else "f8")})
    run("apply", cal, "p.npz", "-o", "one.npy")
    monkeypatch.setattr("softargmax.data.predictions._BATCH_ELEMENTS", 100)
    run("apply", cal, "p.npz", "-o", "many.npy")
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "many.npy").read_bytes()


def test_what_is_applied_can_be_evaluated(run, preds, cal):
    run("apply", cal, preds, "-o", "out.csv")
    assert run("evaluate", "out.csv", "--probs", "--fail-if", "ece_lower > 0").code == 0
    assert run("evaluate", preds, "--fail-if", "ece_lower > 0").code == 1


def wrong_classes(tmp_path):
    np.savez(tmp_path / "four.npz", logits=np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cal.json", "four.npz", "-o", "out.npz"], "cal.json calibrates 3 classes, four.npz has 4"),
        (["cal.json", "preds.npz", "-o", "preds.npz"], "-o preds.npz is the file that is read"),
        (["cal.npz", "preds.npz", "-o", "cal.npz"], "-o cal.npz is the file that is read"),
        (["cal.json", "preds.npz", "-o", "out.txt"], "cannot write out.txt: the extension says the format"),
        (["cal.json", "preds.npz", "-o", "/proc/nope.npz"], "cannot write /proc/nope.npz"),
        (["nope.json", "preds.npz", "-o", "out.npz"], "nope.json"),
        (["preds.npz", "preds.npz", "-o", "out.npz"], "preds.npz"),
        (["cut.json", "preds.npz", "-o", "out.npz"], "cut.json"),
        (["empty.json", "preds.npz", "-o", "out.npz"], "empty.json"),
        (["list.json", "preds.npz", "-o", "out.npz"], "list.json"),
        (["folder", "preds.npz", "-o", "out.npz"], "folder is not a run: it has no run.json"),
        (["folder", "new.csv", "-o", "out.npz"], "folder is not a run: it has no run.json"),
        (["nope", "new.csv", "-o", "out.csv"], "there is no file or folder nope; give what softargmax calibrate or"),
        (["nope.json", "new.csv", "-o", "out.csv"], "there is no file or folder nope.json"),
    ],
)
def test_what_cannot_be_applied(run, preds, cal, tmp_path, words, sentence):
    wrong_classes(tmp_path)
    whole = (tmp_path / cal).read_text()
    (tmp_path / "cal.npz").write_text(whole)
    (tmp_path / "cut.json").write_text(whole[: len(whole) // 2])
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "folder").mkdir()
    (tmp_path / "new.csv").write_text("a,b\n1,2\n")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    ran = run("apply", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("softargmax: error: ")
    assert ran.err.count("\n") == 1
    assert sentence in ran.err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
