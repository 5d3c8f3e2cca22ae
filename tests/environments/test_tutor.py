"""The simulated lesson: its arithmetic, its language, its rules, and how simple tutors do in it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.environments.loader import load_environment
from iterppo.environments.protocol import CloneableEnvironment, Observation
from iterppo.environments.tutor import (
    INTENTS,
    MISCONCEPTIONS,
    SCRIPTS,
    SETTINGS,
    UNKNOWN,
    Tutor,
    TutorState,
    answer,
    exercise_kind,
    first_states,
    learner_moves,
    recognise,
    reply_type,
    wordings,
)
from iterppo.errors import UsageError

PARAPHRASES = [
    (intent, text) for intent in INTENTS for text in SETTINGS["intents"][intent]["paraphrases"]
]
REPLIES = [(reply, text) for reply, texts in SETTINGS["replies"].items() for text in texts]
HARD = "Try 52 - 38."


def play(suggest: Callable[[Observation, int], str | None], seed: int) -> list[Observation]:
    tutor = Tutor()
    seen = [tutor.reset(seed)]
    while not seen[-1].done:
        seen.append(tutor.step(suggest(seen[-1], len(seen))))
    return seen


def scripted(name: str, seed: int = 0) -> Callable[[Observation, int], str | None]:
    assistant = Tutor.scripted_assistant(seed, name)
    return lambda seen, turn: assistant.suggest(seen.customer or "", turn)


def chance(
    state: TutorState, intent: str, wanted: Callable[[str | None, TutorState], bool]
) -> float:
    moves = learner_moves(state, intent)
    return sum(move.probability for move in moves if wanted(move.reply, move.after))


# --- arithmetic ---


@pytest.mark.parametrize(
    ("misconception", "top", "bottom", "expected"),
    [
        (None, 52, 38, 14),
        ("swap", 52, 38, 26),  # 5 − 3 = 2, 8 − 2 = 6
        ("lent", 52, 38, 24),  # 12 − 8 = 4, 5 − 3 = 2: the ten is not paid back
        ("zero", 52, 38, 20),  # 2 − 8 does not go, so 0
        ("sign", 52, 38, 90),
        ("swap", 58, 32, 26),  # without borrowing nothing goes wrong
        ("lent", 58, 32, 26),
        ("zero", 58, 32, 26),
        ("sign", 58, 32, 90),
    ],
)
def test_misconceptions_calculate_as_they_do_by_hand(
    misconception: str | None, top: int, bottom: int, expected: int
) -> None:
    assert answer(misconception, top, bottom) == expected


@given(st.integers(10, 99), st.integers(10, 99))
def test_a_hard_exercise_tells_all_misconceptions_apart(top: int, bottom: int) -> None:
    answers = [answer(misconception, top, bottom) for misconception in (None, *MISCONCEPTIONS)]
    kind = exercise_kind(top, bottom)

    assert kind != "hard" or len(set(answers)) == 5
    assert kind != "easy" or len(set(answers)) == 2
    assert kind is None or answers[0] == top - bottom > 0


# --- language ---


@pytest.mark.parametrize(("intent", "text"), PARAPHRASES, ids=[text for _, text in PARAPHRASES])
def test_a_paraphrase_is_recognised(intent: str, text: str) -> None:
    assert recognise(text) == intent
    assert recognise(text.upper()) == intent


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("Okay, how did you get this?", "ask_how"),
        ("Good. Now try 71 - 34!", "hard"),
        ("Please do 99-11", "easy"),
        ("This is the final one: 91 - 58", "final"),
        ("You forgot to pay back the ten.", "explain_lent"),
    ],
)
def test_other_words_for_the_same_thing_are_understood(text: str, intent: str) -> None:
    assert recognise(text) == intent


@pytest.mark.parametrize(
    "text",
    [
        "lorem ipsum",
        "It is a minus, so borrow a ten.",
        "Try 52 - 38 or 73 - 46.",
        "Try 52 - 37.",
        "Try 38 - 52.",
        "Last one: 58 - 32.",
        "The final test comes later.",
        "52 - 38 = 14",
        "minus minus minus",
        "borrow a ten " + "and then go on and on " * 4,
    ],
    ids=[
        "no pattern",
        "two explanations",
        "two exercises",
        "two bugs with one answer",
        "a negative result",
        "a final one without borrowing",
        "a final one without an exercise",
        "the answer",
        "stutter",
        "endless",
    ],
)
def test_keywords_alone_earn_nothing(text: str) -> None:
    assert recognise(text) == UNKNOWN


@pytest.mark.parametrize(("reply", "text"), REPLIES, ids=[text for _, text in REPLIES])
def test_a_learners_message_has_one_type(reply: str, text: str) -> None:
    assert reply_type(text) == reply


@pytest.mark.parametrize("misconception", MISCONCEPTIONS)
def test_an_answer_in_numbers_shows_the_misconception_as_words_do(misconception: str) -> None:
    reply = f"reveals_{misconception}"
    (number,) = wordings(reply, "What is 73 - 46?")

    assert number == f"73 - 46 = {answer(misconception, 73, 46)}."
    assert reply_type(number) == reply
    assert wordings(reply, "How did you do it?") == tuple(SETTINGS["replies"][reply])
    assert reply_type("73 - 46 = 12.") == UNKNOWN


# --- rules ---


def test_all_that_may_happen_has_probability_one() -> None:
    states, steps = set(first_states()), 0
    while states:
        following = set()
        for state in states:
            for intent in SETTINGS["intents"]:
                moves = learner_moves(state, intent)
                assert sum(move.probability for move in moves) == pytest.approx(1)
                following |= {move.after for move in moves if not move.after.done}
        states, steps = following, steps + 1
    assert steps == SETTINGS["max_turns"]
    assert sum(first_states().values()) == pytest.approx(1)


@pytest.mark.parametrize("misconception", MISCONCEPTIONS)
def test_the_right_explanation_helps_only_who_has_shown_the_misconception(
    misconception: str,
) -> None:
    state = TutorState(misconception, patience=3)
    shown = state._replace(shown=True)
    right = f"explain_{misconception}"

    assert chance(state, right, lambda _, after: after.understood) == pytest.approx(0.10)
    assert chance(shown, right, lambda _, after: after.understood) == pytest.approx(0.85)
    for wrong in {f"explain_{other}" for other in MISCONCEPTIONS} - {right}:
        assert chance(shown, wrong, lambda _, after: after.understood) == 0
        assert {move.after.patience for move in learner_moves(shown, wrong)} == {2}


@pytest.mark.parametrize(
    ("intent", "tells"), [("ask_how", 0.75), ("hard", 0.95), ("easy", 0.0), ("greet", 0.0)]
)
def test_questions_and_hard_exercises_bring_the_misconception_out(
    intent: str, tells: float
) -> None:
    state = TutorState("lent", patience=3)

    stays = 0.97 if intent == "hard" else 1.0  # it costs patience, and a few leave
    told = chance(state, intent, lambda reply, _: reply == "reveals_lent")

    assert chance(state, intent, lambda _, after: after.shown) == pytest.approx(tells)
    assert told == pytest.approx(tells * stays)


@pytest.mark.parametrize(("understood", "solves"), [(True, 0.95), (False, 0.04)])
def test_only_who_has_understood_solves_the_final_exercise(understood: bool, solves: float) -> None:
    state = TutorState("zero", patience=3, shown=True, understood=understood)

    assert chance(state, "final", lambda reply, _: reply == "solves") == pytest.approx(solves)


def test_who_has_no_patience_left_leaves() -> None:
    tired = TutorState("zero", patience=1)

    assert chance(tired, "unknown", lambda reply, _: reply is None) == 1
    assert chance(tired, "ask_how", lambda reply, _: reply is None) == pytest.approx(0.15)


# --- the environment ---


def test_the_tutor_is_found_by_name_and_can_be_cloned() -> None:
    assert load_environment("tutor") is Tutor
    assert isinstance(Tutor(), CloneableEnvironment)


def test_seed_and_suggestions_decide_a_lesson() -> None:
    assert play(scripted("mediocre"), 3) == play(scripted("mediocre"), 3)
    assert len({play(scripted("mediocre"), seed)[0].customer for seed in range(20)}) == 3


def test_a_lesson_well_led_is_answered_in_words_and_numbers() -> None:
    tutor = Tutor()
    lessons = []
    for seed in range(40):
        tutor.reset(seed)
        misconception = tutor.state.misconception
        shown = tutor.step(HARD)
        if shown.customer is None or reply_type(shown.customer) != f"reveals_{misconception}":
            continue
        assert shown.customer == f"52 - 38 = {answer(misconception, 52, 38)}."
        assert (shown.sent, shown.adoption) == (HARD, "verbatim")
        paraphrases = SETTINGS["intents"][f"explain_{misconception}"]["paraphrases"]
        if tutor.step(paraphrases[0]).done or not tutor.state.understood:
            continue
        lessons.append(tutor.step("Last one: 81 - 47."))

    solved = [seen for seen in lessons if seen.outcome]
    assert len(solved) > 0.8 * len(lessons) > 15
    assert {seen.customer for seen in solved} == {"81 - 47 = 34."}
    assert all(seen.done for seen in solved)


@pytest.mark.parametrize(
    ("suggestion", "adoption"), [(None, "abstained"), ("", "rejected"), (" \n", "rejected")]
)
def test_where_nothing_is_said_the_learner_is_told_to_take_time(
    suggestion: str | None, adoption: str
) -> None:
    tutor = Tutor()
    tutor.reset(0)

    seen = tutor.step(suggestion)

    assert seen.adoption == adoption
    assert recognise(seen.sent or "") == "wait"
    assert reply_type(seen.customer or "") == "waits"


def test_a_clone_goes_on_alike_and_a_reseeded_one_its_own_way() -> None:
    tutor = Tutor()
    tutor.reset(1)
    tutor.step("Hi, let us learn together.")
    twin, others = tutor.clone(), [tutor.clone(seed) for seed in range(20)]

    assert twin.step(HARD) == tutor.step(HARD)
    assert len({other.step(HARD).customer for other in others}) > 1
    assert len({other.state.misconception for other in others}) == 1


def test_misuse_is_told() -> None:
    tutor = Tutor()
    with pytest.raises(RuntimeError, match="call reset"):
        tutor.step(None)
    with pytest.raises(RuntimeError, match="call reset"):
        _ = tutor.state
    tutor.reset(0)
    while not tutor.step("lorem ipsum").done:
        pass
    with pytest.raises(RuntimeError, match="this lesson is over"):
        tutor.step(None)
    with pytest.raises(UsageError, match="name one of: mediocre, expert, uniform"):
        Tutor.scripted_assistant(0, "teacher")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_everything_sometimes(name: str) -> None:
    for turn in (1, 2):
        for reply in SETTINGS["replies"]:
            probabilities = SCRIPTS[name](reply, turn)
            assert sum(probabilities.values()) == pytest.approx(1)
            assert set(probabilities) == {None, *INTENTS}
            assert min(probabilities.values()) > 0
