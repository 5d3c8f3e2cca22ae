"""Figures as SVG that belongs to the page: its colours, its letters, its theme.

    matplotlib figure -> <svg>…</svg>

matplotlib writes fixed colours. The ones used here are not colours but names: each stands for a
variable of the page's style sheet, and is replaced by it, so that one drawing is right in light and
in dark. Text stays text, in the page's own font. Equal data give equal bytes.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE, FIRST, SECOND, WASH = (f"#0{n}0{n}0{n}" for n in range(1, 7))
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    WASH: "var(--wash)",
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text as text: it can be read aloud, searched and copied
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "text.color": INK,
    "text.parse_math": False,  # a policy may be called $1$
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.subplot.left": 0.17,
    "figure.subplot.right": 0.98,
    "figure.subplot.top": 0.96,
}


@contextmanager
def drawing(*, width: float = 3.9, height: float = 2.5) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one pair of axes, in inches of 72 points; a point is a pixel of the page. Margins
    are fixed, so that neighbours stand in line."""
    with mpl.rc_context({**_STYLE, "figure.subplot.bottom": 0.5 / height}):
        figure = Figure(figsize=(width, height))
        figure.patch.set_visible(False)
        yield figure, figure.add_subplot()


def svg(figure: Figure, *, name: str, label: str) -> str:
    """The figure as an element of the page.

    Args:
        figure: From `drawing`, still within its `with`.
        name: Unique on the page: no two figures share an id.
        label: What it shows, for those who do not see it.
    """
    stream = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(
            stream,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = stream.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None, "matplotlib writes a viewBox"
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"<[^>]+>", _own_tag, body)
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"\s*\n\s*", " ", body).replace("<defs> </defs>", "")
    width, height = box[1].split()[2:]
    return (
        f'<svg viewBox="{box[1]}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(label)}">{body.strip()}'
    )


def _own_tag(found: re.Match[str]) -> str:
    """A tag with the page's colours and font, and coordinates of two digits."""
    tag = found[0].replace("xlink:href", "href")
    tag = re.sub(r"font-family: [^;\"]*(; )?|font: ([\d.]+px) [^;\"]*", _font, tag)
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    return re.sub(r"#0\d0\d0\d", lambda m: _VARIABLES.get(m[0], m[0]), tag)


def _font(found: re.Match[str]) -> str:
    return f"font-size: {found[2]}" if found[2] else ""
