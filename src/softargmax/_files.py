"""Bytes -> a whole file or none: written beside its final name, flushed to disk, then renamed.

An interrupted or failed write leaves the old file, or no file, never half a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to write bytes into; it takes the name `path` only when the block ends without an error.

    Raises ValueError naming `path` if it is a folder, a device or a pipe, if it may not be written, or if its folder
    does not exist, cannot be written or is full. A link stays a link: what it points to is replaced.
    """
    target = Path(os.path.realpath(path))
    _refuse_what_is_no_file(path, target)
    # a short name: one made of the target's could be longer than the file system allows
    beside = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            with beside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                beside.chmod(target.stat().st_mode & 0o777)
            beside.replace(target)
            _flush(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.ENOENT:
            there = target.parent.is_dir()
            reason = "its folder takes no files" if there else f"there is no folder {target.parent}"
        raise ValueError(f"cannot write {path}: {reason}; nothing was changed there") from error


def _flush(folder: Path) -> None:
    """Bring the names in a folder to disk: after a power failure, what is written next does not stand there alone."""
    with contextlib.suppress(OSError):  # a folder may not be readable, or not be opened as a file
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse_what_is_no_file(path: str | os.PathLike[str], target: Path) -> None:
    # renaming over a device or a pipe would put a file in its place
    try:
        mode = target.lstat().st_mode
    except OSError:  # not there, or not to be seen: opening will tell
        return
    if stat.S_ISDIR(mode):
        raise ValueError(f"cannot write {path}: it is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise ValueError(f"cannot write {path}: it is no regular file (a device, a pipe or a link to itself)")
    if not os.access(target, os.W_OK):
        raise ValueError(f"cannot write {path}: it is read-only; nothing was changed there")


def half_files(folder: Path) -> list[Path]:
    """Files in `folder` that have not got their names: a program was killed while it wrote them, or writes them now."""
    return list(folder.glob(f".{'[0-9a-f]' * 16}.part"))


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path`, all of it or nothing (see whole_file)."""
    with whole_file(path) as file:
        file.write(content)
