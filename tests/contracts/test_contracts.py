"""The published contracts: schemas, documents that never change, artifacts that stay readable."""

import hashlib
import io
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import iterppo
from iterppo.artifact import ArtifactWriter, open_artifact
from iterppo.config import StageConfig
from iterppo.contracts import FOLDER_KINDS, ROWS, contract_name, current_version, known_versions
from iterppo.contracts.base import arrow_schema, columns, document
from iterppo.report.schemas import publish
from tests.data import make_artifacts

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"

# A published version never changes. A change of a contract is a new version: a new document and a
# new line here.
PUBLISHED = {
    "actions/v1.json": "8ab75b849a7588f53ebdbb8602f4fc56d4f4fac2f91a86dab1235cf8559fa798",
    "credit/v1.json": "7d3e259b6ff2ae6ea34b61736c48a6220062e9a4cfa70659aad785cf915c8771",
    "evaluation/v1.json": "137ed5b39ddf5c04bfcd84bdffb2488c58e64775982fda8ec9e653cc4f91aec5",
    "policy/v1.json": "538cbb025cf2b7a1d0a8e5bcb0270744bb9393ba8c7c6b77442c850d6b685274",
    "prompts/v1.json": "6b47fe81721659ed2d2d2a154009646476fdec2401e81a894eeacb39b006cd6c",
    "q/v1.json": "de80a594b968f4498f117f2457793a6b83de4cae27c3fac1fa1f4eebab2d0e6b",
    "q/v2.json": "414070b77656dd3430864605cffd25de93315872b0e8b1253cb231b086cd4d09",
    "rejects/v1.json": "c5e9620b2e9faf933b0edd7fa2c6ea0e2f93f84a0b7d875bb548ba19d1d9c7f2",
    "returns/v1.json": "aabb3ba469b7462654403dece2209714ae05f3d5977aaa1a3b09c4af551859bc",
    "trajectories/v1.json": "6b7fbf01c05b3815f04ec856917d029fddb78af0a60cb62237ea17aa472a3ad9",
    "trajectories/v2.json": "b9511d7f80913b92cd6287434160bdd5f447f3b5f57ae4243abd1a6d1bd598a1",
}
# Columns that a version added: null in artifacts of the versions before.
ADDED = {"trajectories": {2: {"customer_id", "business_id", "facts"}}, "q": {2: {"v"}}}

KINDS = list(ROWS)
REQUIRED = [
    (kind, column["name"])
    for kind, row in ROWS.items()
    for column in columns(row)
    if not column["nullable"]
]


def rows_of(kind: str) -> list[dict[str, Any]]:
    return make_artifacts.ROWS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_survive_parquet_nulls_and_all(kind: str) -> None:
    schema = arrow_schema(ROWS[kind])
    table = pa.Table.from_pylist(rows_of(kind), schema=schema)
    stream = io.BytesIO()

    pq.write_table(table, stream)
    found = pq.read_table(stream)

    assert found.schema.equals(schema, check_metadata=True)
    assert found.schema.metadata == {b"iterppo.contract": contract_name(ROWS[kind]).encode()}
    assert found.to_pylist() == rows_of(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_rows_have_a_null_and_a_value_wherever_a_null_may_be(kind: str) -> None:
    nullable = {column["name"] for column in columns(ROWS[kind]) if column["nullable"]}

    assert {
        name for row in rows_of(kind) for name, value in row.items() if value is None
    } == nullable
    assert all(any(row[name] is not None for row in rows_of(kind)) for name in nullable)


@pytest.mark.parametrize("kind", KINDS)
def test_the_row_model_and_the_arrow_schema_take_the_same_rows(kind: str) -> None:
    for row in rows_of(kind):
        assert ROWS[kind].model_validate(row).model_dump(by_alias=True) == row
        assert list(row) == arrow_schema(ROWS[kind]).names


@pytest.mark.parametrize(
    ("kind", "name"), REQUIRED, ids=[f"{kind} {name}" for kind, name in REQUIRED]
)
def test_a_null_in_a_column_that_must_have_a_value_is_refused(
    kind: str, name: str, tmp_path: Path
) -> None:
    broken = [*rows_of(kind), rows_of(kind)[0] | {name: None}]

    with (
        pytest.raises(ValueError, match="null") as raised,
        ArtifactWriter(
            tmp_path / "out", kind=kind, stage="test", config=StageConfig(), inputs={}
        ) as writer,
    ):
        writer.write(broken)

    assert str(raised.value) == f"{kind}: column {name} must not be null"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"tokens": [1, None]}, id="a null in a list"),
        pytest.param({"tokens": [2**31]}, id="a number that is too large"),
        pytest.param({"stepp": 1}, id="a column that the contract lacks"),
        pytest.param({"completion": 7}, id="a number for a text"),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_refused(
    broken: dict[str, Any], tmp_path: Path
) -> None:
    with (
        pytest.raises((ValueError, TypeError), match=r"."),
        ArtifactWriter(
            tmp_path / "out", kind="policy", stage="test", config=StageConfig(), inputs={}
        ) as writer,
    ):
        writer.write([rows_of("policy")[0] | broken])

    assert not (tmp_path / "out").exists()


# --- documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_document_is_the_contract(kind: str) -> None:
    text = (SCHEMAS / kind / f"v{ROWS[kind].version}.json").read_text(encoding="utf-8")

    assert json.loads(text) == document(ROWS[kind])
    assert text == json.dumps(document(ROWS[kind]), indent=2, ensure_ascii=False) + "\n"


def test_a_published_document_never_changes() -> None:
    found = {
        path.relative_to(SCHEMAS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(SCHEMAS.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert found == PUBLISHED


def test_every_version_that_is_read_has_its_document_in_the_package() -> None:
    names = {f"{kind}/v{version}.json" for kind in KINDS for version in known_versions(kind)}

    assert names == set(PUBLISHED)
    assert all((files("iterppo.schemas") / name).is_file() for name in names)


def test_publishing_again_writes_nothing(tmp_path: Path) -> None:
    assert publish(SCHEMAS) == []
    current = sorted(f"{kind}/v{current_version(kind)}.json" for kind in KINDS)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in publish(tmp_path)) == current
    assert all((tmp_path / name).read_bytes() == (SCHEMAS / name).read_bytes() for name in current)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_document_changes_with_a_release(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = document(ROWS[kind])
    monkeypatch.setattr(iterppo, "__version__", "99.0.0")

    assert document(ROWS[kind]) == before
    assert list(before) == ["kind", "version", "one_row_is", "columns"]
    assert {tuple(column) for column in before["columns"]} == {
        ("name", "type", "nullable", "meaning", "unit")
    }
    assert not re.search(r"\d+\.\d+\.\d+", json.dumps(before))


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_says_what_it_means(kind: str) -> None:
    row = ROWS[kind]

    assert [
        column["name"] for column in columns(row) if not column["meaning"].endswith((".", ")"))
    ] == []
    assert row.one_row_is
    assert row.__doc__


def test_kinds_and_versions_are_those_of_the_tables() -> None:
    assert {kind: current_version(kind) for kind in (*ROWS, *FOLDER_KINDS)} == {
        "trajectories": 2,
        "rejects": 1,
        "returns": 1,
        "actions": 1,
        "credit": 1,
        "q": 2,
        "prompts": 1,
        "policy": 1,
        "evaluation": 1,
        "log": 1,
        "export": 1,
    }
    assert known_versions("wisdom") == ()
    assert all(current_version(kind) in known_versions(kind) for kind in (*ROWS, *FOLDER_KINDS))


# --- artifacts of every published version --------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_artifact_of_a_published_version_is_still_read(name: str) -> None:
    kind, version = re.fullmatch(r"(\w+)/v(\d+)\.json", name).groups()  # type: ignore[union-attr]

    artifact = open_artifact(make_artifacts.FOLDER / f"{kind}-v{version}", kind)

    missing = {
        name: None
        for added, names in ADDED.get(kind, {}).items()
        if added > int(version)
        for name in names
    }
    assert list(artifact.rows()) == [row | missing for row in rows_of(kind)]
    assert artifact.manifest.rows == len(rows_of(kind))
    assert artifact.manifest.counts == {"rows written by hand": len(rows_of(kind))}
    assert artifact.manifest.metrics == {"share": 0.5, "converged": True, "policy_version": "3f6c"}
    assert artifact.manifest.seed == 7
    assert {path.name for path in artifact.path.iterdir()} == {
        "manifest.json",
        "notes.json",
        "part-00000.parquet",
    }


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "conversation_id" in ROWS[kind].model_fields]
)
def test_conversations_of_a_kept_artifact_are_neighbours(kind: str) -> None:
    artifact = open_artifact(make_artifacts.FOLDER / f"{kind}-v1", kind)

    names = [rows[0]["conversation_id"] for rows in artifact.conversations()]
    assert len(names) == len(set(names))
