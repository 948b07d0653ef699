"""The pages under docs: examples run, edge tables are true, every op has its page, every link leads somewhere."""

import doctest
import importlib
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest

import softargmax as sa
from softargmax import ops

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OP_PAGES = sorted((DOCS / "ops").glob("*.md"))
SECTIONS = ["Formula", "Shapes and dtypes", "Edges", "Gradient", "Source", "Example"]
PAGE_OF = {"cross_entropy_and_grad": "cross_entropy", "log_sigmoid": "sigmoid"}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def named(path):
    return path.relative_to(DOCS).as_posix()


EXAMPLES = [
    pytest.param(block, id=f"{named(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"))
    if ">>>" in block
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_the_examples_run(block):
    for library in ("torch", "jax", "tensorflow", "keras"):
        if re.search(rf"^>>> import .*\b{library}\b", block, flags=re.MULTILINE):
            pytest.importorskip(library)
    example = doctest.DocTestParser().get_doctest(block, {}, "example", None, None)
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


def without_indents(text):
    return "\n".join(line.strip() for line in text.splitlines())


@pytest.mark.parametrize("number", range(len(blocks(DOCS / "kernels.md", "python"))))
def test_the_excerpts_of_kernels_are_the_code(number):
    source = ROOT / "src" / "softargmax"
    files = [*(source / "kernels").glob("*.py"), source / "ops" / "softmax.py"]
    texts = [without_indents(path.read_text()) for path in files]
    for excerpt in re.split(r"^ *\.\.\.\n", blocks(DOCS / "kernels.md", "python")[number], flags=re.MULTILINE):
        assert any(without_indents(excerpt) in text for text in texts), excerpt


def edges(page):
    text = page.read_text()
    start = text.index("| what | call | gives |")
    for line in text[start:].split("\n\n")[0].splitlines()[2:]:
        what, call, gives = re.fullmatch(r"\| (.+?) \| `(.+?)` \| `(.+?)` \|", line).groups()
        yield pytest.param(call, gives, id=f"{page.stem}: {what}")


WORDS = {"np": np, "inf": math.inf, "nan": math.nan, **{name: getattr(ops, name) for name in ops.__all__}}


def agree(value, wanted):
    if isinstance(wanted, tuple) and isinstance(value, tuple):
        assert len(value) == len(wanted)
        for one, other in zip(value, wanted, strict=True):
            agree(one, other)
        return
    assert np.shape(value) == np.shape(wanted)
    np.testing.assert_allclose(value, wanted, rtol=5e-5, atol=0)  # the page has five digits


@pytest.mark.parametrize(("call", "gives"), [edge for page in OP_PAGES for edge in edges(page)])
def test_the_edge_tables_are_true(call, gives):
    wanted = eval(gives, WORDS)
    if isinstance(wanted, type):
        with pytest.raises(wanted):
            eval(call, WORDS)
    else:
        agree(eval(call, WORDS), wanted)


def test_the_check_of_edges_rejects_what_is_not_so():
    for value, wanted in (([0.5, 0.5], [0.5, 0.4999]), (1e-300, 0), (0.0, math.nan), ([0.0], 0), ((1, 2), (1, 3))):
        with pytest.raises(AssertionError):
            agree(value, wanted)


def signature(name):
    """The call as the pages write it: no annotations."""
    given = inspect.signature(getattr(ops, name))
    bare = [p.replace(annotation=p.empty) for p in given.parameters.values()]
    return name + str(inspect.Signature(bare)).replace("'", '"')


@pytest.mark.parametrize("name", ops.__all__)
def test_every_op_has_its_page(name):
    page = DOCS / "ops" / f"{PAGE_OF.get(name, name)}.md"
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == SECTIONS
    sections = dict(zip(SECTIONS, re.split(r"^## .+$", text, flags=re.MULTILINE)[1:], strict=True))
    assert all(section.strip() for section in sections.values())
    assert ">>>" in sections["Example"]
    assert re.search(r"\(\d{4}\),\s\*", sections["Source"])  # author (year), *title*, where in it
    calls = " ".join(blocks(page, "text")[0].split())
    assert signature(name) in calls
    assert f"[{page.stem}](ops/{page.name})" in (DOCS / "ops.md").read_text()


def test_no_page_is_of_an_op_that_is_gone():
    assert {page.stem for page in OP_PAGES} == {PAGE_OF.get(name, name) for name in ops.__all__}


def anchors(page):
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if not target.startswith("http"):
            other = page.parent / target if target else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), (target, anchor)


@pytest.mark.parametrize("module", ["softargmax.ops", "softargmax"])
def test_what_the_pages_describe_is_public(module):
    exported = importlib.import_module(module).__all__
    assert set(ops.__all__) <= set(exported)
    assert all(getattr(sa, name) is getattr(ops, name) for name in ops.__all__)
