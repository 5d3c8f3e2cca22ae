"""Which numbers of a text are phone numbers, and which are not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterppo.logs.personal_data import plain_view
from iterppo.logs.phone_numbers import find_phones


def phones(text: str) -> list[str]:
    return [text[start:end] for start, end in find_phones(plain_view(text))]


@pytest.mark.parametrize(
    "number",
    [
        "+49 30 123456",
        "+49 (0) 30 / 12 34 56-0",
        "+49-171-1234567",
        "+4915112345678",
        "+(49) 30 123456",
        "+(49 30 123456)",
        "0049 171 1234567",
        "0171-1234567",
        "0171/1234567",
        "0171.1234567",
        "030 123456",
        "(030) 123456",
        "030/1234-0",
        "(555) 123-4567",
        "(555)123-4567",
        "555-123-4567",
        "555.123.4567",
        "555.123-4567",
        "555 123 4567",
        "555-1234",
        "1-800-555-1234",
        "1 (555) 123-4567",
        "+1.555.123.4567",
        "+1 (555) 123-4567",
        "4915112345678",
        "49 151 12345678",
        "+33 (0)6 12 34 56 78",
        "+33 6 12 34 56 78",
        "06 12 34 56 78",
        "06.12.34.56.78",
        "06-10-05-12-26",
        "020 7946 0958",
        "07700 900123",
        "+44 20 7946 0958",
        "044 668 18 00",
        "+45 20 12 34 56",
        "20 43 12 56",
        "612 345 678",
        "612 34 56 78",
        "9123 4567",
        "138 1234 5678",
        "13812345678",
        "090-1234-5678",
        "+7 (912) 345-67-89",
        "8 912 345 67 89",
        "345-67-89",
        "+55 11 91234-5678",
        "11 91234-5678",
        "98765 43210",
        "+91 98765 43210",
        "0412 345 678",
        "+62 812 3456 0789",
        "0 1 7 1 1 2 3 4 5 6 7",
        "5551234",
        "０１７１−１２３４５６７",
        "＋４９ ３０ １２３４５６",
        "٠١٧١ ١٢٣٤٥٦٧",
        "+49 171\u00a01234567",
        "0171‑1234567",
        "0171\u200b1234567",
    ],
)
@pytest.mark.parametrize("around", ["{}", "Call me: {}, please.", "Ruf {} an!", "「{}」です"])
def test_a_phone_number_is_found_whole(number: str, around: str) -> None:
    assert phones(around.format(number)) == [number]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("(0171 1234567)", ["0171 1234567"], id="in parentheses"),
        pytest.param("wa.me/4915112345678", ["4915112345678"], id="in a web address"),
        pytest.param("?phone=%2B4915112345678", ["%2B4915112345678"], id="percent-encoded plus"),
        pytest.param("0171%201234567", ["0171%201234567"], id="percent-encoded blank"),
        pytest.param("我的电话13812345678谢谢", ["13812345678"], id="no blanks between words"),
        pytest.param("WhatsApp4915112345678", ["4915112345678"], id="announced without a blank"),
        pytest.param(r"Hi\n4915112345678", ["4915112345678"], id="behind an escape"),
        pytest.param("555-123-4567pls", ["555-123-4567"], id="a word follows at once"),
        pytest.param("+1-555-123-4567pls", ["+1-555-123-4567"], id="a word follows its last group"),
        pytest.param("0171 1234567 2pls", ["0171 1234567"], id="a word follows a count at once"),
        pytest.param("555-123-4567x89", ["555-123-4567"], id="an extension follows"),
        pytest.param("+1-555-123-4567x890", ["+1-555-123-4567"], id="one behind a plus"),
        pytest.param("5551234567x89", ["5551234567"], id="one behind a run of digits"),
        pytest.param("0171 1234567 2 people", ["0171 1234567"], id="a count follows"),
        pytest.param("0171 1234567 12 500 €", ["0171 1234567"], id="a price follows"),
        pytest.param("0171 1234567 € 50", ["0171 1234567"], id="a price behind its currency"),
        pytest.param("0171 1234567 2026-05-01", ["0171 1234567"], id="a date follows"),
        pytest.param("0171 1234567 10:30", ["0171 1234567"], id="a time follows"),
        pytest.param("0171 1234567 120 m²", ["0171 1234567"], id="an area follows"),
        pytest.param("10:30 0171 1234567", ["0171 1234567"], id="a time precedes"),
        pytest.param("$1,250.00 0171 1234567", ["0171 1234567"], id="a price precedes"),
        pytest.param("$100 555 123 4567", ["555 123 4567"], id="a short price precedes"),
        pytest.param("2 0171 1234567", ["0171 1234567"], id="a count precedes"),
        pytest.param(
            "0171 1234567 0172 7654321", ["0171 1234567", "0172 7654321"], id="two in a row"
        ),
        pytest.param("5551234 try later", ["5551234"], id="a word that is also a currency"),
    ],
)
def test_a_phone_number_is_told_from_what_is_around_it(text: str, found: list[str]) -> None:
    assert phones(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "$1,250.00",
        "$12,500 - $14,200",
        "$1250000",
        "12 500 €",
        "12 500 € 14 200 € 16 800 €",
        "€ 1250000",
        "1234567 EUR",
        "1 250 000",
        "12 500 000 kr",
        "123 456 789 руб",
        "2500000",
        "250.000.000",
        "Rp 1.250.000",
        "Rp. 12.500.000,00",
        "₹12,50,000",
        "CHF 1'250'000.-",
        "1234567,89",
        "1234567.89",
        "budget 800-1200",
        "1500-2000",
        "2026-05-01 10:00",
        "2026-05-01T10:00:00.1234567+02:00",
        "2026-05-01 2026-05-02",
        "01.05.2026",
        "01.05.2026 10.30 Uhr",
        "1.5.-3.5.2026",
        "5/1/2026 10:00 AM",
        "01/05/2026-03/05/2026",
        "01-05-26 10-30",
        "01 05 2026",
        "20260501",
        "2020-2026",
        "0800-1700",
        "08:00-17:00 2026",
        "120 m²",
        "1 200 000 m²",
        "1234567 sqm",
        "2400 1200 800",
        "1200x800x600",
        "12345678x10",
        "38 40 42 44",
        "order 123456",
        "#123456",
        "1.2.3.4",
        "192.168.100.200",
        "10.15.7.22.1",
        "52.5200066, 13.404954",
        "52.5200066 13.404954",
        "3.14159265",
        "RE20260012345",
        "1Z999AA10123456784",
        "a1b2c3d4e5f601234567",
        "550e8400-e29b-41d4-a716-446655440000",
        "12345678-1234-1234-1234-123456789012",
        "conv-20260501-0001",
        "12345678901234567890",
        "1 2 3 4 5 6 7",
        "24/7 12/2026 38/40",
    ],
)
def test_another_number_is_no_phone_number(text: str) -> None:
    assert phones(text) == []
    assert phones(f"so {text}, thanks") == []


@pytest.mark.parametrize(
    "text",
    ["order 1234567", "1767225600", "in 2026 1534 guests", "pages 1107-1149"],
)
def test_where_both_readings_are_possible_it_is_taken_for_a_phone_number(text: str) -> None:
    # The price of the rules, written down: a change of it is a decision.
    assert len(phones(text)) == 1


@given(
    st.text("0123456789", min_size=8, max_size=12),
    st.lists(st.sampled_from([" ", "-", ".", " / "]), min_size=1, max_size=3),
)
@settings(deadline=None)
def test_what_begins_with_a_plus_is_found_in_any_grouping(
    digits: str, separators: list[str]
) -> None:
    # Groups of three digits and more; what the last separator leaves is the last group.
    groups = [digits[3 * n : 3 * n + 3] for n in range(len(separators) - 1)]
    groups.append(digits[3 * len(groups) :])
    number = "+43" + "".join(map("".join, zip(separators, groups, strict=True)))

    assert phones(number) == [number]
    assert phones(f"Tel. {number}!") == [number]
