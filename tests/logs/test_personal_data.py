"""Where e-mail addresses and card numbers stand, in any script and any grouping."""

import doctest
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iterppo.logs.personal_data
from iterppo.logs.personal_data import find_cards, find_emails, passes_luhn, plain_view


def emails(text: str) -> list[str]:
    return [text[start:end] for start, end in find_emails(plain_view(text))]


def cards(text: str) -> list[str]:
    return [text[start:end] for start, end in find_cards(plain_view(text))]


def test_the_examples_are_right() -> None:
    found = doctest.testmod(iterppo.logs.personal_data)

    assert (found.failed, found.attempted) == (0, 2)


@given(st.text())
@settings(deadline=None)
def test_a_plain_view_has_a_character_for_each_character(text: str) -> None:
    view = plain_view(text)

    assert len(view) == len(text)
    assert all(c in "0123456789" for c in view if c.isdecimal())


# --- e-mail addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "anna@example.com",
        "Anna.Müller+shop@beispiel-firma.co.uk",
        "o'brien@example.ie",
        "a_b%c&d@example.museum",
        "anna@xn--bcher-kva.example",
        "Анна@почта.рф",
        "用户@例子.中国",
        "user@例え.jp",
        "jose\u0301@example.com",
        "anna＠example．com",
        "ａｎｎａ＠ｅｘａｍｐｌｅ．ｃｏｍ",
        "anna@qq。com",
        "anna%40example.com",
        "anna%2Bshop%40example.com",
        "anna&#64;example.com",
        "4915112345678@c.us",
        "root@192.168.1.1",
        "root@[192.168.1.1]",
    ],
)
@pytest.mark.parametrize("around", ["{}", "mailto:{}?subject=1", "I am <{}>, hi", "*{}*", "({})."])
def test_an_address_is_found_whole(address: str, around: str) -> None:
    assert emails(around.format(address)) == [address]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("我的邮箱是anna@example.com谢谢", ["anna@example.com"], id="no blanks"),
        pytest.param("a@b.de&c@d.de;e@f.de", ["a@b.de", "c@d.de", "e@f.de"], id="several"),
        pytest.param("x@y@example.com", ["y@example.com"], id="one sign too many"),
        pytest.param("'@anna@example.com'", ["anna@example.com"], id="a mention before it"),
        pytest.param("write to anna@example.com.", ["anna@example.com"], id="a full stop"),
        pytest.param(r"Hi\nanna@example.com\n", ["anna@example.com"], id="between escapes"),
        pytest.param("@anna, a@b, 3 pcs@4.50, me @ home, a@.de, @b.de", [], id="none"),
    ],
)
def test_an_address_is_told_from_what_is_around_it(text: str, found: list[str]) -> None:
    assert emails(text) == found


# --- payment cards -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "card",
    [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111 - 1111 - 1111 - 1111",
        "4111.1111.1111.1111",
        "4111111111111111",
        "5555\u00a05555\u00a05555\u00a04444",
        "5105–1051–0510–5100",
        "378282246310005",
        "3782 822463 10005",
        "30569309025904",
        "3056 930902 5904",
        "4222222222222",
        "4222 222 222 222",
        "6304 0000 0000 0000 000",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "４１１１ １１１１ １１１１ １１１１",
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "card: {}, 12/27", "VISA{} ok", "on 2026-05-01 {} at 10:00"]
)
def test_a_card_number_is_found_whole(card: str, around: str) -> None:
    assert cards(around.format(card)) == [card]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("4111 1111 1111 1111 12/27 123", ["4111 1111 1111 1111"], id="expiry"),
        pytest.param("4111-1111-1111-1111 123", ["4111-1111-1111-1111"], id="code"),
        pytest.param("2 4111 1111 1111 1111", ["4111 1111 1111 1111"], id="a count"),
        pytest.param(
            "4111 1111 1111 1111 5555 5555 5555 4444",
            ["4111 1111 1111 1111", "5555 5555 5555 4444"],
            id="two in a row",
        ),
        pytest.param("4111 1111 1111 1112", [], id="wrong check digit"),
        pytest.param("4915112345678", [], id="a mobile phone whose last digit is right"),
        pytest.param("+44111111111111111", [], id="a plus"),
        pytest.param("0000 0000 0000 0000", [], id="zeros"),
        pytest.param("41111111111111111111111111", [], id="too long"),
        pytest.param("2026-05-01 2026-05-02 2026-05-06", [], id="dates"),
    ],
)
def test_a_card_number_is_told_from_what_is_around_it(text: str, found: list[str]) -> None:
    assert cards(text) == found


@given(
    st.text("0123456789", min_size=13, max_size=18),
    st.integers(2, 9),
    st.lists(st.sampled_from(["", "", " ", "-", "  "]), min_size=20, max_size=20),
)
@settings(deadline=None)
def test_a_right_check_digit_makes_a_card_of_any_grouping_and_a_wrong_one_none(
    body: str, first: int, separators: list[str]
) -> None:
    body = str(first) + body[1:]
    right = next(digit for digit in "0123456789" if passes_luhn(body + digit))
    wrong = str((int(right) + 1) % 10)
    joined = "".join(map("".join, zip(body, separators, strict=False)))

    # A date in the midst ends a row of groups.
    if cards(joined + right) != [joined + right]:
        assert "-" in joined
    assert joined + wrong not in cards(joined + wrong)


def test_one_wrong_digit_and_two_swapped_ones_do_not_pass() -> None:
    digits = "4539148803436467"
    assert passes_luhn(digits)

    for n in range(16):
        assert not passes_luhn(digits[:n] + str((int(digits[n]) + 3) % 10) + digits[n + 1 :])
    assert not passes_luhn("4593148803436467")


# --- nothing is slow -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["a", "a@", "a@a.", "x@a.1", "%40", "中@", ".", "'", "a.b-"])
def test_the_time_for_addresses_grows_with_the_text_only(piece: str) -> None:
    text = (piece * 200_000)[:200_000] + "@"
    began = time.process_time()

    emails(text)

    # It takes a fifth of a second; what grows with the square takes minutes.
    assert time.process_time() - began < 20
