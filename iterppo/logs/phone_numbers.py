"""Where phone numbers stand in a text, among prices, dates and measures.

A number *says* that it is a phone number by a +, by a leading 0 or by an area code in parentheses;
then any grouping counts, from 7 to 15 digits. Without such a sign it counts by its shape: a bare
run of 7 to 15 digits (WhatsApp's `4915112345678`, but also an order number of 7 digits), or groups
as phones have them (`555-123-4567`, `20 12 34 56`).

Not taken are dates, times, amounts with a currency, measures with a unit, decimals, thousands,
version and IP numbers, ranges, and codes with letters (`RE20260012345`). Where both readings are
possible, the choice is this: what is masked wrongly costs a number that no policy could have known;
what is left wrongly costs somebody's privacy. So bare numbers of 7 digits and more are masked, and
the exceptions are narrow.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from iterppo.logs.ordinary_numbers import (
    AFTER_A_NUMBER,
    AMOUNT,
    ORDINARY,
    UUID,
    is_behind_currency,
)
from iterppo.logs.personal_data import MASKED, Span

_SEVEN_DIGITS = re.compile(r"\d(?:[ \t\0()/.-]{0,4}\d){6}")
_GROUP = re.compile(r"\d+")
_SIGN = re.compile(rf"(?:(?<![\d\0{MASKED}])\0{{0,4}}\+[ \0]?\(?|\()\Z")
_BETWEEN = r"(?:[ \t\0()/-]{1,4}|\.)"
_SAID_ROW = re.compile(rf"\d+(?:{_BETWEEN}\d+){{0,16}}")
_ROW = re.compile(rf"\d+(?:{_BETWEEN}\d{{2,}}){{0,6}}")
_ANNOUNCED = re.compile(r"(?i:tel|fon|phone|mob|mobile?|handy|cell|call|app|wa)\Z")
"""Words that are written together with a number."""
_EXTENSION = re.compile(r"[xX]\d{1,6}(?!\w)")
"""`555-123-4567x89`; behind fewer than ten digits it is a measure."""

_SHORT_SHAPES = {
    *((3, 4), (4, 4), (2, 3, 2), (3, 2, 2), (3, 2, 3), (3, 3, 2), (3, 3, 3), (2, 3, 4)),
    *((2, 2, 2, 2), (3, 2, 2, 2), (2, 3, 2, 2)),
}
"""Groups of 7 to 9 digits that are phone numbers; not those of 1 250 000 and 12 500 000."""


def find_phones(view: str) -> Iterator[Span]:
    """Phone numbers in a plain view, from left to right."""
    if _SEVEN_DIGITS.search(view) is None:
        return
    barriers: dict[int, bool] = {}
    position = 0
    while group := _GROUP.search(view, position):
        start = group.start()
        signs = _SIGN.search(view[max(position - 1, start - 8, 0) : start])
        sign = signs[0] if signs else ""
        if sign == "(" and view[group.end() : group.end() + 1] != ")":
            sign = ""
        ordinary = (AFTER_A_NUMBER if "+" in sign else ORDINARY).match(view, start)
        if ordinary is not None:
            position = ordinary.end()
            continue
        end = _end_of_phone(view, start, sign, barriers)
        if end is None:
            position = group.end()
            continue
        other = _end_of_other(view, start, end)
        if other is None:
            yield start - len(sign), end
        position = other or end


def _end_of_phone(view: str, start: int, sign: str, barriers: dict[int, bool]) -> int | None:
    """Where the longest phone number ends whose digits begin at `start`, None where none does.

    Each length is judged by itself and by the one character behind it. So what was not masked is
    not a phone number either once its neighbour is masked.
    """
    spans = _groups(view, start, sign, barriers)
    digits = [view[first:last] for first, last in spans]
    totals = list(itertools.accumulate(map(len, digits)))
    # How many groups come before the first of several digits, and the first that ends in no 0:
    # 800-1200 and 2400 1200 800 are amounts.
    singles = next((n for n, each in enumerate(digits) if len(each) > 1), len(digits))
    tens = next((n for n, each in enumerate(digits) if each[-1] != "0"), len(digits))
    says_so = bool(sign) or view[start] == "0"
    before_letters = None
    for count in range(len(spans), 0, -1):
        if totals[count - 1] < 7:
            break
        first, end = spans[count - 1]
        if count == 1 and not sign:
            accepted = _stands_alone(view, start, digits[0])
        elif says_so and (digits[0] != "0" or count > 2):
            # The last is not the number of something: `0171 1234567 2 Personen`.
            accepted = first + 1 < end or view[first - 1] == "-" or count <= singles
        else:
            accepted = count > tens and _has_shape(digits[:count], view[spans[0][1] : end])
        if not accepted:
            continue
        num_open = sign.count("(") + view.count("(", start, end) - view.count(")", start, end)
        if num_open == 1 and view[end : end + 1] == ")":
            num_open, end = 0, end + 1
        if num_open:
            continue
        is_extended = totals[count - 1] >= 10 and _EXTENSION.match(view, end) is not None
        if is_extended or not _is_letter(view[end : end + 1]):
            return end
        if (says_so or view[end] not in "xX") and (count > 1 or sign):
            if count > 1 and not view[first - 1].isspace():  # `+1-555-123-4567pls`
                return end
            before_letters = before_letters or end
    return before_letters


def _groups(view: str, start: int, sign: str, barriers: dict[int, bool]) -> list[Span]:
    """The groups of digits from `start` on that may be one number."""
    says_so = bool(sign) or view[start] == "0"
    row = (_SAID_ROW if says_so else _ROW).match(view, start)
    if row is None or row.end() - start < 7:
        return []
    limit = 11 if "+" in sign and view[start] in "17" else 15
    limit += 2 * view.startswith("00", start)
    spans: list[Span] = []
    total = 0
    for group in _GROUP.finditer(view, start, row.end()):
        first, last = group.span()
        if spans:
            if first not in barriers:
                barriers[first] = AFTER_A_NUMBER.match(view, first) is not None
            # `0171 1234567 0172 7654321` is two, `020 7946 0958` is one.
            is_another = total >= 11 and view[first] == "0" and last - first >= 3
            if barriers[first] or is_another or (sign + view[start:first]).count("(") > 1:
                break
        total += last - first
        if total > limit:
            break
        spans.append((first, last))
    return spans


def _end_of_other(view: str, start: int, end: int) -> int | None:
    """Where an amount behind its currency or a UUID ends that looks like a phone number from
    `start` to `end`; None if it is neither."""
    if is_behind_currency(view, start):
        amount = AMOUNT.match(view, start)
        if amount is not None:
            return amount.end()
    if "-" in view[max(0, start - 1) : end + 1]:
        for uuid in UUID.finditer(view, max(0, start - 36), end + 36):
            if uuid.start() < end and start < uuid.end():
                return uuid.end()
    return None


def _has_shape(digits: list[str], rest: str) -> bool:
    """Whether groups without a + or a 0 before them are a phone number; `rest` is the text of all
    but the first."""
    lengths = tuple(map(len, digits))
    if "/" in rest:
        return False
    if "." in rest:
        return lengths in ((3, 3, 4), (1, 3, 3, 4))
    if all(len(each) == 4 and each[:2] in ("19", "20") for each in digits[:2]):  # 2020-2026
        return False
    if set(lengths) == {2} and all(a < b for a, b in itertools.pairwise(digits)):  # 38 40 42 44
        return False
    if sum(lengths) < 10:
        return lengths in _SHORT_SHAPES and (lengths != (3, 4) or rest[0] == "-")
    if lengths[0] > 5 or (lengths[0] == 1 and digits[0] not in "178"):
        return False
    return max(lengths[1:]) <= 8


def _stands_alone(view: str, start: int, digits: str) -> bool:
    """Whether a bare run of digits is a phone number: not a part of a code with letters, nor a
    round amount."""
    if len(digits) > 15 or (len(digits) < 10 and digits.endswith("000")):
        return False
    before = view[max(0, start - 8) : start]
    return not _is_letter(before[-1:]) or _ANNOUNCED.search(before) is not None


def _is_letter(character: str) -> bool:
    """Scripts without blanks between words do not make codes with digits."""
    return character.isascii() and character.isalpha()
