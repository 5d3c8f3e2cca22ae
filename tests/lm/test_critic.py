"""The critic: what it is fitted on before the first update, and which backbone it reads with.

Shapes: N examples, D hidden.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iterppo.lm.critic import Critic, Valued, _ridge
from iterppo.lm.critic_warmup import LoggedSuggestion
from iterppo.lm.critic_warmup import drawn as drawn_examples
from iterppo.lm.critic_warmup import logged as logged_examples
from iterppo.lm.generation import Sampled, sample
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.rendering import Message, Renderer

MakePolicy = Callable[..., Path]
MakeState = Callable[..., list[Message]]


def says_yes(states: Any, actions: Any) -> list[float]:
    return [float(action == "yes") for action in actions]


def test_the_head_is_fitted_on_what_is_known_before_each_token(
    make_policy: MakePolicy, prompts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Hardly trained: it spells in ways of its own, and is often cut off.
    policy = load_policy(make_policy(steps=15))
    drawn: list[tuple[Any, Sampled]] = []
    fitted: list[tuple[Any, Any]] = []

    def noted_sample(policy: Policy, states: Any) -> list[Sampled]:
        found = sample(policy, states)
        drawn.extend(zip(states, found, strict=True))
        return found

    def length(states: Any, actions: Any) -> list[float]:
        return [float(len(action)) for action in actions]

    def noted(feature_ND: Any, target_N: Any, weight_N: Any) -> Any:
        fitted.append((feature_ND, target_N))
        return _ridge(feature_ND, target_N, weight_N)

    monkeypatch.setattr("iterppo.lm.critic_warmup.sample", noted_sample)
    monkeypatch.setattr("iterppo.lm.critic._ridge", noted)
    Critic(policy.model).fit_head(drawn_examples(policy, length, prompts, number=40, seed=0))
    ((feature_ND, target_N),) = fitted
    ended = [pair for pair in drawn if pair[1].tokens[-1] == policy.renderer.eos_id]
    expected = []
    for state, action in ended:
        prompt = policy.renderer.prompt_ids(state)
        with torch.no_grad():
            hidden_SD = policy.model.model(
                input_ids=torch.tensor([prompt + action.tokens])
            ).last_hidden_state
        for position in range(len(action.tokens)):  # nothing but the prompt before the first
            paid = float(len(action.text or ""))
            expected.append((hidden_SD[0, len(prompt) - 1 + position], paid))

    assert len(drawn) == 40
    assert 5 < len(ended) < 35
    respelled = [a for _, a in ended if policy.renderer.action_ids(a.text or "") != a.tokens]
    assert respelled
    assert len(feature_ND) == len(target_N) == len(expected)
    for hidden_D, target in expected:
        distance_N, index_N = (feature_ND - hidden_D).abs().amax(dim=1).sort()
        assert distance_N[0] < 1e-4
        alike = index_N[distance_N < 1e-4]
        assert target in target_N[alike].tolist()


def test_what_was_cut_off_is_no_example(
    make_policy: MakePolicy, prompts: list[dict[str, Any]]
) -> None:
    policy = load_policy(make_policy(max_new_tokens=1))
    never = policy.renderer.eos_id
    policy.model.get_output_embeddings().register_forward_hook(
        lambda module, given, logits: logits.index_fill(-1, torch.tensor([never]), -1e9)
    )

    assert drawn_examples(policy, says_yes, prompts, number=8, seed=0) == []


def test_suggestions_of_the_log_are_worth_their_returns(
    policy: Policy, prompts: list[dict[str, Any]]
) -> None:
    suggestions = [
        LoggedSuggestion(prompts[0]["prompt"], " yes ", 0.9, 1.5),
        LoggedSuggestion(prompts[1]["prompt"], "", 0.0, 1.0),
    ]
    renderer = policy.renderer

    assert logged_examples(policy, suggestions, number=5, seed=0) == [
        Valued(renderer.prompt_ids(prompts[0]["prompt"]), renderer.action_ids("yes"), 0.9, 1.5),
        Valued(renderer.prompt_ids(prompts[1]["prompt"]), renderer.action_ids(""), 0.0, 1.0),
    ]
    assert len(logged_examples(policy, suggestions, number=1, seed=0)) == 1


def test_fitting_the_head_touches_nothing_else(
    policy: Policy, prompts: list[dict[str, Any]]
) -> None:
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    critic = Critic(policy.model)
    critic.fit_head(drawn_examples(policy, says_yes, prompts, number=200, seed=0))
    after = policy.model.state_dict()

    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert after["value_head.weight"].abs().sum() > 0
    assert after.keys() - before.keys() == {"value_head.weight", "value_head.bias"}


def test_values_are_collected_only_where_they_are_asked_for(
    policy: Policy, renderer: Renderer, make_state: MakeState
) -> None:
    critic = Critic(policy.model)
    torch.nn.init.normal_(policy.model.value_head.weight)
    ids = torch.tensor([renderer.prompt_ids(make_state("Hello!"))])
    policy.model(input_ids=ids)
    with critic.collecting() as values:
        policy.model(input_ids=ids)
        with critic.collecting() as inner:
            policy.model(input_ids=ids)
    policy.model(input_ids=ids)

    assert len(values) == len(inner) == 1
    assert values[0].shape == ids.shape
    assert torch.equal(values[0], inner[0])
    assert values[0].std() > 0


def test_a_separate_critic_reads_with_a_backbone_of_its_own(
    policy: Policy, renderer: Renderer, make_state: MakeState
) -> None:
    critic = Critic(policy.model, separate=True)
    torch.nn.init.normal_(policy.model.value_head.weight)
    ids = torch.tensor([renderer.prompt_ids(make_state("Hello!"))])

    def value() -> torch.Tensor:
        with torch.no_grad(), critic.collecting() as values:
            policy.model(input_ids=ids, use_cache=False)
        return values[0]

    before = value()
    with torch.no_grad():
        policy.model.model.norm.weight.zero_()
    assert torch.equal(value(), before)
    with torch.no_grad():
        critic.backbone.norm.weight.zero_()
    assert not torch.equal(value(), before)


def test_a_separate_critic_never_reads_half_a_sequence_in_silence(
    policy: Policy, renderer: Renderer, make_state: MakeState
) -> None:
    critic = Critic(policy.model, separate=True)
    ids = torch.tensor([renderer.prompt_ids(make_state("Hello!"))])
    cached = policy.model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    with critic.collecting(), pytest.raises(RuntimeError, match="whole sequences"):
        policy.model(input_ids=ids[:, -1:], past_key_values=cached)


def test_the_head_is_the_ridge_regression() -> None:
    torch.manual_seed(0)
    feature_ND = torch.randn(200, 6) * torch.tensor([1, 2, 1, 3, 1, 0.5])
    target_N = feature_ND @ torch.randn(6) + 0.7 + 0.1 * torch.randn(200)
    weight_D, bias = _ridge(feature_ND, target_N, torch.ones(200))

    # The penalty as six more examples: λ is a hundredth of the mean squared feature.
    centred_ND = (feature_ND - feature_ND.mean(0)).double()
    lambda_ = 0.01 * centred_ND.square().sum(0).mean()
    augmented = torch.cat([centred_ND, lambda_.sqrt() * torch.eye(6, dtype=torch.float64)])
    targets = torch.cat([(target_N - target_N.mean()).double(), torch.zeros(6)])
    expected_D = torch.linalg.lstsq(augmented, targets.unsqueeze(1)).solution.squeeze(1)

    assert torch.allclose(weight_D.double(), expected_D, atol=1e-5)
    assert float(bias) == pytest.approx(
        (target_N.mean() - feature_ND.mean(0).double() @ expected_D).item(), abs=1e-4
    )


def test_with_a_negligible_penalty_the_head_is_least_squares() -> None:
    # One direction in a thousand varies: the penalty is a thousandth of a hundredth of its square.
    torch.manual_seed(0)
    feature_ND = torch.zeros(100, 1000)
    feature_ND[:, 3] = torch.randn(100) + 5
    target_N = 2 * feature_ND[:, 3] - 1 + 0.1 * torch.randn(100)
    weight_D, bias = _ridge(feature_ND, target_N, torch.ones(100))

    with_constant = torch.stack([feature_ND[:, 3], torch.ones(100)], dim=1)
    expected = torch.linalg.lstsq(with_constant, target_N.unsqueeze(1)).solution.flatten()
    assert weight_D[3].item() == pytest.approx(expected[0].item(), rel=1e-3)
    assert float(bias) == pytest.approx(expected[1].item(), rel=1e-2)
    assert weight_D.abs().sum() == weight_D[3].abs()


def test_a_reward_that_never_varies_is_fitted_by_the_bias_alone() -> None:
    weight_D, bias = _ridge(torch.randn(20, 4), torch.full((20,), 0.25), torch.ones(20))

    assert weight_D.abs().max() < 1e-6
    assert float(bias) == pytest.approx(0.25)


def test_an_example_of_weight_two_counts_as_two() -> None:
    torch.manual_seed(0)
    feature_ND, target_N = torch.randn(30, 3), torch.randn(30)
    weighted = _ridge(feature_ND, target_N, torch.tensor([2.0] * 10 + [1.0] * 20))
    twice = _ridge(
        torch.cat([feature_ND[:10], feature_ND]),
        torch.cat([target_N[:10], target_N]),
        torch.ones(40),
    )

    for found, expected in zip(weighted, twice, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


def test_with_several_of_a_prompt_each_is_worth_what_it_has_over_the_others(
    make_policy: MakePolicy, prompts: list[dict[str, Any]]
) -> None:
    policy = load_policy(make_policy(steps=60))

    def worth(states: Any, actions: Any) -> list[float]:
        """Mostly the state's."""
        pairs = zip(states, actions, strict=True)
        return [100.0 * len(state[-1]["content"]) + len(action) for state, action in pairs]

    found = drawn_examples(policy, worth, prompts, number=24, seed=0, per_prompt=4)
    groups: dict[tuple[int, ...], list[float]] = {}
    for prompt_ids, _, value, _ in found:
        groups.setdefault(tuple(prompt_ids), []).append(value)

    assert len(found) > 12
    assert any(value != 0 for values in groups.values() for value in values)
    for values in groups.values():
        assert max(map(abs, values)) < 100, "what the state is worth is taken out"
