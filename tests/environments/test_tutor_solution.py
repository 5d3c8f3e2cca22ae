"""The exact values of the tutor: by hand, by Bellman's equation and against simulated lessons."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from random import Random
from statistics import mean, stdev

import pytest

from iterppo.environments.cloned_rollouts import cloned_values
from iterppo.environments.episodes import Suggestion, TurnSoFar, hold_conversations
from iterppo.environments.tutor import INTENTS, SCRIPTS, SETTINGS, Tutor, TutorState
from iterppo.environments.tutor_belief import belief
from iterppo.environments.tutor_solution import TutorOptimum, TutorSolution
from iterppo.errors import DataError
from iterppo.logs.conversations import turns_of
from iterppo.logs.records import parse_line
from iterppo.rl.returns import monte_carlo_returns
from iterppo.statistics.intervals import wilson_interval

OPENING = "Hi, I can not do minus."
GAMMA = 0.9


def text_of(intent: str) -> str:
    paraphrase: str = SETTINGS["intents"][intent]["paraphrases"][0]
    return paraphrase


def history(*messages: str) -> list[TurnSoFar]:
    """Turns from messages in their order: learner, tutor, learner, …, learner."""
    return [
        {"customer": customer, "sent": sent}
        for customer, sent in zip(messages[::2], [*messages[1::2], None], strict=True)
    ]


@cache
def solved(script: str) -> TutorSolution:
    return TutorSolution(SCRIPTS[script], gamma=GAMMA)


@pytest.fixture(scope="module")
def optimum() -> TutorOptimum:
    return TutorOptimum(gamma=1.0)


class InWords:
    """A scripted tutor as an assistant of episodes."""

    version = "scripted"

    def __init__(self, name: str) -> None:
        self._assistant = Tutor.scripted_assistant(0, name)

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        return [
            Suggestion(self._assistant.suggest(turns[-1]["customer"], len(turns)), None)
            for turns in conversations
        ]


# --- what can be known of the learner ---


def test_a_question_answered_leaves_one_misconception() -> None:
    believed = belief(history(OPENING, text_of("ask_how"), "I write zero there."))

    assert {state.misconception for state in believed} == {"zero"}
    assert all(state.shown for state in believed)


def test_an_evasive_answer_tells_nothing_of_the_misconception() -> None:
    # Everybody evades the question with 1/4; nobody leaves with more patience than 1.
    believed = belief(history(OPENING, text_of("ask_how"), "I just did it."))
    share: Counter[str] = Counter()
    for state, probability in believed.items():
        share[state.misconception] += probability

    assert share == pytest.approx(SETTINGS["learner"]["misconception"])


def test_a_nod_is_weighed_by_who_nods() -> None:
    # "I see", out of the blue: of those with the misconception .1 understand (and .9 of them say
    # so), and .2 of all others nod. The patience of the others falls by 1, and from 2 to 1 it lets
    # .15 of them leave, from 3 to 2 .03.
    right = 0.3 * (0.1 * 0.9 + 0.9 * 0.2)
    wrong = 0.7 * 0.2 * (0.5 * 0.85 + 0.5 * 0.97)
    # The right explanation costs nothing: patience 2 or 3 stays, and .03 leave from 2.
    right *= 0.5 * 0.97 + 0.5
    understood = 0.3 * 0.1 * 0.9 * (0.5 * 0.97 + 0.5) / (right + wrong)

    believed = belief(history(OPENING, text_of("explain_swap"), "Oh, I see!"))

    found = sum(p for state, p in believed.items() if state.understood)
    assert found == pytest.approx(understood, abs=1e-12)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "a lesson without turns"),
        (history("Good day."), "no learner of the tutor opens with 'Good day.'"),
        (history(OPENING, "Try 52 - 38.", "52 - 38 = 11."), "goes on with '52 - 38 = 11.'"),
        (history(OPENING, "Last one: 81 - 47.", "81 - 47 = 34."), "goes on with '81 - 47 = 34.'"),
        ([{"customer": OPENING}, {"customer": "Okay."}], "turn 1: `sent` is None"),
    ],
    ids=["nothing", "somebody else", "an answer of nobody", "after the end", "nothing sent"],
)
def test_what_no_learner_says_is_refused(turns: list[TurnSoFar], message: str) -> None:
    with pytest.raises(DataError) as caught:
        belief(turns)
    assert message in str(caught.value)


# --- by hand ---


def test_on_the_last_turn_only_the_final_exercise_counts() -> None:
    last = TutorState("swap", patience=3, shown=True, turn=SETTINGS["max_turns"] - 1)
    solution = solved("uniform")

    assert solution.hidden_value(last, text_of("final")) == pytest.approx(0.04)
    assert solution.hidden_value(last._replace(understood=True), text_of("final")) == 0.95
    assert solution.hidden_value(last._replace(understood=True), text_of("ask_how")) == 0
    assert solution.hidden_value(last._replace(done=True), text_of("final")) == 0


def test_an_explanation_on_the_last_turn_but_one_is_worked_out_by_hand() -> None:
    state = TutorState("swap", patience=3, shown=True, turn=SETTINGS["max_turns"] - 2)
    solution = TutorSolution(lambda reply, turn: {"final": 0.5, None: 0.5}, gamma=GAMMA)
    expected = GAMMA * 0.5 * (0.85 * 0.95 + 0.15 * 0.04)

    value = solution.hidden_value(state, text_of("explain_swap"))

    assert value == pytest.approx(expected, abs=1e-12)


def test_the_best_end_of_a_lesson_is_worked_out_by_hand(optimum: TutorOptimum) -> None:
    # Waiting costs nothing but leavers (.03 from patience 2), until two turns are left.
    waiting = [text_of("wait"), "Okay."] * 3
    asked = history(OPENING, *waiting, text_of("ask_how"), "I write zero there.")
    patient = 0.5 / (0.5 + 0.5 * 0.97**4)  # who began with patience 3
    stays = patient + (1 - patient) * 0.97

    assert optimum.best_intent(asked) == "explain_zero"
    assert optimum.state_value(asked) == pytest.approx(stays * (0.85 * 0.95 + 0.15 * 0.04))
    assert optimum.value(asked, text_of("final")) < 0.1
    assert optimum.value(asked, None) == optimum.value(asked, "Think a little.")


@pytest.mark.parametrize(
    "kind", [TutorOptimum, lambda gamma: TutorSolution(SCRIPTS["expert"], gamma=gamma)]
)
def test_a_discount_above_one_is_refused(kind: type[TutorOptimum]) -> None:
    with pytest.raises(ValueError, match=r"gamma is a discount in \[0, 1\], is 1.1"):
        kind(gamma=1.1)


# --- the optimum beside policies ---


def test_the_best_tutor_asks_before_it_explains_and_tests_last(optimum: TutorOptimum) -> None:
    told = history(OPENING, text_of("ask_how"), "I get a ten for the top digit.")
    clear = history(
        OPENING, "Try 52 - 38.", "52 - 38 = 24.", text_of("explain_lent"), "Yes, I get it now."
    )

    assert optimum.best_intent(history(OPENING)) == "ask_how"
    assert optimum.best_intent(told) == "explain_lent"
    assert optimum.best_intent(clear) == "final"


def test_no_script_comes_near_the_optimum(optimum: TutorOptimum) -> None:
    start = history(OPENING)
    values = {name: TutorSolution(SCRIPTS[name], gamma=1.0).state_value(start) for name in SCRIPTS}

    assert values["uniform"] < 0.05 < 0.12 < values["mediocre"] < 0.25
    assert 0.55 < values["expert"] < optimum.state_value(start) < 0.95
    assert optimum.state_value(start) == max(
        optimum.value(start, text_of(intent)) for intent in INTENTS
    )


@pytest.mark.parametrize(
    "turns", [history(OPENING), history(OPENING, text_of("final"), "I am stuck.")]
)
def test_advantages_of_a_policy_cancel(turns: list[TurnSoFar]) -> None:
    solution = solved("mediocre")
    policy = SCRIPTS["mediocre"]("opening" if len(turns) == 1 else "stuck", len(turns))

    total = sum(
        p * solution.advantage(turns, None if intent is None else text_of(intent))
        for intent, p in policy.items()
    )

    assert total == pytest.approx(0, abs=1e-12)


# --- against simulated lessons ---


def test_the_optimum_is_what_acting_on_it_earns(optimum: TutorOptimum) -> None:
    random, number, outcomes = Random(0), 500, 0
    for seed in range(number):
        tutor = Tutor()
        observed = tutor.reset(seed)
        turns: list[TurnSoFar] = []
        while not observed.done:
            turns.append({"customer": observed.customer})
            intent = optimum.best_intent(turns)
            said = random.choice(SETTINGS["intents"][intent]["paraphrases"])
            observed = tutor.step(said)
            turns[-1]["sent"] = observed.sent
        outcomes += observed.outcome

    low, high = wilson_interval(outcomes, number, level=0.99)
    assert low <= optimum.state_value(history(OPENING)) <= high


def test_exact_values_are_what_cloned_rollouts_estimate() -> None:
    led_by: list[tuple[list[str], str | None]] = [
        ([], "ask_how"),
        ([], "explain_sign"),
        (["hard"], None),
        (["ask_how", "greet"], "final"),
    ]
    tutors: list[Tutor] = []
    histories: list[list[TurnSoFar]] = []
    for number, (past, _) in enumerate(led_by):
        for seed in range(100 * number, 100 * number + 100):
            tutor = Tutor()
            observed = tutor.reset(seed)
            turns: list[TurnSoFar] = [{"customer": observed.customer, "sent": None}]
            for intent in past:
                if observed.done:
                    break
                observed = tutor.step(text_of(intent))
                turns[-1]["sent"] = observed.sent
                turns.append({"customer": observed.customer, "sent": None})
            if not observed.done:
                break
        tutors.append(tutor)
        histories.append(turns)
    actions = [None if intent is None else text_of(intent) for _, intent in led_by]

    estimates = cloned_values(
        tutors,
        histories,
        actions,
        InWords("expert"),
        gamma=GAMMA,
        rollouts=600,
        max_turns=SETTINGS["max_turns"],
        seed=5,
    )

    for tutor, action, estimate in zip(tutors, actions, estimates, strict=True):
        exact = solved("expert").hidden_value(tutor.state, action)
        assert 0 < estimate.standard_error < 0.03
        assert abs(estimate.mean - exact) <= 4 * estimate.standard_error, action


def test_returns_of_a_log_scatter_about_the_values_of_its_turns() -> None:
    """From the lines of a log through its trajectory rows: what an estimate is held against."""
    records = hold_conversations(
        Tutor, InWords("mediocre"), name="tutor", number=400, parallel=100, max_turns=20, seed=3
    )
    errors: dict[int, list[float]] = defaultdict(list)
    for record in records:
        assert not record["unfinished"]
        rows, _ = turns_of(parse_line(json.dumps(record).encode()))
        returns = monte_carlo_returns([row["reward"] for row in rows], gamma=GAMMA)
        for number, (row, following) in enumerate(zip(rows, returns, strict=True), start=1):
            value = solved("mediocre").value(rows[:number], row["suggestion"])
            errors[number].append(following - value)

    for number in range(1, 5):
        assert len(errors[number]) > 80
        error = stdev(errors[number]) / math.sqrt(len(errors[number]))
        assert abs(mean(errors[number])) <= 4 * error, number
