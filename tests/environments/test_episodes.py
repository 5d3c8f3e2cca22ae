"""Conversations held in an environment: what is logged is what happened."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from iterppo.environments.episodes import Suggestion, TurnSoFar, hold_conversations
from iterppo.environments.protocol import Observation
from iterppo.environments.shop import SETTINGS, Shop
from iterppo.errors import UsageError
from iterppo.logs.conversations import turns_of
from iterppo.logs.records import LogConversation, parse_line

TEXTS: list[str | None] = [
    None,
    *(rule["paraphrases"][0] for rule in SETTINGS["intents"].values() if rule.get("paraphrases")),
]


WRONG: Any = Observation
"""With types that it should not have."""


class Scripted:
    """Says one thing after the other, and remembers what it was shown."""

    def __init__(self, version: str = "fake", texts: Sequence[str | None] = TEXTS) -> None:
        self.version = version
        self.texts = texts
        self.shown: list[list[TurnSoFar]] = []
        self.batches: list[int] = []

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        self.batches.append(len(conversations))
        self.shown += [list(turns) for turns in conversations]
        said = []
        for turns in conversations:
            number = 5 * len(turns) + len(turns[-1]["customer"] or "")
            said.append(self.texts[number % len(self.texts)])
        return [Suggestion(text, None if text is None else -1.5) for text in said]


class Watched(Shop):
    """The shop, with a memory."""

    made: list["Watched"]

    def reset(self, seed: int) -> Observation:
        self.seed = seed
        self.observed = [super().reset(seed)]
        self.suggested: list[str | None] = []
        type(self).made.append(self)
        return self.observed[0]

    def step(self, suggestion: str | None) -> Observation:
        self.suggested.append(suggestion)
        self.observed.append(super().step(suggestion))
        return self.observed[-1]


@pytest.fixture
def shops(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    made: list[Watched] = []
    monkeypatch.setattr(Watched, "made", made, raising=False)
    return made


def hold(assistant: Any, factory: Any = Watched, **settings: Any) -> list[dict[str, Any]]:
    usual = {"name": "shop", "number": 40, "parallel": 16, "max_turns": 20, "seed": 3}
    return list(hold_conversations(factory, assistant, **{**usual, **settings}))


def parsed(records: list[dict[str, Any]]) -> Iterator[LogConversation]:
    for record in records:
        yield parse_line(json.dumps(record, ensure_ascii=False).encode())


# --- what is logged ---


def test_every_record_can_be_read_and_tells_what_happened(shops: list[Watched]) -> None:
    records = hold(Scripted())
    adoptions: Counter[str | None] = Counter()
    outcomes = 0

    assert len(records) == len(shops) == 40
    for number, (conversation, shop) in enumerate(zip(parsed(records), shops, strict=True)):
        rows, counts = turns_of(conversation)
        last = shop.observed[-1]
        assert conversation.conversation_id == f"shop/fake/3/{number}"
        assert conversation.policy_version == "fake"
        assert not conversation.unfinished
        assert (conversation.outcome == 1) == last.outcome
        assert len(rows) == len(shop.suggested)
        assert counts["messages_joined"] == counts["messages_cut_after_outcome"] == 0
        for row, before, suggestion, after in zip(
            rows, shop.observed[:-1], shop.suggested, shop.observed[1:], strict=True
        ):
            assert row["customer"] == before.customer
            assert row["suggestion"] == suggestion
            assert row["sent"] == after.sent
            assert row["adoption"] == after.adoption
            assert row["suggestion_logprob"] == (None if suggestion is None else -1.5)
            assert row["policy_version"] == "fake"
            assert row["reward"] == float(after.outcome)
            assert row["done"] == after.done
            assert not row["censored"]
            adoptions[row["adoption"]] += 1
        assert rows[-1]["customer_after"] == last.customer
        outcomes += last.outcome
    assert set(adoptions) == {"verbatim", "edited", "influenced", "rejected", "abstained"}
    assert 0 < outcomes < 40


def test_ids_are_unique_and_in_order(shops: list[Watched]) -> None:
    for parallel in (1, 7, 100):
        ids = [record["conversation_id"] for record in hold(Scripted(), parallel=parallel)]
        assert ids == [f"shop/fake/3/{number}" for number in range(40)]


@pytest.mark.parametrize("max_turns", [1, 2])
def test_a_conversation_that_is_still_open_is_unfinished(
    max_turns: int, shops: list[Watched]
) -> None:
    records = hold(Scripted(), max_turns=max_turns)
    open_ones = 0
    for record, conversation, shop in zip(records, parsed(records), shops, strict=True):
        rows, _ = turns_of(conversation)
        done = shop.observed[-1].done
        open_ones += not done
        assert record["unfinished"] == conversation.unfinished == (not done)
        assert len(shop.suggested) <= max_turns
        assert {row["censored"] for row in rows} == {not done}
        if not done:  # the customer's last message waits for an answer that nobody gave
            assert record["messages"][-1] == {
                "role": "customer",
                "content": shop.observed[-1].customer,
            }
            assert len(shop.suggested) == max_turns
            assert rows[-1]["adoption"] == "not_shown"
    assert open_ones > 10


# --- what the assistant is shown ---


def test_the_assistant_is_shown_what_a_log_would_tell(shops: list[Watched]) -> None:
    assistant = Scripted()
    records = hold(assistant, number=30, parallel=30)
    fields = ("customer", "suggestion", "adoption", "sent")
    logged = {}
    for conversation in parsed(records):
        rows = [{name: row[name] for name in fields} for row in turns_of(conversation)[0]]
        for length in range(1, len(rows) + 1):
            waiting = {**rows[length - 1], "suggestion": None, "adoption": "not_shown"}
            state = [*rows[: length - 1], {**waiting, "sent": None}]
            logged[json.dumps(state)] = logged.get(json.dumps(state), 0) + 1

    assert Counter(json.dumps(turns) for turns in assistant.shown) == logged


def test_conversations_are_held_together_and_those_that_ended_are_left_alone(
    shops: list[Watched],
) -> None:
    assistant = Scripted()
    hold(assistant, number=20, parallel=8)
    starts = [n for n, size in enumerate(assistant.batches) if size == 8]

    assert sum(assistant.batches) == sum(len(shop.suggested) for shop in shops)
    assert max(assistant.batches) == 8
    assert assistant.batches[starts[0]] == 8
    first_batch = assistant.batches[: max(len(shop.suggested) for shop in shops[:8])]
    assert first_batch == sorted(first_batch, reverse=True)


# --- customers ---


def test_the_same_policy_and_seed_give_the_same_log(shops: list[Watched]) -> None:
    assert hold(Scripted()) == hold(Scripted())
    assert hold(Scripted(), parallel=5) == hold(Scripted(), parallel=40)


def test_another_policy_seed_or_occasion_meets_other_customers(shops: list[Watched]) -> None:
    ids = set()
    for version, seed, occasion in (
        ("fake", 3, ""),
        ("other", 3, ""),
        ("fake", 4, ""),
        ("fake", 3, "kept for another round"),
    ):
        records = hold(Scripted(version), seed=seed, occasion=occasion)
        ids |= {record["conversation_id"] for record in records}
    seeds = [shop.seed for shop in shops]

    assert len(set(seeds)) == len(ids) == 160
    assert all(0 <= seed < 2**53 for seed in seeds)


# --- environments that are not the shop ---


class Odd:
    """The business opens; nobody answers; the outcome comes with a business message."""

    def __init__(self, observations: list[Observation]) -> None:
        self._observations = iter(observations)

    def reset(self, seed: int) -> Observation:
        return next(self._observations)

    def step(self, suggestion: str | None) -> Observation:
        return next(self._observations)


def test_an_outcome_without_a_customers_message_lies_on_the_sent_one() -> None:
    def odd() -> Odd:
        return Odd(
            [
                Observation(None, outcome=False, done=False),
                Observation("Fine", outcome=False, done=False, sent="Hi", adoption="verbatim"),
                Observation(None, outcome=True, done=True, sent="Booked.", adoption="edited"),
            ]
        )

    (record,) = hold(Scripted(texts=["Hi"]), odd, number=1)
    (conversation,) = parsed([record])
    rows, _ = turns_of(conversation)

    assert [message.get("outcome") for message in record["messages"]] == [None, None, 1]
    assert [row["customer"] for row in rows] == [None, "Fine"]
    assert [row["reward"] for row in rows] == [0.0, 1.0]
    assert [row["done"] for row in rows] == [False, True]
    assert rows[-1]["sent"] == "Booked."


def test_an_environment_need_not_know_what_became_of_a_suggestion() -> None:
    def plain() -> Odd:
        return Odd(
            [
                Observation("Hello", outcome=False, done=False),
                Observation("And?", outcome=False, done=False, sent="Hi"),
                Observation("And?", outcome=False, done=False, sent="Something else entirely"),
                Observation(None, outcome=False, done=True, sent="Bye"),
            ]
        )

    class Three(Scripted):
        def __call__(self, conversations: Any) -> list[Suggestion]:
            self.shown += [list(turns) for turns in conversations]
            texts = ["Hi", "Hi", None]
            return [Suggestion(texts[len(turns) - 1], None) for turns in conversations]

    assistant = Three()
    (record,) = hold(assistant, plain, number=1)
    (conversation,) = parsed([record])
    rows, _ = turns_of(conversation)

    assert [row["adoption"] for row in rows] == ["verbatim", "rejected", "abstained"]
    shown = [turn["adoption"] for turn in assistant.shown[-1]]
    assert shown == ["verbatim", "rejected", "not_shown"], "as its log will tell"
    assert [row["suggestion"] for row in rows] == ["Hi", "Hi", None]
    assert record["outcome"] == 0
    assert not record["unfinished"]


def test_a_business_that_sends_nothing_is_logged_with_what_was_suggested() -> None:
    def mute() -> Odd:
        return Odd(
            [
                Observation("Hello", outcome=False, done=False),
                Observation("Anybody?", outcome=False, done=False, sent=None, adoption="rejected"),
                Observation(None, outcome=False, done=True, sent="Yes", adoption="verbatim"),
            ]
        )

    assistant = Scripted(texts=["Yes"])
    (record,) = hold(assistant, mute, number=1)
    (conversation,) = parsed([record])
    rows, _ = turns_of(conversation)

    assert [(row["suggestion"], row["sent"]) for row in rows] == [("Yes", None), ("Yes", "Yes")]
    assert assistant.shown[1][0]["sent"] is None


@pytest.mark.parametrize(
    ("after", "customer", "outcome"),
    [
        (Observation("Yes.", outcome=True, done=False, sent="Hi"), "Yes.", 1),
        (Observation(None, outcome=False, done=False, sent="Hi"), None, 0),
        (Observation(" ", outcome=False, done=False, sent="Hi"), None, 0),
    ],
    ids=["an outcome", "silence", "blanks"],
)
def test_what_ends_a_conversation_ends_it_whatever_done_says(
    after: Observation, customer: str | None, outcome: int
) -> None:
    first = Observation("Hello", outcome=False, done=False)
    (record,) = hold(Scripted(texts=["Hi"]), lambda: Odd([first, after]), number=1)
    said = [message["content"] for message in record["messages"]]

    assert said == ["Hello", "Hi"] + ([] if customer is None else [customer])
    assert (record["outcome"], record["unfinished"]) == (outcome, False)


@pytest.mark.parametrize(
    ("observations", "said"),
    [
        ([], r"reset failed \(StopIteration:\)"),
        (["Hello"], "reset returned a str; return an Observation"),
        ([WRONG(5, False, False)], "reset: customer is 5; give a text or None"),
        (
            [Observation("\ud83d", False, False)],
            r"reset: customer is '\\ud83d'; give a text or None",
        ),
        ([WRONG("a", 0.5, False)], "reset: outcome is 0.5; give a truth value"),
        (
            [Observation("Hello", False, False), Observation("a", False, True, "b", "taken")],
            "step: adoption is 'taken'; give None or one of verbatim, edited, influenced, ",
        ),
    ],
    ids=["fails", "another form", "no text", "half a character", "a reward", "another word"],
)
def test_a_wrong_environment_is_explained_in_one_line(observations: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"^environment Odd: {said}"):
        hold(Scripted(texts=["Hi"]), lambda: Odd(observations), number=1)
