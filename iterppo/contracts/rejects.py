"""`rejects`: the lines of a log that `ingest` did not take."""

from typing import ClassVar

from iterppo.contracts.base import Row, column


class RejectsRow(Row):
    """A line of a log, as it stood there, and why it was not taken."""

    kind: ClassVar[str] = "rejects"
    one_row_is: ClassVar[str] = "a line of a log that was not taken"
    no_dictionary: ClassVar[frozenset[str]] = frozenset({"raw"})

    source: str = column("File that the line stands in, as it was named.")
    line: int = column("Line number, from 1.")
    reason: str = column("What is wrong with it.")
    raw: str = column("The line itself; bytes that are not UTF-8 are escaped.")
