"""The exact values of the shop: by hand, by Bellman's equation and by brute force."""

import json
import math
from collections import Counter, defaultdict
from functools import cache
from statistics import mean, stdev

import pytest

from iterppo.environments.cloned_rollouts import cloned_values
from iterppo.environments.episodes import TurnSoFar, hold_conversations
from iterppo.environments.shop import (
    INTENTS,
    SCRIPTS,
    SETTINGS,
    Shop,
    ShopState,
    customer_move,
    recognise,
    wordings,
)
from iterppo.environments.shop_belief import BelievedShop, belief
from iterppo.environments.shop_solution import ShopSolution, sent_intents
from iterppo.logs.conversations import turns_of
from iterppo.logs.records import parse_line
from iterppo.rl.returns import monte_carlo_returns
from tests.environments.shop_conversations import OPENING, InWords, history, play, text_of

TEXTS: dict[str | None, str | None] = {intent: text_of(intent) for intent in INTENTS}
TEXTS[None] = None


@cache
def solved(script: str, gamma: float) -> ShopSolution:
    return ShopSolution(SCRIPTS[script], gamma=gamma)


def always_offers(reply: str, turn: int) -> dict[str | None, float]:
    return {"offer_visit": 1.0}


# --- by hand ---


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (text_of("offer_visit"), (0.92 + 0.08 * 0.12) * 0.7),
        (text_of("show_examples"), 0.08 * 0.12 * 0.7),
        (text_of("push"), 0.70 * 0.12 * 0.7),
        ("lorem ipsum", 0.90 * 0.12 * 0.7),
        (None, 0.12 * 0.7),
        ("", 0.12 * 0.7),
        (" \n", 0.12 * 0.7),
    ],
    ids=["offer", "examples", "pressure", "nonsense", "abstention", "empty text", "blank text"],
)
def test_on_the_last_turn_only_an_offer_that_is_sent_counts(
    action: str | None, expected: float
) -> None:
    last_turn = ShopState("kitchen", "mid", "low", interest=6, turn=7)
    solution = ShopSolution(SCRIPTS["uniform"], gamma=1.0)

    assert solution.hidden_value(last_turn, action) == pytest.approx(expected, abs=1e-12)
    assert solution.hidden_value(last_turn._replace(interest=0), action) == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_two_turns_before_the_end_the_value_is_worked_out_by_hand(gamma: float) -> None:
    state = ShopState("kitchen", "mid", "high", interest=8, turn=6)
    offer = 0.92 + 0.08 * 0.12  # how often an offer that is suggested is sent
    # Refused, the interest falls to 5, and one in fifty leaves.
    offered = 0.95 + gamma * 0.05 * 0.98 * (offer * 0.5)
    # Pressure costs two of interest, and 15 in a hundred leave; all else keeps interest at 8.
    pushed = gamma * 0.85 * (offer * 0.7)
    other = gamma * (offer * 0.95)
    expected = offer * offered + 0.08 * (0.07 * pushed + 0.81 * other)

    value = ShopSolution(always_offers, gamma=gamma).hidden_value(state, text_of("offer_visit"))

    assert value == pytest.approx(expected, abs=1e-12)


def test_a_told_project_leaves_budget_and_patience_open_on_the_last_turn_too() -> None:
    # Interest: kitchen 2, asked for 4, then six times small talk that changes nothing (the first
    # unrepeated, the others at the risk of 5 in a hundred each, whoever the customer is).
    messages = [OPENING, text_of("ask_project"), "It is the kitchen."]
    messages += [text_of("small_talk"), "Ha, that is true."]
    messages += [text_of("small_talk"), "Again? I already answered."] * 5
    solution = solved("mediocre", 0.9)

    value = solution.value(history(*messages), text_of("offer_visit"))

    assert value == pytest.approx((0.92 + 0.08 * 0.12) * 0.3, abs=1e-12)


def test_the_next_reward_alone_is_what_a_discount_of_nothing_leaves() -> None:
    solution = solved("expert", 0.0)
    agrees = 0.75 * 0.08 + 0.25 * 0.15  # kitchen or bathroom, or both

    value = solution.value(history(OPENING), text_of("offer_visit"))

    assert value == pytest.approx((0.92 + 0.08 * 0.12) * agrees, abs=1e-12)


def test_nothing_comes_after_the_end() -> None:
    ended = ShopState("kitchen", "mid", "low", interest=8, turn=3, done=True)

    assert ShopSolution(SCRIPTS["expert"], gamma=1.0).hidden_value(ended, None) == 0


def test_a_discount_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma is a discount in \[0, 1\], is 1.1"):
        ShopSolution(SCRIPTS["expert"], gamma=1.1)


# --- from suggestion to what is sent ---


@pytest.mark.parametrize(
    "suggestion",
    [None, "", "lorem ipsum", *(text_of(intent) for intent in ("push", "ask_budget", "greet"))],
    ids=["abstention", "empty text", "nonsense", "push", "ask_budget", "greet"],
)
def test_the_shop_sends_what_the_solution_says(suggestion: str | None) -> None:
    expected = sent_intents(suggestion)
    shop, number = Shop(), 3000
    shop.reset(0)
    sent = Counter(recognise(shop.clone(n).step(suggestion).sent or "") for n in range(number))

    assert sum(expected.values()) == pytest.approx(1)
    for intent in {*sent, *expected}:
        p = expected.get(intent, 0.0)
        assert abs(sent[intent] / number - p) <= 4 * math.sqrt(p * (1 - p) / number), intent


# --- Bellman's equation, between states that a log shows ---


HISTORIES = {
    "at the start": history(OPENING),
    "after a price too early": history(
        OPENING, text_of("quote_price"), "Other companies are cheaper."
    ),
    "when the project is known": history(
        OPENING, text_of("ask_project"), "We need to redo the bathroom."
    ),
    "late, after a refused visit": history(
        OPENING,
        text_of("greet"),
        "Thanks, I have some questions.",
        text_of("quote_price"),
        "Hm, that is more than I thought.",
        text_of("offer_visit"),
        "No visit, please.",
        text_of("ask_project"),
        "I want to renovate the kitchen.",
        text_of("small_talk"),
        "Sure, and how about you?",
    ),
}


@pytest.mark.parametrize("turns", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("intent", [None, "ask_project", "quote_price", "offer_visit"])
def test_the_value_is_the_reward_and_the_discounted_value_of_what_the_log_shows_next(
    turns: list[TurnSoFar], intent: str | None
) -> None:
    gamma = 0.9
    solution = solved("mediocre", gamma)
    expected = 0.0
    for sent, probability in sent_intents(TEXTS[intent]).items():
        answers: dict[str, float] = defaultdict(float)
        for state, believed in belief(turns).items():
            move = customer_move(state, sent)
            expected += probability * believed * move.agrees
            said = wordings(move.reply, state.project, state.budget)
            for text in said:
                stays = (1 - move.agrees) * (1 - move.leaves)
                answers[text] += probability * believed * stays / len(said)
        for text, seen in answers.items():
            following = [*turns[:-1], {**turns[-1], "sent": text_of(sent)}, {"customer": text}]
            expected += gamma * seen * solution.state_value(following)

    assert solution.value(turns, TEXTS[intent]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("turns", HISTORIES.values(), ids=HISTORIES)
def test_the_value_of_a_state_is_the_mean_over_the_policy(turns: list[TurnSoFar]) -> None:
    solution = solved("expert", 0.9)
    policy = InWords(SCRIPTS["expert"])._assistant.probabilities(turns[-1]["customer"], len(turns))

    expected = sum(p * solution.value(turns, TEXTS[intent]) for intent, p in policy.items())

    assert solution.state_value(turns) == pytest.approx(expected, abs=1e-12)


def test_a_better_action_is_worth_more_to_a_better_policy() -> None:
    turns = HISTORIES["when the project is known"]
    expert, mediocre = (solved(name, 1.0) for name in ("expert", "mediocre"))

    for solution in (expert, mediocre):
        assert solution.value(turns, text_of("show_examples")) > solution.value(
            turns, text_of("push")
        )
    assert expert.state_value(turns) > mediocre.state_value(turns) + 0.3


# --- brute force ---


@pytest.mark.parametrize(
    ("script", "gamma"), [("mediocre", 1.0), ("expert", 0.8), ("uniform", 0.5)]
)
def test_exact_values_of_live_shops_are_what_cloned_rollouts_estimate(
    script: str, gamma: float
) -> None:
    led_by: list[tuple[list[str], str | None]] = [
        ([], "ask_project"),
        ([], None),
        (["ask_project"], "show_examples"),
        (["ask_project", "offer_visit"], "push"),
        (["quote_price", "show_examples", "small_talk"], "offer_visit"),
    ]
    shops, histories = [], []
    for number, (past, _) in enumerate(led_by):
        shop = Shop()
        seeds = iter(range(100 * number, 100 * number + 100))
        turns = None
        while turns is None:
            turns = play(shop, [text_of(intent) for intent in past], next(seeds))
        shops.append(shop)
        histories.append(turns)
    actions = [TEXTS[intent] for _, intent in led_by]

    estimates = cloned_values(
        shops,
        histories,
        actions,
        InWords(SCRIPTS[script]),
        gamma=gamma,
        rollouts=1000,
        max_turns=SETTINGS["max_turns"],
        seed=5,
    )

    solution = solved(script, gamma)
    for shop, action, estimate in zip(shops, actions, estimates, strict=True):
        exact = solution.hidden_value(shop.state, action)
        assert 0 < estimate.standard_error < 0.02
        assert abs(estimate.mean - exact) <= 4 * estimate.standard_error, action


def test_exact_values_of_logged_states_are_what_cloned_rollouts_estimate() -> None:
    pairs = [
        (turns, text_of(intent))
        for name, turns in HISTORIES.items()
        for intent in (["offer_visit", "show_examples"] if name != "at the start" else ["push"])
    ]

    estimates = cloned_values(
        [BelievedShop(turns) for turns, _ in pairs],
        [turns for turns, _ in pairs],
        [action for _, action in pairs],
        InWords(SCRIPTS["mediocre"]),
        gamma=0.9,
        rollouts=1000,
        max_turns=SETTINGS["max_turns"],
        seed=6,
    )

    solution = solved("mediocre", 0.9)
    for (turns, action), estimate in zip(pairs, estimates, strict=True):
        assert estimate.standard_error > 0
        difference = estimate.mean - solution.value(turns, action)
        assert abs(difference) <= 4 * estimate.standard_error, (turns, action)


def test_returns_of_a_log_scatter_about_the_values_of_its_turns() -> None:
    """From the lines of a log through its trajectory rows: what an estimate is held against."""
    solution, gamma = solved("mediocre", 0.9), 0.9
    records = hold_conversations(
        Shop,
        InWords(SCRIPTS["mediocre"]),
        name="shop",
        number=400,
        parallel=100,
        max_turns=SETTINGS["max_turns"],
        seed=3,
    )
    errors: dict[int, list[float]] = defaultdict(list)
    for record in records:
        rows, _ = turns_of(parse_line(json.dumps(record).encode()))
        returns = monte_carlo_returns([row["reward"] for row in rows], gamma=gamma)
        for number, (row, following) in enumerate(zip(rows, returns, strict=True), start=1):
            value = solution.value(rows[:number], row["suggestion"])
            errors[number].append(following - value)

    assert len(errors[4]) > 100
    for number in range(1, 5):
        error = stdev(errors[number]) / math.sqrt(len(errors[number]))
        assert abs(mean(errors[number])) <= 4 * error, number


def test_the_mean_value_at_the_start_is_the_outcome_rate() -> None:
    solution = solved("mediocre", 1.0)
    start = history(OPENING)
    first = SCRIPTS["mediocre"]("opening", 1)
    expected = sum(p * solution.value(start, TEXTS[intent]) for intent, p in first.items())

    number, outcomes = 3000, 0
    assistant = Shop.scripted_assistant(11)
    for seed in range(number):
        shop = Shop()
        observed = shop.reset(seed)
        while not observed.done:
            turn = shop.state.turn + 1
            observed = shop.step(assistant.suggest(observed.customer or "", turn))
        outcomes += observed.outcome

    error = math.sqrt(expected * (1 - expected) / number)
    assert abs(outcomes / number - expected) <= 4 * error
