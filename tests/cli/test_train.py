import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from softargmax.cli import train as train_module
from softargmax.training import read_run
from tests.cases.images import few_images

pytest.importorskip("torch")
start = pytest.importorskip("softargmax.training.start")


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(start, "read_images", few_images)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the mlp, seconds old."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "read_images", few_images)
        from softargmax.training import Settings

        start.start(folder, Settings("fashion-mnist-mini", model="mlp", pooling=None, epochs=6, seed=1))
    return folder


def test_train_says_every_epoch_and_what_came_of_it(run, tmp_path):
    ran = run("train", "fashion-mnist-mini", "-o", "run", "--epochs", "2", "--batch-size", "64", "--dropout", "0")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].startswith("epoch 1 of 2: calibration NLL ")
    assert lines[1].startswith("epoch 2 of 2: calibration NLL ")
    assert "Temperature" in ran.out
    assert "wrote run; next: softargmax predict run PICTURE.png" in ran.out
    found = read_run(tmp_path / "run")
    assert (found.status, len(found.history), found.settings.name) == ("complete", 2, "cnn with max pooling")
    # the files are those of other commands
    assert run("evaluate", "run/test.npz").code == 0
    assert run("apply", "run/calibrator.json", "run/test.npz", "-o", "out.npz").code == 0
    assert {"curves.png", "filters.png", "maps.png", "mistakes.png"} <= {
        f.name for f in (tmp_path / "run/figures").iterdir()
    }
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    measured = json.loads(run("evaluate", "out.npz", "--json").out)
    assert metrics["after"]["nll"] == pytest.approx(measured["nll"], rel=1e-6)


def test_figures_that_cannot_be_written_leave_a_whole_run(run, monkeypatch, tmp_path):
    def full(runs, folder):
        raise OSError(f"cannot write {folder}/curves.png: no space left on the device; nothing was changed there")

    monkeypatch.setattr("softargmax.report.save_run_figures", full)
    ran = run("train", "fashion-mnist-mini", "-o", "run", "--epochs", "1", "--batch-size", "64")
    assert ran.code == 2
    assert "run is whole and can be used; only its figures are missing: cannot write run/figures/curves.png" in ran.err
    assert "nothing was changed" not in ran.err
    assert read_run(tmp_path / "run").status == "complete"


def test_ctrl_c_while_figures_are_drawn_leaves_a_whole_run(run, monkeypatch, tmp_path):
    def interrupted(runs, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("softargmax.report.save_run_figures", interrupted)
    ran = run("train", "fashion-mnist-mini", "-o", "run", "--epochs", "1", "--batch-size", "64")
    assert ran.code == 130
    assert ran.err == (
        "softargmax: interrupted; run is whole and can be used; only its figures are missing: softargmax report run "
        "-o report.html\n"
    )
    assert read_run(tmp_path / "run").status == "complete"


def test_a_run_of_images_has_a_calibrator_to_apply(run, trained):
    ran = run("apply", trained, "new.csv", "-o", "out.csv")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith(f"{trained} is a run on images; give its calibrator, {trained}/calibrator.json\n")


def test_a_run_goes_on_only_with_its_own_settings(run, trained):
    ran = run(
        "train", "fashion-mnist-mini", "--model", "mlp", "-o", trained, "--epochs", "6", "--seed", "2", "--resume"
    )
    assert ran.code == 2
    assert f"{trained} was trained with other settings (seed: 1 before, 2 now)" in ran.err
    again = run(
        "train", "fashion-mnist-mini", "--model", "mlp", "-o", trained, "--epochs", "6", "--seed", "1", "--resume"
    )
    assert again.code == 0
    assert "epoch" not in again.out  # there was nothing left to do


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fashion-mnist-minni", "-o", "new"], "did you mean `fashion-mnist-mini`?"),
        (
            ["fashion-mnist-mini", "-o", "new", "--model", "cn"],
            "model must be one of mlp, cnn; got 'cn'; did you mean `cnn`?",
        ),
        (["fashion-mnist-mini", "-o", "new", "--model", "mlp", "--pooling", "max"], "the mlp has nothing to pool"),
        (["fashion-mnist-mini", "-o", "new", "--lr", "0"], "lr must be a number above 0; got 0.0"),
        (["fashion-mnist-mini", "-o", "new", "--lr", "nan"], "lr must be a number above 0; got nan"),
        (["fashion-mnist-mini", "-o", "new", "--epochs", "0"], "epochs must be an integer from 1; got 0"),
        (["fashion-mnist-mini", "-o", "new", "--dropout", "1"], "dropout must be a number in [0, 1); got 1.0"),
        (["fashion-mnist-mini", "-o", "."], "is there already; give the name of a new folder"),
        (["fashion-mnist-mini", "-o", "new", "--resume"], "there is no folder new"),
        (["fashion-mnist-mini", "-o", "new", "--lr", "1e30"], "the steps are probably too large; try a smaller"),
    ],
)
def test_wrong_input_is_a_sentence(run, monkeypatch, tmp_path, words, said):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    if "1e30" in words:
        monkeypatch.setattr(start, "read_images", few_images)
    ran = run("train", *words)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_without_torch_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(train_module, "find_spec", lambda name: None)
    for words in (["train", "mnist", "-o", "run"], ["predict", "run", "x.png"], ["demo", "--images"]):
        ran = run(*words)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err == 'softargmax: error: networks need PyTorch: pip install "softargmax[torch]"\n'


def test_ctrl_c_leaves_a_run_that_can_be_used_and_gone_on_with(tmp_path):
    program = (
        "import sys; from softargmax.training import start; from tests.cases.images import few_images; "
        "start.read_images = few_images; from softargmax.cli import main; sys.exit(main())"
    )
    words = ["train", "fashion-mnist-mini", "-o", str(tmp_path / "run"), "--model", "mlp", "--epochs", "100000"]
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("epoch 1 of 100000")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "go on by --resume" in err
    assert "Temperature" in out
    assert read_run(tmp_path / "run").status == "interrupted"


# ---- predict ----


@pytest.fixture
def pictures(tmp_path):
    images = few_images().test.images
    Image.fromarray(images[0]).save(tmp_path / "same.png")
    Image.fromarray(255 - images[0]).resize((280, 280), Image.Resampling.NEAREST).save(tmp_path / "paper.png")
    (tmp_path / "folder").mkdir()
    for i in range(3):
        Image.fromarray(images[i]).convert("RGB").save(tmp_path / "folder" / f"{i}.jpg", quality=100)
    return tmp_path


def test_predict_gives_the_calibrated_probabilities_of_the_run(run, trained, pictures):
    found = read_run(trained)
    ran = run("predict", trained, "same.png", "--top-k", "10")
    assert (ran.code, ran.err) == (0, "")
    name, *lines = ran.out.splitlines()
    assert name == "same.png"
    wanted = found.calibrator.predict_proba(found.test.logits[:1])[0]
    shown = {line[2:].rsplit(None, 1)[0].strip(): line.rsplit(None, 1)[1] for line in lines}
    assert list(shown) == [found.class_names[k] for k in np.argsort(-wanted, kind="stable")]
    for k, share in enumerate(wanted):
        text = shown[found.class_names[k]]
        if 0.001 <= share <= 0.999:
            assert float(text.rstrip("%")) == pytest.approx(100 * share, abs=0.06)
        else:
            assert text in ("<0.1%", ">99.9%")


def test_a_reversed_background_is_told(run, trained, pictures):
    ran = run("predict", trained, "paper.png")
    assert ran.code == 0
    assert "paper.png has a bright background, the training images have a dark one" in ran.err
    assert "add --invert" in ran.err
    inverted = run("predict", trained, "paper.png", "--invert")
    assert inverted.err == ""
    # enlarged ten times and reversed twice it is the same picture
    assert inverted.out.splitlines()[1:] == run("predict", trained, "same.png").out.splitlines()[1:]


def test_predict_takes_folders_and_draws(run, trained, pictures):
    ran = run("predict", trained, "folder", "--plot")
    assert ran.code == 0, ran.err
    assert [line for line in ran.out.splitlines() if not line.startswith(" ")] == [f"folder/{i}.jpg" for i in range(3)]
    for i in range(3):
        with Image.open(f"{i}-prediction.png") as drawn:
            assert drawn.size[0] > 200


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.png"], "there is no file missing.png"),
        (["text.png"], "text.png is no picture"),
        (["empty"], "empty"),
        (["same.png", "--top-k", "0"], "--top-k must be 1 or more; got 0"),
    ],
)
def test_pictures_that_are_none(run, trained, pictures, words, said):
    (pictures / "text.png").write_text("hello, this is text and no picture at all")
    (pictures / "empty").mkdir()
    ran = run("predict", trained, *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_a_folder_that_is_no_run(run, pictures):
    ran = run("predict", pictures / "folder", "same.png")
    assert ran.code == 2
    assert "is not a run: it has no run.json" in ran.err
