from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from softargmax import softmax
from softargmax.data import Predictions
from softargmax.metrics import evaluate
from softargmax.report import headline, metric_rows, page, run_story, runs_page
from softargmax.report.runs import embedded, runs_table
from softargmax.training import Run
from tests.report.test_html import Page
from tests.report.test_training import ODD, make_run, without_convolutions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("other"), seed=1, pooling=None)


@pytest.fixture(scope="module")
def both(run: Run, other: Run) -> str:
    return runs_page([run, other])


def test_the_story_is_of_the_test_part_before_and_after(run: Run) -> None:
    story = run_story(run)
    t = run.calibrator.temperature_
    assert story.before.nll == evaluate(run.test.labels, logits=run.test.scores).nll
    assert story.after is not None
    assert story.after.nll == pytest.approx(evaluate(run.test.labels, logits=run.test.scores / t).nll, rel=1e-12)
    assert (story.temperature, story.temperature_interval) == (t, run.calibrator.interval())
    assert (story.n_fitted, story.held_out, story.class_names) == (150, True, ODD)


def test_the_page_of_one_run_opens_with_its_sentence(run: Run) -> None:
    text = runs_page([run])
    assert text.startswith("<!DOCTYPE html>\n")
    assert ("h1", headline(run_story(run))) in Page(text).texts


def test_the_page_is_whole_and_semantic(both: str) -> None:
    parsed = Page(both)
    names = [tag for tag, _ in parsed.tags]
    assert names.count("h1") == names.count("main") == 1
    assert names.count("section") == names.count("h2") == 8
    assert names.count("svg") == 1 + 2 * 5  # curves; mistakes, reliability, confusion, filters and maps of each
    assert names.count("img") == 2 * 12
    assert all(attrs.get("alt") for tag, attrs in parsed.tags if tag == "img")
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for tag, attrs in parsed.tags if tag == "svg")
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(set(ids)) == len(ids) > 4
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', both))
    assert used == set(ids)
    boxes = [attrs["aria-label"] for _, attrs in parsed.tags if attrs.get("role") == "region"]
    assert len(set(boxes)) == len(boxes)


def test_the_page_asks_nothing_of_the_network(both: str) -> None:
    assert "://" not in both
    assert not re.search(r"<link|<iframe|@import|eval\(|Function\(|fetch|XMLHttp|\bimport\b|innerHTML", both)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'\bsrc="([^"]*)"', both))
    assert all(re.match("#|data:image/png", reference) for reference in re.findall(r'href="([^"]*)"', both))


def test_every_number_of_both_runs_is_in_the_table(both: str, run: Run, other: Run) -> None:
    cells = Page(both).cells() + [text for tag, text in Page(both).texts if tag == "span"]
    for each in (run, other):
        for row in metric_rows(run_story(each)):
            assert row.name in cells
            first, last = row.estimates
            assert first.text in cells
            assert first.text == last.text or f"→\u00a0{last.text}" in cells
    assert cells.count("1,234") == 2
    assert cells.count("6 s") == 2


def test_two_runs_are_compared_on_the_rows_that_one_alone_has_right(both: str, run: Run, other: Run) -> None:
    right = [r.test.scores.argmax(axis=1) == r.test.labels for r in (run, other)]
    alone = [int((right[0] > right[1]).sum()), int((right[1] > right[0]).sum())]
    assert f"the first alone has {alone[0]} right, the second alone {alone[1]} (sign test: p = " in both
    assert "cannot be told apart" in both
    perfect = Predictions(9 * np.eye(3)[run.test.labels], "logits", run.test.labels, ODD)
    better = runs_page([run, dataclasses.replace(other, test=perfect)])
    n = int((~right[0]).sum())
    p = 2 * 0.5**n
    assert f"the first alone has 0 right, the second alone {n} (sign test: p = {p:.2g}): cnn without pooling" in better
    assert "is better here, by more than chance" in better


def test_runs_of_other_data_are_not_compared(run: Run, other: Run) -> None:
    text = runs_page([run, dataclasses.replace(other, data_sha256="1" * 64)])
    assert "do not compare the two networks" in text
    assert "sign test" not in text


def test_an_interrupted_run_says_so(run: Run) -> None:
    stopped = dataclasses.replace(run, status="interrupted", history=run.history[:1])
    assert "training was interrupted after 1 of 3 epochs" in runs_page([stopped])
    assert "interrupted" not in runs_page([run])


def test_a_run_stopped_at_once_and_one_without_convolutions_have_pages(run: Run) -> None:
    text = runs_page([dataclasses.replace(without_convolutions(run), history=(), status="interrupted")])
    Page(text)
    assert "What it sees" not in text
    assert "<h2>Training</h2>" not in text
    assert "after 0 of 8 epochs" in text


def test_runs_of_other_classes_stand_side_by_side(run: Run, tmp_path: Path) -> None:
    wide = make_run(tmp_path, names=tuple(f"class {k}" for k in range(12)))
    text = runs_page([run, wide])
    Page(text)
    assert "Top-5 accuracy" in text  # which the other has not
    assert "7 more" in text
    assert "<td>–</td>" in text


def test_what_users_write_is_text(run: Run, tmp_path: Path) -> None:
    evil = ("</script><script>alert(1)</script>", '" onload="alert(2)', '\x00\ud800 ]]> &amp; id="x" url(#y)')
    text = runs_page([make_run(tmp_path, names=evil), run])
    parsed = Page(text)
    assert text.encode("utf-8")
    assert [tag for tag, _ in parsed.tags].count("script") == 3  # two of numbers, one program
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    assert evil[0] in parsed.cells() + [said for _, said in parsed.texts]
    assert any("url(#y)" in (attrs.get("aria-label") or "") for _, attrs in parsed.tags)


def test_numbers_for_the_slider_are_the_logits_themselves(run: Run) -> None:
    text = runs_page([run])
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    found = json.loads(data)
    assert found["fitted"] == run.calibrator.temperature_
    logits = np.array([image["logits"] for image in found["images"]])
    np.testing.assert_array_equal(logits, run.test.scores[run.examples.rows[:12]])
    shares = [float(share) for share in re.findall(r'--share: ([^"]+)"', text.partition("<h4>")[0])]
    order = [image["shown"] for image in found["images"]]
    expected = np.take_along_axis(softmax(logits, temperature=found["fitted"]), np.array(order), axis=1)
    np.testing.assert_array_equal(np.reshape(shares, (12, 3)), expected)


def test_rows_without_a_picture_stand_at_the_fitted_temperature(run: Run) -> None:
    text = runs_page([run])
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    found, t = json.loads(data), run.calibrator.temperature_
    simple, middle, least = found["rows"]
    assert simple == {"logits": [2, 1, 0.1], "shown": [0, 1, 2]}
    sure = [max(np.exp(z / t) / np.exp(z / t).sum()) for z in run.test.scores]
    (row,) = np.flatnonzero((run.test.scores == least["logits"]).all(axis=1))
    assert sure[row] == min(sure)
    (row,) = np.flatnonzero((run.test.scores == middle["logits"]).all(axis=1))
    assert sum(other > sure[row] for other in sure) == 149  # of 300
    cards = re.findall(r'<li class="card"><p>(.*?)</p><ul class="bars">(.*?)</ul>', text.partition("<h4>")[2])
    assert len(cards) == 3
    for (_, bars), given in zip(cards, found["rows"], strict=True):
        shares = [float(share) for share in re.findall(r'--share: ([^"]+)"', bars)]
        weights = np.exp(np.array(given["logits"])[given["shown"]] / t)
        np.testing.assert_allclose(shares, weights / weights.sum(), rtol=1e-12)
    assert "scores 2, 1, 0.1" in cards[0][0]
    assert [bar.count("(true)") for _, bar in cards] == [0, 1, 1]
    assert ("h4", "Rows of scores, without a picture") in Page(text).texts
    assert {("span", "A: 2"), ("span", "B: 1"), ("span", "C: 0.1")} <= set(Page(text).texts)


def test_the_pictures_are_those_of_the_run(run: Run) -> None:
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)"', runs_page([run]))
    for source, expected in zip(sources, run.examples.images[:12], strict=True):
        with Image.open(io.BytesIO(base64.b64decode(source))) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)


def test_embedded_numbers_cannot_end_the_script() -> None:
    nasty = {"a": "</script><!--<script>"}
    assert "<" not in embedded(nasty)
    assert json.loads(embedded(nasty)) == nasty


def test_impossible_classes_have_no_share(run: Run) -> None:
    scores = run.test.scores.copy()
    scores[run.examples.rows[0], (run.test.labels[run.examples.rows[0]] + 1) % 3] = -np.inf
    text = runs_page([dataclasses.replace(run, test=dataclasses.replace(run.test, scores=scores))])
    assert "null" in text
    assert '<li style="--share: 0.0">' in text


def test_same_runs_same_bytes(run: Run, other: Run, both: str) -> None:
    assert runs_page([run, other]) == both


def test_the_terminal_table_has_both_runs(run: Run, other: Run) -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(runs_table([run, other]))
    said = console.export_text()
    for word in ("cnn with max pooling", "cnn without pooling", "1,234", "Accuracy", "ECE", "Temperature", "→"):
        assert word in said
    assert metric_rows(run_story(other))[-1].estimates[-1].text in said


def test_other_numbers_of_runs_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="one, or two to compare; got 3"):
        runs_page([run] * 3)


def test_a_page_of_predictions_carries_nothing_of_runs(run: Run) -> None:
    text = page(run_story(run))
    assert "<script" not in text
    assert "tempered" not in text


def test_importing_the_room_stays_cheap() -> None:
    program = """
import sys
import softargmax.report
assert not {"matplotlib", "rich", "torch", "PIL", "scipy", "softargmax.training"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
