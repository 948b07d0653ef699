"""The package as a whole: what importing it loads, what it exports, what its examples and its README say."""

import doctest
import importlib
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import softargmax as sa
from softargmax.data import read_images

ROOT = Path(__file__).parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(sa.__path__, "softargmax.")]


def imported(name):
    """A module; None where it is about a library that is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "jax", "tensorflow", "lightning_fabric"):
            raise
        return None


def run_python(program, *options):
    result = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_import_loads_numpy_alone():
    shown = run_python(
        "import sys, numpy; before = set(sys.modules); import softargmax; print(*sys.modules.keys() - before)"
    )
    loaded = {name.partition(".")[0] for name in shown.stdout.split()}
    heavy = {
        "numba",
        "llvmlite",
        "scipy",
        "sklearn",
        "matplotlib",
        "torch",
        "jax",
        "tensorflow",
        "pyarrow",
        "typer",
        "rich",
    }
    assert not loaded & heavy
    assert "softargmax" in loaded


def test_import_reads_few_modules_of_its_own():
    # what import costs, told without a clock: 0.3 s over NumPy would be hundreds of modules
    shown = run_python(
        "import sys, numpy; before = set(sys.modules); import softargmax; print(len(sys.modules.keys() - before))"
    )
    assert int(shown.stdout) < 60


def test_all_tells_the_truth():
    for name in ["softargmax", *MODULES]:
        module = imported(name)
        if module is None:
            continue
        for exported in getattr(module, "__all__", ()):
            assert getattr(module, exported) is not None
    assert sorted(sa.__all__) == sa.__all__
    assert set(sa.__all__) <= set(dir(sa))
    with pytest.raises(AttributeError, match="has no attribute 'sofmax'"):
        _ = sa.sofmax


def test_every_room_says_its_arrow_first():
    for info in pkgutil.iter_modules(sa.__path__, "softargmax."):
        if info.ispkg:
            first = (importlib.import_module(info.name).__doc__ or "").splitlines()[0]
            assert "->" in first, f"{info.name}: {first}"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = imported(name)
    if module is None:
        pytest.skip("its library is not installed")
    known = {"np": np, **{public: getattr(sa, public) for public in sa.__all__}}
    result = doctest.testmod(module, extraglobs=known, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", sa.__all__)
def test_every_public_name_has_an_example_that_runs_or_a_reference(name):
    assert ">>>" in getattr(sa, name).__doc__ or name == "load" or name.endswith("Warning")


def blocks(language, text=None):
    text = (ROOT / "README.md").read_text() if text is None else text
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A folder where the README's Python example has run."""
    folder = tmp_path_factory.mktemp("newcomer")
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 20
    result = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.search(r"T = 2\.\d\d, 95% interval 2\.\d\d to 2\.\d\d", result.stdout)
    return folder


def readme_commands():
    lines = "".join(blocks("sh")).splitlines()
    return [line for line in lines if line and not line.startswith("make ")]


def test_the_readme_shows_every_command():
    assert {shlex.split(line, comments=True)[1] for line in readme_commands()} == {
        "demo", "calibrate", "apply", "evaluate", "report", "explain", "train", "predict",
    }  # fmt: skip


def needs_torch(line):
    return any(word in line for word in ("train", "predict", "--images", "report run"))


def test_the_readmes_commands_run_in_their_order(newcomer):
    for line in (line for line in readme_commands() if not needs_torch(line)):
        words = shlex.split(line, comments=True)
        assert words[0] == "softargmax"
        result = subprocess.run(
            [sys.executable, "-c", "import sys; from softargmax.cli import main; sys.exit(main())", *words[1:]],
            cwd=newcomer, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, (line, result.stderr)
        assert "warning" not in result.stderr
        if words[1] == "demo":
            (printed,) = blocks("text")
            assert result.stdout.startswith(printed.rstrip("\n"))
        if "--json" in words:
            assert json.loads(result.stdout)["n"] == 5000
        if "-o" in words:
            assert (newcomer / words[words.index("-o") + 1]).stat().st_size > 0


def test_the_readmes_commands_on_pictures_run_in_their_order(tmp_path):
    """As written; the trainings are short, and the demo's networks see few pictures."""
    pytest.importorskip("lightning_fabric")
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(read_images("fashion-mnist-mini").test.images[0]).save(tmp_path / "shoe.png")
    short = """
        import sys
        from softargmax.cli import demo, main
        from softargmax.training import start
        from tests.cases.images import few_images
        start.read_images = few_images
        demo.IMAGE_RUNS = tuple((name, pooling, 1) for name, pooling, _ in demo.IMAGE_RUNS)
        sys.exit(main())
    """
    for line in filter(needs_torch, readme_commands()):
        words = shlex.split(line, comments=True)
        if words[1] == "train":
            words += ["--epochs", "1"]
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(short), *words[1:]],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (0, ""), line
    assert (tmp_path / "shoe-prediction.png").stat().st_size > 0
    assert (tmp_path / "run.html").stat().st_size > 0


def test_the_example_of_the_guide_runs():
    (example,) = blocks("python", (ROOT / "docs" / "calibrate.md").read_text())
    run_python(example, "-W", "error")


def test_the_schema_in_the_docs_is_the_format(tmp_path):
    logits, labels = np.random.default_rng(0).standard_normal((50, 3)), np.arange(50) % 3
    sa.TemperatureScaling().fit(np.where(np.eye(3)[labels] == 1, logits + 1, logits), labels).save(tmp_path / "c.json")
    saved = json.loads((tmp_path / "c.json").read_text())
    (schema,) = (json.loads(block) for block in blocks("json", (ROOT / "docs" / "formats.md").read_text()))
    for document, described in ((saved, schema), (saved["state"], schema["properties"]["state"])):
        assert set(document) == set(described["properties"])
        # what partial_fit goes on from is written, and not asked for: files from before do not have it
        assert [name for name in document if name != "stream"] == described["required"]
    assert saved["format"] == schema["properties"]["format"]["const"]
    assert saved["version"] == schema["properties"]["version"]["const"]
    assert saved["method"] in schema["properties"]["method"]["enum"]
