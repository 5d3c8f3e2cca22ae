"""What a log of the shop tells about its customer."""

import math
from collections import Counter, defaultdict

import pytest

from iterppo.environments.episodes import TurnSoFar
from iterppo.environments.shop import Shop, ShopState, recognise, reply_type
from iterppo.environments.shop_belief import Belief, BelievedShop, belief
from iterppo.errors import DataError
from tests.environments.shop_conversations import OPENING, history, play, text_of

TRAITS = ("project", "budget", "patience")


def marginal(believed: Belief, trait: str) -> dict[str, float]:
    shares: dict[str, float] = defaultdict(float)
    for state, probability in believed.items():
        shares[getattr(state, trait)] += probability
    return dict(shares)


def test_an_opening_tells_nothing() -> None:
    believed = belief(history(OPENING))

    assert len(believed) == 27
    assert marginal(believed, "project") == pytest.approx(
        {"kitchen": 0.40, "bathroom": 0.35, "both": 0.25}
    )
    assert marginal(believed, "budget") == pytest.approx({"low": 0.30, "mid": 0.45, "high": 0.25})


def test_who_is_still_there_is_patient() -> None:
    believed = belief(history(OPENING, text_of("small_talk"), "Ha, that is true."))
    # Interest 2 or 3; at 2 another 2 in a hundred leave.
    stays = {"low": 0.75 * 0.95 + 0.25 * 0.97, "mid": 0.75 * 0.97 + 0.25 * 0.99}
    stays["high"] = 0.75 * 0.98 + 0.25
    weights = {"low": 0.30 * stays["low"], "mid": 0.40 * stays["mid"]}
    weights["high"] = 0.30 * stays["high"]
    total = sum(weights.values())

    assert marginal(believed, "patience") == pytest.approx(
        {trait: weight / total for trait, weight in weights.items()}
    )


def test_project_and_budget_are_known_once_they_are_told() -> None:
    told = history(
        OPENING,
        text_of("ask_project"),
        "It is mostly about the bathroom.",
        text_of("ask_budget"),
        "Roughly 30 thousand, maybe a bit more.",
    )

    assert {(state.project, state.budget) for state in belief(told)} == {("bathroom", "high")}


def test_a_price_that_is_found_fair_rules_out_who_could_not_like_it() -> None:
    quoted = history(
        OPENING,
        text_of("ask_project"),
        "It is the kitchen.",
        text_of("quote_price"),
        "I could live with that.",
    )

    assert set(marginal(belief(quoted), "budget")) == {"mid", "high"}


def test_the_last_turns_own_suggestion_is_not_looked_at() -> None:
    turns = history(OPENING, text_of("greet"), "Thanks for the quick answer.")
    answered = [turns[0], {**turns[1], "suggestion": "Hello!", "sent": "Sign today!"}]

    assert belief(answered) == belief(turns)


@pytest.mark.parametrize(
    "intents",
    [
        ("quote_price", "offer_visit"),
        ("show_examples", "push", "small_talk"),
        ("ask_project", "quote_price", "offer_visit"),
        ("push", "ask_budget"),
    ],
    ids="-".join,
)
def test_the_belief_is_how_often_each_customer_has_such_a_conversation(
    intents: tuple[str, ...],
) -> None:
    """Conversations that differ in nothing but the wording of what is equally likely of all."""
    seen: dict[tuple[str, ...], list[tuple[list[TurnSoFar], ShopState]]] = defaultdict(list)
    shop = Shop()
    for seed in range(3000):
        turns = play(shop, [text_of(intent) for intent in intents], seed)
        if turns is not None:
            seen[observable(turns)].append((turns, shop.state))
    large = [alike for alike in seen.values() if len(alike) >= 60]
    assert len(large) >= 2

    for alike in large:
        believed = belief(alike[0][0])
        for _, state in alike:
            assert believed[state] > 0
        assert belief(alike[-1][0]) == pytest.approx(believed)
        for trait in TRAITS:
            found = Counter(getattr(state, trait) for _, state in alike)
            for value, p in marginal(believed, trait).items():
                error = math.sqrt(max(p * (1 - p), 1 / len(alike)) / len(alike))
                assert abs(found[value] / len(alike) - p) <= 4 * error, (trait, value)


def observable(turns: list[TurnSoFar]) -> tuple[str, ...]:
    """Intents and types of reply, with project and budget where they are told."""
    told = ("bathroom", "kitchen", "8 thousand", "15 thousand", "30 thousand")
    seen = []
    for turn in turns:
        seen += [reply_type(turn["customer"]), recognise(turn["sent"] or "")]
        seen += [word for word in told if word in turn["customer"]]
    return tuple(seen)


# --- conversations that the shop cannot have had ---


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "without turns"),
        (history("Good evening."), r"turn 1: no customer of the shop says 'Good evening\.'"),
        (history("It is the kitchen."), r"turn 1: .* opens with .* from its first turn"),
        ([{"customer": None}], "turn 1: no customer of the shop says None"),
        (history(OPENING, text_of("greet"), "Bye."), r"turn 2: .* says 'Bye\.'"),
        (
            history(OPENING, text_of("greet"), "It is the kitchen."),
            r"turn 2: after .* on turn 1 no customer of the shop goes on with 'It is the kit",
        ),
        (
            history(OPENING, text_of("offer_visit"), "Yes, please book the visit!"),
            "turn 2: the customer agreed to the visit",
        ),
        ([{"customer": OPENING}, {"customer": OPENING}], "turn 1: `sent` is None"),
        (history(OPENING, " ", "What do you mean?"), "turn 1: `sent` is ' '"),
        (
            history(
                OPENING,
                text_of("ask_project"),
                "It is the kitchen.",
                text_of("quote_price"),
                "Other companies are cheaper.",
                text_of("ask_budget"),
                "My limit is 30 thousand.",
            ),
            "turn 4: after .* goes on with 'My limit is 30 thousand",
        ),
        (
            history(*[OPENING, text_of("greet")], *["Please read my messages.", "hello"] * 8, "x"),
            "turn 2: after",
        ),
    ],
    ids=[
        "no turns",
        "a text of somebody else",
        "a beginning in the middle",
        "no text",
        "a later text of somebody else",
        "an answer to something else",
        "a conversation that is over",
        "nothing sent",
        "a blank sent",
        "a customer who contradicts herself",
        "an impossible reply",
    ],
)
def test_what_no_customer_of_the_shop_says_is_refused(turns: list[TurnSoFar], message: str) -> None:
    with pytest.raises(DataError, match=message):
        belief(turns)


def test_no_conversation_is_longer_than_the_customer_waits() -> None:
    messages = [OPENING, *[text_of("small_talk"), "Ha, that is true."]]
    messages += [text_of("small_talk"), "Please read my messages."] * 6

    assert belief(history(*messages))
    with pytest.raises(DataError, match="turn 9: after"):
        belief(history(*messages, text_of("small_talk"), "Please read my messages."))


# --- a shop whose customer is not known ---


def test_copies_of_a_believed_shop_are_customers_of_the_belief() -> None:
    turns = history(OPENING, text_of("quote_price"), "Other companies are cheaper.")
    believed, number = belief(turns), 3000
    shop = BelievedShop(turns)
    drawn = Counter(shop.clone(seed).state for seed in range(number))

    assert set(drawn) <= set(believed)
    for state, p in believed.items():
        assert abs(drawn[state] / number - p) <= 4 * math.sqrt(p * (1 - p) / number)


def test_a_believed_shop_goes_on_as_its_unseeded_copies_do() -> None:
    for seed in range(10):
        shop = BelievedShop(history(OPENING), seed)
        copy = shop.clone()

        assert copy.state == shop.state
        assert copy.step(text_of("greet")) == shop.step(text_of("greet"))
