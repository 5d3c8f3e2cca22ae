"""Which artifact was made of which: a graph, drawn as SVG by hand, and a table that says the same.

    manifests -> nodes and edges -> SVG

An edge is an input whose digest is that of an artifact of this run, or of a file of one. A round is
a band; within it artifacts stand from left to right in the order in which they are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from iterppo.artifact import Manifest
from iterppo.report.page.run import Run

_PLACES = {
    "init": (0, 0),
    "log": (0, 1),
    "trajectories": (1, 1),
    "rejects": (1, 2),
    "credit": (2, 0),
    "returns": (2, 1),
    "prompts": (2, 2),
    "actions": (2, 3),
    "q": (3, 1),
    "judge": (3, 2),
    "proposals": (2, 4),
    "fqe": (3, 3),
    "fqe-twin": (3, 4),
    "policy": (4, 1),
    "export": (5, 1),
    "evaluation": (5, 2),
}
"""Column and row within the band, by place; others follow in further rows of the last column."""

WIDTH, HEIGHT = 132, 42  # of a node, in pixels
GAP_X, GAP_Y = 48, 22
MARGIN_X, MARGIN_Y = 34, 34  # the band's title stands in the upper margin
AHEAD = 20  # of a node, where arrows to it come together
CORNER = 7


@dataclass(frozen=True)
class Node:
    """An artifact."""

    key: str
    round_name: str
    name: str
    kind: str
    detail: str
    x: int
    y: int
    made: str
    digest: str
    sources: tuple[str, ...]
    """What it was made of, in words: `q of 000`, or the path of something outside this run."""


@dataclass(frozen=True)
class Edge:
    """From an input to what was made of it."""

    source: str
    target: str
    path: str
    """SVG path data."""


@dataclass(frozen=True)
class Band:
    """A round's part of the picture."""

    name: str
    y: int
    height: int


@dataclass(frozen=True)
class Lineage:
    """The whole graph."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    bands: tuple[Band, ...]
    width: int
    height: int


def read_lineage(run: Run) -> Lineage:
    """The graph of a run."""
    by_digest = _by_digest(run)
    nodes: dict[str, Node] = {}
    bands = []
    top = 0
    for one in run.rounds:
        made = {name: place.manifest for name, place in one.places.items() if place.manifest}
        if not made:
            continue
        cells = _cells(list(made))
        rows = 1 + max(row for _, row in cells.values())
        height = MARGIN_Y + rows * (HEIGHT + GAP_Y)
        bands.append(Band(one.name, top, height))
        for name, manifest in made.items():
            column, row = cells[name]
            key = f"{one.name}/{name}"
            nodes[key] = Node(
                key,
                one.name,
                name,
                f"{manifest.kind}@{manifest.version}",
                _detail(manifest, run),
                MARGIN_X + column * (WIDTH + GAP_X),
                top + MARGIN_Y + row * (HEIGHT + GAP_Y),
                f"{manifest.created_at:%Y-%m-%d %H:%M}",
                manifest.digest[:12],
                tuple(
                    by_digest.get(record.digest) or f"{record.path} (not in this run)"
                    for record in manifest.inputs.values()
                ),
            )
        top += height
    lanes = {key: number for number, key in enumerate(nodes)}
    edges = [
        Edge(source, node.key, _path(nodes[source], node, lane=lanes[source]))
        for node in nodes.values()
        for source in dict.fromkeys(node.sources)
        if source in nodes and source != node.key
    ]
    width = MARGIN_X + max((node.x + WIDTH for node in nodes.values()), default=0)
    return Lineage(tuple(nodes.values()), tuple(edges), tuple(bands), width, top)


def _by_digest(run: Run) -> dict[str, str]:
    """Digest of an artifact, or of a log's file -> its key. Equal artifacts: the first."""
    found: dict[str, str] = {}
    for one in run.rounds:
        for name, place in one.places.items():
            if place.manifest is None:
                continue
            found.setdefault(place.manifest.digest, f"{one.name}/{name}")
            if place.manifest.kind == "log":
                for record in place.manifest.files.values():
                    found.setdefault(record.sha256, f"{one.name}/{name}")
    return found


def _cells(names: list[str]) -> dict[str, tuple[int, int]]:
    """Column and row of each; rows that nothing stands in are left out."""
    cells: dict[str, tuple[int, int]] = {}
    for name in names:
        cell = _PLACES.get(name, (5, 2))
        while cell in cells.values():
            cell = (cell[0], cell[1] + 1)
        cells[name] = cell
    rows = sorted({row for _, row in cells.values()})
    return {name: (column, rows.index(row)) for name, (column, row) in cells.items()}


def _detail(manifest: Manifest, run: Run) -> str:
    """What one wants to know of it, in a few characters."""
    metrics, counts = manifest.metrics, manifest.counts
    if manifest.kind == "q" and metrics.get("verdict"):
        return str(metrics["verdict"])
    if manifest.kind in ("policy", "export") and metrics.get("policy_version"):
        return run.policy_name(str(metrics["policy_version"]))
    if manifest.kind == "log" and "conversations" in counts:
        return f"{counts['conversations']} conversations"
    return f"{manifest.rows} rows" if manifest.rows or manifest.kind != "export" else ""


def _path(source: Node, target: Node, *, lane: int) -> str:
    """From the right of one node to the left of the other, along the gaps between nodes.

    Args:
        source: Where it begins.
        target: Where it ends.
        lane: Of the source: lines of several sources run beside each other.
    """
    x, y = source.x + WIDTH, source.y + HEIGHT // 2
    to_x, to_y = target.x, target.y + HEIGHT // 2
    end = (to_x - 5, to_y)
    if source.x == target.x and source.round_name == target.round_name:
        middle = source.x + WIDTH // 2
        return f"M{middle} {source.y + HEIGHT}V{target.y - 5}"
    if y == to_y and to_x - x == GAP_X:
        return f"M{x} {y}H{end[0]}"
    if to_x - x == GAP_X and source.round_name == target.round_name:
        return _rounded([(x, y), (to_x - AHEAD, y), (to_x - AHEAD, to_y), end])
    is_up = target.y < source.y
    along = (source.y - GAP_Y // 2 if is_up else source.y + HEIGHT + GAP_Y // 2) + 4 * (
        lane % 5 - 2
    )
    out = x + GAP_X - AHEAD - 10
    return _rounded(
        [(x, y), (out, y), (out, along), (to_x - AHEAD, along), (to_x - AHEAD, to_y), end]
    )


def _rounded(points: list[tuple[int, int]]) -> str:
    """SVG path data of a line with rounded corners.

    >>> _rounded([(0, 0), (20, 0), (20, 30)])
    'M0 0L13 0Q20 0 20 7L20 30'
    """
    text = f"M{points[0][0]} {points[0][1]}"
    for before, at, after in zip(points, points[1:], points[2:], strict=False):
        corner = f"{at[0]} {at[1]}"
        text += f"L{_near(at, before)}Q{corner} {_near(at, after)}"
    return f"{text}L{points[-1][0]} {points[-1][1]}"


def _near(at: tuple[int, int], other: tuple[int, int]) -> str:
    """The point a corner's radius from `at` on the way to another, at most half way."""
    ends = []
    for here, there in zip(at, other, strict=True):
        step = max(
            -CORNER, min(CORNER, (there - here) // 2 if there > here else -((here - there) // 2))
        )
        ends.append(str(here + step))
    return " ".join(ends)
