"""Sampling: in order, by the seed, from the distribution whose log-probabilities are recorded."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iterppo.lm.generation import sample
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.rendering import Message, Renderer
from iterppo.stages.rollout import _Model

MakePolicy = Callable[..., Path]
MakeState = Callable[..., list[Message]]
MakeRow = Callable[..., dict[str, Any]]

TAUGHT = (
    ("Is it done?", "yes"),
    ("Hello!", "no"),
    ("And then, my dear friend?", "later"),
    ("So", ""),
)
"""A policy that was taught one answer to each question."""


@pytest.fixture
def decided(make_policy: MakePolicy) -> Policy:
    return load_policy(make_policy(steps=120, taught=TAUGHT, temperature=0.05))


def drawn(policy: Policy, states: list[list[Message]], **arguments: Any) -> tuple[Any, list[Any]]:
    """Suggestions, and the (prompt, completion) tokens of each, without padding."""
    outputs: list[tuple[dict[str, Any], Any]] = []
    generate = policy.model.generate

    def noted(**settings: Any) -> Any:
        output = generate(**settings)
        outputs.append((settings, output))
        return output

    policy.model.generate = noted  # type: ignore[method-assign,assignment]
    try:
        suggestions = sample(policy, states, **arguments)
    finally:
        policy.model.generate = generate  # type: ignore[method-assign]
    tokens = {}
    for settings, output in outputs:
        length = settings["input_ids"].shape[1]
        for row, mask in zip(output.sequences.tolist(), settings["attention_mask"], strict=True):
            prompt = tuple(token for token, real in zip(row, mask.tolist(), strict=False) if real)
            new = row[length:]
            if policy.renderer.eos_id in new:
                new = new[: new.index(policy.renderer.eos_id) + 1]
            tokens.setdefault(prompt, []).append(new)
    found = [
        (prompt, tokens[tuple(prompt)].pop(0))
        for prompt in (policy.renderer.prompt_ids(state) for state in states)
    ]
    return suggestions, found


def log_likelihood(policy: Policy, prompt: list[int], new: list[int]) -> float:
    with torch.no_grad():
        logits_TV = policy.model(input_ids=torch.tensor([prompt + new])).logits[0]
    logprob_TV = (logits_TV / policy.settings.temperature).log_softmax(-1)[len(prompt) - 1 : -1]
    return logprob_TV.gather(1, torch.tensor(new).unsqueeze(1)).sum().item()


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_the_log_probability_is_that_of_the_tokens_that_were_drawn(
    temperature: float, make_policy: MakePolicy, make_state: MakeState
) -> None:
    policy = load_policy(make_policy(steps=40, temperature=temperature))
    asked = ["Hi", "Is it done?", "Shall we come by for a visit on Monday? " * 2, "And then?"]
    states = [make_state(text) for text in asked] * 6
    torch.manual_seed(0)
    suggestions, tokens = drawn(policy, states)
    unfinished = 0

    for suggestion, (prompt, new) in zip(suggestions, tokens, strict=True):
        assert suggestion.logprob == pytest.approx(log_likelihood(policy, prompt, new), abs=1e-4)
        ended = new[-1] == policy.renderer.eos_id
        unfinished += not ended
        text = policy.renderer.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert suggestion.text == ((text or None) if ended else None)
    assert len({len(prompt) for prompt, _ in tokens}) == 4
    assert temperature < 1.5 or unfinished


def test_what_is_drawn_has_the_frequencies_that_are_recorded(
    make_policy: MakePolicy, make_state: MakeState
) -> None:
    policy = load_policy(make_policy(steps=60, temperature=0.8))
    torch.manual_seed(1)
    number = 1500
    suggestions = sample(policy, [make_state("Hello!")] * number)
    counts = Counter(suggestion.text for suggestion in suggestions)
    prompt = policy.renderer.prompt_ids(make_state("Hello!"))

    for word in ("yes", "no", "maybe", "soon", "later"):
        new = policy.renderer.action_ids(word)
        stated = torch.tensor(log_likelihood(policy, prompt, new)).exp().item()
        assert 0.02 < stated < 0.6
        assert counts[word] / number == pytest.approx(stated, abs=4 * (stated / number) ** 0.5)


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 8192])
def test_every_state_gets_its_own_answer_whatever_shares_its_batch(
    tokens_per_batch: int, decided: Policy, make_state: MakeState
) -> None:
    order = [2, 0, 3, 1, 1, 2, 0, 3, 0]
    torch.manual_seed(0)
    suggestions = sample(
        decided, [make_state(TAUGHT[n][0]) for n in order], tokens_per_batch=tokens_per_batch
    )

    assert [suggestion.text for suggestion in suggestions] == [TAUGHT[n][1] or None for n in order]


def test_an_empty_completion_is_an_abstention_with_a_probability(
    decided: Policy, make_state: MakeState
) -> None:
    torch.manual_seed(0)
    (suggestion,), ((prompt, new),) = drawn(decided, [make_state("So")])

    assert new == [decided.renderer.eos_id]
    assert suggestion.text is None
    assert suggestion.logprob == pytest.approx(log_likelihood(decided, prompt, new), abs=1e-4)


def test_an_unfinished_completion_is_an_abstention(
    make_policy: MakePolicy, make_state: MakeState
) -> None:
    policy = load_policy(make_policy(steps=120, taught=TAUGHT, temperature=0.05, max_new_tokens=3))
    torch.manual_seed(0)
    suggestions, tokens = drawn(policy, [make_state(asked) for asked, _ in TAUGHT])

    assert [suggestion.text for suggestion in suggestions] == ["yes", "no", None, None]
    assert len(policy.renderer.action_ids("later")) > 3
    assert tokens[2][1] == policy.renderer.action_ids("later")[:3]


def test_blanks_alone_are_an_abstention(make_policy: MakePolicy, make_state: MakeState) -> None:
    policy = load_policy(make_policy(steps=0))
    blank = policy.renderer.tokenizer(" ", add_special_tokens=False)["input_ids"]
    eos = policy.renderer.eos_id

    class Output:
        sequences = torch.tensor([[7, *blank, *blank, eos]])
        scores = ()

    policy.model.generate = lambda **_: Output  # type: ignore[method-assign,assignment]
    policy.model.compute_transition_scores = lambda *_, **__: -torch.ones(1, 3)  # type: ignore[method-assign]
    policy.renderer.prompt_ids = lambda state: [7]  # type: ignore[method-assign]
    (suggestion,) = sample(policy, [make_state("Hi")])

    assert suggestion.text is None
    assert suggestion.logprob == -3.0


def test_nothing_to_sample_is_nothing(decided: Policy) -> None:
    assert sample(decided, []) == []


# --- as the assistant of a rollout ---


def talk(assistant: _Model, row: MakeRow, *said: str) -> list[str | None]:
    return [s.text for s in assistant([[row(text, None, None, "not_shown")] for text in said])]


@pytest.fixture
def assistant(make_policy: MakePolicy) -> Callable[[int], _Model]:
    return lambda seed: _Model(make_policy(steps=40), seed=seed)


@pytest.fixture
def decided_assistant(make_policy: MakePolicy) -> _Model:
    return _Model(make_policy(steps=120, taught=TAUGHT, temperature=0.05), seed=0)


def test_an_assistant_depends_on_its_seed_and_on_nothing_else(
    assistant: Callable[[int], _Model], row: MakeRow
) -> None:
    said = ["Hello!"] * 12
    runs = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(noise)
        one = assistant(seed)
        first = talk(one, row, *said)
        torch.rand(noise + 1)  # what is drawn elsewhere in the process changes nothing
        runs.append((first, talk(one, row, *said)))

    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0][0] != runs[0][1], "every call draws anew"


def test_an_assistant_reads_the_conversation_so_far(
    decided_assistant: _Model,
    row: MakeRow,
    make_state: MakeState,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    prompt_ids = Renderer.prompt_ids

    def noted(renderer: Renderer, state: Any) -> Any:
        seen.append(state)
        return prompt_ids(renderer, state)

    monkeypatch.setattr(Renderer, "prompt_ids", noted)
    (suggestion,) = decided_assistant(
        [[row("Hi", "no", "Which room?", "rejected"), row("Hello!", None, None, "not_shown")]]
    )

    assert seen[-1] == make_state("Hi", "no", "[business sent] Which room?\n[customer] Hello!")
    assert suggestion.logprob is not None
    assert decided_assistant.version.startswith("policy-")


def test_an_assistant_abstains_where_it_cannot_see_the_state(
    decided_assistant: _Model, row: MakeRow
) -> None:
    suggestions = decided_assistant(
        [
            [row("Is it done?", None, None, "not_shown")],
            [row("done " * 200, None, None, "not_shown")],
            [row("Hello!", None, None, "not_shown")],
        ]
    )

    assert [suggestion.text for suggestion in suggestions] == ["yes", None, "no"]
    assert suggestions[1].logprob is None
    assert talk(decided_assistant, row, "done " * 200) == [None]


def test_an_assistant_forgets_the_oldest_messages_first(
    decided_assistant: _Model, row: MakeRow
) -> None:
    before = [row("x " * 20, "no", "no", "verbatim") for _ in range(10)]
    (suggestion,) = decided_assistant([[*before, row("Is it done?", None, None, "not_shown")]])

    assert suggestion.logprob is not None, "the state was cut and seen"
