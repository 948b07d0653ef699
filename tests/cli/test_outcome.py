"""Exit codes and last words, whatever happens."""

import os
import resource
import shlex
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
from softargmax._checks import AbsentClassesWarning, WrongKindError, real_array
from softargmax.cli import _outcome, main

COMMAND = [sys.executable, "-c", "import sys; from softargmax.cli import main; sys.exit(main())"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(softargmax.__file__).parents[1])}


def start(*words, shell="exec {}", environment=None, **options):
    """Run the command line in a process of its own, from a shell line with {} for it."""
    line = shell.format(shlex.join([*COMMAND, *map(str, words)]))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environment = {**ENVIRONMENT, **(environment or {})}
    return subprocess.run(["bash", "-c", line], env=environment, timeout=60, **options)


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

    assert _outcome.outcome(wrong) == 2
    assert capsys.readouterr().err == "softargmax: error: labels must be so\n"


@pytest.mark.parametrize("mistake", [lambda: int("x"), lambda: real_array("x", 1j), lambda: Path("a\0b").read_text()])
def test_every_value_error_and_a_worded_type_error_is_a_sentence(capsys, mistake):
    with pytest.raises((ValueError, WrongKindError)):
        mistake()
    assert _outcome.outcome(mistake) == 2
    assert capsys.readouterr().err.startswith("softargmax: error: ")


@pytest.mark.parametrize("bug", [lambda: 1 + "1", lambda: len(3), lambda: {}[0], lambda: [][1]])
def test_a_bug_keeps_its_traceback_and_is_no_failed_check(capsys, bug):
    assert _outcome.outcome(bug) == 70
    said = "softargmax: this is our fault, not yours; please report it with the command and:\nTraceback"
    assert capsys.readouterr().err.startswith(said)


def test_memory_and_the_keyboard(capsys):
    def full():
        raise MemoryError("unable to allocate 7 TiB")

    def interrupted():
        raise KeyboardInterrupt

    assert _outcome.outcome(full) == 2
    assert capsys.readouterr().err == "softargmax: error: not enough memory: unable to allocate 7 TiB\n"
    assert _outcome.outcome(interrupted) == 130


def test_an_error_of_the_system_names_its_file(capsys):
    assert _outcome.outcome(Path("/no/such/file").read_bytes) == 2
    assert capsys.readouterr().err == "softargmax: error: no such file or directory: /no/such/file\n"


def test_a_warning_is_one_line_and_others_stay_as_they_are(capsys):
    def warned():
        for _ in range(3):
            warnings.warn("class 2 has no row", AbsentClassesWarning, stacklevel=1)
        warnings.warn("not ours", DeprecationWarning, stacklevel=1)

    with pytest.warns(DeprecationWarning, match="not ours"):
        _outcome.outcome(warned)
    assert capsys.readouterr().err == "softargmax: warning: class 2 has no row\n"


PRINTING = [["evaluate", "preds.npz", "--json"], ["evaluate", "preds.npz"], ["-h"], ["demo", "-h"], ["--version"]]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_reader_that_left(preds, words, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    ran = start(*words, stdout=writer, environment={"PYTHONUNBUFFERED": unbuffered})
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", PRINTING[1:3], ids=" ".join)
def test_a_full_standard_output(preds, words, unbuffered):
    ran = start(*words, shell="exec {} > /dev/full", environment={"PYTHONUNBUFFERED": unbuffered})
    assert ran.returncode == 2
    assert ran.stderr == b"softargmax: error: cannot write to standard output: no space left on device\n"


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["evaluate", "p.npz", "--fail-if", "n > 1"], 1),
        (["evaluate", "p.npz", "--json"], 0),  # with a warning on stderr
        (["evaluate", "nope.npz"], 2),
        (["evaluate", "--nope"], 2),
        (["calibrate", "p.npz", "-o", "cal.json"], 0),
        (["-h"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_streams_that_are_not_there_change_no_exit_code(tmp_path, overconfident, words, code, streams):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=softargmax.softmax(logits), labels=labels)
    ran = start(*words, shell=f"exec {{}} {streams}")
    assert ran.returncode == code
    assert b"Traceback" not in ran.stderr
    assert b"softargmax: " not in ran.stdout
    if "--json" in words:
        assert ran.stdout.count(b"\n") == (0 if ">&-" in streams.split() else 1)
    if words[0] == "calibrate":
        assert softargmax.load("cal.json").temperature_ > 0


@pytest.mark.parametrize(
    "words",
    [
        ["calibrate", "preds.npz", "-o", "out.json"],
        ["apply", "cal.json", "preds.npz", "-o", "out.npz"],
        ["apply", "cal.json", "preds.npz", "-o", "out.csv"],
        ["apply", "cal.json", "preds.npz", "-o", "out.parquet"],
        ["apply", "cal.json", "preds.npz", "-o", "out.jsonl"],
        ["report", "preds.npz", "-o", "out.html"],
    ],
    ids=["calibrate", "apply npz", "apply csv", "apply parquet", "apply jsonl", "report"],
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


def test_streams_and_handlers_are_as_they_were(run):
    before = sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    run("--version")
    assert (sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_what_is_half_written(run, preds, tmp_path, number):
    run("calibrate", preds, "-o", "cal.json")
    np.savez(tmp_path / "p.npz", logits=np.zeros((300_000, 3)))
    (tmp_path / "out.csv").write_text("as it was")
    before = sorted(p.name for p in tmp_path.iterdir())
    slow_disk = "import os, time; os.fsync = lambda descriptor: time.sleep(50); "
    python, option, code = COMMAND
    command = subprocess.Popen(
        [python, option, slow_disk + code, "apply", "cal.json", "p.npz", "-o", "out.csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    until = time.monotonic() + 50
    while sorted(p.name for p in tmp_path.iterdir()) == before and time.monotonic() < until:
        time.sleep(0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) != before
    command.send_signal(number)
    assert command.communicate(timeout=20) == (b"", b"")
    assert command.returncode == 128 + number
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "out.csv").read_text() == "as it was"


def test_nohup_stays_in_force(preds):
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    code += "from softargmax.cli._outcome import outcome; "
    code += "print(outcome(lambda: signal.raise_signal(signal.SIGHUP)))"
    assert subprocess.check_output([sys.executable, "-c", code], env=ENVIRONMENT) == b"0\n"


def test_flags_and_arguments_read_plainly(run):
    for words in (["evaluate", "-h"], ["apply", "-h"], ["-h"]):
        ran = run(*words)
        assert "<bool>" not in ran.out
        assert "{" not in ran.out


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
