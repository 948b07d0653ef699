"""A fitted calibrator -> a JSON file -> the same calibrator, bit for bit. Reading runs no code and guesses nothing.

Many numbers go to a safetensors file beside it. Its name holds a part of its SHA-256, so that another save has another
name: it is written first, the JSON that names it takes its place last, and what the JSON before it named goes then. At
any moment the JSON that is there finds the arrays that it was saved with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as serialized

from softargmax._files import write_whole
from softargmax.calibration._base import LogitCalibrator
from softargmax.typing import Float64Array

FORMAT = "softargmax calibrator"
VERSION = 2
# of all arrays, in JSON: a person can read and compare 100 kB; what is longer only programs read
_MOST_NUMBERS = 4096
_LARGEST_FILE = 1 << 24  # bytes of JSON, without the arrays
_MOST_VALUES = 1 << 20  # in the JSON; a million of the smallest take 100 MB in Python
_ADDED = ("decay",)  # options that the first files of version 2 had not: they have their defaults there
_MOST_CLASSES = 1 << 23  # the numbers of that many classes take 64 MiB


def save(calibrator: LogitCalibrator, path: str | os.PathLike[str]) -> None:
    """Write `calibrator` to `path`, all of it or nothing, and many numbers to a file beside it."""
    content, beside, arrays = _contents(calibrator, path)
    before = _arrays_of(path)
    if beside is not None:
        write_whole(beside, arrays)
    try:
        write_whole(path, content)
    except BaseException:
        _remove(beside, but=_arrays_of(path))
        raise
    _remove(before, but=_arrays_of(path))  # asked again: another program may have saved meanwhile


def load(path: str | os.PathLike[str]) -> Any:
    """Read a calibrator that was written by `save`: predictions are the same, bit for bit.

    Raises ValueError with one sentence for a file that is missing, too large, no JSON, of another format or version, or
    that holds anything missing, unknown, repeated or out of range, and for an arrays file beside it that is not the one
    it was saved with. Loading runs no code from the files.

    >>> import tempfile
    >>> from softargmax import TemperatureScaling
    >>> calibrator = TemperatureScaling().fit([[4, 0], [3, 0], [0, 5], [0, 2], [4, 0]], [0, 0, 1, 1, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     calibrator.save(f"{folder}/c.json")
    ...     load(f"{folder}/c.json").temperature_ == calibrator.temperature_
    True
    """
    try:
        state = _opened(path)
        calibrator = _restored(state)
        state.finish()
    except RecursionError:
        raise ValueError(f"cannot load {path}: it is nested too deeply") from None
    return calibrator


# ---- what is written ----


def _contents(calibrator: LogitCalibrator, path: str | os.PathLike[str]) -> tuple[bytes, Path | None, bytes]:
    """The JSON, and if there are many numbers, the name of the file beside it and what is in that."""
    if calibrator.n_features_in_ > _MOST_CLASSES:
        raise ValueError(f"a calibrator of up to {_MOST_CLASSES} classes can be saved; got {calibrator.n_features_in_}")
    record = _record(calibrator)
    tensors: dict[str, Float64Array] = {}
    document = _plain(record, tensors)
    beside, arrays, named = None, b"", None
    if sum(array.size for array in tensors.values()) > _MOST_NUMBERS:
        arrays = serialized(tensors)
        digest = hashlib.sha256(arrays).hexdigest()
        beside = _name(Path(os.path.realpath(path)), digest)  # where a link points to: that file is replaced
        named = {"file": beside.name, "bytes": len(arrays), "sha256": digest}
    else:
        document = _plain(record)
    document = {"format": FORMAT, "version": VERSION, **document, "arrays": named}
    # a lone surrogate, as in a name of a file that is no UTF-8, becomes the escape that JSON has for it
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    content = text.encode(errors="backslashreplace")
    if reason := _too_large(content):
        raise ValueError(f"cannot write {path}: {reason}; nothing was changed there")
    return content, beside, arrays


def _record(calibrator: LogitCalibrator) -> dict[str, Any]:
    classes = calibrator.classes_.tolist()
    names = list(map(str, getattr(calibrator, "feature_names_in_", [])))
    for name, labels in (("classes", classes), ("feature names", names)):
        if not _are_labels(labels):
            raise ValueError(f"{name} can be saved if they are {_LABELS}; got {labels!r:.60}")
    params = calibrator.get_params(deep=False)
    del params["classes"]
    return {
        "method": type(calibrator).__name__,
        "params": params,
        "classes": None if calibrator.classes is None else classes,
        "n_features": int(calibrator.n_features_in_),
        "feature_names": names or None,
        "absent_classes": calibrator.absent_classes_.tolist(),
        "drop": calibrator._drop,
        "drop_is_seen": bool(calibrator._drop_is_seen),
        "n_lifted": int(calibrator.n_lifted_),
        "nll_before": calibrator.nll_before_,
        "nll_after": calibrator.nll_after_,
        "state": calibrator._state(),
    }


def _plain(value: Any, tensors: dict[str, Float64Array] | None = None, name: str = "") -> Any:
    """As JSON has it: no infinity and no NaN, which become strings. Arrays go to `tensors` and leave their name there.

    Without `tensors` they become lists. A calibrator becomes its record.
    """
    if isinstance(value, LogitCalibrator):
        value = _record(value)
    if isinstance(value, dict):
        return {key: _plain(item, tensors, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        array = np.asarray(value, np.float64, order="C")
        if tensors is None:
            return _plain(array.tolist())
        tensors[name] = array
        return {"tensor": name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(f"`{name}` cannot be saved: it is a {type(value).__name__}; numbers, text and lists can")
    return value


def _name(target: Path, digest: str) -> Path:
    """The arrays file beside the JSON `target`."""
    return target.with_name(f"{target.stem}.{digest[:16]}.safetensors")


def _remove(file: Path | None, *, but: Path | None) -> None:
    if file is not None and file != but:
        with contextlib.suppress(OSError):
            file.unlink()


def _arrays_of(path: str | os.PathLike[str]) -> Path | None:
    """The arrays file that the calibrator file at `path` has of its own; None if there is none, or no such calibrator.

    It is called after `path`: a JSON that was renamed or copied here may share its arrays with another.
    """
    target = Path(os.path.realpath(path))
    try:
        arrays = _document(target)["arrays"]
        own = _name(target, arrays["sha256"])
    except (ValueError, KeyError, TypeError):
        return None
    return own if arrays.get("file") == own.name else None


# ---- what is read ----


def _opened(path: str | os.PathLike[str]) -> State:
    """What the file holds, with the arrays that it names."""
    context = f"cannot load {path}"
    while True:
        document = _document(path)
        state = State(_of_this_version(document, context), context)
        named = state.maybe_inner("arrays")
        if named is None:
            return state
        try:
            state.tensors.update(_tensors(path, named))
            return state
        except FileNotFoundError:
            if _document(path) == document:  # else it was saved anew meanwhile
                state.fail(f"its arrays file {named.text('file')!r:.80} is not beside it; keep the two together")


def _restored(state: State) -> LogitCalibrator:
    """The calibrator of a record."""
    from softargmax import calibration

    method = state.text("method")
    found = getattr(calibration, method, None) if method in calibration.__all__ else None
    if not (isinstance(found, type) and issubclass(found, LogitCalibrator)):
        state.fail(f"its method {method!r:.80} is not known to this release")
    classes = state.labels("classes")
    options = state.inner("params")
    defaults = found().get_params(deep=False)
    params = {
        name: options.flag(name) if isinstance(default, bool) else options.option(name)
        for name, default in defaults.items()
        if name != "classes" and (name in options or name not in _ADDED)
    }
    calibrator: LogitCalibrator = found(classes=classes, **params)
    try:
        calibrator._check_params()
    except (TypeError, ValueError) as error:  # TypeError: a word where it compares numbers
        state.fail(str(error))
    calibrator.n_features_in_ = state.count("n_features")
    if not 1 <= calibrator.n_features_in_ <= _MOST_CLASSES:
        state.fail("`n_features` is out of range")
    try:
        calibrator.classes_ = calibrator._class_list(max(calibrator.n_features_in_, 2))
    except ValueError as error:
        state.fail(str(error))
    names = state.labels("feature_names")
    if names is not None:
        if len(names) != calibrator.n_features_in_ or not all(isinstance(name, str) for name in names):
            state.fail(f"`feature_names` must be {calibrator.n_features_in_} strings")
        calibrator.feature_names_in_ = np.asarray(names, dtype=object)
    absent = state.labels("absent_classes") or []
    known = range(len(calibrator.classes_)) if classes is None else set(classes)
    if not all(label in known for label in absent):
        state.fail("`absent_classes` are not among the classes")
    calibrator.absent_classes_ = np.asarray(absent, dtype=calibrator.classes_.dtype)
    calibrator._drop = state.positive("drop")
    calibrator._drop_is_seen = state.flag("drop_is_seen")
    calibrator.n_lifted_ = state.count("n_lifted")
    calibrator.nll_before_ = state.number("nll_before")
    calibrator.nll_after_ = state.number("nll_after")
    calibrator._set_state(state.inner("state"))
    calibrator._is_fitted = True
    return calibrator


def _of_this_version(document: dict[str, Any], context: str) -> dict[str, Any]:
    """What the file holds, as this version has it."""
    head = State(document, context)
    if head.text("format") != FORMAT:
        head.fail(f"it is not a {FORMAT} file")
    version = head.count("version")
    if not 1 <= version <= VERSION:
        head.fail(f"it has version {version}; this release reads versions 1 to {VERSION}")
    rest = {name: value for name, value in document.items() if name not in ("format", "version")}
    if version == 1:  # of TemperatureScaling alone: one option, no arrays
        rest |= {"params": {name: rest.pop(name) for name in ("keep_zero",) if name in rest}, "arrays": None}
    return rest


def _document(path: str | os.PathLike[str]) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key is repeated")
        return result

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if reason := _too_large(content):
            raise ValueError(reason)
        document = json.loads(content, object_pairs_hook=unique, parse_constant=no_constant)
    except OSError as error:
        raise ValueError(f"cannot load {path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:  # also what is no UTF-8
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"cannot load {path}: it is not a calibrator file in JSON: {reason}") from None
    if not isinstance(document, dict):
        raise ValueError(f"cannot load {path}: it is not a {FORMAT} file")
    return document


def _too_large(content: bytes) -> str:
    """Why the JSON is too large to be read; empty if it is not."""
    if len(content) > _LARGEST_FILE:
        return f"it is larger than {_LARGEST_FILE} bytes"
    if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        return f"it holds more than {_MOST_VALUES} values"
    return ""


def _tensors(path: str | os.PathLike[str], named: State) -> dict[str, Float64Array]:
    """The arrays of the file that `named` names, which must be the one that it was saved with."""
    name, size, digest = named.text("file"), named.count("bytes"), named.text("sha256")
    if not _is_arrays_name(name):
        named.fail("`file` must be the name of a .safetensors file in the same folder")
    what = f"its arrays file {name!r:.80}"
    folders = [Path(path).parent, Path(os.path.realpath(path)).parent]  # of the link, and of what it points to
    try:
        file = next((folder / name for folder in folders if (folder / name).exists()), folders[0] / name)
        about = file.stat()
        is_it = stat.S_ISREG(about.st_mode) and about.st_size == size
        content = file.read_bytes() if is_it else b""
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no file can have that name
        named.fail(f"{what} cannot be read: {(getattr(error, 'strerror', None) or str(error)).lower()}")
    if not is_it:
        named.fail(f"{what} has not the {size} bytes that it was saved with: it is damaged or of another save")
    if hashlib.sha256(content).hexdigest() != digest:
        named.fail(f"{what} has not the SHA-256 that it was saved with: it is damaged or of another save")
    tensors = {}
    try:
        for key, about_it in deserialize(content):  # type: ignore[no-untyped-call]
            if about_it["dtype"] != "F64":
                named.fail(f"{what} holds {about_it['dtype']} where F64 is wanted")
            tensors[key] = np.frombuffer(about_it["data"], "<f8").reshape(about_it["shape"]).astype(np.float64)
    except SafetensorError as error:
        named.fail(f"{what} is no safetensors file: {error}")
    return tensors


def _is_arrays_name(name: Any) -> bool:
    """Whether it names a file in the same folder, and one that may hold arrays."""
    return isinstance(name, str) and name.endswith(".safetensors") and os.path.basename(name) == name


def _some(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(f"{ascii(name)[1:-1]:.40}" for name in listed[:5]) + (", …" if len(listed) > 5 else "")


class State:
    """A JSON object whose values are taken out one by one, each with its type; what is left at the end is an error.

    `tensors` are the arrays of the file beside it, which values name; those that are taken leave them.
    """

    def __init__(self, values: dict[str, Any], context: str, tensors: dict[str, Float64Array] | None = None) -> None:
        self._values = dict(values)
        self._taken: dict[str, Any] = {}
        self._context = context
        self.tensors = {} if tensors is None else tensors
        self._within: list[State] = []

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def fail(self, reason: str) -> NoReturn:
        """Raise the ValueError that names the file."""
        raise ValueError(f"{self._context}: {reason:.400}")

    def finish(self) -> None:
        """Raise if a key or an array was not taken, here or in an object within."""
        if self._values:
            self.fail(f"it has keys that this release does not know: {_some(self._values)}")
        for state in self._within:
            state.finish()
        if self.tensors:
            self.fail(f"its arrays file has arrays that it does not name: {_some(self.tensors)}")

    def _take(self, name: str, wanted: str, accepts: Callable[[Any], bool]) -> Any:
        if name in self._values:
            self._taken[name] = self._values.pop(name)
        if name not in self._taken:
            self.fail(f"`{name}` is missing")
        value = self._taken[name]
        if not accepts(value):
            self.fail(f"`{name}` must be {wanted}")
        return value

    def text(self, name: str) -> str:
        """A string."""
        return str(self._take(name, "a string", lambda v: isinstance(v, str)))

    def flag(self, name: str) -> bool:
        """A bool."""
        return bool(self._take(name, "true or false", lambda v: isinstance(v, bool)))

    def count(self, name: str) -> int:
        """An integer, not negative."""
        return int(self._take(name, "an integer, 0 or more", lambda v: type(v) is int and 0 <= v < 1 << 63))

    def number(self, name: str) -> float:
        """A float; "inf", "-inf" and "nan" are written as strings."""
        return float(self._take(name, "a number", _is_number))

    def positive(self, name: str) -> float:
        """A finite float above 0."""
        return float(self._take(name, "a finite number above 0", lambda v: _is_number(v) and 0 < float(v) < math.inf))

    def labels(self, name: str) -> list[Any] | None:
        """A list of strings or numbers, or null."""
        accepts = lambda v: v is None or (isinstance(v, list) and _are_labels(v))  # noqa: E731
        value = self._take(name, f"null or a list of {_LABELS}", accepts)
        return None if value is None else list(value)

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        accepts = lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v)  # noqa: E731
        return list(self._take(name, "a list of strings", accepts))

    def option(self, name: str) -> Any:
        """What a constructor may be given: null, a bool, a number, text, an array, or lists of these."""
        value = self._take(name, "null, true, false, a number, text, or lists of these", lambda v: True)
        return self._option(name, value)

    def _option(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._option(name, item) for item in value]
        if isinstance(value, dict):
            return self._tensor(name, value)
        if isinstance(value, int) and abs(value) >= 1 << 63:
            self.fail(f"`{name}` must be below 2**63")
        return float(value) if value in _NOT_FINITE else value

    def array(self, name: str, shape: tuple[int | None, ...], *, finite: bool = True) -> Float64Array:
        """Numbers of a shape, as lists or in the file beside it; None in `shape` is any length, 1 or more."""
        value = self._take(name, "numbers", lambda v: isinstance(v, (list, dict, np.ndarray)))
        if isinstance(value, dict):
            value = self._tensor(name, value)
        elif isinstance(value, list):
            value = _nested(value, len(shape))
        extents = ", ".join("any" if length is None else str(length) for length in shape)
        wanted = f"{'finite ' if finite else ''}numbers of shape ({extents})"
        fits = (
            value is not None
            and value.ndim == len(shape)
            and all(there if here is None else there == here for here, there in zip(shape, value.shape, strict=True))
        )
        if not fits or (finite and not np.isfinite(value).all()):
            self.fail(f"`{name}` must be {wanted}")
        self._taken[name] = value
        return value.copy()

    def _tensor(self, name: str, reference: dict[str, Any]) -> Float64Array:
        key = reference.get("tensor")
        if len(reference) != 1 or not isinstance(key, str) or key not in self.tensors:
            self.fail(f"`{name}` must name one of the arrays in the file beside it, each of which is named once")
        return self.tensors.pop(key)

    def columns(self, name: str, n_columns: int) -> list[Float64Array]:
        """Lists of finite numbers, all of one length, at least 1."""

        def accepts(value: Any) -> bool:
            lists = isinstance(value, list) and len(value) == n_columns and all(isinstance(c, list) for c in value)
            return (
                lists
                and 1 <= len(value[0]) <= 10_000
                and len({len(c) for c in value}) == 1
                and all(_is_number(item) and math.isfinite(float(item)) for c in value for item in c)
            )

        value = self._take(name, f"{n_columns} lists of finite numbers, of one length", accepts)
        return [np.array(column, dtype=np.float64) for column in value]

    def inner(self, name: str) -> State:
        """An object."""
        return self._inner(self._take(name, "an object", lambda v: isinstance(v, dict)))

    def maybe_inner(self, name: str) -> State | None:
        """An object, or null."""
        value = self._take(name, "an object or null", lambda v: v is None or isinstance(v, dict))
        return None if value is None else self._inner(value)

    def inners(self, name: str) -> list[State]:
        """A list of objects."""
        accepts = lambda v: isinstance(v, list) and all(isinstance(item, dict) for item in v)  # noqa: E731
        return [self._inner(value) for value in self._take(name, "a list of objects", accepts)]

    def calibrators(self, name: str) -> list[LogitCalibrator]:
        """A list of fitted calibrators."""
        return [_restored(state) for state in self.inners(name)]

    def _inner(self, values: dict[str, Any]) -> State:
        state = State(values, self._context, self.tensors)
        self._within.append(state)
        return state


_NOT_FINITE = ("inf", "-inf", "nan")


def search_state(calibrator: Any) -> dict[str, Any]:
    """What a file keeps of how the search of a method ended."""
    return {
        "converged": calibrator.converged_,
        "n_iter": calibrator.n_iter_,
        "grad_norm": calibrator.grad_norm_,
        "at_bound": calibrator.at_bound_,
    }


def set_search_state(calibrator: Any, state: State) -> None:
    """Take it out again."""
    calibrator.converged_ = state.flag("converged")
    calibrator.n_iter_ = state.count("n_iter")
    calibrator.grad_norm_ = state.number("grad_norm")
    calibrator.at_bound_ = state.flag("at_bound")


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in _NOT_FINITE
    if type(value) is int:
        return abs(value) < 1 << 53
    return isinstance(value, float)


# NumPy makes all strings as long as the longest: 2**25 characters take 128 MiB
_LABELS = "finite numbers or strings, of 1000 characters at most, and 2**25 were all as long as the longest"


def _are_labels(values: list[Any]) -> bool:
    longest = max((len(value) for value in values if isinstance(value, str)), default=0)
    return longest <= 1000 and longest * len(values) <= 1 << 25 and all(map(_is_label, values))


def _is_label(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _nested(value: list[Any], n_axes: int) -> Float64Array | None:
    """Lists of lists, `n_axes` deep, as an array; None unless they hold numbers and are of one length each."""
    shape = [len(value)]
    for _ in range(n_axes - 1):
        lengths = {len(row) if isinstance(row, list) else -1 for row in value}
        if len(lengths) != 1 or -1 in lengths:
            return None
        shape.append(*lengths)
        value = [item for row in value for item in row]
    return np.array(value, np.float64).reshape(shape) if all(map(_is_number, value)) else None
