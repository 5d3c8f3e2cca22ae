"""How parts of artifacts lie in their files."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iterppo.artifact import PartWriter
from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema, columns


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_the_columns_without_dictionary_are_in_the_contract(kind: str) -> None:
    assert ROWS[kind].no_dictionary <= {column["name"] for column in columns(ROWS[kind])}


@pytest.mark.parametrize("kind", ["trajectories", "rejects", "returns"])
def test_only_they_have_none(kind: str, tmp_path: Path) -> None:
    schema = arrow_schema(ROWS[kind])
    values: dict[str, Any] = {"string": "a", "bool": True}
    table = pa.table(
        [pa.array([values.get(str(field.type), 1)] * 3).cast(field.type) for field in schema],
        schema=schema,
    )
    with PartWriter(tmp_path / "part.parquet", kind) as part:
        part.write(table)

    group = pq.ParquetFile(tmp_path / "part.parquet").metadata.row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    without = {
        chunk.path_in_schema
        for chunk in chunks
        if "DICTIONARY" not in " ".join(chunk.encodings) and chunk.physical_type != "BOOLEAN"
    }
    assert without == ROWS[kind].no_dictionary
    assert pq.read_table(tmp_path / "part.parquet") == table
