"""`iterppo schema`: the published contracts, and their making.

python -m iterppo.report.schemas        # writes the documents that do not exist yet; published ones
never change
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from iterppo.contracts import FOLDER_KINDS, ROWS, current_version
from iterppo.contracts.base import document
from iterppo.errors import UsageError


def kinds_text() -> str:
    """Every kind with its current version."""
    lines = [f"{row.kind}@{row.version}  one row is {row.one_row_is}" for row in ROWS.values()]
    return "\n".join(
        [
            *lines,
            *(f"{kind}@{version}  a folder without rows" for kind, version in FOLDER_KINDS.items()),
        ]
    )


def kinds_json() -> str:
    """Every kind with its current version, as JSON."""
    return json.dumps({kind: current_version(kind) for kind in (*ROWS, *FOLDER_KINDS)}, indent=2)


def schema_json(kind: str) -> str:
    """The published document of a kind."""
    return json.dumps(_published(kind), indent=2, ensure_ascii=False)


def schema_text(kind: str) -> str:
    """The published document of a kind, for people."""
    content = _published(kind)
    lines = [f"{content['kind']}@{content['version']}: one row is {content['one_row_is']}"]
    width = max(len(column["name"]) for column in content["columns"])
    for column in content["columns"]:
        null = ", may be null" if column["nullable"] else ""
        unit = f" [{column['unit']}]" if column["unit"] else ""
        lines.append(f"  {column['name']:<{width}}  {column['type']}{null}{unit}")
        lines.append(f"  {'':<{width}}    {column['meaning']}")
    return "\n".join(lines)


def _published(kind: str) -> dict[str, Any]:
    if kind in FOLDER_KINDS:
        raise UsageError(
            f"{kind}: a folder without rows, so it has no columns. Kinds with rows: "
            f"{', '.join(ROWS)}."
        )
    if kind not in ROWS:
        raise UsageError(f"{kind}: no such kind. Kinds: {', '.join(ROWS)}.")
    text = (files("iterppo.schemas") / kind / f"v{ROWS[kind].version}.json").read_text(
        encoding="utf-8"
    )
    content: dict[str, Any] = json.loads(text)
    return content


def publish(folder: Path) -> list[Path]:
    """Write the document of every contract that has none yet."""
    written = []
    for row in ROWS.values():
        file = folder / row.kind / f"v{row.version}.json"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                json.dumps(document(row), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            written.append(file)
    return written


if __name__ == "__main__":
    for path in publish(Path(__file__).parents[2] / "schemas"):
        print(path)
