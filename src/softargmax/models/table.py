"""Columns of a table -> logits: the features that softmax regression is given, and the two of them as plain files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softargmax.data.columns import ColumnKind, Columns
from softargmax.models.softmax_regression import SoftmaxRegression
from softargmax.typing import Array, Float64Array

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

FORMAT = "softargmax table"
VERSION = 1
MODEL, ARRAYS = "model.json", "model.safetensors"
MANY = 100  # categories of all columns: from then on nearly all of the matrix is 0
WORDS, CHARACTERS = (1, 2), (2, 5)  # lengths of the n-grams
LARGEST = 1e100  # a feature: sums of squares are numbers
FAR = 3  # times the range of the training numbers beyond it: units that were mistaken, marks of what is missing
TWICE = 2  # texts that an n-gram must be in: what is in one says nothing of others


@dataclass(frozen=True)
class Numbers:
    """A column of numbers -> (x - mean) / deviation; a missing one is 0.

    mean, deviation : of the training rows that have one; the deviation is 1 where all are equal.
    indicator : whether a second feature is 1 where the number is missing: some training rows miss it.
    least, largest : of the training numbers; None in files of older releases, and where all are missing.
    """

    name: str
    mean: float
    deviation: float
    indicator: bool
    least: float | None = None
    largest: float | None = None

    kind: ClassVar[ColumnKind] = "number"

    @classmethod
    def fit(cls, name: str, values: Array) -> Numbers:
        """Of the training rows."""
        missing = np.isnan(values)
        present = values[~missing]
        if not len(present):
            return cls(name, 0.0, 1.0, True)
        scale = float(np.abs(present).max()) or 1.0  # squares of numbers beyond 1e154 are infinite
        mean = float(np.mean(present / scale)) * scale
        deviation = float(np.std(present / scale)) * scale
        deviation = deviation if deviation > 1e-12 * scale else 1.0
        return cls(name, mean, deviation, bool(missing.any()), float(present.min()), float(present.max()))

    @property
    def features(self) -> list[str]:
        """What its features are called."""
        return [self.name, f"{self.name} is missing"] if self.indicator else [self.name]

    def block(self, values: Array) -> Any:
        """(N, 1), or (N, 2) with an indicator."""
        missing = np.isnan(values)
        standard = np.where(missing, 0.0, values / self.deviation - self.mean / self.deviation)
        return np.column_stack([standard, missing] if self.indicator else [standard])

    def unseen(self, values: Array) -> list[str]:
        """Nothing: any number is one."""
        return []

    def unusual(self, values: Array) -> list[str]:
        """Rows that miss a number where no training row did, and rows far outside what the training rows had."""
        found = []
        if not self.indicator and (n := int(np.isnan(values).sum())):
            found.append(f"{n:,} missing, counted as the mean {self.mean:.3g}")
        if self.least is not None and self.largest is not None and self.least < self.largest:
            beyond = FAR * (self.largest - self.least)
            if n := int(((values < self.least - beyond) | (values > self.largest + beyond)).sum()):
                found.append(f"{n:,} far outside {self.least:.3g} to {self.largest:.3g}")
        return found


@dataclass(frozen=True)
class Categories:
    """A column of categories -> a feature for each, 1 where it is the row's; one of them is to be missing.

    values : the categories of the training rows, sorted, None last where some miss it. Any other is 0 in all features.
    """

    name: str
    values: tuple[str | None, ...]

    kind: ClassVar[ColumnKind] = "category"

    @classmethod
    def fit(cls, name: str, values: Array) -> Categories:
        """Of the training rows."""
        found = set(values.tolist())
        return cls(name, (*sorted(found - {None}), *([None] if None in found else [])))

    @property
    def features(self) -> list[str]:
        """What its features are called."""
        return [f"{self.name} is missing" if value is None else f"{self.name} = {value}" for value in self.values]

    def block(self, values: Array) -> Any:
        """(N, categories) of 0 and 1, sparse."""
        from scipy.sparse import csr_array

        position = {value: j for j, value in enumerate(self.values)}
        columns = np.array([position.get(value, -1) for value in values.tolist()], np.int64)
        rows = np.flatnonzero(columns >= 0)
        return csr_array((np.ones(len(rows)), (rows, columns[rows])), shape=(len(values), len(self.values)))

    def unseen(self, values: Array) -> list[str]:
        """Categories that no training row had."""
        return sorted(
            "missing" if value is None else f"`{value:.40}`" for value in set(values.tolist()) - set(self.values)
        )


@dataclass(frozen=True, eq=False)
class Text:
    """A column of text -> TF-IDF of words (one and two in a row) and of characters (two to five), each of norm 1.

    words, characters : the n-grams, in order. word_idf, character_idf : a number each (scikit-learn's smoothed IDF).
    Those in one training text only are left out.

    Source: Manning, Raghavan & Schütze (2008), *Introduction to Information Retrieval*, section 6.2.
    """

    name: str
    words: tuple[str, ...]
    word_idf: Float64Array
    characters: tuple[str, ...]
    character_idf: Float64Array

    kind: ClassVar[ColumnKind] = "text"

    @classmethod
    def fit(cls, name: str, values: Array) -> Text:
        """Of the training rows. Raises ValueError where no two texts have anything in common."""
        grams = [_grams(vectorizer, values) for vectorizer in (_of_words(), _of_characters())]
        if not any(terms for terms, _ in grams):
            raise ValueError(f"column `{name}`: no two of its training texts have a word in common; leave out --text")
        return cls(name, *grams[0], *grams[1])

    @property
    def features(self) -> list[str]:
        """What its features are called."""
        return [
            *(f'{self.name}: "{term}"' for term in self.words),
            *(f'{self.name}: characters "{term}"' for term in self.characters),
        ]

    def block(self, values: Array) -> Any:
        """(N, n-grams), sparse; a missing text is all 0."""
        from scipy.sparse import csr_array, hstack

        vectorizers = ((_of_words, self.words, self.word_idf), (_of_characters, self.characters, self.character_idf))
        blocks = []
        for of, terms, idf in vectorizers:
            if terms:
                vectorizer = of(vocabulary=terms)
                vectorizer.idf_ = idf
                blocks.append(vectorizer.transform(_texts(values)))
        return csr_array(hstack(blocks))

    def unseen(self, values: Array) -> list[str]:
        """Nothing: new words are to be expected of a text."""
        return []


Column = Numbers | Categories | Text
FITS: dict[ColumnKind, Any] = {"number": Numbers.fit, "category": Categories.fit, "text": Text.fit}


@dataclass(frozen=True, eq=False)
class TableFeatures:
    """Columns -> a matrix (N, p): dense, or CSR where a column is text or there are more than 100 categories.

    >>> from pathlib import Path
    >>> from softargmax.data.columns import Columns
    >>> table = Columns("t.csv", {"age": np.array([41, np.nan, 43]), "sex": np.array(["f", "m", "f"], object)},
    ...                 "line", np.arange(2, 5))
    >>> features = TableFeatures.fit(table, {"age": "number", "sex": "category"})
    >>> features.names
    ('age', 'age is missing', 'sex = f', 'sex = m')
    >>> features.matrix(table)
    array([[-1.,  0.,  1.,  0.],
           [ 0.,  1.,  0.,  1.],
           [ 1.,  0.,  1.,  0.]])
    """

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, table: Columns, kinds: Mapping[str, ColumnKind]) -> TableFeatures:
        """Of the training rows; `kinds` says which columns are used, and as what."""
        return cls(tuple(FITS[kind](name, table.columns[name]) for name, kind in kinds.items()))

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        """The columns that a table must have, and what they must be: for `read_columns`."""
        return {column.name: column.kind for column in self.columns}

    @property
    def names(self) -> tuple[str, ...]:
        """What the p features are called."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def is_sparse(self) -> bool:
        """Whether the matrix is CSR."""
        n_categories = sum(len(column.values) for column in self.columns if isinstance(column, Categories))
        return n_categories > MANY or any(isinstance(column, Text) for column in self.columns)

    def matrix(self, table: Columns) -> Any:
        """The features (N, p) of the rows of a table, float64. Raises ValueError for a number beyond all measure."""
        blocks = (_block(column, table) for column in self.columns)
        if self.is_sparse:
            from scipy.sparse import csr_array, hstack

            return csr_array(hstack([csr_array(block) for block in blocks]))
        matrix, start = np.empty((len(table), len(self.names))), 0
        for block in blocks:
            matrix[:, start : start + block.shape[1]] = block if isinstance(block, np.ndarray) else block.toarray()
            start += block.shape[1]
        return matrix

    def unusual(self, table: Columns) -> dict[str, list[str]]:
        """Column of numbers -> how many of them, in words, are such that the training says nothing of them."""
        numbers = [column for column in self.columns if isinstance(column, Numbers)]
        found = {column.name: column.unusual(table.columns[column.name]) for column in numbers}
        return {name: said for name, said in found.items() if said}

    def unseen(self, table: Columns) -> dict[str, list[str]]:
        """Column -> categories of the table that no training row had: they count as none of those that are known."""
        found = {column.name: column.unseen(table.columns[column.name]) for column in self.columns}
        return {name: values for name, values in found.items() if values}


def _block(column: Column, table: Columns) -> Any:
    with np.errstate(over="ignore"):
        block = column.block(table.columns[column.name])
    if isinstance(column, Numbers) and not (fine := np.abs(block) <= LARGEST).all():
        row = int(np.argmin(fine.all(axis=1)))
        got = f"{table.where(row, column.name)}: got {table.columns[column.name][row]:g}"
        raise ValueError(
            f"{got}, which is beyond all measure: the training numbers have mean {column.mean:g} and deviation "
            f"{column.deviation:g}"
        )
    return block


@dataclass(frozen=True, eq=False)
class TableModel:
    """Columns of a table -> logits.

    features : what it makes of the columns. regression : fitted on them. class_names : K, in the order of the logits.
    """

    features: TableFeatures
    regression: SoftmaxRegression
    class_names: tuple[str, ...]

    def logits(self, table: Columns) -> Float64Array:
        """(N, K) float64; of two classes 0 and the score of the second."""
        scores = np.asarray(self.regression.decision_function(self.features.matrix(table)), np.float64)
        return scores if scores.ndim == 2 else np.column_stack([np.zeros_like(scores), scores])

    def files(self) -> dict[str, bytes]:
        """`model.json` and `model.safetensors`, which `read_model` reads back to the same bits."""
        from safetensors.numpy import save

        arrays = {"coef": self.regression.coef_, "intercept": self.regression.intercept_}
        columns = []
        for number, column in enumerate(self.features.columns):
            entry = {"kind": column.kind, **vars(column)}
            for name in [key for key, value in entry.items() if isinstance(value, np.ndarray)]:
                arrays[f"columns.{number}.{name}"] = entry.pop(name)
            columns.append(entry)
        document = {
            "format": FORMAT,
            "version": VERSION,
            "class_names": self.class_names,
            "C": self.regression.C,
            "columns": columns,
        }
        return {
            MODEL: (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
            ARRAYS: save({name: np.ascontiguousarray(array, np.float64) for name, array in arrays.items()}),
        }


def read_model(folder: Path) -> TableModel:
    """Read what `TableModel.files` made, from a folder. Raises ValueError for files of another kind."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = folder / MODEL
    try:
        document = json.loads(file.read_bytes())
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError(
                f"it is a {document['format']!r:.60} of version {document['version']!r:.60}; update softargmax"
            )
        arrays = load((folder / ARRAYS).read_bytes())
        features = TableFeatures(tuple(_column(entry, n, arrays) for n, entry in enumerate(document["columns"])))
        names = tuple(map(str, document["class_names"]))
        regression = fitted(document["C"], arrays["coef"], arrays["intercept"], len(names))
        if regression.n_features_in_ != len(features.names):
            raise ValueError(f"it has {len(features.names)} features, and {ARRAYS} has {regression.n_features_in_}")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except KeyError as error:
        raise ValueError(f"{file} cannot be read: there is no {error}; train again") from None
    except (ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read: {error}; train again") from None
    return TableModel(features, regression, names)


def _column(entry: dict[str, Any], number: int, arrays: Mapping[str, Array]) -> Column:
    kinds: dict[str, Any] = {"number": Numbers, "category": Categories, "text": Text}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != "kind"}
    if entry["kind"] == "text":
        given |= {name: arrays[f"columns.{number}.{name}"] for name in ("word_idf", "character_idf")}
    column: Column = kinds[entry["kind"]](**given)
    return column


def fitted(C: float, coef: Array, intercept: Array, n_classes: int) -> SoftmaxRegression:
    """A regression that was fitted on labels 0 to n_classes - 1, from its numbers. Raises ValueError for others."""
    n_rows = 1 if n_classes == 2 else n_classes
    if coef.ndim != 2 or len(coef) != n_rows or intercept.shape != (n_rows,):
        raise ValueError(f"coefficients {coef.shape} are not those of {n_classes} classes")
    regression = SoftmaxRegression(C=C)
    regression.coef_, regression.intercept_ = coef, intercept
    regression.classes_ = np.arange(n_classes)
    regression.n_features_in_ = coef.shape[1]
    return regression


# ---- text ----


def _of_words(**options: Any) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=WORDS, **options)


def _of_characters(**options: Any) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char", ngram_range=CHARACTERS, **options)


def _grams(vectorizer: TfidfVectorizer, values: Array) -> tuple[tuple[str, ...], Float64Array]:
    try:
        vectorizer.set_params(min_df=TWICE).fit(_texts(values))
    except ValueError:  # there is none that two texts have
        return (), np.empty(0)
    return tuple(vectorizer.get_feature_names_out().tolist()), np.asarray(vectorizer.idf_, np.float64)


def _texts(values: Array) -> list[str]:
    return ["" if value is None else value for value in values.tolist()]
