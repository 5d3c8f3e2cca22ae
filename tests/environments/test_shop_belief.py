"""What a log of the shop tells about its customer."""

import math
from collections import Counter, defaultdict

import pytest

from iterppo.environments.episodes import TurnSoFar
from iterppo.environments.shop import TRAITS, Shop, ShopState, recognise, reply_type, tone_of
from iterppo.environments.shop_belief import Belief, BelievedShop, belief
from iterppo.errors import DataError
from tests.environments.shop_conversations import OPENING, history, play, text_of

HIDDEN = (*TRAITS, "style")


def marginal(believed: Belief, trait: str) -> dict[str, float]:
    shares: dict[str, float] = defaultdict(float)
    for state, probability in believed.items():
        shares[getattr(state, trait)] += probability
    return dict(shares)


def test_an_opening_tells_nothing() -> None:
    believed = belief(history(OPENING))

    assert len(believed) == 3 * 3 * 2 * 2 * 2
    assert marginal(believed, "project") == pytest.approx(
        {"kitchen": 0.40, "bathroom": 0.35, "both": 0.25}
    )
    assert marginal(believed, "budget") == pytest.approx({"low": 0.30, "mid": 0.45, "high": 0.25})


def test_who_is_still_there_is_in_no_hurry() -> None:
    believed = belief(history(OPENING, text_of("small_talk"), "Ha, that is true."))

    # Nobody was annoyed, so nothing is known of patience.
    assert marginal(believed, "patience") == pytest.approx({"low": 0.5, "high": 0.5})
    assert marginal(believed, "urgency") == pytest.approx(
        {"soon": 0.95 / (0.95 + 0.99), "later": 0.99 / (0.95 + 0.99)}
    )


def test_who_has_put_up_with_pressure_is_patient() -> None:
    believed = belief(history(OPENING, text_of("push"), "Please do not rush me."))

    assert marginal(believed, "patience") == pytest.approx(
        {"low": 0.70 / (0.70 + 0.95), "high": 0.95 / (0.70 + 0.95)}
    )


def test_what_was_sent_as_it_was_suggested_was_liked() -> None:
    asked = history(OPENING, text_of("small_talk", "casual"), "Ha, that is true.")
    plain = history(OPENING, text_of("small_talk"), "Ha, that is true.")
    price = [{**asked[0], "sent": (text := text_of("quote_price")), "suggestion": text}]
    price.append({"customer": "Let us not talk about money yet."})

    assert marginal(belief(asked), "style") == pytest.approx(
        {"formal": 0.36 / 1.36, "casual": 1 / 1.36}
    )
    assert marginal(belief(plain), "style") == pytest.approx({"formal": 0.5, "casual": 0.5})
    assert marginal(belief(price), "style") == pytest.approx(
        {"formal": 1 / 1.36, "casual": 0.36 / 1.36}
    )


@pytest.mark.parametrize("suggestion", [None, "Sign today!", "Hey, how is your day so far?"])
def test_the_business_gives_itself_away_by_its_own_words(suggestion: str | None) -> None:
    turns = history(OPENING, text_of("small_talk", "formal"), "Ha, that is true.")
    turns[0]["suggestion"] = suggestion

    assert marginal(belief(turns), "style") == {"formal": pytest.approx(1)}


def test_what_is_told_is_known() -> None:
    told = history(
        OPENING,
        text_of("ask_project"),
        "It is mostly about the bathroom, but there is no hurry.",
        text_of("ask_budget"),
        "Roughly 30 thousand, maybe a bit more.",
    )

    assert {(state.project, state.budget, state.urgency) for state in belief(told)} == {
        ("bathroom", "high", "later")
    }


def test_a_price_that_is_found_fair_rules_out_who_could_not_like_it() -> None:
    quoted = history(
        OPENING,
        text_of("ask_project"),
        "It is the kitchen, as soon as possible.",
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
        ("push", "small_talk"),
        ("ask_project",),
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
        turns = play(shop, [text_of(intent, "casual") for intent in intents], seed)
        if turns is not None:
            seen[observable(turns)].append((turns, shop.state))
    large = [alike for alike in seen.values() if len(alike) >= 40]
    assert len(large) >= 2

    for alike in large:
        believed = belief(alike[0][0])
        for _, state in alike:
            assert believed[state] > 0
        assert belief(alike[-1][0]) == pytest.approx(believed)
        for trait in HIDDEN:
            found = Counter(getattr(state, trait) for _, state in alike)
            for value, p in marginal(believed, trait).items():
                error = math.sqrt(max(p * (1 - p), 1 / len(alike)) / len(alike))
                assert abs(found[value] / len(alike) - p) <= 4 * error, (trait, value)


def observable(turns: list[TurnSoFar]) -> tuple[str, ...]:
    """Intents, tones and types of reply, with what they tell."""
    told = ("bathroom", "kitchen", "8 thousand", "15 thousand", "30 thousand", "hurry")
    seen = []
    for turn in turns:
        seen += [reply_type(turn["customer"]), recognise(turn["sent"] or "")]
        seen += [tone_of(turn["sent"] or ""), str(turn["sent"] == turn["suggestion"])]
        seen += [word for word in told if word in turn["customer"]]
    return tuple(seen)


# --- conversations that the shop cannot have had ---


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "without turns"),
        (history("Good evening."), r"turn 1: no customer of the shop says 'Good evening\.'"),
        (
            history("It is the kitchen, as soon as possible."),
            r"turn 1: .* opens with .* from its first turn",
        ),
        ([{"customer": None}], "turn 1: no customer of the shop says None"),
        (history(OPENING, text_of("greet"), "Bye."), r"turn 2: .* says 'Bye\.'"),
        (
            history(OPENING, text_of("greet"), "It is the kitchen, as soon as possible."),
            r"turn 2: after .* on turn 1 no customer of the shop goes on with 'It is the kit",
        ),
        (
            history(OPENING, text_of("offer_visit"), "Yes, please book the visit!"),
            "turn 2: the customer agreed to the visit",
        ),
        ([{"customer": OPENING}, {"customer": OPENING}], "turn 1: `sent` is None"),
        (
            [
                {"customer": OPENING, "suggestion": None, "sent": text_of("greet")},
                {"customer": "Thanks for the quick answer."},
            ],
            "turn 1: no business of the shop sends .* of its own",
        ),
        (history(OPENING, " ", "What do you mean?"), "turn 1: `sent` is ' '"),
        (
            history(
                OPENING,
                text_of("ask_project"),
                "It is the kitchen, as soon as possible.",
                text_of("quote_price"),
                "Other companies are cheaper.",
                text_of("ask_budget"),
                "My limit is 30 thousand.",
            ),
            "turn 4: after .* goes on with 'My limit is 30 thousand",
        ),
        (
            history(OPENING, text_of("greet"), "Please read my messages."),
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
        "a tone that no business has",
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
    turns = history(OPENING, text_of("push"), "Do not push me.")
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
