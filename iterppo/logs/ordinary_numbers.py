"""What numbers in a chat are when they are nobody's: dates, times, amounts, measures, versions.

Patterns to be matched where a group of digits begins, in a plain view (`personal_data.plain_view`);
none ends in the midst of digits, and each is linear.
"""

from __future__ import annotations

import re

_YEAR = r"(?:19|20)\d\d"
_SHORT = r"[0-3]?\d"  # a day or a month
_JOINTS = ("-", "/", r"\.")
DATE = "(?:{})(?!\\d)".format(
    "|".join(rf"{_YEAR}{j}{_SHORT}{j}{_SHORT}|{_SHORT}{j}{_SHORT}{j}{_YEAR}" for j in _JOINTS)
)
"""A date with its year in four digits."""

_SYMBOLS = "$€£¥₹₽₩₺₴₪₫฿₦₱₸₡￥￡元円圆원万億亿"
_CODES = (
    "eur|usd|gbp|chf|cad|aud|jpy|cny|rmb|inr|brl|mxn|pln|czk|huf|sek|nok|dkk|rub|uah|aed|sar|"
    "zar|idr|vnd|krw|euro|euros|dollar|dollars|rp|rs|kr|zł|kč|ft|tl|руб|грн"
)
"""Only such as are no words of a language: `5551234 try later`."""

_CURRENCY = rf"(?:[{_SYMBOLS}]|(?i:{_CODES})(?!\w))"
_UNIT = r"(?:[%°]|(?i:m[²³23]|sq\.? ?(?:m|ft)|sqm|qm|km|kg|kwh)(?!\w))"
# No amount has more groups. Without a bound a row of numbers is read to its end from each of them.
_BLANK_GROUPS, _JOINED_GROUPS = r"(?: \d{3}){1,5}", r"(?:[.,']\d{3}){1,5}"
_THOUSANDS = rf"(?!0\d)\d{{1,3}}(?:{_BLANK_GROUPS}|{_JOINED_GROUPS})(?:[.,]\d{{1,2}})?(?![ .,']?\d)"
_SMALL = r"\d{1,9}(?:[.,]\d{1,2})?(?![.,]?\d)"
# A currency before a further number belongs to that: `0171 1234567 € 50`.
_WITH_UNIT = rf"(?:{_THOUSANDS}|{_SMALL})[ \0]?(?:{_CURRENCY}(?![ \0]?\d)|{_UNIT})"
_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?(?!\d)"
_AFTER_A_NUMBER = rf"{DATE}|{_TIME}|{_WITH_UNIT}|\d{{1,3}},\d\d(?!\d)"

AFTER_A_NUMBER = re.compile(_AFTER_A_NUMBER)
"""What is so clearly something else that it is told from the groups of a number before it."""

_HOUR = r"(?:[01]\d|2[0-4])(?:00|15|30|45)"
ORDINARY = re.compile(
    "|".join(
        [
            _AFTER_A_NUMBER,
            rf"{_SHORT} {_SHORT} {_YEAR}(?!\d)",
            *(rf"{_SHORT}{j}{_SHORT}{j}\d\d(?!{j}?\d)" for j in _JOINTS),
            r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)",  # 20260501
            rf"{_HOUR} ?- ?{_HOUR}(?!\d)",  # 0800-1700
            r"(?!0\d)\d{1,3}(?:\.\d{1,3}){3,}(?!\d)",  # versions, IP addresses
            # Decimals and thousands, but not 555.123-4567.
            r"(?!0\d|\d{3}\.\d{3}[ .-]\d{4}(?!\d))"
            rf"(?:\d{{1,3}}{_JOINED_GROUPS}(?:[.,]\d{{1,2}})?|\d{{1,3}}\.\d+|\d{{1,9}}[.,]\d\d)"
            r"(?![.,']?\d)",
        ]
    )
)
"""All of them."""

AMOUNT = re.compile(rf"{_THOUSANDS}|{_SMALL}")
"""What a currency may stand before."""

UUID = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
)
_SYMBOL_SET, _CODE_SET = frozenset(_SYMBOLS), frozenset(_CODES.split("|"))
_WORD = re.compile(r"[^\W\d_]+\Z")


def is_behind_currency(view: str, start: int) -> bool:
    """Whether a currency stands before `start`: `$12`, `EUR 12`, `Rp. 12`."""
    before = view[max(0, start - 12) : start].rstrip(" \0").rstrip(".")
    word = _WORD.search(before)
    return before[-1:] in _SYMBOL_SET or (word is not None and word[0].lower() in _CODE_SET)
