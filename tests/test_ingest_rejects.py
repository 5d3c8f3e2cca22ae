"""What `ingest` does not take: ids that were there before, and rejects with their reasons."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from iterppo.artifact import open_artifact
from iterppo.errors import DataError
from tests.conftest import Command
from tests.logs.ingesting import ONE, TWO, ingested, ingested_in_pieces, line
from tests.logs.lines import customer, said

# --- ids that are there before -------------------------------------------------------------------

OTHER_ONE = line("one", customer("something else"))


@pytest.mark.parametrize(
    "piece_bytes", [10**9, len(ONE), 10], ids=["one part", "a part a line", "several pieces a line"]
)
def test_ingest_takes_the_first_of_an_id_drops_copies_and_refuses_the_rest(
    piece_bytes: int, tmp_path: Path
) -> None:
    content = ONE + TWO + OTHER_ONE + ONE + TWO

    found = ingested_in_pieces(tmp_path, {"a.jsonl": content}, piece_bytes)

    assert found.texts() == [("hi", "hello"), ("hey", "ho")]
    assert found.reasons() == [(3, "conversation_id: 'one' was there before")]
    assert (found.counts["lines"], found.counts["copies"]) == (5, 2)


def test_ingest_finds_an_id_again_in_another_file(tmp_path: Path) -> None:
    files = {"a.jsonl": ONE, "b.jsonl.gz": gzip.compress(TWO + ONE), "c.jsonl": TWO + OTHER_ONE}

    found = ingested_in_pieces(tmp_path, files, 10)

    assert found.texts() == [("hi", "hello"), ("hey", "ho")]
    assert found.counts["copies"] == 2
    assert [(row["source"], row["line"]) for row in found.rejects] == [("c.jsonl", 2)]


@pytest.mark.parametrize("piece_bytes", [10**9, 10], ids=["one part", "many parts"])
@pytest.mark.parametrize(
    ("rejected", "settings", "why"),
    [
        pytest.param(
            line("one", customer("hi", time="yesterday")),
            {},
            "messages.0.time: Value error, Invalid isoformat string: 'yesterday'",
            id="for its times",
        ),
        pytest.param(
            line("one", customer("hi"), customer_id=None, business_id="b"),
            {"split_by": "customer"},
            "customer_id: is missing, and ingest.split_by = 'customer' needs it",
            id="for want of a key",
        ),
        pytest.param(
            line("one", meta={"product": "\ud83d"}),
            {"facts": ["product"]},
            "meta.product: half a character at 0",
            id="for a fact",
        ),
    ],
)
def test_an_id_that_ingest_rejected_for_itself_is_still_free(
    rejected: bytes, settings: dict[str, Any], why: str, piece_bytes: int, tmp_path: Path
) -> None:
    taken = line("one", customer("again"), customer_id="k")

    found = ingested_in_pieces(tmp_path, {"a.jsonl": rejected + taken}, piece_bytes, **settings)

    assert found.texts() == [("again", None)]
    assert found.reasons() == [(1, why)]


# --- what is rejected ----------------------------------------------------------------------------


def test_more_rejects_than_are_allowed_end_with_3_and_the_five_commonest_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = [
        *[b"{"] * 7,
        *[b"[]"] * 2,
        *[line("", customer("a"))] * 6,
        *[line(f"t{n}", customer("a"), customer("b", time=f"at {n}")) for n in range(5)],
        *[line(f"r{n}", *[customer("a")] * n, said("agent", "a")) for n in range(4)],
        *[line("one", customer(f"no {n}")) for n in range(3)],
        b"\xff",
    ]
    Path("bad.jsonl").write_bytes(ONE + b"\n".join(one.rstrip() for one in broken))

    done = command("ingest", "bad.jsonl", "--out", "x", "--max-reject-rate", "0.5")

    assert (done.status, done.stdout) == (3, "")
    assert done.stderr == (
        "iterppo: 28 of 29 lines were not taken, more than ingest.max_reject_rate = 0.5 allows: "
        "7 × not JSON; "
        "6 × conversation_id: is empty; "
        "5 × messages.N.time: Value error, Invalid isoformat string: '…'; "
        "4 × messages.N.role: Input should be 'customer' or 'business'; "
        "3 × conversation_id: '…' was there before. "
        "See: iterppo inspect x-rejects\n"
    )
    assert not Path("x").exists()
    assert open_artifact(Path("x-rejects"), "rejects").manifest.rows == 28
    assert command("ingest", "bad.jsonl", "--out", "x", "--max-reject-rate", "1").status == 0


def test_times_in_another_format_are_told_with_the_setting_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ["conversation_id,role,content,time", "c,customer,hi,01/05/2026 10:00"]
    Path("log.csv").write_text("\n".join(rows))

    done = command("ingest", "log.csv", "--out", "x")

    assert done.stderr == (
        "iterppo: log.csv: no conversation in it was taken (1 rejects: 1 × time: '…' is no time in "
        "ISO 8601; say how times are written in ingest.mapping.time_format). See: iterppo inspect "
        "x-rejects\n"
    )
    setting = ["--set", "ingest.mapping.time_format=%d/%m/%Y %H:%M"]
    assert command("ingest", "log.csv", "--out", "x", *setting).status == 0


def test_the_share_of_rejects_that_is_allowed_may_be_used_up(tmp_path: Path) -> None:
    content = TWO + b"".join(line(f"c{n}") for n in range(98))

    assert ingested(tmp_path / "a", content + b"{", max_reject_rate=0.01).counts["rejects"] == 1
    with pytest.raises(DataError, match=r"^2 of 101 lines were not taken"):
        ingested(tmp_path / "b", content + b"{\n{", max_reject_rate=0.01)


def test_a_thousand_kinds_of_reasons_are_told_apart_and_no_more(tmp_path: Path) -> None:
    content = b"\n".join(
        json.dumps({"messages": [said(f"role {n}x", "a")], "id": n}).encode() for n in range(1_100)
    )

    with pytest.raises(DataError, match=r"100 × other reasons; 1 × messages.N.role: 'role 0x' is"):
        ingested(tmp_path, content, format="openai")

    assert open_artifact(tmp_path / "rejects").manifest.rows == 1_100


def test_long_rejects_are_written_a_few_at_a_time(tmp_path: Path) -> None:
    broken = [b"{" + bytes([97 + n]) * 900_000 for n in range(12)]

    found = ingested(tmp_path, ONE + b"\n".join(broken))

    assert [row["raw"] for row in found.rejects] == [one.decode() for one in broken]
    with pq.ParquetFile(tmp_path / "rejects" / "part-00000.parquet") as file:
        assert file.num_row_groups == 3


def test_what_is_too_long_to_be_kept_is_cut_without_half_an_address(tmp_path: Path) -> None:
    head = '{"role": "agent", "text": "Zoë anna@example.com", "more": "'.encode()
    long = head + b"." * (2**20 - len(head) - 9) + b'bertha@example.com"}'

    plain = ingested(tmp_path / "a", ONE + long)
    masked = ingested(tmp_path / "b", ONE + long, redact=True)

    assert plain.rejects[0]["raw"].endswith(f".bertha@ex … ({len(long)} bytes)")
    assert masked.rejects[0]["raw"] == (
        f'{{"role": "agent", "text": "Zoë [EMAIL]", "more":  … ({len(long)} bytes)'
    )


def test_of_a_line_that_was_cut_off_no_half_address_is_kept(tmp_path: Path) -> None:
    cut_off = b'{"conversation_id": "c", "messages": [{"content": "I am anna@exam'

    plain = ingested(tmp_path / "a", ONE + cut_off)
    masked = ingested(tmp_path / "b", ONE + cut_off, redact=True)

    assert plain.rejects[0]["raw"] == cut_off.decode()
    assert masked.rejects[0]["raw"] == cut_off.decode().removesuffix('"I am anna@exam')


def test_of_a_value_that_a_reason_cuts_nothing_is_shown_where_data_is_masked(
    tmp_path: Path,
) -> None:
    role = f"{'x' * 44} anna.schmidt@example.com"
    row = json.dumps({"conversation_id": "c", "role": role, "content": "hi"}).encode()

    with pytest.raises(DataError, match="1 × role: '…' is no role of the mapping") as raised:
        ingested(tmp_path, row, format="events", redact=True)

    (reject,) = open_artifact(tmp_path / "rejects").rows()
    assert "anna" not in f"{raised.value} {reject}"


@pytest.mark.parametrize(
    ("log", "events", "told"),
    [
        pytest.param(
            {"a.csv": b"anna@example.com,customer,call 0171 1234567\n"},
            "customer_id,time\nk,2026-05-01\n",
            "it has [EMAIL], customer, call [PHONE]. Name its columns",
            id="a log without a header",
        ),
        pytest.param(
            {"a.jsonl": ONE},
            "anna@example.com,2026-05-01\n",
            "events.csv: no column 'customer_id' (it has [EMAIL], 2026-05-01). Set key_column.",
            id="events without a header",
        ),
        pytest.param(
            {"a.jsonl": ONE},
            "customer_id,time\nk,anna@example.com\n",
            "events.csv: row 1: column 'time': '[EMAIL]' is no time as ISO 8601. Set time_format.",
            id="an event whose columns are interchanged",
        ),
        pytest.param(
            {"a.jsonl": ONE},
            f"customer_id,time\nk,2026-05-01,{'x' * 76}anna@example.com\n",
            "Row #2: Expected 2 columns, got 3).",
            id="an event with a field too many, of which the parser shows the beginning",
        ),
    ],
)
def test_the_refusal_of_a_file_shows_nothing_of_anybody_where_data_is_masked(
    log: dict[str, bytes], events: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "events.csv"
    file.write_text(events)
    outcome = {"by": "events", "file": str(file), "join": "customer_id"}

    with pytest.raises(DataError) as raised:
        ingested(tmp_path, log, redact=True, outcomes=[outcome])

    assert told in str(raised.value)
    assert "anna" not in str(raised.value)
