"""Environments of the plain form: what they say becomes observations, and what is wrong is told."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iterppo.environments.episodes import Suggestion, hold_conversations
from iterppo.environments.loader import load_environment
from iterppo.environments.plain import PlainEnvironment, in_our_form
from iterppo.environments.protocol import Observation
from iterppo.errors import UsageError


class Riddle:
    """Done with the right word, or after three others."""

    def reset(self, seed: int) -> str:
        self.word, self.left, self.heard = f"w{seed}", 3, []
        return f"Guess my word, number {seed}."

    def step(self, text: str) -> Any:
        self.heard.append(text)
        self.left -= 1
        if text == self.word:
            return "Yes!", True, True
        return (None, False, True) if self.left == 0 else ("No.", False, False)


class Says:
    """Whatever it was given."""

    def __init__(self, *, first: Any = "Hello.", answer: Any = ("Yes.", False, False)) -> None:
        self.first, self.answer = first, answer

    def reset(self, seed: int) -> Any:
        return self.first() if callable(self.first) else self.first

    def step(self, text: str) -> Any:
        return self.answer() if callable(self.answer) else self.answer


def fails() -> None:
    raise RuntimeError("boom,\nboom")


def test_a_conversation_in_the_plain_form_is_one_of_ours() -> None:
    riddle = Riddle()
    environment = PlainEnvironment(riddle, name="riddle")

    assert environment.reset(7) == Observation("Guess my word, number 7.", False, False)
    assert environment.step("w1") == Observation("No.", False, False, "w1", "verbatim")
    assert environment.step(None) == Observation("No.", False, False, None, "abstained")
    assert environment.step("w2") == Observation(None, False, True, "w2", "verbatim")
    assert riddle.heard == ["w1", "", "w2"]
    environment.reset(7)
    assert environment.step("w7") == Observation("Yes!", True, True, "w7", "verbatim")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (("Sold.", True, False), ("Sold.", True, True)),
        (("", False, False), (None, False, True)),
        ((" \n", False, False), (None, False, True)),
        ((None, np.True_, np.False_), (None, True, True)),
        (("Well.", 0, 1), ("Well.", False, True)),
    ],
    ids=["an outcome ends it", "nothing said", "blanks", "numpy's truth values", "numbers"],
)
def test_an_answer_is_taken_for_what_it_means(
    answer: Any, expected: tuple[str | None, bool, bool]
) -> None:
    environment = PlainEnvironment(Says(answer=answer), name="says")
    environment.reset(0)
    seen = environment.step("Hm.")

    assert (seen.customer, seen.outcome, seen.done) == expected
    assert type(seen.outcome) is type(seen.done) is bool


def test_a_suggestion_of_blanks_is_an_abstention() -> None:
    riddle = Riddle()
    environment = PlainEnvironment(riddle, name="riddle")
    environment.reset(7)

    assert environment.step(" \n") == Observation("No.", False, False, None, "abstained")
    assert riddle.heard == [""]


def test_episodes_are_held_in_the_plain_form() -> None:
    class Assistant:
        version = "guesser"

        def __call__(self, conversations: Any) -> list[Suggestion]:
            return [Suggestion("w1", -1.0) for _ in conversations]

    [line] = hold_conversations(
        in_our_form(Riddle, Riddle(), name="riddle"),
        Assistant(),
        name="riddle",
        number=1,
        parallel=1,
        max_turns=5,
        seed=0,
    )

    assert [m["content"] for m in line["messages"][1:]] == ["w1", "No.", "w1", "No.", "w1"]
    assert (line["outcome"], line["unfinished"]) == (0, False)


def test_the_loader_takes_either_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "two_forms.py").write_text(
        "from iterppo.environments.shop import Shop as Full\n"
        "class Plain:\n"
        "    def reset(self, seed): return f'Hello {seed}.'\n"
        "    def step(self, text): return text.upper(), False, False\n"
        "    @staticmethod\n"
        "    def scripted_assistant(seed): return seed\n"
    )
    plain, full = (load_environment(f"two_forms:{name}") for name in ("Plain", "Full"))

    made: Any = plain()
    assert isinstance(made, PlainEnvironment)
    assert made.reset(3).customer == "Hello 3."
    assert made.step("well").customer == "WELL"
    assert made.scripted_assistant(5) == 5
    assert plain() is not made
    assert type(full()).__name__ == "Shop"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(
            Says(first=None),
            "environment 'e': reset(0) returned a NoneType; return an Observation "
            "(iterppo.environments.protocol) or, in the plain form, the customer's first message "
            "as text",
            id="nothing",
        ),
        pytest.param(
            Says(first=("Hello.", {})),
            "environment 'e': reset(0) returned a tuple; return an Observation "
            "(iterppo.environments.protocol) or, in the plain form, the customer's first message "
            "as text",
            id="of another library",
        ),
        pytest.param(
            Says(first=fails),
            "environment 'e': reset(0) failed (RuntimeError: boom, boom)",
            id="fails",
        ),
    ],
)
def test_an_object_of_neither_form_is_explained_in_one_line(made: Any, expected: str) -> None:
    assert message(lambda: in_our_form(lambda: made, made, name="e")) == expected


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("Yes.", "'Yes.'"),
        (("Yes.", False), "('Yes.', False)"),
        (("Yes.", 0.5, False), "('Yes.', 0.5, False)"),
        ((5, False, False), "(5, False, False)"),
        (("Yes.", "no", False), "('Yes.', 'no', False)"),
        (("\ud83d", False, False), "('\\ud83d', False, False)"),
        (("x" * 80, None, False), "('" + "x" * 58 + "…"),
    ],
    ids=[
        *("a text", "a pair", "a reward", "no text", "a word for a truth value"),
        *("half a character", "long"),
    ],
)
def test_a_wrong_answer_is_shown_in_one_line(answer: Any, shown: str) -> None:
    environment = PlainEnvironment(Says(answer=answer), name="e")
    environment.reset(0)

    assert message(lambda: environment.step("Hm.")) == (
        f"environment 'e': step returned {shown}; return (text, outcome, done): what the customer "
        "answers, as text or None, and two truth values"
    )


def test_a_failure_within_is_one_line_and_keeps_its_cause() -> None:
    environment = PlainEnvironment(Says(answer=fails), name="e")
    environment.reset(0)

    with pytest.raises(
        UsageError, match=r"^environment 'e': step failed \(Runt.*boom, boom\)$"
    ) as e:
        environment.step("Hm.")
    assert isinstance(e.value.__cause__, RuntimeError)
    later = PlainEnvironment(Says(first=5), name="e")
    assert message(lambda: later.reset(1)) == (
        "environment 'e': reset returned a int; return what the customer says first, as text"
    )


@pytest.mark.parametrize(
    ("assistant", "said"),
    [
        ("lambda seed, name: None", "failed (TypeError: "),
        ("lambda seed: None", "failed (AttributeError: 'NoneType' object has no attribute 'sugg"),
        ("Three", "suggested 3; suggest a text, or None to abstain"),
    ],
    ids=["wants a name", "is none", "says no text"],
)
def test_a_scripted_assistant_that_is_wrong_is_explained_in_one_line(
    assistant: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "scripted_wrong", raising=False)
    (tmp_path / "scripted_wrong.py").write_text(
        "class Three:\n"
        "    def __init__(self, seed): ...\n"
        "    def suggest(self, customer, turn): return 3\n"
        "class Plain:\n"
        "    def reset(self, seed): return 'Hello.'\n"
        "    def step(self, text): return 'Bye.', False, True\n"
        f"    scripted_assistant = staticmethod({assistant})\n"
    )
    asked = ("--policy", "scripted", "--env", "scripted_wrong:Plain", "--out", tmp_path / "log")
    done = command("rollout", *asked)

    assert done.status == 2
    assert done.stderr.startswith(
        f"iterppo: environment 'scripted_wrong:Plain': its scripted assistant {said}"
    )
    assert not (tmp_path / "log").exists()


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)
