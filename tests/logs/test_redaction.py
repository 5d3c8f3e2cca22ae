"""Personal data is masked in everything that is written, and nothing else is."""

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterppo.errors import UsageError
from iterppo.logs.records import LogConversation, LogMessage, parse_line
from iterppo.logs.redaction import Redactor
from iterppo.logs.times import shorten

PLAIN = Redactor()
IBAN = r"\b[A-Z]{2}\d\d(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?\b"

# What numbers, addresses and their neighbours are made of.
PIECES = [
    *(
        "0171",
        "1234567",
        "555",
        "123",
        "4567",
        "+49",
        "4111",
        "12",
        "34",
        "38",
        "40",
        "42",
        "123456",
    ),
    *("0", "00", "7", "9", "３４", "6 12 34", "1 250 000", "800-1200", "20260501", "52.5200066"),
    *("+", "(", ")", "-", "/", " ", "  ", "\u00a0", ".", ",", ":", "_", "&", "'", "\0", "\n", "中"),
    *("€", "$", "EUR", "kr", "m²", "2026-05-01", "10:00", "01.05.2026", "1.2.3.4", "tel", "x"),
    *("4111 1111 1111 1111", "4111111111111111", "anna@x.de", "@", "a", "b.de"),
    *("[PHONE]", "[CARD:0123456789ab]", "[", "]", "%40", "%2B", "%20", r"\n", r"\t"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=40)


# --- text ----------------------------------------------------------------------------------------


def test_each_kind_has_its_placeholder_and_the_rest_stays() -> None:
    text = (
        "Hi, I'm Anna (anna@example.com, +49 171 1234567). Is 2026-05-01 10:00 fine? 120 m² for "
        "12 500 €, card 4111 1111 1111 1111."
    )

    assert PLAIN.text(text) == (
        "Hi, I'm Anna ([EMAIL], [PHONE]). Is 2026-05-01 10:00 fine? 120 m² for 12 500 €, card "
        "[CARD]."
    )


def test_a_card_is_no_phone_number() -> None:
    assert PLAIN.text("378282246310005") == "[CARD]"
    assert PLAIN.text("378282246310006") == "[PHONE]"


@pytest.mark.parametrize("text", ["", "May we visit on Tuesday?", "Grüße! 😀", "a\0b", "\ud83d"])
def test_a_text_without_personal_data_is_the_very_same(text: str) -> None:
    assert PLAIN.text(text) is text


@given(texts)
@settings(deadline=None, max_examples=400)
def test_masking_twice_is_masking_once(text: str) -> None:
    once = PLAIN.text(text)

    assert PLAIN.text(once) == once


@given(texts)
@settings(deadline=None, max_examples=200)
def test_what_is_not_masked_stays_as_it_is_and_in_its_order(text: str) -> None:
    masked = PLAIN.text(text)

    between = re.split(r"\[(?:EMAIL|PHONE|CARD)(?::[0-9a-f]{12})?\]", masked)
    assert re.fullmatch(".*".join(map(re.escape, between)), text, flags=re.DOTALL)


@given(st.text("abc ,.!?\n", max_size=20), st.text("abc ,.!?\n", max_size=20))
@settings(deadline=None)
def test_nothing_of_an_address_or_a_number_is_left_in_any_surroundings(
    before: str, behind: str
) -> None:
    masked = PLAIN.text(f"{before} anna.berg@example.com {behind} (555) 123-4567 {before}")

    assert masked == f"{before} [EMAIL] {behind} [PHONE] {before}"


def test_placeholders_that_are_there_survive_every_pattern() -> None:
    greedy = Redactor({"capitals": "[A-Z]+", "digits": r"\d+"})
    text = "[EMAIL] of [PHONE:0123456789ab]: [CAPITALS] [DIGITS] AB 12 [NOBODY]"

    masked = greedy.text(text)

    assert masked == (
        "[EMAIL] of [PHONE:0123456789ab]: [CAPITALS] [DIGITS] [CAPITALS] [DIGITS] [[CAPITALS]]"
    )
    assert greedy.text(masked).startswith("[EMAIL] of [PHONE:0123456789ab]: [CAPITALS] [DIGITS]")


# --- configured patterns -------------------------------------------------------------------------


def test_a_configured_pattern_has_its_own_placeholder_and_goes_first() -> None:
    redactor = Redactor({"iban": IBAN, "Order_7": r"#\d{7}", "shop_mail": r"\S+@shop\.example"})
    text = "IBAN DE89 3704 0044 0532 0130 00, order #1234567, me@shop.example, you@else.example"

    assert redactor.text(text) == "IBAN [IBAN], order [ORDER_7], [SHOP_MAIL], [EMAIL]"


def test_a_pattern_that_finds_nothing_at_a_place_puts_nothing_there() -> None:
    assert Redactor({"digits": r"\d*"}).text("a1b") == "a[DIGITS]b"


def test_a_pattern_may_refer_to_its_own_groups_and_set_its_own_flags() -> None:
    assert Redactor({"twice": r"(?i)\b(\w+)-\1\b"}).text("ha-HA no") == "[TWICE] no"


def test_the_name_of_a_pattern_with_digits_is_not_taken_for_a_number() -> None:
    redactor = Redactor({"a_1234567": "secret"})

    assert redactor.text("secret") == "[A_1234567]"


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        pytest.param(
            {"1st": "x"},
            "ingest.redact_patterns: '1st' is no name. Use letters, digits and _, a letter first.",
            id="a digit first",
        ),
        pytest.param(
            {"a-b": "x"},
            "ingest.redact_patterns: 'a-b' is no name. Use letters, digits and _, a letter first.",
            id="a dash",
        ),
        pytest.param(
            {"a\n": "x"},
            "ingest.redact_patterns: 'a\\n' is no name. Use letters, digits and _, a letter first.",
            id="a line break",
        ),
        pytest.param(
            {"a": "("},
            "ingest.redact_patterns.a: no regular expression (missing ), unterminated subpattern "
            "at position 0).",
            id="no pattern",
        ),
    ],
)
def test_a_wrong_pattern_is_refused(patterns: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        Redactor(patterns)

    assert str(raised.value) == said


# --- identifiers ---------------------------------------------------------------------------------


def test_an_id_keeps_its_identity() -> None:
    # sha256sum of the number and of the address, without a line break.
    assert PLAIN.identifier("4915112345678") == "[PHONE:8efb96404be5]"
    assert PLAIN.identifier("wa:anna@example.com/2") == "wa:[EMAIL:f7d54c22dda5]/2"


@pytest.mark.parametrize(
    "identity",
    ["c-17", "550e8400-e29b-41d4-a716-446655440000", "conv-20260501-0001", "shop/3/123456"],
)
def test_an_id_without_personal_data_is_the_very_same(identity: str) -> None:
    assert PLAIN.identifier(identity) is identity


@given(texts)
@settings(deadline=None)
def test_in_an_id_is_masked_what_is_masked_in_a_text(text: str) -> None:
    without_hash = re.sub(r":[0-9a-f]{12}\]", "]", PLAIN.identifier(text))

    assert without_hash == re.sub(r":[0-9a-f]{12}\]", "]", PLAIN.text(text))
    assert PLAIN.identifier(PLAIN.identifier(text)) == PLAIN.identifier(text)


def test_distinct_ids_stay_distinct() -> None:
    ids = [f"+49 171 {number}" for number in range(1_000_000, 1_004_000)]

    masked = {PLAIN.identifier(each) for each in ids}

    assert len(masked) == len(ids)
    assert all(re.fullmatch(r"\[PHONE:[0-9a-f]{12}\]", each) for each in masked)


# --- conversations -------------------------------------------------------------------------------

MAIL, PHONE = "anna@example.com", "+49 171 1234567"


def conversation(**fields: Any) -> LogConversation:
    content = {
        "conversation_id": "c",
        "messages": [{"role": "customer", "content": f"I am {MAIL}"}],
        **fields,
    }
    return parse_line(json.dumps(content).encode())


def test_everything_of_a_conversation_that_is_written_is_masked() -> None:
    masked = conversation(
        conversation_id=PHONE,
        customer_id=MAIL,
        business_id="4915112345678",
        policy_version="policy-1",
        messages=[
            {"role": "customer", "content": f"Call {PHONE}"},
            {"role": "business", "content": "Sure", "suggestion": f"We call {PHONE}"},
            {"role": "business", "content": "", "suggestion": None},
        ],
    )

    PLAIN.conversation(masked)

    assert masked.conversation_id == PLAIN.identifier(PHONE)
    assert masked.customer_id == PLAIN.identifier(MAIL)
    assert masked.business_id == PLAIN.identifier("4915112345678")
    assert masked.policy_version == "policy-1"
    assert [message.content for message in masked.messages] == ["Call [PHONE]", "Sure", ""]
    assert masked.messages[1].suggestion == "We call [PHONE]"
    assert masked.messages[2].suggestion is None


def test_a_conversation_that_says_little_is_masked_too() -> None:
    masked = LogConversation("c", [LogMessage("business", f"Write to {MAIL}")])
    unset = masked.messages[0].suggestion

    PLAIN.conversation(masked)

    assert masked.messages[0].content == "Write to [EMAIL]"
    assert masked.messages[0].suggestion is unset
    assert masked.customer_id is None
    assert masked.meta is None


def test_all_values_of_meta_are_masked_and_the_names_of_facts_stay() -> None:
    masked = conversation(
        meta={
            "mail": MAIL,
            MAIL: "a key",
            "deep": [{"phones": [PHONE, None, True, 12, 1.5]}, [[f"x {MAIL}"]]],
            "number": 4915112345678,
            "from_a_data_frame": 4915112345678.0,
            "local_number": 5551234,
            "price": 125_000_000,
            "share": 0.123456789,
        }
    )

    PLAIN.conversation(masked)

    assert masked.meta == {
        "mail": "[EMAIL]",
        MAIL: "a key",
        "deep": [{"phones": ["[PHONE]", None, True, 12, 1.5]}, [["x [EMAIL]"]]],
        "number": "[PHONE]",
        "from_a_data_frame": "[PHONE]",
        "local_number": "[PHONE]",
        "price": 125_000_000,
        "share": 0.123456789,
    }


def test_keys_within_a_fact_are_masked_and_none_gets_lost() -> None:
    other = "bert@example.com"
    masked = conversation(meta={"contacts": {MAIL: {"since": 2020}, other: [{"4915112345678": 1}]}})

    PLAIN.conversation(masked)

    assert masked.meta == {
        "contacts": {
            PLAIN.identifier(MAIL): {"since": 2020},
            PLAIN.identifier(other): [{PLAIN.identifier("4915112345678"): 1}],
        }
    }
    assert "@" not in str(masked.meta)


@pytest.mark.parametrize(
    ("meta", "masked"), [(MAIL, "[EMAIL]"), ([MAIL], ["[EMAIL]"]), (7, 7), ({}, {})]
)
def test_meta_may_be_any_json(meta: Any, masked: Any) -> None:
    found = conversation(meta=meta)

    PLAIN.conversation(found)

    assert found.meta == masked


def test_meta_may_be_nested_deeper_than_python_calls_functions() -> None:
    meta: Any = MAIL
    for _ in range(100_000):
        meta = [meta]
    nested = LogConversation("c", [], meta=meta)

    PLAIN.conversation(nested)

    meta = nested.meta
    while isinstance(meta, list):
        nested.meta = meta = meta[0]  # taken apart here: Python frees nested lists in calls, too
    assert meta == "[EMAIL]"


# --- rejects -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        pytest.param(rb'{"a": "anna@x.de', '{"a": "[EMAIL]', id="as it is"),
        pytest.param(rb'{"a": "anna\u0040x.de', '{"a": "[EMAIL]', id="escaped sign"),
        pytest.param(
            rb'"\u0061\u006E\u006e\u0061\u0040\u0078\u002e\u0064\u0065"', '"[EMAIL]"', id="all"
        ),
        pytest.param(rb'"{\"a\": \"anna\\u0040x.de\"}"', r'"{\"a\": \"[EMAIL]\"}"', id="twice"),
        pytest.param(rb'"\ud835\udfce171 1234567"', '"[PHONE]"', id="a pair of surrogates"),
        pytest.param(rb'"anna\uff20x.de"', '"[EMAIL]"', id="escaped full-width sign"),
        pytest.param(rb'"a\n4915112345678\n"', r'"a\n[PHONE]\n"', id="a line break before it"),
        pytest.param(rb'"0171\t1234567"', '"[PHONE]"', id="a tab within it"),
        pytest.param(rb'"a\u000a4915112345678"', r'"a\u000a[PHONE]"', id="escaped line break"),
        pytest.param(rb'"0171\/1234567"', '"[PHONE]"', id="escaped slash"),
        pytest.param(rb'"0171\u00a01234567"', '"[PHONE]"', id="escaped blank"),
        pytest.param(
            rb'"\ud83d \u0022 \u005c \u0000 \u00e4"', r'"\ud83d \u0022 \u005c \u0000 ä"', id="rest"
        ),
        pytest.param("name;ä@ö.de".encode(), "name;[EMAIL]", id="not JSON at all"),
        pytest.param("ä@ö.de".encode("latin-1"), "[NOT UTF-8: 6 bytes]", id="another encoding"),
        pytest.param("a@b.de".encode("utf-16-le"), "[NOT UTF-8: 12 bytes]", id="UTF-16"),
        pytest.param(b"", "", id="nothing"),
    ],
)
def test_a_rejected_line_shows_no_personal_data(line: bytes, shown: str) -> None:
    assert PLAIN.raw(line) == shown


@given(st.text(max_size=30))
@settings(deadline=None)
def test_no_way_of_writing_json_hides_an_address(around: str) -> None:
    content = json.dumps(f"{around} anna.berg@example.com {around}")

    # What a reader of the masked line can get out of it by reading it as JSON.
    masked = PLAIN.raw(content.encode())
    assert "anna.berg" not in masked
    assert "anna.berg" not in json.loads(masked, strict=False)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        pytest.param(
            "conversation_id: '4915112345678' was there before",
            "conversation_id: '[PHONE]' was there before",
            id="an id",
        ),
        pytest.param(
            r"no role: 'me\nanna@x.de\xa0'", r"no role: 'me\n[EMAIL]\xa0'", id="Python's escapes"
        ),
        pytest.param(
            "messages.12.role: Input should be 'customer' or 'business'",
            "messages.12.role: Input should be 'customer' or 'business'",
            id="nothing to mask",
        ),
        pytest.param(r"C:\temp\new: no such file", r"C:\temp\new: no such file", id="a path"),
        pytest.param(
            f"role: {shorten('write to ' + 'x' * 33 + ' anna.schmidt@example.com')} is none",
            "role: '…' is none",
            id="an address cut in two",
        ),
        pytest.param(
            f"time: {shorten('0171 123 ' + 'x' * 45 + ' 0171 1234567')} is no time, 'a…' neither",
            "time: '…' is no time, 'a…' neither",
            id="a number cut in two",
        ),
    ],
)
def test_a_reason_shows_no_personal_data(reason: str, shown: str) -> None:
    assert PLAIN.reason(reason) == shown


# --- nothing is slow -----------------------------------------------------------------------------


REPEATED = [
    *(
        "1 ",
        "1-",
        "12 ",
        "10 ",
        "4444 ",
        "1234567 ",
        "0171 ",
        "123.",
        "1.",
        "1,",
        "10:00",
        "800-1200 ",
    ),
    *("+", "+1", "(", "(1", "0/(", "a@a.", "\\u0040", r"\\u", "%20", "1%20", "2026-05-01 ", "0 "),
    *(
        "4111 1111 1111 1111 ",
        "€",
        "€1 ",
        "kr ",
        "[",
        "[PHONE",
        "a1b2c3d4 ",
        "550e8400-",
        "中",
        "０",
    ),
    *(" ", "9" * 20 + " "),
]


@pytest.mark.parametrize(
    "piece",
    ["7", "-", "a@", "\\", *(pytest.param(each, marks=pytest.mark.slow) for each in REPEATED)],
)
def test_the_time_grows_with_the_text_only(piece: str) -> None:
    text = (piece * 50_000)[:50_000] + " a@b.de 0171 1234567"
    began = time.process_time()

    PLAIN.text(text)
    PLAIN.raw(text.encode())

    # It takes half a second at most; what grows with the square takes minutes.
    assert time.process_time() - began < 20


@pytest.mark.parametrize("separator", [" ", ",", "'"], ids=["blanks", "commas", "apostrophes"])
def test_long_rows_of_small_numbers_are_done_soon(separator: str) -> None:
    row = f"112{separator}" * 50_000 + "1124"
    began = time.process_time()

    assert PLAIN.text(f"{row}; 0171 1234567").endswith("; [PHONE]")

    assert time.process_time() - began < 20
