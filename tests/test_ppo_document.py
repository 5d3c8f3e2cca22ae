"""docs/ppo.md: every mistake has a test or a reason, and every test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not re.match(r"\| (mistake|trap) \|", line)
]
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", TEXT)))


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_has_a_test_or_a_reason() -> None:
    assert len(ROWS) > 50
    assert [row[0] for row in ROWS if len(row) != 3 or not (row[1] or row[2])] == []
    assert [row[0] for row in ROWS if row[1] and not re.fullmatch(r"`\S+`(, `\S+`)*", row[1])] == []


def test_every_row_stands_there_once() -> None:
    mistakes = [row[0] for row in ROWS]

    assert len(set(mistakes)) == len(mistakes)


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name: str) -> None:
    file, _, function = name.partition("::")

    assert function in functions_of(file)
