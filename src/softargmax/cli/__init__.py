"""Words -> calls: the command `softargmax`, one file per subcommand.

Exit codes: 0 done, 1 a check failed, 2 wrong input (one sentence on stderr says what and where), 70 a bug of ours (a
traceback), 130 interrupted, 128 + n ended by signal n (141: the reader of a pipe left).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

NEEDED = ("typer", "rich", "matplotlib", "pyarrow")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv` (without the program's name; None: what the shell gave) -> its exit code."""
    try:
        from softargmax.cli._outcome import outcome

        return outcome(lambda: _run(argv))
    except KeyboardInterrupt:  # before or after the command itself
        return 130


def _run(argv: Sequence[str] | None) -> None:
    if any(find_spec(name) is None for name in NEEDED):
        print('the command line needs the app extra: pip install "softargmax[app]"', file=sys.stderr)
        raise SystemExit(2)
    from softargmax.cli._app import app

    app(args=argv, prog_name="softargmax")
