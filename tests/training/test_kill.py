"""kill -9 and Ctrl-C at any moment: what was stopped is gone on with, and ends with the same weights bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from softargmax.training import read_run

# Each line asks for one training, in a process of its own that sends itself a signal; torch is imported once for all.
PROGRAM = """
import json, os, signal, sys, threading
from pathlib import Path

import torch

from softargmax.training import Settings, start
from tests.training.test_run import small_data

start.read_images = small_data


def stopped(number, event, at):
    def send():
        os.kill(os.getpid(), number)

    def counted(what, *, before):
        count = iter(range(1, at))

        def wrapper(*arguments):
            if before and next(count, None) is None:
                send()
            result = what(*arguments)
            if not before and next(count, None) is None:
                send()
            return result

        return wrapper

    told = {}
    if event == "written":  # the bytes of a file are there; it has not got its name
        os.fsync = counted(os.fsync, before=True)
    elif event == "renamed":
        Path.replace = counted(Path.replace, before=False)
    elif event == "batch":
        told["at_batch"] = counted(lambda done, of: None, before=True)
    elif event == "seconds":  # after the first epoch, wherever the program is
        timer = threading.Timer(at, send)
        timer.daemon = True
        told["at_epoch"] = lambda history: timer.is_alive() or timer.finished.is_set() or timer.start()
    return told


def training(folder, resume, epochs, signal_name, event, at):
    torch.set_num_threads(1)
    told = stopped(getattr(signal, signal_name), event, at) if event else {}
    settings = Settings("small", model="mlp", pooling=None, epochs=epochs, batch_size=32)
    start.start(Path(folder), settings, resume=resume, **told)


for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            training(*json.loads(line))
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def training():
    """Train in a process -> its exit code, or minus the signal that ended it."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def train(folder, *, resume, epochs=3, signal=None, event=None, at=None):
        print(json.dumps([str(folder), resume, epochs, signal, event, at]), file=process.stdin, flush=True)
        return int(process.stdout.readline())

    with process:
        yield train
        process.stdin.close()


def uninterrupted(training, folder, epochs):
    assert training(folder, resume=False, epochs=epochs) == 0
    return (folder / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def weights(training, tmp_path_factory):
    """Of three epochs that nothing stopped."""
    return uninterrupted(training, tmp_path_factory.mktemp("whole") / "run", 3)


@pytest.fixture(scope="module")
def weights_of_12(training, tmp_path_factory):
    return uninterrupted(training, tmp_path_factory.mktemp("whole") / "run", 12)


def is_half_written(folder):
    with pytest.raises(ValueError, match="half written: training was stopped before its end"):
        read_run(folder)
    return True


# One training, killed again and again. Files are written in this order: the index; for each epoch tensors and their
# index; calibrator, weights, test, metrics, examples; the index.
MOMENTS = [
    ("renamed", 1),
    ("batch", 4),
    ("written", 2),
    ("renamed", 2),
    ("written", 3),
    ("renamed", 3),  # the first epoch is done
    ("batch", 1),
    ("written", 1),
    ("batch", 10),
    ("renamed", 2),
    ("renamed", 3),  # the second
    ("written", 3),
    ("renamed", 3),  # the third
    ("written", 2),
    ("renamed", 2),
    ("written", 3),
    ("renamed", 3),
    ("renamed", 6),
    ("written", 7),
]


def test_kill_9_at_every_kind_of_moment(training, weights, tmp_path):
    for number, (event, at) in enumerate(MOMENTS):
        code = training(tmp_path / "run", resume=number > 0, signal="SIGKILL", event=event, at=at)
        assert (code, event, at) == (-9, event, at)
        assert is_half_written(tmp_path / "run")
    assert training(tmp_path / "run", resume=True) == 0
    assert read_run(tmp_path / "run").status == "complete"
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights


def test_kill_9_at_some_time(training, weights_of_12, tmp_path):
    codes = []
    for number, seconds in enumerate([0.0, 0.05, 0.02, 0.11]):
        resume = number > 0
        codes.append(
            training(tmp_path / "run", resume=resume, epochs=12, signal="SIGKILL", event="seconds", at=seconds)
        )
    assert codes[0] == -9
    assert set(codes) <= {-9, 0}
    assert training(tmp_path / "run", resume=True, epochs=12) == 0
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights_of_12


def test_kill_9_before_anything_was_written_leaves_the_name_free(training, weights, tmp_path):
    assert training(tmp_path / "run", resume=False, signal="SIGKILL", event="written", at=1) == -9
    assert training(tmp_path / "run", resume=False) == 0
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights


def test_kill_9_leaves_no_litter_once_the_run_is_whole(training, tmp_path):
    for resume in (False, True):
        assert training(tmp_path / "run", resume=resume, signal="SIGKILL", event="written", at=3) == -9
    assert training(tmp_path / "run", resume=True) == 0
    assert not list((tmp_path / "run").rglob("*.part"))


@pytest.mark.parametrize("batch", [1, 13, 30])
def test_ctrl_c_leaves_a_run_that_can_be_used(batch, training, weights, tmp_path):
    assert training(tmp_path / "run", resume=False, signal="SIGINT", event="batch", at=batch) == 0
    run = read_run(tmp_path / "run")
    assert run.status == "interrupted"
    assert run.calibrator.predict_proba(run.test.logits).shape == (100, 3)
    assert training(tmp_path / "run", resume=True) == 0
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights


def test_ctrl_c_at_some_time(training, weights_of_12, tmp_path):
    for number, seconds in enumerate([0.0, 0.07]):
        code = training(tmp_path / "run", resume=number > 0, epochs=12, signal="SIGINT", event="seconds", at=seconds)
        if code == 0:
            assert read_run(tmp_path / "run").status in ("interrupted", "complete")
        else:  # training was over, and the files of its end were being written
            assert is_half_written(tmp_path / "run")
    assert training(tmp_path / "run", resume=True, epochs=12) == 0
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights_of_12


def test_an_interrupted_run_that_is_killed_when_it_goes_on(training, weights, tmp_path):
    assert training(tmp_path / "run", resume=False, signal="SIGINT", event="batch", at=15) == 0
    assert training(tmp_path / "run", resume=True, signal="SIGKILL", event="batch", at=3) == -9
    assert is_half_written(tmp_path / "run")  # not the weights of before
    assert training(tmp_path / "run", resume=True) == 0
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights
