"""The built wheel in an empty environment: what a user of pip gets."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, cwd):
    result = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.minutes
def test_the_wheel_works_in_an_empty_environment(tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = (
        "py.typed",
        "data/cifar10-resnet20.npz",
        "data/fashion-mnist-mini.npz",
        "parity/reference.json",
        "report/style.css",
        "kernels/simd.py",
    )
    for needed in shipped:
        assert f"softargmax/{needed}" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]

    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    run(*pip, wheel, cwd=tmp_path)
    shown = run(python, "-c", "import softargmax as sa; print(sa.softmax([2, 1, 0.1]).round(3).tolist())", cwd=tmp_path)
    assert shown.strip() == "[0.659, 0.242, 0.099]"
    command = tmp_path / "venv" / "bin" / "softargmax"
    without = subprocess.run([command, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert without.returncode == 2
    assert without.stderr.strip() == 'the command line needs the app extra: pip install "softargmax[app]"'

    run(*pip, f"{wheel}[app]", cwd=tmp_path)
    shown = run(command, "demo", cwd=tmp_path)
    assert shown.startswith("When this model says 90%, it is right 58% of the time; after calibration 90%.")
    page = (tmp_path / "softargmax-demo" / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
