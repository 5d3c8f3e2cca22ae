r"""Masking of personal data before anything is written.

    text -> text with [EMAIL], [CARD], [PHONE] and [NAME] of the configured patterns

What is masked: e-mail addresses of any script, also with a full-width @ or `%40`; payment card
numbers of 13 to 19 digits with a right check digit; phone numbers (`iterppo.logs.phone_numbers`
says which, and where it errs); what a configured pattern finds, as
`iban = '\b[A-Z]{2}\d\d(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?\b'`. What is not: names, street
addresses, "anna at example dot com", numbers in words, other ids. Who needs those out takes them
out before. A configured pattern is as fast as it is written.

Contents lose what is masked. Ids are joined by, so there the placeholder carries a hash of what it
stands for (`[PHONE:8d969eef6eca]`): distinct ids stay distinct. That is pseudonymous, not
anonymous: there are few enough phone numbers to try them all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from iterppo.errors import UsageError
from iterppo.logs.ordinary_numbers import UUID
from iterppo.logs.personal_data import MASKED, Span, find_cards, find_emails, plain_view
from iterppo.logs.phone_numbers import find_phones
from iterppo.logs.records import LogConversation
from iterppo.logs.times import CUT_VALUE

_FINDERS: dict[str, Callable[[str], Iterable[Span]]] = {
    "EMAIL": find_emails,
    "CARD": find_cards,
    "PHONE": find_phones,
}
"""In this order: a card number would also be a phone number."""

_SEVEN_DIGITS = r"\d(?:\W{0,4}\d){6}"
_SEVEN_DIGITS_ASCII = re.compile(_SEVEN_DIGITS, re.ASCII)
_SEVEN_DIGITS_ANY = re.compile(_SEVEN_DIGITS)
_HIGH, _LOW = r"[dD][89abAB][0-9a-fA-F]{2}", r"[dD][c-fC-F][0-9a-fA-F]{2}"
_JSON_ESCAPE = re.compile(rf"(?<!\\)\\++u(?:({_HIGH})\\++u({_LOW})|([0-9a-fA-F]{{4}}))")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_Form = Callable[[str, str], str]
"""Name and what was found -> what is written instead."""


class Redactor:
    """Masks e-mail addresses, card numbers, phone numbers and what configured patterns find.

    Placeholders that are there already stay as they are, so masking twice is masking once.

    Raises:
        UsageError: If a pattern's name or the pattern itself is none.
    """

    def __init__(self, patterns: Mapping[str, str] = {}) -> None:
        self._patterns: list[tuple[str, re.Pattern[str]]] = []
        for name, pattern in patterns.items():
            if _NAME.fullmatch(name) is None:
                raise UsageError(
                    f"ingest.redact_patterns: {name!r} is no name. Use letters, digits and _, a "
                    "letter first."
                )
            try:
                self._patterns.append((name.upper(), re.compile(pattern)))
            except re.error as error:
                raise UsageError(
                    f"ingest.redact_patterns.{name}: no regular expression ({error})."
                ) from None
        names = "|".join(dict.fromkeys([*_FINDERS, *(name for name, _ in self._patterns)]))
        self._placeholder = re.compile(rf"(\[(?:{names})(?::[0-9a-f]{{12}})?\])")

    def text(self, text: str) -> str:
        """The text with a typed placeholder for everything that is masked."""
        if not self._patterns and not _may_hold_any(text):
            return text
        return self._mask(text, _typed)

    def identifier(self, text: str) -> str:
        """An id with the same things masked as `text` masks, each by its type and the first 12 hex
        digits of its SHA-256: equal ids stay equal, distinct ones distinct.

        Pseudonymous, not anonymous: who has a phone number finds its conversations.
        """
        if not self._patterns and (not _may_hold_any(text) or UUID.fullmatch(text)):
            return text
        return self._mask(text, _hashed)

    def conversation(self, conversation: LogConversation) -> None:
        """Mask a conversation in place: contents, suggestions, ids, and what is in `meta`.

        The names of facts, which are the first keys of `meta`, stay, and so do policy versions and
        personas: they are the team's own names for its own things.
        """
        mask = self.text
        for message in conversation.messages:
            message.content = mask(message.content)
            if isinstance(message.suggestion, str):
                message.suggestion = mask(message.suggestion)
        conversation.conversation_id = self.identifier(conversation.conversation_id)
        if conversation.customer_id is not None:
            conversation.customer_id = self.identifier(conversation.customer_id)
        if conversation.business_id is not None:
            conversation.business_id = self.identifier(conversation.business_id)
        if conversation.meta is not None:
            conversation.meta = self.meta(conversation.meta)

    def raw(self, line: bytes) -> str:
        """The text of a line that was not taken, masked.

        JSON's escapes of characters that can be printed are undone first, however often they were
        escaped: `anna\\u0040example.com` is an address. A line that is not UTF-8, or that holds
        NUL bytes as UTF-16 does, could hide anything and is not shown at all.
        """
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = "\0"
        return f"[NOT UTF-8: {len(line)} bytes]" if "\0" in text else self._escaped(text)

    def reason(self, text: str) -> str:
        """A reason for a reject, masked: it quotes values, escaped as JSON and Python do it.

        Of a value that was cut nothing is shown: half an address is not seen for what it is.
        """
        return self._escaped(CUT_VALUE.sub("'…'", text))

    def _escaped(self, text: str) -> str:
        if "\\" not in text:
            return self.text(text)
        return self.text(_JSON_ESCAPE.sub(_character, text))

    def _mask(self, text: str, form: _Form) -> str:
        for name, pattern in self._patterns:
            # What a pattern finds is anybody's guess: it gets to see nothing that is masked.
            parts = self._placeholder.split(text)
            parts[::2] = [_mask_pattern(part, pattern, name, form) for part in parts[::2]]
            text = "".join(parts)
        if _may_hold_any(text):
            for name, find in _FINDERS.items():
                visible = self._placeholder.sub(lambda found: MASKED * len(found[0]), text)
                text = _mask_found(text, find(plain_view(visible)), name, form)
        return text

    def meta(self, meta: Any) -> Any:
        """JSON with every value masked, and every key but the first ones, as an id is: two stay
        two. In place, and without recursion, since nobody limits its depth."""
        whole = [meta]
        waiting: list[Any] = [whole]
        while waiting:
            container = waiting.pop()
            if isinstance(container, dict) and container is not meta:
                masked = {self.identifier(key): value for key, value in container.items()}
                container.clear()
                container.update(masked)
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, value in items:
                if isinstance(value, str):
                    container[key] = self.text(value)
                elif isinstance(value, dict | list):
                    waiting.append(value)
                elif isinstance(value, int | float):
                    container[key] = self._number(value)
        return whole[0]

    def _number(self, value: int | float) -> int | float | str:
        """A phone or card number that a program took for a number, masked."""
        if not 10**6 <= value < 10**19 or value != int(value):
            return value
        digits = str(int(value))
        masked = self.text(digits)
        return value if masked == digits else masked


def _may_hold_any(text: str) -> bool:
    """Whether the built-in masks have anything to look for; most messages end here."""
    if "@" in text or "\\" in text or "%40" in text or "&#64;" in text:
        return True
    if text.isascii():
        return _SEVEN_DIGITS_ASCII.search(text) is not None
    return "＠" in text or "﹫" in text or _SEVEN_DIGITS_ANY.search(text) is not None


def _typed(name: str, found: str) -> str:
    return f"[{name}]"


def _hashed(name: str, found: str) -> str:
    digest = hashlib.sha256(found.encode("utf-8", errors="surrogatepass")).hexdigest()
    return f"[{name}:{digest[:12]}]"


def _mask_pattern(text: str, pattern: re.Pattern[str], name: str, form: _Form) -> str:
    return pattern.sub(lambda found: found[0] and form(name, found[0]), text)


def _mask_found(text: str, spans: Iterable[Span], name: str, form: _Form) -> str:
    parts = []
    position = 0
    for start, end in spans:
        parts += [text[position:start], form(name, text[start:end])]
        position = end
    return "".join([*parts, text[position:]])


def _character(escape: re.Match[str]) -> str:
    """The character of an escape; the escape itself where it is a control character, a quotation
    mark, a backslash or half of a pair."""
    units = bytes.fromhex("".join(unit for unit in escape.groups() if unit))
    try:
        character = units.decode("utf-16-be")
    except UnicodeDecodeError:
        return escape[0]
    is_control = character < " " or "\x7f" <= character < "\xa0"
    return escape[0] if is_control or character in '"\\' else character
