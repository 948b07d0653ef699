"""What a command ended with -> the words on stderr and the exit code: the only place that decides both."""

from __future__ import annotations

import contextlib
import dis
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from softargmax import _checks

WRONG_INPUT, INTERRUPTED, CLOSED_PIPE = 2, 130, 141  # 128 + the signal, as a shell counts
OUR_WARNINGS = (
    _checks.LikelyProbabilitiesWarning,
    _checks.CalibrationDegenerateWarning,
    _checks.AbsentClassesWarning,
    _checks.LiftedLogitsWarning,
)


@contextlib.contextmanager
def spoken() -> Iterator[None]:
    """Turn mistakes of the user into a sentence and exit code 2, and our warnings into a line each; bugs pass."""
    with _warnings_as_lines():
        try:
            yield
        except KeyboardInterrupt:
            print("softargmax: interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError as error:
            raise SystemExit(closed_output(error)) from None
        except OSError as error:
            name = f": {error.filename}" if error.filename else ""
            raise SystemExit(fail(f"{(error.strerror or str(error)).lower()}{name}")) from None
        except MemoryError as error:
            raise SystemExit(fail(f"not enough memory{f': {error}' if str(error) else ''}")) from None
        except (ValueError, TypeError) as error:
            if not _worded(error):
                raise
            raise SystemExit(fail(str(error))) from None


def fail(sentence: str) -> int:
    """Say what was wrong with the input -> exit code 2."""
    print(f"softargmax: error: {' '.join(sentence.split())}", file=sys.stderr)
    return WRONG_INPUT


def closed_output(error: OSError) -> int:
    """Standard output can take no more: quietly if its reader left (`| head`), else with the reason -> exit code."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter flushes, and fails, again
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    return fail(f"cannot write to standard output: {(error.strerror or str(error)).lower()}")


def _worded(error: BaseException) -> bool:
    """Whether a `raise` statement made the error. The interpreter's own ("unsupported operand") is a bug of ours."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    code = b"" if step is None else step.tb_frame.f_code.co_code
    return step is not None and step.tb_lasti < len(code) and code[step.tb_lasti] == dis.opmap["RAISE_VARARGS"]


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    said: set[str] = set()

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
        if str(message) not in said:
            said.add(str(message))
            print(f"softargmax: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        others = warnings.showwarning
        warnings.showwarning = show
        for category in OUR_WARNINGS:
            warnings.simplefilter("always", category)
        yield
