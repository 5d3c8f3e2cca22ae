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
    STYLES,
    Act,
    Shop,
    ShopState,
    customer_move,
    first_state,
    recognise,
    reply_type,
    sayings,
    tone_of,
    wordings,
)
from iterppo.environments.shop_belief import BelievedShop, belief
from iterppo.environments.shop_law import acceptance, place, verbatim_share
from iterppo.environments.shop_solution import ShopSolution, act_of, sent_acts
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

LATE = ShopState(
    "kitchen", "mid", "soon", "low", "casual", 6, worked=frozenset({"ask_project"}), turn=7
)
"""One turn is left; the plain tone costs a casual business one point: it takes up 0.6 of what it
would."""


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (text_of("offer_visit"), (0.95 * 0.6 + (1 - 0.95 * 0.6) * 0.12) * 0.7),
        (text_of("offer_visit", "casual"), (0.95 + 0.05 * 0.12) * 0.7),
        (text_of("offer_visit", "formal"), (0.95 * 0.36 + (1 - 0.95 * 0.36) * 0.12) * 0.7),
        (text_of("show_examples", "casual"), 0.1 * 0.12 * 0.7),
        (text_of("ask_project", "casual"), (1 - 0.95 * 0.5) * 0.12 * 0.7),
        (text_of("quote_price", "casual"), (1 - 0.85 * 0.36) * 0.12 * 0.7),
        (text_of("push", "casual"), 0.4 * 0.12 * 0.7),
        ("lorem ipsum", 0.94 * 0.12 * 0.7),
        (None, 0.12 * 0.7),
        ("", 0.12 * 0.7),
        (" \n", 0.12 * 0.7),
    ],
    ids=[
        "offer",
        "casual offer",
        "formal offer",
        "examples",
        "a question that was answered",
        "a price",
        "pressure",
        "nonsense",
        "abstention",
        "empty text",
        "blank text",
    ],
)
def test_on_the_last_turn_only_an_offer_that_is_sent_counts(
    action: str | None, expected: float
) -> None:
    solution = ShopSolution(SCRIPTS["uniform"], gamma=1.0)

    assert solution.hidden_value(LATE, action) == pytest.approx(expected, abs=1e-12)
    assert solution.hidden_value(LATE._replace(interest=0), action) == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_two_turns_before_the_end_the_value_is_worked_out_by_hand(gamma: float) -> None:
    everything = frozenset(
        {"ask_project", "ask_budget", "show_examples", "quote_price", "small_talk"}
    )
    state = LATE._replace(patience="high", interest=8, worked=everything, turn=6)
    taken = 0.95 * 0.6
    next_offer = taken + (1 - taken) * 0.12  # how often an offer that is suggested is sent
    # Refused, the interest falls to 5. One in twenty leaves after any turn, one in fifty after a
    # plain message, one in twenty if annoyed; the business itself writes warmly.
    refused = gamma * 0.05 * 0.95 * next_offer * 0.5
    offered = 0.95 + refused * (taken * 0.7 * 0.98 + taken * 0.3 + (1 - taken) * 0.12) / next_offer
    repeated = gamma * 0.95 * 0.95 * next_offer * 0.85  # all else but a greeting annoys: interest 7
    pushed = gamma * 0.95 * 0.95 * next_offer * 0.7
    greeted = gamma * 0.95 * next_offer * 0.95
    expected = next_offer * offered
    expected += (1 - taken) * (0.14 * greeted + 0.07 * pushed + (1 - 0.14 - 0.07 - 0.12) * repeated)

    value = ShopSolution(always_offers, gamma=gamma).hidden_value(state, text_of("offer_visit"))

    # What is offered in words of the business is not plain, hence the weights above.
    assert value == pytest.approx(expected, abs=1e-12)


def test_the_next_reward_alone_is_what_a_discount_of_nothing_leaves() -> None:
    solution = solved("expert", 0.0)

    value = solution.value(history(OPENING), text_of("offer_visit", "formal"))

    taken = (0.95 + 0.95 * 0.36) / 2
    assert value == pytest.approx((taken + (1 - taken) * 0.12) * 0.15, abs=1e-12)


def test_nothing_comes_after_the_end() -> None:
    ended = LATE._replace(done=True)

    assert ShopSolution(SCRIPTS["expert"], gamma=1.0).hidden_value(ended, None) == 0


def test_a_discount_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma is a discount in \[0, 1\], is 1.1"):
        ShopSolution(SCRIPTS["expert"], gamma=1.1)


# --- from suggestion to what is sent ---


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "suggestion",
    [
        None,
        "",
        "lorem ipsum",
        text_of("push"),
        text_of("ask_budget", "casual"),
        text_of("greet", "formal"),
    ],
    ids=["abstention", "empty text", "nonsense", "push", "casual question", "formal greeting"],
)
def test_the_shop_sends_what_the_solution_says(suggestion: str | None, style: str) -> None:
    state = first_state("kitchen", "mid", "soon", "low", style=style)
    expected = sent_acts(act_of(suggestion), state)
    sent: Counter[Act] = Counter()
    number = 1500
    for seed in range(number):
        text = Shop.resume(state, seed).step(suggestion).sent or ""
        sent[Act(recognise(text), tone_of(text))] += 1

    assert sum(expected.values()) == pytest.approx(1)
    for act in {*sent, *expected}:
        p = expected.get(act, 0.0)
        assert abs(sent[act] / number - p) <= 4 * math.sqrt(p * (1 - p) / number), act


# --- Bellman's equation, between states that a log shows ---


HISTORIES = {
    "at the start": history(OPENING),
    "after a price too early": history(
        OPENING, text_of("quote_price"), "Let us not talk about money yet."
    ),
    "when the project is known": history(
        OPENING, text_of("ask_project"), "We need to redo the bathroom, as soon as possible."
    ),
    "late, after a refused visit": history(
        OPENING,
        text_of("greet"),
        "Thanks, I have some questions.",
        text_of("quote_price"),
        "I would rather not say at this point.",
        text_of("offer_visit"),
        "No, not with you.",
        text_of("ask_project"),
        "I want to renovate the kitchen, but there is no hurry.",
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
    suggestion = None if intent is None else text_of(intent, "casual")
    act = act_of(suggestion)
    ways: dict[tuple[str, str], float] = defaultdict(float)  # (sent, customer's answer) -> share
    expected = 0.0
    for state, believed in belief(turns).items():
        for sent, probability in sent_acts(act, state).items():
            if sent == act:  # of what it takes up, or writes by habit, some is the suggestion
                verbatim = acceptance(act, state.style, place(*act[:1], state.worked, len(turns)))
                parts = {suggestion: (v := verbatim * verbatim_share(act.intent))}
                parts[_other(act, suggestion)] = probability - v
            else:
                parts = {_other(sent, suggestion): probability}
            move = customer_move(state, *sent)
            expected += believed * probability * move.agrees
            said = wordings(move.reply, state.project, state.budget, state.urgency)
            stays = (1 - move.agrees) * (1 - move.leaves)
            for text, part in parts.items():
                for answer in said:
                    ways[text, answer] += believed * part * stays / len(said)
    for (text, answer), seen in ways.items():
        if seen > 0:
            past = {**turns[-1], "suggestion": suggestion, "sent": text}
            following = [*turns[:-1], past, {"customer": answer}]
            expected += gamma * seen * solution.state_value(following)

    assert solution.value(turns, suggestion) == pytest.approx(expected, abs=1e-12)


def _other(act: Act, suggestion: str | None) -> str:
    """Another text that is the same to everybody."""
    return next(text for text in sayings(*act) if text != suggestion)


@pytest.mark.parametrize("turns", HISTORIES.values(), ids=HISTORIES)
def test_the_value_of_a_state_is_the_mean_over_the_policy(turns: list[TurnSoFar]) -> None:
    solution = solved("expert", 0.9)
    policy = SCRIPTS["expert"].acts(reply_type(turns[-1]["customer"]), len(turns))

    expected = sum(
        p * solution.value(turns, None if act is None else text_of(*act))
        for act, p in policy.items()
    )

    assert solution.state_value(turns) == pytest.approx(expected, abs=1e-12)


def test_a_better_action_is_worth_more_to_a_better_policy() -> None:
    turns = HISTORIES["when the project is known"]
    expert, mediocre = (solved(name, 1.0) for name in ("expert", "mediocre"))

    for solution in (expert, mediocre):
        assert solution.value(turns, text_of("show_examples")) > solution.value(
            turns, text_of("push")
        )
    assert expert.state_value(turns) > mediocre.state_value(turns) + 0.15


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
    expected = solution.state_value(start)

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
