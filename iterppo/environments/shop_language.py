"""The language of the shop: from text to what it means, and back.

    text -> intent, tone        of whatever an assistant or the business writes
    reply, traits -> wordings   of the customer, and back

Rules only, so that it is decided before any training what a text means. Texts stand in shop.toml.
"""

import re
import tomllib
from functools import cache, lru_cache
from importlib import resources
from typing import Any, NamedTuple

UNKNOWN = "unknown"
PLAIN = "plain"

SETTINGS: dict[str, Any] = tomllib.loads(
    (resources.files("iterppo.environments") / "shop.toml").read_text(encoding="utf-8")
)
_INTENTS: dict[str, dict[str, Any]] = SETTINGS["intents"]
_TONES: dict[str, dict[str, Any]] = SETTINGS["tones"]
_CUSTOMER: dict[str, Any] = SETTINGS["customer"]
_REPLIES: dict[str, list[str]] = SETTINGS["replies"]

INTENTS: tuple[str, ...] = tuple(intent for intent in _INTENTS if intent != UNKNOWN)
"""Everything that a message can be meant as, `unknown` left out."""

TONES: tuple[str, ...] = tuple(_TONES)
"""Every tone that a message can have."""

_PATTERNS = {intent: re.compile("|".join(_INTENTS[intent]["patterns"])) for intent in INTENTS}
_MARKS = {
    tone: re.compile("|".join(rule["patterns"]), re.IGNORECASE)
    for tone, rule in _TONES.items()
    if rule["patterns"]
}
_SALUTATION = re.compile(r"^(hi|hello|hey|dear customer)( there)?[,.!]+\s+")
_STUTTER = re.compile(r"\b(\w+)[\s,]+\1\b")


# A policy repeats itself, and its texts cost more to read than its conversations to play.
@lru_cache(maxsize=8192)
def recognise(text: str) -> str:
    """The intent of a message, or `unknown`.

    Rules read the lower-cased text. A salutation is skipped when something follows it. A text that
    stutters, says little in many words or never ends is nobody's intent, so that a policy cannot
    earn anything by piling up keywords.

    >>> recognise("Hello! Which room shall we renovate?"), recognise("room room room")
    ('ask_project', 'unknown')
    """
    plain = _SALUTATION.sub("", " ".join(text.lower().split()))
    words = re.findall(r"\w+", plain)
    if len(words) > SETTINGS["max_words"] or _STUTTER.search(plain):
        return UNKNOWN
    if len(words) >= 4 and len(set(words)) < 0.6 * len(words):
        return UNKNOWN
    return next((intent for intent in INTENTS if _PATTERNS[intent].search(plain)), UNKNOWN)


@lru_cache(maxsize=8192)
def tone_of(text: str) -> str:
    """The tone of a message: formal, casual, or plain, which is neither or both.

    >>> tone_of("Hey, how can we help? :)"), tone_of("Dear customer, how may we help?")
    ('casual', 'formal')
    >>> tone_of("How can we help?"), tone_of("Dear customer, how can we help? :)")
    ('plain', 'plain')
    """
    plain = " ".join(text.split())
    found = [tone for tone, marks in _MARKS.items() if marks.search(plain)]
    return found[0] if len(found) == 1 else PLAIN


@cache
def sayings(intent: str, tone: str) -> tuple[str, ...]:
    """Every way in which the assistant and the business say this in this tone."""
    return tuple(
        frame.format(text=text)
        for text in _INTENTS[intent]["paraphrases"]
        for frame in _TONES[tone]["frames"]
    )


def edits(text: str, style: str) -> list[str]:
    """Small changes that a business of this style makes to a message: the marks of other tones go,
    an ending of its own comes. Those left out that would change the intent or miss the tone."""
    kept = text.strip()
    for tone, marks in _MARKS.items():
        if tone != style:
            kept = marks.sub("", kept)
    kept = " ".join(kept.split()).lstrip(",.! ")
    changed = [f"{kept} {ending}" for ending in _TONES[style]["endings"]]
    intent = recognise(text)
    return [
        edit
        for edit in changed
        if edit != text and recognise(edit) == intent and tone_of(edit) == style
    ]


@cache
def wordings(reply: str, project: str, budget: str, urgency: str) -> tuple[str, ...]:
    """What this customer may say as a reply of this type, one as likely as the other."""
    told = {
        "project": _CUSTOMER["said"][project],
        "budget": _CUSTOMER["sum"][budget],
        "when": _CUSTOMER["when"][urgency],
    }
    return tuple(template.format(**told) for template in _REPLIES[reply])


class Reply(NamedTuple):
    """What a message of the customer tells; None: nothing about this trait."""

    type: str
    project: str | None = None
    budget: str | None = None
    urgency: str | None = None


def _replies() -> dict[str, Reply]:
    found = {}
    for reply, templates in _REPLIES.items():
        for project in _CUSTOMER["project"]:
            for budget in _CUSTOMER["budget"]:
                for urgency in _CUSTOMER["urgency"]:
                    said = wordings(reply, project, budget, urgency)
                    for template, text in zip(templates, said, strict=True):
                        found[text] = Reply(
                            reply,
                            project if "{project}" in template else None,
                            budget if "{budget}" in template else None,
                            urgency if "{when}" in template else None,
                        )
    return found


_REPLY_OF = _replies()


def read_reply(text: str) -> Reply:
    """What a message of the shop's customer tells; of type `unknown` for anybody else's."""
    return _REPLY_OF.get(text, Reply(UNKNOWN))


def reply_type(text: str) -> str:
    """The type of a message of the shop's customer, or `unknown` for anybody else's."""
    return read_reply(text).type
