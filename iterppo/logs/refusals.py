"""Files that no line of can be read, refused as a whole: one line that says what the file is, in
place of as many rejects as it has lines."""

from __future__ import annotations

import codecs
import re
import zlib

import msgspec

from iterppo.errors import DataError
from iterppo.logs.sources import LogFile, open_lines, unreadable

_HEAD_BYTES = 2**16
_ENCODINGS = {  # the longer marks first: that of UTF-16 begins one of UTF-32
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_OPENS_ARRAY = re.compile(rb"\s*\[\s*\{")


def refuse_whole(file: LogFile) -> None:
    """Refuse a log that is in another encoding, or a JSON array, as data sets are published.

    Raises:
        DataError: If so, or if it cannot be read.
    """
    try:
        with open_lines(file) as stream:
            head = stream.read(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, None, error) from None
    refuse_encoding(file, head)
    if _is_array(head.removeprefix(codecs.BOM_UTF8)):
        raise DataError(
            f"{file.name}: is a JSON array. Write one conversation a line, of an event log one "
            "message, as jq -c '.[]' does."
        )


def refuse_encoding(file: LogFile, head: bytes) -> None:
    """Refuse a file by its first bytes, if they are the mark of an encoding other than UTF-8.

    Raises:
        DataError: If so.
    """
    for mark, encoding in _ENCODINGS.items():
        if head.startswith(mark):
            raise DataError(
                f"{file.name}: is in {encoding}. Write it in UTF-8, as iconv -f {encoding} -t "
                "UTF-8 does."
            )


def _is_array(head: bytes) -> bool:
    """Whether an array of objects begins here that is the whole file. Where its first line is one
    already, and others follow, it is a wrong line of many."""
    if not _OPENS_ARRAY.match(head):
        return False
    line, _, others = head.lstrip().partition(b"\n")
    if not others.strip():
        return True
    try:
        msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True
    return False
