"""The page's figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from iterppo.report.page.curves import Curve, Reading, Training, TurnMean
from iterppo.report.page.drawing import FIRST, INK, LINE, MUTED, SECOND, drawing, svg
from iterppo.report.page.q_quality import Bin
from iterppo.report.page.success import Row


@dataclass(frozen=True)
class Drawn:
    """A figure with its numbers."""

    title: str
    caption: str
    svg: str
    head: tuple[str, ...]
    """Of the table that says the same."""
    rows: tuple[tuple[str, ...], ...]


def success_figure(rows: Sequence[Row], *, name: str) -> Drawn:
    """Success of each round with its interval."""
    known = [row for row in rows if row.has_rate]
    labels = [row.label for row in known]
    with drawing(width=5.2, height=0.6 + 0.34 * len(known)) as (figure, axes):
        figure.subplots_adjust(left=min(0.05 + 0.017 * max(map(len, labels)), 0.6))
        for y, row in enumerate(known):
            told = row.told
            axes.plot([told["rate_low"], told["rate_high"]], [y, y], color=FIRST, linewidth=2.4)
            axes.plot(told["rate"], y, "o", color=FIRST, markersize=7)
        axes.set_yticks(range(len(known)), labels, color=INK)
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_xlabel("conversations that reached the outcome")
        drawn = svg(figure, name=name, label=f"Success of {len(known)} rounds with intervals.")
    return Drawn(
        "Success by round",
        "Dots: share of ended conversations that reached the outcome. Lines: 95 % interval "
        "(Wilson).",
        drawn,
        ("round", "policy", "success", "low", "high"),
        tuple(
            (
                row.round_name,
                row.policy,
                *(f"{row.told[key]:.4f}" for key in ("rate", "rate_low", "rate_high")),
            )
            for row in known
        ),
    )


def returns_figure(means: Sequence[TurnMean], *, name: str) -> Drawn:
    """Mean return by turn, with the number of conversations that got so far."""
    turns = [each.turn for each in means]
    most = max(each.conversations for each in means)
    with drawing() as (figure, axes):
        behind = axes.twinx()
        behind.bar(turns, [each.conversations / most for each in means], color=LINE, width=0.7)
        behind.set_ylim(0, 3.2)
        behind.set_axis_off()
        axes.set_zorder(behind.get_zorder() + 1)
        _interval(
            axes,
            turns,
            [each.mean for each in means],
            [each.low for each in means],
            [each.high for each in means],
        )
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("turn")
        axes.set_ylabel("mean return")
        drawn = svg(figure, name=name, label=f"Mean return of turns 1 to {turns[-1]}.")
    return Drawn(
        "Returns by turn",
        "What was still to come, in discounted outcomes, with 95 % intervals; bars: conversations "
        f"that got so far (at most {most}).",
        drawn,
        ("turn", "conversations", "mean return", "low", "high"),
        tuple(
            (
                str(each.turn),
                str(each.conversations),
                f"{each.mean:.4f}",
                _number(each.low),
                _number(each.high),
            )
            for each in means
        ),
    )


def calibration_figure(bins: Sequence[Bin], *, name: str) -> Drawn:
    """What Q said beside what came of it."""
    with drawing() as (figure, axes):
        ends = [each for one in bins for each in (one.q, one.mean, one.low, one.high)]
        finite = [each for each in ends if math.isfinite(each)]
        low, high = min(0.0, *finite), max(finite)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        _interval(
            axes,
            [one.q for one in bins],
            [one.mean for one in bins],
            [one.low for one in bins],
            [one.high for one in bins],
            line="",
        )
        axes.set_xlabel("Q, mean of the bin")
        axes.set_ylabel("mean return")
        drawn = svg(figure, name=name, label="Mean return against Q, and the diagonal.")
    return Drawn(
        "Calibration of Q",
        "Held-out turns in bins of Q, with 95 % intervals by conversation or customer. On the "
        "dashed line Q is right on average.",
        drawn,
        ("Q", "mean return", "low", "high", "turns"),
        tuple(
            (f"{b.q:.4f}", f"{b.mean:.4f}", _number(b.low), _number(b.high), str(b.turns))
            for b in bins
        ),
    )


def loss_figure(validation: Sequence[float], *, name: str) -> Drawn:
    """Q's loss on held-out conversations."""
    epochs = range(len(validation))
    with drawing() as (figure, axes):
        axes.plot(epochs, validation, "o-", color=FIRST)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("epochs")
        axes.set_ylabel("loss")
        drawn = svg(figure, name=name, label=f"Validation loss after {len(validation) - 1} epochs.")
    return Drawn(
        "Loss of Q",
        "On conversations that it was not fitted on.",
        drawn,
        ("epochs", "loss"),
        tuple(
            (str(epoch), f"{value:.4f}") for epoch, value in zip(epochs, validation, strict=True)
        ),
    )


def curve_figure(curve: Curve, *, name: str) -> Drawn:
    """One number over the updates."""
    with drawing(height=2.1) as (figure, axes):
        marker = "o-" if len(curve.update) <= 40 else "-"
        axes.plot(curve.update, curve.value, marker, color=FIRST, markersize=3.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("update")
        axes.set_ylabel(curve.unit)
        drawn = svg(
            figure,
            name=name,
            label=f"{curve.name} over the updates, from {curve.value[0]:.4g} to "
            f"{curve.value[-1]:.4g}.",
        )
    return Drawn(
        curve.name,
        f"On the prompts of training, {curve.unit}.",
        drawn,
        ("update", curve.unit),
        tuple((f"{at:g}", f"{v:.5g}") for at, v in zip(curve.update, curve.value, strict=True)),
    )


def watched_figure(training: Training, *, name: str) -> Drawn:
    """Q on held-out prompts over the updates, beside the best of n."""
    readings = training.readings
    updates = [float(each.update) for each in readings]
    with drawing(height=2.1) as (figure, axes):
        axes.fill_between(
            updates,
            [each.q_low for each in readings],
            [each.q_high for each in readings],
            color=FIRST,
            alpha=0.16,
            linewidth=0,
        )
        axes.plot(updates, [each.q for each in readings], "o-", color=FIRST)
        judged = [(each.update, each.judge) for each in readings if each.judge is not None]
        if judged:
            axes.plot(*zip(*judged, strict=True), "s--", color=SECOND)
        if training.best_of_q is not None:
            axes.axhline(training.best_of_q, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        _mark_kept(axes, training, [(each.update, each.q) for each in readings])
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("update")
        axes.set_ylabel("Q")
        drawn = svg(
            figure,
            name=name,
            label=f"Held-out Q over the updates, from {readings[0].q:.4g} to {readings[-1].q:.4g}.",
        )
    caption = "Mean Q on held-out prompts with its 95 % interval; ring: the policy that was kept"
    if training.best_of_q is not None:
        caption += f"; dashed: the best of {training.best_of_n} suggestions of the policy before"
    if judged:
        caption += "; squares: Q of other conversations"
    return Drawn("Held-out Q", f"{caption}.", drawn, _READING_HEAD, _reading_rows(readings))


def frontier_figure(training: Training, *, name: str) -> Drawn:
    """What was gained for which distance from the policy before."""
    readings = training.readings
    with drawing(height=2.1) as (figure, axes):
        axes.plot([each.kl for each in readings], [each.q for each in readings], "o-", color=FIRST)
        told = {readings[0].update, readings[-1].update, training.kept_update}
        for each in (one for one in readings if one.update in told):
            axes.annotate(
                str(each.update),
                (each.kl, each.q),
                textcoords="offset points",
                xytext=(6, -10),
                color=MUTED,
                fontsize=9,
            )
        if training.best_of_q is not None and training.best_of_kl is not None:
            axes.plot(training.best_of_kl, training.best_of_q, "D", color=SECOND)
        _mark_kept(axes, training, [(each.kl, each.q) for each in readings])
        axes.margins(0.12)
        axes.set_xlabel("KL from the policy before, nat")
        axes.set_ylabel("held-out Q")
        drawn = svg(figure, name=name, label="Held-out Q against KL, a point for each reading.")
    caption = "From the first reading to the last, by updates; ring: the policy that was kept"
    if training.best_of_q is not None:
        caption += f"; diamond: the best of {training.best_of_n} suggestions of the policy before"
    return Drawn("Reward against KL", f"{caption}.", drawn, _READING_HEAD, _reading_rows(readings))


_READING_HEAD = ("update", "Q", "low", "high", "KL, nat")


def _reading_rows(readings: Sequence[Reading]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            str(each.update),
            f"{each.q:.4f}",
            f"{each.q_low:.4f}",
            f"{each.q_high:.4f}",
            f"{each.kl:.3f}".replace("-0.000", "0.000"),
        )
        for each in readings
    )


def _mark_kept(axes: Axes, training: Training, points: Sequence[tuple[float, float]]) -> None:
    for reading, (x, y) in zip(training.readings, points, strict=True):
        if reading.update == training.kept_update:
            axes.plot(x, y, "o", markersize=11, fillstyle="none", color=INK, markeredgewidth=1.3)


def _interval(
    axes: Axes,
    x: Sequence[float],
    mean: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    line: str = "-",
) -> None:
    axes.vlines(x, low, high, color=FIRST, linewidth=1.4)
    axes.plot(x, mean, f"o{line}", color=FIRST, markersize=4.5)


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"
