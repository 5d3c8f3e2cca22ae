"""The best that can be done in the shop: by its purpose, by simulation, by the other solver."""

import math
import time
from collections import defaultdict
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from iterppo.environments.cloned_rollouts import cloned_values
from iterppo.environments.episodes import TurnSoFar, hold_conversations
from iterppo.environments.shop import SCRIPTS, SETTINGS, STYLES, TRAITS, Act, Shop, ShopState
from iterppo.environments.shop_belief import BelievedShop
from iterppo.environments.shop_law import customer_move, first_state
from iterppo.environments.shop_layers import decode, encode, layers
from iterppo.environments.shop_optimum import (
    ACTS,
    OptimalAssistant,
    ShopPlan,
    acceptance_blind,
    act_values,
    column,
    myopic,
    optimal_success,
    optimum,
)
from iterppo.environments.shop_solution import ShopSolution, sent_acts
from iterppo.environments.shop_visible import (
    ALIKE,
    PAIRS,
    Evidence,
    Visible,
    read,
    seen_after,
    tilt,
    told,
)
from iterppo.errors import DataError
from tests.environments.shop_conversations import OPENING, history, play, text_of

START = history(OPENING)
PLANS = {"optimum": optimum, "myopic": myopic, "acceptance-blind": acceptance_blind}


@pytest.fixture(scope="module")
def seconds() -> float:
    """Time on the processor to solve the shop, from nothing."""
    for kept in (layers, optimum, customer_move):
        kept.cache_clear()
    started = time.process_time()
    optimum()
    return time.process_time() - started


def test_the_shop_is_solved_in_under_ten_seconds(seconds: float) -> None:
    assert seconds < 10


# --- what the shop is for ---


def test_a_policy_that_ignores_acceptability_loses_a_tenth_of_success() -> None:
    assert acceptance_blind().start_value <= optimum().start_value - 0.1


def test_the_myopic_policy_falls_into_the_trap() -> None:
    first = myopic()(START)

    assert first is not None
    assert first.intent == "offer_visit"
    assert myopic().start_value <= 0.6 * optimum().start_value
    # It is what it claims to be: nothing has a better chance at once.
    at_once = ShopPlan(myopic()._choices, gamma=0.0)
    best = max(at_once.act_value(1, Visible(), Evidence(), act) for act in ACTS)
    assert at_once.start_value == pytest.approx(best, abs=1e-8)


def test_the_first_logs_reach_a_quarter_of_the_optimum() -> None:
    assert 0.2 <= script_success("mediocre") / optimal_success() <= 0.3


def test_the_best_act_depends_on_the_business_and_on_the_customer() -> None:
    single = frozenset(pair for pair in PAIRS if pair[0] == "kitchen")
    seen = Visible(frozenset({"ask_project"}), 5, pairs=single, urgency="later")
    for style in STYLES:
        act = optimum().choose(3, seen, Evidence(style))
        assert act is not None
        assert act.tone == style
    for budget, sent in (("low", "offer_visit"), ("high", "quote_price")):
        known = seen._replace(
            worked=frozenset({"ask_project", "ask_budget"}),
            interest=6,
            pairs=frozenset({("kitchen", budget)}),
        )
        assert optimum().choose(4, known, Evidence("formal")) == Act(sent, "formal")


def test_the_page_about_the_shop_tells_the_exact_numbers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "shop.md").read_text(encoding="utf-8")
    exact = {
        "optimum": optimal_success(),
        "best for a business that sends everything as it is": acceptance_blind().start_value,
        "best for γ = 0": myopic().start_value,
        "script `mediocre`, which makes the first logs": script_success("mediocre"),
    }

    for policy, success in exact.items():
        assert f"| {policy} | {success:.3f} |" in page
    assert f"There are {sum(len(layer.codes) for layer in layers()):,}" in page


@cache
def solution_of(name: str) -> ShopSolution:
    return ShopSolution(SCRIPTS[name], gamma=1.0)


def script_success(name: str) -> float:
    return solution_of(name).state_value(START)


# --- against simulation ---


@pytest.mark.parametrize("name", PLANS)
def test_the_value_at_the_start_is_the_success_of_200_000_simulated_conversations(
    name: str,
) -> None:
    plan, number = PLANS[name](), 200_000

    successes = simulated(plan, number, seed=7)

    expected = plan.start_value
    error = math.sqrt(expected * (1 - expected) / number)
    assert error < 0.0012
    assert abs(successes / number - expected) <= 3 * error


def simulated(plan: ShopPlan, number: int, seed: int) -> int:
    """Conversations with an outcome. Those that are in one and the same state are held together:
    their next steps are drawn as one multinomial."""
    random = np.random.default_rng(seed)
    customer, styles = SETTINGS["customer"], SETTINGS["business"]["styles"]
    shares: dict[ShopState, float] = defaultdict(float)
    for values in product(*(customer[trait] for trait in TRAITS)):
        parts = [customer[trait][value] for trait, value in zip(TRAITS, values, strict=True)]
        for style in STYLES:
            state = first_state(ALIKE[values[0]], *values[1:], style=style)
            shares[state] += math.prod(parts) * styles[style]["share"]
    first = random.multinomial(number, list(shares.values()))
    held: dict[tuple[ShopState, Visible, Evidence], int] = {
        (state, Visible(), Evidence()): int(n) for state, n in zip(shares, first, strict=True)
    }
    successes = 0
    for turn in range(1, SETTINGS["max_turns"] + 1):
        following: dict[tuple[ShopState, Visible, Evidence], int] = defaultdict(int)
        for (state, visible, evidence), count in held.items():
            act = plan.choose(turn, visible, evidence)
            sent = sent_ways(act, state)
            for (message, verbatim), n in zip(
                sent, random.multinomial(count, list(sent.values())), strict=True
            ):
                if n == 0:
                    continue
                move = customer_move(state, *message)
                agreed, stayed, _ = random.multinomial(
                    n,
                    [
                        move.agrees,
                        (1 - move.agrees) * (1 - move.leaves),
                        (1 - move.agrees) * move.leaves,
                    ],
                )
                successes += int(agreed)
                if stayed:
                    after = seen_after(visible, turn, message.intent, told(move.reply, state))
                    assert after is not None
                    key = (move.after, after, evidence_after(evidence, message, state, verbatim))
                    following[key] += int(stayed)
        held = following
    assert not held
    return successes


@cache
def sent_ways(act: Act | None, state: ShopState) -> dict[tuple[Act, bool], float]:
    """Probability of what is sent, and whether as it was suggested."""
    ways = {(message, False): p for message, p in sent_acts(act, state).items()}
    if act is not None:
        habits = SETTINGS["business"]["styles"][state.style]["habits"]
        alone = sent_acts(None, state)
        rejected = next(
            ways[other, False] / p for other, p in alone.items() if other.intent != act.intent
        )
        assert set(habits) == {other.intent for other in alone}
        verbatim = (1 - rejected) * (1.0 if act.intent == "unknown" else 0.7)
        ways[act, True] = verbatim
        ways[act, False] -= verbatim
        ways = {way: max(p, 0.0) for way, p in ways.items()}
    return ways


def evidence_after(evidence: Evidence, message: Act, state: ShopState, verbatim: bool) -> Evidence:
    if evidence.style is not None or not verbatim:
        return Evidence(state.style)
    return Evidence(points=evidence.points + tilt(message))


def test_the_optimum_in_words_succeeds_as_often_as_it_says() -> None:
    number = 1200
    records = hold_conversations(
        Shop,
        OptimalAssistant(3),
        name="shop",
        number=number,
        parallel=100,
        max_turns=SETTINGS["max_turns"],
        seed=5,
    )
    expected = optimum().start_value

    found = sum(record["outcome"] for record in records) / number

    assert abs(found - expected) <= 3 * math.sqrt(expected * (1 - expected) / number)


@pytest.mark.parametrize(
    "action", [None, text_of("ask_budget", "casual")], ids=["no act", "budget"]
)
def test_exact_values_are_what_playing_on_from_copies_finds(action: str | None) -> None:
    turns = HISTORIES["liked, twice"]

    [found] = cloned_values(
        [BelievedShop(turns)],
        [turns],
        [action],
        OptimalAssistant(),
        gamma=1.0,
        rollouts=600,
        max_turns=SETTINGS["max_turns"],
        seed=1,
    )

    assert 0 < found.standard_error < 0.021
    assert abs(found.mean - optimum().value(turns, action)) <= 3 * found.standard_error


# --- against the other solver, which knows nothing of visible states ---

HISTORIES = {
    "at the start": START,
    "after a price too early": history(
        OPENING, text_of("quote_price"), "Let us not talk about money yet."
    ),
    "liked, twice": history(
        OPENING,
        text_of("greet", "casual"),
        "Thanks for the quick answer.",
        text_of("ask_project", "casual"),
        "We need to redo the bathroom, as soon as possible.",
    ),
    "late, after pressure and a refused visit": history(
        OPENING,
        text_of("push", "formal"),
        "Do not push me.",
        text_of("ask_project"),
        "I want to renovate the kitchen, but there is no hurry.",
        text_of("quote_price"),
        "I can pay that.",
        text_of("offer_visit"),
        "Not so fast, please.",
    ),
    "after a word of the business": [
        {"customer": OPENING, "suggestion": None, "sent": text_of("small_talk", "formal")},
        {"customer": "Fine, thanks, and you?"},
    ],
}
SUGGESTIONS = [None, "lorem ipsum", *(text_of(i, "casual") for i in ("push", "offer_visit"))]
SUGGESTIONS += [text_of("show_examples", "formal"), text_of("ask_budget")]


@pytest.mark.parametrize("act", [None, Act("offer_visit", "formal"), Act("show_examples")], ids=str)
def test_both_solvers_agree_on_a_policy_that_does_one_thing(act: Act | None) -> None:
    plan = ShopPlan.of(lambda turn, visible, evidence: act, gamma=0.9)
    script = ShopSolution(lambda reply, turn: {act: 1.0}, gamma=0.9)

    for turns in HISTORIES.values():
        assert plan.state_value(turns) == pytest.approx(script.state_value(turns), abs=1e-9)
        for text in SUGGESTIONS:
            assert plan.value(turns, text) == pytest.approx(script.value(turns, text), abs=1e-9)


def test_any_policy_over_what_can_be_seen_can_be_valued() -> None:
    def waits(turn: int, visible: Visible, evidence: Evidence) -> Act | None:
        intent = "offer_visit" if visible.interest >= 5 else "small_talk"
        return Act(intent, evidence.style or "casual")

    plan, number = ShopPlan.of(waits, gamma=1.0), 20_000

    error = math.sqrt(plan.start_value * (1 - plan.start_value) / number)
    assert abs(simulated(plan, number, seed=3) / number - plan.start_value) <= 4 * error
    assert plan(HISTORIES["liked, twice"]) == Act("offer_visit", "casual")


def test_a_policy_that_draws_one_act_for_certain_is_the_plan_that_chooses_it() -> None:
    plan = optimum(gamma=0.9)
    shares = [np.eye(len(ACTS))[choice] for choice in plan._choices]
    start, values = act_values(shares, gamma=0.9)

    assert start == pytest.approx(plan.start_value)
    for turn, (value_NSA, layer) in enumerate(zip(values, layers(), strict=True), start=1):
        visible, evidence = layer.visible(len(layer.codes) // 2), Evidence(points=1)
        found = value_NSA[len(layer.codes) // 2, column(evidence)]
        expected = [plan.act_value(turn, visible, evidence, act) for act in ACTS]
        assert found.tolist() == pytest.approx(expected)


def test_a_policy_that_draws_is_worth_what_it_draws_on_average() -> None:
    # Certain of everything but the first turn, where it draws between two acts.
    plan = optimum(gamma=1.0)
    shares = [np.eye(len(ACTS))[choice] for choice in plan._choices]
    first_A = np.zeros(len(ACTS))
    first_A[[0, 5]] = 0.25, 0.75
    start, _ = act_values([first_A[None, None], *shares[1:]], gamma=1.0)
    nothing = ({"customer": OPENING},)
    worth = [plan.act_value(1, *read(nothing), ACTS[n]) for n in (0, 5)]

    assert start == pytest.approx(0.25 * worth[0] + 0.75 * worth[1])
    assert start < plan.start_value


# --- by Bellman ---


@pytest.mark.parametrize("turns", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_no_act_is_better_than_the_optimal_one(gamma: float, turns: list[TurnSoFar]) -> None:
    best = optimum(gamma)
    visible, evidence = read(turns)
    values = {act: best.act_value(len(turns), visible, evidence, act) for act in ACTS}

    assert max(values.values()) == pytest.approx(best.state_value(turns), abs=1e-7)
    assert values[best(turns)] == pytest.approx(max(values.values()), abs=1e-7)


def test_no_policy_is_worth_more_than_the_optimum_anywhere() -> None:
    for name in ("mediocre", "expert"):
        for turns in HISTORIES.values():
            assert optimum().state_value(turns) > solution_of(name).state_value(turns)


def test_a_discount_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma is a discount in \[0, 1\], is 1.1"):
        optimum(1.1)


# --- what is read off a conversation ---


def test_codes_of_visible_states_are_read_back() -> None:
    for layer in layers()[:5]:
        for code in layer.codes:
            assert encode(decode(int(code))) == code
            assert layer.visible(layer.find(decode(int(code)))) == decode(int(code))


def test_what_is_read_is_what_the_hidden_state_is() -> None:
    found = 0
    for seed in range(60):
        shop = Shop()
        turns = play(shop, [text_of(i, "casual") for i in ("ask_project", "quote_price")], seed)
        if turns is None:
            continue
        found += 1
        visible, evidence = read(turns)
        assert (visible.worked, visible.interest) == (shop.state.worked, shop.state.interest)
        assert visible.urgency in (None, shop.state.urgency)
        assert evidence.style in (None, shop.state.style)
    assert found > 20


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "a conversation of 0 turns; .* one to 8"),
        (START * 9, "a conversation of 9 turns"),
        (history("It is the kitchen."), "turn 1: no customer of the shop opens with 'It is"),
        (history(OPENING, text_of("greet"), "Bye"), "turn 2: after .* goes on with 'Bye'"),
        (
            [{"customer": OPENING, "suggestion": None, "sent": "Welcome!"}, {"customer": "x"}],
            "turn 1: no business of the shop writes 'Welcome!'",
        ),
    ],
    ids=["no turns", "too many turns", "no opening", "no answer", "no tone"],
)
def test_what_is_no_conversation_of_the_shop_cannot_be_read(
    turns: list[TurnSoFar], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(turns)
