"""A policy read on prompts of its own."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from iterppo.lm.generation import sample
from iterppo.lm.likelihood import action_logprobs, token_logprobs
from iterppo.lm.policy import Policy
from iterppo.lm.watch import Reference, Watch, distinct_bigrams

MakeState = Callable[..., list[dict[str, str]]]


def says_yes(states: Any, actions: Sequence[str]) -> list[float]:
    return [float(action == "yes") for action in actions]


def says_no(states: Any, actions: Sequence[str]) -> list[float]:
    return [float(action == "no") for action in actions]


@pytest.fixture
def watch(policy: Policy, make_state: MakeState) -> Watch:
    return Watch(policy, [make_state("Hello!")] * 200, reward=says_yes, judge=says_no, seed=3)


def itself(policy: Policy) -> Reference:
    return lambda: nullcontext(policy.model)


def probability(policy: Policy, watch: Watch, action: str) -> float:
    """π(a|s) of the one state that is watched."""
    return math.exp(action_logprobs(policy, [(watch._prompts[0], action)])[0])


def four_errors(p: float) -> float:
    """Of a share of 200."""
    return 4 * math.sqrt(p * (1 - p) / 200)


@torch.no_grad()
def shift(policy: Policy) -> None:
    """Make the policy another one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def test_a_reading_is_of_what_the_policy_says(policy: Policy, watch: Watch) -> None:
    reading = watch.read(4, reference=itself(policy))
    yes, no = (probability(policy, watch, text) for text in ("yes", "no"))
    assert reading.update == 4
    assert reading.judge_P is not None
    assert reading.q == pytest.approx(yes, abs=four_errors(yes))
    assert sum(reading.judge_P) / 200 == pytest.approx(no, abs=four_errors(no))
    assert set(reading.q_P) == {0.0, 1.0}
    assert not any(a and b for a, b in zip(reading.q_P, reading.judge_P, strict=True))
    assert reading.kl == pytest.approx(0.0, abs=1e-4)
    assert math.log(5) < reading.entropy < 10  # five answers, and what it has not unlearned


def test_the_same_policy_reads_the_same_and_training_sees_no_difference(
    policy: Policy, watch: Watch
) -> None:
    torch.manual_seed(5)
    policy.model.train()
    first = watch.read(0, reference=itself(policy))
    after = torch.rand(3)
    assert watch.read(0, reference=itself(policy)) == first
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)
    assert policy.model.training


def test_kl_is_that_of_the_completions_from_the_reference(policy: Policy, watch: Watch) -> None:
    before = copy.deepcopy(policy.model)
    assert watch.read(0, reference=lambda: nullcontext(before)).kl == pytest.approx(0.0, abs=1e-4)
    shift(policy)
    reading = watch.read(1, reference=lambda: nullcontext(before))
    # KL is E log π/π_ref under π; many other samples of π have about the same mean.
    torch.manual_seed(0)
    state = watch._prompts[0]
    drawn = sample(policy, [state] * 1000)
    prompt = policy.renderer.prompt_ids(state)
    theirs = token_logprobs(before, [(prompt, one.tokens) for one in drawn], temperature=1.0)
    differences = torch.tensor([one.logprob - b for one, b in zip(drawn, theirs, strict=True)])
    error = differences.std().item() / math.sqrt(200)
    assert differences.mean() > 0.1
    assert abs(reading.kl - differences.mean().item()) < 4 * error


def test_the_logprob_of_tokens_is_that_of_the_action_that_they_spell(
    policy: Policy, make_state: MakeState
) -> None:
    state = make_state("Hello!")
    prompt, tokens = policy.renderer.prompt_ids(state), policy.renderer.action_ids("maybe")
    assert token_logprobs(policy.model, [(prompt, tokens)], temperature=1.0) == pytest.approx(
        action_logprobs(policy, [(state, "maybe")])
    )


def test_best_of_n_takes_what_the_reward_likes_most(policy: Policy, watch: Watch) -> None:
    found = watch.best_of(8)
    at_least_one = 1 - (1 - probability(policy, watch, "yes")) ** 8
    assert found.q == pytest.approx(at_least_one, abs=four_errors(at_least_one))
    assert found.judge is not None
    assert found.judge < 0.1
    assert found.kl == pytest.approx(math.log(8) - 7 / 8)
    one = watch.best_of(1)
    assert one.kl == 0.0
    assert one.q == watch.read(0, reference=itself(policy)).q


def test_a_completion_that_is_cut_off_is_scored_as_the_abstention_that_it_is(
    policy: Policy, make_state: MakeState
) -> None:
    heard: Counter[str] = Counter()

    def listens(states: Any, actions: Sequence[str]) -> list[float]:
        heard.update(actions)
        return [0.0] * len(actions)

    policy.settings = policy.settings.model_copy(update={"max_new_tokens": 1})
    Watch(policy, [make_state("Hello!")] * 20, reward=listens, judge=None, seed=0).read(
        0, reference=itself(policy)
    )
    assert heard == {"": 20}


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        pytest.param([], 1.0, id="nothing was said"),
        pytest.param([[5]], 1.0, id="one token"),
        pytest.param([[1, 1, 1, 1]], 1 / 3, id="one token again and again"),
        pytest.param([[1, 2], [1, 2], [1, 2], [3, 4]], 0.5, id="one answer again and again"),
    ],
)
def test_distinct_bigrams_fall_when_a_policy_repeats_itself(
    sequences: list[list[int]], expected: float
) -> None:
    assert distinct_bigrams(sequences) == pytest.approx(expected)
