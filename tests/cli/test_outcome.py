"""Exit codes and last words, whatever happens."""

import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import softargmax
from softargmax import cli
from softargmax._checks import AbsentClassesWarning
from softargmax.cli import _outcome, main

COMMAND = [sys.executable, "-c", "import sys; from softargmax.cli import main; sys.exit(main())"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(softargmax.__file__).parents[1])}


def outcome(action):
    with pytest.raises(SystemExit) as end, _outcome.spoken():
        action()
    return end.value.code


def test_version_and_help(run):
    ran = run("--version")
    assert (ran.code, ran.out) == (0, f"softargmax {softargmax.__version__}\n")
    assert run("-h").out == run("--help").out
    for command in ("demo", "calibrate", "apply", "evaluate", "report"):
        assert command in run("--help").out
        ran = run(command, "--help")
        assert ran.code == 0
        assert f"Example: softargmax {command}" in ran.out


@pytest.mark.parametrize("words", [["nope"], ["evaluate"], ["evaluate", "p.npz", "--nope"], ["calibrate", "p.npz"], []])
def test_usage_errors(run, words):
    ran = run(*words)
    assert ran.code == 2
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("missing", cli.NEEDED)
def test_without_the_app_extra(run, monkeypatch, missing):
    real = cli.find_spec
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == missing else real(name))
    ran = run("demo")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == 'the command line needs the app extra: pip install "softargmax[app]"\n'


def test_a_sentence_of_ours_ends_with_2(capsys):
    def wrong():
        raise ValueError("labels must be so")

    assert outcome(wrong) == 2
    assert capsys.readouterr().err == "softargmax: error: labels must be so\n"


@pytest.mark.parametrize(
    "bug", [lambda: 1 + "1", lambda: int("x"), lambda: np.zeros(2) + np.zeros(3), lambda: {}[0], lambda: [][1]]
)
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises((TypeError, ValueError, LookupError)), _outcome.spoken():
        bug()


def test_memory_and_the_keyboard(capsys):
    def full():
        raise MemoryError("unable to allocate 7 TiB")

    def interrupted():
        raise KeyboardInterrupt

    assert outcome(full) == 2
    assert capsys.readouterr().err == "softargmax: error: not enough memory: unable to allocate 7 TiB\n"
    assert outcome(interrupted) == 130


def test_an_error_of_the_system_names_its_file(capsys):
    assert outcome(Path("/no/such/file").read_bytes) == 2
    assert capsys.readouterr().err == "softargmax: error: no such file or directory: /no/such/file\n"


def test_a_warning_is_one_line_and_others_stay_as_they_are(capsys):
    def warned():
        with _outcome.spoken():
            for _ in range(3):
                warnings.warn("class 2 has no row", AbsentClassesWarning, stacklevel=1)
            warnings.warn("not ours", DeprecationWarning, stacklevel=1)

    with pytest.warns(DeprecationWarning, match="not ours"):
        warned()
    assert capsys.readouterr().err == "softargmax: warning: class 2 has no row\n"


def test_a_reader_that_left(preds):
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [*COMMAND, "evaluate", preds, "--json"], stdout=writer, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60
    )
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_a_full_standard_output(preds):
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [*COMMAND, "evaluate", preds], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"softargmax: error: ")
    assert b"no space left" in ran.stderr
    assert b"Traceback" not in ran.stderr
    assert ran.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["calibrate", "preds.npz", "-o", "out.json"],
        ["apply", "cal.json", "preds.npz", "-o", "out.npz"],
        ["apply", "cal.json", "preds.npz", "-o", "out.csv"],
        ["report", "preds.npz", "-o", "out.html"],
    ],
    ids=["calibrate", "apply npz", "apply csv", "report"],
)
def test_a_full_disk_leaves_the_old_file(run, preds, tmp_path, words):
    assert run("calibrate", preds, "-o", "cal.json").code == 0
    (tmp_path / words[-1]).write_text("as it was")
    before = sorted(p.name for p in tmp_path.iterdir())

    def no_file_over_100_bytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    ran = subprocess.run(
        [*COMMAND, *words], capture_output=True, env=ENVIRONMENT, preexec_fn=no_file_over_100_bytes, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.startswith(f"softargmax: error: cannot write {words[-1]}: file too large".encode())
    assert ran.stderr.count(b"\n") == 1
    assert (tmp_path / words[-1]).read_text() == "as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def opened_by_a_reader(path):
    for _ in range(600):
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # an error until someone reads
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nobody read the pipe")


def test_ctrl_c(tmp_path):
    os.mkfifo(tmp_path / "p.csv")  # reading it waits, so the command is surely at work
    (tmp_path / "out.json").write_text("as it was")
    command = subprocess.Popen(
        [*COMMAND, "calibrate", "p.csv", "--logits", "-o", "out.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    pipe = opened_by_a_reader(tmp_path / "p.csv")
    time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    out, error = command.communicate(timeout=60)
    os.close(pipe)
    assert command.returncode == 130
    assert (out, error) == (b"", b"softargmax: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "p.csv"]
    assert (tmp_path / "out.json").read_text() == "as it was"


def test_the_command_starts_without_the_heavy_libraries():
    heavy = "'scipy', 'sklearn', 'matplotlib', 'pyarrow', 'numba', 'rich.table'"
    code = f"import sys; import softargmax.cli._app; print([m for m in ({heavy},) if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], env=ENVIRONMENT, text=True) == "[]\n"


def test_a_terminal_without_unicode(preds):
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run([*COMMAND, "evaluate", preds], capture_output=True, env=environment, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"Accuracy" in ran.stdout


def test_main_takes_what_the_shell_gave(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["softargmax", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("softargmax ")
