"""Files that are refused as a whole, and those that look like them."""

import gzip
import json
from pathlib import Path

import pytest

from iterppo.errors import DataError
from tests.logs.ingesting import ONE, TWO, ingested

SHAREGPT = [
    {"id": f"{n}", "conversations": [{"from": "human", "value": "hi"}], "outcome": 0}
    for n in range(3)
]
ARRAY = json.dumps(SHAREGPT).encode()
IS_ARRAY = (
    "log: is a JSON array. Write one conversation a line, of an event log one message, as jq -c "
    "'.[]' does."
)


@pytest.mark.parametrize("format_", ["auto", "sharegpt", "events"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(ARRAY, id="one line"),
        pytest.param(ARRAY + b"\n\n", id="one line and blank ones"),
        pytest.param(json.dumps(SHAREGPT, indent=2).encode(), id="many lines"),
        pytest.param(b"\xef\xbb\xbf\n [\n{}," + ARRAY[1:], id="blanks before"),
        pytest.param(gzip.compress(ARRAY), id="compressed"),
        pytest.param(
            json.dumps(SHAREGPT * 2_000).encode(), id="one line, longer than is looked at"
        ),
    ],
)
def test_a_json_array_is_refused_in_one_line(content: bytes, format_: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="JSON array") as raised:
        ingested(tmp_path, {"log": content}, format=format_)

    assert str(raised.value) == IS_ARRAY


def test_an_array_that_is_a_line_of_many_costs_itself_only(tmp_path: Path) -> None:
    found = ingested(tmp_path, b'[{"role": "user"}]\n' + ONE + TWO)

    assert found.reasons() == [(1, "not a JSON object")]
    assert len(found.rows) == 2


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32-le", "UTF-32")],
)
@pytest.mark.parametrize("file", ["log", "log.csv"])
def test_a_file_in_another_encoding_is_refused_by_its_mark(
    file: str, encoding: str, name: str, tmp_path: Path
) -> None:
    content = ("\ufeff" + ONE.decode()).encode(encoding)

    with pytest.raises(DataError, match=name) as raised:
        ingested(tmp_path, {file: content})

    assert str(raised.value) == (
        f"{file}: is in {name}. Write it in UTF-8, as iconv -f {name} -t UTF-8 does."
    )


def test_events_in_another_encoding_are_refused_as_well(tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text("conversation_id,time\none,2026-05-01\n", encoding="utf-16")

    with pytest.raises(DataError, match=r"events\.csv: is in UTF-16\. Write it in UTF-8"):
        ingested(tmp_path, ONE, outcomes=[{"by": "events", "file": str(events)}])
