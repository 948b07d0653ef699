from dataclasses import dataclass

import numpy as np
import pytest

from softargmax.cli import main


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Run the command line in this process."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def overconfident():
    """Logits (400, 3) that are three times too large, and labels drawn from the honest ones."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(400, 3)) * 1.5
    labels = (honest + rng.gumbel(size=honest.shape)).argmax(axis=1)
    return 3 * honest, labels


@pytest.fixture
def preds(tmp_path, overconfident):
    """The overconfident predictions in an .npz."""
    logits, labels = overconfident
    path = tmp_path / "preds.npz"
    np.savez(path, logits=logits, labels=labels, class_names=np.array(["cat", "dog", "frog"]))
    return path
