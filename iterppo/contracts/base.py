"""Pydantic row model -> Arrow schema -> published JSON document.

A contract is one frozen pydantic class. The Arrow type follows from the annotation (`str | None` is
a nullable string) unless the field names another one, and meaning and unit stand in the field, so
that the three can never disagree.
"""

from __future__ import annotations

import types
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import pyarrow as pa


class Row(BaseModel):
    """One row of an artifact. Subclasses name their `kind` and `version`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    readable_versions: ClassVar[tuple[int, ...]] = (1,)
    one_row_is: ClassVar[str]
    no_dictionary: ClassVar[frozenset[str]] = frozenset()
    """Columns whose values hardly ever repeat (texts, times), or in neighbouring rows (ids): parts
    have neither a dictionary nor statistics for them, which makes parts faster to write, and no
    larger."""


def column(meaning: str, *, unit: str = "", arrow: str = "", name: str | None = None) -> Any:
    """A contract's field: what it means, and its unit.

    `arrow` is the Arrow type where the annotation does not give it, `name` the column's where it is
    a Python keyword.
    """
    return Field(
        description=meaning, alias=name, json_schema_extra={"x-unit": unit, "x-arrow": arrow}
    )


def contract_name(row: type[Row]) -> str:
    """`trajectories@1`."""
    return f"{row.kind}@{row.version}"


def _extra(field: Any) -> dict[str, str]:
    return field.json_schema_extra or {}


def _split_optional(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return inner[0], True
    return annotation, False


def _arrow_name(annotation: Any) -> str:
    if get_origin(annotation) is list:
        return f"list<{_arrow_name(get_args(annotation)[0])}>"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = (
            f"{name}: {_arrow_name(f.annotation)}" for name, f in annotation.model_fields.items()
        )
        return f"struct<{', '.join(inner)}>"
    names = {
        str: "string",
        int: "int64",
        float: "double",
        bool: "bool",
        datetime: "timestamp[us, UTC]",
    }
    return names[annotation]


def columns(row: type[Row]) -> list[dict[str, Any]]:
    """Name, Arrow type, nullability, meaning and unit of every column, in order."""
    described = []
    for name, field in row.model_fields.items():
        annotation, nullable = _split_optional(field.annotation)
        described.append(
            {
                "name": field.alias or name,
                "type": _extra(field).get("x-arrow") or _arrow_name(annotation),
                "nullable": nullable,
                "meaning": field.description or "",
                "unit": _extra(field).get("x-unit", ""),
            }
        )
    return described


def document(row: type[Row]) -> dict[str, Any]:
    """The published, language-neutral form of a contract. Holds nothing that changes with a
    release."""
    return {
        "kind": row.kind,
        "version": row.version,
        "one_row_is": row.one_row_is,
        "columns": columns(row),
    }


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    if name.startswith("list<"):
        # Arrow's default child is called "element" in Parquet and "item" in memory; naming it keeps
        # both equal.
        return pa.list_(pa.field("element", _arrow_type(name[5:-1]), nullable=False))
    if name.startswith("struct<"):
        parts = (part.split(": ") for part in name[7:-1].split(", "))
        return pa.struct([pa.field(n, _arrow_type(t), nullable=False) for n, t in parts])
    if name == "timestamp[us, UTC]":
        return pa.timestamp("us", tz="UTC")
    return pa.type_for_alias(name)


def arrow_schema(row: type[Row]) -> pa.Schema:
    """The Arrow schema of a contract; `name@version` stands in its metadata, hence in every Parquet
    part."""
    import pyarrow as pa

    fields = [
        pa.field(c["name"], _arrow_type(c["type"]), nullable=c["nullable"]) for c in columns(row)
    ]
    return pa.schema(fields, metadata={"iterppo.contract": contract_name(row)})
