"""What is read of two policies and of Q on a log: probabilities, suggestions, values, the KL."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iterppo.lm.generation import sample, seed_sampling
from iterppo.lm.likelihood import action_logprobs, token_logprobs
from iterppo.lm.off_policy import kl_per_suggestion, logprobs_of_log, q_readings
from iterppo.lm.rendering import decisions
from tests.lm.two_policies import Setting, random_q, set_up


@pytest.fixture(scope="module")
def setting(
    tmp_path_factory: pytest.TempPathFactory, make_policy: Callable[..., Path], pairs: Any
) -> Setting:
    return set_up(tmp_path_factory.mktemp("log"), make_policy, pairs)


def test_turns_of_other_policies_and_without_an_action_have_no_probability(
    setting: Setting,
) -> None:
    one, other = setting.rows[0][:1], [setting.rows[1][0] | {"policy_version": "another"}]
    none = [setting.rows[2][0] | {"adoption": "not_shown"}]
    people = [setting.rows[3][0] | {"adoption": None, "policy_version": None}]
    read = [
        logprobs_of_log(setting.old, [one, other, none, people], own_turns_only=only)
        for only in (True, False)
    ]

    assert read[0][0][0] == pytest.approx(one[0]["suggestion_logprob"], abs=1e-4)
    assert [math.isnan(each[0]) for each in read[0]] == [False, True, False, True]
    assert not any(math.isnan(each[0]) for each in read[1])
    assert read[0][2] == read[1][2] == [0.0]


def test_q_is_read_at_logged_actions_and_at_suggestions(setting: Setting) -> None:
    q = random_q(setting.folder / "policy")
    rows = next(each for each in setting.rows if len(each) == 2)
    name = rows[0]["conversation_id"]
    asked = {(name, 1): ["yes", None], (name, 2): ["no"]}
    prompt = setting.old.settings.system_prompt
    read = q_readings(q, [rows], asked, system_prompt=prompt)[name]
    seen = list(decisions(rows, system_prompt=prompt))
    first, second = seen[0].state, seen[1].state

    assert read.q == pytest.approx(
        q([first, second], [each.action or "" for each in seen]), abs=1e-5
    )
    assert read.v[0] == pytest.approx(np.mean(q([first, first], ["yes", ""])), abs=1e-5)
    assert read.v[1] == pytest.approx(q([second], ["no"])[0], abs=1e-5)
    assert len(read.first_values) == 3
    assert len(set(read.first_values)) == 3


def test_the_kl_is_that_of_the_tokens_that_were_drawn(setting: Setting) -> None:
    rows = [each[:1] for each in setting.rows[:60]]
    states = [
        next(decisions(each, system_prompt=setting.old.settings.system_prompt)).state
        for each in rows
    ]
    seed_sampling(0, call=0)
    drawn = sample(setting.new, states)
    prompts = [setting.old.renderer.prompt_ids(state) for state in states]
    before = token_logprobs(
        setting.old.model,
        [(prompt, one.tokens) for prompt, one in zip(prompts, drawn, strict=True)],
        temperature=setting.old.settings.temperature,
    )
    apart = np.mean([one.logprob - b for one, b in zip(drawn, before, strict=True)])

    assert kl_per_suggestion(setting.new, setting.new, rows, most=60, seed=0) == pytest.approx(
        0, abs=1e-5
    )
    assert kl_per_suggestion(setting.new, setting.old, rows, most=60, seed=0) == pytest.approx(
        apart, abs=1e-5
    )
    assert kl_per_suggestion(setting.new, setting.old, [], most=60, seed=0) is None


def test_the_kl_of_suggestions_that_are_cut_off_is_not_that_of_silence(setting: Setting) -> None:
    rows = [each[:1] for each in setting.rows[:60]]
    one_token = setting.new.settings.model_copy(update={"max_new_tokens": 1})
    short = replace(setting.new, settings=one_token)
    found = kl_per_suggestion(short, setting.old, rows, most=60, seed=0)
    asked = [
        next(decisions(each, system_prompt=setting.old.settings.system_prompt)).state
        for each in rows
    ]
    silent = [
        a - b
        for a, b in zip(
            *(action_logprobs(one, [(s, "") for s in asked]) for one in (short, setting.old)),
            strict=True,
        )
    ]

    assert all(one.text is None for one in sample(short, asked))
    assert found is not None
    assert abs(found - np.mean(silent)) > 0.1
