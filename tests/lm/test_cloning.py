"""Behaviour cloning: what counts as a target, and that it is learned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iterppo.lm.cloning import Example, action_loss, clone, examples_of
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.rendering import Decision, Renderer, decisions

MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture
def turns(row: MakeRow, system: str) -> list[Decision]:
    rows = [
        row("Hello!", "Which room?", "Which room?", "verbatim"),
        row("Kitchen", None, "And the budget?", "abstained"),
        row("None", None, "Well.", "not_shown"),
        row("Bye", "Shall we come by for a visit on Monday?", "Bye", "rejected"),
    ]
    return list(decisions(rows, system_prompt=system))


def learned_texts(example: Example) -> list[list[int]]:
    """Runs of neighbouring tokens that the policy wrote."""
    runs: list[list[int]] = []
    for position, token in enumerate(example.ids):
        if example.is_action[position]:
            if position == 0 or not example.is_action[position - 1]:
                runs.append([])
            runs[-1].append(token)
    return runs


def test_exactly_the_actions_count_and_their_end_of_turn(
    turns: list[Decision], renderer: Renderer
) -> None:
    (example,) = examples_of(turns, renderer, max_tokens=1000)

    assert len(example.ids) == len(example.is_action)
    assert [renderer.tokenizer.decode(run) for run in learned_texts(example)] == [
        "Which room?<|end|>",
        "<|end|>",
        "Shall we come by for a visit on Monday?<|end|>",
    ]
    # Each stands where the policy would write it.
    for start, is_action in enumerate(example.is_action):
        if is_action and not example.is_action[start - 1]:
            assert renderer.tokenizer.decode(example.ids[:start]).endswith("<|assistant|>")


@pytest.mark.parametrize("max_tokens", [60, 70, 80, 100, 120])
def test_in_a_short_context_every_action_is_a_target_once(
    max_tokens: int, turns: list[Decision], renderer: Renderer
) -> None:
    segments, too_long = renderer.segments(turns, max_tokens=max_tokens)
    examples = examples_of(turns, renderer, max_tokens=max_tokens)
    learned = [run for example in examples for run in learned_texts(example)]

    assert len(learned) == sum(len(segment.ends) for segment in segments) == 3 - len(too_long)
    assert learned == [
        renderer.action_ids(turn.action or "")
        for index, turn in enumerate(turns)
        if turn.action is not None and index not in too_long
    ]


def test_the_closing_message_of_the_customer_is_context(
    turns: list[Decision], renderer: Renderer
) -> None:
    turns[-1].row["customer_after"] = "Thank you!"  # type: ignore[index]
    (example,) = examples_of(turns, renderer, max_tokens=1000)

    assert renderer.tokenizer.decode(example.ids).endswith("Thank you!")
    assert len(learned_texts(example)) == 3
    assert not example.is_action[-1]


@pytest.mark.parametrize("max_tokens", [80, 100, 120, 200])
def test_no_example_is_longer_than_the_context(
    max_tokens: int, turns: list[Decision], renderer: Renderer
) -> None:
    turns[-1].row["customer_after"] = "Thank you! " * 20  # type: ignore[index]
    examples = examples_of(turns, renderer, max_tokens=max_tokens)

    assert examples
    assert max(len(example.ids) for example in examples) <= max_tokens


def test_a_closing_message_looks_as_it_would_if_the_conversation_went_on(
    row: MakeRow, system: str, renderer: Renderer
) -> None:
    ended = row("Hello!", "Which room?", "What budget?", "rejected", "[customer] Bye")
    (example,) = examples_of(
        list(decisions([ended], system_prompt=system)), renderer, max_tokens=1000
    )
    went_on = [row("Hello!", "Which room?", "What budget?", "rejected"), row("[customer] Bye")]
    *_, last = decisions(went_on, system_prompt=system)
    later = renderer.prompt_ids(last.state)

    assert example.ids == later[: len(example.ids)]


def test_a_conversation_without_actions_gives_no_example(
    row: MakeRow, system: str, renderer: Renderer
) -> None:
    silent = list(decisions([row("Hello!", None, "Hi", "not_shown")], system_prompt=system))

    assert examples_of(silent, renderer, max_tokens=100) == []


def learn(
    policy: Policy, examples: list[Example], *, steps: int, context_weight: float = 0.1
) -> list[float]:
    return clone(
        policy.model,
        examples,
        pad_id=policy.renderer.tokenizer.pad_token_id,
        context_weight=context_weight,
        epochs=steps,
        max_steps=steps,
        tokens_per_batch=4096,
        learning_rate=1e-2,
        seed=0,
    )


def test_three_conversations_are_learned_by_heart(
    make_policy: Callable[..., Path], row: MakeRow, system: str, renderer: Renderer
) -> None:
    policy = load_policy(make_policy(steps=0))
    said = [("Hello!", "Which room?"), ("Kitchen", "Monday is fine."), ("Thank you!", "")]
    examples = []
    for customer, answer in said:
        turns = list(decisions([row(customer, answer, answer, "verbatim")], system_prompt=system))
        examples += examples_of(turns, renderer, max_tokens=100)
    arguments = {"pad_id": renderer.tokenizer.pad_token_id, "tokens_per_batch": 4096}
    before = action_loss(policy.model, examples, **arguments)
    losses = learn(policy, examples, steps=80)

    assert before > 1
    assert losses[-1] < losses[0]
    assert action_loss(policy.model, examples, **arguments) < 0.1


def log_likelihoods(policy: Policy, example: Example) -> list[float]:
    """Of every token but the first, given those before it."""
    with torch.no_grad():
        logits_TV = policy.model(input_ids=torch.tensor([example.ids])).logits[0]
    logprob_TV = logits_TV.log_softmax(-1)
    return [logprob_TV[t - 1, token].item() for t, token in enumerate(example.ids) if t]


@pytest.mark.parametrize("tokens_per_batch", [1, 10_000], ids=["one by one", "padded"])
def test_the_action_loss_is_the_mean_over_the_actions_tokens(
    tokens_per_batch: int, policy: Policy, turns: list[Decision], renderer: Renderer
) -> None:
    examples = [
        *examples_of(turns, renderer, max_tokens=1000),
        *examples_of(turns[:1], renderer, max_tokens=1000),
    ]
    wanted = [
        logprob
        for one in examples
        for logprob, is_action in zip(log_likelihoods(policy, one), one.is_action[1:], strict=True)
        if is_action
    ]
    found = action_loss(
        policy.model,
        examples,
        pad_id=renderer.tokenizer.pad_token_id,
        tokens_per_batch=tokens_per_batch,
    )

    assert found == pytest.approx(-sum(wanted) / len(wanted), rel=1e-4)


@pytest.mark.parametrize("context_weight", [0.0, 0.3, 1.0])
def test_the_loss_weighs_what_is_no_action(
    context_weight: float, policy: Policy, turns: list[Decision], renderer: Renderer
) -> None:
    examples = [
        *examples_of(turns, renderer, max_tokens=1000),
        *examples_of(turns[:1], renderer, max_tokens=1000),
    ]
    total = mass = 0.0
    for one in examples:
        for logprob, is_action in zip(log_likelihoods(policy, one), one.is_action[1:], strict=True):
            weight = 1.0 if is_action else context_weight
            total -= weight * logprob
            mass += weight

    (first,) = learn(policy, examples, steps=1, context_weight=context_weight)
    assert first == pytest.approx(total / mass, rel=1e-4)


def test_context_of_weight_zero_is_not_learned(
    policy: Policy, turns: list[Decision], renderer: Renderer
) -> None:
    (example,) = examples_of(turns, renderer, max_tokens=1000)
    # What follows the last action is seen by no action: with weight 0 it may be anything.
    last = max(position for position, is_action in enumerate(example.is_action) if is_action)
    tail = [5] * (len(example.ids) - last - 1)
    other = Example([*example.ids[: last + 1], *tail], example.is_action)
    start = {name: value.clone() for name, value in policy.model.state_dict().items()}
    learned = []
    for chosen in (example, other):
        policy.model.load_state_dict(start)
        learn(policy, [chosen], steps=2, context_weight=0.0)
        learned.append({n: v.clone() for n, v in policy.model.state_dict().items()})

    assert tail
    assert example.ids != other.ids
    assert all(torch.allclose(value, learned[1][name]) for name, value in learned[0].items())
