"""The figure of `benchmarks.itpo`: a row an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from benchmarks.itpo_statistics import over_seeds
from benchmarks.itpo_study import SCORES, estimate

COLOURS = {
    "outcome": "#7f7f7f",
    "uniform": "#bcbd22",
    "prime": "#dd8452",
    "itpo": "#c44e52",
    "norm-itpo-sum": "#4c72b0",
    "norm-itpo-mean": "#64b5cd",
    "mc-q": "#55a868",
}
Curves = Mapping[tuple[str, str], Sequence[Sequence[Mapping[str, float]]]]


def draw(
    studies: Mapping[str, Sequence[Mapping[str, Any]]],
    curves: Mapping[str, Curves],
    estimators: Sequence[str],
    file: Path,
    *,
    title: str,
) -> None:
    """Stability and hits of credit, then a panel of learning curves an estimator."""
    mpl.use("Agg")
    columns = 2 + len(estimators)
    figure, axes = plt.subplots(
        len(studies), columns, figsize=(3.4 * columns, 3.1 * len(studies) + 0.8), squeeze=False
    )
    for row, (environment, runs) in zip(axes, studies.items(), strict=True):
        _stability(row[0], environment, runs)
        _hits(row[1], environment, runs)
        for axis, estimator in zip(row[2:], estimators, strict=True):
            if any(of == estimator for of, _ in curves[environment]):
                _learning(axis, curves[environment], estimator, environment)
            else:
                axis.set_axis_off()
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=colour) for colour in COLOURS.values()]
    figure.legend(
        handles, list(COLOURS), loc="lower center", ncol=len(COLOURS), frameon=False, fontsize=8
    )
    figure.suptitle(title, fontsize=10)
    figure.tight_layout(rect=(0, 0.3 / figure.get_figheight(), 1, 1))
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _stability(axis: Any, environment: str, runs: Sequence[Mapping[str, Any]]) -> None:
    for name, colour, label in (
        ("spearman_turns", "#4c72b0", "turn sums"),
        ("spearman_tokens", "#dd8452", "token rewards"),
    ):
        values = np.array([run[name] for run in runs])
        places = np.arange(1, values.shape[1] + 1)
        for each in values:
            axis.plot(places, each, color=colour, alpha=0.3, linewidth=0.8)
        axis.plot(places, values.mean(axis=0), color=colour, label=label)
    axis.set_title(f"{environment}: rank stability", fontsize=9)
    axis.set_xlabel("checkpoint of the implicit model")
    axis.set_ylabel("Spearman with the last")
    axis.legend(frameon=False, fontsize=8)


def _hits(axis: Any, environment: str, runs: Sequence[Mapping[str, Any]]) -> None:
    for number, (which, colour) in enumerate((("best", "#4c72b0"), ("worst", "#c44e52"))):
        for place, score in enumerate(SCORES):
            value, (low, high) = over_seeds([estimate(run[which][score]) for run in runs])
            axis.bar(
                place + 0.38 * number,
                value,
                width=0.36,
                color=colour,
                yerr=[[value - low], [high - value]],
                label=f"{which} turn" if place == 0 else None,
            )
    axis.set_xticks(np.arange(len(SCORES)) + 0.19, SCORES, fontsize=8)
    axis.set_title(f"{environment}: share found, beside exact A", fontsize=9)
    axis.set_ylim(0, 0.85)
    axis.legend(frameon=False, fontsize=8, loc="upper left", ncol=2)


def _learning(axis: Any, curves: Curves, estimator: str, environment: str) -> None:
    for method, colour in COLOURS.items():
        runs = curves.get((estimator, method))
        if runs:
            values = np.array([[point["success"] for point in curve] for curve in runs])
            mean = values.mean(axis=0)
            axis.plot(mean, color=colour)
            if len(values) >= 3:
                half = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(len(values))
                axis.fill_between(
                    np.arange(len(mean)), mean - half, mean + half, color=colour, alpha=0.12
                )
    axis.set_title(f"{environment}, {estimator}: success", fontsize=9)
    axis.set_xlabel("update")
    axis.set_ylim(bottom=0)
