"""The loss of a minibatch, whatever its microbatches, and the KL, which is no term of it.

Shapes: B completions, T tokens.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from iterppo.lm.generation import sample
from iterppo.lm.policy import load_policy
from tests.lm.ppo_runs import KNOWN, Run, Start, log_likelihood, means

# --- minibatches, microbatches ---


def change(run: Run, before: dict[str, Any]) -> Any:
    """How far the parameters moved, as one vector."""
    after = run.policy.model.state_dict()
    moved = [after[name] - before[name] for name in sorted(before) if "lm_head" not in name]
    return torch.cat([tensor.flatten() for tensor in moved])


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_gradient_does_not_depend_on_the_microbatches(minibatches: int, start: Start) -> None:
    moved, samples = [], []
    for size in (4, 16):
        run = start(
            completions_per_update=16 * minibatches,
            minibatches=minibatches,
            microbatch_size=size,
            kl_coefficient=0.1,
        )
        before = {name: value.clone() for name, value in run.policy.model.state_dict().items()}
        run.train()
        moved.append(change(run, before))
        samples.append([(row["prompt_id"], row["tokens"]) for row in run.samples])

    assert samples[0] == samples[1], "the same completions were drawn"
    assert moved[0].norm() > 1e-3
    assert (moved[0] - moved[1]).norm() / moved[0].norm() < 1e-3


@pytest.mark.parametrize("bonus", [0.0, 0.5], ids=["no entropy bonus", "an entropy bonus"])
def test_the_losses_of_microbatches_add_up_to_the_loss_of_their_minibatch(
    bonus: float, start: Start
) -> None:
    gradients = []
    for size in (2, 4, 16):
        run = start(
            minibatches=1, microbatch_size=size, max_gradient_norm=1e9, entropy_coefficient=bonus
        )
        kept: dict[str, Any] = {}

        def keep(*_: Any, run: Run = run, kept: dict[str, Any] = kept) -> None:
            named = run.policy.model.named_parameters()
            kept.update({n: p.grad.clone() for n, p in named if p.grad is not None})

        run.trainer.create_optimizer()
        run.trainer.optimizer.register_step_pre_hook(keep)
        run.train()
        gradients.append(kept)

    assert any("value_head" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        scale = gradient.abs().max()
        for other in gradients[1:]:
            assert (gradient - other[name]).abs().max() <= 1e-4 * scale + 1e-9, name


@pytest.mark.parametrize(("minibatches", "size"), [(1, 16), (2, 4), (4, 4)])
def test_the_critics_loss_is_a_mean_over_the_tokens_of_a_minibatch(
    minibatches: int, size: int, start: Start
) -> None:
    run = start(minibatches=minibatches, microbatch_size=size, value_clip=0.0).train()
    trainer, parts = run.trainer, run.trainer._buffered_inputs
    trainer._assert_ratio_is_one = lambda *_: None  # type: ignore[method-assign]
    found = squared = 0.0
    for part in parts:
        losses = []
        for coefficient in (0.5, 0.0):
            trainer.config = trainer.config.model_copy(update={"value_coefficient": coefficient})
            losses.append(trainer._compute_loss(trainer.model, part).item())
        found += losses[0] - losses[1]
        length = part["completion_ids"].shape[1]
        with torch.no_grad(), trainer.critic.collecting() as values:
            trainer.model(
                input_ids=torch.cat([part["prompt_ids"], part["completion_ids"]], dim=1),
                attention_mask=torch.cat([part["prompt_mask"], part["completion_mask"]], dim=1),
            )
        error_BT = values[0][:, -(length + 1) : -1] - part["returns"]
        squared += (error_BT.square() * part["completion_mask"]).sum().item()
    tokens = sum(len(row["tokens"]) for row in run.samples)

    assert len(parts) == 16 // size
    # Each minibatch is divided by the tokens of an average one.
    assert found == pytest.approx(0.5 * 0.5 * squared / (tokens / minibatches), rel=1e-3)


def test_the_entropy_bonus_is_the_mean_entropy_of_the_tokens(start: Start) -> None:
    run = start(minibatches=1, microbatch_size=16).train()
    trainer, (part,) = run.trainer, run.trainer._buffered_inputs
    trainer._assert_ratio_is_one = lambda *_: None  # type: ignore[method-assign]
    losses = []
    for coefficient in (0.0, 0.5):
        trainer.config = trainer.config.model_copy(update={"entropy_coefficient": coefficient})
        losses.append(trainer._compute_loss(trainer.model, part).item())
    length = part["completion_ids"].shape[1]
    with torch.no_grad():
        logits_BTV = trainer.model(
            input_ids=torch.cat([part["prompt_ids"], part["completion_ids"]], dim=1),
            attention_mask=torch.cat([part["prompt_mask"], part["completion_mask"]], dim=1),
        ).logits[:, -(length + 1) : -1]
    entropy_BT = torch.distributions.Categorical(logits=logits_BTV).entropy()
    mean = entropy_BT[part["completion_mask"].bool()].mean().item()

    assert mean > 0.1
    assert losses[1] - losses[0] == pytest.approx(-0.5 * mean, rel=1e-3)


# --- the KL penalty ---


def distance(run: Run, prompts: list[dict[str, Any]]) -> float:
    """Mean log π − log π_start over fresh completions of π: an estimate of KL(π‖π_start)."""
    begun = load_policy(Path(run.policy.model.config._name_or_path)).model.eval()
    run.policy.model.eval()
    torch.manual_seed(0)
    total = 0.0
    states = [row["prompt"] for row in prompts] * 8
    for state, suggestion in zip(states, sample(run.policy, states), strict=True):
        prompt = run.policy.renderer.prompt_ids(state)
        tokens = run.policy.renderer.action_ids(suggestion.text or "")
        total += (
            (
                log_likelihood(run.policy.model, prompt, tokens, 1.0)
                - log_likelihood(begun, prompt, tokens, 1.0)
            )
            .sum()
            .item()
        )
    return total / len(states)


def test_a_large_kl_penalty_keeps_the_policy_where_it_was(
    start: Start, prompts: list[dict[str, Any]]
) -> None:
    found = {}
    for beta in (0.0, 5.0):
        run = start(updates=10, **{**KNOWN, "kl_coefficient": beta}).train()
        found[beta] = (means(run)[-1], distance(run, prompts))

    assert found[0.0][0] > 0.6
    assert found[0.0][1] > 0.6
    assert found[5.0][0] < 0.5
    assert abs(found[5.0][1]) < 0.2


def test_the_trainers_beta_is_not_a_term_of_the_loss(start: Start) -> None:
    run = start(kl_coefficient=0.5).train()
    run.trainer._assert_ratio_is_one = lambda *_: None  # type: ignore[method-assign]
    inputs = run.trainer._buffered_inputs[0]
    assert "ref_per_token_logps" in inputs
    losses = []
    for beta in (0.0, 0.5, 1000.0):
        run.trainer.beta = beta
        losses.append(run.trainer._compute_loss(run.trainer.model, inputs).item())
        assert run.trainer.beta == beta

    assert losses[0] == losses[1] == losses[2] != 0


def test_without_a_reference_no_distance_is_told(start: Start) -> None:
    without, with_one = (start(kl_coefficient=beta).train() for beta in (0.0, 0.1))

    assert "kl_per_completion" not in without.trainer.state.log_history[0]
    assert "kl_per_completion" in with_one.trainer.state.log_history[0]
    assert without.trainer.ref_model is None
