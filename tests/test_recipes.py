"""Every block of docs/recipes.md runs, and the four ways to ask a question give one answer.

Spark does not run here: sqlglot reads its SQL and writes DuckDB's, which is run. So its blocks are
known to be Spark SQL by that parser's grammar, and to answer what the others answer.
"""

import math
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from iterppo.artifact import ArtifactWriter
from iterppo.config import FitQConfig, IngestConfig, ReturnsConfig, StageConfig

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
TOOLS = ("DuckDB", "pandas", "Polars", "Spark SQL")
NEEDS = "is not installed (extra `test`)"

Rows = list[tuple[Any, ...]]


def blocks() -> dict[str, dict[str, str]]:
    """Question -> tool -> code."""
    found: dict[str, dict[str, str]] = {}
    for section in PAGE.split("\n## ")[1:]:
        question = section.partition("\n")[0]
        fences = re.findall(r"\*\*([\w ]+)\*\*\n\n```\w+\n(.*?)```", section, re.DOTALL)
        found[question] = dict(fences)
    return found


READING, *QUESTIONS = blocks()

ADOPTIONS = ("verbatim", "edited", "rejected", "abstained", "not_shown", None)
SUGGESTIONS = ("Which room?", "May we visit?", "Sign today!", "Hello.")


def turn_rows(policy: str, *, conversations: int) -> list[dict[str, Any]]:
    """Conversations of one to four turns over some days; every third succeeds, every fifth is
    open."""
    rows = []
    for number in range(conversations):
        length = 1 + number % 4
        for turn in range(1, length + 1):
            last = turn == length
            adoption = ADOPTIONS[(number + turn) % len(ADOPTIONS)]
            has_text = adoption in ("verbatim", "edited", "rejected")
            began = datetime(2026, 5, 1, 22, 30, tzinfo=UTC) + timedelta(hours=5 * number + turn)
            rows.append(
                {
                    "conversation_id": f"{policy}/{number:02d}",
                    "turn": turn,
                    "customer": f"I need number {number}.",
                    "suggestion": SUGGESTIONS[number * turn % 4] if has_text else None,
                    "sent": "Fine.",
                    "adoption": adoption,
                    "edit_distance": None,
                    "outcome_before": False,
                    "reward": float(last and number % 3 == 0 and number % 5 != 0),
                    "done": last and number % 5 != 0,
                    "censored": number % 5 == 0,
                    "customer_after": None,
                    "policy_version": policy,
                    "persona": None,
                    "suggestion_logprob": None,
                    "customer_time": None if number % 7 == 2 else began,
                    "sent_time": None if number % 14 == 2 else began + timedelta(minutes=1),
                    "split": "heldout" if number % 2 else "train",
                    "customer_id": None,
                    "business_id": None,
                    "facts": None,
                }
            )
    return rows


def write(out: Path, kind: str, stage: str, config: StageConfig, rows: Any) -> None:
    with ArtifactWriter(out, kind=kind, stage=stage, config=config, inputs={}) as writer:
        writer.write(rows)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/shop with two rounds, below the folder that is returned."""
    folder = tmp_path_factory.mktemp("recipes")
    rounds = {"000": turn_rows("policy-0", conversations=30)}
    rounds["001"] = turn_rows("policy-1", conversations=23)
    for name, turns in rounds.items():
        place = folder / "runs" / "shop" / name
        write(place / "trajectories", "trajectories", "ingest", IngestConfig(), turns)
        keys = [{key: row[key] for key in ("conversation_id", "turn")} for row in turns]
        paid = [
            {
                **key,
                "reward": row["reward"],
                "return": None if row["censored"] else 0.5,
                "weight": 0.0 if row["censored"] else 1.0 + row["turn"] / 4,
                "horizon": None,
            }
            for key, row in zip(keys, turns, strict=True)
        ]
        write(place / "returns", "returns", "returns", ReturnsConfig(), paid)
        scored = [
            {
                **key,
                "q": (number * 7 % 19) / 20,
                "q_spread": None,
                "return": None,
                "weight": 1.0,
                "split": row["split"],
                "v": 0.5,
            }
            for number, (key, row) in enumerate(zip(keys, turns, strict=True))
        ]
        write(place / "q", "q", "fit-q", FitQConfig(), scored)
    return folder


@pytest.fixture(autouse=True)
def _there(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page names its files from the folder that runs/ lies in."""
    monkeypatch.chdir(run_folder)


def by_duckdb(question: str) -> tuple[list[str], Rows]:
    return _run_sql([blocks()[question]["DuckDB"]])


def by_pandas(question: str) -> tuple[list[str], Rows]:
    answer = _run_python("pandas", question)
    return list(answer.columns), [tuple(row) for row in answer.itertuples(index=False)]


def by_polars(question: str) -> tuple[list[str], Rows]:
    pytest.importorskip("polars", reason=f"polars {NEEDS}")
    answer = _run_python("Polars", question)
    return list(answer.columns), list(answer.rows())


def by_spark_sql(question: str) -> tuple[list[str], Rows]:
    texts = [blocks()[READING]["Spark SQL"], blocks()[question]["Spark SQL"]]
    return _run_sql([_in_duckdbs_words(text) for text in texts])


BY = {"pandas": by_pandas, "Polars": by_polars, "Spark SQL": by_spark_sql}


def _run_sql(texts: list[str]) -> tuple[list[str], Rows]:
    with duckdb.connect() as connection:
        for text in texts:
            found = connection.execute(text)
        assert found.description is not None
        return [column[0] for column in found.description], found.fetchall()


def _run_python(tool: str, question: str) -> Any:
    names: dict[str, Any] = {}
    for text in (blocks()[READING][tool], blocks()[question][tool]):
        exec(compile(text, f"docs/recipes.md, {tool}, {question}", "exec"), names)
    return names["answer"]


def _in_duckdbs_words(text: str) -> str:
    """Spark SQL as DuckDB's; a name as parquet.`file` becomes a call that reads the file."""
    sqlglot: Any = pytest.importorskip("sqlglot", reason=f"sqlglot {NEEDS}")
    exp = sqlglot.exp

    def read_file(node: Any) -> Any:
        if isinstance(node, exp.Table) and node.db == "parquet":
            return exp.Table(
                this=exp.Anonymous(this="read_parquet", expressions=[exp.Literal.string(node.name)])
            )
        return node

    said = []
    for statement in sqlglot.parse(text, read="spark"):
        assert statement is not None
        if isinstance(statement, exp.Set):
            said.append("SET TimeZone = 'UTC'")
        else:
            said.append(statement.transform(read_file).sql(dialect="duckdb"))
    return "; ".join(said)


def plain(rows: Rows) -> Rows:
    """Values as Python's own, so that four libraries' can be compared."""

    def value(one: Any) -> Any:
        if one is None or one is pd.NA or (isinstance(one, float) and math.isnan(one)):
            return None
        return one if isinstance(one, date | str) else float(one)

    return [tuple(value(one) for one in row) for row in rows]


def nearly(rows: Rows) -> Rows:
    """The same rows, numbers within rounding: sums are added up in another order."""
    return [
        tuple(pytest.approx(one, abs=1e-9) if isinstance(one, float) else one for one in row)
        for row in rows
    ]


def test_there_are_five_questions_and_four_ways_to_ask_each() -> None:
    assert len(QUESTIONS) == 5
    assert {question: tuple(blocks()[question]) for question in QUESTIONS} == dict.fromkeys(
        QUESTIONS, TOOLS
    )
    assert PAGE.count("```") == 2 * (5 * 4 + 3)  # no block but those, and three that read


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("tool", BY)
def test_every_tool_gives_duckdbs_answer(question: str, tool: str) -> None:
    columns, rows = by_duckdb(question)
    found_columns, found = BY[tool](question)

    assert found_columns == columns
    assert len(rows) > 1
    assert plain(found) == nearly(plain(rows))


def test_the_worst_turns_are_held_out_and_in_order() -> None:
    _, rows = by_duckdb(QUESTIONS[0])

    assert len(rows) == 10
    assert [row[2] for row in rows] == sorted(row[2] for row in rows)
    assert all(int(row[0][-2:]) % 2 for row in rows)


def test_open_conversations_count_neither_as_success_nor_as_failure() -> None:
    _, rows = by_duckdb(QUESTIONS[1])

    turns = turn_rows("policy-0", conversations=30)
    won = {row["conversation_id"] for row in turns if row["reward"]}
    known = [row for row in turns if not row["censored"] and row["adoption"] is not None]
    for adoption, number, success in rows:
        group = [row for row in known if row["adoption"] == adoption]
        weights = [1 + row["turn"] / 4 for row in group]
        mass = sum(w for w, r in zip(weights, group, strict=True) if r["conversation_id"] in won)
        assert (number, success) == (len(group), pytest.approx(mass / sum(weights)))


def test_a_day_is_that_of_utc_and_of_the_first_turn() -> None:
    _, rows = by_duckdb(QUESTIONS[3])

    assert rows[0][0] == date(2026, 5, 1)
    assert sum(row[1] for row in rows) == 30 - 2  # of two conversations no time is known
    assert {row[2] for row in rows} != {0.0}


def test_the_policies_are_told_apart() -> None:
    columns, rows = by_duckdb(QUESTIONS[4])

    assert [row[0] for row in rows] == ["policy-0", "policy-1"]
    assert [row[1] for row in rows] == [24, 18]
    assert dict(zip(columns, rows[0], strict=True))["success"] == pytest.approx(8 / 24)
