"""An array file (.npy, .npz) -> its arrays. Nothing is ever unpickled: a file that needs it is refused."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from softargmax.typing import Array

_ZIP, _NPY, _PICKLE = (b"PK\x03\x04", b"PK\x05\x06"), b"\x93NUMPY", b"\x80"
_PIECE = 1 << 20


def existing_file(path: str | os.PathLike[str], extensions: tuple[str, ...]) -> Path:
    """`path` if it names a file with bytes in it and one of the `extensions`; else ValueError saying what to do."""
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give a file: {listed(extensions, 'or')}")
    if not file.exists():
        if file.is_symlink():
            raise ValueError(f"there is no file {file}: it is a link that leads to none")
        if not file.parent.is_dir():
            raise ValueError(f"there is no file {file}: there is no folder {file.parent}")
        raise ValueError(f"there is no file {file}{did_you_mean(file.name, [p.name for p in file.parent.iterdir()])}")
    if file.suffix.lower() not in extensions:
        raise ValueError(f"{file}: cannot read a file of this kind; supported are {listed(extensions)}")
    if file.is_file() and file.stat().st_size == 0:  # a pipe has no size
        raise ValueError(f"{file} is empty (0 bytes); write it again")
    return file


def read_npy(file: Path) -> Array:
    """The array of a .npy file."""
    with file.open("rb") as stream:
        _check_npy(file, stream)
        array = _load(file, stream)
    assert isinstance(array, np.ndarray)
    return array


def npz_names(file: Path) -> tuple[str, ...]:
    """The names of the arrays in a .npz file; other members of the zip are none."""
    with file.open("rb") as stream:
        members = _open_npz(file, stream).zip.namelist()
    return tuple(name.removesuffix(".npy") for name in members if name.endswith(".npy"))


def read_npz(file: Path, name: str) -> Array:
    """One array of a .npz file."""
    with file.open("rb") as stream:
        archive = _open_npz(file, stream)
        with _told_if_damaged(file, name):
            array = archive[f"{name}.npy"]
    if not isinstance(array, np.ndarray):  # a .npy in name only
        raise ValueError(f"{file}: `{name}` is not an array; write the file with numpy.savez")
    return array


@dataclass(frozen=True)
class StoredArray:
    """An array in a file whose header was read, and whose numbers were not."""

    file: Path
    name: str | None
    """In a .npz; a .npy file holds one array."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_columns: bool
    """Fortran order: the numbers of a column lie side by side."""

    def blocks(self, rows: int | None = None) -> Iterator[Array]:
        """The rows of an array (N, K) in order, at most `rows` at a time (None: all at once), one block at least.

        A block is in memory at a time, but for an array that is both compressed and stored by columns. ValueError where
        the file ends early or, of a .npz, at the end where its checksum is another.
        """
        n, k = self.shape
        step = max(1, n) if rows is None else rows
        counts = ((start, min(step, n - start)) for start in range(0, max(1, n), step))
        with _opened(self.file, self.name) as npy, _told_if_damaged(self.file, self.name):
            _header(npy)
            if not self.by_columns:
                yield from (_filled(np.empty((count, k), self.dtype), npy.stream) for _, count in counts)
                _to_the_end(npy.stream)
            elif npy.place is None:
                columns = _filled(np.empty((k, n), self.dtype), npy.stream)
                _to_the_end(npy.stream)
                yield from (columns[:, start : start + count].T for start, count in counts)
            else:
                first = npy.place + npy.stream.tell()
                _to_the_end(npy.stream)
                yield from (self._out_of_columns(first, start, count) for start, count in counts)

    def _out_of_columns(self, first: int, start: int, count: int) -> Array:
        (n, k), size = self.shape, self.dtype.itemsize
        columns = np.empty((k, count), self.dtype)
        with self.file.open("rb") as raw:
            for j in range(k):
                raw.seek(first + (j * n + start) * size)
                _filled(columns[j], raw)
        return columns.T


def stored_array(file: Path, name: str | None = None) -> StoredArray:
    """The array of a .npy file, or the one called `name` in a .npz, as its header says."""
    with _opened(file, name) as npy, _told_if_damaged(file, name):
        shape, by_columns, dtype = _header(npy)
        if not 0 <= math.prod(shape) * dtype.itemsize <= npy.size - npy.stream.tell():
            raise ValueError("it holds fewer numbers than its header says")
    return StoredArray(file, name, shape, dtype, by_columns)


class _Npy(NamedTuple):
    stream: IO[bytes]
    size: int
    place: int | None  # where the stream begins in the file; None if it is compressed there


@contextlib.contextmanager
def _opened(file: Path, name: str | None) -> Iterator[_Npy]:
    """The bytes of a .npy file, or of an array in a .npz."""
    with contextlib.ExitStack() as opened:
        raw = opened.enter_context(file.open("rb"))
        if name is None:
            _check_npy(file, raw)
            yield _Npy(raw, os.fstat(raw.fileno()).st_size, 0)
            return
        archive = _open_npz(file, raw)
        with _told_if_damaged(file, name):
            info = archive.zip.getinfo(f"{name}.npy")
            member = opened.enter_context(archive.zip.open(info))
            is_array = member.peek(len(_NPY)).startswith(_NPY)
            place = _place(raw, info)
        if not is_array:  # a .npy in name only
            raise ValueError(f"{file}: `{name}` is not an array; write the file with numpy.savez")
        yield _Npy(member, info.file_size, place)


def _place(raw: BinaryIO, info: zipfile.ZipInfo) -> int | None:
    if info.compress_type != zipfile.ZIP_STORED:
        return None
    raw.seek(info.header_offset + 26)
    n_name, n_extra = struct.unpack("<HH", raw.read(4))  # not those of the directory: the extra fields differ
    return int(info.header_offset + 30 + n_name + n_extra)


@contextlib.contextmanager
def _told_if_damaged(file: Path, name: str | None) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # foreign bytes: the zip, zlib and NumPy readers raise a dozen kinds
        what = f"{file}" if name is None else f"{file}: array `{name}`"
        raise ValueError(f"{what} cannot be read: {reason(error)}") from None


def _header(npy: _Npy) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(npy.stream)
    of_version = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, by_columns, dtype = of_version[version](npy.stream)
    if dtype.hasobject:
        raise ValueError("allow_pickle=False")
    return shape, by_columns, dtype


def _filled(array: Array, stream: IO[bytes]) -> Array:
    into = array.reshape(-1).view(np.uint8)
    for start in range(0, len(into), _PIECE):
        piece = stream.read(min(_PIECE, len(into) - start))
        into[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        if len(piece) < min(_PIECE, len(into) - start):
            raise ValueError("it ends early")
    return array


def _to_the_end(stream: IO[bytes]) -> None:
    """Of a member of a zip, whose checksum is compared at its end."""
    while stream.read(_PIECE):
        pass


def _open_npz(file: Path, stream: BinaryIO) -> Any:
    start = stream.read(6)
    stream.seek(0)
    if not start.startswith(_ZIP):
        raise ValueError(f"{file} is not a .npz file: {_instead(start)}")
    return _load(file, stream)


def _check_npy(file: Path, stream: BinaryIO) -> None:
    start = stream.read(6)
    stream.seek(0)
    if not start.startswith(_NPY):
        raise ValueError(f"{file} is not a .npy file: {_instead(start)}")


def _load(file: Path, stream: BinaryIO) -> Any:
    with _told_if_damaged(file, None):
        return np.load(stream, allow_pickle=False)


def _instead(start: bytes) -> str:
    if start.startswith(_NPY):
        return "it holds one array, as numpy.save writes it; name it .npy"
    if start.startswith(_ZIP):
        return "it is a zip, as numpy.savez writes it; name it .npz"
    if start.startswith(_PICKLE):
        return "it holds a pickle, which can run code and is never read; write the arrays with numpy.savez"
    return (
        "it does not begin like one (is it text?); write the arrays with numpy.savez, or name it .csv if it is a table"
    )


def reason(error: Exception) -> str:
    """Why a file cannot be read, where a library raised `error` over its bytes."""
    if "allow_pickle" in str(error):
        return (
            "it holds Python objects as a pickle, which can run code and is never read; "
            "write plain numbers (and class names as a unicode array) with numpy.savez"
        )
    text = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"it is damaged or cut short ({text}); write it again"


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `b` and `c`: as a reader wants a list of names, the first dozen of them."""
    shown = [f"`{name}`" for name in names[:12]]
    if len(names) > 12:
        shown.append(f"{len(names) - 12} more")
    return f" {last} ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown) or "nothing"


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The one of `names` that `name` may be a misspelling of, if only in capitals; never itself."""
    others = {other.casefold(): other for other in names if other != name}
    return next((others[near] for near in get_close_matches(name.casefold(), others, n=1)), None)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """`; did you mean ...?` with the nearest of `names`, or nothing."""
    near = nearest(name, names)
    return "" if near is None else f"; did you mean `{near}`?"
