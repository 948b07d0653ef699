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

import softargmax as sa
from softargmax import calibration
from softargmax.calibration._base import LogitCalibrator
from tests.docs import measured

DOCS = Path(__file__).parents[2] / "docs"
SESSIONS = [page for page in sorted(DOCS.glob("*.md")) if "```pycon\n" in page.read_text()]
REFERENCE = ""
WHICH = ""
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
