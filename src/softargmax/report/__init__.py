"""Evaluation -> figures, tables, one HTML page.

A `Story` holds what was measured; everything here is a function of it. Importing this package loads NumPy alone:
matplotlib comes with the first figure, rich with the first table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softargmax.report.curves import (
    ConfidenceHistogram,
    ConfusionShares,
    ReliabilityCurve,
    confidence_histograms,
    confusion_shares,
    reliability_curves,
)
from softargmax.report.fit import Fit, Part, digits, in_words, temperature_of
from softargmax.report.steps import Steps
from softargmax.report.story import Story, headline, verdict
from softargmax.report.tables import (
    ClassRows,
    Estimate,
    MetricRow,
    Mistake,
    class_rows,
    metric_rows,
    mistakes,
    terminal_table,
)

if TYPE_CHECKING:
    from softargmax.report.coefficients import Pushes, coefficient_rows, coefficient_table, coefficients_figure
    from softargmax.report.displays import (
        ClassReliabilityDisplay,
        ClasswiseErrorDisplay,
        ConfidenceDisplay,
        ReliabilityDisplay,
        RiskCoverageDisplay,
        SmoothReliabilityDisplay,
    )
    from softargmax.report.html import page
    from softargmax.report.plots import (
        confidence_figure,
        confusion_figure,
        draw_confidence,
        draw_confusion,
        draw_counts,
        draw_reliability,
        reliability_figure,
        save,
        svg,
    )
    from softargmax.report.runs import run_story, runs_page
    from softargmax.report.table import save_table_figures, table_page, table_story
    from softargmax.report.training import answers_figure, save_run_figures

__all__ = [
    "ClassReliabilityDisplay",
    "ClassRows",
    "ClasswiseErrorDisplay",
    "ConfidenceDisplay",
    "ConfidenceHistogram",
    "ConfusionShares",
    "Estimate",
    "Fit",
    "MetricRow",
    "Mistake",
    "Part",
    "Pushes",
    "ReliabilityCurve",
    "ReliabilityDisplay",
    "RiskCoverageDisplay",
    "SmoothReliabilityDisplay",
    "Steps",
    "Story",
    "answers_figure",
    "class_rows",
    "coefficient_rows",
    "coefficient_table",
    "coefficients_figure",
    "confidence_figure",
    "confidence_histograms",
    "confusion_figure",
    "confusion_shares",
    "digits",
    "draw_confidence",
    "draw_confusion",
    "draw_counts",
    "draw_reliability",
    "headline",
    "in_words",
    "metric_rows",
    "mistakes",
    "page",
    "reliability_curves",
    "reliability_figure",
    "run_story",
    "runs_page",
    "save",
    "save_run_figures",
    "save_table_figures",
    "svg",
    "table_page",
    "table_story",
    "temperature_of",
    "terminal_table",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from softargmax.report import coefficients, displays, html, plots, runs, table, training

    rooms = (coefficients, displays, html, plots, runs, table, training)
    return next(getattr(room, name) for room in rooms if name in vars(room))
