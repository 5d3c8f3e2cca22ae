"""A simulated lesson: the built-in environment `tutor`.

    what the tutor says -> its intent -> what the learner believes -> the learner's reply

The learner subtracts, and has one of four misconceptions (Brown and Burton, 1978, call them bugs).
The right explanation helps once the learner has shown the misconception, asked how it was done or
given an exercise that needs a borrowed ten; out of the blue it hardly does, and a wrong one costs
patience. The outcome: the learner solves the final exercise. Language and numbers stand in
tutor.toml. Nobody stands between the tutor and the learner: what is suggested is sent.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from random import Random
from typing import Any, NamedTuple

from iterppo.environments.protocol import Observation
from iterppo.environments.scripts import draw, intent_probabilities
from iterppo.errors import UsageError

UNKNOWN = "unknown"

SETTINGS: dict[str, Any] = tomllib.loads(
    (resources.files("iterppo.environments") / "tutor.toml").read_text(encoding="utf-8")
)
_INTENTS: dict[str, dict[str, Any]] = SETTINGS["intents"]
_ASSISTANTS: dict[str, dict[str, Any]] = SETTINGS["assistants"]
_LEARNER: dict[str, Any] = SETTINGS["learner"]
_REPLIES: dict[str, list[str]] = SETTINGS["replies"]

INTENTS: tuple[str, ...] = tuple(intent for intent in _INTENTS if intent != UNKNOWN)
"""Everything that a message can be meant as, `unknown` left out."""
MISCONCEPTIONS: tuple[str, ...] = tuple(_LEARNER["misconception"])

_PATTERNS = {
    intent: re.compile("|".join(rule["patterns"]))
    for intent, rule in _INTENTS.items()
    if rule["patterns"]
}
_EXPLANATIONS = tuple(intent for intent in INTENTS if intent.startswith("explain_"))
_EXERCISE = re.compile(r"(?<!\d)([1-9]\d) ?[-−] ?([1-9]\d)(?!\d)")
_NUMBER = re.compile(r"\d+")
_ANSWER = re.compile(r"(\d\d) - (\d\d) = (\d+)\.")
_STUTTER = re.compile(r"\b([a-z]+)[\s,]+\1\b")


# --- arithmetic


def answer(misconception: str | None, top: int, bottom: int) -> int:
    """What a learner makes of top − bottom, two digits each; None: no misconception.

    >>> [answer(bug, 52, 38) for bug in (None, "swap", "lent", "zero", "sign")]
    [14, 26, 24, 20, 90]
    """
    if misconception == "sign":
        return top + bottom
    tens, ones = top // 10 - bottom // 10, top % 10 - bottom % 10
    if misconception is None or ones >= 0:
        return top - bottom
    return 10 * tens + {"swap": -ones, "lent": 10 + ones, "zero": 0}[misconception]


def exercise_kind(top: int, bottom: int) -> str | None:
    """`easy`: no ten has to be borrowed; `hard`: one has, and every misconception has an answer of
    its own; None: no exercise for this learner.

    >>> exercise_kind(58, 32), exercise_kind(52, 38), exercise_kind(52, 37), exercise_kind(38, 52)
    ('easy', 'hard', None, None)
    """
    if top // 10 <= bottom // 10:
        return None
    if top % 10 >= bottom % 10:
        return "easy"
    answers = {answer(bug, top, bottom) for bug in (None, *MISCONCEPTIONS)}
    return "hard" if len(answers) == 1 + len(MISCONCEPTIONS) else None


# --- language


# A policy repeats itself, and its texts cost more to read than its lessons to play.
@lru_cache(maxsize=8192)
def recognise(text: str) -> str:
    """The intent of a message, or `unknown`.

    Rules read the lower-cased text. A text that stutters or never ends, holds numbers that are no
    exercise, or explains two things at once, is nobody's intent, so that a policy cannot earn
    anything by piling up keywords.

    >>> recognise("Good. Now try 71 - 34!"), recognise("It is a minus, so borrow a ten.")
    ('hard', 'unknown')
    """
    plain = " ".join(text.lower().split())
    if len(re.findall(r"\w+", plain)) > SETTINGS["max_words"] or _STUTTER.search(plain):
        return UNKNOWN
    if _NUMBER.search(plain):
        return _exercise(plain)
    found = [intent for intent, pattern in _PATTERNS.items() if pattern.search(plain)]
    if len(set(found) & set(_EXPLANATIONS)) > 1:
        return UNKNOWN
    return next((intent for intent in found if intent != "final"), UNKNOWN)


def _exercise(plain: str) -> str:
    found = _EXERCISE.findall(plain)
    if len(found) != 1 or len(_NUMBER.findall(plain)) != 2:
        return UNKNOWN
    kind = exercise_kind(*(int(number) for number in found[0]))
    if _PATTERNS["final"].search(plain):
        return "final" if kind == "hard" else UNKNOWN
    return kind or UNKNOWN


def wordings(reply: str, sent: str) -> tuple[str, ...]:
    """What the learner may say as a reply of this type to what was sent, one as likely as the
    other. An exercise is answered with a number, everything else with words."""
    bug = reply.removeprefix("reveals_") if reply.startswith("reveals_") else None
    calculated = bug is not None or reply == "right"
    if reply != "solves" and not (calculated and recognise(sent) in ("easy", "hard")):
        return tuple(_REPLIES[reply])
    top, bottom = (int(number) for number in _EXERCISE.findall(sent)[0])
    return (f"{top} - {bottom} = {answer(bug, top, bottom)}.",)


_REPLY_TYPES = {text: reply for reply, texts in _REPLIES.items() for text in texts}


def reply_type(text: str) -> str:
    """The type of a message of the learner, or `unknown` for anybody else's.

    >>> reply_type("I am stuck."), reply_type("52 - 38 = 26."), reply_type("52 - 38 = 3.")
    ('stuck', 'reveals_swap', 'unknown')
    """
    numbers = _ANSWER.fullmatch(text)
    if numbers is None:
        return _REPLY_TYPES.get(text, UNKNOWN)
    top, bottom, said = (int(number) for number in numbers.groups())
    if said == top - bottom:
        return "right"
    found = [bug for bug in MISCONCEPTIONS if said == answer(bug, top, bottom)]
    return f"reveals_{found[0]}" if len(found) == 1 else UNKNOWN


# --- scripted tutors


@dataclass(frozen=True)
class Script:
    """A policy over intents: it knows the type of the learner's last message and the number of the
    turn, and nothing else of the past. Weights stand in tutor.toml."""

    name: str

    def __call__(self, reply: str, turn: int) -> dict[str | None, float]:
        """Probability of each intent after this reply on this turn (from 1); None: it abstains."""
        return intent_probabilities(_ASSISTANTS[self.name], reply, turn)


SCRIPTS: dict[str, Script] = {name: Script(name) for name in _ASSISTANTS}
"""By name. `mediocre` makes the first logs, `expert` teaches, `uniform` explores."""


class ScriptedTutor:
    """Puts a script into words."""

    def __init__(self, seed: int, script: Script = SCRIPTS["mediocre"]) -> None:
        self._random = Random(f"scripted-tutor-{seed}")
        self._script = script

    def suggest(self, customer: str, turn: int) -> str | None:
        """A message for the learner after this one on this turn (from 1), or None to abstain."""
        intent = draw(self._random, self._script(reply_type(customer), turn))
        return None if intent is None else self._random.choice(_INTENTS[intent]["paraphrases"])


# --- the learner


class TutorState(NamedTuple):
    """The lesson, as far as its future depends on it."""

    misconception: str
    patience: int
    shown: bool = False
    """The misconception is out: the learner has told it, or answered an exercise with it."""
    understood: bool = False
    turn: int = 0
    done: bool = False


def first_states() -> dict[TutorState, float]:
    """Learners who have written the first message, with their probabilities."""
    return {
        TutorState(misconception, int(patience)): share * weight
        for misconception, share in _LEARNER["misconception"].items()
        for patience, weight in _LEARNER["patience"].items()
    }


class LearnerMove(NamedTuple):
    """One way in which the learner may answer."""

    probability: float
    reply: str | None
    """Type of the reply; `solves`: the final exercise, which ends the lesson; None: the learner
    leaves."""
    after: TutorState


# A filter over many logged lessons asks about the same few states.
@cache
def learner_moves(before: TutorState, intent: str) -> tuple[LearnerMove, ...]:
    """The law by which the learner answers `intent`; the environment draws from it."""
    moves: list[LearnerMove] = []
    for probability, reply, change, after in _answers(before, intent):
        patience = max(before.patience + change, 0)
        after = after._replace(patience=patience, turn=before.turn + 1)
        if reply == "solves":
            moves.append(LearnerMove(probability, reply, after._replace(done=True)))
            continue
        over = after.turn == SETTINGS["max_turns"]
        leaves = 1.0 if over else _LEARNER["leave"][patience]
        moves.append(LearnerMove(probability * leaves, None, after._replace(done=True)))
        moves.append(LearnerMove(probability * (1 - leaves), reply, after))
    return tuple(move for move in moves if move.probability > 0)


_Answer = tuple[float, str, int, TutorState]
"""Probability, type of the reply, patience won, what the learner is then."""


def _answers(before: TutorState, intent: str) -> list[_Answer]:
    rule = _INTENTS[intent]
    first, again = rule["patience"], rule["again"]
    if intent in _EXPLANATIONS:
        return _explained(before, intent.removeprefix("explain_"), first, again)
    if intent == "final":
        solves = _LEARNER["solves"]["true" if before.understood else "false"]
        return [(solves, "solves", 0, before), (1 - solves, "stuck", first, before)]
    if intent in ("ask_how", "hard"):
        change = again if before.shown or before.understood else first
        return _asked(before, _LEARNER["tells"][intent], change)
    if intent == "easy":  # no ten to borrow: only a mistaken sign shows
        if before.misconception == "sign":
            return _asked(before, 1.0, first)
        return [(1.0, "right", first, before)]
    reply = {"wait": "waits", "greet": "greeted", UNKNOWN: "confused"}[intent]
    return [(1.0, reply, first if before.turn == 0 else again, before)]


def _asked(before: TutorState, tells: float, change: int) -> list[_Answer]:
    if before.understood:
        return [(1.0, "right", change, before)]
    shown = before._replace(shown=True)
    told = f"reveals_{before.misconception}"
    return [(tells, told, change, shown), (1 - tells, "vague", change, before)]


def _explained(before: TutorState, what: str, right: int, wrong: int) -> list[_Answer]:
    """A learner who has understood nods to everything; a wrong explanation, or one that comes after
    everything is clear, costs patience."""
    nods, sees = _LEARNER["nods"], _LEARNER["sees"]
    if before.understood:
        return [(sees, "sees", wrong, before), (1 - sees, "unsure", wrong, before)]
    if what != before.misconception:
        return [(nods, "sees", wrong, before), (1 - nods, "objects", wrong, before)]
    helped = _LEARNER["helped" if before.shown else "helped_unasked"]
    clear = before._replace(understood=True)
    return [
        (helped * sees, "sees", right, clear),
        (helped * (1 - sees), "unsure", right, clear),
        ((1 - helped) * nods, "sees", right, before),
        ((1 - helped) * (1 - nods), "unsure", right, before),
    ]


# --- the environment


class Tutor:
    """The environment. A lesson is decided by its seed and the suggestions, and only by them.

    What the tutor suggests is what the learner reads. Where it abstains, or says nothing, the
    learner is told to take time.
    """

    def __init__(self) -> None:
        self._random = Random()
        self._state: TutorState | None = None

    @staticmethod
    def scripted_assistant(seed: int, name: str = "mediocre") -> ScriptedTutor:
        """The tutor of the first logs, or another of `SCRIPTS`.

        Raises:
            UsageError: If no script has this name.
        """
        if name not in SCRIPTS:
            raise UsageError(
                f"the tutor has no script called {name!r}; name one of: {', '.join(SCRIPTS)}"
            )
        return ScriptedTutor(seed, SCRIPTS[name])

    def clone(self, seed: int | None = None) -> "Tutor":
        """An independent copy.

        Args:
            seed: None: given the same suggestions, the copy goes on in the same way. Otherwise its
                future, not its learner, is drawn anew: copies of different seeds part ways.
        """
        copy = Tutor()
        copy._state = self._state
        if seed is None:
            copy._random.setstate(self._random.getstate())
        else:
            copy._random = Random(f"tutor-clone-{seed}")
        return copy

    @property
    def state(self) -> TutorState:
        """What is hidden from every tutor; for the truth that estimates are held against.

        Raises:
            RuntimeError: Before the first `reset`.
        """
        if self._state is None:
            raise RuntimeError("the tutor has no learner yet: call reset(seed) first")
        return self._state

    def reset(self, seed: int) -> Observation:
        """A new learner writes the first message."""
        self._random = Random(f"tutor-{seed}")
        self._state = draw(self._random, first_states())
        return Observation(self._random.choice(_REPLIES["opening"]), outcome=False, done=False)

    def step(self, suggestion: str | None) -> Observation:
        """The learner reads the suggestion, and answers, solves the final exercise or leaves."""
        if self._state is None:
            raise RuntimeError("the tutor has no learner yet: call reset(seed) before step")
        if self._state.done:
            raise RuntimeError("this lesson is over: call reset(seed) before the next step")
        if suggestion is None or not suggestion.strip():
            sent = self._random.choice(_INTENTS["wait"]["paraphrases"])
            adoption = "abstained" if suggestion is None else "rejected"
        else:
            sent, adoption = suggestion, "verbatim"
        moves = learner_moves(self._state, recognise(sent))
        drawn = draw(self._random, dict(enumerate(move.probability for move in moves)))
        _, reply, self._state = moves[drawn]
        customer = None if reply is None else self._random.choice(wordings(reply, sent))
        return Observation(customer, reply == "solves", self._state.done, sent, adoption)
