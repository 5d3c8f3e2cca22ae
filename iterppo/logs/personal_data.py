"""Where e-mail addresses and payment card numbers stand in a text.

The finders look at a *plain view* of the text (`plain_view`), which has the same length: full-width
letters, the digits of every script, Unicode blanks and dashes become their ASCII equivalents, and
so do the escapes of web addresses (`%40`). A span of the view is a span of the text. Every pattern
here is linear in the text, whatever stands in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from iterppo.logs.ordinary_numbers import DATE

Span = tuple[int, int]

MASKED = "\x01"
"""Stands in a view for each character of what is masked already."""


class _Plain(dict[int, str]):
    """What a character is in a plain view, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Nd":
            plain = str(unicodedata.decimal(character))
        elif 0xFF01 <= code <= 0xFF5E:  # the full-width copy of ASCII
            plain = chr(code - 0xFEE0)
        elif character in "﹫":
            plain = "@"
        elif character in "。｡․":
            plain = "."
        elif character in "‘’":
            plain = "'"
        elif category == "Zs":
            plain = " "
        elif category in ("Pd", "Cf") or character == "−":  # Cf: what nobody sees
            plain = "-"
        else:
            plain = character
        self[code] = plain
        return plain


_PLAIN = _Plain()
_ESCAPES = {
    **{"%20": " ", "%28": "(", "%29": ")", "%2b": "+", "%40": "@", "&#43;": "+", "&#64;": "@"},
    **{"\\t": "\t", "\\/": "/", "\\xa0": " "},
}
_ESCAPE = re.compile(
    r"%(?:2[0B89]|40)|&#(?:43|64);|\\(?:[tnrbf/]|xa0|[ux][01]{1,3}[0-9a-f])", re.IGNORECASE
)
"""Those of web addresses and of JSON; what is in no table here is a control character."""


def plain_view(text: str) -> str:
    r"""The text, character for character, in ASCII where ASCII has an equivalent; an escape is its
    character behind as many NULs as fill its place.

    >>> plain_view("ａ＠ｂ．ｃ ٠١٢ 4–5"), plain_view("a%40b")
    ('a@b.c 012 4-5', 'a\x00\x00@b')
    """
    if not text.isascii():
        text = text.translate(_PLAIN)
    if "%" in text or "&#" in text or "\\" in text:
        text = _ESCAPE.sub(_unescape, text)
    return text


def _unescape(escape: re.Match[str]) -> str:
    return _ESCAPES.get(escape[0].lower(), "\n").rjust(len(escape[0]), "\0")


# --- e-mail addresses ----------------------------------------------------------------------------

# Scripts that put no blanks between words: an address in the midst of them ends where they begin.
_UNSPACED = r"\u0e00-\u0eff\u3005-\u3007\u3040-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_SPACED = r"0-9A-Za-z\u00aa-\u0dff\u0f00-\u1fff\u2c00-\u2dff\ua640-\uabff\ufb1d-\ufefc"
_LAST = rf"(?![\d-])[{_SPACED}][{_SPACED}-]+"  # the last part of a domain is no number
_DECORATION = r"\0.'*~!#$%&^-"
_EMAIL = re.compile(
    # A run is taken whole, be there an address or not: no character is looked at as a start twice.
    rf"[{_DECORATION}]*+([{_SPACED}_+][{_SPACED}_+{_DECORATION}]*+|[{_UNSPACED}]++)"
    rf"(\0*@\0*(?:[{_SPACED}-]+(?:\.[{_SPACED}-]+)*\.{_LAST}"
    rf"|[{_SPACED}{_UNSPACED}-]+(?:\.[{_SPACED}{_UNSPACED}-]+)*\.(?:{_LAST}|[{_UNSPACED}]{{2,}})"
    r"|\[?\d+\.\d+\.\d+\.\d+\]?))?"
    rf"|[{_DECORATION}]++"
)


def find_emails(view: str) -> Iterator[Span]:
    """E-mail addresses, of any script; the domain needs a dot.

    What is only decoration before an address (`*anna@example.com*`) is not taken.
    """
    if "@" not in view:
        return
    for found in _EMAIL.finditer(view):
        if found[2] is not None:
            yield found.start(1), found.end()


# --- payment cards -------------------------------------------------------------------------------

_BETWEEN = r"(?:[ \t\0-]{1,3}|\.)"
_ROW = re.compile(rf"{DATE}|(?P<row>\+?\d+(?:{_BETWEEN}(?!{DATE})\d+)*)")
_GROUP = re.compile(r"\d+")
_MASKED_BEFORE = re.compile(rf"{MASKED}{_BETWEEN}?\Z")
_MASKED_BEHIND = re.compile(rf"{_BETWEEN}?{MASKED}")
_LENGTHS = (16, 15, 19, 18, 17, 14, 13)
"""The commonest first: what follows a card (its expiry, its code) is then not taken for a part."""


def find_cards(view: str) -> Iterator[Span]:
    """Payment card numbers: 13 to 19 digits with a right check digit (Luhn), in one run or with
    blanks, dashes or dots between them.

    A tenth of all numbers has a right check digit by chance. So within a longer row of numbers only
    groups as they stand on cards are taken (4-4-4-4, 4-6-5), and what is written as a phone number
    (+49…, 0171…) is none. Of 13 digits are old Visa cards only, which begin with 4, but not with
    491[5-7] as mobile phones in Germany do.
    """
    for found in _ROW.finditer(view):
        start, end = found.span()
        if found["row"] is None or end - start < 13:
            continue
        groups = [each.span() for each in _GROUP.finditer(view, start, end)]
        # The rest of a row of which something was masked is not a whole row.
        is_whole = not (
            _MASKED_BEFORE.search(view[max(0, start - 4) : start])
            or _MASKED_BEHIND.match(view, end)
        )
        if is_whole and _is_card(view, groups):
            yield groups[0][0], end
            continue
        first = 0
        while first < len(groups):
            num_groups = _groups_of_card(view, groups[first : first + 5])
            if num_groups:
                yield groups[first][0], groups[first + num_groups - 1][1]
            first += num_groups or 1


def _groups_of_card(view: str, groups: list[Span]) -> int:
    """How many of the groups, from the first on, are a card number; 0 if none is."""
    if groups[0][1] - groups[0][0] != 4:
        return int(_is_card(view, groups[:1]))
    ends: dict[int, int] = {}
    lengths: tuple[int, ...] = ()
    for number, (start, end) in enumerate(groups, start=1):
        lengths += (end - start,)
        if set(lengths[:-1]) <= {4} or lengths in ((4, 6, 5), (4, 6, 4), (4, 3, 3, 3)):
            ends[sum(lengths)] = number
    for length in _LENGTHS:
        if length in ends and _is_card(view, groups[: ends[length]]):
            return ends[length]
    return 0


def _is_card(view: str, groups: list[Span]) -> bool:
    """Whether the groups together are a card number."""
    start, end = groups[0][0], groups[-1][1]
    if len(groups) > 19 or view[max(0, start - 1)] == "+":
        return False
    digits = "".join(view[first:last] for first, last in groups)
    if not 13 <= len(digits) <= 19 or digits[0] == "0":
        return False
    if len(digits) == 13 and (digits[0] != "4" or re.match("491[5-7]", digits)):
        return False
    if "." in view[start:end] and any(last - first != 4 for first, last in groups[:-1]):
        return False
    return passes_luhn(digits)


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1).

    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    numbers = [int(digit) for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(2 * n - 9 * (n > 4) for n in numbers[1::2])) % 10 == 0
