"""What every display shares: where it draws, and its numbers as plain ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Generic, Self, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from softargmax.metrics import Evaluation, evaluate
from softargmax.report.palette import LIGHT
from softargmax.report.plots import rendered
from softargmax.report.story import Story
from softargmax.typing import Labels, Logits, Probs, Weights

SHORT = 12  # letters of a class name

T = TypeVar("T")


class Display(ABC, Generic[T]):
    """A picture of an evaluation, in the manner of scikit-learn's displays.

    Drawn by `plot`, which the class methods call: on the axes `ax` given, and nothing beside them, or on a figure of
    its own. That figure is not one of pyplot's, so no window opens and none need be closed: write it with
    `display.figure_.savefig(path)`; a notebook shows the display itself.

    data : what is drawn, a dataclass of arrays and numbers. ax_, figure_ : where it was drawn last.
    """

    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(self, data: T) -> None:
        self.data = data
        self._own: Figure | None = None

    def plot(self, ax: Axes | None = None, *, colors: Mapping[str, str] = LIGHT) -> Self:
        """Draw on `ax`, or on a figure of its own. TypeError unless `ax` is one matplotlib Axes."""
        if ax is None:
            self.figure_ = self._own = self._composed(colors)
            self._own.set_facecolor(colors["page"])
            self.ax_ = self._own.axes[0]
            return self
        if not isinstance(ax, Axes):
            raise TypeError(f"ax must be one matplotlib Axes, as figure.add_subplot() gives; got {type(ax).__name__}")
        self._draw(ax, colors)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="best", frameon=False, labelcolor=colors["ink"], fontsize="small")  # a frame would hide marks
        self.ax_, self.figure_, self._own = ax, ax.figure, None
        return self

    def to_dict(self) -> dict[str, Any]:
        """What is drawn as plain Python numbers, strings and lists; NaN where there is nothing."""
        return {each.name: _plain(getattr(self.data, each.name)) for each in fields(self.data)}  # type: ignore[arg-type]

    @abstractmethod
    def _draw(self, ax: Axes, colors: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _composed(self, colors: Mapping[str, str]) -> Figure: ...

    def _repr_png_(self) -> bytes | None:  # for notebooks, which show a figure of pyplot's by themselves
        return None if self._own is None else rendered(self._own, "png", "display", dpi=100)


class SeriesDisplay(Display[T]):
    """A display of one thing that an evaluation says of the predicted class."""

    @classmethod
    def from_evaluation(
        cls, evaluation: Evaluation, *, name: str = "model", ax: Axes | None = None, colors: Mapping[str, str] = LIGHT
    ) -> Self:
        """Draw what `evaluate` found.

        name : stands in the legend; "before" and "after" have colours and marks of their own, so that the second can be
        drawn on the axes of the first. colors : a theme of `softargmax.report.palette`, LIGHT or DARK.
        """
        return cls(cls._data_of(checked(evaluation), name)).plot(ax, colors=colors)

    @classmethod
    @abstractmethod
    def _data_of(cls, evaluation: Evaluation, name: str) -> T: ...


class BinnedDisplay(SeriesDisplay[T]):
    """A display of bins of the confidence."""

    @classmethod
    def from_predictions(
        cls,
        labels: Labels,
        *,
        logits: Logits | None = None,
        probs: Probs | None = None,
        weights: Weights | None = None,
        n_bins: int = 15,
        axis: int = -1,
        ignore_index: int | None = None,
        name: str = "model",
        ax: Axes | None = None,
        colors: Mapping[str, str] = LIGHT,
    ) -> Self:
        """Evaluate, as `evaluate` does, and draw: labels (...), logits or probs (..., K), weights (...)."""
        rows: Any = {"logits": logits, "probs": probs, "weights": weights, "axis": axis, "ignore_index": ignore_index}
        return cls.from_evaluation(evaluate(labels, n_bins=n_bins, **rows), name=name, ax=ax, colors=colors)


class RowsDisplay(SeriesDisplay[T]):
    """A display of what bins would blur: of rows themselves, or of the fine histogram that an evaluation keeps."""

    @classmethod
    def from_predictions(
        cls,
        labels: Labels,
        *,
        logits: Logits | None = None,
        probs: Probs | None = None,
        weights: Weights | None = None,
        axis: int = -1,
        ignore_index: int | None = None,
        name: str = "model",
        ax: Axes | None = None,
        colors: Mapping[str, str] = LIGHT,
    ) -> Self:
        """Draw the rows: labels (...), logits or probs (..., K), weights (...), as `evaluate` takes them."""
        rows: Any = {"logits": logits, "probs": probs, "weights": weights, "axis": axis, "ignore_index": ignore_index}
        return cls(cls._data_of_rows(name, labels, **rows)).plot(ax, colors=colors)

    @classmethod
    @abstractmethod
    def _data_of_rows(cls, name: str, labels: Labels, **rows: Any) -> T: ...


class ClassDisplay(Display[T]):
    """A display of the classes that are worst calibrated."""

    @classmethod
    def from_evaluation(
        cls,
        evaluation: Evaluation,
        *,
        class_names: Sequence[str] | None = None,
        max_classes: int = 12,
        name: str = "model",
        ax: Axes | None = None,
        colors: Mapping[str, str] = LIGHT,
    ) -> Self:
        """Draw what `evaluate` found of at most `max_classes` classes; K `class_names`, or they are called by number.

        Other options as in `ReliabilityDisplay.from_evaluation`. ValueError for names that are not K, or no classes.
        """
        names = None if class_names is None else tuple(class_names)
        if not max_classes >= 1:
            raise ValueError(f"max_classes must be at least 1; got {max_classes}")
        labels = Story(checked(evaluation), class_names=names).labels(SHORT)
        return cls(cls._data_of(evaluation, name, labels, max_classes)).plot(ax, colors=colors)

    @classmethod
    def from_predictions(
        cls,
        labels: Labels,
        *,
        logits: Logits | None = None,
        probs: Probs | None = None,
        weights: Weights | None = None,
        n_bins: int = 15,
        axis: int = -1,
        ignore_index: int | None = None,
        class_names: Sequence[str] | None = None,
        max_classes: int = 12,
        name: str = "model",
        ax: Axes | None = None,
        colors: Mapping[str, str] = LIGHT,
    ) -> Self:
        """Evaluate, as `evaluate` does, and draw: labels (...), logits or probs (..., K), weights (...)."""
        rows: Any = {"logits": logits, "probs": probs, "weights": weights, "axis": axis, "ignore_index": ignore_index}
        options: Any = {"class_names": class_names, "max_classes": max_classes, "name": name, "ax": ax}
        return cls.from_evaluation(evaluate(labels, n_bins=n_bins, **rows), colors=colors, **options)

    @classmethod
    @abstractmethod
    def _data_of(cls, evaluation: Evaluation, name: str, labels: Sequence[str], most: int) -> T: ...


def checked(evaluation: Evaluation) -> Evaluation:
    """The evaluation, or TypeError for something else, such as labels."""
    if not isinstance(evaluation, Evaluation):
        came = type(evaluation).__name__
        raise TypeError(f"evaluation must be what evaluate gives; got {came}; for rows call from_predictions")
    return evaluation


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value
