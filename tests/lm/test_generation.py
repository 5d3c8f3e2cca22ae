"""Sampling: in order, by the seed, from the distribution whose log-probabilities are recorded."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from iterppo.config import RolloutConfig
from iterppo.errors import DivergenceError
from iterppo.lm import generation
from iterppo.lm.generation import Drawn, draw_tokens, left_pad, sample
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.rendering import Message, Renderer
from iterppo.lm.row_sampling import choose
from iterppo.stages.rollout import _Model

CPU = torch.device("cpu")
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
    tokens: dict[tuple[int, ...], list[list[int]]] = {}

    def noted(model: Any, ids: torch.Tensor, mask: torch.Tensor, **settings: Any) -> Any:
        found = draw_tokens(model, ids, mask, **settings)
        for row, real, new in zip(ids, mask.bool(), found.tokens, strict=True):
            tokens.setdefault(tuple(row[real].tolist()), []).append(new)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "draw_tokens", noted)
        suggestions = sample(policy, states, **arguments)
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


def test_blanks_alone_are_an_abstention(
    make_policy: MakePolicy, make_state: MakeState, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(make_policy(steps=0))
    blank = policy.renderer.tokenizer(" ", add_special_tokens=False)["input_ids"]
    written = [*blank, *blank, policy.renderer.eos_id]
    drawn = Drawn([written], torch.tensor([[-1.0, -0.5, -1.5]]), None)
    monkeypatch.setattr(generation, "draw_tokens", lambda *_, **__: drawn)
    (suggestion,) = sample(policy, [make_state("Hi")])

    assert suggestion.text is None
    assert suggestion.logprob == -3.0


@pytest.mark.parametrize("drop_at", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_tokens_are_those_of_the_library_where_there_is_nothing_to_draw(
    family: str, drop_at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    sizes = {"vocab_size": 40, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}
    config: Any = (
        LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            **sizes,
        )
        if family == "llama"
        else GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **sizes)
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    prompts = [torch.randint(2, 40, (n,)).tolist() for n in (3, 9, 5, 7, 4, 8, 6, 3, 9, 2)]
    ids = torch.tensor([[0] * (9 - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (9 - len(p)) + [1] * len(p) for p in prompts])
    monkeypatch.setattr(generation, "DROP_AT", drop_at)
    model.generation_config.eos_token_id = None
    expected = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=24, pad_token_id=0
    )[:, 9:].tolist()
    eos = Counter(token for row in expected for token in set(row[3:])).most_common(2)[-1][0]
    with torch.no_grad():
        written = draw_tokens(
            model, ids, mask, temperature=1e-4, max_new_tokens=24, eos_id=eos
        ).tokens

    assert written == [row[: row.index(eos) + 1] if eos in row else row for row in expected]
    assert len({len(tokens) for tokens in written}) > 2, "some end early, some do not"


def tiny_llama() -> Any:
    torch.manual_seed(3)
    sizes = {"vocab_size": 40, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=2, **shape, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def padded_prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Some occur twice."""
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(2, 40, (n,), generator=generator).tolist() for n in (3, 9, 5, 7, 2)]
    return left_pad([prompts[n] for n in (0, 1, 1, 2, 3, 3, 3, 4)], pad_id=0, device=CPU)


def test_the_tokens_are_those_of_the_library_where_the_same_numbers_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, (ids, mask) = tiny_llama(), padded_prompts()
    uniform = torch.rand(8, 20, generator=torch.Generator().manual_seed(2))
    columns = iter(uniform.T)

    def by_inverse(share: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert num_samples == 1
        return choose(share.log(), next(columns).unsqueeze(1))

    monkeypatch.setattr(torch, "multinomial", by_inverse)
    expected = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=0.7,
        top_k=0,
        top_p=1.0,
        max_new_tokens=20,
        pad_token_id=0,
        eos_token_id=1,
    )[:, ids.shape[1] :].tolist()
    with torch.no_grad():
        drawn = draw_tokens(
            model, ids, mask, temperature=0.7, max_new_tokens=20, eos_id=1, uniform_BT=uniform
        )

    assert drawn.tokens == [row[: row.index(1) + 1] if 1 in row else row for row in expected]
    assert len({len(tokens) for tokens in drawn.tokens}) > 2, "some end early, some do not"


def test_what_is_drawn_does_not_depend_on_who_shares_the_batch() -> None:
    model, (ids, mask) = tiny_llama(), padded_prompts()
    uniform = torch.rand(8, 20, generator=torch.Generator().manual_seed(2))
    settings: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 20, "eos_id": 1}
    with torch.no_grad():
        together = draw_tokens(model, ids, mask, uniform_BT=uniform, **settings)
        alone = [
            draw_tokens(model, *rows, uniform_BT=numbers, **settings)
            for *rows, numbers in zip(ids.split(1), mask.split(1), uniform.split(1), strict=True)
        ]

    assert together.tokens == [one.tokens[0] for one in alone]
    each = torch.cat([one.logprob_BT for one in alone])
    torch.testing.assert_close(together.logprob_BT, each, atol=1e-5, rtol=0)


def test_what_is_read_beside_is_read_before_each_token_and_after_an_unfinished_one() -> None:
    model, (ids, mask) = tiny_llama(), padded_prompts()
    seen: list[torch.Tensor] = []
    hook = model.model.register_forward_hook(lambda *it: seen.append(it[2].last_hidden_state))
    with torch.no_grad():
        drawn = draw_tokens(
            model,
            ids,
            mask,
            temperature=1.0,
            max_new_tokens=12,
            eos_id=1,
            beside=lambda: seen.pop()[:, -1, 3],
        )
        hook.remove()
        unfinished = 0
        for row, tokens in enumerate(drawn.tokens):
            whole = [*ids[row][mask[row].bool()].tolist(), *tokens]
            hidden = model.model(torch.tensor([whole])).last_hidden_state[0, :, 3]
            before = len(whole) - len(tokens) - 1
            ended = tokens[-1] == 1
            unfinished += not ended
            expected = torch.zeros(13)
            read = hidden[before : -1 if ended else None]
            expected[: len(read)] = read
            assert drawn.beside_BT1 is not None
            torch.testing.assert_close(drawn.beside_BT1[row], expected, atol=1e-5, rtol=0)
    assert 0 < unfinished < 8


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-24], ids=["0", "within", "almost 1"])
def test_a_token_of_probability_zero_is_never_chosen(uniform: float) -> None:
    share = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3, 0.0, 0.0]])
    chosen = choose(share.log(), torch.tensor([[uniform]]))

    assert chosen.item() == {0.0: 1, 0.3: 3}.get(uniform, 4)


def test_a_policy_whose_probabilities_are_no_numbers_says_so(
    decided: Policy, make_state: MakeState
) -> None:
    with torch.no_grad():
        decided.model.get_input_embeddings().weight.fill_(torch.nan)

    with pytest.raises(DivergenceError, match="the policy's probabilities are not numbers"):
        sample(decided, [make_state("Hello!")])


def test_nothing_to_sample_is_nothing(decided: Policy) -> None:
    assert sample(decided, []) == []


# --- as the assistant of a rollout ---


def talk(assistant: _Model, row: MakeRow, *said: str) -> list[str | None]:
    return [s.text for s in assistant([[row(text, None, None, "not_shown")] for text in said])]


@pytest.fixture
def assistant(make_policy: MakePolicy) -> Callable[[int], _Model]:
    return lambda seed: _Model(make_policy(steps=40), RolloutConfig(seed=seed))


@pytest.fixture
def decided_assistant(make_policy: MakePolicy) -> _Model:
    return _Model(make_policy(steps=120, taught=TAUGHT, temperature=0.05), RolloutConfig(seed=0))


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
