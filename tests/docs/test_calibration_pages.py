"""The pages about calibration: sessions run, figures are those of their script, tables agree with each other and with
what is said of them, and the reference has every method with its parameters and what it fits."""

import doctest
import importlib.util
import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import softargmax as sa
from benchmarks import calibration as benchmark
from softargmax import calibration
from softargmax.calibration._base import LogitCalibrator
from tests.docs import measured

DOCS = Path(__file__).parents[2] / "docs"
SESSIONS = [page for page in sorted(DOCS.glob("*.md")) if "```pycon\n" in page.read_text()]
REFERENCE = (DOCS / "calibrators.md").read_text()
WHICH = (DOCS / "which-method.md").read_text()
METHODS = [name for name in calibration.__all__ if inspect.isclass(getattr(calibration, name))]
LOGIT_METHODS = [name for name in METHODS if issubclass(getattr(calibration, name), LogitCalibrator)]
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


# ---- sessions ----


def session(page):
    """The pycon blocks of a page as one doctest; without those that need a library that is not here."""
    blocks = re.findall(r"^```pycon\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    if importlib.util.find_spec("torch") is None:
        blocks = [block for block in blocks if "torch" not in block]
    return doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, None, None)


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.name)
def test_the_sessions_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for what is saved
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(session(page), out=said.append).failed == 0, "".join(said)
    assert runner.tries > 5


# ---- figures ----


def script():
    spec = importlib.util.spec_from_file_location("make_figures", DOCS / "images" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIGURES = script()


def agree(svg, other):
    """The same drawing: all but the numbers is equal, and those to half a pixel."""
    assert re.split(NUMBER, svg) == re.split(NUMBER, other)
    numbers = [np.array(list(map(float, re.findall(NUMBER, text)))) for text in (svg, other)]
    np.testing.assert_allclose(*numbers, atol=0.5)


@pytest.mark.parametrize("name", FIGURES.FIGURES)
def test_the_figures_are_those_of_their_script(name):
    pages = [page.name for page in DOCS.glob("*.md") if f"](images/{name})" in page.read_text()]
    assert pages, "no page shows it"
    agree((DOCS / "images" / name).read_text(), FIGURES.drawn(name).decode())


def test_the_comparison_of_figures_rejects_another_curve():
    svg = '<path d="M 10.2 20.5 L 30 40" style="stroke: #0067a5"/>'
    agree(svg, svg.replace("10.2", "10.3"))
    for wrong in (svg.replace("20.5", "21.5"), svg.replace("L 30", "C 30"), svg.replace(" L 30 40", "")):
        with pytest.raises(AssertionError):
            agree(svg, wrong)


# ---- what was measured ----


SECTIONS = measured.sections(WHICH)
SMALL, LARGE, HONEST = (measured.rows(SECTIONS[heading]) for heading in measured.SHORT)
BY_SET = {row["set and rows"]: row for row in measured.rows(SECTIONS["Test NLL of each set, nats"])}


def own(summary):
    """Our methods, the least regret first."""
    return [row["method"] for row in summary if row["method"] in METHODS]


def test_the_reference_says_what_was_measured():
    assert measured.with_sentences(REFERENCE, WHICH) == REFERENCE
    assert measured.with_sentences(REFERENCE, WHICH.replace(SMALL[0]["mean regret"], "+9.9999")) != REFERENCE
    items = re.findall(r"^## (.+)\n(?:(?!^## ).*\n)*?- Measured: (?=up to)", REFERENCE, flags=re.MULTILINE)
    assert sorted(items) == sorted(own(SMALL))


def test_what_is_advised_is_what_was_measured():
    for summary in (SMALL, LARGE):
        regret = [float(row["mean regret"]) for row in summary]
        assert regret == sorted(regret)
        assert summary[0]["method"] == "AutoCalibrator"
        assert summary[0]["worse than raw"] == "0%"
    assert own(SMALL)[1] == "StructuredMatrixScaling"
    assert own(LARGE).index("VectorScaling") < own(LARGE).index("StructuredVectorScaling")
    (bins,) = (row for row in LARGE if row["method"] == "HistogramBinning")
    assert -0.55 < float(bins["worst Δ accuracy"]) < -0.45
    (auto,) = (row for row in HONEST if row["method"] == "AutoCalibrator")
    assert 0 < float(auto["mean regret"]) < 0.005  # nothing to mend: it costs a little


def test_methods_that_keep_the_ranking_kept_the_accuracy():
    kept = {name for name in LOGIT_METHODS if getattr(calibration, name).preserves_argmax}
    for summary in (SMALL, LARGE, HONEST):
        assert {row["method"] for row in summary if row["worst Δ accuracy"] == "+0.0000"} >= kept


def test_how_many_rows_a_matrix_needs():
    few, many = ({k: float(v) for k, v in BY_SET[f"fmnist_mlp6k {n}"].items() if v[0].isdigit()} for n in (500, 2000))
    assert few["MatrixScaling"] > 2 * few["identity"]
    assert many["MatrixScaling"] < many["identity"]
    assert abs(few["TemperatureScaling"] - many["TemperatureScaling"]) < 0.005
    for numbers in (few, many):
        for name in ("StructuredMatrixScaling", "StructuredVectorScaling"):
            assert numbers[name] < numbers["TemperatureScaling"] + 0.005


def result(method, seed, nll):
    return benchmark.Result(
        "digits_mlp", 400, seed, method, 10, nll=nll, brier=0.2, accuracy=0.9, ece=0.01, seconds=0.001
    )


def test_tables_are_put_between_the_markers():
    results = [result("identity", seed, 0.5) for seed in (0, 1)]
    results += [result("AutoCalibrator", seed, 0.2 + seed / 10) for seed in (0, 1)]
    page = benchmark.tables(results)
    made = measured.between_the_markers(f"head\n{measured.START}old\n{measured.END}foot\n", measured.measured(page))
    assert made.startswith("head\n")
    assert made.endswith("foot\n")
    assert "old" not in made
    of = measured.sections(made)
    assert measured.rows(of["Test NLL of each set, nats"]) == [
        {"set and rows": "digits_mlp 400", "identity": "0.5000", "AutoCalibrator": "0.2500"}
    ]
    assert [row["mean regret"] for row in measured.rows(of["At most 10 classes"])] == ["-0.2500", "+0.2500"]
    said = " ".join(measured.with_sentences("## AutoCalibrator\n\n- Measured: –\n- Cost: small\n", made).split())
    assert "regret -0.2500 (worst -0.2000)" in said
    assert said.endswith("of 2 splits, a fit 0.001 s. - Cost: small")


# ---- the reference ----

PARTS = re.split(r"^## (.+)\n", REFERENCE, flags=re.MULTILINE)
ABOUT = dict(zip(PARTS[1::2], PARTS[2::2], strict=True))
SHARED = ABOUT.pop("What they share")
COMMON = {"classes_", "n_features_in_", "absent_classes_", "n_lifted_", "nll_before_", "nll_after_"}


def item(name, what):
    """The words of one item of a section."""
    return re.search(rf"^- {what}: (.*(?:\n  .*)*)", ABOUT[name], flags=re.MULTILINE)[1]


def names_in(text):
    """Names in backticks that are no values."""
    return re.findall(r"`([a-z_][a-z_0-9]*)`", text)


def fitted(name):
    """The method, fitted to rows of three classes."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((400, 3))
    labels = (logits / 2 + rng.gumbel(size=(400, 3))).argmax(-1)
    method = getattr(calibration, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.NllRisesWarning)
        if name == "CalibratedClassifier":
            return method(LogisticRegression()).fit(logits, labels)
        return method().fit(logits, labels)


def test_every_name_has_its_section_and_no_other():
    assert list(ABOUT) == sorted(calibration.__all__)


@pytest.mark.parametrize("name", METHODS)
def test_sections_have_all_items(name):
    items = re.findall(r"^- (\w+): \S", ABOUT[name], flags=re.MULTILINE)
    wanted = ["Parameters", "Fitted", "Helps", "Hurts", "Measured", "Cost", "Source"]
    assert items == (wanted if name in own(SMALL) else [each for each in wanted if each != "Measured"])
    assert re.search(r"\(\d{4}\),\s+\*", item(name, "Source"))  # author (year), *title*
    assert re.search(r"^    \S", ABOUT[name], flags=re.MULTILINE)  # the formula


@pytest.mark.parametrize("name", METHODS)
def test_parameters_are_those_of_the_method(name):
    wanted = set(inspect.signature(getattr(calibration, name)).parameters)
    said = set(names_in(item(name, "Parameters")))
    assert wanted <= said
    assert said - wanted - {"fit"} == ({"groups"} if name == "AutoCalibrator" else set())


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_to_be_fitted_is_there_and_all_of_it(name):
    made = fitted(name)
    there = {each for each in vars(made) if each.endswith("_") and not each.startswith("_")}
    said = {each for each in names_in(item(name, "Fitted")) if each.endswith("_")}
    assert said <= there
    common = COMMON if name in LOGIT_METHODS else set()
    assert common <= there
    assert there - common == said - common
    assert common <= set(names_in(SHARED))


def test_the_table_of_all_says_who_keeps_the_first_choice():
    keeps = {}
    for row in measured.rows(SHARED):
        keeps |= dict.fromkeys(re.findall(r"`(\w+)`", row["method"]), row["keeps the first choice"] == "yes")
    assert keeps == {name: getattr(calibration, name).preserves_argmax for name in LOGIT_METHODS}
