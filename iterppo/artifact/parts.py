"""A Parquet part of an artifact, checked against the contract as it is written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa


ROWS_PER_GROUP = 8_192
"""Of rows that come one by one."""


def table_of(kind: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows (dictionaries by column name) as a table.

    Raises:
        ValueError: If one has a column that is not in the contract.
    """
    import pyarrow as pa

    schema = arrow_schema(ROWS[kind])
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise ValueError(f"{kind}: no column {', '.join(sorted(unknown))}")
    return pa.Table.from_pylist(rows, schema=schema)


class PartWriter:
    """Writes tables of one kind's rows into one file.

    Raises:
        ValueError: On a table that breaks the contract.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.rows = 0
        self._schema = arrow_schema(ROWS[kind])
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None and kind is None:
            self.write(self._schema.empty_table())  # so that the columns can be read
        self.close()

    def write(self, table: pa.Table) -> None:
        """Append a table; it becomes one row group."""
        import pyarrow.parquet as pq

        if table.schema.names != self._schema.names:
            unknown = set(table.schema.names) - set(self._schema.names)
            missing = set(self._schema.names) - set(table.schema.names)
            raise ValueError(
                f"{self.kind}: no column {', '.join(sorted(unknown))}"
                if unknown
                else f"{self.kind}: misses column {', '.join(sorted(missing))}"
                if missing
                else f"{self.kind}: its columns are not in the contract's order"
            )
        for field in self._schema:
            if not field.nullable and table[field.name].null_count:
                raise ValueError(f"{self.kind}: column {field.name} must not be null")
        table = table.cast(self._schema)
        table.validate(full=True)
        if self._writer is None:
            without = ROWS[self.kind].no_dictionary
            chosen = [name for name in self._schema.names if name not in without]
            self._writer = pq.ParquetWriter(
                self.path,
                self._schema,
                compression="zstd",
                use_dictionary=chosen if without else True,
                write_statistics=chosen if without else True,
            )
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def write_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows, so many a row group."""
        remaining = iter(rows)
        while group := list(itertools.islice(remaining, ROWS_PER_GROUP)):
            self.write(table_of(self.kind, group))

    def close(self) -> None:
        """Finish the file; nothing where nothing was written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
