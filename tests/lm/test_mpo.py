"""The policy step by imitation, on a policy of five answers whose tilt is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from iterppo.config import PPOConfig
from iterppo.errors import DivergenceError
from iterppo.lm.likelihood import action_logprobs
from iterppo.lm.mpo import MPOTrainer
from iterppo.lm.policy import Policy, load_policy, with_weights
from iterppo.lm.ppo_checkpoint import PPOCheckpoint
from tests.lm.ppo_runs import log_likelihood, says_yes

ANSWERS = ["yes", "no", "maybe", "soon", "later"]
WORTH = dict(zip(ANSWERS, (1.0, 0.5, 0.0, 0.25, 0.75), strict=True))
BETA = 0.5

Make = Callable[..., MPOTrainer]


def worth(states: Any, actions: Any) -> list[float]:
    return [WORTH.get(action, 0.0) for action in actions]


@pytest.fixture
def make(make_policy: Callable[..., Path], prompts: list[dict[str, Any]]) -> Make:
    """Makes a trainer; the rows that it writes are its attribute `samples`."""

    def trainer(
        *,
        reward: Any = worth,
        max_new_tokens: int = 6,
        watched: bool = False,
        checkpoint: PPOCheckpoint | None = None,
        **settings: Any,
    ) -> MPOTrainer:
        samples: list[dict[str, Any]] = []
        usual = {
            "algorithm": "mpo",
            "updates": 2,
            "completions_per_update": 64,
            "completions_per_prompt": 16,
            "imitated_per_prompt": 2,
            "minibatches": 2,
            "microbatch_size": 4,
            "epochs": 1,
            "learning_rate": 1e-3,
            "kl_coefficient": BETA,
        }
        made = MPOTrainer(
            policy=load_policy(make_policy(steps=100, max_new_tokens=max_new_tokens)),
            reward=reward,
            prompts=prompts,
            config=PPOConfig.model_validate({**usual, **settings}),
            on_samples=samples.extend,
            watched=prompts if watched else (),
            checkpoint=checkpoint,
        )
        made.samples = samples  # type: ignore[attr-defined]
        return made

    return trainer


def answers(policy: Policy, prompts: list[dict[str, Any]]) -> torch.Tensor:
    """P(answer | prompt), a row a prompt."""
    pairs = [(row["prompt"], answer) for row in prompts for answer in ANSWERS]
    return torch.tensor(action_logprobs(policy, pairs)).exp().view(-1, len(ANSWERS))


def test_what_comes_out_is_the_first_policy_tilted_by_q(
    make: Make, prompts: list[dict[str, Any]]
) -> None:
    trainer = make(updates=40, imitated_per_prompt=8)
    first_PA = answers(trainer._first, prompts)
    tilted_PA = first_PA * (torch.tensor(list(WORTH.values())) / BETA).exp()
    # What is none of the answers is worth nothing, and stays as likely as it was, before Z.
    tilted_PA /= tilted_PA.sum(dim=1, keepdim=True) + (1 - first_PA.sum(dim=1, keepdim=True))
    trainer.train()
    found_PA = answers(trainer._policy, prompts)

    assert float((first_PA - tilted_PA).abs().max()) > 0.15
    assert float((found_PA - tilted_PA).abs().max()) < 0.06
    assert torch.equal(answers(trainer._first, prompts), first_PA)


ADAPTERS = {"lora_rank": 8, "learning_rate": 1e-2}


@pytest.mark.parametrize("trained", [{}, ADAPTERS], ids=["the model", "adapters"])
def test_it_says_what_is_worth_most_where_a_nat_costs_little_and_keeps_the_best_that_was_read(
    make: Make, prompts: list[dict[str, Any]], trained: dict[str, Any]
) -> None:
    settings = {"kl_coefficient": 0.02, "imitated_per_prompt": 4, **trained}
    trainer = make(updates=40, reward=says_yes, watched=True, **settings)
    trainer.train()

    assert float(answers(trainer._policy, prompts)[:, 0].min()) > 0.8
    assert trainer.watching is not None
    assert trainer.watching.best.q > trainer.watching.readings[0].q
    assert trainer.watching.best.kl > 0.5
    assert trainer.finish() is trainer.watching.best_weights


def test_adapters_are_all_that_learns_and_the_first_policy_is_the_one_without_them(
    make: Make, prompts: list[dict[str, Any]]
) -> None:
    plain = make(**ADAPTERS | {"lora_rank": 0})
    trainer = make(**ADAPTERS)
    first = dict(plain._policy.model.named_parameters())
    before_PA = answers(plain._first, prompts)
    trainer.train()

    kept = {n: w for n, w in trainer._policy.model.named_parameters() if "lora_" not in n}
    assert len(kept) == len(first)
    for name, weight in kept.items():
        assert torch.equal(weight, first[name.replace(".base_layer", "")]), name
    with trainer._before() as without:
        assert torch.equal(answers(without, prompts), before_PA)
    after_PA = answers(trainer._policy, prompts)
    assert float((after_PA - before_PA).abs().max()) > 0.01
    # What is written is the plain model, adapters merged.
    merged = with_weights(plain._policy, trainer.finish())
    assert torch.allclose(answers(merged, prompts), after_PA, atol=1e-5)


def test_what_is_sampled_is_the_same_whatever_learns_from_it(make: Make) -> None:
    of_both = [make(**trained) for trained in ({}, ADAPTERS)]
    for trainer in of_both:
        trainer.train()
    alone, adapted = (
        [(row["prompt_id"], row["tokens"]) for row in trainer.samples]  # type: ignore[attr-defined]
        for trainer in of_both
    )
    assert alone == adapted


def test_a_step_is_the_likelihood_of_what_was_drawn(make: Make) -> None:
    trainer = make(minibatches=1, microbatch_size=3)
    _, drawn = trainer._e_step(0)
    chosen = [one for each in drawn for one in each]
    temperature = trainer._policy.settings.temperature
    total = sum(
        one.draws
        * float(log_likelihood(trainer._first.model, one.prompt, one.tokens, temperature).sum())
        for one in chosen
    )
    number = sum(one.draws * len(one.tokens) for one in chosen)
    loss, entropy = trainer._gradient(chosen)

    assert sum(one.draws for one in chosen) == 2 * len(drawn)
    assert loss == pytest.approx(-total / number, rel=1e-4)
    assert 0 < entropy < 6


def test_all_that_was_sampled_is_written_with_what_it_has_over_the_tilted_policy(
    make: Make,
) -> None:
    trainer = make(updates=1)
    trainer.train()
    rows = trainer.samples  # type: ignore[attr-defined]
    assert len(rows) == 64
    for start in range(0, 64, 16):
        group = rows[start : start + 16]
        assert len({row["prompt_id"] for row in group}) == 1
        q = torch.tensor([row["q"] for row in group])
        soft = BETA * ((q / BETA).logsumexp(0) - torch.tensor(16.0).log())
        found = torch.tensor([row["advantage"] for row in group])
        torch.testing.assert_close(found, q - soft)
        assert all(row["kl"] == 0 and not row["truncated"] for row in group)
    (told,) = trainer.state.log_history
    assert told["q"] == pytest.approx(sum(row["q"] for row in rows) / 64)
    assert told["q_imitated"] > told["q"]
    assert told["kl_imitated"] > 0


def test_what_was_cut_off_is_not_imitated(make: Make) -> None:
    # Three tokens are too few for the longer answers, which would be worth most.
    trainer = make(
        max_new_tokens=3, reward=lambda s, a: [float(len(text)) for text in a], kl_coefficient=0.01
    )
    _, drawn = trainer._e_step(0)
    rows = trainer.samples  # type: ignore[attr-defined]

    assert 0 < sum(row["truncated"] for row in rows) < len(rows)
    end = trainer._policy.renderer.eos_id
    assert drawn
    assert all(one.tokens[-1] == end for each in drawn for one in each)


def test_where_everything_was_cut_off_nothing_changes(make: Make) -> None:
    trainer = make(max_new_tokens=1)
    before = {n: w.clone() for n, w in trainer._policy.model.state_dict().items()}
    trainer.train()

    assert all(row["truncated"] for row in trainer.samples)  # type: ignore[attr-defined]
    for name, weight in trainer._policy.model.state_dict().items():
        assert torch.equal(weight, before[name])


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("at", "trained"), [(3, {}), (5, {}), (6, {}), (5, ADAPTERS)], ids=["3", "5", "6", "adapters"]
)
def test_a_killed_one_goes_on_to_the_same_result(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    trained: dict[str, Any],
) -> None:
    def files() -> PPOCheckpoint:
        return PPOCheckpoint(tmp_path / ".policy.checkpoint", key="a", every=1)

    settings = {"updates": 4, "watched": True, "watch_updates": 1, **trained}
    whole = make(**settings)
    whole.train()
    steps: list[None] = []
    real, last = MPOTrainer._gradient, at

    def counted(self: MPOTrainer, chosen: Any) -> Any:
        if len(steps) == last:
            raise Killed
        steps.append(None)
        return real(self, chosen)

    with monkeypatch.context() as patch:
        patch.setattr(MPOTrainer, "_gradient", counted)
        with pytest.raises(Killed):
            make(**settings, checkpoint=files()).train()
    again = make(**settings, checkpoint=files())
    with monkeypatch.context() as patch:
        steps.clear()
        last = -1
        patch.setattr(MPOTrainer, "_gradient", counted)
        again.train()
    assert len(steps) == 8 - 2 * (at // 2), "it goes on behind the last whole update"

    assert again.samples == whole.samples  # type: ignore[attr-defined]
    assert again.state.log_history == whole.state.log_history
    assert again.saved_notes() == whole.saved_notes()
    kept, expected = again.finish(), whole.finish()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_one_that_a_limit_stopped_is_stopped_there_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> MPOTrainer:
        files = PPOCheckpoint(tmp_path / ".policy.checkpoint", key="a", every=1)
        trainer = make(updates=4, watched=True, watch_updates=1, checkpoint=files)
        trainer.train()
        return trainer

    monkeypatch.setattr(
        "iterppo.lm.watching.broken", lambda readings, _: "enough" if len(readings) > 2 else None
    )
    first, again = stopped(), stopped()  # killed before its policy was written

    assert first.state.global_step == 2 * 2
    assert again.samples == first.samples  # type: ignore[attr-defined]
    assert again.state.log_history == first.state.log_history


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kl_coefficient": 0.0}, "mpo needs a kl_coefficient above 0"),
        ({"kl_target": 1.0}, "mpo has no kl_target"),
        ({"vllm": True}, "mpo has no vllm"),
        ({"report_to": "wandb"}, "mpo has no report_to"),
        ({"entropy_coefficient": 0.1}, "mpo has no entropy_coefficient"),
    ],
)
def test_settings_that_it_does_not_have_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PPOConfig.model_validate({"algorithm": "mpo", **settings})


def test_a_loss_that_is_no_number_ends_the_training(make: Make) -> None:
    with pytest.raises(DivergenceError, match="the loss of update 1 is nan"):
        make(learning_rate=1e37, epochs=2).train()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"completions_per_update": 40}, r"\(40\) is no multiple of completions_per_prompt \(16\)"),
        ({"minibatches": 5}, "4 prompts of an update are fewer than 5 minibatches"),
    ],
)
def test_numbers_that_do_not_divide_are_refused(
    make: Make, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make(**settings)
