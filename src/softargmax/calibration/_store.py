"""A fitted calibrator -> a JSON file -> the same calibrator, bit for bit. Reading runs no code and guesses nothing."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from softargmax._files import write_whole
from softargmax.typing import Float64Array

FORMAT = "softargmax calibrator"
VERSION = 1
_LARGEST_FILE = 1 << 26  # bytes


def save(calibrator: Any, path: str | os.PathLike[str]) -> None:
    """Write `calibrator` to `path`, all of it or nothing."""
    classes = calibrator.classes_.tolist()
    for label in classes:
        if not isinstance(label, (str, int, float, bool)):
            raise ValueError(f"classes can be saved if they are strings or numbers; got {type(label).__name__}")
    names = getattr(calibrator, "feature_names_in_", None)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "method": type(calibrator).__name__,
        "classes": None if calibrator.classes is None else classes,
        "keep_zero": bool(calibrator.keep_zero),
        "n_features": int(calibrator.n_features_in_),
        "feature_names": None if names is None else [str(name) for name in names],
        "absent_classes": [_plain(label) for label in calibrator.absent_classes_.tolist()],
        "drop": _plain(calibrator._drop),
        "drop_is_seen": bool(calibrator._drop_is_seen),
        "n_lifted": int(calibrator.n_lifted_),
        "nll_before": _plain(calibrator.nll_before_),
        "nll_after": _plain(calibrator.nll_after_),
        "state": {name: _plain(value) for name, value in calibrator._state().items()},
    }
    write_whole(path, (json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def load(path: str | os.PathLike[str]) -> Any:
    """Read a calibrator that was written by `save`: predictions are the same, bit for bit.

    Raises ValueError with one sentence for a file that is missing, too large, no JSON, of another format or version, or
    that holds anything missing, unknown, repeated or out of range. Loading runs no code from the file.
    """
    state = State(_document(path), f"cannot load {path}")
    if state.text("format") != FORMAT:
        state.fail(f"it is not a {FORMAT} file")
    if state.count("version") != VERSION:
        state.fail(f"it has version {state.count('version')}; this release reads version {VERSION}")
    from softargmax import calibration

    method = state.text("method")
    if method not in calibration.__all__ or not isinstance(found := getattr(calibration, method), type):
        state.fail(f"its method {method!r} is not known to this release")
    classes = state.labels("classes")
    calibrator = found(classes=classes, keep_zero=state.flag("keep_zero"))
    calibrator.n_features_in_ = state.count("n_features")
    if not 1 <= calibrator.n_features_in_ < 1 << 31:
        state.fail("`n_features` is out of range")
    n_classes = max(calibrator.n_features_in_, 2)
    try:
        calibrator.classes_ = calibrator._class_list(n_classes)
    except ValueError as error:
        state.fail(str(error))
    names = state.labels("feature_names")
    if names is not None:
        if len(names) != calibrator.n_features_in_ or not all(isinstance(name, str) for name in names):
            state.fail(f"`feature_names` must be {calibrator.n_features_in_} strings")
        calibrator.feature_names_in_ = np.asarray(names, dtype=object)
    absent = state.labels("absent_classes") or []
    if not set(absent) <= set(calibrator.classes_.tolist()):
        state.fail("`absent_classes` are not among the classes")
    calibrator.absent_classes_ = np.asarray(absent, dtype=calibrator.classes_.dtype)
    calibrator._drop = state.positive("drop")
    calibrator._drop_is_seen = state.flag("drop_is_seen")
    calibrator.n_lifted_ = state.count("n_lifted")
    calibrator.nll_before_ = state.number("nll_before")
    calibrator.nll_after_ = state.number("nll_after")
    inner = state.inner("state")
    calibrator._set_state(inner)
    inner.finish()
    state.finish()
    calibrator._is_fitted = True
    return calibrator


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN; they are written as strings."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def _document(path: str | os.PathLike[str]) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key is repeated")
        return result

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        if Path(path).stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it is larger than {_LARGEST_FILE} bytes")
        content = Path(path).read_bytes()
        document = json.loads(content, object_pairs_hook=unique, parse_constant=no_constant)
    except OSError as error:
        raise ValueError(f"cannot load {path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:  # also what is no UTF-8
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"cannot load {path}: it is not a calibrator file in JSON: {reason}") from None
    if not isinstance(document, dict):
        raise ValueError(f"cannot load {path}: it is not a {FORMAT} file")
    return document


class State:
    """A JSON object whose values are taken out one by one, each with its type; what is left at the end is an error."""

    def __init__(self, values: dict[str, Any], context: str) -> None:
        self._values = dict(values)
        self._taken: dict[str, Any] = {}
        self._context = context

    def fail(self, reason: str) -> None:
        """Raise the ValueError that names the file."""
        raise ValueError(f"{self._context}: {reason}")

    def finish(self) -> None:
        """Raise if a key was not taken."""
        if self._values:
            self.fail(f"it has keys that this release does not know: {', '.join(sorted(self._values))}")

    def _take(self, name: str, wanted: str, accepts: Any) -> Any:
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
        return int(self._take(name, "an integer, 0 or more", lambda v: type(v) is int and v >= 0))

    def number(self, name: str) -> float:
        """A float; "inf", "-inf" and "nan" are written as strings."""
        return float(self._take(name, "a number", _is_number))

    def positive(self, name: str) -> float:
        """A finite float above 0."""
        return float(self._take(name, "a finite number above 0", lambda v: _is_number(v) and 0 < float(v) < math.inf))

    def labels(self, name: str) -> list[Any] | None:
        """A list of strings or numbers, or null."""
        kinds = (str, int, float, bool)
        accepts = lambda v: v is None or (isinstance(v, list) and all(isinstance(item, kinds) for item in v))  # noqa: E731
        value = self._take(name, "null or a list of strings or numbers", accepts)
        return None if value is None else list(value)

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
        return State(self._take(name, "an object", lambda v: isinstance(v, dict)), self._context)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("inf", "-inf", "nan")
    if type(value) is int:
        return abs(value) < 1 << 53
    return isinstance(value, float)
