"""Bytes -> a whole file or none: written beside its final name, flushed to disk, then renamed.

An interrupted or failed write leaves the old file, or no file, never half a file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to write bytes into; it takes the name `path` only when the block ends without an error.

    Raises ValueError naming `path` if it is a folder, or its folder does not exist, cannot be written or is full.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"cannot write {target}: it is a folder; give the name of a file")
    target = target.resolve()  # a link stays a link: what it points to is replaced
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with beside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                beside.chmod(target.stat().st_mode & 0o777)
            beside.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"cannot write {path}: {reason}; nothing was changed there") from error


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path`, all of it or nothing (see whole_file)."""
    with whole_file(path) as file:
        file.write(content)
