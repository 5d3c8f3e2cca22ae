"""The figure of `benchmarks.loop`: success against round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

COLOURS = {
    "ppo": "#1f4e9c",
    "grpo": "#5b8bd0",
    "rloo": "#9dbbe3",
    "mpo": "#8172b3",
    "best-of-n": "#dd8452",
}
ENOUGH = 3
"""Student's interval of two seeds says nothing."""
OTHERS = ["#8c8c8c", "#b0795a", "#c4a484", "#6b8f5e", "#a65a78", "#9c8f3c", "#4f9d9d"]


def draw(result: dict[str, Any], file: Path) -> None:
    """A line a method, thin ones of its seeds, and from `ENOUGH` seeds on the interval of their
    mean, below that dots; the optimum above them."""
    mpl.use("Agg")
    figure, axis = plt.subplots(figsize=(7.2, 4.4))
    rounds = range(result["rounds"] + 1)
    others = iter(OTHERS)
    for method, numbers in result["methods"].items():
        colour = COLOURS.get(method) or next(others)
        seeds = result["success"][method]
        axis.plot(
            rounds,
            numbers["mean"],
            color=colour,
            marker="o",
            markersize=3.5,
            linestyle="-" if len(seeds) >= ENOUGH else ":",
            label=f"{method}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}",
        )
        for rates in seeds:
            axis.plot(rounds, rates, color=colour, linewidth=0.8, alpha=0.45)
        if len(seeds) >= ENOUGH:
            axis.fill_between(
                rounds, numbers["low"], numbers["high"], color=colour, alpha=0.12, linewidth=0
            )
    axis.axhline(result["optimum"], color="#333333", linewidth=0.8, linestyle="--")
    axis.text(0, result["optimum"], " the exact optimum", va="bottom", fontsize=8, color="#333333")
    axis.set_xticks(list(rounds), [f"π{chr(ord('₀') + k)}" for k in rounds])
    axis.set_ylabel("share of conversations with the outcome")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)
