"""Environments of the plainest form, as this package's: text in, text out.

    reset(seed) -> str        step(text) -> (text, outcome, done)

There is no business in between, so what is suggested is what is sent. Many simulators, games and
customers played by a language model are of this form, or are brought into it in a few lines
(docs/environments.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iterppo.environments.protocol import Environment, Observation
from iterppo.errors import UsageError


class PlainEnvironment:
    """A plain object, under our protocol. An abstention is shown to it as an empty text."""

    def __init__(self, plain: Any, *, name: str) -> None:
        """
        Args:
            plain: Has `reset(seed)` and `step(text)`.
            name: For messages.
        """
        self._plain, self._name = plain, name
        if hasattr(plain, "scripted_assistant"):  # the shop's way to offer an assistant of its own
            self.scripted_assistant = plain.scripted_assistant

    def reset(self, seed: int) -> Observation:
        """Begin the conversation that belongs to `seed`."""
        text = self._call("reset", seed)
        if not is_text(text):
            raise UsageError(
                f"environment {self._name!r}: reset returned a {type(text).__name__}; return what "
                "the customer says first, as text"
            )
        return Observation(text, outcome=False, done=False)

    def step(self, suggestion: str | None) -> Observation:
        """Say it; the answer, None where it is no text or an empty one."""
        said = suggestion if suggestion and suggestion.strip() else ""
        answer = self._call("step", said)
        if not _is_answer(answer):
            raise UsageError(
                f"environment {self._name!r}: step returned {_short(answer)}; return (text, "
                "outcome, done): what the customer answers, as text or None, and two truth values"
            )
        text, outcome, done = answer
        silent = not (text or "").strip()
        # Nobody waits for an answer to silence, and an outcome ends the conversation.
        return Observation(
            customer=None if silent else text,
            outcome=bool(outcome),
            done=bool(done or outcome or silent),
            sent=said or None,
            adoption="verbatim" if said else "abstained",
        )

    def _call(self, method: str, argument: Any) -> Any:
        try:
            return getattr(self._plain, method)(argument)
        except Exception as error:
            raise UsageError(
                f"environment {self._name!r}: {method} failed ({summary(error)})"
            ) from error


def in_our_form(factory: Callable[[], Any], made: Any, *, name: str) -> Callable[[], Environment]:
    """A factory of environments, whichever of the two forms its own has.

    Which one is told by what `reset` returns; the methods have the same names.

    Args:
        factory: Makes one more.
        made: An environment of it, which is reset here once, and then dropped.
        name: For messages.

    Raises:
        UsageError: If it is neither.
    """
    try:
        first = made.reset(0)
    except Exception as error:
        raise UsageError(f"environment {name!r}: reset(0) failed ({summary(error)})") from error
    if isinstance(first, Observation):
        checked: Callable[[], Environment] = factory
        return checked
    if isinstance(first, str):
        return lambda: PlainEnvironment(factory(), name=name)
    raise UsageError(
        f"environment {name!r}: reset(0) returned a {type(first).__name__}; return an Observation "
        "(iterppo.environments.protocol) or, in the plain form, the customer's first message as "
        "text"
    )


def _is_answer(answer: Any) -> bool:
    if not isinstance(answer, tuple) or len(answer) != 3:
        return False
    text, *truths = answer
    return (text is None or is_text(text)) and all(is_truth(truth) for truth in truths)


def is_text(value: Any) -> bool:
    """Whether it is a text that can be written down; one with half of a surrogate pair cannot."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def is_truth(value: Any) -> bool:
    """numpy's truth values are no bool; a reward of 0.5 is no truth value."""
    return getattr(value, "ndim", 0) == 0 and value in (True, False)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def summary(error: Exception) -> str:
    """What went wrong in code of others, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
