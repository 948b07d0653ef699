"""What a command ended with -> the words on stderr and the exit code: the only place that decides both."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from softargmax import _checks

WRONG_INPUT, BUG, INTERRUPTED, CLOSED_PIPE = 2, 70, 130, 141  # sysexits.h; 128 + the signal, as a shell counts
OUR_WARNINGS = (
    _checks.LikelyProbabilitiesWarning,
    _checks.CalibrationDegenerateWarning,
    _checks.AbsentClassesWarning,
    _checks.FewRowsWarning,
    _checks.NllRisesWarning,
    _checks.LiftedLogitsWarning,
)


def outcome(command: Callable[[], object]) -> int:
    """Run `command` -> its exit code. Whatever it printed is flushed; streams and signals are as they were before."""
    with _safe_streams(), _signals_as_exits(), _warnings_as_lines():
        try:
            with spoken():
                try:
                    command()
                finally:
                    sys.stdout.flush()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:  # told whole; the interpreter's exit code for it, 1, means a failed check here
            print("softargmax: this is our fault, not yours; please report it with the command and:", file=sys.stderr)
            traceback.print_exc()
            return BUG
    return 0


@contextlib.contextmanager
def spoken() -> Iterator[None]:
    """Turn mistakes of the user into a sentence and exit code 2; bugs pass.

    A ValueError is a sentence, whoever raised it; a TypeError only if it is a WrongKindError.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("softargmax: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except _OutputLost as lost:
        if isinstance(lost.reason, BrokenPipeError):  # its reader left, as in `| head`
            raise SystemExit(CLOSED_PIPE) from None
        raise SystemExit(fail(f"cannot write to standard output: {_reason(lost.reason)}")) from None
    except OSError as error:
        name = f": {error.filename}" if error.filename else ""
        raise SystemExit(fail(f"{_reason(error)}{name}")) from None
    except MemoryError as error:
        raise SystemExit(fail(f"not enough memory{f': {error}' if str(error) else ''}")) from None
    except (ValueError, _checks.WrongKindError) as error:
        raise SystemExit(fail(str(error))) from None


def fail(sentence: str) -> int:
    """Say what was wrong with the input -> exit code 2."""
    print(f"softargmax: error: {' '.join(sentence.split())}", file=sys.stderr)
    return WRONG_INPUT


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


class _OutputLost(BaseException):
    """Standard output takes no more. No OSError, for which rich and typer have exit code 1."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class _Stream:
    """A standard stream whose failure is one _OutputLost (`needed`), or nobody's concern; then it leads nowhere."""

    def __init__(self, stream: TextIO, needed: bool) -> None:
        self._stream, self._needed = stream, needed
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets question marks, not an error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # else the interpreter flushes, and fails, again
            if self._needed:
                raise _OutputLost(error) from None


@contextlib.contextmanager
def _safe_streams() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        # a stream that was closed (`>&-`) is None; its descriptor is taken before a file of ours gets it
        out, err = (stream or opened.enter_context(open(os.devnull, "w")) for stream in before)
        sys.stdout, sys.stderr = cast(TextIO, _Stream(out, needed=True)), cast(TextIO, _Stream(err, needed=False))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _signals_as_exits() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as an exception would, so that half-written files are removed."""
    named = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # under nohup SIGHUP is ignored, and stays so
    ours = [number for number in named if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def end(number: int, frame: object) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)  # a second one must not disturb the cleaning up
        raise SystemExit(128 + number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


_told: set[str] = set()  # by the command that runs: nothing is told twice


def note(sentence: str) -> None:
    """Print a note of the result, unless it was told as a warning."""
    if sentence not in _told:
        _told.add(sentence)
        print(f"Note: {sentence}")


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    _told.clear()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> Any:
        if not issubclass(category, OUR_WARNINGS):
            return others(message, category, filename, lineno, file, line)
        if str(message) not in _told:
            _told.add(str(message))
            print(f"softargmax: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        others = warnings.showwarning
        warnings.showwarning = show
        for category in OUR_WARNINGS:
            warnings.simplefilter("always", category)
        yield
