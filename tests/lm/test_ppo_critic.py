"""What the critic begins with, and what one of its own learns.

Shapes: B completions, T tokens.
"""

from typing import Any

import pytest
import torch

from iterppo.lm.critic_warmup import LoggedSuggestion
from tests.lm.ppo_runs import KNOWN, Start


def test_the_critic_is_fitted_before_the_first_update(start: Start) -> None:
    run = start(completions_per_update=64, microbatch_size=32, critic_samples=256)
    batch = run.watch().train().updates[0].batch
    before_last, paid = [], []
    for b, row in enumerate(run.samples):
        if not row["truncated"]:
            before_last.append(batch["old_values"][b, len(row["tokens"]) - 1].item())
            paid.append(row["q"])
    value_N, paid_N = torch.tensor(before_last), torch.tensor(paid)
    unexplained = (paid_N - value_N).square().sum() / (paid_N - paid_N.mean()).square().sum()

    assert 3 < sum(paid) < 40
    assert 1 - unexplained.item() > 0.3
    # On the whole the values are those of the policy that was sampled.
    assert value_N.mean().item() == pytest.approx(paid_N.mean().item(), abs=0.15)


def test_without_samples_the_critic_starts_at_zero(start: Start) -> None:
    run = start(critic_samples=0).watch().train()

    assert run.updates[0].batch["old_values"].abs().max() == 0


def test_a_critic_may_begin_with_the_returns_of_the_log(
    start: Start, prompts: list[dict[str, Any]]
) -> None:
    logged = [
        LoggedSuggestion(row["prompt"], text, float(text == "no"), 1.0)
        for row in prompts
        for text in ("yes", "no")
    ]
    run = start(logged=logged, critic_warmup="returns", completions_per_update=64)
    batch = run.watch().train().updates[0].batch
    before_end = {
        row["completion"]: batch["old_values"][b, len(row["tokens"]) - 1].item()
        for b, row in enumerate(run.samples)
        if row["completion"] in ("yes", "no") and not row["truncated"]
    }

    # Q, which updates are paid by, says the contrary of the log.
    assert before_end["no"] > before_end["yes"] + 0.2


@pytest.mark.parametrize("lora_rank", [0, 4], ids=["full", "adapters"])
def test_a_separate_critic_learns_what_all_is_worth(lora_rank: int, start: Start) -> None:
    settings = {**KNOWN, "updates": 3, "critic_samples": 0, "lora_rank": lora_rank}

    def constant(states: Any, actions: Any) -> list[float]:
        return [0.5] * len(actions)

    run = start(reward=constant, critic="separate", **settings)
    named = dict(run.policy.model.named_parameters())
    before = {n: p.detach().clone() for n, p in named.items() if "value_backbone" in n}
    values = []
    note = run.trainer._note_critic

    def watched(value_BT: Any, return_BT: Any, mask_BT: Any) -> None:
        values.append((value_BT * mask_BT).sum().item() / mask_BT.sum().item())
        note(value_BT, return_BT, mask_BT)

    run.trainer._note_critic = watched  # type: ignore[method-assign]
    run.train()

    assert max((named[n] - weight).abs().max().item() for n, weight in before.items()) > 1e-4
    assert values[0] == 0
    assert abs(values[-1] - 0.5) < 0.4


def test_the_values_of_a_separate_critic_leave_the_policys_gradient_alone(start: Start) -> None:
    run = start(critic="separate")
    model = run.policy.model
    torch.nn.init.normal_(model.value_head.weight)
    ids = torch.tensor([[5, 6, 7, 8]])
    with run.trainer.critic.collecting() as values:
        model(input_ids=ids)
    values[0].sum().backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}

    assert moved
    assert all(name.startswith(("value_backbone.", "value_head.")) for name in moved)
