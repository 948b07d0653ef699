"""The bar of a training on a terminal: one line, gone at the end; what is printed beside it stays whole."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from softargmax.cli.train import _line
from softargmax.training import Epoch

WIDTH = 80
PROGRAM = """
import sys
from softargmax.training import start
from tests.cases.images import few_images
start.read_images = few_images
from softargmax.cli import main
sys.exit(main())
"""


def train_on_a_terminal(folder, *, piped):
    """(what the terminal was sent, what came out of a pipe at stdout) of a training of 3 epochs."""
    above, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    words = ["train", "fashion-mnist-mini", "-o", folder, "--model", "mlp", "--epochs", "3", "--batch-size", "8"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=Path(__file__).parents[2],
        env={**env, "TERM": "xterm", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else terminal,
        stderr=terminal,
    )
    os.close(terminal)
    sent = b""
    while True:
        try:
            part = os.read(above, 1 << 16)
        except OSError:  # how Linux tells the end of a terminal
            break
        if not part:
            break
        sent += part
    os.close(above)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0, sent
    return sent.decode(), (out or b"").decode()


def screen(sent):
    """The lines of a terminal after what it was sent; AssertionError for a code that is not known here."""
    lines, row, column = [""], 0, 0
    for code, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", sent):
        for letter in text:
            if column == WIDTH:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
            column += 1
        if code == "\r":
            column = 0
        elif code == "\n":
            row += 1
        elif code == "\x1b[2K":
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", code):
            row -= int(code[2:-1] or 1)
        else:
            assert not code or code[-1] in "mhl", repr(code)
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("piped", [False, True], ids=["both on the terminal", "stdout in a pipe"])
def test_the_bar_is_one_line_that_goes_and_the_epochs_stay(piped, tmp_path):
    sent, out = train_on_a_terminal(tmp_path / "run", piped=piped)
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in sent.split("\x1b[2K")]
    drawn = [frame.rstrip() for frame in frames if "━" in frame]
    assert drawn, "there was a bar"
    shown = screen(sent)
    assert not [line for line in shown if "━" in line or "/50" in line]
    assert (sent.count("\x1b[?25l"), sent.count("\x1b[?25h")) == (1, 1)  # the cursor is there again
    epochs = [line for line in (out.splitlines() if piped else shown) if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in epochs] == [f"epoch {number} of 3" for number in (1, 2, 3)]
    assert all(line.endswith(" s") and len(line) <= WIDTH for line in epochs)
    assert all(len(line) <= WIDTH for frame in drawn for line in frame.splitlines())
    if piped:
        assert not any("epoch" in line for line in shown)
        assert "\x1b" not in out


@pytest.mark.parametrize(("number", "seconds"), [(1, 0.04), (8, 9.96), (99, 99.6), (8, 999.4)])
def test_the_line_of_an_epoch_fits_a_terminal(number, seconds):
    line = _line(number, 99, Epoch(2.0, 2.3026, 0.1, 2.3026, 1.34, seconds))
    assert len(line) <= WIDTH
    assert abs(float(line.split(", ")[-1].removesuffix(" s")) - seconds) <= 0.5
