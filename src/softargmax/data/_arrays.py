"""An array file (.npy, .npz) -> its arrays. Nothing is ever unpickled: a file that needs it is refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from softargmax.typing import Array

_ZIP, _NPY, _PICKLE = (b"PK\x03\x04", b"PK\x05\x06"), b"\x93NUMPY", b"\x80"


def existing_file(path: str | os.PathLike[str], extensions: tuple[str, ...]) -> Path:
    """`path` if it names a file with bytes in it and one of the `extensions`; else ValueError saying what to do."""
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give a file: {listed(extensions)}")
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
        start = stream.read(6)
        stream.seek(0)
        if not start.startswith(_NPY):
            raise ValueError(f"{file} is not a .npy file: {_instead(start)}")
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
        try:
            array = archive[f"{name}.npy"]
        except MemoryError:
            raise
        except Exception as error:  # foreign bytes: the zip, zlib and NumPy readers raise a dozen kinds
            raise ValueError(f"{file}: array `{name}` cannot be read: {reason(error)}") from None
    if not isinstance(array, np.ndarray):  # a .npy in name only
        raise ValueError(f"{file}: `{name}` is not an array; write the file with numpy.savez")
    return array


def _open_npz(file: Path, stream: BinaryIO) -> Any:
    start = stream.read(6)
    stream.seek(0)
    if not start.startswith(_ZIP):
        raise ValueError(f"{file} is not a .npz file: {_instead(start)}")
    return _load(file, stream)


def _load(file: Path, stream: BinaryIO) -> Any:
    try:
        return np.load(stream, allow_pickle=False)
    except MemoryError:
        raise
    except Exception as error:  # foreign bytes, as above
        raise ValueError(f"{file} cannot be read: {reason(error)}") from None


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


def listed(names: Sequence[str]) -> str:
    """`a`, `b` and `c`: as a reader wants a list of names, the first dozen of them."""
    shown = [f"`{name}`" for name in names[:12]]
    if len(names) > 12:
        shown.append(f"{len(names) - 12} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown) or "nothing"


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The one of `names` that `name` may be a misspelling of, if only in capitals; never itself."""
    others = {other.casefold(): other for other in names if other != name}
    return next((others[near] for near in get_close_matches(name.casefold(), others, n=1)), None)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """`; did you mean ...?` with the nearest of `names`, or nothing."""
    near = nearest(name, names)
    return "" if near is None else f"; did you mean `{near}`?"
