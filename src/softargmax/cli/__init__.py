"""Words -> calls: the command `softargmax`, one file per subcommand.

Exit codes: 0 done, 1 a check failed, 2 wrong input (one sentence on stderr says what and where), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

NEEDED = ("typer", "rich", "matplotlib", "pyarrow")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv` (without the program's name; None: what the shell gave) -> its exit code."""
    if any(find_spec(name) is None for name in NEEDED):
        print('the command line needs the app extra: pip install "softargmax[app]"', file=sys.stderr)
        return 2
    try:
        from softargmax.cli._app import run

        return run(argv)
    except KeyboardInterrupt:  # before or after the command itself
        return 130
